"""The commands that measure what a model still does; `asabench.cli.app` adds them to the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from asabench.cli.needs import MODEL, needs
from asabench.core.errors import UserError
from asabench.core.numbers import numbers


def utility(
    model: Annotated[str, typer.Argument(help="A short name, a local folder, or a hub id[@revision].")],
    out: Annotated[Path, typer.Option(help="Where the report (JSON) goes.")],
    over_refusal: Annotated[
        str,
        typer.Option(help="Safe requests that look unsafe: over-refusal (own set), xstest[:FILE.csv], or a CSV file."),
    ] = "over-refusal",
    benign: Annotated[str, typer.Option(help="Plainly harmless requests: benign-test (own set), or a CSV file.")] = (
        "benign-test"
    ),
    gsm8k: Annotated[
        Optional[str], typer.Option(help="Score GSM8K: a .jsonl or .parquet file, or hub[@REVISION].")
    ] = None,
    csqa: Annotated[
        Optional[str], typer.Option(help="Score CommonsenseQA: a .jsonl or .parquet file, or hub[@REVISION].")
    ] = None,
    lm_eval: Annotated[
        Optional[str],
        typer.Option(help="Score tasks by lm-eval (an extra): names or .yaml files, such as arc_easy,piqa."),
    ] = None,
    attack: Annotated[str, typer.Option(help="random, mean_difference, package.module:Name, or none.")] = "random",
    doses: Annotated[str, typer.Option(help="Doses such as 0.3,1.")] = "0.3,1",
    layers: Annotated[
        Optional[str], typer.Option(help="Perturbed blocks: all, or such as 0,3-5. [default: four, evenly spaced]")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds such as 0,1.")] = "0",
    limit: Annotated[Optional[int], typer.Option(help="Only the first N requests and questions of each set.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens an answer to a request may have.")] = 32,
    protocol: Annotated[str, typer.Option(help="asabench-v1 or gu2025.")] = "asabench-v1",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    max_rows: Annotated[Optional[int], typer.Option(help="Answers generated side by side, at most.")] = None,
    chat_template: Annotated[
        Optional[Path], typer.Option(help="A Jinja chat template, for a model without one.")
    ] = None,
    allow_remote_code: Annotated[bool, typer.Option("--allow-remote-code", help="As for evaluate.")] = False,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="As for evaluate.")] = False,
) -> None:
    """Measure what a model still does for harmless requests: answers, over-refusal, tasks; clean and under noise."""
    needs(*MODEL)
    from asabench.core.files import write_record
    from asabench.core.utility_report import utility_table
    from harness.model.subject import load
    from harness.utility.measure import make_choices, measure

    if max_rows is not None and max_rows < 1:
        raise UserError(f"--max-rows {max_rows} leaves no batch; give 1 or more")
    # Names and files are checked before the model takes its time to load
    choices = make_choices(
        benign=benign,
        over_refusal=over_refusal,
        attack=() if attack == "none" else attack.split(","),
        doses=numbers("doses", doses, float) or (),
        layers=layers,
        seeds=numbers("seeds", seeds, int) or (),
        protocol=protocol,
        max_new_tokens=max_new_tokens,
        gsm8k=gsm8k,
        csqa=csqa,
        lm_eval=() if lm_eval is None else list(dict.fromkeys(lm_eval.split(","))),
        limit=limit,
    )
    _make_room(out)
    subject = load(
        model,
        dtype=dtype,
        device=device,
        chat_template=chat_template,
        allow_remote_code=allow_remote_code,
        allow_pickle=allow_pickle,
    )
    report = measure(subject, choices, max_rows=max_rows, progress=True)
    write_record(out, report)
    print(utility_table(report))
    print(f"\nreport: {out}")


def _make_room(out: Path) -> None:
    """Makes the folder of a file that is written at the end; `UserError` now rather than then."""
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; give the name of a file, such as {out / 'utility.json'}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror}); give a file in another folder") from None
