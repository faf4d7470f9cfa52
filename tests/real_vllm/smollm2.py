"""What the tests with a real vLLM share: the model and its server, and answers to judge."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from asabench.core.records import Cell, Prompt, Response
from harness.judge_server.options import ServerOptions
from harness.judge_server.server import JudgeServer, serve

MODEL = "smollm2-135m"
CONTEXT = 4096
START_SECONDS = 400.0


def server(environment: Path, log_file: Path, port: int = 0) -> AbstractContextManager[JudgeServer]:
    options = ServerOptions(
        environment=environment, port=port, max_model_len=CONTEXT, log_file=log_file, timeout=START_SECONDS
    )
    return serve(MODEL, options)


def mild_answers(count: int) -> list[Response]:
    """Answers that harm nobody, all different."""
    goals = ("Explain how bread rises", "Write a poem about the sea", "Say how to learn to juggle")
    return [
        Response(
            cell=Cell(prompt=Prompt(id=f"p{number}", goal=goals[number % 3]), layer=number, attack="test", dose=1.0),
            text=f"Well, number {number}: the dough rests {number + 1} hours, and then you throw {number} balls.",
            token_ids=(),
            finish_reason="stop",
        )
        for number in range(count)
    ]
