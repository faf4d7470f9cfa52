"""The published protocols, and the digest that says whether two rows compare."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from pydantic import ValidationError

from asabench.core.errors import UserError
from asabench.core.protocol import LATER, PAPER_CODE, PRESETS, Protocol, preset
from asabench.core.targets import TargetList

# Every field of Protocol, with another allowed value
OTHER_VALUES: dict[str, Any] = {
    "name": "mine",
    "prompt_format": "raw",
    "chat_template_variables": {"date_string": "27 Jul 2024", "enable_thinking": False},
    "suffix_separator": "\n",
    "max_new_tokens": 51,
    "steps": "first",
    "step_layers": (1,),
    "generation_config": "model",
    "statistics": "clean-prompt-input",
    "noise": "one-vector",
    "gradient_at": "reference",
    "labels": "two",
    "doses": (1.0, 0.3),
    "seeds": (0, 1),
    "headline_dose": 0.3,
    "target": "Certainly, this is",
    "targets": TargetList(name="own", texts=("Certainly, this is",)),
    "noise_device": "cuda",
    "judged_text": "whole-without-prompt",
    "reference_loss": "after-goal-length",
    "gradient_forward": "train",
    "prefix_tokens": 3,
}


def changed(protocol: Protocol, **changes: Any) -> Protocol:
    """Goes through validation, unlike model_copy."""
    return Protocol(**{**protocol.model_dump(), **changes})


def test_asabench_v1() -> None:
    assert preset("asabench-v1").model_dump() == {
        "name": "asabench-v1",
        "prompt_format": "chat",
        # no calendar in the prompt, no thinking before the answer
        "chat_template_variables": {"date_string": "26 Jul 2024", "enable_thinking": False},
        "suffix_separator": " ",
        "max_new_tokens": 50,
        "steps": "every",
        "step_layers": None,
        "generation_config": "greedy-only",
        "statistics": "current-step",
        "noise": "per-cell",
        "gradient_at": "last_prompt",
        "labels": "three",
        "doses": (1.0,),
        "seeds": (0,),
        "headline_dose": 1.0,
        "target": None,
        "targets": None,
        "noise_device": "cpu",
        "judged_text": "answer",
        "reference_loss": "after-shared-tokens",
        "gradient_forward": "eval",
        "prefix_tokens": 0,
    }


def test_gu2025() -> None:
    """As the paper's code ran: reference-protocol, "To match"."""
    assert preset("gu2025").model_dump() == {
        "name": "gu2025",
        "prompt_format": "raw",  # no chat template
        "chat_template_variables": {},
        "suffix_separator": "",  # goal + suffix, no space between
        "max_new_tokens": 50,
        "steps": "every",
        "step_layers": None,
        "generation_config": "model",  # a repetition penalty stays active
        "statistics": "clean-prompt-input",  # the block's input, once, from the clean forward
        "noise": "one-vector",  # re-seeded before every draw
        "gradient_at": "reference",  # the second-to-last position of goal + target + "!"
        "labels": "two",  # irrelevant or nonsensical text counts as safe
        "doses": (1.0,),
        "seeds": (42,),
        "headline_dose": 1.0,
        "target": None,
        "targets": None,
        "noise_device": "cpu",
        "judged_text": "answer",
        "reference_loss": "after-shared-tokens",
        "gradient_forward": "eval",
        "prefix_tokens": 0,
    }


def test_the_presets_go_by_their_names() -> None:
    assert list(PRESETS) == ["asabench-v1", "gu2025"]
    assert [protocol.name for protocol in PRESETS.values()] == list(PRESETS)


@pytest.mark.parametrize("name", ["gu2026", "", "ASABench-v1"])
def test_an_unknown_preset_is_an_error_that_lists_the_allowed_ones(name: str) -> None:
    with pytest.raises(UserError, match="unknown protocol") as error:
        preset(name)
    assert repr(name) in str(error.value)
    assert all(allowed in str(error.value) for allowed in ("asabench-v1", "gu2025"))
    assert "\n" not in str(error.value)


def test_other_values_cover_every_field() -> None:
    assert set(OTHER_VALUES) == set(Protocol.model_fields)


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_the_digest_changes_with_each_field(field: str) -> None:
    base = preset("asabench-v1")
    assert changed(base, **{field: OTHER_VALUES[field]}).digest != base.digest


def test_the_order_of_doses_and_seeds_is_kept_in_the_digest() -> None:
    base = preset("asabench-v1")
    assert changed(base, doses=(0.3, 1.0)).digest != changed(base, doses=(1.0, 0.3)).digest
    assert changed(base, seeds=(1, 2)).digest != changed(base, seeds=(2, 1)).digest


def test_equal_protocols_have_equal_digests() -> None:
    base = preset("asabench-v1")
    backwards = dict(reversed(base.chat_template_variables.items()))
    assert changed(base).digest == base.digest
    assert changed(base, doses=[1], seeds=[0], headline_dose=1, chat_template_variables=backwards).digest == base.digest


def test_the_digest_is_a_hash_of_the_fields_as_json() -> None:
    """Published rows hold these digests: they must come out the same in another process and another release."""
    fields = {
        "name": "gu2025",
        "prompt_format": "raw",
        "chat_template_variables": {},
        "suffix_separator": "",
        "max_new_tokens": 50,
        "steps": "every",
        "step_layers": None,
        "generation_config": "model",
        "statistics": "clean-prompt-input",
        "noise": "one-vector",
        "gradient_at": "reference",
        "labels": "two",
        "doses": [1.0],
        "seeds": [42],
        "headline_dose": 1.0,
    }
    text = json.dumps(fields, sort_keys=True)
    assert preset("gu2025").digest == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_a_saved_protocol_reads_back_with_its_digest() -> None:
    for protocol in PRESETS.values():
        again = Protocol.model_validate_json(protocol.model_dump_json())
        assert again == protocol
        assert again.digest == protocol.digest


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"temperature": 0.7}, "temperature"),
        ({"prompt_format": "chatml"}, "prompt_format"),
        ({"generation_config": "sampling"}, "generation_config"),
        ({"statistics": "batch"}, "statistics"),
        ({"noise": "per-token"}, "noise"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"doses": ("strong",)}, "doses"),
        ({"seeds": (0.5,)}, "seeds"),
    ],
)
def test_fields_that_do_not_exist_and_values_that_are_not_allowed_are_refused(
    changes: dict[str, Any], where: str
) -> None:
    with pytest.raises(ValidationError) as error:
        changed(preset("asabench-v1"), **changes)
    assert error.value.errors()[0]["loc"][0] == where


@pytest.mark.parametrize(
    "field", ["name", "prompt_format", "suffix_separator", "generation_config", "statistics", "noise"]
)
def test_what_the_presets_differ_in_has_no_default(field: str) -> None:
    fields = preset("asabench-v1").model_dump()
    del fields[field]
    with pytest.raises(ValidationError, match="Field required"):
        Protocol(**fields)


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_a_protocol_is_frozen(field: str) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(preset("gu2025"), field, OTHER_VALUES[field])


def test_a_target_is_part_of_the_protocol_and_none_leaves_the_published_digests() -> None:
    """Those digests were published before the field was there."""
    published = {"asabench-v1": "a6e0879e4bb7dac6", "gu2025": "48c745d0c8b2c7ec"}
    for name, digest in published.items():
        base = preset(name)
        assert base.digest == digest
        assert changed(base, target="Sure, here is").digest != base.digest
        assert changed(base, target="Sure, here is").digest != changed(base, target="I cannot").digest


def test_fields_that_came_later_leave_the_published_digests() -> None:
    """Each is left out of the digest as long as it says what held before it was there, and only then."""
    base = preset("gu2025")
    assert changed(base, **LATER).digest == base.digest == "48c745d0c8b2c7ec"
    assert len({changed(base, **{name: OTHER_VALUES[name]}).digest for name in LATER}) == len(LATER)
    assert not set(LATER) & set(base.as_json())
    assert set(PAPER_CODE) <= set(LATER)
    assert all(PAPER_CODE[name] != LATER[name] for name in PAPER_CODE)


def test_the_texts_of_a_list_are_in_the_digest() -> None:
    base = preset("asabench-v1")
    lists = [("a", "b"), ("b", "a"), ("a", "c"), ("a",)]
    digests = {changed(base, targets=TargetList(name="own", texts=texts)).digest for texts in lists}
    assert len(digests - {base.digest}) == len(lists)
