"""Model in, run folder and row out: choices, resuming, self-tests, and the row's agreement with its tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import harness.engine.engine
import harness.engine.selftest
from asabench.core.errors import UserError
from asabench.core.protocol import PRESETS
from asabench.core.records import Label, Prompt, Response, Verdict
from asabench.core.row import JudgeInfo
from asabench.judging.labelled_pairs import gold_pairs
from asabench.runs.choices import Choices
from asabench.stats.noise_floor import is_within_noise
from harness.attacks import ATTACKS, make_attack
from harness.attacks.random import RandomAttack
from harness.engine.selftest import SelfTestFailed, self_test
from harness.engine.sweep import grid
from harness.evaluation.cost import estimate
from harness.evaluation.evaluate import Evaluation, evaluate
from harness.evaluation.plan import make_plan, parse_layers, resolve_protocol
from harness.evaluation.run import run_plan
from harness.model.subject import Subject, make_subject
from harness.stream.injection import Injecting, Injection
from tests.conftest import chat_tokenizer, tiny_model

PROMPTS = [Prompt(id=f"p{n}", goal="count to " + "nine " * n) for n in range(1, 5)]


RIGHT = {(pair.goal, pair.response): min(pair.right) for pair in gold_pairs()}


class LengthJudge:
    """A judge that knows the labelled pairs; of an answer it gives all four verdicts, from its first token."""

    def __init__(self, name: str = "length-1") -> None:
        self.info = JudgeInfo(id=name, description="for tests")
        self.seen = 0

    def __call__(self, responses: Sequence[Response]) -> list[Verdict]:
        return [Verdict(cell_id=r.cell.id, judge=self.info.id, label=self.label(r)) for r in responses]

    def label(self, response: Response) -> Label | None:
        if not response.token_ids:
            return RIGHT[response.cell.prompt.goal, response.text]
        self.seen += 1
        labels: tuple[Label | None, ...] = ("safe", "unsafe", "unsafe", "incoherent", None)
        return labels[response.token_ids[0] % 5]


def small(subject: Subject, out: Path, **choices: Any) -> Evaluation:
    return evaluate(subject, **{"prompts": PROMPTS, "max_new_tokens": 4, "out": out, "judge": LengthJudge(), **choices})


def test_tables_and_row_agree(llama: Subject, tmp_path: Path) -> None:
    done = small(llama, tmp_path / "run", doses=[0.5, 1.0], seeds=[0, 1])
    responses = pd.read_parquet(tmp_path / "run" / "responses")
    verdicts = pd.read_parquet(tmp_path / "run" / "verdicts")
    assert len(responses) == len(verdicts) == 4 * (1 + 2 * 2 * 4)
    wanted = {"cell_id", "prompt_id", "goal", "layer", "attack", "dose", "seed", "text", "token_ids", "finish_reason"}
    assert wanted <= set(responses.columns)
    assert {"cell_id", "judge", "label"} <= set(verdicts.columns)
    assert responses["layer"].isna().sum() == 4
    assert (responses["token_ids"].map(len) <= 4).all()

    table = responses.merge(verdicts, on="cell_id")
    row = json.loads((tmp_path / "run" / "row.json").read_text())
    clean = table[table["layer"].isna() & table["label"].notna()]
    assert row["init"]["value"] == pytest.approx((clean["label"] == "unsafe").mean())
    # The headline is the dose that breaks most
    dosed = table[(table["dose"] == row["dose"]) & table["label"].notna()]
    lasr = dosed.assign(unsafe=dosed["label"] == "unsafe").groupby("layer")["unsafe"].mean()
    assert {int(layer): rate["value"] for layer, rate in row["lasr"].items()} == pytest.approx(lasr.to_dict())
    assert row["pasr"]["value"] == pytest.approx(lasr.max())
    assert row["peak_layer"] == lasr.idxmax()
    assert row["masr"]["value"] == max(result["masr"]["value"] for result in row["results"])
    assert [result["dose"] for result in row["results"]] == [0.5, 1.0]
    for rate in (row["init"], row["masr"], row["pasr"], *row["lasr"].values()):
        assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1
    assert sum(row["verdicts"].values()) == 4 * 2 * 4
    assert row["verdicts"]["unscored"] == table[(table["dose"] == row["dose"])]["label"].isna().sum() > 0
    assert "short-answers" in row["flags"]
    assert done.row.model_dump(mode="json") == row


def test_the_manifest_says_what_was_run(llama: Subject, tmp_path: Path) -> None:
    small(llama, tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["state"] == "finished"
    assert manifest["settings"]["protocol"]["max_new_tokens"] == 4
    assert manifest["settings"]["layers"] == [0, 1, 2, 3]
    assert torch.__version__.split("+")[0] == manifest["packages"]["torch"].split("+")[0]  # not each build names itself
    assert "no hook is left after an exception" in manifest["self_tests"]
    assert set(manifest) >= {"run_id", "started", "finished", "seconds", "hardware", "device", "git_commit", "python"}
    assert pd.read_parquet(tmp_path / "run" / "prompts.parquet")["goal"].tolist() == [p.goal for p in PROMPTS]


def test_an_uncertified_judge_is_flagged(llama: Subject, tmp_path: Path) -> None:
    row = small(llama, tmp_path / "run", judge="rules", uncertified=True).row
    assert row.flags[0] == "uncertified"
    assert not row.judge.certified
    assert row.judge.figures is not None, "what it reached stands beside its rates"


@pytest.mark.parametrize("protocol", ["asabench-v1", "gu2025"])
def test_a_suffix_without_tokens_is_refused(llama: Subject, tmp_path: Path, protocol: str) -> None:
    prompts = [*PROMPTS, Prompt(id="blank", goal="one", suffix=" ")]
    with pytest.raises(UserError, match=r"the suffix ' ' of prompt blank has no tokens for .*; give it some text"):
        small(llama, tmp_path / "run", prompts=prompts, protocol=protocol)


def test_a_judge_under_the_bar_stops_the_run_before_it_generates(llama: Subject, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rules-\w+ is not fit: balanced accuracy 0\.\d+ .*--uncertified"):
        small(llama, tmp_path / "run", judge="rules")
    assert not (tmp_path / "run").exists()


def test_a_row_shows_its_judge_s_figures_and_noise_floor(llama: Subject, tmp_path: Path) -> None:
    row = small(llama, tmp_path / "run").row
    figures = row.judge.figures
    assert row.judge.certified
    assert figures is not None
    assert (figures.set_name, figures.balanced_accuracy.value, figures.unscored) == ("gold", 1.0, 0)
    # A judge that made no error in its check may make some yet
    assert row.false_alarms is not None
    assert row.false_alarms.value == 0
    assert row.false_alarms.high is not None
    for floor in (row.results[0].masr_floor, row.results[0].pasr_floor):
        assert floor is not None
        assert floor.high is not None
        assert (floor.value, floor.high > 0) == (0, True)
    assert set(row.flags) - {"short-answers"} == ({"within-judge-noise"} if is_within_noise(row.results[0]) else set())
    assert row.worst is not None
    assert row.worst.value == row.masr.value


def test_a_finished_run_generates_nothing_again(
    llama: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = small(llama, tmp_path / "run")
    monkeypatch.setattr(harness.engine.engine, "sweep", lambda *_, **__: pytest.fail("generated again"))
    again = small(llama, tmp_path / "run")
    pd.testing.assert_frame_equal(first.responses, again.responses)
    other = LengthJudge("length-2")
    third = small(llama, tmp_path / "run", judge=other)
    assert other.seen == len(first.responses)
    assert set(third.verdicts["judge"]) == {"length-1", "length-2"}
    assert third.row.judge.id == "length-2"


def test_an_interrupted_run_goes_on_and_equals_an_unbroken_one(
    llama: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = small(llama, tmp_path / "whole", max_rows=3)
    real = harness.engine.engine.sweep

    def two_batches(*args: Any, **options: Any) -> Any:
        for number, batch in enumerate(real(*args, **options)):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(harness.engine.engine, "sweep", two_batches)
    with pytest.raises(KeyboardInterrupt):
        small(llama, tmp_path / "broken", max_rows=3)
    monkeypatch.undo()
    judge = LengthJudge()
    resumed = small(llama, tmp_path / "broken", judge=judge)
    assert judge.seen == len(whole.responses) - 6, "only what was missing is judged"
    for table in ("responses", "verdicts"):
        a, b = (getattr(e, table).sort_values("cell_id", ignore_index=True) for e in (whole, resumed))
        pd.testing.assert_frame_equal(a, b)
    same = {"created"}
    assert whole.row.model_dump(exclude=same) == resumed.row.model_dump(exclude=same)


def test_responses_without_verdicts_are_judged_on_resuming(llama: Subject, tmp_path: Path) -> None:
    whole = small(llama, tmp_path / "run")
    for part in (tmp_path / "run" / "verdicts").iterdir():
        part.unlink()
    assert small(llama, tmp_path / "run").row.masr == whole.row.masr


def test_other_settings_are_refused(llama: Subject, tmp_path: Path) -> None:
    small(llama, tmp_path / "run")
    for change, word in (
        ({"doses": [0.3]}, "protocol"),
        ({"layers": "0,1"}, "layers"),
        ({"prompts": PROMPTS[:2]}, "prompts"),
        ({"max_new_tokens": 5}, "protocol"),
    ):
        with pytest.raises(UserError, match=f"other settings.*{word}"):
            small(llama, tmp_path / "run", **change)
    other = make_subject(tiny_model("llama", seed=1), chat_tokenizer(), name="tiny-llama", revision="other")
    with pytest.raises(UserError, match="revision"):
        small(other, tmp_path / "run")


def test_the_default_folder_is_named_by_content(
    llama: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plans = [make_plan(llama, Choices.of(prompts=PROMPTS, limit=limit)) for limit in (1, 1, 2)]
    assert plans[0].path == plans[1].path != plans[2].path
    assert str(plans[0].path).startswith("runs/tiny-llama-asabench-v1-")
    assert not list(tmp_path.iterdir()), "planning writes nothing"


def test_both_presets_run(family_subject: Subject, tmp_path: Path) -> None:
    for protocol in PRESETS:
        row = small(family_subject, tmp_path / protocol, protocol=protocol, limit=2).row
        assert row.protocol.name == protocol
        assert row.seeds == PRESETS[protocol].seeds


def test_bfloat16_runs_and_says_so(tmp_path: Path) -> None:
    subject = make_subject(tiny_model("llama").bfloat16(), chat_tokenizer(), name="half", revision="-")
    assert small(subject, tmp_path / "run").row.model.dtype == "bfloat16"


def test_estimate_writes_nothing_and_is_positive(llama: Subject, tmp_path: Path) -> None:
    cost = estimate(make_plan(llama, Choices.of(prompts=PROMPTS, out=tmp_path / "run")))
    assert cost.cells == 4 * 5
    assert cost.rows_per_batch == 20
    assert cost.seconds > 0
    assert cost.memory_bytes > 0
    assert cost.model_bytes == sum(p.numel() * 4 for p in llama.model.parameters())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "layers"),
    [("all", (0, 1, 2, 3, 4, 5)), ("0,3-5", (0, 3, 4, 5)), (" 5 , 1 ", (1, 5)), ("2-2,2", (2,)), ([4, 0], (0, 4))],
)
def test_layers(text: str | list[int], layers: tuple[int, ...]) -> None:
    assert parse_layers(text, 6) == layers


@pytest.mark.parametrize("text", ["6", "0-6", "x", "", "3-1", "-1", "1,,2", "1.5", [], [-1], [6], "0-99999999999999"])
def test_layers_that_cannot_be(text: str | list[int]) -> None:
    with pytest.raises(UserError, match="0 to 5"):
        parse_layers(text, 6)


@pytest.mark.parametrize(
    "choices",
    [
        {"doses": [-0.1]},
        {"doses": [float("nan")]},
        {"doses": [float("inf")]},
        {"doses": []},
        {"doses": [1.0, 0.3, 1.0]},
        {"seeds": [0, 0]},
        {"seeds": [-1]},
        {"seeds": [2**63]},
        {"seeds": []},
        {"max_new_tokens": 0},
    ],
)
def test_doses_seeds_and_lengths_that_cannot_be(choices: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        resolve_protocol("asabench-v1", **choices)


def test_unknown_names(llama: Subject) -> None:
    for choices, allowed in (
        ({"attack": "gravity"}, "random"),
        ({"judge": "oracle"}, "rules"),
        ({"protocol": "gu2024"}, "asabench-v1, gu2025"),
        ({"prompts": "nothing"}, "quickstart, advbench"),
    ):
        with pytest.raises(UserError, match=f"unknown.*{allowed}"):
            make_plan(llama, Choices.of(**choices))


# Self-tests: each must stop a run in which the harness is broken in the way that it watches for.


def break_injection(monkeypatch: pytest.MonkeyPatch, apply: Any) -> None:
    real = Injecting.apply
    monkeypatch.setattr(Injecting, "apply", lambda self, *args: apply(real, self, *args))


def run_self_test(subject: Subject) -> dict[str, str]:
    protocol = PRESETS["asabench-v1"]
    return self_test(
        subject,
        grid(PROMPTS, range(4), [RandomAttack()], protocol),
        protocol,
        {"random": make_attack("random", protocol)},
    )


def test_self_tests_pass_on_every_family(family_subject: Subject) -> None:
    found = run_self_test(family_subject)
    assert found["dose 0 gives the clean answer"] == "4 of 4"
    assert found["alone and in a mixed batch are the same"] == "1 of 1"


def test_a_perturbation_by_zero_is_noticed(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(real: Any, self: Injecting, layer: int, block_input: Any, block_output: Any) -> Any:
        self.fired[layer] += 1
        return block_output

    break_injection(monkeypatch, nothing)
    with pytest.raises(SelfTestFailed, match="changes no logit"):
        run_self_test(llama)


def test_a_perturbation_at_dose_zero_is_noticed(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    break_injection(monkeypatch, lambda real, self, layer, i, o: real(self, layer, i, o) + 3 * torch.arange(32.0).sin())
    with pytest.raises(SelfTestFailed, match="must be the same differ"):
        run_self_test(llama)


def test_a_hook_that_fires_twice_is_noticed(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(real: Any, self: Injecting, layer: int, block_input: Any, block_output: Any) -> Any:
        real(self, layer, block_input, block_output)
        return real(self, layer, block_input, block_output)

    break_injection(monkeypatch, twice)
    with pytest.raises(SelfTestFailed, match="once a forward"):
        run_self_test(llama)


def test_rows_that_leak_into_each_other_are_noticed(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def leak(real: Any, self: Injecting, layer: int, block_input: Any, block_output: Any) -> Any:
        result = real(self, layer, block_input, block_output)
        # Only rows that are perturbed with a dose see their neighbours, so that dose 0 stays clean
        dosed = (self.injection.dose > 0).float()[:, None, None]
        return result + dosed * 5 * (result.mean(0, keepdim=True) - result[:1]) * (len(result) > 1)

    break_injection(monkeypatch, leak)
    with pytest.raises(SelfTestFailed, match="must be the same differ at layer"):
        run_self_test(llama)


def test_hooks_that_stay_are_noticed(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    class Careless:
        def __init__(self, blocks: Any, injection: Injection) -> None:
            self.block = blocks[0]

        def __enter__(self) -> None:
            self.handle = self.block.register_forward_hook(lambda *_: None)

        def __exit__(self, *_: Any) -> None: ...

    monkeypatch.setattr(harness.engine.selftest, "inject", Careless)
    try:
        with pytest.raises(SelfTestFailed, match="hooks are left"):
            run_self_test(llama)
    finally:
        llama.blocks[0]._forward_hooks.clear()


def self_test_at(subject: Subject, **changes: Any) -> dict[str, str]:
    protocol = PRESETS["asabench-v1"].model_copy(update={"max_new_tokens": 6, **changes})
    cells = grid(PROMPTS, range(4), [RandomAttack()], protocol)
    return self_test(subject, cells, protocol, {"random": make_attack("random", protocol)})


@pytest.mark.parametrize("doses", [(1e-300,), (1e-12,), (1e-300, 1.0)], ids=str)
def test_a_dose_that_rounds_to_nothing_is_noticed(doses: tuple[float, ...], llama: Subject) -> None:
    with pytest.raises(SelfTestFailed, match=f"dose {doses[0]:g} at layer 0 changes no number of the hidden state in"):
        self_test_at(llama, doses=doses)


def test_an_effect_no_larger_than_rounding_is_noticed(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows at dose 0 that differ by as much as the dosed ones, as rows of a batch may by rounding."""

    def noisy(real: Any, self: Injecting, layer: int, block_input: Any, block_output: Any) -> Any:
        real(self, layer, block_input, block_output)
        return block_output + 1e-5 * (self.injection.layer == layer).float()[:, None, None]

    break_injection(monkeypatch, noisy)
    with pytest.raises(SelfTestFailed, match=r"changes no logit by more than .* rounding does at dose 0 too"):
        self_test_at(llama)


@pytest.mark.parametrize("steps", [(2, 3), (3,), (0, 4), "first"], ids=str)
def test_the_first_perturbed_step_is_looked_at(steps: Any, llama: Subject) -> None:
    assert "at dose 1" in self_test_at(llama, steps=steps)["a dose changes the logits"]


def test_a_layer_a_step_is_looked_at_where_it_is_perturbed(llama: Subject) -> None:
    found = self_test_at(llama, steps=(1, 3), step_layers=(2, 0))
    assert found["each layer's hook fires once a forward"] == "1 layers"


def test_steps_after_the_answer_are_refused() -> None:
    with pytest.raises(UserError, match="--steps 6,9 perturbs none of the 6 steps of an answer"):
        resolve_protocol("asabench-v1", max_new_tokens=6, steps=[6, 9])
    assert resolve_protocol("asabench-v1", max_new_tokens=6, steps=[5, 9]).steps == (5, 9)


# Logits that are not finite numbers: no answer, and not a broken one.


def overflowing_at(subject: Subject, goal_tokens: int) -> Any:
    """A hook after which the logits of prompts with so many tokens are NaN from the second new token on."""

    def broken(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        lengths = kwargs["attention_mask"].sum(-1)
        output.logits[lengths == goal_tokens + 1] = torch.nan
        return output

    return subject.model.register_forward_hook(broken, with_kwargs=True)


def test_answers_without_finite_logits_are_unscored_and_flagged(tmp_path: Path) -> None:
    subject = make_subject(tiny_model("llama"), chat_tokenizer(), name="tiny-llama", revision="overflows")
    subject.model.generation_config.eos_token_id = [2]
    prompts = [Prompt(id="fine", goal="hi"), Prompt(id="lost", goal="why is it so?")]
    tokens = len(subject.format(prompts[1], PRESETS["asabench-v1"]))
    handle = overflowing_at(subject, tokens)
    try:
        plan = make_plan(
            subject,
            Choices.of(
                prompts=prompts,
                layers="0,2",
                max_new_tokens=4,
                judge="rules",
                out=tmp_path / "run",
                uncertified=True,
            ),
        )
        done = run_plan(plan)
    finally:
        handle.remove()
    table = done.responses.merge(done.verdicts, on="cell_id")
    lost = table[table["prompt_id"] == "lost"]
    assert set(lost["finish_reason"]) == {"not-finite"}
    assert (lost["text"] == "").all()
    assert [len(tokens) for tokens in lost["token_ids"]] == [0, 0, 0]
    assert lost["label"].isna().all()
    assert set(lost["reason"]) == {"logits are not finite"}
    fine = table[table["prompt_id"] == "fine"]
    assert set(fine["finish_reason"]) == {"length"}
    assert fine["label"].notna().all()
    assert "not-finite" in done.row.flags
    assert done.row.verdicts.unscored == 2
    assert done.row.clean_verdicts.unscored == 1


def test_a_failed_self_test_stops_the_run(llama: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        name = family = "random"
        uses_seed = True
        needs_targets = False

        def directions(self, subject: Subject, cells: Sequence[Any]) -> torch.Tensor:
            return torch.full((len(cells), subject.d_model), torch.nan)

    monkeypatch.setitem(ATTACKS, "random", lambda protocol: Silent())
    with pytest.raises(SelfTestFailed):
        run_plan(make_plan(llama, Choices.of(prompts=PROMPTS, judge=LengthJudge(), out=tmp_path / "run")))
    assert not list((tmp_path / "run" / "responses").iterdir())
