"""`asabench interpolate`: the mixture's arithmetic, what may differ between two models, and the choice of lambda."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from asabench.cli.app import app
from asabench.core.errors import UserError
from harness.defences.interpolate import interpolate, mix, write_mixture
from harness.defences.kept_utility import scorer
from harness.model.subject import load

Models = tuple[Path, Path]


def quiet(line: str) -> None:
    return None


@pytest.fixture
def models(save_model: Callable[..., Path]) -> Models:
    return save_model("llama", name="base", seed=0), save_model("llama", name="tuned", seed=1)


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def test_the_mixture_by_hand() -> None:
    got = mix(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 2.0]), 0.25)
    assert torch.equal(got, torch.tensor([1.5, -1.0]))


def test_it_is_computed_in_float32_and_cast_once() -> None:
    """In bfloat16 throughout, 0.9 * 1 + 0.1 * 1 would already not be 1."""
    generator = torch.Generator().manual_seed(0)
    base, tuned = (torch.randn(1000, generator=generator).bfloat16() for _ in range(2))
    exact = (0.9 * base.double() + 0.1 * tuned.double()).bfloat16()
    got = mix(base, tuned, 0.1)
    assert got.dtype is torch.bfloat16
    assert torch.equal(got, exact)
    assert not torch.equal(0.9 * base + 0.1 * tuned, exact)


def test_the_ends_are_the_models_themselves() -> None:
    a, b = torch.randn(50), torch.randn(50)
    assert torch.equal(mix(a, b, 0.0), a)
    assert torch.equal(mix(a, b, 1.0), b)


def test_whole_numbers_must_be_equal() -> None:
    assert torch.equal(mix(torch.tensor([1, 2]), torch.tensor([1, 2]), 0.5), torch.tensor([1, 2]))
    with pytest.raises(UserError, match="not quantised"):
        mix(torch.tensor([1, 2]), torch.tensor([1, 3]), 0.5)


def test_a_model_folder_comes_out(models: Models, tmp_path: Path) -> None:
    done = interpolate(str(models[0]), str(models[1]), [0.3], tmp_path / "out", say=quiet)
    a, b, got = tensors(models[0]), tensors(models[1]), tensors(done.path)
    assert got.keys() == a.keys()
    assert all(torch.allclose(got[name], 0.7 * a[name] + 0.3 * b[name], atol=1e-6) for name in a)
    assert load(str(done.path)).tokenizer.chat_template
    record = json.loads((done.path / "training.json").read_text())
    assert (record["lambda"], record["base"]["name"], record["tuned"]["name"]) == (0.3, "base", "tuned")
    assert "base_model: base" in (done.path / "README.md").read_text()
    assert not list(done.path.glob(".unfinished*"))


def test_shards_hold_what_they_may_and_load(models: Models, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    most = 12_000
    write_mixture(*models, 0.5, tmp_path / "out", shard_bytes=most)
    files = list((tmp_path / "out").glob("model-*-of-*.safetensors"))
    assert len(files) > 2
    for path in files:
        own = load_file(path)
        assert len(own) == 1 or sum(tensor.nbytes for tensor in own.values()) <= most
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == tensors(models[0]).keys()
    one = tmp_path / "one"
    one.mkdir()
    write_mixture(*models, 0.5, one)
    sharded, whole = load(str(tmp_path / "out")).model.state_dict(), load(str(one)).model.state_dict()
    assert all(torch.equal(sharded[name], whole[name]) for name in whole)
    # And a sharded model is read again as one
    again = tmp_path / "again"
    again.mkdir()
    write_mixture(tmp_path / "out", one, 0.4, again)
    assert all(torch.allclose(t, whole[name], atol=1e-6) for name, t in load(str(again)).model.state_dict().items())


def test_tied_weights_may_be_stored_once_or_twice(save_model: Callable[..., Path], tmp_path: Path) -> None:
    base = save_model("llama", name="base", tie_word_embeddings=True)
    tuned = save_model("llama", name="tuned", tie_word_embeddings=True, seed=1)
    assert "lm_head.weight" not in tensors(tuned)
    rewrite(tuned, lambda own: own | {"lm_head.weight": own["model.embed_tokens.weight"].clone()})
    done = interpolate(str(base), str(tuned), [0.5], tmp_path / "out", say=quiet)
    model = load(str(done.path)).model
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    rewrite(tuned, lambda own: own | {"lm_head.weight": own["lm_head.weight"] + 1})
    with pytest.raises(UserError, match=r"tuned has the weight lm_head.weight and .*base has not"):
        interpolate(str(base), str(tuned), [0.5], tmp_path / "other", say=quiet)


def test_models_of_different_architectures(models: Models, save_model: Callable[..., Path], tmp_path: Path) -> None:
    wide = save_model("llama", name="wide", intermediate_size=64)
    with pytest.raises(UserError, match=r"has shape \(32, 48\) in .* and \(32, 64\)"):
        interpolate(str(models[0]), str(wide), [0.5], tmp_path / "a", say=quiet)
    deep = save_model("llama", name="deep", num_hidden_layers=5)
    with pytest.raises(UserError, match="one architecture"):
        interpolate(str(models[0]), str(deep), [0.5], tmp_path / "b", say=quiet)
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_weights_that_are_not_finite_or_not_there(models: Models, tmp_path: Path) -> None:
    rewrite(models[1], lambda own: own | {"model.norm.weight": own["model.norm.weight"] * float("nan")})
    with pytest.raises(UserError, match="not finite"):
        interpolate(str(models[0]), str(models[1]), [0.5], tmp_path / "a", say=quiet)
    (models[1] / "model.safetensors").write_bytes(b"12")
    with pytest.raises(UserError, match="cannot be read"):
        interpolate(str(models[0]), str(models[1]), [0.5], tmp_path / "b", say=quiet)
    (models[1] / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no safetensors"):
        interpolate(str(models[0]), str(models[1]), [0.5], tmp_path / "c", say=quiet)


def scored(by_lambda: dict[float, float], models: Models) -> tuple[Callable[[Path], float], list[float]]:
    """A score that reads off the weights which lambda a folder was made with."""
    a, b = (tensors(folder)["model.embed_tokens.weight"] for folder in models)
    asked: list[float] = []

    def score(folder: Path) -> float:
        own = tensors(folder)["model.embed_tokens.weight"]
        lam = round(float(((own - a) * (b - a)).sum() / ((b - a) ** 2).sum()), 3)
        asked.append(lam)
        return by_lambda[lam]

    return score, asked


@pytest.mark.parametrize(
    ("scores", "margin", "chosen"),
    [
        ({0.0: 0.8, 0.1: 0.8, 0.3: 0.76, 0.5: 0.6}, 0.05, 0.3),
        ({0.0: 0.8, 0.1: 0.8, 0.3: 0.75, 0.5: 0.9}, 0.05, 0.5),
        ({0.0: 0.8, 0.1: 0.75, 0.3: 0.7, 0.5: 0.6}, 0.05, 0.1),
        ({0.0: 0.8, 0.1: 0.8, 0.3: 0.79, 0.5: 0.79}, 0.0, 0.1),
    ],
)
def test_the_largest_lambda_within_the_margin(
    models: Models, tmp_path: Path, scores: dict[float, float], margin: float, chosen: float
) -> None:
    score, asked = scored(scores, models)
    choices = dict(score=score, margin=margin, kept="benign", say=quiet)
    done = interpolate(str(models[0]), str(models[1]), [0.1, 0.5, 0.3], tmp_path / "out", **choices)  # type: ignore[arg-type]
    assert done.lam == chosen
    assert asked == [0.0, *sorted((lam for lam in (0.1, 0.3, 0.5) if lam >= chosen), reverse=True)]
    assert done.scores == {lam: scores[lam] for lam in asked}
    assert scored(scores, models)[0](done.path) == scores[chosen]
    again = interpolate(str(models[0]), str(models[1]), [0.1, 0.3, 0.5], tmp_path / "out", **choices)  # type: ignore[arg-type]
    assert again == done
    assert len(asked) == len(done.scores), "what is finished is not measured again"


def test_no_lambda_keeps_it(models: Models, tmp_path: Path) -> None:
    score, _ = scored({0.0: 0.8, 0.1: 0.5}, models)
    with pytest.raises(UserError, match=r"no lambda keeps benign within 0.05 of the base \(0: 0.800, 0.1: 0.500\)"):
        interpolate(
            str(models[0]), str(models[1]), [0.1], tmp_path / "out", score=score, margin=0.05, kept="benign", say=quiet
        )
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("lambdas", "says"),
    [([], "cannot be used"), ([0.0], "over 0"), ([1.5], "up to 1"), ([0.1, 0.1], "different"), ([0.1, 0.2], "--keep")],
)
def test_lambdas_that_cannot_be_used(models: Models, tmp_path: Path, lambdas: list[float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        interpolate(str(models[0]), str(models[1]), lambdas, tmp_path / "out", say=quiet)


def test_a_tuned_model_that_is_half_written(models: Models, tmp_path: Path) -> None:
    (models[1] / "settings.json").write_text("{}")
    with pytest.raises(UserError, match="half written"):
        interpolate(str(models[0]), str(models[1]), [0.5], tmp_path / "out", say=quiet)


def test_the_goals_of_the_tuned_model_are_kept(models: Models, tmp_path: Path) -> None:
    recipe = {"recipe": {"name": "lapt"}, "layers": [1]}
    (models[1] / "training.json").write_text(json.dumps({**recipe, "harmful_goals": ["ab", "cd"]}))
    done = interpolate(str(models[0]), str(models[1]), [0.5], tmp_path / "out", say=quiet)
    record = json.loads((done.path / "training.json").read_text())
    assert record["harmful_goals"] == ["ab", "cd"]
    assert record["tuned_training"] == recipe


def test_what_may_be_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="allowed: benign, over-refusal, csqa"):
        scorer("gsm9k")
    with pytest.raises(UserError, match="--csqa"):
        scorer("csqa")


def test_utility_as_asabench_measures_it(models: Models, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    rows = [
        {
            "question": {
                "stem": f"What is {n}?",
                "choices": [{"label": label, "text": text} for label, text in zip("AB", texts, strict=True)],
            },
            "answerKey": "AB"[n % 2],
        }
        for n, texts in enumerate([("a cat", "a dog"), ("red", "blue"), ("one", "two")])
    ]
    questions.write_text("\n".join(map(json.dumps, rows)))
    assert 0 <= scorer("csqa", csqa=str(questions))(models[0]) <= 1
    benign = scorer("benign", limit=3)(models[0])
    assert benign == pytest.approx(round(benign * 3) / 3)
    assert scorer("over-refusal", limit=3)(models[0]) == 1.0, "random letters refuse nothing"


def test_the_command(models: Models, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["interpolate", *map(str, models), "--out", str(out), "--lambdas", "0.2"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-2:] == ["lambda: 0.2", f"model: {out}"]
    with pytest.raises(UserError, match="names no margin"):
        CliRunner().invoke(app, [*command, "--keep", "benign"], catch_exceptions=False)
    kept = ["interpolate", *map(str, models), "--out", str(tmp_path / "kept"), "--lambdas", "0.1,0.2"]
    kept += ["--keep", "over-refusal:0.05", "--limit", "2"]
    chosen = CliRunner().invoke(app, kept)
    assert chosen.exit_code == 0, chosen.output
    assert "lambda 0.2: over-refusal 1.000" in chosen.output
