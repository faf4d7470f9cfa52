"""A checkpoint's weights: which files hold them, and that the loaded model has those weights and no others.

transformers draws a tensor at random when the file has none of that name, leaves out what the model has no place for,
and only warns. A model measured so is another one: both are a `UserError` here. Then some values of each tensor are
compared with its file's, and where loading drew random numbers the model is loaded twice. (Hugging Face transformers,
`from_pretrained` and its `output_loading_info`.)
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asabench.core.errors import UserError
from asabench.core.files import parse_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from harness.model.placement import DeviceMap

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED_WEIGHTS, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
ADAPTER_CONFIG = "adapter_config.json"
SAMPLE = 1024
"""Values of a tensor that are compared with its file: a part of its middle row."""

_BLOCK = re.compile(r"(^|\.)(layers?|h|blocks?)\.\d+(\.|$)")
# What old checkpoints hold and newer code computes: causal masks, positions, frequencies of rotary embeddings
_COMPUTED = re.compile(r"(^|\.)((attn|attention|self_attention)\.(masked_)?bias|causal_mask|position_ids|\w*inv_freq)$")
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")


def holds_weights(folder: Path) -> bool:
    """Whether a whole model's weights lie in a folder, of whatever kind and however complete."""
    return any(folder.glob("model*.safetensors*")) or any(folder.glob("pytorch_model*.bin*"))


def weight_files(folder: Path, name: str, *, allow_pickle: bool) -> tuple[Path, ...]:
    """The files that transformers reads a folder's weights from.

    Raises `UserError` when there are none, when they are pickles and `allow_pickle` is not set, when an index names
    what is not there, or when two sets of weights lie in the folder.
    """
    files = _named_files(folder, name)
    if not files:
        allowed = f"{WEIGHTS}, or {INDEX} and its files"
        raise UserError(
            f"the model {name} has no weights that can be read ({allowed}, or {PICKLED_WEIGHTS} and the like); save it "
            "with save_pretrained"
            if allow_pickle
            else f"the model {name} has no safetensors weights ({allowed}); put them in the folder, or use "
            "--allow-pickle if they are pickles of authors whom you trust"
        )
    if missing := [path.name for path in files if not path.is_file()]:
        raise UserError(
            f"the weights of {name} are not whole: {len(missing)} of the {len(files)} files that its index names are "
            f"not in the folder ({few(missing)}); download them again"
        )
    pickles = [path.name for path in files if path.suffix != ".safetensors"]
    if pickles and not allow_pickle:
        raise UserError(
            f"the model {name} has no safetensors weights: {few(pickles)} can be a pickle; convert it, or use "
            "--allow-pickle, which can run code hidden in the file, if you trust its authors"
        )
    return files


def _named_files(folder: Path, name: str) -> tuple[Path, ...]:
    """As transformers chooses, whether they are there or not; none where nothing names any."""
    if parts := sorted(path.name for path in folder.iterdir() if _DISTRIBUTED.fullmatch(path.name)):
        raise UserError(
            f"the model {name} is a distributed checkpoint ({few(parts)}); save it in one piece with save_pretrained"
        )
    own = _config_value(folder / "config.json", "transformers_weights")
    if own is not None:
        return _indexed(folder, name, str(own)) if str(own).endswith(".json") else (_inside(folder, name, str(own)),)
    if (folder / WEIGHTS).is_file():
        indexed = _indexed(folder, name, INDEX) if (folder / INDEX).is_file() else ()
        if any(path.name != WEIGHTS for path in indexed):
            raise UserError(
                f"the model {name} has two sets of weights: {WEIGHTS}, and {INDEX} with other files "
                f"({few(path.name for path in indexed)}); leave one of them in the folder"
            )
        return (folder / WEIGHTS,)
    if (folder / INDEX).is_file():
        return _indexed(folder, name, INDEX)
    if (folder / PICKLED_WEIGHTS).is_file():
        return (folder / PICKLED_WEIGHTS,)
    if (folder / PICKLED_INDEX).is_file():
        return _indexed(folder, name, PICKLED_INDEX)
    return ()


def _indexed(folder: Path, name: str, index: str) -> tuple[Path, ...]:
    """The files of an index, each once, in its order."""
    shards = _config_value(folder / index, "weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(each, str) for each in shards.values()):
        raise UserError(f"{index} of the model {name} names no weights (weight_map); download it again")
    return tuple(_inside(folder, name, str(shard)) for shard in dict.fromkeys(shards.values()))


def _inside(folder: Path, name: str, file: str) -> Path:
    if Path(file).name != file or file in ("", ".", ".."):
        raise UserError(f"the model {name} names weights outside its folder ({file}); name a file in the folder")
    return folder / file


def _config_value(path: Path, key: str) -> Any:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}); download it again") from None
    return content.get(key) if isinstance(content, dict) else None


def load_weights(
    folder: Path,
    name: str,
    *,
    dtype: torch.dtype,
    allow_remote_code: bool = False,
    allow_pickle: bool = False,
    device_map: DeviceMap | None = None,
    attention: str | None = None,
) -> tuple[Any, str]:
    """The causal language model in a folder, on the CPU, with exactly the weights in its files; and how that was seen.

    device_map: where its parts go instead. attention: its implementation; transformers' choice if None. An adapter
    that lies beside whole weights is not put on. Raises `UserError` for weights that are missing, too many or of
    other shapes, and passes on transformers' own errors.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from harness.model.placement import refuse_offloaded

    files = weight_files(folder, name, allow_pickle=allow_pickle)

    placed = {} if device_map is None else {"device_map": device_map}

    def loaded(**placed: Any) -> Any:
        with _without_adapter(folder) as whole:
            model, info = AutoModelForCausalLM.from_pretrained(
                whole,
                dtype=dtype,
                trust_remote_code=allow_remote_code,
                use_safetensors=None if allow_pickle else True,
                output_loading_info=True,
                # So that they are named below; nothing of another shape is taken
                ignore_mismatched_sizes=True,
                **({} if attention is None else {"attn_implementation": attention}),
                **placed,
            )
        refuse_other_weights(model, info, name)
        return model

    before = torch.random.get_rng_state()
    model = loaded(**placed)
    refuse_offloaded(model)
    compared = compare_with_files(model, [path for path in files if path.suffix == ".safetensors"], name)
    found = f"no tensor is missing; values of {compared} compared"
    if not torch.equal(before, torch.random.get_rng_state()):
        # Something was drawn: in vain, or into the weights, which a second draw then shows. On the CPU, where there is
        # room for two; what is quantised may not run there
        again = placed if getattr(model, "is_quantized", False) else {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch.initial_seed() + 1)
            refuse_drawn_weights(fingerprint(model), fingerprint(loaded(**again)), name)
        found += "; the same when loaded twice"
    return model, found


def without_weights(
    folder: Path,
    name: str,
    *,
    dtype: torch.dtype,
    allow_remote_code: bool = False,
    allow_pickle: bool = False,
) -> tuple[Any, str]:
    """The model in a folder as `load_weights` gives it, its tensors on the device "meta"; and what was not checked.

    Raises `UserError` for weight files that are not there, and passes on transformers' own errors.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    from harness.model.architecture import set_generation_settings

    weight_files(folder, name, allow_pickle=allow_pickle)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=allow_remote_code)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=allow_remote_code)
    if (folder / "generation_config.json").is_file():
        set_generation_settings(model, GenerationConfig.from_pretrained(folder))
    return model, "left on disk, for the engine to load: it refuses a tensor that the files lack"


@contextmanager
def _without_adapter(folder: Path) -> Iterator[Path]:
    """A folder, or links to all in it but an adapter's configuration: transformers would put that adapter on."""
    if not (folder / ADAPTER_CONFIG).is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory() as links:
        for path in folder.iterdir():
            if path.name != ADAPTER_CONFIG:
                (Path(links) / path.name).symlink_to(path.resolve())
        yield Path(links)


def refuse_other_weights(model: Any, info: Mapping[str, Collection[Any]], name: str) -> None:
    """`UserError` when the file has not every tensor of the model, has one of another shape, or has one of the model's
    that it has no place for.

    info: what transformers says of a loading (`output_loading_info`): missing_keys, unexpected_keys, mismatched_keys.
    Tied weights that the file holds once are not missing.
    """
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    others = f"the weights of {name} are not those of its configuration"
    if missing:
        idle = f"; in it and without a place: {few(unexpected)} ({len(unexpected)} in all)" if unexpected else ""
        raise UserError(
            f"{others}: missing in the file: {few(missing)} ({len(missing)} in all){idle}"
            f"{_wrapped(missing, unexpected)}; save the model again, whole and under the names of its architecture"
        )
    if mismatched := sorted(info["mismatched_keys"]):
        key, found, wanted = mismatched[0]
        raise UserError(
            f"{others}: {key} has the shape {tuple(found)} in the file and {tuple(wanted)} in the model "
            f"({len(mismatched)} such in all); put the config.json of these weights there"
        )
    modules = {path for path, _ in model.named_modules() if path}
    computed = {key for key, _ in model.named_buffers()}
    dropped = [
        key for key in unexpected if _is_the_models(key, modules) and key not in computed and not _COMPUTED.search(key)
    ]
    if dropped:
        raise UserError(
            f"{others}: unexpected in the file: {few(dropped)} ({len(dropped)} in all); put the config.json of these "
            "weights there"
        )


def _is_the_models(key: str, modules: Collection[str]) -> bool:
    """Whether a tensor names a block or lies in a module that the model has; a value head of a trainer does neither."""
    parts = key.split(".")
    return bool(_BLOCK.search(key)) or any(".".join(parts[:end]) in modules for end in range(1, len(parts)))


def _wrapped(missing: list[str], unexpected: list[str]) -> str:
    """Said where the missing tensors are all in the file, with one more word before their names."""
    prefixes = [key.removesuffix(missing[0]) for key in unexpected if key.endswith(f".{missing[0]}")]
    there = set(unexpected)
    for prefix in prefixes:
        if all(prefix + key in there for key in missing):
            return f"; all that is missing is there with {prefix!r} before its name"
    return ""


def compare_with_files(model: Any, files: Iterable[Path], name: str) -> int:
    """Compares some values of every tensor in safetensors files with the model's; returns of how many tensors.

    Tensors of other names (those that transformers renames or joins) and quantised ones are left out. Raises
    `UserError` for one that differs, and for whole numbers where the model has weights: without the scale that they
    were quantised with they are other weights.
    """
    import torch
    from safetensors import safe_open

    if getattr(model, "is_quantized", False):
        return 0
    plain = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    state = model.state_dict()
    # A family whose tensors are rearranged while they load may keep a name for other values
    rearranged = any(hasattr(step, "operations") for step in getattr(model, "_weight_conversions", None) or ())
    compared = 0
    for path in files:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - no mapping
                own = _of_that_name(state, key, str(getattr(model, "base_model_prefix", "")))
                tensor = file.get_slice(key)
                shape = tuple(tensor.get_shape())
                if own is None or own.dtype not in plain or tuple(own.shape) != shape or 0 in shape:
                    continue
                place = _sampled(shape)
                theirs = tensor[place] if shape else file.get_tensor(key)
                if not theirs.is_floating_point() and not rearranged:
                    raise UserError(
                        f"the weights of {name} are whole numbers in {path.name} ({key}: "
                        f"{str(theirs.dtype).removeprefix('torch.')}), and its config.json does not say how they were "
                        "quantised (quantization_config); save the model again with it"
                    )
                if theirs.dtype not in plain or rearranged:
                    continue
                compared += 1
                if not same_values(own[place].cpu(), theirs.to(own.dtype)):
                    raise UserError(
                        f"the weights of {name} are not those of its files: {key} has other values in the model than "
                        f"in {path.name}; see whether the files name it twice, and download them again"
                    )
    return compared


def _of_that_name(state: Mapping[str, Tensor], key: str, prefix: str) -> Tensor | None:
    """The model's tensor that transformers fills from a key; the name of the decoder may stand before it or not."""
    for candidate in (key, f"{prefix}.{key}", key.removeprefix(f"{prefix}.")):
        if candidate in state:
            return state[candidate]
    return None


def fingerprint(model: Any) -> dict[str, Tensor]:
    """Some values of every parameter and buffer, by name."""
    return {key: tensor[_sampled(tuple(tensor.shape))].clone().cpu() for key, tensor in model.state_dict().items()}


def refuse_drawn_weights(first: Mapping[str, Tensor], second: Mapping[str, Tensor], name: str) -> None:
    """`UserError` when two loadings of the same files, with two seeds, gave other values (see `fingerprint`)."""
    if drawn := [key for key, values in first.items() if not same_values(values, second[key])]:
        raise UserError(
            f"the weights of {name} are not the same when they are loaded twice: drawn at random: {few(drawn)} "
            f"({len(drawn)} in all); save the model again, whole"
        )


def _sampled(shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The middle of all dimensions but the last, and at most `SAMPLE` values of that."""
    if not shape:
        return ()
    return (*(slice(size // 2, size // 2 + 1) for size in shape[:-1]), slice(0, min(shape[-1], SAMPLE)))


def same_values(a: Tensor, b: Tensor) -> bool:
    """Equal values at equal places; what is not a number equals itself here."""
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def few(names: Iterable[str]) -> str:
    """The first of many names, as a list for a message."""
    listed = list(names)
    return ", ".join(listed[:2]) + (", ..." if len(listed) > 2 else "")
