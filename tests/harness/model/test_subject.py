"""Which models are let in, which are refused and in which words, and how prompts are formatted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import transformers

from asabench.core.errors import UserError
from asabench.core.protocol import PRESETS
from asabench.core.records import Prompt
from harness.model.files import folder_digest, locate
from harness.model.subject import Subject, check_prompt_format, load, make_subject
from tests.conftest import VOCABULARY, byte_tokenizer, chat_tokenizer, tiny_model, tiny_subject

V1, GU2025 = PRESETS["asabench-v1"], PRESETS["gu2025"]
SMALL = dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4)


def refusal(name: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(name, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def saved(model: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    chat_tokenizer().save_pretrained(folder)
    return str(folder)


def test_a_folder_is_loaded_and_named_by_its_content(save_model: Callable[..., Path]) -> None:
    folder = save_model("qwen2")
    subject = load(str(folder))
    assert (subject.name, subject.n_layers, subject.d_model, subject.dtype) == ("tiny-qwen2", 4, 32, "float32")
    assert subject.revision == f"sha256:{folder_digest(folder)[:16]}"
    assert subject.stop_tokens == {2, *range(20, 30)}
    (folder / "README.md").write_text("words about it")
    assert subject.revision == f"sha256:{folder_digest(folder)[:16]}"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert subject.revision != f"sha256:{folder_digest(folder)[:16]}"


def test_line_ends_of_a_folder_do_not_count(save_model: Callable[..., Path]) -> None:
    """A checkout may have changed them; weights are bytes."""
    folder = save_model("qwen2")
    (folder / "chat_template.jinja").write_bytes(b"one\ntwo\n")
    before = folder_digest(folder)
    for path in (folder / "config.json", folder / "chat_template.jinja"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        assert folder_digest(folder) == before
    (folder / "chat_template.jinja").write_bytes(b"one\n\ntwo\n")
    assert folder_digest(folder) != before
    (weights,) = folder.glob("*.safetensors")
    with_text = folder_digest(folder)
    weights.write_bytes(weights.read_bytes() + b"\r\n")
    first = folder_digest(folder)
    weights.write_bytes(weights.read_bytes()[:-2] + b"\n")
    assert len({with_text, first, folder_digest(folder)}) == 3


def test_dtype_is_taken(save_model: Callable[..., Path]) -> None:
    assert load(str(save_model("llama")), dtype="bfloat16").dtype == "bfloat16"
    assert "float32, bfloat16, float16" in refusal("smollm2-135m", dtype="float8")


@pytest.mark.parametrize("name", ["no-such-model", "./no/such/folder", "/nowhere/at/all", "a/b/c"])
def test_unknown_names_are_refused_with_what_is_allowed(name: str) -> None:
    message = refusal(name)
    assert name in message
    assert "smollm2-135m" in message


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    assert "config.json" in refusal(str(tmp_path))
    (tmp_path / "config.json").write_text("{not json")
    assert "cannot be loaded" in refusal(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "no-such-family"}')
    assert "cannot be loaded" in refusal(str(tmp_path))


def test_a_folder_without_weights_or_tokenizer(save_model: Callable[..., Path]) -> None:
    folder = save_model("llama")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    assert "no tokenizer" in refusal(str(folder))
    (folder / "model.safetensors").unlink()
    assert "safetensors" in refusal(str(folder))


def test_a_truncated_weights_file(save_model: Callable[..., Path]) -> None:
    folder = save_model("llama")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "tiny-llama" in refusal(str(folder))


def test_pickled_weights_need_a_flag(save_model: Callable[..., Path]) -> None:
    folder = save_model("llama")
    torch.save(tiny_model("llama").state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "--allow-pickle" in refusal(str(folder))
    assert load(str(folder), allow_pickle=True).n_layers == 4


def test_remote_code_needs_a_flag(save_model: Callable[..., Path]) -> None:
    folder = save_model("llama")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('the code of the model ran')")
    assert "--allow-remote-code" in refusal(str(folder))


def test_encoder_decoders_and_encoders_are_refused(tmp_path: Path) -> None:
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=VOCABULARY, d_model=32, d_ff=48, num_layers=2, num_heads=4, d_kv=8)
    )
    assert "decoder-only" in refusal(saved(t5, tmp_path / "t5"))
    vit = transformers.ViTModel(
        transformers.ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=32
        )
    )
    assert "no decoder" in refusal(saved(vit, tmp_path / "vit"))
    bert = transformers.BertForMaskedLM(transformers.BertConfig(**SMALL))
    message = refusal(saved(bert, tmp_path / "bert"))
    assert "not causal" in message or "residual" in message


@pytest.mark.parametrize(
    ("config_class", "arguments"),
    [
        ("OpenAIGPTConfig", dict(vocab_size=VOCABULARY, n_embd=32, n_layer=4, n_head=4, n_positions=64)),
        (
            "OPTConfig",
            dict(
                **{k: v for k, v in SMALL.items() if k != "intermediate_size"},
                ffn_dim=48,
                word_embed_proj_dim=32,
                do_layer_norm_before=False,
            ),
        ),
        ("MambaConfig", dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4)),
    ],
)
def test_families_without_a_residual_stream_or_a_cache_to_share(config_class: str, arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, config_class)(**arguments)).eval()
    with pytest.raises(UserError, match=r"residual stream|key-value cache"):
        make_subject(model, byte_tokenizer(), name="odd", revision="-")


def test_the_residual_check_accepts_every_family_in_bfloat16(family_subject: Subject) -> None:
    family = family_subject.name.removeprefix("tiny-")
    model = tiny_model(family).to(torch.bfloat16)
    assert make_subject(model, chat_tokenizer(), name="half", revision="-").dtype == "bfloat16"


def test_hub_id_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="hub cannot be reached"):
        locate("someone/some-model@v1")


def test_hub_errors_have_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import errors

    response = MagicMock(status_code=404)
    for error, words in (
        (errors.GatedRepoError("no", response=response), "gated"),
        (errors.RepositoryNotFoundError("no", response=response), "no model"),
        (errors.RevisionNotFoundError("no", response=response), "no revision 'v9'"),
        (errors.HFValidationError("no"), "cannot be a hub id"),
        (OSError("no"), "cannot be reached"),
    ):

        def fail(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
        with pytest.raises(UserError, match=words):
            locate("someone/some-model@v9")


def test_prompts_are_chats_in_v1_and_raw_in_gu2025(llama: Subject) -> None:
    prompt = Prompt(id="p", goal="Say hi", suffix="!!")
    tokenizer = llama.tokenizer
    assert tokenizer.decode(llama.format(prompt, V1)) == "<user>Say hi !!</><assistant>"
    assert tokenizer.decode(llama.format(prompt, GU2025)) == "Say hi!!"
    blank = Prompt(id="p", goal="Say hi", suffix="  ")
    assert tokenizer.decode(llama.format(blank, GU2025)) == "Say hi"


def test_the_chat_template_is_given_a_fixed_date() -> None:
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = "{{ date_string }} {{ enable_thinking }} {{ messages[0]['content'] }}"
    subject = make_subject(tiny_model("llama"), tokenizer, name="dated", revision="-")
    assert tokenizer.decode(subject.format(Prompt(id="p", goal="hi"), V1)) == "26 Jul 2024 False hi"


def test_no_chat_template_where_one_is_needed() -> None:
    subject = make_subject(tiny_model("llama"), byte_tokenizer(), name="base", revision="-")
    check_prompt_format(subject, GU2025)
    with pytest.raises(UserError, match="--chat-template FILE"):
        check_prompt_format(subject, V1)


def test_a_chat_template_from_a_file(save_model: Callable[..., Path], tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("Q: {{ messages[0]['content'] }} A:")
    subject = load(str(save_model("gpt2", chat=False)), chat_template=template)
    assert subject.tokenizer.decode(subject.format(Prompt(id="p", goal="hi"), V1)) == "Q: hi A:"
    assert "cannot be read" in refusal(str(tmp_path / "tiny-gpt2"), chat_template=tmp_path / "none")


def test_devices(save_model: Callable[..., Path]) -> None:
    for device in ("abacus", "meta"):
        assert "try auto or cpu" in refusal("smollm2-135m", device=device)
    if not torch.cuda.is_available():
        assert "try auto or cpu" in refusal("smollm2-135m", device="cuda")


def test_tiny_subjects_are_what_the_matrix_says() -> None:
    """Tensor and tuple families are both held by the tests."""
    ids = torch.tensor([[5, 6, 7]])
    kinds = {}
    for family in ("llama", "falcon"):
        subject = tiny_subject(family)
        handle = subject.blocks[0].register_forward_hook(lambda m, a, out, f=family: kinds.update({f: type(out)}))
        subject.forward(ids, torch.ones_like(ids))
        handle.remove()
    assert kinds["llama"] is torch.Tensor
    assert kinds["falcon"] is tuple
