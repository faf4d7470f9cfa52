"""Three diagnostics of a perturbed block, read along the model's own clean answer: NLL rise, KL by position, landscape.

All are teacher-forced: the clean answer `y` is fed again while a block's output is perturbed at every position where
generation perturbs it, that is the last prompt position, which predicts `y_1`, and those of `y_1 .. y_(T-1)`. So one
forward gives what `T` decoding steps would. Statistics of equation (1) are those of the current step, whatever the
protocol takes for generation. Source: Gu et al. 2025 (arXiv:2506.16078); docs/protocol.md, "Diagnostics".

Rows of a batch mix prompts, layers, doses and seeds. What a row needs of the clean run is computed once a prompt: the
answer, the cache of the prompt before its last token, the clean distributions, and the hidden states up to the
perturbed block, which are the clean run's: a batch starts at its lowest perturbed block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor

from asabench.core.errors import UserError
from asabench.core.protocol import Protocol
from asabench.core.records import Cell, Prompt
from harness.attacks import Attack
from harness.engine.decoding import Batch, decode
from harness.engine.generation_config import active_processors
from harness.engine.sweep import kv_bytes_per_position
from harness.model.architecture import n_heads
from harness.model.clean_states import CleanStates, starts_at_blocks
from harness.model.kv_cache import expand
from harness.model.limits import check_fits
from harness.model.placement import rows_that_fit as rows_in_memory
from harness.model.subject import Subject
from harness.model.tensor_cache import ModelCache
from harness.stream.injection import Injection, edit, inject
from harness.stream.perturbation import normalise, perturb, standardise

BYTES_ON_CPU = 2**29
"""Memory of a batch: some hundred positions already run at full speed, and their logits are most of it."""
BYTES_ON_GPU = 2**34
_ANSWERS_AT_ONCE = 128

OnRows = Callable[[int], None]
"""Called after each batch with the number of rows it read."""

Floats = npt.NDArray[np.float64]


def nll_rise(
    subject: Subject,
    prompts: Sequence[Prompt],
    layers: Sequence[int],
    protocol: Protocol,
    attack: Attack,
    doses: Sequence[float],
    seeds: Sequence[int],
    *,
    on_rows: OnRows | None = None,
) -> pd.DataFrame:
    """How much less likely an injection makes the model's own clean answer.

    `L(x, y) = -sum_t log p(y_t | x, y_<t)` in nats, `y` with its stop token where it has one. One line a cell:
    prompt_id, layer, attack, dose, seed (missing for an attack that uses none), n_tokens, nll_clean, nll_steered,
    rise = nll_steered - nll_clean.
    """
    return nll_and_kl(subject, prompts, layers, protocol, attack, doses, seeds, with_kl=False, on_rows=on_rows)[0]


def kl_by_position(
    subject: Subject,
    prompts: Sequence[Prompt],
    layers: Sequence[int],
    protocol: Protocol,
    attack: Attack,
    doses: Sequence[float],
    seeds: Sequence[int],
    *,
    on_rows: OnRows | None = None,
) -> pd.DataFrame:
    """`KL(z_t || z^_t) = sum_i z_t[i] log(z_t[i] / z^_t[i])` in nats, along the one shared clean answer.

    z_t: the clean distribution of the token at answer position t, z^_t: the steered one. One line a cell and position:
    prompt_id, layer, attack, dose, seed, position (0 is the first answer token), kl.
    """
    return nll_and_kl(subject, prompts, layers, protocol, attack, doses, seeds, on_rows=on_rows)[1]


def nll_and_kl(
    subject: Subject,
    prompts: Sequence[Prompt],
    layers: Sequence[int],
    protocol: Protocol,
    attack: Attack,
    doses: Sequence[float],
    seeds: Sequence[int],
    *,
    with_kl: bool = True,
    on_rows: OnRows | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of `nll_rise` and `kl_by_position` from the same forwards; without KL the second is empty."""
    nll_tables, kl_tables = [], []
    for group in _groups(subject, prompts, protocol):
        clean, clean_nll = group.read_clean(layers, keep=with_kl)
        rows, cells = _cells(group.prompts, layers, attack, doses, seeds)
        directions = attack.directions(subject, cells)
        # Filled in place: small arrays made between large ones would keep the memory of those from being used again
        nll = np.empty(len(cells))
        kl = np.empty((len(cells), max(group.lengths) if with_kl else 0))
        for part in _parts(len(cells), group.rows_per_batch):
            injection = Injection.from_directions(
                layer=torch.tensor([cell.layer for cell in cells[part]]),
                direction=directions[part],
                dose=torch.tensor([cell.dose for cell in cells[part]]),
                positions=group.positions(rows[part]),
            )
            read = group.read(rows[part], layers=injection.layers, perturbed=inject(subject.blocks, injection))
            for index, (row, steered) in enumerate(zip(rows[part], read, strict=True), start=part.start):
                nll[index] = group.nll(row, steered)
                if with_kl:
                    kl[index, : len(steered)] = kl_divergence(clean[row], steered).cpu()
            if on_rows is not None:
                on_rows(len(rows[part]))
        lengths = np.array([group.lengths[row] for row in rows])
        ids = pd.DataFrame(
            {
                "prompt_id": [cell.prompt.id for cell in cells],
                "layer": [cell.layer for cell in cells],
                "attack": attack.name,
                "dose": [cell.dose for cell in cells],
                "seed": pd.array([cell.seed for cell in cells], dtype="Int64"),
            }
        )
        before = np.array([clean_nll[row] for row in rows])
        nll_tables.append(ids.assign(n_tokens=lengths, nll_clean=before, nll_steered=nll, rise=nll - before))
        cell, position = np.nonzero(np.arange(kl.shape[1]) < lengths[:, None])
        kl_tables.append(ids.iloc[cell].assign(position=position, kl=kl[cell, position]))
    return _ordered(pd.concat(nll_tables), prompts), _ordered(pd.concat(kl_tables), prompts)


def landscape(
    subject: Subject,
    prompts: Sequence[Prompt],
    layers: Sequence[int],
    protocol: Protocol,
    attack_a: Attack,
    attack_b: Attack,
    a: Sequence[float],
    b: Sequence[float],
    *,
    seeds: tuple[int, int] = (0, 1),
    on_rows: OnRows | None = None,
) -> pd.DataFrame:
    """NLL of the clean answer over `h + a * delta'_A + b * delta'_B`, each delta' by equation (1) from the same `h`.

    a, b: the grid's values, its points all their pairs. One line a prompt, layer and point: prompt_id, layer, a, b,
    n_tokens, nll_clean, nll. `landscape_mean` averages it over prompts. The attacks are asked for their raw directions
    once a (prompt, layer), at dose 1, each with its own of `seeds`: the same noise twice would span no plane.
    """
    points = torch.tensor([(x, y) for x in a for y in b], dtype=torch.float32)
    tables: list[pd.DataFrame] = []
    for group in _groups(subject, prompts, protocol):
        _, clean_nll = group.read_clean(layers, keep=False)
        units = []
        for attack, seed in zip((attack_a, attack_b), seeds, strict=True):
            plane_rows, cells = _cells(group.prompts, layers, attack, [1.0], [seed])
            units.append(standardise(attack.directions(subject, cells).float()))
        layer = torch.tensor([cell.layer for cell in cells])
        unit = torch.stack(units, dim=1)
        # Rows: every point of the first (prompt, layer), then of the next
        nll = np.empty(len(plane_rows) * len(points))
        for part in _parts(len(nll), group.rows_per_batch):
            plane, point = np.divmod(np.arange(part.start, part.stop), len(points))
            rows = [plane_rows[index] for index in plane]
            plan = _PlaneInjection(layer[plane], unit[plane], points[point])
            edits = {index: partial(plan.apply, index) for index in sorted(set(plan.layer.tolist()))}
            read = group.read(rows, layers=list(edits), perturbed=edit(subject.blocks, edits))
            for index, (row, steered) in enumerate(zip(rows, read, strict=True), start=part.start):
                nll[index] = group.nll(row, steered)
            if on_rows is not None:
                on_rows(len(rows))
        each = len(points)
        tables.append(
            pd.DataFrame(
                {
                    "prompt_id": np.repeat([group.prompts[row].id for row in plane_rows], each),
                    "layer": np.repeat(layer.numpy(), each),
                    "a": np.tile(np.repeat(np.asarray(a, dtype=float), len(b)), len(plane_rows)),
                    "b": np.tile(np.asarray(b, dtype=float), len(plane_rows) * len(a)),
                    "n_tokens": np.repeat([group.lengths[row] for row in plane_rows], each),
                    "nll_clean": np.repeat([clean_nll[row] for row in plane_rows], each),
                    "nll": nll,
                }
            )
        )
    return _ordered(pd.concat(tables), prompts)


def landscape_mean(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `landscape` averaged over prompts: layer, a, b, n_prompts, nll_clean_mean, nll_mean."""
    return table.groupby(["layer", "a", "b"], as_index=False).agg(
        n_prompts=("prompt_id", "nunique"), nll_clean_mean=("nll_clean", "mean"), nll_mean=("nll", "mean")
    )


def kl_divergence(clean: Tensor, steered: Tensor) -> Tensor:
    """KL(clean || steered) in nats from log-probabilities (..., vocabulary); shape (...)."""
    terms = clean.exp() * (clean - steered)
    # A token that a model rules out (log-probability -inf) adds 0, not 0 * inf
    terms = torch.where(clean.isneginf(), 0.0, terms)
    return terms.sum(-1).clamp(min=0)  # rounding may leave -1e-8 where both are the same


@dataclass(frozen=True, eq=False)
class _PlaneInjection:
    """h + a * delta'_A + b * delta'_B at every fed position, each row at its own block.

    layer: (row,). units: (row, 2, d_model), standardised. doses: (row, 2), a and b.
    """

    layer: Tensor
    units: Tensor
    doses: Tensor

    def apply(self, layer: int, block_input: Tensor, block_output: Tensor) -> Tensor:
        """The perturbed output of block `layer`: (row, position, d_model), a new tensor."""
        device = block_output.device
        rows = (self.layer == layer).nonzero().squeeze(1)
        units, doses = self.units[rows].to(device), self.doses[rows].to(device)
        rows = rows.to(device)
        hidden = block_output[rows]
        first, second = (doses[:, i, None, None] * normalise(units[:, i, None], hidden) for i in (0, 1))
        result = block_output.clone()
        result[rows] = perturb(hidden, first + second, torch.ones((), device=device))
        return result


class _Group:
    """Some prompts with their clean answers, read again in batches of rows.

    prompts: in the group's order; a row names its prompt by that place. lengths: (prompt,) tokens of each answer.
    fed, targets, answered: (prompt, position): what is fed (the last prompt token, then the answer without its last),
    what it predicts (the answer), and whether there is one (answers are padded on the right).
    states: what the blocks put out for the clean answers, once `read_clean` has kept it.
    """

    @torch.no_grad()
    def __init__(
        self,
        subject: Subject,
        prompts: Sequence[Prompt],
        prompt_ids: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        rows_per_batch: int,
    ) -> None:
        self.subject, self.prompts, self.rows_per_batch = subject, prompts, rows_per_batch
        self.prefix = Batch(
            subject, prompt_ids, torch.arange(len(prompts)), Injection.nothing(len(prompts), subject.d_model), 0
        )
        device = subject.device
        self.lengths = [len(answer) for answer in answers]
        longest = max(self.lengths)
        self.targets = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, answer in enumerate(answers):
            self.targets[row, : len(answer)] = torch.tensor(answer)
        self.answered = torch.arange(longest)[None] < torch.tensor(self.lengths)[:, None]
        self.targets, self.answered = self.targets.to(device), self.answered.to(device)
        self.fed = torch.cat([self.prefix.next_tokens[:, None], self.targets[:, :-1]], dim=1)
        self.states: CleanStates | None = None
        # The last prompt token is in the prefix's mask already
        self.mask = torch.cat([self.prefix.mask, self.answered[:, 1:].long()], dim=1)

    def read(
        self,
        rows: Sequence[int],
        *,
        layers: Sequence[int] = (),
        perturbed: AbstractContextManager[Any] | None = None,
    ) -> Iterator[Tensor]:
        """One forward over the answers of prompts `rows`; for each row its log-probabilities (its tokens, vocabulary).

        layers: the blocks that `perturbed` perturbs. Float32, a row at a time: a batch of them would be the most
        memory that anything here takes.
        """
        skip: AbstractContextManager[Any] = nullcontext()
        if layers and self.states:
            read = slice(max(self.lengths[row] for row in rows))
            skip = self.states.starting_at(min(layers), torch.tensor(rows), read)
        with skip, perturbed or nullcontext():
            logits = self._logits(rows)
        for row, own in zip(rows, logits, strict=True):
            yield own[: self.lengths[row]].float().log_softmax(-1)

    @torch.no_grad()
    def _logits(self, rows: Sequence[int]) -> Tensor:
        longest = max(self.lengths[row] for row in rows)
        index = torch.tensor(rows, device=self.subject.device)
        before = self.prefix.mask.shape[1] - 1
        cache = expand(self.prefix.cache, index, before + longest)
        fed, mask = self.fed[index, :longest], self.mask[index, : before + longest]
        return self.subject.forward(fed, mask, cache=cache)

    def positions(self, rows: Sequence[int]) -> Tensor:
        """(row, position) bool: which of the positions that `read` feeds belong to an answer: those to perturb."""
        return self.answered[list(rows), : max(self.lengths[row] for row in rows)]

    def read_clean(self, layers: Sequence[int], *, keep: bool) -> tuple[list[Tensor], list[float]]:
        """By prompt: the clean log-probabilities (its tokens, vocabulary), if they are to be kept, and the NLL.

        Keeps the clean states of `layers` too: a batch perturbed there starts there.
        """
        states = CleanStates(self.subject.blocks)
        recorded = sorted(set(layers)) if starts_at_blocks(self.subject) else []
        kept, nll = [], []
        for row, clean in enumerate(self.read(range(len(self.prompts)), perturbed=states.recording(recorded))):
            nll.append(self.nll(row, clean))
            if keep:
                kept.append(clean)
        self.states = states if recorded else None
        return kept, nll

    def nll(self, row: int, log_probabilities: Tensor) -> float:
        """L(x, y) of the answer of prompt `row`. log_probabilities: (its tokens, vocabulary)."""
        own = self.targets[row, : len(log_probabilities)].to(log_probabilities.device)
        return -float(log_probabilities.gather(-1, own[:, None]).double().sum())


def _groups(subject: Subject, prompts: Sequence[Prompt], protocol: Protocol) -> Iterator[_Group]:
    """The prompts with their clean answers, in groups small enough that the clean distributions of one are kept."""
    prompt_ids = [subject.format(prompt, protocol) for prompt in prompts]
    answers = clean_answers(subject, prompt_ids, protocol)
    position_bytes = kv_bytes_per_position(subject)
    # Answers of like length side by side: a padded answer position costs a whole position, a prompt's only attention
    queue = sorted(range(len(prompts)), key=lambda index: (len(answers[index]), len(prompt_ids[index])))
    longest_prompt = max(map(len, prompt_ids))
    while queue:
        # The group's longest answer is not known before its size is: the longest of all stands for it
        rows = _rows_that_fit(subject, longest_prompt, len(answers[queue[-1]]), position_bytes)
        size = max(1, rows // 2)
        chosen, queue = queue[:size], queue[size:]
        yield _Group(
            subject,
            [prompts[index] for index in chosen],
            [prompt_ids[index] for index in chosen],
            [answers[index] for index in chosen],
            rows,
        )


_answers: ModelCache[tuple[str, tuple[int, ...]]] = ModelCache()
"""By protocol and prompt tokens: one probe after another reads the same answers."""


def clean_answers(subject: Subject, prompt_ids: Sequence[Sequence[int]], protocol: Protocol) -> list[tuple[int, ...]]:
    """The tokens of the clean answer to each prompt; what was decoded before is not decoded again."""
    processors = active_processors(subject) if protocol.generation_config == "model" else []
    numbered = {str(number): ids for number, ids in enumerate(prompt_ids)}
    check_fits(subject.model, numbered, subject.name, new_tokens=protocol.max_new_tokens)
    known = _answers.of(subject)
    keys = [(protocol.digest, tuple(ids)) for ids in prompt_ids]
    # Prompts of like length side by side: little padding
    missing = sorted(set(keys) - known.keys(), key=lambda key: (len(key[1]), key))
    for part in _parts(len(missing), _ANSWERS_AT_ONCE):
        chosen = missing[part]
        decoded = decode(
            subject,
            [ids for _, ids in chosen],
            torch.arange(len(chosen)),
            Injection.nothing(len(chosen), subject.d_model),
            protocol.max_new_tokens,
            stops=subject.stops(protocol),
            processors=processors,
        )
        if any(answer.finish_reason == "not-finite" for answer in decoded):
            raise UserError(
                f"the logits of {subject.name} after a clean prompt are not finite numbers (NaN or infinity) in "
                f"{subject.dtype}; use another --dtype, or check the weights"
            )
        known.update(zip(chosen, (torch.tensor(answer.token_ids) for answer in decoded), strict=True))
    return [tuple(known[key].tolist()) for key in keys]


def _rows_that_fit(subject: Subject, prompt_length: int, answer_length: int, position_bytes: float) -> int:
    """Rows of a batch; with half as many clean distributions beside them they stay within the memory allowed."""
    # In the model's dtype, a copy that some families make of it, and half a row of clean ones: float32 at most
    logits = answer_length * subject.vocabulary_size * 4 * 2.5
    activations = answer_length * (subject.d_model * 32 + n_heads(subject.model) * (prompt_length + answer_length))
    positions = prompt_length + answer_length
    allowed = BYTES_ON_GPU if subject.device.type == "cuda" else BYTES_ON_CPU
    fitting = rows_in_memory(
        subject.blocks, lambda share: logits + activations * 4 + positions * position_bytes * share, part=2 / 3
    )
    return max(1, min(fitting, int(allowed / (logits + activations * 4 + positions * position_bytes))))


def _cells(
    prompts: Sequence[Prompt], layers: Sequence[int], attack: Attack, doses: Sequence[float], seeds: Sequence[int]
) -> tuple[list[int], list[Cell]]:
    """The cells of a group, layer by layer, and the prompt of each as its place in `prompts`."""
    rows_and_cells = [
        (row, Cell(prompt=prompt, layer=layer, attack=attack.name, dose=float(dose), seed=seed))
        for layer in layers
        for row, prompt in enumerate(prompts)
        for dose in doses
        for seed in (seeds if attack.uses_seed else [None])
    ]
    return [row for row, _ in rows_and_cells], [cell for _, cell in rows_and_cells]


def _parts(n: int, size: int) -> Iterable[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _ordered(table: pd.DataFrame, prompts: Sequence[Prompt]) -> pd.DataFrame:
    """In the order of the prompts, then of the other keys."""
    place = {prompt.id: index for index, prompt in enumerate(prompts)}
    keys = [key for key in ("layer", "dose", "seed", "a", "b", "position") if key in table]
    return (
        table.assign(_place=table["prompt_id"].map(place))
        .sort_values(["_place", *keys], ignore_index=True)
        .drop(columns="_place")
    )


@dataclass(frozen=True, kw_only=True)
class KlTrend:
    """Whether KL grows with answer position.

    `table`: one line a (attack, dose, layer), and one with a missing layer for the mean over layers: n_prompts,
    n_positions, slope (nats a position, least squares) and spearman, each of the mean KL over prompts against
    position, with the `_low` and `_high` ends of its interval; trend: `grows`, `falls` or `unclear`. Null: too few
    prompts or positions. `answer`: the same in words, a sentence an attack and dose.
    """

    table: pd.DataFrame
    answer: str


def kl_trend(
    table: pd.DataFrame, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0, min_share: float = 0.5
) -> KlTrend:
    """Does KL grow with position? From the table of `kl_by_position`.

    Seeds are averaged within a prompt; intervals are percentiles of a bootstrap over prompts. Positions that less than
    `min_share` of the prompts reach are left out, as a few long answers would make the end of the curve.
    A trend `grows` (`falls`) when the intervals of slope and rank correlation both lie above (below) zero.
    """
    lines: list[dict[str, Any]] = []
    sentences = []
    for (attack, dose), own in table.groupby(["attack", "dose"], sort=True):
        layers = sorted(own["layer"].unique())
        curves = [_curves(own[own["layer"] == layer]) for layer in layers]
        measured: list[dict[str, Any]] = []
        for layer, curve in [*zip(layers, curves, strict=True), (None, _curves(own))]:
            line = _trend(curve, confidence, resamples, seed, min_share)
            measured.append({"attack": attack, "dose": dose, "layer": layer, **line})
        lines += measured
        sentences.append(_in_words(measured))
    columns = ["attack", "dose", "layer", "n_prompts", "n_positions"]
    frame = pd.DataFrame(lines, columns=[*columns, *_TREND_COLUMNS, "trend"])
    return KlTrend(table=frame.astype({"layer": "Int64"}), answer=" ".join(sentences))


_TREND_COLUMNS = ("slope", "slope_low", "slope_high", "spearman", "spearman_low", "spearman_high")


def _curves(table: pd.DataFrame) -> Floats:
    """KL as (prompt, position), the mean over seeds (and layers); NaN behind the end of an answer."""
    return table.pivot_table(index="prompt_id", columns="position", values="kl", aggfunc="mean").to_numpy(dtype=float)


def _trend(curves: Floats, confidence: float, resamples: int, seed: int, min_share: float) -> dict[str, Any]:
    curves = curves[:, (~np.isnan(curves)).mean(axis=0) >= min_share]
    n_prompts, n_positions = curves.shape
    generator = np.random.default_rng(seed)
    # How often each prompt is drawn: the first line is the sample as it is, once each
    drawn = generator.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=resamples)
    drawn = np.concatenate([np.ones((1, n_prompts), dtype=drawn.dtype), drawn])
    there = ~np.isnan(curves)
    with np.errstate(invalid="ignore"):  # 0 / 0 where no drawn prompt reaches a position: NaN, as it should be
        means = (drawn @ np.where(there, curves, 0.0)) / (drawn @ there.astype(float))
    statistics = {"slope": _slopes(means), "spearman": _rank_correlations(means)}
    line: dict[str, Any] = {"n_prompts": n_prompts, "n_positions": n_positions}
    for name, (value, *resampled) in ((name, values.tolist()) for name, values in statistics.items()):
        tail = 50 * (1 - confidence)
        usable = [other for other in resampled if not np.isnan(other)]
        low, high = np.percentile(usable, [tail, 100 - tail]) if n_prompts > 1 and usable else (np.nan, np.nan)
        line |= {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}
    line["trend"] = "unclear"
    if line["slope_low"] > 0 and line["spearman_low"] > 0:
        line["trend"] = "grows"
    elif line["slope_high"] < 0 and line["spearman_high"] < 0:
        line["trend"] = "falls"
    return line


def _slopes(means: Floats) -> Floats:
    """Least-squares slope of each line of (sample, position) against position; NaN with fewer than three positions."""
    x = np.where(np.isnan(means), np.nan, np.arange(means.shape[1], dtype=float))
    dx, dy = _centred(x), _centred(means)
    return _ratio(np.nansum(dx * dy, axis=1), np.nansum(dx**2, axis=1), means)


def _rank_correlations(means: Floats) -> Floats:
    """Spearman's correlation of each line of (sample, position) with position; NaN with fewer than three positions."""
    ranks = rankdata(means, axis=1, nan_policy="omit")
    x = np.where(np.isnan(means), np.nan, np.arange(means.shape[1], dtype=float))  # what is missing is at the end
    dx, dy = _centred(x), _centred(ranks)
    return _ratio(np.nansum(dx * dy, axis=1), np.sqrt(np.nansum(dx**2, axis=1) * np.nansum(dy**2, axis=1)), means)


def _centred(values: Floats) -> Floats:
    counts = np.maximum((~np.isnan(values)).sum(axis=1, keepdims=True), 1)
    return values - np.nansum(values, axis=1, keepdims=True) / counts


def _ratio(above: Floats, below: Floats, means: Floats) -> Floats:
    usable = ((~np.isnan(means)).sum(axis=1) >= 3) & (below > 0)
    return np.divide(above, below, out=np.full(len(above), np.nan), where=usable)


def _in_words(lines: Sequence[dict[str, Any]]) -> str:
    """lines: those of one attack and dose, the mean over layers last."""
    *layers, whole = lines
    said = {"grows": "grows", "falls": "falls", "unclear": "shows no clear trend"}
    counts = {trend: sum(line["trend"] == trend for line in layers) for trend in said}
    return (
        f"Attack {whole['attack']} at dose {whole['dose']:g}: over all layers KL {said[whole['trend']]} with answer "
        f"position (slope {_interval(whole, 'slope')} nats a token, Spearman {_interval(whole, 'spearman')}, "
        f"{whole['n_prompts']} prompts, {whole['n_positions']} positions); "
        f"it grows at {counts['grows']} of {len(layers)} layers, falls at {counts['falls']}, "
        f"unclear at {counts['unclear']}."
    )


def _interval(line: dict[str, Any], name: str) -> str:
    return f"{line[name]:.3g} [{line[f'{name}_low']:.3g}, {line[f'{name}_high']:.3g}]"
