"""What a model or adapter folder holds, looked at before anything else reads it: the one place for strangers' files.

`check_folder` reads plain facts with our own code: kinds and sizes of files, nesting, what names code, other packages
or other folders. `try_files` has the libraries read the rest (configuration, headers, tokenizer, template, adapter) in
a child process with limits, on the device "meta", and compares sizes with the memory there is. What they refuse within
their limits they refuse again when the model is loaded, in the words of whoever loads it. Packaged models are pinned by
digest and skip this.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from asabench.core.errors import UserError
from asabench.core.files import parse_json
from harness.model.safe_loading import is_memory_fault, within_limits
from harness.model.weights import ADAPTER_CONFIG, few

MOST_FILES = 10_000
MOST_FIELDS = 16 * 2**20
MOST_TEXT = 512 * 2**20
"""Bytes of a file of settings or of a template, and of any other text: a vocabulary, an index, a log."""
MOST_DEPTH = 64
"""Levels of a JSON file: each is a call on the stack of some parser."""
_READ_SUFFIXES = (".json", ".jinja", ".txt", ".py", ".model", ".safetensors", ".bin")
_SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "processor_config.json",
    "preprocessor_config.json",
    "chat_template.json",
    ADAPTER_CONFIG,
)
"""What libraries read fields from."""
_CODE_FIELDS = ("auto_map", "custom_generate", "custom_pipelines", "trust_remote_code")
_IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")

# ----------------------------------------------------------------------------------------------------------------------
# Plain facts
# ----------------------------------------------------------------------------------------------------------------------


def check_folder(folder: Path, name: str, *, allow_remote_code: bool) -> None:
    """`UserError` for a folder with files that nothing should open, or fields that would run or fetch code.

    What names code that is left out, because a library's class of the same family is there, is said on stderr.
    """
    code = []
    for path in _files(folder, name):
        _check_kind(path, name)
        if path.suffix == ".py":
            code.append(path.name)
        elif path.name in _SETTINGS:
            content = _read(path, name)
            code += [f"{field} in {path.name}" for field in _CODE_FIELDS if content.get(field)]
            if not allow_remote_code:
                _refuse_fetched_code(content, path.name, name)
            if path.name == "tokenizer_config.json":
                _refuse_files_elsewhere(content, folder, name)
            if path.name == ADAPTER_CONFIG:
                _check_adapter(content, name)
    if (folder / "custom_generate").is_dir():
        code.append("custom_generate/")
    if code and not allow_remote_code:
        _say_left_out(name, few(code))


def _files(folder: Path, name: str) -> list[Path]:
    try:
        listed = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be read ({error.strerror}); make it readable") from None
    if len(listed) > MOST_FILES:
        raise UserError(
            f"{name} has {len(listed)} files; a model has at most {MOST_FILES}: give the folder of one model"
        )
    return [path for path in listed if path.suffix in _READ_SUFFIXES]


def _check_kind(path: Path, name: str) -> None:
    """A pipe or a device never ends, and a text of gigabytes is read whole."""
    try:
        found = path.stat()
    except OSError:  # a link to nothing; what needs the file says so
        return
    if stat.S_ISDIR(found.st_mode):
        return
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path.name} of {name} is no plain file; put the file itself there, or take it away")
    if path.suffix in (".safetensors", ".bin"):
        return
    most = MOST_FIELDS if path.name in _SETTINGS or path.suffix == ".jinja" else MOST_TEXT
    if found.st_size > most:
        raise UserError(
            f"{path.name} of {name} has {found.st_size / 2**20:.0f} MiB; at most {most // 2**20} MiB are read: "
            "download it again, or take it away"
        )


def _read(path: Path, name: str) -> Mapping[str, Any]:
    """The fields of a JSON file; none where it is no JSON object, which whoever needs it says."""
    if not path.is_file():
        return {}
    try:
        content = parse_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    if _deeper_than(content, MOST_DEPTH):
        raise UserError(
            f"{path.name} of {name} is nested deeper than {MOST_DEPTH} levels; download it again, or save it again"
        )
    return content if isinstance(content, dict) else {}


def _deeper_than(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most + 1):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += each.values()
            elif isinstance(each, list):
                inner += each
        level = inner
        if not level:
            return False
    return True


def _refuse_fetched_code(content: Mapping[str, Any], file: str, name: str) -> None:
    """An implementation with an owner is a repository of the hub, whose code transformers would fetch and run."""
    for field, value in _everywhere(content):
        if not field.removeprefix("_").removesuffix("_internal").endswith(_IMPLEMENTATIONS):
            continue
        for each in value.values() if isinstance(value, dict) else [value]:
            if isinstance(each, str) and "/" in each:
                raise UserError(
                    f"{file} of {name} names code of the hub, {each!r} ({field}); take the field out, or use "
                    "--allow-remote-code if you trust its authors"
                )


def _everywhere(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All (field, value) of a mapping and of those in it."""
    for field, value in content.items():
        yield str(field), value
        if isinstance(value, dict):
            yield from _everywhere(value)


def _refuse_quantiser(content: Mapping[str, Any], name: str) -> None:
    """transformers leaves out a quantisation that it does not know, and takes the packed numbers for weights."""
    parts = (content, *(part for part in content.values() if isinstance(part, dict)))
    for settings in [part["quantization_config"] for part in parts if part.get("quantization_config") is not None]:
        from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING as known

        method = settings.get("quant_method") if isinstance(settings, dict) else settings
        by_flag = isinstance(settings, dict) and (settings.get("load_in_8bit") or settings.get("load_in_4bit"))
        if not by_flag and (not isinstance(method, str) or method not in known):
            raise UserError(
                f"config.json of {name} names a quantisation that the installed transformers does not know, "
                f"{str(method)[:40]!r}; a plug-in for it is code of its own: --allow-remote-code, if you trust it"
            )


def _refuse_files_elsewhere(content: Mapping[str, Any], folder: Path, name: str) -> None:
    """A path that somebody's machine left there names nothing here; one that exists would be read, outside of the
    folder that the revision stands for."""
    for field, value in content.items():
        if field.endswith("_file") and isinstance(value, str) and (folder / value).parent.resolve() != folder.resolve():
            try:
                there = (folder / value).exists()
            except (OSError, ValueError):
                there = False
            if there:
                raise UserError(
                    f"tokenizer_config.json of {name} names a file outside its folder ({field}); put the file there, "
                    "and take the field out"
                )


def _check_adapter(content: Mapping[str, Any], name: str) -> None:
    """Fields by which peft would import a module, or read other adapters from where they say."""
    mapping = content.get("auto_mapping")
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    if library is not None and str(library).partition(".")[0] not in ("transformers", "peft"):
        raise UserError(
            f"the adapter {name} names a module to import, {str(library)[:60]!r} (auto_mapping); take the field out of "
            f"its {ADAPTER_CONFIG}"
        )
    if content.get("megatron_config"):
        raise UserError(
            f"the adapter {name} is for Megatron and names a module to import (megatron_config); save it for "
            "transformers"
        )
    if str(content.get("peft_type")).upper() == "XLORA":
        raise UserError(
            f"the adapter {name} is made of other adapters (XLORA), which it names by their places; ASABench measures "
            "adapters that can be merged into the weights, such as LoRA"
        )


@cache
def _say_left_out(name: str, code: str) -> None:
    """Once a process."""
    print(
        f"{name} comes with code of its own ({code}), which is not run; --allow-remote-code runs it, if you trust its "
        "authors",
        file=sys.stderr,
    )


# ----------------------------------------------------------------------------------------------------------------------
# What libraries read
# ----------------------------------------------------------------------------------------------------------------------


def try_files(
    folder: Path,
    adapters: Sequence[Path],
    name: str,
    *,
    template: Path | None,
    bytes_per_value: int,
    room: int | None,
) -> None:
    """Has everything but the weights read in a child process, and `UserError` where that meets a limit.

    bytes_per_value: of the weights once they are loaded. room: bytes that they may take; None where another engine
    loads them, on machines that may not be seen from here and with quantisers of its own.
    """
    import transformers  # noqa: F401 - here, so that the child has it

    if adapters:
        try:
            import peft  # noqa: F401 - as above
        except ImportError:
            return  # said by whoever puts it on
    if room is not None:
        _refuse_quantiser(_read(folder / "config.json", name), name)
    within_limits(_read_all, folder, tuple(adapters), name, template, bytes_per_value, room, name=name)


@contextmanager
def _left_to_the_loader() -> Iterator[None]:
    """An ordinary error is met again when the model is loaded."""
    try:
        yield
    except UserError:
        pass
    except Exception as error:
        if is_memory_fault(error):
            raise


def _read_all(
    folder: Path, adapters: tuple[Path, ...], name: str, template: Path | None, bytes_per_value: int, room: int | None
) -> Iterator[str]:
    from harness.model.adapters import TEMPLATE_FILE, has_tokenizer

    yield "the configuration (config.json)"
    model = None
    with _left_to_the_loader():
        model = _on_meta(folder)
    if model is not None:
        _check_size(model, name, "config.json", bytes_per_value, room)
        yield "the configuration's patterns (quantization_config)"
        _try_patterns(model)
    yield "the headers of the weights"
    with _left_to_the_loader():
        _read_headers(folder)
    owner, own_template = folder, template
    for number, adapter in enumerate(adapters):
        yield f"the adapter {adapter.name}"
        with _left_to_the_loader():
            _put_on(model, adapter, f"adapter{number}")
        if model is not None:
            _check_size(model, name, ADAPTER_CONFIG, bytes_per_value, room)
        if has_tokenizer(adapter):
            owner, own_template = adapter, template
        elif (adapter / TEMPLATE_FILE).is_file():
            own_template = template or adapter / TEMPLATE_FILE
    yield "the tokenizer"
    tokenizer = None
    with _left_to_the_loader():
        tokenizer = _tokenizer(owner, model)
    if tokenizer is None:
        return
    yield "the tokenizer, on a few texts,"
    with _left_to_the_loader():
        for text in _TEXTS:
            tokenizer.decode(tokenizer(text)["input_ids"])
    if model is not None and owner == folder:
        _check_ids(tokenizer, int(model.get_input_embeddings().weight.shape[0]), name)
    yield "the chat template"
    with _left_to_the_loader():
        _render(tokenizer, own_template, name)


_TEXTS = ("Paint a fence.\n", "a" * 500 + "!", " " * 500 + "!", "1" * 500 + "a", "\n" * 200, "ab" * 200 + "\u00e9")
"""Texts on which patterns of the kind `(a+)+$` take for ever."""


def _on_meta(folder: Path) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def _check_size(model: Any, name: str, file: str, bytes_per_value: int, room: int | None) -> None:
    """`UserError` where the weights that a configuration asks for are more than there is memory for."""
    from harness.model import architecture  # torch is for the child alone

    if room is None:
        return
    values = sum(each.numel() for each in (*model.parameters(), *model.buffers()))
    # Four bits a weight are the fewest that a quantisation packs
    needed = (
        values // 2
        if getattr(architecture.configuration(model), "quantization_config", None)
        else values * bytes_per_value
    )
    if needed > room:
        raise UserError(
            f"the model {name} has {values:,} weights by its {file}, which take {needed / 2**30:,.1f} GiB, and "
            f"{room / 2**30:,.1f} GiB is the most that this machine has room for; use one with more memory, or put the "
            "right file there"
        )


def _try_patterns(model: Any) -> None:
    """The regular expressions of a quantisation, on the names of the modules that they are for."""
    import re

    from harness.model import architecture  # torch is for the child alone

    settings = getattr(architecture.configuration(model), "quantization_config", None)
    for _, value in _everywhere(settings if isinstance(settings, dict) else {}):
        for pattern in value if isinstance(value, list) else []:
            with _left_to_the_loader():
                compiled = re.compile(str(pattern).removeprefix("re:"))
                for path, _ in model.named_modules():
                    compiled.match(path)
                    compiled.search(path)


def _read_headers(folder: Path) -> None:
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with _left_to_the_loader(), safe_open(path, framework="pt") as file:
            list(file.keys())


def _put_on(model: Any, adapter: Path, label: str) -> None:
    """The adapter's configuration, its patterns on the names of the modules, and its layers on the model, without
    values. label: what peft calls it; a folder may have a name that is none of a module."""
    import re

    from peft import PeftConfig, inject_adapter_in_model

    config = PeftConfig.from_pretrained(str(adapter))
    if model is None:
        return
    names = [path for path, _ in model.named_modules()]
    for pattern in _patterns(config):
        with _left_to_the_loader():
            compiled = re.compile(pattern)
            for path in names:
                compiled.match(path)
    inject_adapter_in_model(config, model, adapter_name=label, low_cpu_mem_usage=True)


def _patterns(config: Any) -> Iterator[str]:
    """The regular expressions of an adapter's configuration, as peft completes them."""
    for field in ("target_modules", "exclude_modules"):
        if isinstance(given := getattr(config, field, None), str):
            yield rf"({given})\Z"
    for field in ("rank_pattern", "alpha_pattern"):
        for given in getattr(config, field, None) or ():
            yield rf"(.*\.)?({given})$"
    for given in getattr(config, "modules_to_save", None) or ():
        yield rf"(^|.*\.){given}($|\..*)"
    layers = getattr(config, "layers_pattern", None) or ()
    for given in [layers] if isinstance(layers, str) else layers:
        yield rf"(?:^|.*?\.){given}\.(?P<idx>\d+)\."


def _tokenizer(folder: Path, model: Any) -> Any:
    from transformers import AutoTokenizer

    from harness.model import architecture  # torch is for the child alone

    return AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, config=None if model is None else architecture.configuration(model)
    )


def _check_ids(tokenizer: Any, rows: int, name: str) -> None:
    """`UserError` for tokens of the vocabulary itself, or those that begin, end or stand for text, that have no
    embedding. Tokens that were added, for padding as a rule, are refused where a prompt holds one."""
    added = frozenset(getattr(tokenizer, "added_tokens_decoder", ()))
    used = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    beyond = [
        token
        for token, index in tokenizer.get_vocab().items()
        if index >= rows and (index not in added or index in used)
    ]
    if beyond:
        raise UserError(
            f"the tokenizer of {name} has {len(beyond)} tokens beyond the model's {rows} embeddings "
            f"({ascii(beyond[0])[:40]}); it is not this model's, or was extended without it: put the right one there"
        )


def _render(tokenizer: Any, template: Path | None, name: str) -> None:
    from asabench.core.protocol import PRESETS
    from asabench.core.records import Prompt
    from harness.model.prompt_format import check_prompts, without_mark
    from harness.model.stop_tokens import end_of_turn

    if template is not None:
        tokenizer.chat_template = template.read_text(encoding="utf-8-sig")
    without_mark(tokenizer)
    if not getattr(tokenizer, "chat_template", None):
        return
    for number, text in enumerate(_TEXTS):
        with _left_to_the_loader():
            check_prompts(tokenizer, [Prompt(id=str(number), goal=text)], PRESETS["asabench-v1"], name)
    end_of_turn(tokenizer, name)
