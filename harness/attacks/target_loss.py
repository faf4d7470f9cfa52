"""The loss that targeted attacks work on: L = mean negative log-likelihood of a target y* given the prompt.

Source: Gu et al. 2025 (arXiv:2506.16078), where y* is the start of a compliant answer ("Sure, here is ..."). Here are
its gradients at the outputs of all blocks (`loss_gradients`), and its value when generation's own perturbation acts on
every step (`TargetPass`, `target_loss`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from asabench.core.attack_names import names_without_targets
from asabench.core.defaults import TARGET
from asabench.core.errors import UserError, first_line
from asabench.core.protocol import GradientPosition, Protocol
from asabench.core.records import Cell, Prompt
from harness.model.clean_states import CleanStates, entered, enters_at_blocks, starts_at_blocks
from harness.model.kv_cache import KeysAndValues, keys_and_values, plain_cache
from harness.model.padding import left_padded
from harness.model.placement import rows_that_fit as rows_in_memory
from harness.model.quantised import require_gradients
from harness.model.subject import Subject
from harness.model.tensor_cache import ModelCache
from harness.stream.injection import edit
from harness.stream.perturbation import normalise, perturb, standardise

Direction = Literal["ascend", "descend"]
SIGN: Mapping[Direction, float] = {"ascend": 1.0, "descend": -1.0}
"""`ascend` raises L, as the paper writes it; `descend` makes the target likelier."""

IGNORED = -100  # cross_entropy's own mark for labels that do not count

_ROWS_ON_CPU, _ROWS_ON_GPU = 64, 256
_PROMPTS_ON_CPU, _PROMPTS_ON_GPU = 16, 64


def require_targets(prompts: Sequence[Prompt]) -> None:
    """`UserError` when a prompt has no target."""
    distinct = set(prompts)
    lacking = sum(not prompt.target for prompt in distinct)
    if lacking:
        raise UserError(
            f"{lacking} of {len(distinct)} prompts have no target, which gradient attacks need; "
            f'give all of them one with --target "{TARGET}", or a CSV file with a target column'
        )


@dataclass(frozen=True)
class TargetText:
    """A prompt with its target, in tokens. The last `scored` of `ids` are those whose likelihood counts; the gradient
    is read at position `read_at`."""

    ids: tuple[int, ...]
    scored: int
    read_at: int

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.ids[: -self.scored]

    @property
    def target_ids(self) -> tuple[int, ...]:
        return self.ids[-self.scored :]


def target_text(subject: Subject, prompt: Prompt, protocol: Protocol, at: GradientPosition) -> TargetText:
    """The tokens on which L is computed. `UserError` when the prompt has no target, or one without tokens."""
    require_targets([prompt])
    assert prompt.target is not None
    if at == "last_prompt":
        before = subject.format(prompt, protocol)
        # What the answer is given to start with is the prompt's already
        target = subject.tokenizer(prompt.target, add_special_tokens=False)["input_ids"][protocol.prefix_tokens :]
        _require_tokens(subject, prompt, len(target))
        return TargetText((*before, *target), len(target), len(before) - 1)
    raw = protocol.model_copy(update={"prompt_format": "raw", "prefix_tokens": 0})
    before = subject.format(prompt, raw)
    # No space: as published. `format` appends the suffix, so the whole text is formatted as if it were a goal
    goal = prompt.goal
    if prompt.suffix and prompt.suffix.strip():
        goal += protocol.suffix_separator + prompt.suffix
    whole = subject.format(Prompt(id=prompt.id, goal=goal + prompt.target + "!"), raw)
    # A token that spans goal and target counts as target: the two may share a word. The paper's code leaves out as many
    # tokens as the goal alone has, so that where the two merge a token of the target is left out too
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, whole, strict=False)))
    if protocol.reference_loss == "after-goal-length":
        shared = len(before)
    scored = len(whole) - max(shared, 1)  # the first token of a text is predicted by nothing
    _require_tokens(subject, prompt, scored)
    return TargetText(tuple(whole), scored, len(whole) - 2)


def _require_tokens(subject: Subject, prompt: Prompt, count: int) -> None:
    if count < 1:
        raise UserError(
            f"the target {prompt.target!r} of prompt {prompt.id} has no tokens for {subject.name}; "
            f'give it some text, such as "{TARGET}"'
        )


@contextmanager
def gradients_wanted(subject: Subject) -> Iterator[None]:
    """Autograd on, whatever the caller has set. `UserError` when the model turns out to have no gradients."""
    try:
        with torch.enable_grad():
            yield
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or not any(
            word in text for word in ("grad", "differentiat", "derivative", "nference tensor")
        ):
            raise
        raise UserError(
            f"the model {subject.name} has no gradients ({first_line(error)}); quantised weights often have "
            f"none: use its float32 or bfloat16 weights, or the attacks {' and '.join(names_without_targets())}"
        ) from error


_gradients: ModelCache[tuple[TargetText, int | None]] = ModelCache()
"""By text, and the seed of a forward in train mode.

One for all attacks of the process: ascend, descend and pgd share a prompt's one backward."""


def loss_gradients(
    subject: Subject, prompts: Sequence[Prompt], protocol: Protocol, at: GradientPosition = "last_prompt"
) -> dict[Prompt, Tensor]:
    """The gradient of L at every block's output: (layer, d_model) a prompt, on the CPU, float32 or the model's own
    float64.

    Read at the one position that `at` names, with no perturbation. One forward and one backward a batch of prompts for
    all layers; what was computed before, for any attack or dose, is not computed again while the model is the same.
    With `gradient_forward` train, one prompt at a time, each from the protocol's first seed: dropout is drawn there.
    Raises `UserError` for prompts without a target and for models without gradients.
    """
    require_targets(prompts)
    require_gradients(subject)
    texts = {prompt: target_text(subject, prompt, protocol, at) for prompt in prompts}
    known = _gradients.of(subject)
    trains = protocol.gradient_forward == "train"
    seed = protocol.seeds[0] if trains else None
    # Texts of like length side by side: little padding
    missing = sorted(
        {text for text in texts.values() if (text, seed) not in known}, key=lambda text: (len(text.ids), text.ids)
    )
    most = _PROMPTS_ON_GPU if subject.device.type == "cuda" else _PROMPTS_ON_CPU
    while missing:
        chosen = missing[-(1 if trains else most) :]  # the longest first, so that memory that does not suffice shows
        size = _rows_that_fit(subject, 0, len(chosen[-1].ids), max(text.scored for text in chosen))
        batch, missing = chosen[-size:], missing[: -min(size, len(chosen))]
        with nullcontext() if seed is None else _training(subject, seed):
            found = _gradients_of(subject, batch)
        known.update(zip(((text, seed) for text in batch), found, strict=True))
    return {prompt: known[text, seed] for prompt, text in texts.items()}


@contextmanager
def _training(subject: Subject, seed: int) -> Iterator[None]:
    """While open, the model is in train mode, and what its dropout draws starts at the seed."""
    devices = [device for device in subject.devices if device.type == "cuda"]
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        subject.model.train()
        try:
            yield
        finally:
            subject.model.eval()


def _gradients_of(subject: Subject, texts: Sequence[TargetText]) -> Tensor:
    """(text, layer, d_model)."""
    ids, mask = left_padded([text.ids[:-1] for text in texts])  # the last token predicts nothing that counts
    length = ids.shape[1]
    labels = torch.full_like(ids, IGNORED)
    for row, text in enumerate(texts):
        labels[row, length - text.scored :] = torch.tensor(text.target_ids)
    read_at = torch.tensor([length - (len(text.ids) - 1) + text.read_at for text in texts])
    labels = labels[:, -max(text.scored for text in texts) :]
    outputs: list[Tensor] = []

    def record(block_input: Tensor, block_output: Tensor) -> Tensor | None:
        # The weights want no gradient, so the graph starts where the first block's output does
        outputs.append(block_output if outputs else block_output.detach().requires_grad_())
        return outputs[0] if len(outputs) == 1 else None

    with gradients_wanted(subject):
        with edit(subject.blocks, dict.fromkeys(range(subject.n_layers), record)):
            logits = subject.forward(ids.to(subject.device), mask.to(subject.device), last=labels.shape[1])
        loss = _mean_nll(logits, labels).sum()  # rows do not mix: each has its own gradient
        gradients = torch.autograd.grad(loss, outputs)
    rows = torch.arange(len(texts))
    found = torch.stack([g[rows.to(g.device), read_at.to(g.device)].cpu() for g in gradients], dim=1)
    found = found.to(torch.promote_types(found.dtype, torch.float32))
    if not found.isfinite().all():
        raise UserError(
            f"the gradients of {subject.name} in {subject.dtype} are not finite; use --dtype bfloat16 or float32"
        )
    return found


def _mean_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over a row's labels that are not IGNORED, (row,). logits: (row, position, vocabulary)."""
    labels = labels.to(logits.device)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    nll = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return nll.view(labels.shape).sum(-1) / (labels != IGNORED).sum(-1)


class TargetPass:
    """Teacher-forced passes over rows that are cells: L of a cell under a direction, perturbed as generation perturbs.

    That is at the cell's dose, with the protocol's statistics, at the protocol's steps: step 0 is the last prompt
    position, step t the t-th target token. Cells that are not clean and have no layer are perturbed at every block. The
    constructor runs each prompt with its target once, clean: passes start from there, at the last prompt position, and
    each row at its lowest perturbed block where rows come in the order of those (all at the lowest one else). Rows may
    be of any prompts and layers; clean cells are not perturbed.
    """

    def __init__(self, subject: Subject, cells: Sequence[Cell], protocol: Protocol) -> None:
        self.subject, self.protocol = subject, protocol
        prompts = list(dict.fromkeys(cell.prompt for cell in cells))
        texts = [target_text(subject, prompt, protocol, "last_prompt") for prompt in prompts]
        place = {prompt: index for index, prompt in enumerate(prompts)}
        rows = torch.tensor([place[cell.prompt] for cell in cells])
        # Prompts are padded on the left and targets on the right: so a column is a step, the same for all rows
        prefix, before_mask = left_padded([text.prompt_ids[:-1] for text in texts])
        before, steps = prefix.shape[1], max(text.scored for text in texts)
        ids, labels = torch.zeros(len(texts), steps, dtype=torch.long), torch.full((len(texts), steps), IGNORED)
        for row, text in enumerate(texts):
            ids[row, : text.scored] = torch.tensor((text.prompt_ids[-1], *text.target_ids[:-1]))
            labels[row, : text.scored] = torch.tensor(text.target_ids)
        mask = torch.cat([before_mask, (labels != IGNORED).long()], dim=1)
        device = subject.device
        self._ids, self._labels, self._mask = (t[rows].to(device) for t in (ids, labels, mask))
        self._rows = rows
        self._dose = torch.tensor([cell.dose for cell in cells])
        self._cells = list(cells)
        self._plan = self._planned(cells, steps)
        self._starts = self._started(len(cells))
        self._states = CleanStates(subject.blocks)
        recorded = [] if self._starts is None else [at for at in self._starts.unique().tolist() if at >= 0]
        with self._states.recording(recorded):
            self._cached = self._prefill(torch.cat([prefix, ids], dim=1).to(device), mask.to(device), before)

    @torch.no_grad()
    def _prefill(self, ids: Tensor, mask: Tensor, before: int) -> list[KeysAndValues | None]:
        """The clean run of each prompt with its target. By block, the keys and values of each row before the first
        perturbed position (None for a block that has none of its own)."""
        cache = plain_cache()
        self.subject.forward(ids, mask, cache=cache, last=1)

        def of_rows(states: Tensor, block: int) -> Tensor:
            rows = self._rows if self._starts is None else self._rows[: max(entered(self._starts, block), 1)]
            return states[rows.to(states.device), :, :before]

        return [
            (of_rows(kept[0], block), of_rows(kept[1], block)) if before and kept is not None else None
            for block, kept in enumerate(keys_and_values(cache))
        ]

    def _started(self, rows: int) -> Tensor | None:
        """(row,) the block at whose output each row enters; None where the model must be run whole."""
        if not self._plan or not starts_at_blocks(self.subject):
            return None
        starts = torch.full((rows,), self.subject.n_layers - 1)
        for layer, (perturbed, _, _) in self._plan.items():
            # The statistics of `clean-prompt-input` are of what goes into the perturbed block
            at = layer - (self.protocol.statistics != "current-step")
            starts[perturbed] = starts[perturbed].clamp(max=at)
        if bool((starts.diff() < 0).any()) or not enters_at_blocks(self.subject):
            starts[:] = starts.min()
        return starts

    def _planned(self, cells: Sequence[Cell], steps: int) -> dict[int, tuple[Tensor, Tensor, int]]:
        """By block: the rows that it perturbs, (position,) bool where, and the step whose input gives the statistics of
        `clean-prompt-input`."""
        given = self.protocol.steps
        chosen = range(steps) if given == "every" else (0,) if given == "first" else given
        steered = [row for row, cell in enumerate(cells) if not cell.is_clean]
        if self.protocol.step_layers is not None:
            layer_at = list(zip(chosen, self.protocol.step_layers, strict=True))
            at_layer = {layer: [s for s, other in layer_at if other == layer] for _, layer in layer_at}
            # As in generation, a block's statistics are of the first step that it perturbs
            return {
                layer: (torch.tensor(steered, dtype=torch.long), _marked(at, steps), min(at))
                for layer, at in at_layer.items()
                if min(at) < steps
            }
        if any(cells[row].layer is None for row in steered):
            layers = list(range(self.subject.n_layers))
        else:
            layers = [layer for layer in {cells[row].layer: None for row in steered} if layer is not None]
        at = {layer: [row for row in steered if cells[row].layer in (layer, None)] for layer in layers}
        return {layer: (torch.tensor(at[layer]), _marked(chosen, steps), 0) for layer in layers}

    def keep(self, rows: Tensor) -> None:
        """Drops every row but `rows` (ascending indices)."""
        self._ids, self._labels, self._mask = (t[rows.to(t.device)] for t in (self._ids, self._labels, self._mask))
        self._rows, self._dose = self._rows[rows], self._dose[rows]
        self._starts = None if self._starts is None else self._starts[rows]
        self._cells = [self._cells[row] for row in rows.tolist()]
        self._plan = self._planned(self._cells, self._ids.shape[1])

        def left(states: Tensor) -> Tensor:
            # A block's past is of the first rows; it keeps one where it computes none
            own = rows[rows < len(states)] if int(rows[0]) < len(states) else torch.zeros(1, dtype=torch.long)
            return states[own.to(states.device)]

        self._cached = [None if kept is None else (left(kept[0]), left(kept[1])) for kept in self._cached]

    def loss(self, directions: Tensor) -> Tensor:
        """L of every row, (row,), float32; differentiable in `directions`, through (1) and (2). These are raw, (row,
        d_model), or (row, block, d_model) where rows are perturbed at every block."""
        return _mean_nll(self._logits(directions), self._labels).float()

    def loss_and_said(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """`loss`, and (row,) bool whether each token of the target is the likeliest at its step: then a greedy answer
        begins with the target."""
        logits = self._logits(directions)
        labels = self._labels.to(logits.device)
        said = (logits.detach().argmax(dim=-1) == labels) | (labels == IGNORED)
        return _mean_nll(logits, labels).float(), said.all(dim=1)

    def _logits(self, directions: Tensor) -> Tensor:
        """(row, step, vocabulary)."""
        cache = plain_cache(self._cached)
        units = standardise(directions.float())
        start: AbstractContextManager[None] = nullcontext()
        if self._starts is not None:
            start = self._states.entering(self._starts, self._rows, slice(-self._ids.shape[1], None))
        with start, edit(self.subject.blocks, {layer: partial(self._perturb, layer, units) for layer in self._plan}):
            return self.subject.forward(self._ids, self._mask, cache=cache)

    def _perturb(self, layer: int, units: Tensor, block_input: Tensor, block_output: Tensor) -> Tensor:
        rows, where, first = self._plan[layer]
        device = block_output.device
        of_rows = units[rows.to(units.device)]
        unit = (of_rows if units.dim() == 2 else of_rows[:, layer]).to(device)[:, None]
        dose = self._dose[rows].to(device)[:, None, None]
        rows, where = rows.to(device), where.to(device)
        hidden = block_output[rows]
        current = self.protocol.statistics == "current-step"
        reference = hidden if current else block_input[rows, first][:, None]
        result = block_output.clone()
        result[rows] = torch.where(where[:, None], perturb(hidden, normalise(unit, reference), dose), hidden)
        return result


def _marked(at: Sequence[int], steps: int) -> Tensor:
    return torch.isin(torch.arange(steps), torch.tensor(at, dtype=torch.long))


def row_batches(subject: Subject, cells: Sequence[Cell], protocol: Protocol) -> list[list[int]]:
    """Indices of `cells` in batches whose passes with a backward fit into memory.

    In the order of layers: each row of a batch is computed from its own layer on (`TargetPass`).
    """
    lengths = {}
    for prompt in {cell.prompt: None for cell in cells}:
        text = target_text(subject, prompt, protocol, "last_prompt")
        lengths[prompt] = (len(text.prompt_ids), text.scored)
    order = sorted(range(len(cells)), key=lambda i: (cells[i].layer or 0, lengths[cells[i].prompt]))
    before, scored = (max((pair[part] for pair in lengths.values()), default=1) for part in (0, 1))
    most = _ROWS_ON_GPU if subject.device.type == "cuda" else _ROWS_ON_CPU
    size = min(most, _rows_that_fit(subject, before, scored, scored))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _rows_that_fit(subject: Subject, cached: int, positions: int, scored: int) -> int:
    """Rows whose forward and backward take a third of the free memory; at least one.

    cached: positions in a cache, which is copied once. positions: those computed, of which a backward keeps about 40
    vectors of d_model a block (queries, keys, values, gates, norms). scored: those with logits.
    """
    size = subject.model.dtype.itemsize
    blocks = subject.n_layers * subject.d_model * size
    states, logits = blocks * (40 * positions + 4 * cached), scored * subject.vocabulary_size * (size + 3 * 4)
    return rows_in_memory(subject.blocks, lambda share: states * share + logits, part=1 / 3)


@torch.no_grad()
def target_loss(subject: Subject, cells: Sequence[Cell], directions: Tensor, protocol: Protocol) -> Tensor:
    """L of every cell, (cell,), float32 on the CPU, when its direction is injected as in generation.

    directions: (cell, d_model), or (cell, block, d_model), raw; those of clean cells are not used. See `TargetPass`.
    """
    require_targets([cell.prompt for cell in cells])
    losses = torch.empty(len(cells))
    for batch in row_batches(subject, cells, protocol):
        rows = TargetPass(subject, [cells[index] for index in batch], protocol)
        losses[batch] = rows.loss(directions[batch].to(subject.device)).cpu()
    return losses
