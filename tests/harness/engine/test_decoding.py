"""Batches: memory limits, running out of it, leaving rows, and a model's own generation settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import harness.engine.sweep
import harness.model.placement
from asabench.core.errors import UserError
from asabench.core.protocol import PRESETS
from asabench.core.records import Prompt
from harness.attacks import make_attack
from harness.attacks.random import RandomAttack
from harness.engine.sweep import grid, kv_bytes_per_position, rows_that_fit, sweep
from harness.model.kv_cache import bytes_per_position, expand, growing_cache, keep_rows
from harness.model.memory import free_memory, keep_freed_memory
from harness.model.subject import Subject, make_subject
from tests.conftest import chat_tokenizer, tiny_model, tiny_subject

V1 = PRESETS["asabench-v1"].model_copy(update={"max_new_tokens": 6})
PROMPTS = [Prompt(id=str(n), goal="go on " * n + "!") for n in range(1, 4)]
CELLS = grid(PROMPTS, range(4), [RandomAttack()], V1)
ATTACKS = {"random": make_attack("random", V1)}


def texts(subject: Subject, **options: Any) -> dict[str, str]:
    return {r.cell.id: r.text for batch in sweep(subject, CELLS, V1, ATTACKS, **options) for r in batch}


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(
    llama: Subject, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    expected, sizes, real = texts(llama), [], harness.engine.sweep.decode

    def small_machine(subject: Subject, prompts: Any, rows: Any, *rest: Any, **more: Any) -> Any:
        sizes.append(len(rows))
        if len(rows) > 3:
            raise error
        return real(subject, prompts, rows, *rest, **more)

    monkeypatch.setattr(harness.engine.sweep, "decode", small_machine)
    assert texts(llama) == expected
    assert sizes == [15, 7, 3, 3, 3, 3, 3]


def test_out_of_memory_for_a_single_answer_is_said(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(harness.engine.sweep, "decode", no_memory)
    with pytest.raises(UserError, match="not enough memory for one answer"):
        texts(llama)


def test_other_errors_are_not_taken_for_memory(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(harness.engine.sweep, "decode", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        texts(llama)


def test_rows_are_bounded_by_measured_bytes(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    # keys and values, 4 blocks, 2 heads of 8 numbers of 4 bytes
    assert kv_bytes_per_position(llama) == 2 * 4 * 2 * 8 * 4
    monkeypatch.setattr(harness.model.placement, "free_memory", lambda device: 10_000_000)
    few, many = rows_that_fit(llama, 1000, 512), rows_that_fit(llama, 10, 512)
    assert 1 <= few < many
    assert few * 1000 * 512 < 10_000_000
    monkeypatch.setattr(harness.model.placement, "free_memory", lambda device: 0)
    assert rows_that_fit(llama, 1000, 512) == 1
    assert texts(llama) == texts(llama, max_rows=1)


def test_free_memory_is_a_sensible_number() -> None:
    assert 2**20 < free_memory(torch.device("cpu")) < 2**44
    assert keep_freed_memory() in (True, False)


def test_a_prompt_of_one_token_shares_a_batch_with_longer_ones() -> None:
    raw = PRESETS["gu2025"].model_copy(update={"max_new_tokens": 5})
    prompts = [Prompt(id="one", goal="a"), Prompt(id="more", goal="abcdefgh")]
    cells = grid(prompts, range(4), [RandomAttack()], raw)
    attacks = {"random": make_attack("random", raw)}
    for family in ("llama", "gpt2", "gptj"):
        subject = tiny_subject(family)
        together, alone = (
            {r.cell.id: r.token_ids for batch in sweep(subject, cells, raw, attacks, max_rows=rows) for r in batch}
            for rows in (None, 1)
        )
        assert together == alone


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.8},
        {"no_repeat_ngram_size": 2},
        {"suppress_tokens": list(range(31, 160, 2))},
        {"bad_words_ids": [[60], [61, 62]], "repetition_penalty": 1.3},
    ],
    ids=lambda settings: "+".join(settings),
)
def test_generation_config_is_kept_by_gu2025_and_off_in_v1(settings: dict[str, Any]) -> None:
    plain = make_subject(tiny_model("llama"), chat_tokenizer(), name="plain", revision="-")
    model = tiny_model("llama")
    model.generation_config.update(**settings)
    subject = make_subject(model, chat_tokenizer(), name="settings", revision="-")
    for name in ("gu2025", "asabench-v1"):
        protocol = PRESETS[name].model_copy(update={"max_new_tokens": 20})
        cells = grid(PROMPTS, [], [], protocol)
        own, without = (
            {r.cell.prompt.id: list(r.token_ids) for batch in sweep(s, cells, protocol, {}) for r in batch}
            for s in (subject, plain)
        )
        assert (own == without) == (name == "asabench-v1")
        if name == "gu2025":
            for prompt in PROMPTS:
                ids = torch.tensor([subject.format(prompt, protocol)])
                mask = torch.ones_like(ids)
                output = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=20, pad_token_id=0)
                assert own[prompt.id] == output[0, ids.shape[1] :].tolist()


def test_a_generation_setting_that_cannot_be_kept_is_refused() -> None:
    model = tiny_model("llama")
    model.generation_config.update(exponential_decay_length_penalty=(3, 1.2))
    subject = make_subject(model, chat_tokenizer(), name="odd", revision="-")
    with pytest.raises(UserError, match="exponential_decay_length_penalty"):
        list(sweep(subject, CELLS, PRESETS["gu2025"], ATTACKS))


def test_cache_rows_expand_grow_and_leave() -> None:
    generator = torch.Generator().manual_seed(0)
    keys, values, new = (torch.randn(2, 3, length, 4, generator=generator) for length in (5, 5, 1))
    start = growing_cache(1, 5)
    start.layers[0].update(keys, values)
    cache = expand(start, torch.tensor([1, 0, 1]), capacity=7)
    seen, _ = cache.layers[0].update(new[[0, 1, 0]], new[[0, 1, 0]])
    assert torch.equal(seen, torch.cat([keys[[1, 0, 1]], new[[0, 1, 0]]], dim=2))
    keep_rows(cache, torch.tensor([0, 2]))
    assert cache.get_seq_length() == 6
    assert torch.equal(cache.layers[0].values, torch.cat([values[[1, 1]], new[[0, 0]]], dim=2))
    assert bytes_per_position(cache) == 2 * 3 * 4 * 4
