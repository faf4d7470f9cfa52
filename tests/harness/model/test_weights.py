"""What is loaded is what the files hold: names, shapes, indexes, pickles, and conversions that are kept."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Module

import harness.model.files
from asabench.cli.app import main as asabench_main
from asabench.core.errors import UserError
from asabench.core.hub import HubFile
from asabench.core.models import PackagedModel
from asabench.core.records import Prompt
from harness.evaluation.evaluate import evaluate
from harness.model.files import locate
from harness.model.packaged import file_sha256
from harness.model.subject import load
from harness.model.weights import (
    compare_with_files,
    fingerprint,
    load_weights,
    refuse_drawn_weights,
    weight_files,
)
from tests.conftest import FAMILIES, VOCABULARY, byte_tokenizer, tiny_model

IDS = torch.arange(5, 12)[None]


def refusal(folder: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(str(folder), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def refusal_of_the_command(folder: Path, *options: str) -> str:
    """What `asabench evaluate` says of a model, in one line and with exit code 2."""
    said = io.StringIO()
    words = ["asabench", "evaluate", "--model", str(folder), "--judge", "rules", "--uncertified", "--dry-run", *options]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said), pytest.raises(SystemExit) as exited:
        patch.setattr(sys, "argv", words)
        asabench_main()
    assert exited.value.code == 2
    assert said.getvalue().startswith("asabench: ")
    assert said.getvalue().count("\n") == 1
    return said.getvalue()


@torch.no_grad()
def logits(model: Module) -> Tensor:
    return model(IDS).logits


@pytest.fixture
def folder(save_model: Callable[..., Path]) -> Path:
    return save_model("llama", name="model")


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(dict(change(load_file(path))), path, metadata={"format": "pt"})


def renamed(before: str, after: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {name.replace(before, after, 1): tensor for name, tensor in tensors.items()}


def reconfigure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def split(folder: Path, parts: int = 2) -> list[Path]:
    """The same weights in shards with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, weight_map, paths = sorted(tensors), {}, []
    for part in range(parts):
        path = folder / f"model-{part + 1:05d}-of-{parts:05d}.safetensors"
        own = names[part::parts]
        save_file({name: tensors[name] for name in own}, path, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(own, path.name)
        paths.append(path)
    write_index(folder, weight_map)
    return paths


def write_index(folder: Path, weight_map: object, name: str = "model.safetensors.index.json") -> None:
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


# ----------------------------------------------------------------------------------------------------------------------
# Names and shapes
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_whole_checkpoint_of_every_family_is_taken(
    family: str, dtype: torch.dtype, save_model: Callable[..., Path]
) -> None:
    folder = save_model(family)
    model, found = load_weights(folder, family, dtype=dtype)
    assert found.startswith("no tensor is missing; values of ")
    expected = tiny_model(family).state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name].to(dtype)) for name, tensor in model.state_dict().items())
    in_file = load_file(folder / "model.safetensors")
    # Those that transformers renames while it loads have no tensor of their name: the head of GPT-NeoX
    assert compare_with_files(model, weight_files(folder, family, allow_pickle=False), family) >= len(in_file) - 1


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "_fsdp_wrapped_module.", "base_model.model.", "student."])
def test_names_of_a_wrapper_are_refused_and_said(folder: Path, prefix: str) -> None:
    rewrite(folder, lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()})
    message = refusal_of_the_command(folder)
    assert "missing in the file: lm_head.weight, model.embed_tokens.weight, ..." in message
    assert f"all that is missing is there with {prefix!r} before its name" in message


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("model.layers.", "model._orig_mod.layers."),
        ("self_attn.", "_fsdp_wrapped_module.self_attn."),
        (".mlp.", "._checkpoint_wrapped_module.mlp."),
        ("model.layers.", "transformer.h."),
        ("q_proj", "wq"),
    ],
)
def test_other_names_inside_are_refused(folder: Path, before: str, after: str) -> None:
    rewrite(folder, renamed(before, after))
    message = refusal(folder)
    assert "missing in the file: model.layers.0." in message
    assert "without a place: " in message


@pytest.mark.parametrize("change", ["doubled", "left out"])
def test_the_name_of_the_decoder_may_stand_twice_or_not_at_all(folder: Path, change: str) -> None:
    expected = logits(load(str(folder)).model)
    if change == "doubled":
        rewrite(folder, lambda tensors: {f"model.{name}": tensor for name, tensor in tensors.items()})
    else:
        rewrite(folder, lambda tensors: {name.removeprefix("model."): tensor for name, tensor in tensors.items()})
    assert torch.equal(logits(load(str(folder)).model), expected)


def test_a_tensor_that_stands_under_two_names_of_the_model_is_refused(folder: Path) -> None:
    rewrite(folder, lambda tensors: {**tensors, "layers.1.mlp.up_proj.weight": torch.zeros(48, 32)})
    assert "layers.1.mlp.up_proj.weight has other values in the model than in model.safetensors" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.3.input_layernorm.weight",
        "model.norm.weight",
        "lm_head.weight",
    ],
)
def test_one_missing_tensor_is_refused_by_name(folder: Path, name: str) -> None:
    rewrite(folder, lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name})
    assert f"missing in the file: {name} (1 in all)" in refusal_of_the_command(folder)


def test_tied_embeddings_are_in_the_file_once_under_either_name(save_model: Callable[..., Path]) -> None:
    folder = save_model("llama", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    expected = logits(tiny_model("llama", tie_word_embeddings=True))
    assert torch.equal(logits(load(str(folder)).model), expected)
    rewrite(folder, renamed("model.embed_tokens", "lm_head"))
    assert torch.equal(logits(load(str(folder)).model), expected)
    rewrite(folder, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"})
    assert "embed_tokens.weight" in refusal(folder)


def test_more_and_fewer_blocks_than_the_configuration_has(folder: Path) -> None:
    reconfigure(folder, num_hidden_layers=3)
    assert "unexpected in the file: model.layers.3." in refusal_of_the_command(folder)
    reconfigure(folder, num_hidden_layers=5)
    assert "missing in the file: model.layers.4." in refusal_of_the_command(folder)


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.bias", "lm_head.bias", "model.layers.0.extra.scale"])
def test_a_tensor_that_the_model_has_no_place_for_is_refused(folder: Path, name: str) -> None:
    rewrite(folder, lambda tensors: {**tensors, name: torch.ones(32)})
    assert f"unexpected in the file: {name} (1 in all)" in refusal(folder)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llama", "v_head.summary.weight"),  # a trainer's value head
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("gpt2", "transformer.h.0.attn.bias"),  # a causal mask
        ("gpt2", "transformer.h.0.attn.masked_bias"),
        ("gpt_neox", "gpt_neox.layers.0.attention.bias"),
        ("gptj", "transformer.h.1.attn.masked_bias"),
        ("llama", "model.rotary_emb.original_inv_freq"),
    ],
)
def test_what_is_computed_or_no_part_of_the_model_may_lie_there(
    family: str, name: str, save_model: Callable[..., Path]
) -> None:
    folder = save_model(family)
    expected = logits(load(str(folder)).model)
    rewrite(folder, lambda tensors: {**tensors, name: torch.ones(1, 1, 4, 4)})
    assert torch.equal(logits(load(str(folder)).model), expected)


def test_a_buffer_that_newer_code_computes_may_lie_there(tmp_path: Path) -> None:
    config = transformers.XGLMConfig(
        vocab_size=VOCABULARY, d_model=32, ffn_dim=48, num_layers=2, attention_heads=4, max_position_embeddings=64
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path)
    positions = model.model.embed_positions.weights
    rewrite(tmp_path, lambda tensors: {**tensors, "model.embed_positions.weights": positions})
    assert torch.equal(logits(load_weights(tmp_path, "xglm", dtype=torch.float32)[0]), logits(model))


@pytest.mark.parametrize(
    "changes", [{"intermediate_size": 24}, {"vocab_size": VOCABULARY + 8}, {"num_attention_heads": 2}]
)
def test_other_shapes_are_refused_with_both(folder: Path, changes: dict[str, int]) -> None:
    reconfigure(folder, **changes)
    assert "in the file and (" in refusal_of_the_command(folder)


# ----------------------------------------------------------------------------------------------------------------------
# Files
# ----------------------------------------------------------------------------------------------------------------------


def test_shards_with_an_index_are_one_model(folder: Path) -> None:
    expected = logits(load(str(folder)).model)
    split(folder, 3)
    assert torch.equal(logits(load(str(folder)).model), expected)


def test_a_shard_that_is_not_there_is_named(folder: Path) -> None:
    paths = split(folder, 3)
    paths[1].unlink()
    message = refusal_of_the_command(folder)
    assert "1 of the 3 files that its index names are not in the folder (model-00002-of-00003.safetensors)" in message


def test_an_index_that_leaves_a_shard_out(folder: Path) -> None:
    paths = split(folder, 2)
    write_index(folder, {"lm_head.weight": paths[0].name})
    assert "missing in the file: " in refusal(folder)


def test_a_tensor_in_two_shards_with_two_values_is_refused(folder: Path) -> None:
    first, second = split(folder, 2)
    name = min(load_file(first).keys() - {"lm_head.weight"})
    save_file({**load_file(second), name: load_file(first)[name] + 1}, second, metadata={"format": "pt"})
    assert f"{name} has other values in the model than in model-0000" in refusal(folder)


@pytest.mark.parametrize(
    "elsewhere", ["../model.safetensors", "/elsewhere/model.safetensors", "sub/model.safetensors", ".."]
)
def test_an_index_that_names_files_elsewhere_is_refused(folder: Path, elsewhere: str) -> None:
    split(folder)
    write_index(folder, {"lm_head.weight": elsewhere})
    assert f"names weights outside its folder ({elsewhere})" in refusal(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"metadata": {}}', '{"weight_map": []}', '{"weight_map": {}}'])
def test_a_broken_index_is_refused_in_one_line(folder: Path, content: str) -> None:
    split(folder)
    (folder / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in refusal(folder)


def test_two_sets_of_weights_are_refused(folder: Path, save_model: Callable[..., Path]) -> None:
    other = save_model("llama", name="other", seed=1)
    for path in split(other):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "model.safetensors.index.json").write_bytes((other / "model.safetensors.index.json").read_bytes())
    assert "two sets of weights" in refusal_of_the_command(folder)
    write_index(folder, {"lm_head.weight": "model.safetensors"})
    assert load(str(folder)).n_layers == 4


def test_a_distributed_checkpoint_is_refused(folder: Path) -> None:
    (folder / "shard-00001-model-00001-of-00001.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert "distributed checkpoint" in refusal(folder)


def test_weights_under_the_name_that_the_configuration_gives(folder: Path) -> None:
    expected = logits(load(str(folder)).model)
    (folder / "model.safetensors").rename(folder / "own.safetensors")
    reconfigure(folder, transformers_weights="own.safetensors")
    assert torch.equal(logits(load(str(folder)).model), expected)
    reconfigure(folder, transformers_weights="../own.safetensors")
    assert "outside its folder" in refusal(folder)


# ----------------------------------------------------------------------------------------------------------------------
# Pickles
# ----------------------------------------------------------------------------------------------------------------------


def pickled(folder: Path, name: str) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / name)
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("index", [None, "pytorch_model.bin.index.json", "model.safetensors.index.json"])
def test_pickles_are_read_with_the_flag_alone(folder: Path, index: str | None) -> None:
    expected = logits(load(str(folder)).model)
    pickled(folder, "pytorch_model.bin" if index is None else "pytorch_model-00001-of-00001.bin")
    if index is not None:
        write_index(folder, {"lm_head.weight": "pytorch_model-00001-of-00001.bin"}, index)
    message = refusal_of_the_command(folder)
    assert ".bin can be a pickle" in message
    assert "--allow-pickle" in message
    assert torch.equal(logits(load(str(folder), allow_pickle=True).model), expected)


def test_a_pickle_that_the_configuration_names_needs_the_flag_too(folder: Path) -> None:
    pickled(folder, "adapter_model.bin")
    reconfigure(folder, transformers_weights="adapter_model.bin")
    assert "adapter_model.bin can be a pickle" in refusal(folder)


def test_other_files_of_torch_are_never_read(folder: Path) -> None:
    pickled(folder, "consolidated.00.pth")
    assert "has no safetensors weights" in refusal(folder)
    assert "has no weights that can be read" in refusal(folder, allow_pickle=True)


def test_safetensors_win_over_a_pickle_beside_them(folder: Path) -> None:
    expected = logits(load(str(folder)).model)
    torch.save(tiny_model("llama", seed=1).state_dict(), folder / "pytorch_model.bin")
    for allow_pickle in (False, True):
        assert torch.equal(logits(load(str(folder), allow_pickle=allow_pickle).model), expected)


def test_what_is_missing_in_a_pickle_is_refused(folder: Path) -> None:
    rewrite(folder, renamed("mlp.up_proj", "mlp.up"))
    pickled(folder, "pytorch_model.bin")
    assert "missing in the file: model.layers.0.mlp.up_proj.weight" in refusal(folder, allow_pickle=True)


# ----------------------------------------------------------------------------------------------------------------------
# Loaded twice
# ----------------------------------------------------------------------------------------------------------------------


def test_a_tensor_drawn_at_random_in_silence_shows_when_it_is_loaded_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A family may tell transformers not to report what is missing."""
    monkeypatch.setattr(transformers.LlamaForCausalLM, "_keys_to_ignore_on_load_missing", [r"up_proj"])
    rewrite(folder, lambda tensors: {name: tensor for name, tensor in tensors.items() if "2.mlp.up_proj" not in name})
    message = refusal_of_the_command(folder)
    assert "not the same when they are loaded twice: drawn at random: model.layers.2.mlp.up_proj.weight" in message


def test_a_family_that_draws_in_vain_is_taken_and_the_state_of_the_generator_is_its_own(tmp_path: Path) -> None:
    config = transformers.DiffLlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    once = torch.random.get_rng_state()
    assert not torch.equal(once, before)
    torch.manual_seed(0)
    loaded, found = load_weights(tmp_path, "diff", dtype=torch.float32)
    assert found.endswith("; the same when loaded twice")
    assert torch.equal(torch.random.get_rng_state(), once)
    assert torch.equal(logits(loaded), logits(model.eval()))


def test_a_run_says_how_its_weights_were_checked(folder: Path, tmp_path: Path) -> None:
    made = evaluate(
        str(folder),
        prompts=[Prompt(id="p", goal="sing a song")],
        layers=[1],
        seeds=[0],
        max_new_tokens=2,
        judge="rules",
        uncertified=True,
        out=tmp_path / "run",
    )
    manifest = json.loads((made.path / "manifest.json").read_text())
    assert manifest["self_tests"]["the weights are those of the files"] == "no tensor is missing; values of 39 compared"


def test_fingerprints_differ_where_a_value_does() -> None:
    model = tiny_model("llama")
    first = fingerprint(model)
    refuse_drawn_weights(first, fingerprint(model), "m")
    model.lm_head.weight[VOCABULARY // 2, 3] += 1
    with pytest.raises(UserError, match=r"drawn at random: lm_head.weight \(1 in all\)"):
        refuse_drawn_weights(first, fingerprint(model), "m")


def test_a_value_that_is_not_a_number_is_itself(folder: Path) -> None:
    rewrite(folder, lambda tensors: {**tensors, "model.norm.weight": torch.full((32,), float("nan"))})
    load_weights(folder, "m", dtype=torch.float32)


# ----------------------------------------------------------------------------------------------------------------------
# GGUF, and what is kept of it
# ----------------------------------------------------------------------------------------------------------------------

IN_GGUF = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(path: Path, model: Any, without: str = "") -> None:
    """A Qwen 2 model, whose tensors GGUF holds as they are, and a tokenizer of single letters."""
    config = model.config
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    vocabulary = byte_tokenizer().get_vocab()
    tokens = [*sorted(vocabulary, key=lambda token: vocabulary[token])[:-1], "ĠĠ"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_eos_token_id(2)
    writer.add_bos_token_id(1)
    for name, tensor in model.state_dict().items():
        stem, _, kind = name.rpartition(".")
        block = stem.startswith("model.layers.")
        inner = stem.split(".", 3)[3] if block else stem
        place = f"blk.{stem.split('.')[2]}." if block else ""
        if f"{place}{IN_GGUF[inner]}.{kind}" != without:
            writer.add_tensor(f"{place}{IN_GGUF[inner]}.{kind}", tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of version 1.0 with a GGUF file, known under the short name `tiny-gguf`; its folder."""
    source = tmp_path / "site" / "tiny_gguf_weights"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text("")
    about = tmp_path / "site" / "tiny_gguf_weights-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-gguf-weights\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("ASABENCH_CACHE", str(tmp_path / "cache"))
    write_gguf(source / "tiny.gguf", tiny_model("qwen2"))
    known(monkeypatch, source)
    return source


def known(monkeypatch: pytest.MonkeyPatch, source: Path, digest: str | None = None) -> None:
    model = PackagedModel(
        name="tiny-gguf",
        description="",
        distribution="tiny-gguf-weights",
        version="1.0",
        module="tiny_gguf_weights",
        gguf_file="tiny.gguf",
        sha256=digest or file_sha256(source / "tiny.gguf"),
        hub=HubFile(repository="tiny/gguf", revision="0" * 40, path="tiny.gguf"),
        licence="",
    )
    monkeypatch.setattr(harness.model.files, "PACKAGED_MODELS", {"tiny-gguf": model})


def converted(capsys: pytest.CaptureFixture[str]) -> bool:
    return "converting the weights" in capsys.readouterr().err


def test_gguf_is_converted_once_and_kept(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = load_weights(locate("tiny-gguf").folder, "tiny-gguf", dtype=torch.float32)
    assert torch.allclose(logits(model), logits(tiny_model("qwen2")), atol=1e-5)
    assert converted(capsys)
    assert locate("tiny-gguf").revision == "tiny-gguf-weights==1.0"
    assert not converted(capsys)


@pytest.mark.parametrize("damage", ["value", "other model", "no record", "record of another", "one file more", "cut"])
def test_a_kept_conversion_is_checked_against_its_digests(
    package: Path, damage: str, capsys: pytest.CaptureFixture[str], save_model: Callable[..., Path]
) -> None:
    folder = locate("tiny-gguf").folder
    weights, record = folder / "model.safetensors", folder / "converted.json"
    content = weights.read_bytes()
    if damage == "value":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "other model":
        weights.write_bytes((save_model("qwen2", seed=1) / "model.safetensors").read_bytes())
    elif damage == "no record":
        record.unlink()
    elif damage == "record of another":
        record.write_text(json.dumps({**json.loads(record.read_text()), "gguf_sha256": "0" * 64}))
    elif damage == "one file more":
        (folder / "chat_template.jinja").write_text("{{ messages }}")
    else:
        weights.write_bytes(content[: len(content) // 2])
    capsys.readouterr()
    again = locate("tiny-gguf").folder
    assert converted(capsys)
    assert (again / "model.safetensors").read_bytes() == content
    assert not [path for path in again.parent.iterdir() if path != again]
    locate("tiny-gguf")
    assert not converted(capsys)


def test_gguf_without_a_tensor_is_refused_and_nothing_is_kept(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(package / "tiny.gguf", tiny_model("qwen2"), without="blk.1.ffn_down.weight")
    known(monkeypatch, package)
    with pytest.raises(UserError, match=r"missing in the file: model\.layers\.1\.mlp\.down_proj\.weight"):
        locate("tiny-gguf")
    assert not list((package.parent.parent / "cache" / "models").iterdir())


def test_another_gguf_file_under_the_same_version_is_refused(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, package, "0" * 64)
    with pytest.raises(UserError, match=r"not those of tiny-gguf-weights==1\.0 .*--force-reinstall"):
        locate("tiny-gguf")
    (package / "tiny.gguf").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        locate("tiny-gguf")


def test_a_folder_with_a_gguf_file_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "GGUF is read of packaged models only" in refusal(tmp_path)
