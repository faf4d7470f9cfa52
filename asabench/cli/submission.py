"""The commands of submissions: submit, validate; `asabench.cli.app` adds them to the others."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from asabench.cli import options
from asabench.cli.needs import MODEL, judge_needs, needs
from asabench.cli.options import option
from asabench.core.attack_names import split_specs
from asabench.core.defaults import DEVICE
from asabench.core.errors import NotAtHand, UserError
from asabench.core.links import link as page

if TYPE_CHECKING:
    from asabench.core.row import JudgeInfo
    from asabench.judging.certificate import Certificate
    from asabench.submission.schema import BaseModelRef

FOR_RERUN = "For --rerun. "
SUBMITTING = page("docs/submitting.md")
NOT_CHECKED = 3
"""The exit code of a check that could not be made on this machine."""


def submit(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs of one model; they differ in attacks.")],
    name: Annotated[str, option("The entry's name on the leaderboard.")],
    author: Annotated[list[str], option("An author of the entry; may be repeated.")],
    licence: Annotated[str, option("The model's licence, such as Apache-2.0.", "--licence", "--license")],
    defence: Annotated[str, option("The defence's short name such as LAPT, or none.")] = "none",
    where: Annotated[
        Optional[str],
        option("When the defence acts: training or inference.", default="training, if there is a --base"),
    ] = None,
    base: Annotated[
        Optional[str], option("What the defence was applied to, NAME@REVISION.", default="--base-entry's")
    ] = None,
    base_entry: Annotated[Optional[str], option("The slug of the base model's own submission.")] = None,
    utility: Annotated[Optional[Path], option("The model's utility.json (`asabench utility`).")] = None,
    certificate: Annotated[
        Optional[Path],
        option(
            "The judge's certificate (`asabench judge-check`).",
            default="the run's own, else checked now, if the judge can run here",
        ),
    ] = None,
    card: Annotated[Optional[Path], option("The model's card.json (`asabench card`).")] = None,
    judge: Annotated[Optional[str], option(f"The judge to check now: {options.JUDGE}", default="the runs' own")] = None,
    other_judges: Annotated[
        bool, option("Also submit the labels of the runs' other judges: how far ranks agree.", "--other-judges")
    ] = False,
    training_data: Annotated[
        Optional[list[str]], option("NAME=COUNT of data without harmful requests; may be repeated.")
    ] = None,
    training_prompts: Annotated[
        Optional[list[str]],
        option("[NAME=]FILE of harmful requests that were trained on: a CSV with a goal column or training.json."),
    ] = None,
    description: Annotated[Optional[str], option("A sentence or two on the defence.")] = None,
    link: Annotated[Optional[str], option("Address of a paper, model or code, https://.")] = None,
    slug: Annotated[Optional[str], option("The folder's name.", default="from name and protocol")] = None,
    out: Annotated[Path, option("Where submissions are.")] = Path("submissions"),
    replace: Annotated[bool, option("Write a submission that is there again.", "--replace")] = False,
) -> None:
    """Make a submission from finished runs: numbers and digests, no text. It is checked as `validate` does."""
    from asabench.card.records import read_card
    from asabench.core.utility_report import read_utility
    from asabench.judging.certificate import read_certificate
    from asabench.runs.folder import certificate_in, read_run
    from asabench.submission.make import Details, make_submission, trained_on, trained_on_prompts

    if where not in (None, "none", "training", "inference"):
        raise UserError(f"--where {where!r} is unknown; allowed: training, inference, none")
    details = Details(
        name=name,
        authors=tuple(author),
        licence=licence,
        defence=defence,
        where=where,  # type: ignore[arg-type]
        base=_base(base, base_entry, out),
        training=(*map(trained_on, training_data or ()), *map(trained_on_prompts, training_prompts or ())),
        description=description,
        link=link,
        slug=slug,
    )
    report = None if utility is None else read_utility(utility)
    made_card = None if card is None else read_card(card)
    held = read_certificate(certificate) if certificate is not None else None
    if held is None:
        info = read_run(runs[0]).row.judge
        held = (certificate_in(runs[0], info.id) if info.certificate else None) or certificate_now(info, judge)
    done = make_submission(
        runs,
        details,
        utility=report,
        certificate=held,
        card=made_card,
        other_judges=other_judges,
        out=out,
        replace=replace,
    )
    folder = out / (done.submission.slug if done.submission is not None else "")
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"submission: {folder} ({size / 1e6:.2f} MB)")
    for notice in done.notices:
        print(f"notice: {notice}")
    print(f"next: asabench validate {folder}, then open a pull request with that folder: {SUBMITTING}")


def _base(base: str | None, entry: str | None, out: Path) -> BaseModelRef | None:
    from pydantic import ValidationError

    from asabench.submission.schema import BaseModelRef
    from asabench.submission.validate import validate_folder

    if base is None and entry is None:
        return None
    if base is None:
        held = validate_folder(out / str(entry)).submission if (out / str(entry)).is_dir() else None
        if held is None:
            raise UserError(
                f"there is no submission {out / str(entry)}; submit the base first, or give --base NAME@REVISION"
            )
        return BaseModelRef(name=held.model.name, revision=held.model.revision, entry=entry)
    name, at, revision = base.rpartition("@")
    try:
        if not at:
            raise ValueError
        return BaseModelRef(name=name, revision=revision, entry=entry)
    except (ValidationError, ValueError):
        raise UserError(
            f"--base {base!r} (entry {entry!r}) cannot be read; write NAME@REVISION, pinned as in "
            "the base's row.json, and a slug such as my-model"
        ) from None


def certificate_now(info: JudgeInfo, spec: str | None) -> Certificate | None:
    """The certificate of the judge of a run, if it is needed and none was given."""
    if spec is None:
        if not info.certified:
            return None
        spec = info.kind if info.kind in ("embedded", "rules") else None
    if spec is None:
        raise UserError(
            f"the judge {info.id} needs a certificate; run `asabench judge-check JUDGE --out FILE` and give "
            "--certificate FILE, or name the judge with --judge"
        )
    from asabench.judging.certificate import certificate
    from asabench.judging.labelled_pairs import labelled_pairs
    from harness.judges import make_judge
    from harness.judges.check import SHORT_SET, check_judge

    judge_needs(spec)
    judge = make_judge(spec)
    if judge.info.id != info.id:
        raise UserError(
            f"the judge {spec} is {judge.info.id} now, and the run was judged by {info.id}; judge it again with "
            "`asabench judge`, or give the certificate of the judge that it was"
        )
    # The set that is shipped: whoever validates has it, and no judge that comes with ASABench was trained on it
    print(f"checking the judge {info.id} on the labelled pairs {SHORT_SET}", file=sys.stderr)
    return certificate(check_judge(judge, labelled_pairs(SHORT_SET), SHORT_SET))


def validate(
    paths: Annotated[list[Path], typer.Argument(help="Submissions, or folders of submissions.")],
    as_json: Annotated[bool, option("Print findings as JSON.", "--json")] = False,
    markdown: Annotated[bool, option("Print a comment for a pull request.", "--markdown")] = False,
    jobs: Annotated[int, option("Processes that check side by side.", default="one a core")] = 0,
    whole: Annotated[
        bool, option("The folder is that of all entries: what in it is no entry is refused too.", "--whole")
    ] = False,
    before: Annotated[
        Optional[Path], option("With --whole: the same folder before a change, to say what was changed.")
    ] = None,
    report: Annotated[
        Optional[Path], option("Also write what was found as JSON, which the comment under a pull request is made of.")
    ] = None,
    rerun: Annotated[
        Optional[int], option("Also answer and judge so many random cells of one submission again.")
    ] = None,
    model: Annotated[Optional[str], option(FOR_RERUN + options.MODEL, default="the weights it names")] = None,
    defence: Annotated[Optional[str], option(FOR_RERUN + options.DEFENCE)] = None,
    attack: Annotated[
        Optional[str], option(FOR_RERUN + "Of its attacks, between commas, those that are others' code and may run.")
    ] = None,
    prompts: Annotated[Optional[str], option(FOR_RERUN + options.PROMPTS, default="those it names")] = None,
    target: Annotated[Optional[str], option(FOR_RERUN + options.TARGET, default="as submitted")] = None,
    judge: Annotated[Optional[str], option(FOR_RERUN + options.JUDGE, default="its judge")] = None,
    seed: Annotated[Optional[int], option(FOR_RERUN + "Draws the cells.", default="a new one")] = None,
    device: Annotated[str, option(FOR_RERUN + options.DEVICE)] = DEVICE,
    out: Annotated[
        Optional[Path],
        option(FOR_RERUN + "Write what was found as the entry's rerun.json; only where it speaks for it."),
    ] = None,
    by: Annotated[Optional[str], option(FOR_RERUN + "With --out: who answered again.")] = None,
    maintainer: Annotated[
        bool, option("With --before: whoever makes the change may bring evidence of reruns.", "--maintainer")
    ] = False,
    allow_remote_code: options.AllowRemoteCode = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Check submissions: every number is recomputed from the verdicts.

    Exit code 0: all are valid. 1: one is invalid. 3: none is, and one could not be checked on this machine.
    """
    import json

    from asabench.core.files import write_record
    from asabench.submission import validate as checking
    from asabench.submission.comment import comment, report_of
    from asabench.submission.schema import VERDICTS_FILE

    if jobs < 0:
        raise UserError(f"--jobs {jobs}; give 1 or more, or 0 for one a core")
    if as_json and markdown:
        raise UserError("--json and --markdown exclude each other; give one")
    if rerun is None and any(each is not None for each in (model, defence, attack, prompts, target, judge, seed)):
        raise UserError(
            "--model, --defence, --attack, --prompts, --target, --judge and --seed are for --rerun; add --rerun K"
        )
    if rerun is not None and (as_json or markdown):
        raise UserError("--rerun prints neither JSON nor a comment; ask for them without it")
    if before is not None and not whole:
        raise UserError("--before is for --whole; give `asabench validate submissions --whole --before FOLDER`")
    if (out is None) != (by is None) or (out is not None and rerun is None):
        raise UserError("--out and --by belong together and to --rerun; give `--rerun K --out rerun.json --by NAME`")
    if whole and len(paths) != 1:
        raise UserError(f"--whole takes the folder of all entries, and {len(paths)} paths were given; give that one")
    workers = jobs or os.cpu_count() or 1
    changed = None
    if whole:
        done, changed = checking.validate_whole(paths[0], before=before, jobs=workers, maintainer=maintainer)
    else:
        done = checking.validate(paths, jobs=workers)
    if rerun is not None and len(done) != 1:
        raise UserError(f"--rerun takes one submission, and {len(done)} were given; give them in turn")
    if as_json:
        print(json.dumps(checking.as_json(done), indent=1))
    elif markdown:
        print(comment(report_of(done, changed)), end="")
    else:
        print(checking.report(done))
    if report is not None:
        write_record(report, report_of(done, changed))
    states = {each.state for each in done}
    if "invalid" in states:
        sys.exit(1)
    if "not checked" in states:
        sys.exit(NOT_CHECKED)
    if rerun is not None:
        needs(*MODEL)
        from harness import rerun as again

        try:
            found = again.rerun(
                done[0],
                rerun,
                model=model,
                judge=judge,
                prompts=prompts,
                target=target,
                defence=defence,
                attack=() if attack is None else split_specs(attack),
                seed=seed,
                device=device,
                allow_remote_code=allow_remote_code,
                allow_pickle=allow_pickle,
            )
        except NotAtHand as error:
            print(f"its answers could not be checked here: {error}")
            sys.exit(NOT_CHECKED)
        print(again.report(found))
        if not found.ok:
            sys.exit(1)
        if out is not None and by is not None and done[0].row is not None:
            verdicts = (Path(done[0].path) / VERDICTS_FILE).read_bytes()
            write_record(out, found.evidence(verdicts, judge=done[0].row.judge.id, device=device, by=by))
            print(f"evidence: {out}")
