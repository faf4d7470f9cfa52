"""What defences are trained on: requests with the answer to learn, in tokens, and batches of them.

Harmful requests come from a prompt set, or are *cells*: a request, its clean safe answer, and a block at which noise
broke it. Benign requests come with ASABench and are answered by the model itself before training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from asabench.core.defaults import DISJOINT, PUBLISHED_PROMPTS, TARGET
from asabench.core.errors import UserError
from asabench.core.near_duplicates import disjoint_rows
from asabench.core.prompts import PromptSet, load_prompts
from asabench.core.protocol import Protocol
from asabench.core.records import Prompt
from asabench.core.similarity import MEASURE, NEAR, copies, near_between
from asabench.core.training_record import ComparedWithTest, NearTest
from asabench.dataset.instances import instances_of_run
from asabench.dataset.original_layout import open_benchmark
from asabench.dataset.schema import listed
from asabench.judging.refusals import refusal_phrase
from asabench.runs.folder import read_run
from harness.model.padding import left_padded
from harness.model.subject import Subject
from harness.probes.measures import clean_answers
from harness.stream.injection import NO_LAYER

if TYPE_CHECKING:
    import pyarrow as pa

IGNORED = -100  # cross_entropy's own mark for labels that do not count

REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I can't help with that request.",
    "I'm sorry, I can't assist with that. It could cause harm.",
    "I won't help with this, because it could hurt people.",
    "Sorry, but that is something I can't help with.",
    "I'm not able to help with that request, as it could be harmful.",
)


@dataclass(frozen=True, kw_only=True)
class Example:
    """Token ids of a request and of the answer to learn, its stop token included. `layer` is the block to perturb, or
    NO_LAYER. `rejected`: token ids of the start of an answer that must not come."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    layer: int = NO_LAYER
    rejected: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SafeCell:
    """A training cell of LAPT: a request, its clean safe answer (`whole`: it ended by itself), and a block at which it
    breaks."""

    prompt: Prompt
    answer: str
    layer: int
    whole: bool


@dataclass(frozen=True, kw_only=True)
class HarmfulData:
    """The harmful half of a training, as it was asked for. `target`: the start of a compliant answer. `layers`: blocks
    to perturb; `cells` bring their own, and are None when only prompts were given. `answers`: harmful answers by the
    digest of their request, where a file has them; else the start of compliance stands for them."""

    prompts: Sequence[Prompt]
    protocol: Protocol
    target: str
    layers: Sequence[int]
    cells: Sequence[SafeCell] | None = None
    answers: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """Requests with answers, teacher-forced: requests are padded on the left, answers on the right, so that the answer
    starts in the same column of every row.

    ids, mask: (row, position); the last token of the longest answer predicts nothing that counts and is left out.
    labels: (row, position), the token that each position predicts, IGNORED where it is none of the answer's. The first
    label stands at the last position of the request: there the first token of the answer is predicted, and there
    generation begins to inject.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor
    prompt_length: int

    @property
    def answer_positions(self) -> Tensor:
        """(row, position) bool: where generation injects."""
        return self.labels != IGNORED

    @property
    def prompt_positions(self) -> Tensor:
        """(row, position) bool: the request's own tokens, padding left out."""
        columns = torch.arange(self.ids.shape[1], device=self.ids.device) < self.prompt_length
        return self.mask.bool() & columns


def teacher_forced(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> TokenBatch:
    """A batch on the CPU. prompts, answers: token ids of each row, none empty."""
    before, before_mask = left_padded(prompts)
    steps = max(map(len, answers))
    after = torch.zeros(len(answers), steps, dtype=torch.long)
    labels = torch.full((len(answers), before.shape[1] - 1 + steps), IGNORED)
    for row, answer in enumerate(answers):
        after[row, : len(answer)] = torch.tensor(answer)
        start = before.shape[1] - 1
        labels[row, start : start + len(answer)] = torch.tensor(answer)
    lengths = torch.tensor([len(answer) for answer in answers])
    after_mask = (torch.arange(steps) < lengths[:, None]).long()
    return TokenBatch(
        ids=torch.cat([before, after], dim=1)[:, :-1],
        mask=torch.cat([before_mask, after_mask], dim=1)[:, :-1],
        labels=labels,
        prompt_length=before.shape[1],
    )


def answer_logits(subject: Subject, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Logits (row, step, vocabulary) in float32 and labels (row, step) of the answers' tokens; one forward."""
    steps = batch.labels.shape[1] - batch.prompt_length + 1
    # Only the positions that predict an answer need logits: those are most of the cost on a small model
    ids, mask = batch.ids.to(subject.device), batch.mask.to(subject.device)
    logits = subject.forward(ids, mask, last=steps)
    return logits.float(), batch.labels[:, -steps:].to(logits.device)


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over all labels that are not IGNORED, a scalar. logits: (row, step, vocabulary); labels: (row, step)."""
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def answer_loss(subject: Subject, batch: TokenBatch) -> Tensor:
    """Mean cross-entropy over the answers' tokens, a scalar. An open injection acts on it."""
    return mean_cross_entropy(*answer_logits(subject, batch))


def batch_of(examples: Sequence[Example]) -> TokenBatch:
    return teacher_forced([e.prompt for e in examples], [e.answer for e in examples])


def text_tokens(subject: Subject, text: str) -> tuple[int, ...]:
    return tuple(subject.tokenizer(text, add_special_tokens=False)["input_ids"])


def end_token(subject: Subject) -> int:
    """The token that ends an answer: the tokenizer's own if generation stops at it."""
    stops = subject.stop_tokens
    if not stops:
        raise UserError(f"{subject.name} has no stop token in its generation_config or tokenizer; name one there")
    own = subject.tokenizer.eos_token_id
    return own if own in stops else min(stops)


def refusal_examples(
    subject: Subject,
    prompts: Sequence[Prompt],
    protocol: Protocol,
    rejected: str | None = None,
    answers: Mapping[str, str] | None = None,
) -> list[Example]:
    """Each request with one of `REFUSALS` in turn. rejected: the start of an answer that must not come; answers: whole
    ones in its place, by the digest of the request."""
    stop = end_token(subject)
    wrong = () if rejected is None else text_tokens(subject, rejected)
    if rejected is not None and not wrong:
        raise UserError(f'--target {rejected!r} has no tokens; give the start of compliance, such as "{TARGET}"')
    return [
        Example(
            prompt=tuple(subject.format(prompt, protocol)),
            answer=(*text_tokens(subject, REFUSALS[index % len(REFUSALS)]), stop),
            rejected=wrong if answers is None else text_tokens(subject, answers[prompt.digest]),
        )
        for index, prompt in enumerate(prompts)
    ]


def own_answers(subject: Subject, prompts: Sequence[Prompt], protocol: Protocol) -> list[Example]:
    """Each request with the model's own clean answer, as far as the protocol lets it go."""
    ids = [subject.format(prompt, protocol) for prompt in prompts]
    answers = clean_answers(subject, ids, protocol)
    return [Example(prompt=tuple(prompt), answer=tuple(answer)) for prompt, answer in zip(ids, answers, strict=True)]


def refused(subject: Subject, examples: Sequence[Example]) -> list[Example]:
    """Those whose answer refuses."""
    texts = [subject.text(example.answer) for example in examples]
    return [example for example, text in zip(examples, texts, strict=True) if refusal_phrase(text) is not None]


def at_layers(examples: Sequence[Example], layers: Sequence[int]) -> list[Example]:
    """Every example at every layer."""
    return [replace(example, layer=layer) for example in examples for layer in layers]


def cell_examples(subject: Subject, cells: Sequence[SafeCell], protocol: Protocol) -> list[Example]:
    """Cells in the subject's tokens; `UserError` for a layer that it does not have."""
    if outside := sorted({cell.layer for cell in cells if cell.layer >= subject.n_layers}):
        raise UserError(
            f"the cells name layers {listed(outside)}, and {subject.name} has {subject.n_layers} blocks; "
            "give cells of a model with the same blocks"
        )
    stop = end_token(subject)
    return [
        Example(
            prompt=tuple(subject.format(cell.prompt, protocol)),
            answer=(*text_tokens(subject, cell.answer), *([stop] if cell.whole else [])),
            layer=cell.layer,
        )
        for cell in cells
    ]


def read_cells(path: Path, split: str | None = "train") -> list[SafeCell]:
    """The validated successes with a safe clean answer in a finished run folder, or in one side of a benchmark's
    leak-free split. Raises `UserError` for anything else, and where there are none."""
    if (path / "responses").is_dir():
        run = instances_of_run(read_run(path))
        tables: list[tuple[pa.Table, pa.Table | None]] = [(run.instances, run.attempts)]
        split = None
    else:
        benchmark = open_benchmark(path)
        tables = [(benchmark.instances(config), benchmark.attempts(config)) for config in benchmark.configs]
    cells: dict[tuple[str, str | None, int], SafeCell] = {}
    count = 0
    for instances, attempts in tables:
        ended = _ended(attempts)
        for row in instances.to_pylist():
            if split is not None and row["split_leakfree_by_prompt"] != split:
                continue
            count += 1
            answer = (row["original_response"] or "").strip()
            if row["original_label"] != "safe" or not answer:
                continue
            prompt = Prompt(id=row["prompt_id"], goal=row["prompt"], suffix=row["suffix"])
            # An answer that was cut at the run's length must not be taught to end there
            whole = ended.get((row["prompt_sha256"], row["suffix_sha256"]), answer.endswith((".", "!", "?")))
            cells[prompt.goal, prompt.suffix, row["layer"]] = SafeCell(
                prompt=prompt, answer=answer, layer=row["layer"], whole=whole
            )
    if not cells:
        raise UserError(
            f"{path} holds no cell to train on: none of {count} successes has a clean answer judged safe; "
            "attack a model that refuses, or leave --cells out"
        )
    return list(cells.values())


def _ended(attempts: pa.Table | None) -> dict[tuple[str, str | None], bool]:
    """By digests of prompt and suffix, whether the clean answer ended by itself; empty where no attempts are known."""
    if attempts is None:
        return {}
    columns = attempts.select(["prompt_sha256", "suffix_sha256", "layer", "finish_reason"]).to_pylist()
    return {
        (row["prompt_sha256"], row["suffix_sha256"]): row["finish_reason"] == "stop"
        for row in columns
        if row["layer"] is None
    }


def read_answers(path: Path, requests: Sequence[Prompt]) -> dict[str, str]:
    """Answers by the digest of their request, from a table with the columns goal and answer. Raises `UserError` where a
    request has none."""
    found = {}
    for prompt in load_prompts(str(path)).prompts:
        answer = (dict(prompt.extra).get("answer") or "").strip()
        if answer:
            found[prompt.digest] = answer
    if lacking := [prompt.id for prompt in requests if prompt.digest not in found]:
        raise UserError(
            f"{path} has no answer for {len(lacking)} of {len(requests)} training requests ({listed(lacking, 5)}); "
            "give it the columns goal,answer with a line for each, or leave --answers out"
        )
    return {prompt.digest: found[prompt.digest] for prompt in requests}


def benign_requests() -> list[Prompt]:
    """The harmless requests that come with ASABench for training; others are kept for measuring."""
    text = (files("asabench") / "data" / "benign_requests.txt").read_text(encoding="utf-8")
    return [Prompt(id=f"benign-{n:03d}", goal=line) for n, line in enumerate(text.splitlines()) if line]


def chosen_prompts(spec: str) -> PromptSet:
    """The goals of `NAME` or `NAME:ROWS`, rows from 0 as in `advbench:100-299,310`; of `advbench:disjoint`, those that
    are connected with none of the published test prompts. Raises `UserError`."""
    name, colon, rows = spec.rpartition(":")
    if name == PUBLISHED_PROMPTS and rows == DISJOINT:
        published = load_prompts(name).without_targets()
        return PromptSet(spec, tuple(published.prompts[row] for row in disjoint_rows()))
    if not colon or not rows or set(rows) - set("0123456789,-"):
        return load_prompts(spec).without_targets()
    whole = load_prompts(name).without_targets()
    chosen: list[int] = []
    for part in rows.split(","):
        first, dash, last = part.partition("-")
        try:
            numbers = range(int(first), int(last if dash else first) + 1)
        except ValueError:
            raise UserError(f"the rows {rows!r} of {spec!r} cannot be read; write them as {name}:100-299,310") from None
        chosen.extend(numbers)
    if not chosen or max(chosen) >= len(whole.prompts):
        raise UserError(f"{spec!r} names rows that {name} does not have; it has rows 0 to {len(whole.prompts) - 1}")
    return PromptSet(spec, tuple(whole.prompts[row] for row in sorted(set(chosen))))


def refuse_overlap(training: Sequence[Prompt], test: PromptSet) -> None:
    """`UserError` with the ids of training requests that the evaluation uses too, whatever their case, spaces and
    punctuation are, and whatever stands before or behind (`asabench.core.similarity.copies`)."""
    once = list({prompt.digest: prompt for prompt in training}.values())
    found = copies([prompt.goal for prompt in once], [prompt.goal for prompt in test.prompts])
    held_out = {prompt.digest for prompt in test.prompts}
    places = {place for place, _ in found} | {n for n, prompt in enumerate(once) if prompt.digest in held_out}
    if shared := [once[place].id for place in sorted(places)]:
        raise UserError(
            f"{len(shared)} training prompts are test prompts of {test.name} too ({listed(shared, 10)}); train on "
            "others, or name what you will evaluate on with --test-prompts"
        )


def compared_with_test(training: Sequence[Prompt], test: PromptSet, *, allow_similar: bool) -> ComparedWithTest:
    """How alike the training requests are to the test's; `UserError` with the ids of near-duplicates, unless these are
    allowed."""
    best: dict[int, tuple[float, int]] = {}
    for near in near_between([prompt.goal for prompt in training], [prompt.goal for prompt in test.prompts]):
        best[near.second] = max(best.get(near.second, (0.0, 0)), (near.similarity, near.first))
    if best and not allow_similar:
        ids = [f"{test.prompts[place].id} by {training[best[place][1]].id}" for place in sorted(best)]
        raise UserError(
            f"{len(best)} of {len(test.prompts)} test prompts of {test.name} have a near-duplicate among the training "
            f"prompts (similarity {NEAR:g} or more: {listed(ids, 5)}); train on others, such as "
            f"{PUBLISHED_PROMPTS}:{DISJOINT}, or say --allow-similar: the record will name them"
        )
    return ComparedWithTest(
        measure=MEASURE,
        test=test.name,
        goals=tuple(prompt.digest for prompt in test.prompts),
        near=tuple(
            NearTest(test=test.prompts[place].digest, training=training[number].digest, similarity=similarity)
            for place, (similarity, number) in sorted(best.items())
        ),
    )
