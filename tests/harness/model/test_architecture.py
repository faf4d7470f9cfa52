"""What a model's forward takes is tried, whatever it is called; and no other module knows transformers' names."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from asabench.core.errors import UserError
from harness.model.architecture import ForwardNames, cache_fault, forward, forward_names
from harness.model.kv_cache import cached_positions, expand, growing_cache
from harness.model.subject import make_subject
from tests.conftest import ROOT, VOCABULARY, byte_tokenizer, tiny_model, tiny_subject

IDS = torch.tensor([[5, 6, 7, 8, 9]])
ONES = torch.ones_like(IDS)
OLD_NAMES = {"cache": "past_key_values", "position_ids": "position_ids", "logits_to_keep": "logits_to_keep"}


class Renamed(nn.Module):
    """A Llama whose forward calls things otherwise. names: what its forward calls each argument; others are refused, or
    swallowed in silence."""

    def __init__(self, names: dict[str, str], *, swallows: bool = False) -> None:
        super().__init__()
        self.inner = tiny_model("llama")
        self.names, self.swallows = names, swallows
        own = forward_names(self.inner)
        self.own = {
            names.get(ours, ""): theirs
            for ours, theirs in (
                ("cache", own.cache),
                ("position_ids", own.positions),
                ("logits_to_keep", own.last_logits),
            )
        }
        self.seen: list[dict[str, Any]] = []
        self.config, self.generation_config = self.inner.config, self.inner.generation_config
        self.dtype = self.inner.dtype
        self.get_decoder, self.get_input_embeddings = self.inner.get_decoder, self.inner.get_input_embeddings

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool, **others: Any) -> Any:
        self.seen.append(others)
        unknown = others.keys() - self.own.keys()
        if unknown and not self.swallows:
            raise TypeError(f"forward() got an unexpected keyword argument {min(unknown)!r}")
        known = {self.own[name]: value for name, value in others.items() if name in self.own}
        return self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache, **known)


@pytest.mark.parametrize("swallows", [True, False])
@pytest.mark.parametrize("cache", ["cache", "past_key_values"])
@pytest.mark.parametrize("last", ["logits_to_keep", "num_logits_to_keep"])
def test_names_are_tried_and_not_read_off_a_signature(cache: str, last: str, swallows: bool) -> None:
    model = Renamed({"cache": cache, "position_ids": "position_ids", "logits_to_keep": last}, swallows=swallows)
    names = forward_names(model)
    assert (names.cache, names.positions, names.last_logits) == (cache, "position_ids", last)
    subject = make_subject(model, byte_tokenizer(), name="renamed", revision="-")
    plain = tiny_subject("llama")
    assert torch.equal(subject.forward(IDS, ONES), plain.forward(IDS, ONES))
    assert torch.allclose(subject.forward(IDS, ONES, last=2), plain.forward(IDS, ONES)[:, -2:], atol=1e-4)
    kept = growing_cache(4, 5)
    subject.forward(IDS[:, :3], ONES[:, :3], cache=kept)
    assert torch.allclose(subject.forward(IDS[:, 3:], ONES, cache=kept), plain.forward(IDS, ONES)[:, 3:], atol=1e-4)
    assert cached_positions(kept) == 5


def test_they_are_tried_once_a_model() -> None:
    model = Renamed(OLD_NAMES)
    forward_names(model)
    tried = len(model.seen)
    assert forward_names(model) is forward_names(model)
    forward(model, IDS, ONES)
    assert len(model.seen) == tried + 1


@pytest.mark.parametrize("swallows", [True, False])
def test_what_a_model_does_not_take_it_is_not_given(swallows: bool) -> None:
    model = Renamed({"cache": "cache"}, swallows=swallows)
    assert forward_names(model) == ForwardNames(
        cache="cache", positions=None, last_logits=None, failures=forward_names(model).failures
    )
    logits = forward(model, IDS, ONES, last=2)
    assert model.seen[-1] == {}
    assert torch.equal(logits, tiny_subject("llama").forward(IDS, ONES)[:, -2:]), "the last are cut out all the same"


@pytest.mark.parametrize(
    ("swallows", "said"),
    [
        (True, "as cache=: 0 of 4 tokens were put into it; as past_key_values=: 0 of 4 tokens were put into it"),
        (False, "as cache=: TypeError: forward() got an unexpected keyword argument 'cache'"),
    ],
)
def test_a_refusal_says_what_was_tried_and_what_happened(swallows: bool, said: str) -> None:
    model = Renamed({"position_ids": "position_ids"}, swallows=swallows)
    with pytest.raises(UserError) as caught:
        make_subject(model, byte_tokenizer(), name="odd", revision="-")
    message = str(caught.value)
    assert said in message
    assert "key-value cache" in message
    assert "recurrent" not in message, "that would be a guess"
    assert "\n" not in message
    with pytest.raises(ValueError, match="takes no cache"):
        forward(model, IDS, ONES, cache=growing_cache(4, 5))


def hybrid(config_class: str, **changes: Any) -> Any:
    arguments = dict(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**{**arguments, **changes})
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize(
    ("config_class", "changes", "said"),
    [
        ("Lfm2Config", dict(layer_types=["conv", "full_attention"] * 2), "with a cache"),
        (
            "BambaConfig",
            dict(mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, attn_layer_indices=[1, 3]),
            "with a cache",
        ),
        # Its blocks keep their state to themselves: nothing fails, and what goes on is another text's
        (
            "RecurrentGemmaConfig",
            dict(lru_width=32, attention_window_size=16, head_dim=8),
            "the logits change by",
        ),
    ],
)
def test_blocks_that_keep_more_than_keys_and_values(config_class: str, changes: dict[str, Any], said: str) -> None:
    fault = cache_fault(hybrid(config_class, **changes))
    assert fault is not None
    assert said in fault


def test_every_family_goes_on_from_a_shared_cache(family_subject: Any) -> None:
    assert cache_fault(family_subject.model) is None
    assert cache_fault(tiny_model(family_subject.name.removeprefix("tiny-")).to(torch.bfloat16)) is None


def test_left_padded_rows_are_read_as_without_padding(family_subject: Any) -> None:
    padded, mask = torch.tensor([[0, 0, 5, 6, 7], [5, 6, 7, 8, 9]]), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    alone = family_subject.forward(torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.long), last=1)
    assert torch.allclose(family_subject.forward(padded, mask, last=1)[:1], alone, atol=1e-3)


def test_a_copied_cache_is_the_copied_rows_past(llama: Any) -> None:
    texts = torch.tensor([[5, 6, 7], [8, 9, 10]])
    prefill = growing_cache(4, 3)
    llama.forward(texts, torch.ones_like(texts), cache=prefill)
    copied = expand(prefill, torch.tensor([1, 0, 1]), 4)
    after = llama.forward(torch.tensor([[11]] * 3), torch.ones(3, 4, dtype=torch.long), cache=copied)[:, -1]
    ones = torch.ones(3, 4, dtype=torch.long)
    whole = llama.forward(torch.tensor([[8, 9, 10, 11], [5, 6, 7, 11], [8, 9, 10, 11]]), ones)[:, -1]
    assert torch.allclose(after, whole, atol=1e-4)


# Where a name may stand: the adapter, and the modules that build on transformers' own classes
HOMES: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        (
            "past_key_values",
            "cache_position",
            "use_cache",
            "position_ids",
            "logits_to_keep",
            "num_logits_to_keep",
            "get_text_config",
            "get_decoder",
            "num_hidden_layers",
            "num_attention_heads",
            "hidden_size",
            "intermediate_size",
            "layer_types",
            "vocab_size",
        ),
        frozenset({"harness/model/architecture.py"}),
    ),
    **dict.fromkeys(("DynamicCache", "DynamicLayer", "cache_utils"), frozenset({"harness/model/kv_cache.py"})),
    # vLLM calls it so too: steering reads it of its blocks
    "hidden_states": frozenset({"harness/stream/injection.py", "harness/engine/steering.py"}),
    "logits_process": frozenset({"harness/engine/generation_config.py"}),
}
MODEL_FIELDS = ("config", "generation_config")
MAKES_MODELS = "tools/speed/sweep.py"
"""It makes a model of its own from a configuration, and so writes one down."""


def names_in(tree: ast.AST) -> set[str]:
    """The names, attributes, arguments and strings of a module, each whole; modules by every part."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="model") | ast.Attribute(attr="model"), attr=attr) if (
                attr in MODEL_FIELDS
            ):
                found.add(f"model.{attr}")
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.keyword(arg=str(name)) | ast.arg(arg=name):
                found.add(name)
            case ast.Constant(value=str(name)):
                found.add(name)
            case ast.ImportFrom(module=str(module), names=names):
                found.update(module.split("."), (alias.name for alias in names))
    return found


def misplaced(root: Path) -> list[str]:
    allowed = {**HOMES, **{f"model.{field}": frozenset({"harness/model/architecture.py"}) for field in MODEL_FIELDS}}
    found = []
    for path in sorted([*(root / "harness").rglob("*.py"), *(root / "tools").rglob("*.py")]):
        module = path.relative_to(root).as_posix()
        if module == MAKES_MODELS:
            continue
        names = names_in(ast.parse(path.read_text(encoding="utf-8")))
        found += [f"{module}: {name}" for name in sorted(names & allowed.keys()) if module not in allowed[name]]
    return found


def test_only_the_adapter_knows_transformers_names() -> None:
    assert misplaced(ROOT) == []


@pytest.mark.parametrize(
    "line",
    [
        "subject.model(ids, past_key_values=cache)",
        'kwargs["use_cache"] = True',
        "size = subject.model.config.get_text_config().vocab_size",
        "settings = model.generation_config",
        "from transformers.cache_utils import DynamicCache",
    ],
)
def test_a_name_elsewhere_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "new.py").write_text(line + "\n")
    assert misplaced(tmp_path)


def test_a_protocols_own_field_is_no_such_name(tmp_path: Path) -> None:
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "new.py").write_text("active = protocol.generation_config == 'model'\n")
    assert misplaced(tmp_path) == []
