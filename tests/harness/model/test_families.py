"""Every family: the batched sweep says what a plain loop at batch 1 says, token for token."""

from __future__ import annotations

import hashlib

import pytest
import torch

from asabench.core.protocol import PRESETS, Protocol
from asabench.core.records import Cell, Prompt
from harness.attacks import make_attack
from harness.attacks.random import RandomAttack
from harness.engine.sweep import grid, sweep
from harness.model.subject import Subject
from harness.stream.injection import hidden_state
from tests import families

V1 = PRESETS["asabench-v1"].model_copy(update={"max_new_tokens": 12, "doses": (0.0, 0.3, 1.0)})
GU2025 = PRESETS["gu2025"].model_copy(update={"max_new_tokens": 12})
PROMPTS = [
    Prompt(id="a", goal="tell me"),
    Prompt(id="b", goal="a rather longer request, with more tokens"),
    Prompt(id="c", goal="why?"),
]


def plain_answer(subject: Subject, cell: Cell, protocol: Protocol) -> list[int]:
    """The method as a newcomer would write it: batch 1, no cache, one hook, one prompt, numpy-like arithmetic."""
    ids = subject.format(cell.prompt, protocol)
    direction = None
    if cell.layer is not None:
        if protocol.noise == "per-cell":
            goal = hashlib.sha256(cell.prompt.goal.encode()).hexdigest()
            key = hashlib.sha256(f"{cell.seed}:{goal}:{cell.layer}".encode()).digest()[:8]
            seed = int.from_bytes(key, "big") & 0x7FFFFFFFFFFFFFFF
        else:
            seed = cell.seed
        direction = torch.randn(subject.d_model, generator=torch.Generator("cpu").manual_seed(seed))
    kept = None
    answer: list[int] = []
    for _ in range(protocol.max_new_tokens):

        def hook(module, args, kwargs, output):
            nonlocal kept
            hidden = hidden_state(output).clone()
            first = len(ids) - 1
            block_input = args[0] if args else kwargs["hidden_states"]
            for position in range(first, hidden.shape[1]):
                h = hidden[0, position]
                reference = h
                if protocol.statistics == "clean-prompt-input":
                    reference = block_input[0, first] if kept is None else kept
                    kept = reference
                delta = reference.mean() + (direction - direction.mean()) / (direction.std() + 1e-6) * reference.std()
                hidden[0, position] = h + cell.dose * delta
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handle = None
        if cell.layer is not None:
            handle = subject.blocks[cell.layer].register_forward_hook(hook, with_kwargs=True)
        try:
            with torch.no_grad():
                logits = subject.model(torch.tensor([ids + answer]), use_cache=False).logits[0, -1]
        finally:
            if handle:
                handle.remove()
        answer.append(int(logits.argmax()))
        if answer[-1] in subject.stop_tokens:
            break
    return answer


def answers(subject: Subject, cells: list[Cell], protocol: Protocol, **options: int) -> dict[str, tuple[int, ...]]:
    attacks = {"random": make_attack("random", protocol)}
    batches = sweep(subject, cells, protocol, attacks, **options)
    return {response.cell.id: response.token_ids for batch in batches for response in batch}


@pytest.mark.parametrize("protocol", [V1, GU2025], ids=lambda protocol: protocol.name)
def test_mixed_batches_equal_the_plain_loop(family_subject: Subject, protocol: Protocol) -> None:
    cells = grid(PROMPTS, range(4), [RandomAttack()], protocol)
    got = answers(family_subject, cells, protocol)
    assert len(got) == len(cells)
    for cell in cells:
        assert list(got[cell.id]) == plain_answer(family_subject, cell, protocol), cell


@pytest.mark.parametrize("family", families.TABLE, ids=lambda family: family.config_class)
def test_a_family_is_measured_or_refused_as_the_page_says(family: families.Family) -> None:
    assert families.line(family) in families.PAGE.read_text(encoding="utf-8").splitlines(), (
        "docs/families.md is stale: python -m tests.families"
    )


def test_the_page_lists_these_families() -> None:
    text = families.PAGE.read_text(encoding="utf-8")
    assert text.startswith(families.HEAD)
    listed = [line.split(" | ")[0].removeprefix("| ") for line in text.removeprefix(families.HEAD).splitlines()]
    assert listed == sorted((family.name for family in families.TABLE), key=str.casefold)


def test_clean_answers_equal_generate(family_subject: Subject) -> None:
    cells = [Cell(prompt=prompt) for prompt in PROMPTS]
    got = answers(family_subject, cells, V1)
    for cell in cells:
        ids = torch.tensor([family_subject.format(cell.prompt, V1)])
        output = family_subject.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, pad_token_id=0
        )
        assert list(got[cell.id]) == output[0, ids.shape[1] :].tolist()


def test_dose_zero_is_the_clean_answer_and_a_dose_is_not(family_subject: Subject) -> None:
    got = answers(family_subject, grid(PROMPTS, range(4), [RandomAttack()], V1), V1)
    changed = 0
    for prompt in PROMPTS:
        clean = got[Cell(prompt=prompt).id]
        for layer in range(4):
            steered = Cell(prompt=prompt, layer=layer, attack="random", dose=0.0, seed=0)
            assert got[steered.id] == clean
            changed += got[Cell(prompt=prompt, layer=layer, attack="random", dose=1.0, seed=0).id] != clean
    assert changed > 3, "at dose 1 many of 12 answers must change"


def test_rows_leave_at_different_steps(llama: Subject) -> None:
    """What the tests above must have exercised."""
    got = answers(llama, grid(PROMPTS, range(4), [RandomAttack()], V1), V1)
    assert len({len(tokens) for tokens in got.values()}) > 4


def test_alone_and_in_company_are_the_same(family_subject: Subject) -> None:
    cells = grid(PROMPTS, range(4), [RandomAttack()], V1)
    together, alone = answers(family_subject, cells, V1), answers(family_subject, cells, V1, max_rows=1)
    assert together == alone == answers(family_subject, list(reversed(cells)), V1, max_rows=7)
