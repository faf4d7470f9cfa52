"""The commands that judge answers and check judges; `asabench.cli.app` adds them to the others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from asabench.cli.needs import judge_needs
from asabench.core.errors import UserError

JUDGE_HELP = (
    "embedded, rules, vllm:MODEL[@URL] (a server that speaks OpenAI's protocol), vllm-in-process:MODEL, or "
    "package.module:Name."
)


def judge(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    judge: Annotated[str, typer.Option(help=JUDGE_HELP)],
    bar: Annotated[float, typer.Option(help="Balanced accuracy that the judge must reach on labelled pairs.")] = 0.8,
    uncertified: Annotated[bool, typer.Option("--uncertified", help="Go on below the bar, and mark the row.")] = False,
) -> None:
    """Judge the answers of a run again; nothing is generated, and the verdicts of other judges are kept."""
    judge_needs(judge)
    from asabench.judging.judge_difference import difference_table
    from asabench.runs.folder import read_run
    from harness.evaluation.judge import judge_again
    from harness.judges import make_judge

    opened = read_run(run)
    before = opened.row  # before the judge takes its time: it must be a finished run
    labels = opened.manifest["settings"]["protocol"].get("labels", "three")
    try:
        after = judge_again(run, make_judge(judge, labels), bar=bar, uncertified=uncertified, progress=True)
    except KeyboardInterrupt:
        print(
            f"\nasabench: interrupted; the verdicts so far are kept. To go on: asabench judge {run} --judge {judge}",
            file=sys.stderr,
        )
        sys.exit(130)
    print(difference_table(opened.verdicts(), before, after))
    print(f"\nrow: {run / 'row.json'} (every judge's row: {run / 'rows'})")


def judge_check(
    judge: Annotated[str, typer.Argument(help=JUDGE_HELP)],
    pairs: Annotated[
        str, typer.Option("--set", help="gold (comes with ASABench), pyrit (human labels, from the package), or all.")
    ] = "all",
    labels: Annotated[str, typer.Option(help="What a language model is asked for: three labels, or two.")] = "three",
    bar: Annotated[float, typer.Option(help="The balanced accuracy that it must reach.")] = 0.8,
    out: Annotated[Optional[Path], typer.Option(help="Write a certificate (JSON) here.")] = None,
) -> None:
    """Check a judge against labelled pairs; exit code 1 when it is under the bar."""
    judge_needs(judge)
    from asabench.judging.agreement import reaches, report
    from asabench.judging.certificate import certificate, write_certificate
    from asabench.judging.labelled_pairs import labelled_pairs
    from harness.judges import make_judge
    from harness.judges.check import check_bar, check_judge

    check_bar(bar)
    if labels not in ("three", "two"):
        raise UserError(f"--labels {labels!r} is unknown; allowed: three, two")
    result = check_judge(make_judge(judge, labels), labelled_pairs(pairs), pairs)  # type: ignore[arg-type]
    if out is not None:
        write_certificate(certificate(result, bar), out)
    print(report(result, bar))
    if out is not None:
        print(f"\ncertificate: {out}")
    if not reaches(result.figures, bar):
        sys.exit(1)


def judge_server(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A hub id[@revision], a local folder, or a short name.")],
    environment: Annotated[
        Optional[Path],
        typer.Option(help="Where vLLM is. [default: $ASABENCH_VLLM_ENV, else ~/.cache/asabench/vllm-env]"),
    ] = None,
    create_environment: Annotated[
        bool, typer.Option("--create-environment", help="Install vLLM there if it is missing.")
    ] = False,
    host: Annotated[str, typer.Option(help="The server has no password: leave this unless the network is yours.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    dtype: Annotated[Optional[str], typer.Option(help="[default: the model's own on a GPU, float32 on a CPU]")] = None,
    tensor_parallel: Annotated[int, typer.Option(help="GPUs that one copy of the model is spread over.")] = 1,
    data_parallel: Annotated[int, typer.Option(help="Copies of the model.")] = 1,
    max_model_len: Annotated[Optional[int], typer.Option(help="Tokens of question and answer together.")] = None,
    gpu_memory: Annotated[Optional[float], typer.Option(help="Share of the GPU's memory, above 0 to 1.")] = None,
    reasoning_parser: Annotated[
        Optional[str], typer.Option(help="vLLM's parser of the model's thoughts. [default: by its name]")
    ] = None,
    log_file: Annotated[
        Optional[Path], typer.Option(help="Where the server's output goes. [default: a new file]")
    ] = None,
) -> None:
    """Start a vLLM server to judge with, in an environment of its own; what follows `--` goes to vLLM."""
    from harness.judge_server.server import run_server

    run_server(
        model,
        environment=environment,
        create_environment=create_environment,
        host=host,
        port=port,
        dtype=dtype,
        tensor_parallel=tensor_parallel,
        data_parallel=data_parallel,
        max_model_len=max_model_len,
        gpu_memory=gpu_memory,
        reasoning_parser=reasoning_parser,
        extra=context.args,
        log_file=log_file,
    )
