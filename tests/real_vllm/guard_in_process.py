"""Run by the Python of the vLLM environment: a guard with vLLM in this process reads answers, prints their facts.

python guard_in_process.py MODEL_FOLDER ASKED.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from asabench.core.records import Cell, Prompt, Response
from harness.judges.guard import NamedGuard
from harness.judges.vllm_in_process import GuardInProcess

# vLLM's engine starts by importing this file again
if __name__ == "__main__":
    goal, texts = json.loads(Path(sys.argv[2]).read_text())
    judge = GuardInProcess(
        NamedGuard.of("qwen3guard", sys.argv[1]), dtype="float32", enforce_eager=True, max_model_len=512
    )
    answers = [
        Response(
            cell=Cell(prompt=Prompt(id="p", goal=goal), layer=n, attack="test"),
            text=text,
            token_ids=(),
            finish_reason="stop",
        )
        for n, text in enumerate(texts)
    ]
    print(json.dumps([[each.refused, each.coherent, each.harmful] for each in judge(answers)]))
