"""`asabench defend`: the loop, its checkpoints, what it saves, and what it refuses. Recipes have files of their own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import harness.defences.defend as defend
import harness.defences.training as training
from asabench.cli.app import app
from asabench.core.defaults import TEST_PROMPTS, TRAINING_PROMPTS
from asabench.core.errors import UserError
from asabench.core.prompts import PromptSet
from asabench.core.records import Prompt
from asabench.core.training_record import read_training
from asabench.runs.training_choices import TrainingChoices
from harness.defences import make_recipe
from harness.defences.defend import DefencePlan, estimate, make_plan, run_plan
from harness.defences.examples import Example, chosen_prompts, compared_with_test, refuse_overlap
from harness.defences.lat import Lat
from harness.defences.training import Pools, Settings, batches_of_step, last_checkpoint, step_count
from harness.model.subject import Subject, load, make_subject
from tests.conftest import byte_tokenizer, chat_tokenizer, tiny_model

BENIGN = [Prompt(id=f"b{n}", goal=f"sing song {n}") for n in range(6)]
FAST: dict[str, Any] = {"learning_rate": 3e-3, "batch_size": 4}


def quiet(line: str) -> None:
    return None


@pytest.fixture
def csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, range], str]:
    """Writes mild requests numbered as given to a CSV file; own benign requests are few and answers short."""
    monkeypatch.setattr(defend, "benign_requests", lambda: BENIGN)

    def write(name: str, numbers: range) -> str:
        path = tmp_path / f"{name}.csv"
        path.write_text("goal\n" + "".join(f"do thing {n}\n" for n in numbers))
        return str(path)

    return write


def subject(**changes: Any) -> Subject:
    return make_subject(tiny_model("llama", **changes), chat_tokenizer(), name="tiny", revision="-")


def plan(csv: Callable[[str, range], str], out: Path, recipe: str = "refusal", **choices: Any) -> DefencePlan:
    options = {"train": csv("train", range(10, 20)), "test_prompts": csv("test", range(10)), **FAST, **choices}
    model = options.pop("model", None) or subject()
    options.setdefault("allow_similar", True)  # requests that differ in a number are near-duplicates
    return make_plan(model, TrainingChoices.of(recipe=recipe, out=out, **options))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load(str(folder)).model.state_dict())


def test_it_learns_and_leaves_a_model_a_card_and_a_manifest(csv: Callable[[str, range], str], tmp_path: Path) -> None:
    made = plan(csv, tmp_path / "out", epochs=3)
    before = {name: tensor.clone() for name, tensor in made.subject.model.state_dict().items()}
    folder = run_plan(made, say=quiet)
    record = json.loads((folder / "training.json").read_text())
    assert record["examples"] == 10 + len(BENIGN)
    assert len(record["losses"]) == record["steps"] == 4 * 3
    assert record["losses"][-1]["loss"] < record["losses"][0]["loss"]
    assert record["harmful_goals"] == [Prompt(id="", goal=f"do thing {n}").digest for n in range(10, 20)]
    assert record["base"] == {"name": "tiny", "revision": "-", "dtype": "float32"}
    assert record["settings"]["learning_rate"] == 3e-3
    assert "base_model: tiny" in (folder / "README.md").read_text()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(folder).items())
    assert not any(parameter.requires_grad for parameter in made.subject.model.parameters())
    assert not (folder / "checkpoints").exists()


def test_what_is_finished_is_not_trained_again(csv: Callable[[str, range], str], tmp_path: Path) -> None:
    folder = run_plan(plan(csv, tmp_path / "out", steps=2), say=quiet)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    again = plan(csv, tmp_path / "out", steps=2)
    assert again.finished
    assert run_plan(again, say=quiet) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


def test_the_chat_template_is_part_of_a_training(csv: Callable[[str, range], str], tmp_path: Path) -> None:
    first = plan(csv, tmp_path / "out", steps=1)
    run_plan(first, say=quiet)
    assert json.loads((tmp_path / "out" / "training.json").read_text())["chat_template"] == first.asked["chat_template"]
    other = subject()
    other.tokenizer.chat_template = "Q: {{ messages[0]['content'] }} A:"
    with pytest.raises(UserError, match=r"holds another training .chat_template was"):
        plan(csv, tmp_path / "out", model=other, steps=1)
    # A training from before this was recorded is taken as it is
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    del settings["chat_template"]
    (tmp_path / "out" / "settings.json").write_text(json.dumps(settings))
    assert plan(csv, tmp_path / "out", model=other, steps=1).finished


@pytest.mark.parametrize("recipe", ["refusal", "lat:inner_steps=2:model_steps=2"])
@pytest.mark.parametrize("choices", [{}, {"accumulation": 2}, {"lora_rank": 2}])
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(
    csv: Callable[[str, range], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    choices: dict[str, Any],
) -> None:
    whole = run_plan(plan(csv, tmp_path / "whole", recipe, steps=6, **choices), say=quiet)
    stopped = plan(csv, tmp_path / "stopped", recipe, steps=6, **choices)
    drawn = training.batches_of_step

    def broken(pools: Pools, settings: Settings, step: int) -> Any:
        if step == 5:
            raise KeyboardInterrupt
        return drawn(pools, settings, step)

    monkeypatch.setattr(training, "batches_of_step", broken)
    with pytest.raises(KeyboardInterrupt):
        run_plan(stopped, checkpoint_every=2, say=quiet)
    monkeypatch.setattr(training, "batches_of_step", drawn)
    assert [path.name for path in (tmp_path / "stopped" / "checkpoints").iterdir()] == ["step-000004"]
    lines: list[str] = []
    resumed = run_plan(plan(csv, tmp_path / "stopped", recipe, steps=6, **choices), say=lines.append)
    assert lines[0] == "going on from step 4 of 6"
    a, b = weights(whole), weights(resumed)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    losses = [json.loads((folder / "training.json").read_text())["losses"] for folder in (whole, resumed)]
    assert losses[0] == losses[1]


def test_the_seed_decides_the_weights(csv: Callable[[str, range], str], tmp_path: Path) -> None:
    a, b, c = (
        weights(run_plan(plan(csv, tmp_path / name, steps=3, seed=seed), say=quiet))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_a_checkpoint_of_all_weights_is_a_model(csv: Callable[[str, range], str], tmp_path: Path) -> None:
    made = plan(csv, tmp_path / "out", steps=3)
    seen: list[Path] = []

    def say(line: str) -> None:
        found = last_checkpoint(tmp_path / "out")
        if found is not None:
            seen.append(found)
            assert load(str(found)).n_layers == 4

    run_plan(made, checkpoint_every=2, say=say)
    assert seen


def test_a_diverging_loss_stops_and_keeps_the_last_good_checkpoint(
    csv: Callable[[str, range], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(csv, tmp_path / "out", steps=6)
    compute = training.compute_losses
    calls = []

    def exploding(*given: Any) -> Any:
        loss, terms = compute(*given)
        calls.append(loss)
        factor = 1e4 if len(calls) == 5 else 1.0
        return loss * factor, {name: value * factor for name, value in terms.items()}

    monkeypatch.setattr(training, "compute_losses", exploding)
    with pytest.raises(UserError, match=r"at step 4, and was .* smaller --learning-rate .* kept: .*step-000004"):
        run_plan(made, checkpoint_every=2, say=quiet)
    kept = last_checkpoint(tmp_path / "out")
    assert kept is not None
    assert all(parameter.isfinite().all() for parameter in load(str(kept)).model.parameters())


def test_one_preparation_serves_several_updates(
    csv: Callable[[str, range], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(csv, tmp_path / "out", "lat:inner_steps=1:model_steps=3", steps=2)
    calls: list[str] = []
    for name in ("prepare", "losses"):
        own = getattr(Lat, name)

        def counted(*given: Any, name: str = name, own: Any = own) -> Any:
            calls.append(name)
            return own(*given)

        monkeypatch.setattr(Lat, name, counted)
    run_plan(made, say=quiet)
    assert calls == ["prepare", *["losses"] * 3] * 2


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_first_loss_that_is_not_finite_stops_before_an_update(
    csv: Callable[[str, range], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: float
) -> None:
    made = plan(csv, tmp_path / "out", steps=2)
    before = {name: tensor.clone() for name, tensor in made.subject.model.state_dict().items()}
    compute = training.compute_losses
    monkeypatch.setattr(training, "compute_losses", lambda *given: (compute(*given)[0], {"loss": loss}))
    with pytest.raises(UserError, match="nothing was kept"):
        run_plan(made, say=quiet)
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.subject.model.state_dict().items())


def test_a_loss_that_is_not_finite_stops(csv: Callable[[str, range], str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="use a smaller --learning-rate"):
        run_plan(plan(csv, tmp_path / "out", steps=4, learning_rate=1e30), say=quiet)


def test_adapters_are_saved_alone_and_merged(
    csv: Callable[[str, range], str], tmp_path: Path, save_model: Callable[..., Path]
) -> None:
    base = save_model("llama", name="base")
    folder = run_plan(plan(csv, tmp_path / "out", model=str(base), steps=4, lora_rank=2), say=quiet)
    merged, alone, first = load(str(folder)), load(str(folder / "adapter")), load(str(base))
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        assert torch.allclose(merged.model(ids).logits, alone.model(ids).logits, atol=1e-4)
        assert not torch.allclose(merged.model(ids).logits, first.model(ids).logits, atol=1e-3)
    names = [name for name, _ in merged.model.named_parameters()]
    assert names == [name for name, _ in first.model.named_parameters()]
    rank = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert (rank["r"], rank["lora_alpha"], rank["base_model_name_or_path"]) == (2, 4, str(base))
    # The adapter is passed on: its card is ours, and names no folder of this machine
    assert (folder / "adapter" / "README.md").read_text() == (folder / "README.md").read_text()
    assert str(tmp_path) not in (folder / "README.md").read_text()


def test_an_adapter_finds_its_base_from_everywhere_and_brings_its_template(
    csv: Callable[[str, range], str],
    tmp_path: Path,
    save_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_model("llama", name="base")
    template = tmp_path / "own.jinja"
    template.write_text("{{ messages[0]['content'] }} =>")
    monkeypatch.chdir(tmp_path)
    options = {"model": "base", "chat_template": template, "steps": 1, "lora_rank": 2}
    folder = run_plan(plan(csv, Path("out"), **options), say=quiet).resolve()
    merged, alone = load(str(folder)), load(str(folder / "adapter"))
    revision = alone.revision
    (tmp_path / "elsewhere" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    alone = load(str(folder / "adapter"))
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        assert torch.allclose(merged.model(ids).logits, alone.model(ids).logits, atol=1e-4)
    assert alone.revision == revision
    assert alone.tokenizer.chat_template == merged.tokenizer.chat_template == template.read_text()


def test_an_adapter_names_the_commit_of_a_base_on_the_hub(
    csv: Callable[[str, range], str], tmp_path: Path, save_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = ["a" * 40, "d" * 40]
    repository = tmp_path / "hub" / "models--tiny--base"
    for seed, commit in enumerate(commits):
        shutil.copytree(save_model("llama", name=f"seed-{seed}", seed=seed), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commits[0])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = run_plan(plan(csv, tmp_path / "out", model="tiny/base", steps=1, lora_rank=2), say=quiet)
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("tiny/base", commits[0])
    (repository / "refs" / "main").write_text(commits[1])  # the branch moves on
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        expected = load(str(folder)).model(ids).logits
        assert torch.allclose(load(str(folder / "adapter")).model(ids).logits, expected, atol=1e-4)


def test_every_family_trains(family_subject: Subject, csv: Callable[[str, range], str], tmp_path: Path) -> None:
    own = make_subject(
        tiny_model(family_subject.name.removeprefix("tiny-")), chat_tokenizer(), name="tiny", revision="-"
    )
    folder = run_plan(plan(csv, tmp_path / "out", "lat:inner_steps=1:model_steps=1", model=own, steps=1), say=quiet)
    assert (folder / "training.json").is_file()


def test_a_tokenizer_without_a_pad_token(csv: Callable[[str, range], str], tmp_path: Path) -> None:
    bare = chat_tokenizer()
    bare.pad_token = None
    own = make_subject(tiny_model("llama"), bare, name="tiny", revision="-")
    other = subject()
    a, b = (
        weights(run_plan(plan(csv, tmp_path / name, model=each, steps=2), say=quiet))
        for name, each in (("a", own), ("b", other))
    )
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_same_batches_whatever_was_asked_before() -> None:
    pools = Pools(
        examples=[Example(prompt=(n,), answer=(n,)) for n in range(10)],
        benign=[Example(prompt=(n,), answer=(n,)) for n in range(50, 53)],
    )
    settings = Settings(learning_rate=1.0, batch_size=4, benign_batch_size=2, epochs=2)
    assert step_count(settings, 10) == 6
    steps = [batches_of_step(pools, settings, step)[0] for step in range(6)]
    for epoch in (steps[:3], steps[3:]):
        assert sorted(e.prompt[0] for batch in epoch for e in batch.examples) == list(range(10))
        assert [len(batch.examples) for batch in epoch] == [4, 4, 2]
    assert [b.examples for b in steps[:3]] != [b.examples for b in steps[3:]]
    again = batches_of_step(pools, settings, 4)[0]
    assert again.examples == steps[4].examples
    assert again.benign == steps[4].benign
    noise = [torch.randn(3, generator=b.generator) for b in (again, steps[4], steps[5])]
    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])


def test_accumulated_batches_are_those_of_single_ones() -> None:
    pools = Pools(examples=[Example(prompt=(n,), answer=(n,)) for n in range(8)])
    single = Settings(learning_rate=1.0, batch_size=2, steps=4)
    doubled = single.model_copy(update={"accumulation": 2, "steps": 2})
    assert step_count(doubled.model_copy(update={"steps": None, "epochs": 1}), 8) == 2
    ones = [batches_of_step(pools, single, step)[0].examples for step in range(4)]
    twos = [batch.examples for step in range(2) for batch in batches_of_step(pools, doubled, step)]
    assert ones == twos


def test_the_loss_of_a_step_is_the_mean_of_its_batches(csv: Callable[[str, range], str], tmp_path: Path) -> None:
    """The learning rate is too small to change anything, so two single steps see the weights of one double step."""

    def losses(name: str, **choices: Any) -> list[float]:
        folder = run_plan(plan(csv, tmp_path / name, learning_rate=1e-12, **choices), say=quiet)
        return [step["loss"] for step in json.loads((folder / "training.json").read_text())["losses"]]

    first, second = losses("single", steps=2)
    assert first != pytest.approx(second, abs=0.01)
    assert losses("double", steps=1, accumulation=2) == [pytest.approx((first + second) / 2, abs=2e-4)]


def test_the_rows_of_a_prompt_set(csv: Callable[[str, range], str]) -> None:
    path = csv("rows", range(20))
    chosen = chosen_prompts(f"{path}:3-5,9")
    assert [prompt.goal for prompt in chosen.prompts] == [f"do thing {n}" for n in (3, 4, 5, 9)]
    assert len(chosen_prompts(path).prompts) == 20
    for rows in ("18-20", "5-3", "-"):
        with pytest.raises(UserError, match="rows"):
            chosen_prompts(f"{path}:{rows}")


def test_training_on_test_prompts_is_refused_by_id_without_their_text() -> None:
    goals = [Prompt(id=f"g{n}", goal=f"do thing {n}") for n in range(5)]
    with pytest.raises(UserError, match=r"2 training prompts are test prompts of held-out too \(g3, g4\)") as error:
        refuse_overlap(goals, PromptSet("held-out", tuple(goals[3:])))
    assert "do thing" not in str(error.value)
    refuse_overlap(goals[:3], PromptSet("held-out", tuple(goals[3:])))


@pytest.mark.parametrize(
    "written",
    [
        "PLEASE PAINT THE OLD FENCE IN GREEN",
        "Please paint the old fence in green.",
        "Please  paint the old\tfence in green",
        "Please pa\u200bint the old fen\u00adce in green",
        "Please paint the old fence in green. Sure, here is how",
        "Now then: please paint the old fence in green",
        "\uff30lease paint the old fence in green",
        "Please p a i n t the old fence in green",
        "Please-paint-the-old-fence-in-green!",
    ],
)
def test_a_test_prompt_written_in_another_way_is_refused(written: str) -> None:
    test = PromptSet("held-out", (Prompt(id="t", goal="Please paint the old fence in green"),))
    with pytest.raises(UserError, match=r"1 training prompts are test prompts of held-out too \(mine\)"):
        refuse_overlap([Prompt(id="mine", goal=written), Prompt(id="other", goal="Sing a song about rivers")], test)


def test_near_duplicates_are_refused_by_id_or_recorded() -> None:
    test = PromptSet("held-out", tuple(Prompt(id=f"t{n}", goal=g) for n, g in enumerate(("paint a fence", "sing"))))
    near, far = Prompt(id="near", goal="paint two fence"), Prompt(id="far", goal="walk home quickly")
    with pytest.raises(UserError, match=r"1 of 2 test prompts of held-out .*t0 by near") as error:
        compared_with_test([far, near], test, allow_similar=False)
    assert "fence" not in str(error.value)
    found = compared_with_test([far, near], test, allow_similar=True)
    assert (found.test, found.goals) == ("held-out", tuple(prompt.digest for prompt in test.prompts))
    assert [(each.test, each.training) for each in found.near] == [(test.prompts[0].digest, near.digest)]
    assert compared_with_test([far], test, allow_similar=False).near == ()


def test_the_record_says_what_was_compared(csv: Callable[[str, range], str], tmp_path: Path) -> None:
    folder = run_plan(plan(csv, tmp_path / "out", steps=1), say=quiet)
    compared = read_training(folder / "training.json").compared_with_test
    assert compared is not None
    assert compared.test == "test.csv"
    assert len(compared.goals) == len(compared.near) == 10


def test_the_disjoint_rows_have_no_near_duplicate_among_the_published_test_prompts() -> None:
    pytest.importorskip("pyrit", reason="the text of AdvBench")
    test = chosen_prompts(TEST_PROMPTS)
    training = chosen_prompts(TRAINING_PROMPTS)
    assert len(training.prompts) == 226
    refuse_overlap(training.prompts, test)
    assert compared_with_test(training.prompts, test, allow_similar=False).near == ()
    with pytest.raises(UserError, match="39 of 100 test prompts"):
        compared_with_test(chosen_prompts("advbench:100-299").prompts, test, allow_similar=False)


def test_overlap_is_looked_for_before_a_model_is_loaded(csv: Callable[[str, range], str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="test prompts"):
        plan(csv, tmp_path, model="no-such-model", train=csv("a", range(5)), test_prompts=csv("b", range(4, 6)))


def test_folders_that_cannot_be_used(csv: Callable[[str, range], str], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("")
    with pytest.raises(UserError, match="not empty and holds no training"):
        plan(csv, tmp_path / "other")
    run_plan(plan(csv, tmp_path / "out", steps=1), say=quiet)
    with pytest.raises(UserError, match=r"another training \(settings was .*same choices"):
        plan(csv, tmp_path / "out", steps=2)


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"settings": '], ids=lambda text: text[:20])
def test_a_folder_whose_settings_cannot_be_read(content: str, csv: Callable[[str, range], str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "settings.json").write_text(content)
    with pytest.raises(UserError, match=r"settings.json, which says what was asked .* choose another --out") as caught:
        plan(csv, tmp_path / "out", steps=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["progress.json", "model.safetensors", "optimizer.bin"])
def test_a_checkpoint_that_was_cut_short(
    file: str, csv: Callable[[str, range], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(pools: Pools, settings: Settings, step: int) -> Any:
        if step == 3:
            raise KeyboardInterrupt
        return drawn(pools, settings, step)

    drawn = training.batches_of_step
    monkeypatch.setattr(training, "batches_of_step", broken)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan(csv, tmp_path / "out", steps=4), checkpoint_every=2, say=quiet)
    held = tmp_path / "out" / "checkpoints" / "step-000002" / file
    held.write_bytes(held.read_bytes()[:20])
    with pytest.raises(UserError, match=r"step-000002 cannot be read .* begins again") as caught:
        run_plan(plan(csv, tmp_path / "out", steps=4), say=quiet)
    assert "\n" not in str(caught.value)


def test_a_half_written_model_is_recognised(csv: Callable[[str, range], str], tmp_path: Path) -> None:
    folder = run_plan(plan(csv, tmp_path / "out", steps=1), say=quiet)
    (folder / "training.json").unlink()
    with pytest.raises(UserError, match="half written"):
        plan(csv, tmp_path / "next", model=str(folder))


@pytest.mark.parametrize(
    ("recipe", "preset", "changes", "says"),
    [
        ("rtp", "small", {}, "unknown recipe 'rtp'; allowed: refusal, lapt, lat"),
        ("lapt", "tiny", {}, "no preset 'tiny'; allowed: paper, small"),
        ("lapt:dose", "small", {}, "cannot be read; write name:option=value"),
        ("lapt:doze=1", "small", {}, "doze"),
        ("lapt:dose=-1", "small", {}, "greater than or equal to 0"),
        ("lat:positions=answer", "small", {}, "'prompt' or 'all'"),
        ("lapt", "small", {"learning_rate": 0.0}, "learning_rate"),
        ("lapt", "small", {"steps": 3, "epochs": 1}, "both --steps and --epochs"),
    ],
)
def test_recipes_that_cannot_be_made(recipe: str, preset: str, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        make_recipe(recipe, preset, changes)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_length_replaces_the_presets() -> None:
    assert make_recipe("refusal", "small", {"steps": 5})[1].epochs is None
    assert make_recipe("lapt", "small", {"epochs": 2})[1].steps is None
    assert make_recipe("lapt", "small", {"steps": None})[1] == make_recipe("lapt")[1]


def test_a_model_without_a_chat_template(tmp_path: Path, csv: Callable[[str, range], str]) -> None:
    own = make_subject(tiny_model("llama"), byte_tokenizer(), name="tiny", revision="-")
    with pytest.raises(UserError, match="chat template"):
        plan(csv, tmp_path / "out", model=own)
    assert plan(csv, tmp_path / "out", model=own, protocol="gu2025").asked["protocol"] == "gu2025"


def test_a_dry_run_says_what_it_takes_and_writes_nothing(csv: Callable[[str, range], str], tmp_path: Path) -> None:
    made = plan(csv, tmp_path / "out", "lat:inner_steps=2:model_steps=3", steps=5)
    cost = estimate(made)
    parameters = sum(p.numel() for p in made.subject.model.parameters())
    assert (cost.examples, cost.benign, cost.steps, cost.updates) == (10, 6, 5, 15)
    assert cost.trained_parameters == parameters
    assert cost.state_bytes == 4 * parameters * 4
    assert cost.seconds > 0
    assert not (tmp_path / "out").exists()


def test_the_command(csv: Callable[[str, range], str], tmp_path: Path, save_model: Callable[..., Path]) -> None:
    from typer.testing import CliRunner

    base = save_model("llama", name="base")
    command = ["defend", "--recipe", "refusal", "--model", str(base), "--out", str(tmp_path / "out"), "--steps", "2"]
    command += ["--train", csv("train", range(10, 20)), "--test-prompts", csv("test", range(10))]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, UserError)
    assert "10 of 10 test prompts of test.csv have a near-duplicate among the training" in str(refused.exception)
    command.append("--allow-similar")
    dry = CliRunner().invoke(app, [*command, "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert "steps:      2, 2 updates" in dry.output
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert f"model: {tmp_path / 'out'}" in done.output
    again = CliRunner().invoke(app, command)
    assert "trained before" in again.output
