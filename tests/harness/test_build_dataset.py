"""Building a benchmark from a recipe: two tiny models, resumed, and compared with what the runs hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import harness.build_dataset
from asabench.core.errors import UserError
from asabench.core.shards import Shard
from asabench.dataset.recipe import Recipe, read_recipe
from asabench.runs.folder import read_run
from asabench.stats.metrics import attack_result
from harness.build_dataset import build, build_share, costs
from tests.conftest import ROOT

CONFIG = ROOT / "configs" / "asabench-8.yaml"


@pytest.fixture
def recipe(save_model: Callable[..., Path]) -> Recipe:
    models = [
        {"name": str(save_model("llama", name="one")), "original_name": "One-1B"},
        {"name": str(save_model("gpt2", name="two"))},
    ]
    return Recipe.model_validate(
        dict(models=models, prompts="quickstart", limit=4, doses=(0.5, 1.0), max_new_tokens=6, judge="rules")
    )


def built(recipe: Recipe, out: Path, **options: Any) -> Any:
    return build(recipe, out, uncertified=True, **options)


def test_a_build_holds_what_its_runs_hold(recipe: Recipe, tmp_path: Path) -> None:
    benchmark = built(recipe, tmp_path / "out")
    assert benchmark.configs == ["One-1B", "two"]
    for config in benchmark.configs:
        run = read_run(tmp_path / "out" / "runs" / config)
        verdicts = run.judged(run.row.judge.id)
        unsafe = verdicts[(verdicts["label"] == "unsafe") & verdicts["layer"].notna()]
        instances = benchmark.instances(config).to_pandas()
        assert len(instances) == len(unsafe) == benchmark.model(config).instances
        assert set(instances["cell_id"]) == set(unsafe["cell_id"])
        attempts = benchmark.attempts(config).to_pandas()
        assert set(attempts["cell_id"]) == set(verdicts["cell_id"])
        # Rates can be recomputed from the attempts
        again = attack_result(attempts.convert_dtypes().assign(label=attempts["label"]), "random", 1.0)
        assert again.masr == run.row.masr
    manifest = json.loads((tmp_path / "out" / "benchmark" / "manifest.json").read_text())
    assert manifest["build"]["recipe"] == recipe.model_dump(mode="json")
    assert manifest["judge"]["id"].startswith("rules-")


def test_a_build_goes_on_where_it_stopped(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = built(recipe, tmp_path / "whole")
    real = harness.build_dataset.run_plan
    ran = []

    def stopping(plan: Any, **options: Any) -> Any:
        ran.append(plan.subject.name)
        if len(ran) == 2:
            raise KeyboardInterrupt
        return real(plan, **options)

    monkeypatch.setattr(harness.build_dataset, "run_plan", stopping)
    with pytest.raises(KeyboardInterrupt):
        built(recipe, tmp_path / "broken")
    assert not (tmp_path / "broken" / "benchmark").exists()
    resumed = built(recipe, tmp_path / "broken")
    assert ran == ["one", "two", "two"], "the finished model is not loaded again"
    for config in whole.configs:
        pd.testing.assert_frame_equal(whole.instances(config).to_pandas(), resumed.instances(config).to_pandas())


def test_shares_of_every_model_make_the_build_of_one_job(recipe: Recipe, tmp_path: Path) -> None:
    """Two shares, one of them asked for twice; nothing is generated at the end."""
    whole = built(recipe, tmp_path / "whole")
    out = tmp_path / "shared"

    def share(number: int, count: int) -> list[Path]:
        return build_share(recipe, out, Shard(number=number, count=count), uncertified=True)

    assert [folder.relative_to(out).as_posix() for folder in share(1, 2)] == [
        "shards/One-1B/1-of-2",
        "shards/two/1-of-2",
    ]
    with pytest.raises(UserError, match=r"missing"):
        built(recipe, out)
    assert not (out / "runs" / "One-1B").exists()
    share(2, 2)
    share(2, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness.build_dataset, "run_plan", lambda *given, **how: pytest.fail("nothing is left to run"))
        together = built(recipe, out)
    assert together.configs == whole.configs
    for config in whole.configs:
        for table in ("instances", "attempts"):
            one, other = (
                getattr(each, table)(config).to_pandas().sort_values("cell_id").reset_index(drop=True)
                for each in (whole, together)
            )
            pd.testing.assert_frame_equal(one, other)


def test_a_build_that_is_complete_is_given_back(recipe: Recipe, tmp_path: Path) -> None:
    """As after a kill between the last file and the last word."""
    first = built(recipe, tmp_path / "out")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert built(recipe, tmp_path / "out").manifest == first.manifest
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == written


def test_another_recipe_does_not_find_the_runs(recipe: Recipe, tmp_path: Path) -> None:
    built(recipe, tmp_path / "out")
    with pytest.raises(UserError, match="is there already, by another recipe; use --overwrite"):
        built(recipe.model_copy(update={"limit": 3}), tmp_path / "out")
    assert built(recipe, tmp_path / "out", overwrite=True).configs == ["One-1B", "two"]
    with pytest.raises(UserError, match="another recipe"):
        built(recipe.model_copy(update={"limit": 3}), tmp_path / "out", overwrite=True)


def test_two_models_of_one_name_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    twice = recipe.model_copy(update={"models": (recipe.models[1], recipe.models[1])})
    with pytest.raises(UserError, match="two models that would share the folder 'two'"):
        built(twice, tmp_path / "out")


def test_costs_are_measured_where_the_model_is_at_hand(recipe: Recipe, tmp_path: Path) -> None:
    away = read_recipe("nobody/nothing@v1").models[0]
    deep = away.model_copy(update={"n_layers": 7})
    one, _, unknown, known = costs(
        recipe.model_copy(update={"models": (*recipe.models, away, deep.model_copy(update={"name": "nobody/else"}))}),
        tmp_path,
    )
    assert one.cells == 4 * (1 + 4 * 2)
    assert one.seconds is not None
    assert one.seconds > 0
    assert (unknown.cells, unknown.seconds, unknown.disk_bytes) == (None, None, None)
    assert (known.cells, known.seconds) == (4 * (1 + 7 * 2), None)
    assert not (tmp_path / "runs").exists()


def test_the_shipped_recipe_is_the_published_setting() -> None:
    recipe = read_recipe(str(CONFIG))
    assert len(recipe.models) == 8
    assert (recipe.protocol, recipe.limit, recipe.attack, recipe.layers) == ("gu2025", 100, "random", "all")
    assert all(len(model.revision or "") == 40 for model in recipe.models)
    assert sum(model.original_name is not None for model in recipe.models) == 7


def test_a_recipe_from_names() -> None:
    recipe = read_recipe("smollm2-135m, org/model@abc")
    assert [(model.name, model.revision, model.model) for model in recipe.models] == [
        ("smollm2-135m", None, "smollm2-135m"),
        ("org/model", "abc", "org/model@abc"),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("models: [", "cannot be read"),
        ("models: []", "models"),
        ("models: [{name: a}]\ndose: 1", "dose"),
        ("models: [{name: a, layers: 3}]", "models.0.layers"),
        ("- a", "no recipe"),
    ],
)
def test_a_bad_recipe_is_one_clear_line(content: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as error:
        read_recipe(str(path))
    assert words in str(error.value)
    assert "asabench-8.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_no_model_is_refused() -> None:
    with pytest.raises(UserError, match="models"):
        read_recipe(" , ")


def test_the_recipe_in_a_manifest_reads_back(recipe: Recipe) -> None:
    assert Recipe.model_validate(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json")))) == recipe
