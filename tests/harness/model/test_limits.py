"""What does not fit into a model is refused before anything runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from asabench.core.errors import UserError
from asabench.core.protocol import PRESETS
from asabench.core.records import Cell, Prompt
from asabench.runs.choices import Choices
from harness.engine.sweep import sweep
from harness.evaluation.plan import make_plan
from harness.model.limits import check_finite, check_fits, position_limit
from harness.model.subject import Subject, make_subject
from tests.conftest import chat_tokenizer, tiny_model

V1 = PRESETS["asabench-v1"]


def limit(**config: Any) -> int | None:
    found = position_limit(SimpleNamespace(**config))
    return None if found is None else found.positions


def test_the_positions_that_a_configuration_allows() -> None:
    assert limit() is None
    assert limit(max_position_embeddings=64) == 64
    assert limit(max_position_embeddings=-1) is None
    yarn = {"rope_type": "yarn", "original_max_position_embeddings": 16}
    assert limit(max_position_embeddings=64, rope_parameters=yarn) == 64
    assert limit(max_position_embeddings=64, rope_parameters={"rope_type": "dynamic", "factor": 2.0}) == 64
    longrope = {"rope_type": "longrope", "original_max_position_embeddings": 16}
    assert limit(max_position_embeddings=64, rope_parameters=longrope) == 16
    by_block = {"full_attention": longrope, "sliding_attention": {"rope_type": "default"}}
    assert limit(max_position_embeddings=64, rope_parameters=by_block) == 16
    # As transformers wrote it before version 5
    old = {"type": "longrope"}
    assert limit(max_position_embeddings=64, original_max_position_embeddings=32, rope_scaling=old) == 32
    assert limit(max_position_embeddings=64, rope_scaling={"type": "dynamic", "factor": 2.0}) == 64


def model(positions: int = 10, rows: int = 5) -> Any:
    config = SimpleNamespace(max_position_embeddings=positions)
    return SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: config),
        get_input_embeddings=lambda: SimpleNamespace(weight=torch.zeros(rows, 2)),
    )


def test_prompt_and_answer_fit_exactly_or_not() -> None:
    check_fits(model(), {"p": [1] * 6}, "tiny", new_tokens=5)  # the fifth token is never read
    with pytest.raises(UserError, match="prompt p has 7 tokens and needs 11 positions with its answer, and"):
        check_fits(model(), {"p": [1] * 7}, "tiny", new_tokens=5)
    with pytest.raises(UserError, match="needs 11 positions"):
        check_fits(model(), {"p": [1] * 6}, "tiny", new_tokens=1, targets={"p": 5})


def test_every_token_has_an_embedding() -> None:
    check_fits(model(), {"p": [0, 4]}, "tiny", new_tokens=1)
    with pytest.raises(UserError, match="prompt p holds the token 5, and tiny has embeddings for 5 tokens only"):
        check_fits(model(), {"q": [1], "p": [1, 5, 2]}, "tiny", new_tokens=1)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_nothing_runs_that_does_not_fit(family: str) -> None:
    small = make_subject(tiny_model(family), chat_tokenizer(), name="tiny", revision="-")  # 256 positions
    prompts = [Prompt(id="short", goal="hi"), Prompt(id="long", goal="a" * 300)]
    for choices, words in (
        ({"prompts": prompts}, "prompt long has"),
        ({"prompts": prompts[:1], "max_new_tokens": 100_000}, "prompt short has"),
        ({"prompts": [Prompt(id="t", goal="hi", target="a" * 300)], "attack": "gradient"}, "prompt t has"),
    ):
        with pytest.raises(UserError, match=words):
            make_plan(small, Choices.of(judge="rules", layers="0", **choices))
    with pytest.raises(UserError, match="prompt long has"):
        list(sweep(small, [Cell(prompt=prompt) for prompt in prompts], V1, {}))


def test_rotations_that_would_change_with_the_batch() -> None:
    scaling = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    changes = {"max_position_embeddings": 40, "rope_parameters": scaling}
    subject = make_subject(tiny_model("llama", **changes), chat_tokenizer(), name="tiny", revision="-")
    short, long = Cell(prompt=Prompt(id="a", goal="hi")), Cell(prompt=Prompt(id="b", goal="hi there" * 4))
    protocol = V1.model_copy(update={"max_new_tokens": 6})
    [[alone]] = list(sweep(subject, [short], protocol, {}))
    assert alone.text or alone.token_ids
    with pytest.raises(UserError, match=r"rotary embeddings \(dynamic\) change for every row"):
        list(sweep(subject, [short, long], protocol, {}))


def test_what_is_not_finite() -> None:
    check_finite({"a": torch.ones(2)}, "tiny", "float32")
    for value in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(UserError, match="the logits of tiny are not finite numbers"):
            check_finite({"a": torch.ones(2), "the logits": torch.tensor([1, value])}, "tiny", "bfloat16")


@pytest.mark.parametrize("where", ["model.layers.2.mlp.down_proj.weight", "lm_head.weight"])
def test_weights_with_nan_are_refused(where: str) -> None:
    broken = tiny_model("llama")
    broken.get_parameter(where).data[3, 4] = torch.nan
    with pytest.raises(UserError, match="not finite numbers") as caught:
        make_subject(broken, chat_tokenizer(), name="tiny", revision="-")
    assert ("block 2" if "layers.2" in where else "the logits") in str(caught.value)


def test_subjects_of_the_tests_have_room(llama: Subject) -> None:
    assert position_limit(llama.model.config) is not None
