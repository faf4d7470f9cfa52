"""Model and adapter folders that are hostile or broken, each with what is right: the corpus of `test_hostile`.

    python -m tests.harness.model.hostile      tries all of them and writes the table into docs/security.md

A folder is a tiny model of a family, or an adapter on one, with one fault in it. Pickles and code in it leave a mark
when they run.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from asabench.core.errors import UserError
from asabench.core.protocol import PRESETS
from asabench.core.records import Prompt
from harness.model import safe_loading
from harness.model.subject import check_prompt_format, load
from tests.conftest import ROOT, chat_tokenizer, tiny_model

PAGE = ROOT / "docs" / "security.md"
FAMILIES = ("llama", "gpt2")
SHORT_LIMITS = safe_loading.Limits(cpu_seconds=3, seconds=40.0, memory=2**30, output=2**16)
PROMPTS = [Prompt(id="p", goal="paint a fence"), Prompt(id="q", goal="count to ten, slowly")]
REQUEST = "{{ messages[0]['content'] }}"
MARK = "mark-of-code-that-ran"

Make = Callable[[Path], None]


class Case(NamedTuple):
    """`kind`: what is wrong. `make` puts it into the folder of a tiny model, or of an adapter, of the family. `right`:
    a pattern of the line that refuses it; None: it is measured as what is in its files."""

    kind: str
    fault: str
    family: str
    adapter: bool
    make: Make
    right: str | None

    @property
    def id(self) -> str:
        return f"{'adapter-' if self.adapter else ''}{self.fault}-{self.family}".replace(" ", "-")


# ----------------------------------------------------------------------------------------------------------------------
# How a fault comes into a folder
# ----------------------------------------------------------------------------------------------------------------------


def text(file: str, content: str) -> Make:
    return lambda folder: void((folder / file).write_text(content, encoding="utf-8"))


def raw(file: str, content: bytes) -> Make:
    return lambda folder: void((folder / file).write_bytes(content))


def fields(file: str, **changes: Any) -> Make:
    def make(folder: Path) -> None:
        path = folder / file
        held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        path.write_text(json.dumps({**held, **changes}), encoding="utf-8")

    return make


def config(**changes: Any) -> Make:
    """By llama's names, and GPT-2's for the same."""
    names = {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
    }

    def make(folder: Path) -> None:
        gpt2 = json.loads((folder / "config.json").read_text())["model_type"] == "gpt2"
        fields("config.json", **{names.get(key, key) if gpt2 else key: each for key, each in changes.items()})(folder)

    return make


def without(*files: str) -> Make:
    return lambda folder: void([(folder / file).unlink() for file in files])


def pipe(file: str) -> Make:
    def make(folder: Path) -> None:
        (folder / file).unlink()
        os.mkfifo(folder / file)

    return make


def all_of(*steps: Make) -> Make:
    return lambda folder: void([step(folder) for step in steps])


def void(_: object) -> None:
    return None


class _Bomb:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.mkdir, (self.mark,))


def bomb(file: str) -> Make:
    """A pickle that leaves a mark."""
    return lambda folder: void((folder / file).write_bytes(pickle.dumps(_Bomb(str(folder / MARK)))))


def program(file: str) -> Make:
    """A module that leaves a mark when it is imported."""

    def make(folder: Path) -> None:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(f"import os\nos.mkdir({str(folder / MARK)!r})\n\nclass Own:\n    pass\n")

    return make


def tensors(file: str, change: Callable[[str, torch.Tensor], torch.Tensor | None]) -> Make:
    """The file's tensors, changed; None leaves one out."""

    def make(folder: Path) -> None:
        changed = {key: change(key, each.clone()) for key, each in load_file(folder / file).items()}
        save_file({key: each for key, each in changed.items() if each is not None}, folder / file, {"format": "pt"})

    return make


def value(number: float) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """Puts a number at the end of every matrix."""

    def change(key: str, each: torch.Tensor) -> torch.Tensor:
        if each.dim() == 2:
            each[-1, -1] = number
        return each

    return change


def header(content: bytes, length: int | None = None, data: bytes = b"\0" * 64) -> bytes:
    """A safetensors file. length: what it says of its header."""
    return struct.pack("<Q", len(content) if length is None else length) + content + data


def tensor_header(**tensor: Any) -> bytes:
    return header(json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **tensor}}).encode())


def truncated(file: str) -> Make:
    return lambda folder: void(os.truncate(folder / file, (folder / file).stat().st_size // 2))


def index(content: Any) -> Make:
    """An index in place of the weights' file."""
    body = content if isinstance(content, str) else json.dumps(content)
    return all_of(without("model.safetensors"), text("model.safetensors.index.json", body))


def template(body: str) -> Make:
    return text("chat_template.jinja", body)


def tokenizer(change: Callable[[Any], None]) -> Make:
    def make(folder: Path) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content)
        path.write_text(json.dumps(content), encoding="utf-8")

    return make


def split_by(pattern: str) -> Make:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}

    def change(content: Any) -> None:
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, content["pre_tokenizer"]]}

    return tokenizer(change)


def sets(**changes: Any) -> Make:
    return tokenizer(lambda content: void(content.update(changes)))


def new_id(token: str, number: int) -> Make:
    def change(content: Any) -> None:
        content["model"]["vocab"][token] = number

    return tokenizer(change)


def added(number: int, **changes: Any) -> Make:
    token = {
        "id": number,
        "content": "<new>",
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }

    def change(content: Any) -> None:
        content["added_tokens"].append({**token, **changes})

    return tokenizer(change)


def base(name: Callable[[Path], str]) -> Make:
    """What an adapter names as its base."""
    return lambda folder: fields("adapter_config.json", base_model_name_or_path=name(folder))(folder)


def chain(folder: Path) -> None:
    """Twenty adapters, each the base of the next."""
    below = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    for number in range(20):
        each = folder.parent / f"{folder.name}-{number}"
        shutil.copytree(folder, each)
        fields("adapter_config.json", base_model_name_or_path=str(below))(each)
        below = each
    fields("adapter_config.json", base_model_name_or_path=str(below))(folder)


def circle(folder: Path) -> None:
    other = folder.parent / f"{folder.name}-other"
    shutil.copytree(folder, other)
    fields("adapter_config.json", base_model_name_or_path=str(folder))(other)
    fields("adapter_config.json", base_model_name_or_path=str(other))(folder)


def link(file: str, to: str) -> Make:
    def make(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        (folder / file).symlink_to(to)

    return make


def many_files(folder: Path) -> None:
    for number in range(10_100):
        (folder / f"{number}.x").touch()


# ----------------------------------------------------------------------------------------------------------------------
# The faults
# ----------------------------------------------------------------------------------------------------------------------

DEEP = "[" * 100_000
NESTED = json.loads("[" * 200 + "]" * 200)
EXPLODES = r"((([a-z0-9_.]+)+)+)+!"
TOO_LONG = "seconds of computing|GiB of memory"
TOO_LARGE = "weights by its config.json"
NO_CONFIG = "cannot be loaded|cannot be read|decoder|config.json|code of its own"
NO_TOKENIZER = "has no tokenizer|the tokenizer"
NO_TEMPLATE = "chat template"
NO_WEIGHTS = "weights|header"

CONFIGURATION: dict[str, tuple[Make, str | None]] = {
    "deep": (text("config.json", DEEP), NO_CONFIG),
    "nested field": (config(extra=NESTED), "nested deeper than 64 levels"),
    "null": (text("config.json", "null"), NO_CONFIG),
    "empty": (text("config.json", ""), NO_CONFIG),
    "bytes": (raw("config.json", b"\xff\xfe\x00{"), NO_CONFIG),
    "long number": (text("config.json", '{"model_type": "llama", "hidden_size": ' + "9" * 10_000 + "}"), NO_CONFIG),
    "wide": (config(hidden_size=2**31), TOO_LARGE + "|overflow"),
    "vocabulary": (config(vocab_size=10**13), TOO_LARGE),
    "inner": (config(intermediate_size=10**14), TOO_LARGE),
    "negative": (config(hidden_size=-32), NO_CONFIG),
    "not a number": (config(hidden_size=float("nan")), NO_CONFIG),
    "infinite": (config(hidden_size=float("inf")), NO_CONFIG),
    "beyond 64 bits": (config(hidden_size=2**70), NO_CONFIG),
    "no heads": (config(num_attention_heads=0), NO_CONFIG),
    "no layers": (config(num_hidden_layers=0), NO_CONFIG + "|weights|blocks"),
    "text for a number": (config(num_hidden_layers="4"), NO_CONFIG),
    "other model type": (config(model_type=["llama"]), NO_CONFIG),
    "encoder": (config(is_encoder_decoder=True), "encoder-decoder"),
    "dtype": (config(dtype="os.system"), NO_CONFIG),
    "attention of the hub": (config(attn_implementation="evil/kernel"), "names code of the hub"),
    "attention of the hub by part": (config(attn_implementation={"": "evil/kernel"}), "names code of the hub"),
    "attention of the hub inside": (
        config(sub_config={"_attn_implementation": "evil/kernel:f"}),
        "names code of the hub",
    ),
    "experts of the hub": (config(experts_implementation="evil/kernel"), "names code of the hub"),
    "own code for a known family": (
        all_of(config(auto_map={"AutoModelForCausalLM": "evil.Own"}), program("evil.py")),
        None,
    ),
    "own code for a family of its own": (
        all_of(
            config(model_type="evil", auto_map={"AutoConfig": "evil.Own", "AutoModelForCausalLM": "evil.Own"}),
            program("evil.py"),
        ),
        "allow-remote-code",
    ),
    "trusts itself": (all_of(config(trust_remote_code=True), program("modeling_evil.py")), None),
    "generates by itself": (program("custom_generate/generate.py"), None),
    "unknown quantiser": (config(quantization_config={"quant_method": "evil"}), "does not know"),
    "quantiser without a name": (config(quantization_config={"bits": 4}), "does not know"),
    "quantiser a list": (config(quantization_config=[1]), "does not know"),
    "pipe": (pipe("config.json"), "no config.json|no plain file"),
    "long": (
        text("config.json", '{"model_type": "llama", "x": "' + " " * 17 * 2**20 + '"}'),
        "at most 16 MiB",
    ),
    "link to itself": (link("config.json", "config.json"), "no config.json"),
    "many files": (many_files, "at most 10000"),
    "generation deep": (text("generation_config.json", DEEP), "generation_config.json"),
    "generation nested": (fields("generation_config.json", extra=NESTED), "nested deeper"),
    "generation garbage": (text("generation_config.json", "\u2603"), "generation_config.json"),
    "generation ends nowhere": (fields("generation_config.json", eos_token_id=10**12), "eos_token_id"),
    "generation by code": (fields("generation_config.json", custom_generate="evil/repository"), None),
}

WEIGHTS: dict[str, tuple[Make, str | None]] = {
    "truncated": (truncated("model.safetensors"), NO_WEIGHTS),
    "empty": (raw("model.safetensors", b""), NO_WEIGHTS),
    "header longer than the file": (raw("model.safetensors", header(b"{}", 2**40)), NO_WEIGHTS),
    "header of 2**64-1": (raw("model.safetensors", header(b"{}", 2**64 - 1)), NO_WEIGHTS),
    "header deep": (raw("model.safetensors", header(b"[" * 100_000)), NO_WEIGHTS),
    "header no JSON": (raw("model.safetensors", header(b"\xff" * 100)), NO_WEIGHTS),
    "no tensors": (raw("model.safetensors", header(b"{}", data=b"")), NO_WEIGHTS),
    "shape beyond the file": (raw("model.safetensors", tensor_header(shape=[10**15])), NO_WEIGHTS),
    "shape that overflows": (raw("model.safetensors", tensor_header(shape=[2**40, 2**40])), NO_WEIGHTS),
    "negative shape": (raw("model.safetensors", tensor_header(shape=[-4])), NO_WEIGHTS),
    "offsets beyond": (raw("model.safetensors", tensor_header(data_offsets=[0, 2**50])), NO_WEIGHTS),
    "offsets backwards": (raw("model.safetensors", tensor_header(data_offsets=[16, 0])), NO_WEIGHTS),
    "unknown kind of number": (raw("model.safetensors", tensor_header(dtype="EVIL")), NO_WEIGHTS),
    "pickle by that name": (bomb("model.safetensors"), NO_WEIGHTS),
    "pickle alone": (all_of(without("model.safetensors"), bomb("pytorch_model.bin")), "allow-pickle"),
    "pickle beside": (bomb("pytorch_model.bin"), None),
    "pickle by the index": (
        all_of(index({"weight_map": {"a": "evil.bin"}}), bomb("evil.bin")),
        "allow-pickle",
    ),
    "pickle by the pickles' index": (
        all_of(
            without("model.safetensors"),
            text("pytorch_model.bin.index.json", '{"weight_map": {"a": "evil.bin"}}'),
            bomb("evil.bin"),
        ),
        "allow-pickle",
    ),
    "pickle by the configuration": (
        all_of(config(transformers_weights="evil.bin"), bomb("evil.bin")),
        "allow-pickle",
    ),
    "elsewhere by the configuration": (config(transformers_weights="../evil.safetensors"), "outside its folder"),
    "index deep": (index(DEEP), "cannot be read"),
    "index null": (index(None), "names no weights"),
    "index a list": (index([1, 2]), "names no weights"),
    "index of nothing": (index({"weight_map": {}}), "names no weights"),
    "index of numbers": (index({"weight_map": {"a": 1}}), "names no weights"),
    "index of lists": (index({"weight_map": {"a": ["b"]}}), "names no weights"),
    "index of objects": (index({"weight_map": {"a": {"b": "c"}}}), "names no weights"),
    "index garbage": (all_of(index({}), raw("model.safetensors.index.json", b"\xff\xfe")), "cannot be read"),
    "index elsewhere": (index({"weight_map": {"a": "../../etc/passwd"}}), "outside its folder"),
    "index absolute": (index({"weight_map": {"a": "/etc/passwd"}}), "outside its folder"),
    "index of itself": (index({"weight_map": {"a": "model.safetensors.index.json"}}), "pickle"),
    "index of what is missing": (index({"weight_map": {"a": "b.safetensors"}}), "not in the folder"),
    "NaN": (tensors("model.safetensors", value(float("nan"))), "finite numbers"),
    "infinity": (tensors("model.safetensors", value(float("inf"))), "finite numbers"),
    "minus infinity": (tensors("model.safetensors", value(float("-inf"))), "finite numbers"),
    "beyond the dtype": (
        tensors("model.safetensors", lambda key, each: each.double() * 1e300),
        "finite numbers",
    ),
    "a tensor less": (
        tensors("model.safetensors", lambda key, each: None if ".1." in key and each.dim() == 2 else each),
        "missing in the file",
    ),
    "other shapes": (
        tensors("model.safetensors", lambda key, each: each[:-1].clone() if each.dim() == 2 else each),
        "has the shape",
    ),
    "whole numbers": (
        tensors("model.safetensors", lambda key, each: each.to(torch.int8) if each.dim() == 2 else each),
        "whole numbers",
    ),
    "pipe": (pipe("model.safetensors"), "no plain file"),
    "link to nothing": (link("model.safetensors", "nowhere"), "no safetensors weights"),
}

TOKENIZERS: dict[str, tuple[Make, str | None]] = {
    "deep": (text("tokenizer.json", DEEP), NO_TOKENIZER),
    "garbage": (text("tokenizer.json", "{}"), NO_TOKENIZER),
    "bytes": (raw("tokenizer.json", b"\xff\xfe\x00"), NO_TOKENIZER),
    "missing": (without("tokenizer.json", "tokenizer_config.json"), NO_TOKENIZER),
    "configuration nested": (fields("tokenizer_config.json", extra=NESTED), "nested deeper"),
    "class of another module": (fields("tokenizer_config.json", tokenizer_class="os.system"), None),
    "own code": (
        all_of(
            fields("tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["evil.Own", None]}),
            program("evil.py"),
        ),
        "allow-remote-code|no tokenizer",
    ),
    "file elsewhere": (fields("tokenizer_config.json", tokenizer_file="../../../etc/passwd"), None),
    "ids beyond the embeddings": (new_id("zz", 5_000), "beyond the model's 160 embeddings"),
    # Libraries of before refuse it themselves
    "an id of 2**32-1": (new_id("zz", 2**32 - 1), "beyond the model's 160 embeddings|cannot be read"),
    "an id beyond 32 bits": (new_id("zz", 2**40), NO_TOKENIZER),
    "a negative id": (new_id("zz", -1), NO_TOKENIZER),
    "end beyond the embeddings": (
        all_of(added(160), fields("tokenizer_config.json", eos_token="<new>")),
        "beyond the model's 160 embeddings|eos",
    ),
    "added token that a prompt holds": (
        all_of(added(160), template(REQUEST + "<new>")),
        "embeddings for 160",
    ),
    "pattern that explodes": (split_by(r"((((a|b|1| )+)+)+)+$"), TOO_LONG + "|tokenizer"),
    "pattern that is none": (split_by("("), NO_TOKENIZER),
    "normaliser that grows": (
        sets(normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 3_000_000}),
        TOO_LONG + "|SIG",
    ),
    "padding to 10**10": (
        sets(
            padding={
                "strategy": {"Fixed": 10**10},
                "direction": "Left",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "<pad>",
            }
        ),
        None,
    ),
    "truncation to 3": (
        sets(truncation={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}),
        None,
    ),
    "pipe": (pipe("tokenizer.json"), "no plain file"),
    "added tokens by words": (fields("tokenizer_config.json", added_tokens_decoder={"x": 1}), NO_TOKENIZER),
}

TEMPLATES: dict[str, tuple[Make, str | None]] = {
    "loops": (
        template("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}" + REQUEST),
        TOO_LONG,
    ),
    "recurses": (template("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), NO_TEMPLATE),
    "allocates": (template("{{ ('a' * 10**11)[0] }}" + REQUEST), NO_TEMPLATE),
    "allocates by a format": (template("{{ ('%099999999999d' % 1)[0] }}" + REQUEST), NO_TEMPLATE),
    "doubles": (
        template(
            "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}" + REQUEST
        ),
        NO_TEMPLATE,
    ),
    "computes": (template("{{ (7 ** (7 ** 12)) % 2 }}" + REQUEST), TOO_LONG),
    "writes much": (template("{% for i in range(99999) %}" + "word " * 30 + "{% endfor %}" + REQUEST), "characters"),
    "reaches for a class": (template("{{ ''.__class__.__mro__ }}" + REQUEST), NO_TEMPLATE),
    "reaches for all classes": (template("{{ [].__class__.__base__.__subclasses__() }}" + REQUEST), NO_TEMPLATE),
    "reaches for globals": (template("{{ cycler.__init__.__globals__.os.getcwd() }}" + REQUEST), NO_TEMPLATE),
    "reaches by a format": (template("{{ '{0.__class__.__mro__}'.format(1) }}" + REQUEST), NO_TEMPLATE),
    "reaches by attr": (template("{{ (''|attr('__class__')).__mro__ }}" + REQUEST), NO_TEMPLATE),
    "changes the messages": (template("{{ messages.clear() }}" + REQUEST), NO_TEMPLATE),
    "includes a file": (template("{% include '/etc/passwd' %}" + REQUEST), NO_TEMPLATE),
    "imports": (template("{% import 'os' as os %}" + REQUEST), NO_TEMPLATE),
    "raises": (template("{{ raise_exception('no') }}"), NO_TEMPLATE),
    "is no template": (template("{% for %}"), NO_TEMPLATE),
    "is nested deep": (template("{% if 1 %}" * 5_000 + REQUEST + "{% endif %}" * 5_000), NO_TEMPLATE),
    "has deep brackets": (template("{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}" + REQUEST), NO_TEMPLATE),
    "leaves the request out": (template("Say hello."), NO_TEMPLATE),
    "draws at random": (template("{{ range(99999) | random }}" + REQUEST), NO_TEMPLATE),
    "explodes on a text": (template("{{ lipsum(n=90000) | length }}" + REQUEST), TOO_LONG + "|another prompt"),
    "is no text": (raw("chat_template.jinja", b"\xff\xfe\xff"), "chat template|tokenizer"),
    "is empty": (template(""), NO_TEMPLATE),
    "is long": (template(" " * 17 * 2**20), "at most 16 MiB"),
}

ADAPTERS: dict[str, tuple[Make, str | None]] = {
    "names itself": (base(str), "its own base"),
    "names itself by a dot": (base(lambda folder: "."), "its own base"),
    "names one that names it": (circle, "its own base"),
    "stands on twenty": (chain, "one of more than 8"),
    "names a path upwards": (base(lambda folder: "../../../../../../etc"), "config.json"),
    "names a device": (base(lambda folder: "/dev/zero"), "unknown model|names its base"),
    "names a long path": (base(lambda folder: "a/" * 5_000), "unknown model|names its base"),
    "names a zero byte": (base(lambda folder: "a\0b"), "unknown model|names"),
    "names a number": (fields("adapter_config.json", base_model_name_or_path=7), "names no base"),
    "deep": (text("adapter_config.json", DEEP), "cannot be read"),
    "nested": (fields("adapter_config.json", extra=NESTED), "nested deeper"),
    "null": (text("adapter_config.json", "null"), "holds no fields"),
    "pattern that explodes": (fields("adapter_config.json", target_modules=EXPLODES), TOO_LONG),
    "exception that explodes": (
        fields("adapter_config.json", exclude_modules=EXPLODES),
        TOO_LONG,
    ),
    "rank's pattern that explodes": (fields("adapter_config.json", rank_pattern={EXPLODES: 2}), TOO_LONG),
    "scale's pattern that explodes": (fields("adapter_config.json", alpha_pattern={EXPLODES: 2}), TOO_LONG),
    "saved modules' pattern that explodes": (
        fields("adapter_config.json", modules_to_save=[EXPLODES]),
        TOO_LONG,
    ),
    "layers' pattern that explodes": (
        fields("adapter_config.json", layers_to_transform=[0], layers_pattern=EXPLODES),
        TOO_LONG + "|fit|kind",
    ),
    "pattern that is none": (fields("adapter_config.json", target_modules="("), "does not fit"),
    "rank of 10**12": (fields("adapter_config.json", r=10**12), "weights by its adapter_config.json|GiB of memory"),
    "rank below nought": (fields("adapter_config.json", r=-1), "fit"),
    "rank a text": (fields("adapter_config.json", r="2"), "fit"),
    "scale not a number": (fields("adapter_config.json", lora_alpha=float("nan")), "finite|another model"),
    "imports a module": (
        fields("adapter_config.json", task_type=None, auto_mapping={"parent_library": "evil", "base_model_class": "X"}),
        "module to import",
    ),
    "imports for Megatron": (
        fields("adapter_config.json", megatron_core="evil", megatron_config={"tensor_model_parallel_size": 1}),
        "module to import",
    ),
    "is made of others": (
        fields("adapter_config.json", peft_type="XLORA", adapters={"0": "../evil"}),
        "made of other adapters",
    ),
    "of an unknown kind": (fields("adapter_config.json", peft_type="EVIL"), "does not read"),
    "of prompts": (
        fields(
            "adapter_config.json",
            peft_type="MULTITASK_PROMPT_TUNING",
            prompt_tuning_init_state_dict_path="evil.bin",
        ),
        "kind|changes no weights",
    ),
    "pickle alone": (
        all_of(without("adapter_model.safetensors"), bomb("adapter_model.bin")),
        "allow-pickle",
    ),
    "pickle by that name": (bomb("adapter_model.safetensors"), "cannot be read"),
    "pickle beside": (bomb("adapter_model.bin"), None),
    "truncated": (truncated("adapter_model.safetensors"), "cannot be read"),
    "no tensors": (raw("adapter_model.safetensors", header(b"{}", data=b"")), "no tensors"),
    "NaN": (tensors("adapter_model.safetensors", value(float("nan"))), "finite|another model"),
    "infinity": (tensors("adapter_model.safetensors", value(float("inf"))), "finite|another model"),
    "a tensor less": (
        tensors("adapter_model.safetensors", lambda key, each: None if ".1." in key else each),
        "lacks",
    ),
    "a tensor more": (
        tensors("adapter_model.safetensors", lambda key, each: each[:-1].clone() if ".1." in key else each),
        "fit",
    ),
    "pipe": (pipe("adapter_model.safetensors"), "no plain file"),
    "tokens beyond": (
        lambda folder: (chat_tokenizer().save_pretrained(folder), new_id("zz", 5_000)(folder), None)[-1],
        "tokenizer",
    ),
    "template loops": (TEMPLATES["loops"][0], TOO_LONG),
    "generates by itself": (program("custom_generate/generate.py"), None),
}

# Those that wait for a limit, or are one of a kind, are tried in one family
ONCE = ("explodes", "loops", "computes", "grows", "many files", "long", "twenty", "text for")
HANGS: dict[str, tuple[Make, str | None]] = {
    "layers without end": (config(num_hidden_layers=10**9), TOO_LONG),
    "labels without end": (config(num_labels=10**9), TOO_LONG),
    "quantiser's pattern that explodes": (
        config(quantization_config={"quant_method": "fp8", "modules_to_not_convert": [EXPLODES]}),
        TOO_LONG,
    ),
}


def _cases() -> Iterator[Case]:
    tables = {
        "configuration": (CONFIGURATION, ("llama", "gpt2")),
        "weights": (WEIGHTS, ("llama", "gpt2")),
        "tokenizer": (TOKENIZERS, ("llama",)),
        "chat template": (TEMPLATES, ("llama",)),
        "adapter": (ADAPTERS, ("llama",)),
        "what never ends": (HANGS, ("llama",)),
    }
    for kind, (faults, families) in tables.items():
        for fault, (make, right) in faults.items():
            for family in families[: 1 if any(word in fault for word in ONCE) else None]:
                prefix = "" if kind in ("adapter", "what never ends") else f"{kind} "
                yield Case(kind, prefix + fault, family, kind == "adapter", make, right)


CASES = tuple(_cases())


# ----------------------------------------------------------------------------------------------------------------------
# Trying them
# ----------------------------------------------------------------------------------------------------------------------


def save_clean(folder: Path) -> None:
    """A whole tiny model of each family, and an adapter on it."""
    from peft import LoraConfig, get_peft_model

    for family in FAMILIES:
        # Without bos and the like beyond what the tests' tokenizer has
        tiny_model(family).save_pretrained(folder / family)
        chat_tokenizer().save_pretrained(folder / family)
        target = ["c_attn"] if family == "gpt2" else ["q_proj", "v_proj"]
        model = get_peft_model(
            tiny_model(family), LoraConfig(r=2, target_modules=target, fan_in_fan_out=family == "gpt2")
        )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
        model.save_pretrained(folder / f"{family}-adapter")
        fields("adapter_config.json", base_model_name_or_path=str(folder / family))(folder / f"{family}-adapter")


def made(case: Case, clean: Path, place: Path) -> Path:
    folder = place / "folder"
    shutil.copytree(clean / f"{case.family}{'-adapter' if case.adapter else ''}", folder)
    case.make(folder)
    return folder


def outcome(folder: Path) -> tuple[str, str]:
    """`refused` and its line, `accepted`, or `crashed` and what was raised."""
    try:
        subject = load(str(folder), device="cpu")
        check_prompt_format(subject, PRESETS["asabench-v1"], PROMPTS)
        for prompt in PROMPTS:
            rows = subject.model.get_input_embeddings().weight.shape[0]
            if max(subject.format(prompt, PRESETS["asabench-v1"])) >= rows:
                return "refused", f"embeddings for {rows} tokens only"  # `check_fits`, before anything is generated
    except UserError as error:
        return "refused", str(error)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "crashed", f"{type(error).__name__}: {error}"
    if not folder.joinpath("adapter_config.json").is_file():
        state = subject.model.state_dict()
        held = load_file(folder / "model.safetensors")
        names = {key: next(each for each in state if each == key or each.endswith(f".{key}")) for key in held}
        if not all(torch.equal(state[names[key]], each) for key, each in held.items()):
            return "crashed", "it was measured on weights that are not in its file"
    return "accepted", ""


def fault_of(case: Case, folder: Path) -> tuple[str, str]:
    """How a folder was met (`refused`, `accepted`, `crashed`), and what is not right about that; empty where all is."""
    got, line = outcome(folder)
    if (folder / MARK).exists():
        return "crashed", "code in it ran"
    if got != ("accepted" if case.right is None else "refused"):
        return got, line[:300]
    if case.right is not None and not re.search(case.right, line):
        return got, f"another line than /{case.right}/: {line[:300]}"
    return got, f"more than a line: {line!r}" if "\n" in line or len(line) > 1000 else ""


@contextmanager
def short_limits() -> Iterator[None]:
    """So that what never ends is found so soon."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safe_loading, "LIMITS", SHORT_LIMITS)
        yield


def expected() -> Counter[tuple[str, str]]:
    return Counter((case.kind, "accepted" if case.right is None else "refused") for case in CASES)


def table(met: Counter[tuple[str, str]]) -> str:
    """met: how many of a kind were refused, accepted and crashed."""
    kinds = list(dict.fromkeys(case.kind for case in CASES))
    ways = ("refused", "accepted", "crashed")
    rows = [(kind, [met[kind, way] for way in ways]) for kind in kinds]
    rows.append(("all", [sum(column) for column in zip(*(counts for _, counts in rows), strict=True)]))
    lines = ["| what is wrong with | tried | refused | accepted | crashed |", "|---|---|---|---|---|"]
    lines += [f"| {name} | {sum(counts)} | {' | '.join(map(str, counts))} |" for name, counts in rows]
    return "\n".join(lines)


def main() -> None:
    met: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as place, short_limits():
        clean = Path(place) / "clean"
        save_clean(clean)
        for number, case in enumerate(CASES):
            (Path(place) / str(number)).mkdir()
            got, wrong = fault_of(case, made(case, clean, Path(place) / str(number)))
            met[case.kind, got] += 1
            if wrong:
                print(f"{case.id}: {got}, {wrong}", flush=True)
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition("<!-- corpus -->\n")
    _, end, after = rest.partition("<!-- /corpus -->")
    PAGE.write_text(f"{before}{begin}\n{table(met)}\n\n{end}{after}", encoding="utf-8")
    print(table(met))


if __name__ == "__main__":
    main()
