"""The commands that judge answers and check judges; `asabench.cli.app` adds them to the others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from asabench.cli import options
from asabench.cli.needs import judge_needs
from asabench.cli.options import option
from asabench.cli.printing import interrupted
from asabench.core.defaults import BAR, HOST, PORT
from asabench.core.errors import UserError


def judge(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    judge: Annotated[
        Optional[list[str]],
        option(f"Who judges the answers; may be given several times: {options.JUDGE}", default="none"),
    ] = None,
    bar: options.Bar = BAR,
    uncertified: options.Uncertified = False,
    certificate: Annotated[
        Optional[list[Path]], option(options.CERTIFICATE + " May be given for each judge.", default="none")
    ] = None,
    again: Annotated[
        bool,
        option("Read the judges' kept replies again, asking nobody; --judge then takes ids.", "--parse-again"),
    ] = False,
) -> None:
    """Judge the answers of a run again; nothing is generated, and the verdicts of other judges are kept."""
    judges = judge or []
    if again:
        return _parse_again(run, tuple(judges))
    if not judges:
        raise UserError("asabench judge needs --judge; give it once or several times")
    for spec in judges:
        judge_needs(spec)
    from asabench.judging.certificate import HOW, certificate_of, read_certificate
    from asabench.judging.judge_difference import difference_table
    from asabench.judging.several import agreement_table, both_readings, rates_table
    from asabench.runs.folder import read_run
    from harness.evaluation.judge import judge_again, unread_both_ways
    from harness.judges import make_judge

    held = [read_certificate(path) for path in certificate or ()]
    opened = read_run(run)
    before = opened.row  # before the judge takes its time: it must be a finished run
    labels = opened.settings.protocol.labels
    made = [make_judge(spec, labels) for spec in judges]
    if strange := [each for each in held if each.result.judge.id not in {one.info.id for one in made}]:
        raise UserError(
            f"the certificate of {strange[0].result.judge.id} is of none of the judges "
            f"({', '.join(one.info.id for one in made)}); {HOW}"
        )
    after = {}
    for each in made:
        try:
            row = judge_again(
                run,
                each,
                bar=bar,
                uncertified=uncertified,
                certificate=certificate_of(each.info, held),
                progress=True,
            )
        except KeyboardInterrupt:
            interrupted(
                f"the verdicts so far are kept. To go on: asabench judge {run} --judge {' --judge '.join(judges)}"
            )
        after[row.judge.id] = row
    if len(after) == 1:
        print(difference_table(opened.verdicts(), before, row))
    else:
        print(agreement_table(opened.verdicts(), list(after)))
        print(f"\n{rates_table(after)}")
    for row in after.values():
        as_safe, as_unsafe, unscored = unread_both_ways(opened, row)
        if unscored:
            print(f"\n{row.judge.id}: {both_readings(as_safe, as_unsafe, unscored)}")
    print(f"\nrow: {run / 'row.json'} (every judge's row: {run / 'rows'})")


def _parse_again(run: Path, judges: tuple[str, ...]) -> None:
    from asabench.core.text import text_table
    from harness.evaluation.parse_again import parse_again

    found = parse_again(run, judges)
    lines = [["judge", "replies", "read otherwise", "unread before", "unread now", "stored as"]]
    for each in found:
        numbers = map(str, (each.replies, each.changed, each.unread_before, each.unread_now))
        lines.append([each.judge, *numbers, "as it was" if each.row is None else each.row.judge.id])
    print(text_table(lines))


def judge_check(
    judge: options.JudgeArgument,
    pairs: Annotated[
        str,
        option(
            "Pairs, several between commas: gold (comes with ASABench), pyrit and pyrit-graded (human labels, from the "
            "package), all (gold and pyrit), jbb, xstest, harmbench-val, strongreject (people's labels; NAME=FILE for "
            "a file of them), or a CSV file.",
            "--set",
        ),
    ] = "all",
    labels: Annotated[str, option("What a language model is asked for: three labels, or two.")] = "three",
    bar: options.Bar = BAR,
    out: Annotated[Optional[Path], option("Write a certificate (JSON) here.")] = None,
    frames: Annotated[
        bool,
        option("Also put unsafe gold answers into harmless frames and behind a refusal.", "--frames"),
    ] = False,
) -> None:
    """Check a judge against labelled pairs; exit code 1 when it is under the bar."""
    judge_needs(judge)
    from asabench.judging.agreement import reaches, report
    from asabench.judging.certificate import certificate, write_certificate
    from asabench.judging.labelled_pairs import gold_pairs
    from asabench.judging.people import people_pairs, published_report
    from asabench.judging.strangers import beside_report, gate_report
    from harness.judges import make_judge
    from harness.judges.check import check_bar, check_frames, check_whole, frames_report

    check_bar(bar)
    if labels not in ("three", "two"):
        raise UserError(f"--labels {labels!r} is unknown; allowed: three, two")
    sets = [people_pairs(spec.strip()) for spec in pairs.split(",")]
    name, all_pairs = "+".join(name for name, _ in sets), [pair for _, part in sets for pair in part]
    made = make_judge(judge, labels)  # type: ignore[arg-type]
    result, strangers = check_whole(made, all_pairs, name, bar)
    if out is not None:
        write_certificate(certificate(result, bar, strangers), out)
    print(report(result, bar))
    print(f"\n{gate_report(strangers)}")
    for shown in (published_report([name for name, _ in sets]), beside_report(pairs.split(","))):
        if shown:
            print(f"\n{shown}")
    if frames:
        print(f"\n{frames_report(check_frames(made, gold_pairs()))}")
    if out is not None:
        print(f"\ncertificate: {out}")
    if not reaches(result.figures, bar):
        sys.exit(1)


def judge_read(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    reader: Annotated[
        Optional[str], option("Who reads, as a file name; two people take two.", default="needed to read")
    ] = None,
    sample: Annotated[int, option("So many steered answers, the same for every reader.")] = 100,
    seed: Annotated[int, option("Another seed is another sample.")] = 0,
    port: Annotated[int, option("0 takes any that is free.")] = 0,
    report: Annotated[bool, option("Print how far readers agree, and the judges against them.", "--report")] = False,
) -> None:
    """Read a run's answers on a local page and say what is in them, blind to the judge; no text leaves the machine."""
    from asabench.runs import reading

    if report:
        return print(reading.report(run))
    if reader is None:
        raise UserError("asabench judge read needs --reader NAME, or --report")
    reading.read_answers(run, reader, sample, seed, port)


def judge_server(
    context: typer.Context,
    model: options.ModelArgument,
    environment: Annotated[
        Optional[Path],
        option(
            "The folder of the Python environment that vLLM is in.",
            default="$ASABENCH_VLLM_ENV, else ~/.cache/asabench/vllm-env",
        ),
    ] = None,
    create_environment: Annotated[
        bool, option("Make that environment, with vLLM in it, if it is missing.", "--create-environment")
    ] = False,
    host: Annotated[
        str, option("Address to listen on. There is no password: leave it unless the network is yours.")
    ] = HOST,
    port: Annotated[int, option("Port to listen on; 0 takes a free one.")] = PORT,
    dtype: Annotated[
        Optional[str], option("Number format of the weights.", default="the model's own on a GPU, float32 on a CPU")
    ] = None,
    tensor_parallel: Annotated[int, option("GPUs that one copy of the model is spread over.")] = 1,
    data_parallel: Annotated[int, option("Copies of the model, each on GPUs of its own.")] = 1,
    max_model_len: Annotated[
        Optional[int], option("Tokens of question and answer together, at most.", default="the model's limit")
    ] = None,
    gpu_memory: Annotated[
        Optional[float], option("Share of the GPU's memory to use, above 0 to 1.", default="vLLM's own")
    ] = None,
    reasoning_parser: Annotated[
        Optional[str], option("vLLM's parser that cuts off the model's thoughts, or none.", default="by its name")
    ] = None,
    log_file: Annotated[Optional[Path], option("Where the server's output goes.", default="a new file")] = None,
) -> None:
    """Start a vLLM server to judge with, in an environment of its own; what follows `--` goes to vLLM."""
    from harness.judge_server.options import ServerOptions
    from harness.judge_server.server import run_server

    server = ServerOptions(
        environment=environment,
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
    run_server(model, server, create_environment=create_environment)
