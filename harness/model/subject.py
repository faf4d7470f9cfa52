"""The model under test: weights, tokenizer, decoder blocks and prompt formatting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asabench.core.errors import UserError, first_line, one_line
from asabench.core.models import SHORT_NAMES
from asabench.core.protocol import Protocol
from asabench.core.records import Prompt
from harness.model import architecture
from harness.model.adapters import TEMPLATE_FILE, check_kind, has_tokenizer, merged
from harness.model.attention import check_attention
from harness.model.dtypes import check_dtype, resolved_dtype
from harness.model.files import locate
from harness.model.inspection import try_files
from harness.model.kv_cache import Cache
from harness.model.limits import check_finite, check_finite_weights
from harness.model.memory import keep_freed_memory, most_room
from harness.model.placement import (
    DeviceMap,
    check_device_map,
    devices_of,
    dispatched,
    placement_in_words,
    require_accelerate,
)
from harness.model.prompt_format import check_prompts, check_template, prefix_ids, prompt_ids, prompt_text, without_mark
from harness.model.safe_loading import within_limits
from harness.model.stop_tokens import chat_stops, check_stops, generate_stops, protocol_stops, read_generation_config
from harness.model.weights import load_weights, weight_files, without_weights
from harness.progress import phase
from harness.stream.injection import capture, edit


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A causal language model and what the harness needs to know of it.

    `blocks` are the decoder blocks in order: block l's output is the residual stream h^(l), shape (row, position,
    d_model). `name` and `revision` say which weights these are, `checks` how that was seen, by check. `folder` holds
    them as they are; None where adapters were merged, or the model was made in memory. `strange`: its template and
    tokenizer are somebody else's programs, which are tried in a child process before they run in this one.
    """

    model: Any
    tokenizer: Any
    blocks: Sequence[nn.Module]
    name: str
    revision: str
    checks: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    strange: bool = False

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    @property
    def d_model(self) -> int:
        return architecture.d_model(self.model)

    @property
    def family(self) -> str:
        return architecture.family(self.model)

    @property
    def vocabulary_size(self) -> int:
        return architecture.vocabulary_size(self.model)

    @property
    def device(self) -> torch.device:
        """Where token ids go in and logits come out."""
        return self.model.get_input_embeddings().weight.device

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """All that hold a part of it, `device` first."""
        return devices_of(self.model)

    @property
    def described(self) -> dict[str, Any]:
        """What is recorded of it with a run and decides nothing: where its blocks lie, its attention, and how its
        weights are quantised, where they are."""
        quantised = architecture.quantisation(architecture.configuration(self.model))
        return {
            "attention": architecture.attention(self.model),
            **({"device_map": placement_in_words(self.blocks)} if len(self.devices) > 1 else {}),
            **({"quantisation": quantised} if quantised is not None else {}),
        }

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def stop_tokens(self) -> frozenset[int]:
        """The tokens that end an answer in the chat format (`harness.model.stop_tokens.chat_stops`)."""
        return chat_stops(self.model, self.tokenizer, self.name)

    def stops(self, protocol: Protocol) -> frozenset[int]:
        """The tokens that end an answer under a protocol (`harness.model.stop_tokens.protocol_stops`)."""
        return protocol_stops(self.model, self.tokenizer, self.name, protocol)

    def format(self, prompt: Prompt, protocol: Protocol) -> list[int]:
        """The token ids of a prompt, up to where the answer starts, or with the tokens that the protocol gives it."""
        ends = generate_stops(self.model, self.tokenizer)
        ids = prompt_ids(self.tokenizer, prompt, protocol, self.name, ends)
        return [*ids, *prefix_ids(self.tokenizer, prompt, protocol, self.name)] if protocol.prefix_tokens else ids

    def text(self, token_ids: Sequence[int]) -> str:
        """An answer as text, without special tokens and without the stop token at its end, special or not."""
        return str(self.tokenizer.decode(self._without_stop(token_ids), skip_special_tokens=True))

    def _without_stop(self, token_ids: Sequence[int]) -> Sequence[int]:
        ended = len(token_ids) > 0 and token_ids[-1] in self.stop_tokens
        return token_ids[:-1] if ended else token_ids

    def judged_text(
        self, prompt: Prompt, prompt_ids: Sequence[int], token_ids: Sequence[int], protocol: Protocol
    ) -> str:
        """What of an answer is judged, as the protocol says. prompt_ids: those that `format` gives.

        `whole-without-prompt`, as the paper's code has it: prompt and answer are decoded as one text without special
        tokens, and every occurrence of the prompt is taken out of it. So an answer that says the request back loses
        it, and a request that does not come out of the tokenizer as it went in stays.
        """
        if protocol.judged_text == "answer" or not token_ids:
            return self.text(token_ids)
        whole = str(self.tokenizer.decode([*prompt_ids, *self._without_stop(token_ids)], skip_special_tokens=True))
        return whole.replace(prompt_text(prompt, protocol), "")

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, *, cache: Cache | None = None, last: int | None = None
    ) -> Tensor:
        """Logits (row, position, vocabulary) of one forward: see `harness.model.architecture.forward`."""
        return architecture.forward(self.model, input_ids, attention_mask, cache=cache, last=last)


def load(
    name: str,
    *,
    dtype: str | None = "float32",
    device: str = "auto",
    device_map: DeviceMap | None = None,
    attention: str | None = None,
    chat_template: Path | None = None,
    allow_remote_code: bool = False,
    allow_pickle: bool = False,
    weights: bool = True,
) -> Subject:
    """Loads a model by short name, folder or hub id (`harness.model.files.locate`) and checks that it can be measured.

    dtype: `auto` is the checkpoint's own, None that on a GPU and float32 on a CPU. device_map: places the model's parts
    on several devices (`harness.model.placement`), in place of `device`. attention: `harness.model.attention`.
    weights: False leaves them on disk where no adapter must be merged into them, for an engine that loads them itself
    and checks them there; the model is then on the device "meta".
    Raises `UserError` for anything that is not a decoder-only model with a residual stream.
    """
    with phase("load", name):
        return _loaded(
            name,
            dtype=dtype,
            device=device,
            device_map=device_map,
            attention=attention,
            chat_template=chat_template,
            allow_remote_code=allow_remote_code,
            allow_pickle=allow_pickle,
            weights=weights,
        )


def _loaded(
    name: str,
    *,
    dtype: str | None,
    device: str,
    device_map: DeviceMap | None,
    attention: str | None,
    chat_template: Path | None,
    allow_remote_code: bool,
    allow_pickle: bool,
    weights: bool,
) -> Subject:
    check_dtype(dtype)
    check_device_map(device_map, device)
    target = pick_device(device)
    _quiet_transformers()
    files = locate(name, allow_pickle=allow_pickle, allow_remote_code=allow_remote_code)
    # Packaged models are pinned by digest; whoever allows a model's own code lets it do anything
    strange = (name not in SHORT_NAMES or chat_template is not None) and not allow_remote_code
    left_on_disk = not weights and not files.adapters
    if strange:
        try_files(
            files.folder,
            files.adapters,
            name,
            template=chat_template,
            bytes_per_value=4 if dtype == "float32" or (dtype is None and target.type == "cpu") else 2,
            room=None if left_on_disk else most_room(),
        )
    for adapter in files.adapters:
        check_kind(adapter, name)
    config = _configuration(files.folder, name, allow_remote_code)
    found_files = weight_files(files.folder, name, allow_pickle=allow_pickle)
    number_format = resolved_dtype(dtype, target, config, found_files, name)
    check_attention(attention, target, number_format)
    if target.type == "cpu":
        keep_freed_memory()
    generation_config = read_generation_config(files.folder, name)
    quantised = architecture.quantisation(config)
    if quantised is not None and not left_on_disk:
        require_accelerate(f"the model {name}, which is quantised ({quantised}),")
    # Adapters are merged on the CPU; quantised weights stay where they are loaded
    placed = None if files.adapters else device_map
    if quantised is not None and placed is None:
        placed = {"": str(target)}
    try:
        if left_on_disk:
            model, found = without_weights(
                files.folder,
                name,
                dtype=number_format,
                allow_remote_code=allow_remote_code,
                allow_pickle=allow_pickle,
            )
        else:
            model, found = load_weights(
                files.folder,
                name,
                dtype=number_format,
                allow_remote_code=allow_remote_code,
                allow_pickle=allow_pickle,
                device_map=placed,
                attention=attention,
            )
    except UserError:
        raise
    except ImportError as error:  # the package that reads quantised weights
        raise UserError(
            f"the model {name}{'' if quantised is None else f', quantised by {quantised},'} needs a package that is "
            f"not installed here ({one_line(error)}); install it, or take weights that are not quantised"
        ) from None
    except Exception as error:  # a configuration is somebody's file, read by somebody's class: anything can be raised
        raise UserError(_why_not_loaded(name, error, allow_pickle, allow_remote_code)) from None
    if generation_config is not None:  # loading the model drops one with a byte order mark
        architecture.set_generation_settings(model, generation_config)
    check_stops(model, name)
    checks = {"the weights are those of the files": found}
    tokenizer, template = None, chat_template
    for adapter in files.adapters:
        own = (
            _tokenizer(adapter, name, allow_remote_code, architecture.configuration(model))
            if has_tokenizer(adapter)
            else None
        )
        model, found = merged(model, adapter, name, tokens=None if own is None else len(own), allow_pickle=allow_pickle)
        checks[f"the adapter {adapter.resolve().name} is merged as trained"] = found
        if own is not None:
            tokenizer, template = own, chat_template
        elif (adapter / TEMPLATE_FILE).is_file():
            template = chat_template or adapter / TEMPLATE_FILE
    if tokenizer is None:
        tokenizer = _tokenizer(files.folder, name, allow_remote_code)
    if template is not None:
        tokenizer.chat_template = read_template(template)
    if left_on_disk:
        without_mark(tokenizer)
        return Subject(
            model=model.eval(),
            tokenizer=tokenizer,
            blocks=find_blocks(model),
            name=files.name,
            revision=files.revision,
            checks=checks,
            folder=files.folder,
            strange=strange,
        )
    if placed is None:
        model = model.to(target) if device_map is None else dispatched(model, device_map)
    model.eval().requires_grad_(False)
    check_finite_weights(model, files.name, str(number_format).removeprefix("torch."))
    subject = make_subject(model, tokenizer, name=files.name, revision=files.revision, checks=checks)
    return replace(subject, folder=None if files.adapters else files.folder, strange=strange)


def _tokenizer(folder: Path, name: str, allow_remote_code: bool, config: Any = None) -> Any:
    """The tokenizer in a folder. config: of the model, for a folder that has none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=allow_remote_code, config=config)
    except Exception as error:  # the package tokenizers raises bare ones for a file of a later version
        raise UserError(
            f"the model {name} has no tokenizer that can be read ({first_line(error)}); put its tokenizer files "
            "in the folder"
        ) from None


def make_subject(
    model: Any, tokenizer: Any, *, name: str, revision: str, checks: Mapping[str, str] | None = None
) -> Subject:
    """A subject from a model and tokenizer in memory, after the checks of `load` on what they compute."""
    without_mark(tokenizer)
    subject = Subject(
        model=model,
        tokenizer=tokenizer,
        blocks=find_blocks(model),
        name=name,
        revision=revision,
        checks=checks or {},
    )
    check_residual_stream(subject)
    return subject


def find_blocks(model: Any) -> Sequence[nn.Module]:
    """The decoder blocks, in order. `UserError` when the model's decoder has no such list."""
    blocks = architecture.block_list(model)
    if blocks is None:
        raise UserError(
            f"no list of {architecture.n_layers(model)} decoder blocks was found in the family "
            f"{architecture.family(model)!r}; ASABench measures decoder-only models such as Llama, Qwen, Mistral, "
            "Gemma, Phi, OLMo, GPT-NeoX and GPT-2"
        )
    return list(blocks)


@torch.no_grad()
def check_residual_stream(subject: Subject) -> None:
    """Refuses a model in which the output of a block is not the residual stream, that looks ahead, or that keeps more
    of the past than keys and values.

    Four facts are measured on a few tokens, whatever the family is called: block outputs have shape (row, position,
    d_model); a later token does not change earlier positions; with the stream scaled up a block passes it on, adding
    something bounded (`out = in + f(norm(in))`; a block that ends in a norm does not); and rows can go on from copies
    of one key-value cache.
    """
    family, layers = subject.family, range(subject.n_layers)
    architecture.forward_names(subject.model)  # tried here, where no hook looks on
    # A few different tokens, none of them special to the family
    first = torch.arange(6, device=subject.device)[None] % (subject.vocabulary_size - 1) + 1
    ids = torch.cat([first, first])
    ids[1, -1] = 0
    mask = torch.ones_like(ids)

    def run() -> tuple[list[Tensor], list[Tensor], Tensor]:
        with capture(subject.blocks, layers) as seen:
            logits = subject.forward(ids, mask)
        return [seen.inputs[i] for i in seen.inputs], [seen.outputs[i] for i in seen.outputs], logits

    inputs, outputs, logits = run()
    wanted = (2, ids.shape[1], subject.d_model)
    shapes = {tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__ for out in outputs}
    if len(outputs) != subject.n_layers or shapes != {wanted}:
        listed = ", ".join(sorted(map(str, shapes))) or "nothing"
        raise _not_residual(family, f"{listed} comes out where (row, position, {subject.d_model}) is expected")
    found = {f"the outputs of block {layer}": output for layer, output in zip(layers, outputs, strict=True)}
    check_finite({**found, "the logits": logits}, subject.name, subject.dtype)
    if not all(torch.equal(out[0, :-1], out[1, :-1]) or _close(out[0, :-1], out[1, :-1]) for out in outputs):
        raise UserError(
            f"the family {family!r} is not causal: a later token changes earlier hidden states; "
            "ASABench measures decoder-only language models"
        )
    largest = max(float(outputs[0].float().abs().max()), 1e-6)
    scale = min(1e4, torch.finfo(outputs[0].dtype).max / 8 / largest)
    with edit(subject.blocks, {0: lambda block_input, block_output: block_output * scale}):
        inputs, outputs, _ = run()
    for layer in layers[1:]:
        before, after = inputs[layer].float(), outputs[layer].float()
        change = (after - before).norm() / before.norm()
        if not change < 0.5:
            raise _not_residual(
                family, f"block {layer} does not pass its input on (relative change {float(change):.2f})"
            )
    if fault := architecture.cache_fault(subject.model):
        raise UserError(
            f"the family {family!r} cannot share a key-value cache between layers and doses (tried {fault}); ASABench "
            "needs a model whose blocks keep the past in keys and values alone, with attention in every block"
        )


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.float(), b.float(), rtol=1e-2, atol=1e-2 * float(a.float().abs().max()))


def _not_residual(family: str, what: str) -> UserError:
    return UserError(
        f"the blocks of the family {family!r} do not put out the residual stream: {what}; "
        "ASABench measures models whose blocks do (Llama, Qwen, Mistral, Gemma 3, Phi, OLMo, GPT-NeoX, GPT-2, ...)"
    )


def pick_device(device: str) -> torch.device:
    """`auto` is the first GPU, if there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        float(torch.zeros((), device=target))  # some devices take tensors and never give one back
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used here ({first_line(error)}); try auto or cpu") from None
    return target


def check_prompt_format(subject: Subject, protocol: Protocol, prompts: Sequence[Prompt] = ()) -> None:
    """`UserError` when the protocol formats prompts as a chat and the model has no chat template for it, or when what
    the model would read are not these prompts (`harness.model.prompt_format.check_prompts`)."""
    check_template(subject.tokenizer, protocol, subject.name)
    if not subject.strange:
        check_prompts(subject.tokenizer, prompts, protocol, subject.name)
        return
    within_limits(
        _try_prompts,
        subject.tokenizer,
        tuple(prompts),
        protocol,
        subject.name,
        name=subject.name,
        more_seconds=len(prompts) // 20,  # a request takes some milliseconds
    )


def _try_prompts(tokenizer: Any, prompts: Sequence[Prompt], protocol: Protocol, name: str) -> Iterator[str]:
    yield "a prompt (the chat template and the tokenizer)"
    check_prompts(tokenizer, prompts, protocol, name)


def _configuration(folder: Path, name: str, allow_remote_code: bool) -> Any:
    """transformers' configuration of a folder's model; `UserError` for an encoder-decoder."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=allow_remote_code)
    except Exception as error:  # as above
        raise UserError(_why_not_loaded(name, error, False, allow_remote_code)) from None
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"the model {name} is an encoder-decoder ({config.model_type}); "
            "ASABench measures decoder-only language models"
        )
    return config


def _why_not_loaded(name: str, error: Exception, allow_pickle: bool, allow_remote_code: bool) -> str:
    text = str(error)
    if "trust_remote_code" in text and not allow_remote_code:
        return f"the model {name} needs code of its own; --allow-remote-code runs it, if you trust its authors"
    if "Unrecognized configuration class" in text:
        return f"the model {name} has no decoder that generates text; ASABench measures decoder-only language models"
    if not allow_pickle and ("safetensors" in text or "no file named" in text):
        return (
            f"the model {name} has no safetensors weights that can be read ({first_line(error)}); convert them, or "
            "use --allow-pickle, which can run code hidden in the file, if you trust its authors"
        )
    return f"the model {name} cannot be loaded: {first_line(error)}"


def read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the chat template {path} cannot be read: {error}") from None


def _quiet_transformers() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
