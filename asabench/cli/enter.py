"""The command that makes an entry of the board out of a model, start to end; `asabench.cli.app` adds it to the others.

It is `evaluate`, `utility`, `card`, `submit` and `validate` one after the other, in one folder. What that holds already
is not made again.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

from asabench.cli import options
from asabench.cli.card import card as make_card
from asabench.cli.needs import MODEL, judge_needs, needs
from asabench.cli.options import option
from asabench.cli.printing import interrupted, print_cost, say
from asabench.cli.submission import certificate_now
from asabench.cli.utility import utility as measure_utility
from asabench.core.attack_names import REQUIRED
from asabench.core.defaults import DEVICE, JUDGE, PROTOCOL, PUBLISHED_PROMPTS
from asabench.core.errors import UserError

if TYPE_CHECKING:
    from asabench.card.records import ModelCard
    from asabench.core.utility_report import UtilityReport
    from asabench.submission.make import Details
    from asabench.submission.schema import BaseModelRef
    from asabench.submission.validate import Validation
    from harness.evaluation.plan import Plan

SIZE = "lite"
RUN, UTILITY, BASE, CARD = "run", "utility.json", "base", "card"
"""What an entry's folder holds."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """How every model of one call is measured, and where entries are."""

    size: str
    attack: str
    prompts: str
    protocol: str
    judge: str
    uncertified: bool
    dtype: str | None
    device: str
    allow_remote_code: bool
    allow_pickle: bool
    entries: Path


def enter(
    model: options.ModelArgument,
    name: Annotated[str, option("The entry's name on the board.")],
    author: Annotated[list[str], option("An author of the entry; may be repeated.")],
    licence: Annotated[str, option("The model's licence, such as Apache-2.0.", "--licence", "--license")],
    base: Annotated[
        Optional[str],
        option("What a defence was applied to, named as MODEL is; entered too where it has no entry."),
    ] = None,
    defence: Annotated[str, option("The defence's short name, such as LAPT, or none.")] = "none",
    size: options.EntrySize = SIZE,
    attack: options.EntryAttack = REQUIRED,
    prompts: options.EntryPrompts = PUBLISHED_PROMPTS,
    protocol: options.Protocol = PROTOCOL,
    judge: options.Judge = JUDGE,
    uncertified: options.Uncertified = False,
    card: Annotated[bool, option("With --base: fine-tune copies of both models in memory, for the card.")] = True,
    training_prompts: Annotated[
        Optional[list[str]],
        option(
            "[NAME=]FILE of harmful requests that were trained on: a CSV with a goal column or training.json.",
            default="MODEL/training.json, where it is",
        ),
    ] = None,
    training_data: Annotated[
        Optional[list[str]], option("NAME=COUNT of data without harmful requests; may be repeated.")
    ] = None,
    description: Annotated[Optional[str], option("A sentence or two on the defence.")] = None,
    link: Annotated[Optional[str], option("Address of a paper, model or code, https://.")] = None,
    entries: Annotated[Path, option("Where submissions are.")] = Path("submissions"),
    work: Annotated[Optional[Path], option("Where runs and reports go.", default="runs/enter/SLUG")] = None,
    open_pr: Annotated[
        bool, option("Commit the entry to a branch of its own, and open a pull request where `gh` is.", "--open-pr")
    ] = False,
    dtype: options.DtypeByDevice = None,
    device: options.Device = DEVICE,
    dry_run: options.DryRun = False,
    allow_remote_code: options.AllowRemoteCode = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Enter a model: evaluate it, see what it still answers, make its card and its submission, and check them.

    The same command again goes on where an earlier one stopped.
    """
    needs(*MODEL)
    judge_needs(judge)
    from asabench.submission.make import Details, slug_of, trained_on, trained_on_prompts
    from harness.evaluation.cost import estimate

    if base is None and defence != "none":
        raise UserError(f"--defence {defence} was applied to something; name it with --base")
    if open_pr:
        require_repository(entries)
    way = Way(
        size=size,
        attack=attack,
        prompts=prompts,
        protocol=protocol,
        judge=judge,
        uncertified=uncertified,
        dtype=dtype,
        device=device,
        allow_remote_code=allow_remote_code,
        allow_pickle=allow_pickle,
        entries=entries,
    )
    slug = slug_of(name, protocol)
    folder = work or Path("runs") / "enter" / slug
    record = training_record_of(model)
    if training_prompts is None and base is not None and record.is_file():
        training_prompts = [str(record)]
    declared = (*map(trained_on, training_data or ()), *map(trained_on_prompts, training_prompts or ()))
    if base is not None and not declared:
        raise UserError(
            f"a trained defence says what it was trained on, and there is no {record}; give --training-prompts "
            "[NAME=]FILE, or --training-data NAME=COUNT for data without harmful requests"
        )

    say(f"step 1: what it takes to measure {model}")
    plan = planned(model, folder, way)
    print_cost(plan, estimate(plan))
    ref = None if base is None else base_entry(base, way)
    if base is not None:
        has = f"is the entry {ref.entry}" if ref else f"has no entry of this size in {entries}: it is entered too"
        say(f"base:     {base} {has}")
    if dry_run:
        return
    say(f"\nstep 2: answers of {model}, and what it does for harmless requests; in {folder}")
    report = measured(model, plan, folder, way)
    if base is not None and ref is None:
        say(f"\nstep 3: the same of {base}")
        base_plan = planned(base, folder / BASE, way)
        base_report = measured(base, base_plan, folder / BASE, way)
        own = Details(name=base_plan.subject.name, authors=tuple(author), licence=licence)
        submitted(folder / BASE, own, base_report, None, entries)
        ref = base_entry(base, way)
    made = None
    if base is not None and card:
        say(f"\nstep 4: the card: what fine-tuning does to {model} and {base}")
        made = carded(model, base, folder, way)
    say("\nstep 5: the submission, and its check")
    details = Details(
        name=name,
        authors=tuple(author),
        licence=licence,
        defence=defence,
        where=None if base is None else "training",
        base=ref,
        training=declared,
        description=description,
        link=link,
        slug=slug,
    )
    done = submitted(folder, details, report, made, entries)
    print(beside(done, None if ref is None or ref.entry is None else entries / ref.entry))
    if open_pr:
        open_pull_request(entries / slug, slug, name)
    else:
        say(f"next: open a pull request with {entries / slug}, or run this again with --open-pr")


def training_record_of(model: str) -> Path:
    """Where the record of how a model was trained would be: in its folder, or among the adapters of the package."""
    from importlib.resources import files

    from asabench.core.models import PACKAGED_ADAPTERS
    from asabench.core.training_record import TRAINING_FILE

    folder = Path(str(files("asabench"))) / "data" / "adapters" / model if model in PACKAGED_ADAPTERS else Path(model)
    return folder / TRAINING_FILE


def planned(model: str, folder: Path, way: Way) -> Plan:
    """The evaluation of a model, which is loaded for it."""
    from asabench.runs.choices import Choices
    from harness.evaluation.plan import make_plan

    choices = Choices.of(
        prompts=way.prompts,
        size=way.size,
        attack=way.attack,
        protocol=way.protocol,
        judge=way.judge,
        uncertified=way.uncertified,
        dtype=way.dtype,
        device=way.device,
        allow_remote_code=way.allow_remote_code,
        allow_pickle=way.allow_pickle,
        out=folder / RUN,
    )
    return make_plan(model, choices)


def measured(model: str, plan: Plan, folder: Path, way: Way) -> UtilityReport:
    """Runs a plan, and measures what the model answers of harmless requests unless the report of it is there."""
    from asabench.core.utility_report import read_utility
    from harness.evaluation.run import run_plan

    again = f"what is there is kept in {folder}. To go on, run the same command again."
    try:
        run_plan(plan, progress=True)
        path = folder / UTILITY
        weights = plan.subject.name, plan.subject.revision, plan.subject.dtype
        if path.is_file() and ((held := read_utility(path)).model, held.revision, held.dtype) == weights:
            return held
        measure_utility(
            model,
            out=path,
            protocol=way.protocol,
            dtype=way.dtype,
            device=way.device,
            allow_remote_code=way.allow_remote_code,
            allow_pickle=way.allow_pickle,
        )
    except KeyboardInterrupt:
        interrupted(again)
    return read_utility(path)


def carded(model: str, base: str, folder: Path, way: Way) -> ModelCard:
    """The card of a model against its base, with the base's run where it was measured here; curves that are in the
    folder are not made again."""
    from asabench.card.records import CARD_FILE, read_card

    here = folder / BASE / RUN
    make_card(
        model,
        base,
        folder / CARD,
        run=folder / RUN,
        base_run=here if here.is_dir() else None,
        utility=folder / UTILITY,
        base_utility=folder / BASE / UTILITY if here.is_dir() else None,
        protocol=way.protocol,
        device=way.device,
        allow_remote_code=way.allow_remote_code,
        allow_pickle=way.allow_pickle,
    )
    return read_card(folder / CARD / CARD_FILE)


def submitted(
    folder: Path, details: Details, report: UtilityReport, card: ModelCard | None, entries: Path
) -> Validation:
    """The submission of the run in a folder, written and checked; one of the same slug is written again."""
    from asabench.runs.folder import certificate_in, read_run
    from asabench.submission.make import make_submission

    info = read_run(folder / RUN).row.judge
    held = (certificate_in(folder / RUN, info.id) if info.certificate else None) or certificate_now(info, None)
    return make_submission(
        [folder / RUN], details, utility=report, certificate=held, card=card, out=entries, replace=True
    )


def base_entry(base: str, way: Way) -> BaseModelRef | None:
    """The entry of the same weights under the protocol at a size that ranks alike, if there is one."""
    from asabench.core.protocol import SIZES
    from asabench.submission.schema import SUBMISSION_FILE, BaseModelRef
    from asabench.submission.tracks import track
    from asabench.submission.validate import validate_folder
    from harness.model.files import locate

    files = locate(base, allow_pickle=way.allow_pickle, allow_remote_code=way.allow_remote_code)
    apart = way.size if SIZES[way.protocol][way.size].blocks is not None else None
    for path in sorted(way.entries.glob(f"*/{SUBMISSION_FILE}")):
        if files.revision not in path.read_text(encoding="utf-8", errors="replace"):
            continue  # checking a folder takes a second
        found = validate_folder(path.parent)
        if not found.ok or found.submission is None or found.row is None:
            continue
        weights = found.submission.model.name, found.submission.model.revision
        ranks = track(found.row)
        if weights == (files.name, files.revision) and (ranks.protocol, ranks.size) == (way.protocol, apart):
            return BaseModelRef(name=files.name, revision=files.revision, entry=path.parent.name)
    return None


def beside(done: Validation, base: Path | None) -> str:
    """The entry's row beside its base's, in lines for a terminal."""
    from asabench.core.row import worst_case, worst_rate
    from asabench.core.text import in_words, text_table, where
    from asabench.submission.tracks import board_flags
    from asabench.submission.validate import validate_folder

    other = None if base is None else validate_folder(base)
    lines = [["", "worst case, MASR", "under", "harmless requests answered", "flags"]]
    for each in (done, *([] if other is None else [other])):
        if each.row is None:
            continue
        worst = worst_case(each.row.results)
        own = each is done
        flags = board_flags(
            each.row,
            each.utility,
            has_base=own and base is not None,
            base_utility=None if other is None or not own else other.utility,
            max_new_tokens=each.max_new_tokens,
        )
        lines.append(
            [
                each.slug,
                in_words(worst_rate(each.row)),
                "" if worst is None else where(worst),
                "not measured" if each.utility is None else in_words(each.utility.clean.benign_answer_rate),
                ", ".join(flags) or "none",
            ]
        )
    return "\n".join([text_table(lines), *(f"notice: {notice}" for notice in done.notices)])


def require_repository(entries: Path) -> None:
    """`UserError` where a branch cannot be made: before hours of work, not after them."""
    if shutil.which("git") is None:
        raise UserError("--open-pr needs git; install it, or leave --open-pr out")
    place = entries if entries.is_dir() else Path()
    if _git("rev-parse", "--is-inside-work-tree", cwd=place).returncode:
        raise UserError(f"--open-pr: {place} is in no git repository; clone ASABench's and run this there")


def open_pull_request(folder: Path, slug: str, name: str) -> None:
    """Commits the entry, and nothing else, to the branch `entry/SLUG`; a pull request where `gh` is."""
    branch = f"entry/{slug}"
    there = _git("rev-parse", "--verify", "--quiet", branch, cwd=folder).returncode == 0
    _must(_git("switch", *(() if there else ("--create",)), branch, cwd=folder), f"switch to {branch}")
    _must(_git("add", "--", ".", cwd=folder), f"add {folder}")
    if _git("diff", "--cached", "--quiet", "--", ".", cwd=folder).returncode:
        _must(_git("commit", "--message", f"Entry: {name}", "--", ".", cwd=folder), f"commit {folder}")
    if shutil.which("gh") is None:
        return say(f"branch:   {branch}, which holds {folder}\nnext: push it, and open a pull request")
    _must(_git("push", "--set-upstream", "origin", branch, cwd=folder), f"push {branch}")
    made = _run(("gh", "pr", "create", "--title", f"Entry: {name}", "--body", f"Adds `{folder}`."), folder)
    _must(made, "open a pull request")
    say(f"pull request: {made.stdout.strip()}")


def _git(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return _run(("git", *words), cwd)


def _run(words: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def _must(done: subprocess.CompletedProcess[str], what: str) -> None:
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no reason was given"]
        raise UserError(f"the entry is made, and git or gh did not {what}: {said[-1]}; do that yourself")
