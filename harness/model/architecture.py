"""What transformers calls things: the arguments of a forward, the fields of a configuration. No other module knows.

Names change between versions (a forward's `past_key_values` is `cache` from transformers 5.24 on) and differ between
families, and a forward that takes any keyword says nothing by its signature. So what a model takes is tried, on a few
tokens, once a model; what was tried and what happened is kept for whoever has to say no.

Two modules share this knowledge: `harness.model.kv_cache` builds on transformers' cache classes, and
`harness.engine.generation_config` on its logits processors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from asabench.core.errors import UserError, with_type
from harness.model.kv_cache import Cache, cached_positions, expand, growing_cache

# The names that a thing has had, the newest first
CACHE_NAMES = ("cache", "past_key_values")
POSITIONS_NAMES = ("position_ids",)
DTYPE_NAMES = ("dtype", "torch_dtype")
LAST_LOGITS_NAMES = ("logits_to_keep", "num_logits_to_keep")

TRIED_TOKENS = 4
"""Tokens that are read into a cache, and as many that go on from it."""

MOST_LOST = 0.3
"""How far logits may lie from those of the whole text, as a share of what leaving out the past does to them. Rounding,
and an expert that it makes a router choose, are far below; a RecurrentGemma, which loses its state, is at 0.97."""


@dataclass(frozen=True, kw_only=True)
class ForwardNames:
    """What a model's forward calls its arguments; None: it does not take such an argument.

    cache: where keys and values are kept. positions: the position of each token. last_logits: the count of last
    positions that get logits. failures: a sentence for each name that was tried for the cache in vain.
    """

    cache: str | None
    positions: str | None
    last_logits: str | None
    failures: tuple[str, ...] = ()


_names: WeakKeyDictionary[nn.Module, ForwardNames] = WeakKeyDictionary()


def forward_names(model: Any) -> ForwardNames:
    """The names that a model's forward takes, tried on `TRIED_TOKENS` tokens when it is first asked."""
    if model not in _names:
        _names[model] = _tried_names(model)
    return _names[model]


def forward(
    model: Any, input_ids: Tensor, attention_mask: Tensor, *, cache: Cache | None = None, last: int | None = None
) -> Tensor:
    """One forward of the whole model, at the positions that the mask implies; logits (row, position, vocabulary).

    input_ids: (row, new). attention_mask: (row, past + new), 1 where a token counts. transformers' own positions
    ignore the mask, so a left-padded row would be shifted; they are passed to the models that take them (the others,
    BLOOM and MPT among them, work from the mask). cache: holds the past, and takes up the new positions. last: logits
    of so many last positions are wanted; the others are not computed where the model can leave them out.
    """
    names = forward_names(model)
    arguments: dict[str, Any] = {"use_cache": cache is not None}
    if names.positions is not None:
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        arguments[names.positions] = positions[:, -input_ids.shape[1] :]
    if cache is not None:
        if names.cache is None:
            raise ValueError(f"the model takes no cache: {'; '.join(names.failures)}")
        arguments[names.cache] = cache
    if last is not None and names.last_logits is not None:
        arguments[names.last_logits] = last
    logits: Tensor = model(input_ids=input_ids, attention_mask=attention_mask, **arguments).logits
    logits = logits.to(input_ids.device)  # of a model over several devices, they come out where the last block is
    return logits if last is None else logits[:, -last:]


@torch.no_grad()
def cache_fault(model: Any) -> str | None:
    """Why rows cannot start from a shared key-value cache, as what was tried and what happened; None when they can.

    As in a sweep, a prompt is read once, its keys and values are copied to the rows, and these go on. Blocks that keep
    anything else of the past (a recurrent or a convolutional state) fail there, or give other logits.
    """
    names = forward_names(model)
    if names.cache is None:
        return f"{TRIED_TOKENS} tokens with a cache, {'; '.join(names.failures)}"
    tokens = _some_tokens(model, 2 * TRIED_TOKENS)
    mask = torch.ones_like(tokens)
    rows = torch.zeros(2, dtype=torch.long, device=tokens.device)
    first, then = tokens[:, :TRIED_TOKENS], tokens[:, TRIED_TOKENS:]
    whole = forward(model, tokens, mask, last=TRIED_TOKENS)
    alone = forward(model, then, mask[:, TRIED_TOKENS:])
    prefill = growing_cache(n_layers(model) or 0, TRIED_TOKENS)
    forward(model, first, mask[:, :TRIED_TOKENS], cache=prefill)
    try:
        copied = expand(prefill, rows, 2 * TRIED_TOKENS)
        went_on = forward(model, then.expand(2, -1), mask.expand(2, -1), cache=copied)
    except Exception as error:  # whatever it is that a family misses
        return f"{2 * TRIED_TOKENS} tokens, the second half from a copy of the first half's cache: {with_type(error)}"
    lost = _distance(went_on, whole) / max(_distance(alone, whole), torch.finfo(torch.float32).tiny)
    if lost > MOST_LOST:
        return (
            f"{2 * TRIED_TOKENS} tokens, the second half from a copy of the first half's cache: the logits change by "
            f"{lost:.0%} of what leaving out the first half changes"
        )
    return None


def _distance(logits: Tensor, others: Tensor) -> float:
    """The norm of the largest row's difference, of logits without their mean: (row, position, vocabulary) each."""
    centred, other = (each.float() - each.float().mean(-1, keepdim=True) for each in (logits, others))
    return float((centred - other).flatten(1).norm(dim=1).max())


@torch.no_grad()
def _tried_names(model: Any) -> ForwardNames:
    tokens = _some_tokens(model, TRIED_TOKENS)
    mask = torch.ones_like(tokens)

    def run(**arguments: Any) -> Any:
        return model(input_ids=tokens, attention_mask=mask, **{"use_cache": False, **arguments})

    plain = run().logits  # what goes wrong here has nothing to do with a name

    def keeps_the_last(name: str) -> bool:
        return bool(run(**{name: 1}).logits.shape[1] == 1)

    def goes_by_positions(name: str) -> bool:
        backwards = torch.arange(TRIED_TOKENS, device=tokens.device).flip(0)[None]
        return not torch.equal(run(**{name: backwards}).logits, plain)

    failures = []
    cache_name = None
    for name in CACHE_NAMES:
        cache = growing_cache(n_layers(model) or 0, TRIED_TOKENS)
        try:
            run(**{name: cache, "use_cache": True})
            held = cached_positions(cache)
        except Exception as error:  # whatever it is that a family misses
            failures.append(f"as {name}=: {with_type(error)}")
            continue
        if held == TRIED_TOKENS:
            cache_name = name
            break
        failures.append(f"as {name}=: {held} of {TRIED_TOKENS} tokens were put into it")
    return ForwardNames(
        cache=cache_name,
        positions=next((name for name in POSITIONS_NAMES if _succeeds(goes_by_positions, name)), None),
        last_logits=next((name for name in LAST_LOGITS_NAMES if _succeeds(keeps_the_last, name)), None),
        failures=tuple(failures),
    )


def _succeeds(attempt: Any, name: str) -> bool:
    try:
        return bool(attempt(name))
    except Exception:  # a name that is not taken ends in any error
        return False


def _some_tokens(model: Any, count: int) -> Tensor:
    """(1, count): different tokens, none of them special to the family."""
    device = model.get_input_embeddings().weight.device
    return torch.arange(count, device=device)[None] % (vocabulary_size(model) - 1) + 1


def family(model: Any) -> str:
    """What the architecture is called: `llama`, `qwen3`, ..."""
    return str(_text_config(model).model_type)


def d_model(model: Any) -> int:
    """The width of the residual stream."""
    return int(_text_config(model).hidden_size)


def n_layers(model: Any) -> int | None:
    """How many decoder blocks the configuration says; None where it does not."""
    return getattr(_text_config(model), "num_hidden_layers", None)


def n_heads(model: Any) -> int:
    """Attention heads of a block."""
    return int(_text_config(model).num_attention_heads)


def d_mlp(model: Any) -> int:
    """The width inside a block's MLP."""
    return int(_text_config(model).intermediate_size)


def vocabulary_size(model: Any) -> int:
    """How many tokens there are, and so logits a position."""
    return int(_text_config(model).vocab_size)


def block_list(model: Any) -> nn.ModuleList | None:
    """The decoder blocks: in the model's decoder, the first ModuleList as long as the configuration says."""
    wanted = n_layers(model)
    return next((found for found in _module_lists(model) if len(found) == wanted), None)


def _module_lists(model: Any) -> Iterator[nn.ModuleList]:
    return (module for module in model.get_decoder().modules() if isinstance(module, nn.ModuleList))


@torch.no_grad()
def unembedding(model: Any, name: str) -> Callable[[Tensor], Tensor]:
    """Logits (..., vocabulary) of hidden states (..., d_model) read as if the last block had put them out.

    The module after the blocks is taken for the final norm; whether that and the head give the model's own logits is
    tried on a few tokens. `UserError` where they do not.
    """
    blocks = block_list(model)
    children = list(model.get_decoder().children())
    place = next((at for at, child in enumerate(children) if child is blocks), None)
    head = model.get_output_embeddings()
    norm = children[place + 1] if place is not None and place + 1 < len(children) else nn.Identity()
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    if blocks is not None and head is not None:
        tokens = _some_tokens(model, TRIED_TOKENS)
        hook = blocks[-1].register_forward_hook(keep)
        try:
            own = forward(model, tokens, torch.ones_like(tokens))
        finally:
            hook.remove()
        read = head(norm(seen[0]))
        if read.shape == own.shape and torch.allclose(read.float(), own.float(), rtol=1e-2, atol=1e-2):
            return lambda hidden: head(norm(hidden))
    raise UserError(
        f"the blocks of {name} cannot be read as logits: its final norm and head do not give what the model itself "
        "gives; use the recipe with :lens=0"
    )


def generation_settings(model: Any) -> Any:
    """The model's generation_config: what `generate` does when it is told nothing."""
    return model.generation_config


def set_generation_settings(model: Any, settings: Any) -> None:
    """Gives the model another generation_config."""
    model.generation_config = settings


def configuration(model: Any) -> Any:
    """The model's configuration, as other parts of transformers ask for it."""
    return model.config


def stated_cache_values(model: Any) -> int:
    """Keys and values of a position, of all blocks together, as the configuration says: for a model whose weights are
    left on disk, which cannot be run."""
    config = text_configuration(model)
    heads = config.num_attention_heads
    of_keys = getattr(config, "num_key_value_heads", None) or heads
    wide = getattr(config, "head_dim", None) or d_model(model) // heads
    return (n_layers(model) or 0) * 2 * int(of_keys * wide)


def text_configuration(model: Any) -> Any:
    """The configuration of the model's text part."""
    return _text_config(model)


def stated_dtype(config: Any) -> torch.dtype | None:
    """The number format that a configuration says its checkpoint has; None where it does not say."""
    for part in (config, config.get_text_config()):
        for name in DTYPE_NAMES:
            said = getattr(part, name, None)
            found = getattr(torch, said, None) if isinstance(said, str) else said
            if isinstance(found, torch.dtype):
                return found
    return None


def quantisation(config: Any) -> str | None:
    """How a checkpoint is quantised, such as `gptq`; None for plain weights."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    said = settings.get("quant_method") if isinstance(settings, dict) else getattr(settings, "quant_method", None)
    return str(getattr(said, "value", said))


def attention(model: Any) -> str:
    """Which implementation of attention a model runs: eager, sdpa, ..."""
    return str(getattr(_text_config(model), "_attn_implementation", None))


def record_untied(model: Any) -> None:
    """Says in the configuration that input and output embeddings are two: a saved model would else be loaded with one
    for both."""
    for config in {id(each): each for each in (model.config, _text_config(model))}.values():
        if getattr(config, "tie_word_embeddings", False):
            config.tie_word_embeddings = False


def save_configuration(model: Any, folder: Any) -> None:
    """Writes the model's configuration into a folder."""
    model.config.save_pretrained(folder)


def _text_config(model: Any) -> Any:
    """A model of text and pictures has a configuration for each."""
    return model.config.get_text_config()
