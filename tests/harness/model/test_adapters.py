"""A LoRA adapter's folder as a model: merged into its base, named by both, refused on another base."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from asabench.core.errors import UserError
from asabench.core.models import PACKAGED_ADAPTERS
from asabench.runs.command import model_spec
from harness.model.files import locate
from harness.model.subject import load
from tests.conftest import tiny_model


@pytest.fixture
def base(save_model: Callable[..., Path]) -> Path:
    return save_model("llama", name="base")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """An adapter whose weights are far from those of a fresh one, which changes nothing."""
    model = get_peft_model(tiny_model("llama"), LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "down_proj"]))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.5, generator=generator)
    folder = tmp_path / "adapter"
    model.save_pretrained(folder)
    rename_base(folder, base)
    return folder


def rename_base(folder: Path, base: Path) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(base)}))


def record_base(folder: Path, revision: str) -> None:
    (folder / "training.json").write_text(json.dumps({"base": {"name": "base", "revision": revision}}))


def test_it_is_merged_and_the_blocks_are_the_bases(base: Path, adapter: Path) -> None:
    ids = torch.arange(5, 12)[None]
    subject = load(str(adapter))
    plain = load(str(base))
    assert [type(block) for block in subject.blocks] == [type(block) for block in plain.blocks]
    with torch.no_grad():
        merged = subject.model(ids).logits
        unmerged = PeftModel.from_pretrained(load(str(base)).model, str(adapter)).eval()(ids).logits
        assert torch.allclose(merged, unmerged, atol=1e-4)
        assert not torch.allclose(merged, plain.model(ids).logits, atol=1e-2)
    assert not any("lora" in name for name, _ in subject.model.named_parameters())
    assert not any(parameter.requires_grad for parameter in subject.model.parameters())


def test_its_revision_follows_its_weights_and_its_base_but_not_its_record(base: Path, adapter: Path) -> None:
    first = locate(str(adapter))
    assert first.name == "adapter"
    record_base(adapter, locate(str(base)).revision)
    assert locate(str(adapter)).revision == first.revision
    config = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps({**config, "top_k": 7}))
    (adapter / "training.json").unlink()
    second = locate(str(adapter)).revision
    assert second != first.revision
    (adapter / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes() + b" ")
    assert locate(str(adapter)).revision not in (first.revision, second)


def test_an_adapter_may_be_trained_on_top_of_another(base: Path, adapter: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    shutil.copytree(adapter, second)
    rename_base(second, adapter)
    weights = dict(load(str(base)).model.named_parameters())
    one, two = dict(load(str(adapter)).model.named_parameters()), dict(load(str(second)).model.named_parameters())
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    # The same change twice
    assert torch.allclose(two[name] - weights[name], 2 * (one[name] - weights[name]), atol=1e-5)
    assert len({locate(str(folder)).revision for folder in (base, adapter, second)}) == 3


def test_it_is_refused_when_its_base_is_at_another_revision(adapter: Path) -> None:
    record_base(adapter, "sha256:0123456789abcdef")
    with pytest.raises(UserError, match=r"was made for .* at sha256:0123456789abcdef, and here is sha256:"):
        load(str(adapter))


def test_it_is_refused_on_a_base_of_another_shape(adapter: Path, save_model: Callable[..., Path]) -> None:
    rename_base(adapter, save_model("llama", name="wide", intermediate_size=24))
    with pytest.raises(UserError, match="does not fit its base model"):
        load(str(adapter))


def test_it_is_refused_on_a_base_of_another_family(adapter: Path, save_model: Callable[..., Path]) -> None:
    rename_base(adapter, save_model("gpt2", name="other"))
    with pytest.raises(UserError, match="does not fit its base model"):
        load(str(adapter))


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"base_model_name_or_path": null}'])
def test_a_broken_configuration_is_refused_in_one_line(adapter: Path, content: str) -> None:
    (adapter / "adapter_config.json").write_text(content)
    with pytest.raises(UserError) as refused:
        load(str(adapter))
    assert "\n" not in str(refused.value)


def test_a_base_that_is_not_there_is_named(adapter: Path, base: Path) -> None:
    shutil.rmtree(base)
    with pytest.raises(UserError, match="base"):
        load(str(adapter))


@pytest.mark.parametrize("name", sorted(PACKAGED_ADAPTERS))
def test_the_adapters_that_come_with_asabench_are_the_recorded_weights(name: str) -> None:
    """A changed file, or another base, would be another model under the same name."""
    packaged = PACKAGED_ADAPTERS[name]
    files = locate(name)
    assert files.name == name
    assert files.revision == packaged.revision
    assert model_spec(name, packaged.revision) == name
    assert model_spec(name, "sha256:another") == f"FOLDER-OF-{name}"
    folder = files.adapters[-1]
    record = json.loads((folder / "training.json").read_text())
    assert record["base"]["name"] == packaged.base
    assert record["base"]["revision"] == locate(packaged.base).revision
    assert all(len(goal) == 64 for goal in record["harmful_goals"])
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8e6
