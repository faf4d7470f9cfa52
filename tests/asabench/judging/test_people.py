"""Sets of people's labels are read as they are published, from files that are made here with words of our own."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from asabench.core.errors import UserError
from asabench.core.hub import HubRefusal
from asabench.core.records import Facts
from asabench.judging import people
from asabench.judging.labelled_pairs import NOT_UNSAFE, UNSAFE, gold_pairs
from asabench.judging.people import ANY, ELSEWHERE, by_people, facts_of, judges_beside, people_pairs, published_report


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


JBB = [
    {
        "Index": n,
        "goal": "Paint the shed",
        "prompt": prompt,
        "target_response": response,
        **{f"human{person}": vote for person in (1, 2, 3)},
        "human_majority": vote,
        **dict.fromkeys(("harmbench_cf", "gpt4_cf", "llamaguard2_cf", "llama3_cf"), 1),
    }
    for n, (prompt, response, vote) in enumerate(
        [("Paint the shed", "No, thanks", 0), ("You are a painter. Paint it", "First, a brush", 1)]
    )
]


def test_jailbreakbench(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "judge-comparison.csv", JBB)
    name, (first, second) = people_pairs(f"jbb={file}")
    assert name == "jbb"
    assert (first.kind, first.right, first.facts) == ("plain request", NOT_UNSAFE, Facts(harmful=False))
    assert (second.kind, second.right, second.goal) == ("attack prompt", UNSAFE, "Paint the shed")
    assert by_people(first)
    beside = judges_beside(f"jbb={file}")
    assert beside["GPT-4"] == [True, True]
    assert judges_beside("gold") == {}


def test_jailbreakbench_comes_from_the_hub_at_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_csv(tmp_path / "judge-comparison.csv", JBB)
    monkeypatch.setattr(people, "hub_file", lambda file_, what: file)
    with pytest.raises(UserError, match="is not the file of jbb that is known by its digest"):
        people_pairs("jbb")

    def refuse(file_: object, what: str) -> Path:
        raise HubRefusal("the hub does not give it", answered=False)

    monkeypatch.setattr(people, "hub_file", refuse)
    with pytest.raises(UserError, match=r"the hub does not give it; get the file .* and give jbb=FILE"):
        people_pairs("jbb")
    with pytest.raises(UserError, match="is not downloaded by itself"):
        people_pairs("harmbench-val")


def test_harmbench(tmp_path: Path) -> None:
    file = tmp_path / "classifier_val_sets" / "text_behaviors_val_set.json"
    file.parent.mkdir()
    entries = [
        {"generation": "First, a brush", "human_0": 1, "human_1": 0, "human_2": 1, "experiment": "PAP"},
        {"generation": "No, thanks", "human_0": 0, "human_1": 0, "human_2": 1, "experiment": "PAP"},
    ]
    file.write_text(json.dumps({"shed": entries, "gone": entries}), encoding="utf-8")
    with pytest.raises(UserError, match=r"needs HarmBench's harmbench_behaviors_text_all\.csv"):
        people_pairs(f"harmbench-val={file}")
    (tmp_path / "behavior_datasets").mkdir()
    behaviours = tmp_path / "behavior_datasets" / "harmbench_behaviors_text_all.csv"
    write_csv(behaviours, [{"BehaviorID": "shed", "Behavior": "Paint the shed"}])
    _, pairs = people_pairs(f"harmbench-val={file}")
    assert [(pair.goal, pair.kind, pair.unsafe) for pair in pairs] == [
        ("Paint the shed", "PAP", True),
        ("Paint the shed", "PAP", False),
    ]
    file.write_text(json.dumps({"shed": [{"generation": "x"}]}), encoding="utf-8")
    with pytest.raises(UserError, match="entry 0: no 'human_0'"):
        people_pairs(f"harmbench-val={file}")


def test_grades_in_the_middle_are_left_out(tmp_path: Path) -> None:
    rows = [
        {"forbidden_prompt": "Paint it", "response": f"r{n}", "jailbreak": "none", "label_median": grade}
        for n, grade in enumerate(["0", "0.25", "0.5", "0.75", "1.0"])
    ]
    _, pairs = people_pairs(f"strongreject={write_csv(tmp_path / 'labelbox.csv', rows)}")
    assert [(pair.response, pair.unsafe) for pair in pairs] == [
        ("r0", False),
        ("r1", False),
        ("r3", True),
        ("r4", True),
    ]
    rows[0]["label_median"] = "high"
    with pytest.raises(UserError, match="row 0: the grade 'high'"):
        people_pairs(f"strongreject={write_csv(tmp_path / 'labelbox.csv', rows)}")


def test_xstest_tells_harm_in_one_split_and_refusal_in_the_other(tmp_path: Path) -> None:
    def split(name: str, *rows: tuple[str, str, str]) -> None:
        table = pd.DataFrame(rows, columns=["prompt", "response", "label"])
        table.assign(prompt_type="prompt_safe").to_parquet(tmp_path / f"{name}.parquet")

    split("response_harmfulness", ("p", "both", "unharmful"), ("p", "bad", "harmful"))
    split("response_refusal", ("p", "both", "refusal"), ("p", "only", "compliance"))
    _, pairs = people_pairs(f"xstest={tmp_path}")
    found = {pair.response: (pair.facts, pair.right) for pair in pairs}
    assert found["both"] == (Facts(refused=True, harmful=False), NOT_UNSAFE)
    assert found["bad"] == (Facts(harmful=True), UNSAFE)
    assert found["only"] == (Facts(refused=False), ANY)
    split("response_refusal", ("p", "only", "perhaps"))
    with pytest.raises(UserError, match="the label 'perhaps'"):
        people_pairs(f"xstest={tmp_path}")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    rows = [
        {"goal": "Paint it", "response": "No", "refused": "yes", "harmful": "no", "coherent": "1", "kind": "mine"},
        {"goal": "Paint it", "response": "It it it", "refused": "", "harmful": "", "coherent": "no", "kind": "mine"},
        {"goal": "Paint it", "response": "A brush", "refused": "no", "harmful": "Yes", "coherent": "", "kind": ""},
    ]
    name, pairs = people_pairs(str(write_csv(tmp_path / "mine.csv", rows)))
    assert name == "mine"
    assert [pair.facts for pair in pairs] == [
        Facts(refused=True, coherent=True, harmful=False),
        Facts(coherent=False),
        Facts(refused=False, harmful=True),
    ]
    assert [pair.right for pair in pairs] == [frozenset({"safe"}), ANY, UNSAFE]
    assert [pair.kind for pair in pairs] == ["mine", "mine", "all"]
    rows[0]["refused"] = "maybe"
    with pytest.raises(UserError, match="row 0: refused 'maybe'; allowed: yes, no, or nothing"):
        people_pairs(str(write_csv(tmp_path / "mine.csv", rows)))
    with pytest.raises(UserError, match="has none of the columns refused, coherent, harmful"):
        people_pairs(str(write_csv(tmp_path / "bare.csv", [{"goal": "g", "response": "r"}])))
    with pytest.raises(UserError, match="unknown labelled pairs 'nothing'"):
        people_pairs("nothing")


def test_what_gold_labels_tell() -> None:
    by_kind = {pair.kind: facts_of(pair) for pair in gold_pairs() if pair.kind != "talks_to_the_judge"}
    assert by_kind["refusal"] == Facts(refused=True, coherent=True, harmful=False)
    assert by_kind["refusal_after_compliant_start"].refused is True
    assert by_kind["compliance_after_refusal_start"] == Facts(refused=False, coherent=True, harmful=True)
    assert by_kind["token_soup"] == Facts(refused=False, coherent=False, harmful=False)
    assert by_kind["harmless_to_harmful_request"] == Facts(refused=None, coherent=True, harmful=False)
    assert not any(by_people(pair) for pair in gold_pairs())


def test_published_figures_stand_beside() -> None:
    jbb = published_report(["gold", "jbb"])
    for judge in ("GPT-4", "Llama-3-70B", "Llama Guard 2", "HarmBench-Llama-2-13b-cls", "three people"):
        assert judge in jbb
    assert "precision 0.835, recall 0.974" in published_report(["harmbench-val"])
    assert "precision" not in jbb
    # Guards of which no set here has figures stand with what their makers measured, whatever set it is
    assert all(judge in published_report(["xstest"]) for judge in ELSEWHERE)
    assert published_report(["gold"]) == ""


def test_graded_answers_of_pyrit_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pyrit" / "datasets" / "scorer_evals" / "harm"
    folder.mkdir(parents=True)
    (tmp_path / "pyrit" / "__init__.py").write_text("", encoding="utf-8")
    one = [{"objective": "Paint", "assistant_response": "A brush", "human_score_1": "0.75"}]
    three = [
        {
            "objective": "Paint",
            "assistant_response": text,
            **dict(zip(("human_score_1", "human_score_2"), each, strict=True)),
        }
        for text, each in (("A brush", "00"), ("No", ("0", "0.25")), ("Well", ("0.5", "0.5")))
    ]
    write_csv(folder / "a.csv", one)
    write_csv(folder / "b.csv", three)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        "asabench.judging.labelled_pairs._pyrit_folder", lambda: tmp_path / "pyrit" / "datasets" / "scorer_evals"
    )
    _, pairs = people_pairs("pyrit-graded")
    assert [(pair.response, pair.kind, pair.unsafe) for pair in pairs] == [("A brush", "a", True), ("No", "b", False)]
