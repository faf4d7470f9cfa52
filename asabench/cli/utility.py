"""The commands that measure what a model still does; `asabench.cli.app` adds them to the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

from asabench.cli import options
from asabench.cli.needs import MODEL, needs
from asabench.cli.options import option
from asabench.core.attack_names import split_specs
from asabench.core.defaults import ATTACK, DEVICE, PROTOCOL, UTILITY_DOSES, UTILITY_TOKENS
from asabench.core.errors import UserError
from asabench.core.numbers import numbers

DOSES = ",".join(f"{dose:g}" for dose in UTILITY_DOSES)


def utility(
    model: options.ModelArgument,
    out: Annotated[Path, option("Where the report (JSON) goes.")],
    over_refusal: Annotated[
        str,
        option("Safe requests that look unsafe: over-refusal (own set), xstest[:FILE.csv], or a CSV file."),
    ] = "over-refusal",
    benign: Annotated[str, option("Plainly harmless requests: benign-test (own set), or a CSV file.")] = (
        "benign-test"
    ),
    gsm8k: Annotated[Optional[str], option("Score GSM8K: a .jsonl or .parquet file, or hub[@REVISION].")] = None,
    csqa: Annotated[Optional[str], option(f"Score {options.CSQA}")] = None,
    lm_eval: Annotated[
        Optional[str],
        option("Score tasks by lm-eval (an extra): names or .yaml files, such as arc_easy,piqa."),
    ] = None,
    attack: Annotated[str, option(options.ATTACK_WITHOUT_TARGET)] = ATTACK,
    doses: Annotated[str, option(options.DOSES)] = DOSES,
    layers: Annotated[Optional[str], option(options.LAYERS, default="four, evenly spaced")] = None,
    seeds: Annotated[str, option(options.SEEDS)] = "0",
    limit: Annotated[Optional[int], option("Take only the first N requests and questions of each set.")] = None,
    max_new_tokens: Annotated[int, option("Tokens an answer to a request may have.")] = UTILITY_TOKENS,
    protocol: options.Protocol = PROTOCOL,
    dtype: options.DtypeByDevice = None,
    device: options.Device = DEVICE,
    device_map: options.DeviceMap = None,
    attention: options.Attention = None,
    max_rows: options.MaxRows = None,
    chat_template: options.ChatTemplate = None,
    allow_remote_code: options.AllowRemoteCode = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Measure what a model still does for harmless requests: answers, over-refusal, tasks; clean and under noise."""
    needs(*MODEL)
    from asabench.core.files import write_record
    from asabench.core.utility_report import utility_table
    from harness.evaluation.plan import check_max_rows
    from harness.model.subject import load
    from harness.progress import phase
    from harness.utility.measure import make_choices, measure

    check_max_rows(max_rows)
    # Names and files are checked before the model takes its time to load
    choices = make_choices(
        benign=benign,
        over_refusal=over_refusal,
        attack=() if attack == "none" else split_specs(attack),
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
        device_map=device_map,
        attention=attention,
        chat_template=chat_template,
        allow_remote_code=allow_remote_code,
        allow_pickle=allow_pickle,
    )
    with phase("answers", "harmless requests and tasks", beats=False):
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
