"""Adapters (LoRA and the like): which base they are for, and that the merged model is the one they were trained as.

peft leaves out tensors that fit nothing, keeps a fresh start where the file has none, and merges into a weight that
other layers share; it warns at most. Here the file must be what the adapted model would save, and the merged model must
give the logits that it gave before merging; anything else is a `UserError`. (Hugging Face peft, `PeftModel`.)
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asabench.core.errors import UserError, first_line
from asabench.core.files import parse_json
from asabench.core.models import SHORT_NAMES
from harness.model.weights import ADAPTER_CONFIG, few, holds_weights, same_values

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

ADAPTER_WEIGHTS, PICKLED_ADAPTER = "adapter_model.safetensors", "adapter_model.bin"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
TEMPLATE_FILE = "chat_template.jinja"

_PREFIX = "base_model.model."
"""Stands before the names of the base's modules in an adapter's file."""
_COMMIT = r"[0-9a-f]{40}"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@\S+)?")
_NAME_ITS_BASE = f"name the model it was trained on as base_model_name_or_path in its {ADAPTER_CONFIG}"
_SNAPSHOT = re.compile(rf"models--([^/]+)--([^/]+)/snapshots/({_COMMIT})/?$")


# ----------------------------------------------------------------------------------------------------------------------
# What a folder is, and of what
# ----------------------------------------------------------------------------------------------------------------------


def is_adapter(folder: Path, name: str) -> bool:
    """Whether a folder is an adapter rather than a whole model: the weights in it decide, not the configurations.

    Raises `UserError` when it holds both kinds: they may be a base and its adapter, or a merged model and what is in it
    already.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        return False
    own = [file for file in (ADAPTER_WEIGHTS, PICKLED_ADAPTER) if (folder / file).is_file()]
    if holds_weights(folder) and own:
        raise UserError(
            f"{name} holds a whole model's weights and an adapter's ({own[0]}), and nothing says whether they hold it "
            f"already; move {ADAPTER_CONFIG} and {own[0]} away to measure the weights as they are, or into a folder of "
            "their own to measure the adapter on its base"
        )
    return not holds_weights(folder)


def adapter_weights(folder: Path, name: str, *, allow_pickle: bool) -> Path:
    """The file with an adapter's weights; `UserError` where there is none, or a pickle without `allow_pickle`."""
    if (folder / ADAPTER_WEIGHTS).is_file():
        return folder / ADAPTER_WEIGHTS
    if (folder / PICKLED_ADAPTER).is_file() and allow_pickle:
        return folder / PICKLED_ADAPTER
    if (folder / PICKLED_ADAPTER).is_file():
        raise UserError(
            f"the adapter {name} has no safetensors weights: {PICKLED_ADAPTER} is a pickle; convert it, or use "
            "--allow-pickle, which can run code hidden in the file, if you trust its authors"
        )
    raise UserError(
        f"the adapter {name} has no {ADAPTER_WEIGHTS}; put its weights there, or use --allow-pickle if they are a "
        "pickle of authors whom you trust"
    )


@dataclass(frozen=True, kw_only=True)
class Base:
    """What an adapter names as its base: a folder of this disk, or else a short name or a hub id. `revision`: which one
    of these weights; None where nothing is named."""

    name: str
    folder: Path | None = None
    revision: str | None = None


def base_of(folder: Path, name: str, confirmed: str | None = None) -> Base:
    """The base of an adapter, the same wherever the command runs.

    A relative path counts from the adapter's folder; from the working directory only where `confirmed`, a revision that
    the training recorded, can be compared with it. Raises `UserError`.
    """
    config = read_config(folder, name)
    base, revision = config.get("base_model_name_or_path"), config.get("revision") or None
    if not isinstance(base, str) or not base.strip() or not isinstance(revision, str | None):
        raise UserError(
            f"the adapter {name} names no base; write the model that it was trained on as base_model_name_or_path into "
            f"its {ADAPTER_CONFIG}"
        )
    if base in SHORT_NAMES:
        return Base(name=base, revision=revision)
    path = Path(base).expanduser()
    beside = folder / path  # the path itself, where it is absolute
    if is_folder(beside):
        return Base(name=base, folder=beside.resolve(), revision=revision)
    if cached := _SNAPSHOT.search(base):
        # In the cache of another machine: the same commit of the same repository
        owner, repository, commit = cached.groups()
        base = f"{owner}/{repository}@{commit}"
    elif is_folder(path) and confirmed is not None:
        return Base(name=base, folder=path.resolve(), revision=revision)
    elif is_folder(path) and not _HUB_ID.fullmatch(base):
        raise UserError(
            f"the adapter {name} names its base by the path {base}, which is not in its own folder and is another "
            f"elsewhere; write its absolute path, or its path from the adapter's folder, into {ADAPTER_CONFIG}"
        )
    hub_id, _, named = base.partition("@")
    if named and revision not in (None, named):
        raise UserError(
            f"the adapter {name} names two revisions of its base, {named} and {revision}; leave one of them in its "
            f"{ADAPTER_CONFIG}"
        )
    return Base(name=hub_id, revision=named or revision)


def base_reference(model: str, revision: str) -> tuple[str, str | None]:
    """How an adapter's configuration names its base, so that it is found from everywhere, and its revision there.

    model: as it was named to `locate`, which found it at `revision`. A folder is named by its absolute path, a hub id
    with the commit that was loaded.
    """
    path = Path(model).expanduser()
    if model in SHORT_NAMES:
        return model, None
    if is_folder(path):
        return str(path.resolve()), None
    hub_id, _, named = model.partition("@")
    return hub_id, revision if is_pinned(revision) else named or None


def is_folder(path: Path) -> bool:
    """Whether a folder is there; no error for a name that no file can have."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def read_config(folder: Path, name: str) -> dict[str, Any]:
    try:
        config = parse_json((folder / ADAPTER_CONFIG).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{ADAPTER_CONFIG} of the adapter {name} cannot be read ({type(error).__name__}); save the adapter again"
        ) from None
    if not isinstance(config, dict):
        raise UserError(f"{ADAPTER_CONFIG} of the adapter {name} holds no fields; save the adapter again")
    return config


def is_pinned(revision: str | None) -> bool:
    """Whether a revision is a commit, which never means anything else."""
    return revision is not None and re.fullmatch(_COMMIT, revision) is not None


def has_tokenizer(folder: Path) -> bool:
    return any((folder / file).is_file() for file in TOKENIZER_FILES)


# ----------------------------------------------------------------------------------------------------------------------
# Putting it on
# ----------------------------------------------------------------------------------------------------------------------


def check_kind(folder: Path, name: str) -> None:
    """`UserError` for what changes no weights, or what this peft does not know; nothing is loaded yet."""
    try:
        from peft import PeftConfig
    except ImportError:
        raise UserError(f"{name} is an adapter and needs the package peft; run `pip install peft`") from None
    raw = read_config(folder, name)
    with _quiet():
        try:
            config = PeftConfig.from_pretrained(str(folder))
        except Exception as error:  # what its fields do is peft's affair, and other packages'
            raise UserError(
                f"the adapter {name} is of a kind that the installed peft does not read, {raw.get('peft_type')!r} "
                f"({first_line(error)}); update peft, or save the adapter again"
            ) from None
    kind = str(raw.get("peft_type"))
    if config.is_prompt_learning or getattr(config, "is_adaption_prompt", False):
        raise UserError(
            f"the adapter {name} is {kind.lower().replace('_', ' ')}: it adds to the prompt and changes no weights; "
            "ASABench measures adapters that can be merged into the weights, such as LoRA"
        )
    if config.task_type not in (None, "CAUSAL_LM"):
        raise UserError(
            f"the adapter {name} is for the task {config.task_type}; ASABench measures those for the task CAUSAL_LM"
        )
    # Numbers and names belong to options that a flag, a list or a mapping switches on
    unknown = [
        key
        for key, value in raw.items()
        if not hasattr(config, key) and (value is True or (isinstance(value, list | dict) and value))
    ]
    if unknown:
        raise UserError(
            f"the adapter {name} sets {few(unknown)}, which the installed peft does not know and would leave out; "
            "update peft"
        )


def merged(model: Any, folder: Path, name: str, *, tokens: int | None, allow_pickle: bool = False) -> tuple[Any, str]:
    """The model with an adapter merged into its weights, with the blocks and names of the base; and how that was seen.

    tokens: how many the adapter's own tokenizer has, if it has one. Raises `UserError` for an adapter whose tensors are
    not exactly those that it would have on this model, and for one whose merged model is another one than the adapted.
    """
    import torch
    from peft import PeftModel

    theirs = _tensors(adapter_weights(folder, name, allow_pickle=allow_pickle), name)
    config = read_config(folder, name)
    sums = _sums(model)
    rows = _fit_vocabulary(model, theirs, config, name, tokens)
    base = _base_values(model, theirs)
    try:
        with _quiet():
            adapted = PeftModel.from_pretrained(model, str(folder), torch_device="cpu").eval()
    except Exception as error:  # peft compiles, imports and computes what the adapter's configuration names
        raise UserError(
            f"the adapter {name} does not fit its base model ({first_line(error)}); {_NAME_ITS_BASE}, with the fields "
            "that it was trained with"
        ) from None
    _refuse_other_tensors(adapted, theirs, name)
    if any(not torch.equal(values, parameter.flatten()[: len(values)]) for parameter, values in base):
        raise UserError(
            f"the adapter {name} changes its base's own weights when it is put on (init_lora_weights: "
            f"{config.get('init_lora_weights')!r}), so what they were in its training is not known; save it again as a "
            "plain LoRA adapter"
        )
    with torch.no_grad():
        expected = _logits(adapted)
        _part_shared_weights(adapted)
        try:
            with _quiet():
                model = adapted.merge_and_unload()
        except Exception as error:  # as above
            raise UserError(
                f"the adapter {name} cannot be merged into weights ({first_line(error)}); ASABench measures adapters "
                "that can be merged, such as LoRA"
            ) from None
        off = _refuse_another_model(expected, _logits(model), model.dtype, name)
    _refuse_rows_of_nobody(model, rows, name)
    found = f"{len(theirs)} tensors, all of its file; merging moves the logits by {off:.2g} of their norm"
    if _sums(model) == sums:
        # Not refused: it is what was named, and may be somebody's control
        found += "; it changes none of its base's weights"
        print(f"the adapter {name} changes none of its base's weights: what is measured is its base", file=sys.stderr)
    _record_tying(model)
    return model, found


def _tensors(path: Path, name: str) -> dict[str, Tensor]:
    """What an adapter's file holds, by name."""
    from pickle import UnpicklingError

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            found: object = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, EOFError, ValueError, KeyError, UnpicklingError) as error:
        raise UserError(
            f"{path.name} of the adapter {name} cannot be read ({first_line(error)}); save the adapter again"
        ) from None
    if not isinstance(found, dict) or not found or not all(isinstance(each, torch.Tensor) for each in found.values()):
        raise UserError(f"{path.name} of the adapter {name} holds no tensors by name; save the adapter again")
    return {str(key): tensor for key, tensor in found.items()}


def _fit_vocabulary(
    model: Any, theirs: Mapping[str, Tensor], config: Mapping[str, Any], name: str, tokens: int | None
) -> int:
    """Makes the embeddings as many as the adapter was trained with, and returns how many there were.

    New ones are not numbers until the adapter fills them. `UserError` where its tokenizer has more tokens than there
    are embeddings, and it holds none for them.
    """
    import torch

    rows = int(model.get_input_embeddings().weight.shape[0])
    ends = ends_of(model)
    paths = {path for path, module in model.named_modules() if module in ends}
    saved = {
        int(tensor.shape[0]) for key, tensor in theirs.items() if key.endswith(".weight") and _module_of(key) in paths
    }
    if len(saved) > 1:
        raise UserError(f"the adapter {name} holds embeddings for {few(map(str, sorted(saved)))} tokens; save it again")
    trained = config.get("trainable_token_indices") or config.get("token_indices") or ()
    listed = [int(i) for part in (trained.values() if isinstance(trained, dict) else [trained]) for i in part]
    wanted = saved.pop() if saved else rows
    if wanted == rows and listed and tokens is not None:
        wanted = max(rows, tokens, *(index + 1 for index in listed))
    if tokens is not None and tokens > wanted:
        raise UserError(
            f"the tokenizer of the adapter {name} has {tokens} tokens, its base has embeddings for {rows}, and the "
            "adapter holds none for the others; save it with its embeddings (modules_to_save)"
        )
    if wanted != rows:
        model.resize_token_embeddings(wanted, mean_resizing=False)
        for module in ends_of(model):  # new ones
            for parameter in (module.weight, getattr(module, "bias", None)):
                if parameter is not None and parameter.shape[0] > rows:
                    parameter.data[rows:] = torch.nan
    return rows


def _sums(model: Any) -> dict[str, float]:
    """The sum of each parameter, by name: equal for weights that did not change."""
    import torch

    return {key: float(each.detach().sum(dtype=torch.float64)) for key, each in model.named_parameters()}


def ends_of(model: Any) -> list[Any]:
    """The modules of the input and output embeddings."""
    return [module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None]


def _module_of(key: str) -> str:
    """The base's module that a tensor of an adapter's file belongs to."""
    path = key.removeprefix(_PREFIX).rpartition(".")[0]
    return re.sub(r"\.(base_layer|modules_to_save(\.\w+)?|original_module)$", "", path)


def _base_values(model: Any, theirs: Collection[str]) -> list[tuple[nn.Parameter, Tensor]]:
    """Some values of each of the base's parameters, but for those that the adapter's file replaces."""
    replaced = {key.removeprefix(_PREFIX).replace(".base_layer", "") for key in theirs}
    return [
        (parameter, parameter.detach().flatten()[:64].clone())
        for key, parameter in model.named_parameters()
        if key not in replaced and not parameter.detach().isnan().any()
    ]


def _refuse_other_tensors(adapted: Any, theirs: Mapping[str, Tensor], name: str) -> None:
    """`UserError` unless the adapter's file is what the adapted model would save, value by value."""
    from peft import get_peft_model_state_dict

    with _quiet():
        # Whether embeddings grew is asked of the hub otherwise; those in the file are found below
        own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    everything = adapted.state_dict()
    missing = sorted(own.keys() - theirs.keys())
    unfit = sorted(theirs.keys() - own.keys() - everything.keys())
    if missing or unfit:
        what = [f"lacks {len(missing)} of its tensors ({few(missing)})"] if missing else []
        what += [f"holds {len(unfit)} that fit nothing in its base ({few(unfit)})"] if unfit else []
        raise UserError(f"the adapter {name} {' and '.join(what)}; save it again with peft, and {_NAME_ITS_BASE}")
    loaded = {**everything, **own}
    whole = [key for key, each in theirs.items() if loaded[key].is_floating_point() and not each.is_floating_point()]
    if whole:
        raise UserError(
            f"the adapter {name} holds whole numbers in place of weights ({few(whole)}); save it again in float32, "
            "float16 or bfloat16"
        )
    other = [key for key, tensor in theirs.items() if not same_values(loaded[key].cpu(), tensor.to(loaded[key].dtype))]
    if other:
        raise UserError(
            f"the adapter {name} has other values once it is put on than in its file ({few(other)}); save it again "
            "with the installed peft"
        )


def _logits(model: Any) -> Tensor:
    """(position, vocabulary) of a few tokens, the last of the vocabulary among them: float32."""
    import torch

    from harness.model.architecture import forward

    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.tensor([[1 % vocabulary, 2 % vocabulary, 3 % vocabulary, 5 % vocabulary, vocabulary - 1]])
    return forward(model, ids, torch.ones_like(ids))[0].float()


def _part_shared_weights(adapted: Any) -> None:
    """Gives each adapted layer a weight of its own, where others use the same: tied embeddings, and repeated blocks.
    Merging changes a weight in place."""
    from collections import Counter

    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    uses = Counter(id(parameter) for _, parameter in adapted.named_parameters(remove_duplicate=False))
    for module in adapted.modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        layer = module.get_base_layer()
        weight = getattr(layer, "weight", None)
        if isinstance(weight, nn.Parameter) and uses[id(weight)] > 1:
            layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)


def _refuse_another_model(expected: Tensor, found: Tensor, dtype: torch.dtype, name: str) -> float:
    """How far a merged model's logits are from those of the adapted one, relative, in the L2 norm; `UserError` when
    that is beyond what rounding does."""
    import torch

    # Merging rounds each weight to the model's dtype
    tolerance = 1e-3 if dtype == torch.float32 else 0.1
    finite = expected.isfinite() & found.isfinite()
    same_places = torch.equal(expected.isfinite(), found.isfinite())
    off = float((found - expected)[finite].norm() / expected[finite].norm().clamp(min=1e-9)) if finite.any() else 0.0
    if not same_places or off > tolerance:
        raise UserError(
            f"the adapter {name} gives another model when it is merged (logits off by {off:.0%}); ASABench measures "
            "adapters that can be merged, such as LoRA on layers of their own"
        )
    return off


def _refuse_rows_of_nobody(model: Any, rows: int, name: str) -> None:
    """`UserError` when an embedding from `rows` on was filled by nothing (see `_fit_vocabulary`)."""
    for module in ends_of(model):
        if (empty := module.weight[rows:].isnan().any(-1).nonzero().flatten().tolist()) or (
            getattr(module, "bias", None) is not None and module.bias[rows:].isnan().any()
        ):
            raise UserError(
                f"the adapter {name} was trained with more tokens than its base has ({rows}), and holds no "
                f"{'input' if module is model.get_input_embeddings() else 'output'} embeddings for the others, from "
                f"{rows + (empty[0] if empty else 0)} on; save it with both (modules_to_save)"
            )


def _record_tying(model: Any) -> None:
    """Says in the configuration that embeddings are no longer tied, where merging has parted them: a saved model would
    else be loaded with one for both."""
    output = model.get_output_embeddings()
    if output is None or output.weight is model.get_input_embeddings().weight:
        return
    from harness.model.architecture import record_untied

    record_untied(model)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of peft and transformers: what they warn of is checked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
