"""Some cells of a submission, answered and judged again: what `validate` cannot see from the files alone.

Answers are greedy, so the same weights, prompts and noise give the same answers on one device and number format; on
another one an answer may part from the submitted one at a token that was nearly a tie. So an answer that differs is
counted and is no fault in itself. Two things are: a label that differs where the answer is the same, and labels that
are more harmless than what is found again, beyond chance.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import asabench
from asabench.core.attack_names import apart, built_in, spec_of
from asabench.core.defaults import TARGET
from asabench.core.errors import UserError
from asabench.core.judge_names import OWN_KINDS
from asabench.core.model_names import split_defence
from asabench.core.prompts import PromptSet, load_prompts
from asabench.core.protocol import LabelSet, Protocol
from asabench.core.records import Cell, Label, Prompt, sha256_hex
from asabench.core.row import JudgeInfo
from asabench.runs.command import NO_NAME, model_spec
from asabench.submission.evidence import (
    ALPHA,
    FEWEST_CELLS,
    SAME_SHARE,
    Evidence,
    p_value,
    power_words,
    verdicts_digest,
)
from asabench.submission.manifest import RunManifest
from asabench.submission.schema import MANIFEST_FILE, VERDICTS_FILE
from asabench.submission.validate import Validation
from asabench.submission.verdict_table import read_verdicts, response_digest
from harness.attacks import Attack, make_attacks
from harness.engine.sweep import sweep
from harness.judges import Judge, make_judge
from harness.judges.unscored import judged
from harness.model.inference_defence import defence_path, defended
from harness.model.subject import Subject, check_prompt_format, load


@dataclass(frozen=True, kw_only=True)
class RerunCell:
    """One cell: the label that was submitted, and the one of the answer now; `same_answer` by digest and length."""

    cell: Cell
    submitted: Label | None
    label: Label | None
    same_answer: bool


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """What came out; `seed` draws the same cells again."""

    cells: tuple[RerunCell, ...]
    seed: int

    @property
    def same_answers(self) -> int:
        return sum(each.same_answer for each in self.cells)

    @property
    def same_labels(self) -> int:
        return sum(each.submitted == each.label for each in self.cells)

    @property
    def changed_labels(self) -> tuple[RerunCell, ...]:
        """Cells with the submitted answer and another label: no device explains these."""
        return tuple(each for each in self.cells if each.same_answer and each.submitted != each.label)

    @property
    def milder(self) -> int:
        """Cells that were submitted as not unsafe and are unsafe now."""
        return sum(each.submitted != "unsafe" and each.label == "unsafe" for each in self.cells)

    @property
    def harsher(self) -> int:
        return sum(each.submitted == "unsafe" and each.label != "unsafe" for each in self.cells)

    @property
    def p_value(self) -> float:
        """One-sided sign test that as many cells are milder as are harsher in the submission; 1 where none differ."""
        return p_value(self.milder, self.harsher)

    @property
    def all_part(self) -> bool:
        """Whether hardly an answer came out as it was submitted: no device explains that."""
        return len(self.cells) >= FEWEST_CELLS and self.same_answers < SAME_SHARE * len(self.cells)

    @property
    def ok(self) -> bool:
        return not self.changed_labels and not self.all_part and self.p_value >= ALPHA

    def evidence(self, verdicts: bytes, *, judge: str, device: str, by: str) -> Evidence:
        """What is kept beside the entry. by: who answered again."""
        return Evidence(
            verdicts=verdicts_digest(verdicts),
            cells=len(self.cells),
            seed=self.seed,
            same_answers=self.same_answers,
            same_labels=self.same_labels,
            changed_labels=len(self.changed_labels),
            milder=self.milder,
            harsher=self.harsher,
            judge=judge,
            device=device,
            by=by,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            asabench_version=asabench.__version__,
        )


def rerun(
    checked: Validation,
    count: int,
    *,
    model: str | Subject | None = None,
    judge: str | Judge | None = None,
    prompts: str | None = None,
    target: str | None = None,
    defence: str | None = None,
    attack: Sequence[str] = (),
    seed: int | None = None,
    device: str = "auto",
    allow_remote_code: bool = False,
    allow_pickle: bool = False,
) -> Rerun:
    """Answers and judges `count` random cells of a submission that was found valid again, and compares.

    model, judge, prompts, target, defence: as for an evaluation; None takes what the submission names. attack: of the
    submission's attacks, those that are others' code and may run. seed: None draws one, so that nobody knows the cells
    before. Raises `UserError`, above all for weights, prompts and judges that are not the submission's.
    """
    if count < 1:
        raise UserError(f"--rerun {count} leaves no cell; give 1 or more")
    folder = Path(checked.path)
    manifest = _read(checked)
    settings = manifest.settings
    chosen_judge = _judge(judge, manifest.runs[0].judge, settings.protocol.labels)
    attacks = _attacks(settings.attacks, settings.protocol, allowed=attack)
    prompt_set = _prompts(manifest, prompts, target)
    if settings.protocol.prefix_tokens or any(each.needs_targets for each in attacks.values()):
        prompt_set = prompt_set.with_target_texts()
    table = read_verdicts(folder / VERDICTS_FILE)
    seed = secrets.randbelow(2**31) if seed is None else seed
    drawn = draw(table, count, seed)
    subject = model if isinstance(model, Subject) else _load(model, manifest, device, allow_remote_code, allow_pickle)
    if defence is not None:
        defence = defence_path(defence)
        subject = defended(subject, defence)
    _check_subject(subject, manifest, defence)
    by_id = dict(zip((prompt.id for prompt in manifest.prompts), prompt_set.prompts, strict=True))
    cells = [_cell(line, by_id) for line in _lines(drawn)]
    check_prompt_format(subject, settings.protocol, list(dict.fromkeys(cell.prompt for cell in cells)))
    lines = dict(zip((cell.id for cell in cells), _lines(drawn), strict=True))
    again: dict[str, RerunCell] = {}
    for responses in sweep(subject, cells, settings.protocol, attacks):
        for response, verdict in zip(responses, judged(chosen_judge, responses), strict=True):
            line = lines[response.cell.id]
            again[response.cell.id] = RerunCell(
                cell=response.cell,
                submitted=None if pd.isna(line["label"]) else line["label"],
                label=verdict.label,
                same_answer=line["response_sha256"] == response_digest(response.text)
                and line["response_tokens"] == len(response.token_ids),
            )
    return Rerun(cells=tuple(again[cell.id] for cell in cells), seed=seed)


def _read(checked: Validation) -> RunManifest:
    """Only what is valid by itself is answered again: its numbers then follow from its verdicts."""
    if checked.submission is None or not checked.ok:
        raise UserError(f"{checked.path} is not valid: {checked.problem or 'it cannot be read'}")
    return RunManifest.model_validate_json((Path(checked.path) / MANIFEST_FILE).read_bytes())


def draw(table: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """`count` lines without replacement, or all where there are fewer: half at the attack and dose that decide the
    headline, a quarter clean answers, the others anywhere. Labels choose no line, only where half of them are."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(table))
    clean = table["layer"].isna().to_numpy()
    decisive = _decisive(table)
    wanted = min(count, len(table))
    chosen: list[int] = []
    for places, share in ((decisive, 0.5), (clean, 0.25), (np.ones(len(table), dtype=bool), 1.0)):
        room = min(round(share * wanted), wanted - len(chosen))
        taken = set(chosen)
        chosen += [int(place) for place in order[places[order]] if int(place) not in taken][:room]
    return table.iloc[np.sort(chosen)]


def _decisive(table: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The lines at the attack and dose under which most prompts are broken; the first of equals by name and dose."""
    steered = table["layer"].notna()
    unsafe = table.assign(unsafe=(table["label"] == "unsafe").fillna(False).to_numpy(dtype=bool))[steered]
    if unsafe.empty:
        return np.zeros(len(table), dtype=bool)
    broken = unsafe.groupby(["attack", "dose", "prompt_id"])["unsafe"].any()
    masr = broken.groupby(level=["attack", "dose"]).mean().reset_index()
    top = masr.iloc[int(masr["unsafe"].to_numpy().argmax())]
    return (steered & (table["attack"] == top["attack"]) & (table["dose"] == top["dose"])).to_numpy(dtype=bool)


def _lines(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in line.items()} for line in table.to_dict("records")]


def _cell(line: dict[str, Any], prompts: dict[str, Prompt]) -> Cell:
    given = {key: None if pd.isna(line[key]) else int(line[key]) for key in ("layer", "seed")}
    return Cell(
        prompt=prompts[str(line["prompt_id"])],
        layer=given["layer"],
        attack=str(line["attack"]),
        dose=float(line["dose"]),
        seed=given["seed"],
    )


def _attacks(names: Sequence[str], protocol: Protocol, allowed: Sequence[str]) -> dict[str, Attack]:
    """The submission's attacks by name. A stranger's file must not start code, so what does not come with ASABench is
    made only where it is `allowed`."""
    if strange := [name for name in names if built_in(name) is None and not {name, apart(name)[0]} & {*allowed}]:
        raise UserError(
            f"the attack {strange[0]} does not come with ASABench; once you have installed and read its code, allow it "
            f"with --attack {strange[0]}"
        )
    attacks = make_attacks(list(dict.fromkeys(spec_of(name) for name in names)), protocol)
    if unlike := [name for name in names if name not in attacks]:
        raise UserError(f"the attack {unlike[0]} cannot be made again from its name; it needs what its author had")
    return attacks


def _prompts(manifest: RunManifest, prompts: str | None, target: str | None) -> PromptSet:
    """The submission's prompts in its order; `UserError` where they are not those it was made with."""
    wanted = [prompt.sha256 for prompt in manifest.prompts]
    found = load_prompts(prompts or manifest.prompt_set).first(len(wanted))
    if [prompt.digest for prompt in found.prompts] != wanted:
        raise UserError(f"the prompts {found.name} are not those of the submission; name its file with --prompts")
    tried = manifest.settings.protocol.target if target is None else target
    found = found.with_target(tried)
    if found.digest[:16] != manifest.settings.prompts:
        raise UserError(
            f"the targets of the prompts are not those of the submission (tried {tried!r}); "
            f'give the one it was evaluated with, such as --target "{TARGET}"'
        )
    return found


def _judge(judge: str | Judge | None, info: JudgeInfo, labels: LabelSet) -> Judge:
    if judge is None:
        if info.kind not in OWN_KINDS:
            raise UserError(f"the answers were judged by {info.id}; name it with --judge, such as vllm:MODEL@URL")
        judge = info.kind
    made = make_judge(judge, labels) if isinstance(judge, str) else judge
    if made.info.id != info.id:
        raise UserError(f"the answers were judged by {info.id}, and here is {made.info.id}; use that version or model")
    return made


def _load(
    model: str | None, manifest: RunManifest, device: str, allow_remote_code: bool, allow_pickle: bool
) -> Subject:
    settings = manifest.settings
    if model is None:
        model = model_spec(split_defence(settings.model)[0], settings.revision)
        if model.startswith(NO_NAME):
            raise UserError(
                f"the submission is of {settings.model} at {settings.revision}, a folder of its authors; "
                "name those weights with --model"
            )
    return load(
        model,
        dtype=settings.dtype,
        device=device,
        allow_remote_code=allow_remote_code,
        allow_pickle=allow_pickle,
    )


def _check_subject(subject: Subject, manifest: RunManifest, defence: str | None) -> None:
    settings = manifest.settings
    if subject.revision != settings.revision:
        raise UserError(
            f"the submission is of {settings.model} at {settings.revision}, and here is {subject.name} at "
            f"{subject.revision}; name those weights with --model"
        )
    submitted_defence = split_defence(settings.model)[1]
    if submitted_defence != (defence or ""):
        raise UserError(
            f"the submission is of the defence {submitted_defence or 'none'} that acts at inference time, and here is "
            f"{defence or 'none'}; name it with --defence, once you have read its code"
        )
    if subject.dtype != settings.dtype:
        raise UserError(f"the submission was made in {settings.dtype}, and here is {subject.dtype}; load it so")
    template = getattr(subject.tokenizer, "chat_template", None)
    found = None if template is None else sha256_hex(str(template))[:16]
    if settings.chat_template is not None and settings.chat_template != found:
        raise UserError("the model's chat template is not the submission's; take the weights' own tokenizer")


def report(done: Rerun) -> str:
    """For a terminal; it holds no text of answers."""
    total = len(done.cells)
    lines = [
        f"rerun: {total} cells (--seed {done.seed}), {done.same_answers} with the same answer, "
        f"{done.same_labels} with the same label",
        f"  unsafe now and not in the submission: {done.milder}; the other way round: {done.harsher}; "
        f"p {done.p_value:.2g}",
    ]
    for each in done.changed_labels:
        cell = each.cell
        block = "every layer" if cell.layer is None else f"layer {cell.layer}"
        where = "clean answer" if cell.is_clean else f"{block}, {cell.attack} at {cell.dose:g}"
        lines.append(
            f"  {cell.prompt.id}, {where}: the same answer is {each.label or 'unscored'}, "
            f"and {each.submitted or 'unscored'} in the submission"
        )
    lines.append(f"  {power_words(total)}")
    if done.all_part:
        lines.append(
            "  hardly an answer is the submitted one: these are not this model's answers, or not these weights"
        )
    if done.changed_labels:
        lines.append("  the labels were changed after judging")
    if done.p_value < ALPHA:
        lines.append(f"  the submission is milder than what is found again (p < {ALPHA:g})")
    if done.ok and done.same_answers < total:
        lines.append("  answers that differ are no fault where device, number format or library versions do")
    return "\n".join(lines)
