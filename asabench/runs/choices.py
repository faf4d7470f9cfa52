"""What an evaluation is asked to do: one record for the command line, Python and a YAML file. It imports no torch.

    Choices.of(layers="0,10,20", doses=[0.3, 1])        values as people write them, checked
    read_config(Path("run.yaml"))                       the same from a file, and the model beside them

What of it decides a run's answers is resolved into `asabench.runs.settings.RunSettings`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asabench.core.attack_names import REQUIRED, split_specs
from asabench.core.defaults import ATTACK, BAR, DEVICE, ENGINE, JUDGE, PROMPTS, PROTOCOL
from asabench.core.errors import UserError
from asabench.core.numbers import numbers
from asabench.core.records import Prompt

if TYPE_CHECKING:
    from asabench.core.protocol import Protocol
    from asabench.judging.judge import Judge


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What is measured of a model, and how. None takes the protocol's value, or nothing.

    prompts: the name of a set, a file, or prompts. prompt_column: of a file or a table of the hub, the column with
    the requests (`asabench.core.prompts.load_prompts`). limit: only the first of them. layers: decoder blocks, `all`
    or such as `0,3-5`; `joint` among them: every attack on every block at once; None: the size's, or all. attack:
    specifications (`harness.attacks.make_attack`), which share clean answers and gradients. size: a published size of
    the protocol; what is chosen beside it wins. steps, step_layers: `asabench.core.protocol.Protocol`. target: that
    of all prompts; None leaves them their own. targets: a list of them instead
    (`asabench.core.targets.read_targets`). prefix: how many of a target's tokens the answer is given to start with.
    control: the matched control of every attack too (`asabench.core.attack_names.control_of`). paper_code,
    noise_device: `asabench.core.protocol`. judge: a name (`harness.judges.make_judge`) or a judge; before the run it
    must reach the balanced accuracy `bar` on labelled pairs, unless `uncertified`. certificate: a file of
    `asabench judge-check --out`, by which harm may be claimed (`asabench.judging.certificate`). defence: the import
    path of one that acts while the model answers (`harness.model.inference_defence`). dtype: of the weights; `auto`
    is the checkpoint's own, None that on a GPU and float32 on a CPU. device_map: spreads the model over devices, in
    place of `device`: `auto` and its kin, or a device by module (`harness.model.placement`). attention: its
    implementation (`harness.model.attention`). engine: what answers, hf or vllm (`harness.engine.engine`), the same
    tokens; tensor_parallel and gpu_memory (a share) are vLLM's. shard: the share of the prompts that this process
    works on, such as `3/8`; None asks the environment (`asabench.core.shards`). workers: engines under Ray, each with
    `gpus_per_worker` GPUs, on the cluster at the address `ray` or on this machine. max_rows: answers generated side
    by side, at most. out: the run folder; None takes one under `runs/` named after the run's id.
    """

    prompts: str | tuple[Prompt, ...] = PROMPTS
    prompt_column: str | None = None
    limit: int | None = None
    layers: str | tuple[int, ...] | None = None
    doses: tuple[float, ...] | None = None
    seeds: tuple[int, ...] | None = None
    attack: tuple[str, ...] = (ATTACK,)
    protocol: str | Protocol = PROTOCOL
    size: str | None = None
    max_new_tokens: int | None = None
    steps: str | tuple[int, ...] | None = None
    step_layers: tuple[int, ...] | None = None
    target: str | None = None
    targets: str | None = None
    prefix: int | None = None
    control: bool = False
    paper_code: bool = False
    noise_device: str | None = None
    judge: str | Judge = JUDGE
    bar: float = BAR
    uncertified: bool = False
    certificate: Path | None = None
    defence: str | None = None
    dtype: str | None = None
    device: str = DEVICE
    device_map: str | Mapping[str, int | str] | None = None
    attention: str | None = None
    engine: str = ENGINE
    tensor_parallel: int = 1
    gpu_memory: float | None = None
    shard: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    ray: str | None = None
    max_rows: int | None = None
    out: Path | None = None
    chat_template: Path | None = None
    allow_remote_code: bool = False
    allow_pickle: bool = False

    @classmethod
    def of(cls, **given: Any) -> Choices:
        """Choices from values as people write them: numbers as a list or as the text `0.3,1`, a path as a text; None
        is the default. `UserError` for a name that is no choice, and for a value of another kind."""
        if unknown := [name for name in given if name not in _READERS]:
            raise UserError(f"unknown choice {unknown[0]!r}; allowed: {', '.join(_READERS)}")
        return cls(**{name: _READERS[name](name, value) for name, value in given.items() if value is not None})


def read_config(path: Path) -> dict[str, Any]:
    """What a YAML file asks for: choices by name, and `model` beside them. Paths in it are taken from the folder in
    which the command runs. `UserError`, one line that names the file, for what cannot be used."""
    given = read_mapping(path)
    choices = {name: value for name, value in given.items() if name != "model"}
    try:
        if unknown := [name for name in choices if name not in _READERS]:
            raise UserError(f"unknown choice {unknown[0]!r}; allowed: model, {', '.join(_READERS)}")
        if (model := given.get("model")) is not None:
            _text("model", model)
        Choices.of(**choices)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return given


def read_mapping(path: Path) -> dict[Any, Any]:
    """The choices in a YAML file by name, as they stand there; `UserError`, one line that names the file, where it is
    none, or names one twice."""
    import yaml

    how = "write a choice a line, such as `layers: 0,10,20`"
    try:
        text = path.read_text(encoding="utf-8-sig")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"the choices in {path} cannot be read ({error.strerror}); give a YAML file") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f"line {mark.line + 1}: "
        problem = getattr(error, "problem", None) or type(error).__name__
        raise UserError(f"{path} is no YAML file in UTF-8 ({where}{problem}); {how}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path} holds {_shown(content)} and no choices; {how}")
    names = [str(name.value) for name, _ in node.value]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path} holds {twice[0]} twice; give each choice once")
    return content


def _unread(name: str, value: object, what: str) -> UserError:
    return UserError(f"{name} {_shown(value)} cannot be read; give {what}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _unread(name, value, "a text")
    return value


def _specs(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(split_specs(value))
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise _unread(name, value, "a text, or a list of them")
    return tuple(spec for each in value for spec in ([each] if each != REQUIRED else split_specs(each)))


def _path(name: str, value: object) -> Path:
    if not isinstance(value, str | Path):
        raise _unread(name, value, "a path")
    return Path(value)


def _yes_or_no(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _unread(name, value, "true or false")
    return value


def _is_number(value: object, kind: type) -> bool:
    """numpy's numbers are numbers too; True and False are none."""
    return isinstance(value, Real if kind is float else Integral) and not isinstance(value, bool)


def _whole(name: str, value: Any) -> int:
    if not _is_number(value, int):
        raise _unread(name, value, "a whole number")
    return int(value)


def _real(name: str, value: Any) -> float:
    if not _is_number(value, float):
        raise _unread(name, value, "a number")
    return float(value)


def _list_of(kind: type) -> Callable[[str, Any], tuple[Any, ...]]:
    def read(name: str, value: Any) -> tuple[Any, ...]:
        if isinstance(value, str):
            return tuple(numbers(name.replace("_", " "), value, kind) or ())
        whole = (value,) if _is_number(value, kind) else value
        try:
            found = tuple(whole)
        except TypeError:
            found = (None,)
        if isinstance(value, Mapping) or not all(_is_number(each, kind) for each in found):
            raise _unread(name, value, "whole numbers, such as [0, 1]" if kind is int else "numbers, such as [0.3, 1]")
        return tuple(kind(each) for each in found)

    return read


def _text_or_numbers(name: str, value: Any) -> str | tuple[int, ...]:
    return value if isinstance(value, str) else _list_of(int)(name, value)


def _text_or_mapping(name: str, value: Any) -> str | Mapping[str, int | str]:
    if not isinstance(value, Mapping):
        return _text(name, value)
    if not all(isinstance(key, str) and isinstance(each, int | str) for key, each in value.items()):
        raise _unread(name, value, "auto, or a device for each module")
    return dict(value)


def _prompts(name: str, value: Any) -> str | tuple[Prompt, ...]:
    if isinstance(value, str | Path):
        return str(value)
    if not isinstance(value, list | tuple) or not all(isinstance(each, str | Prompt) for each in value):
        raise _unread(name, value, "the name of a set, a file, or a list of requests")
    return tuple(
        Prompt(id=f"prompt-{place:03d}", goal=each) if isinstance(each, str) else each
        for place, each in enumerate(value)
    )


def _protocol(name: str, value: Any) -> str | Protocol:
    from asabench.core.protocol import Protocol

    if not isinstance(value, str | Protocol):
        raise _unread(name, value, f"a name, such as {PROTOCOL}")
    return value


def _judge(name: str, value: Any) -> str | Judge:
    if not isinstance(value, str) and not callable(value):
        raise _unread(name, value, f"a name, such as {JUDGE}")
    return value


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "prompts": _prompts,
    "prompt_column": _text,
    "limit": _whole,
    "layers": _text_or_numbers,
    "doses": _list_of(float),
    "seeds": _list_of(int),
    "attack": _specs,
    "protocol": _protocol,
    "size": _text,
    "max_new_tokens": _whole,
    "steps": _text_or_numbers,
    "step_layers": _list_of(int),
    "target": _text,
    "targets": _text,
    "prefix": _whole,
    "control": _yes_or_no,
    "paper_code": _yes_or_no,
    "noise_device": _text,
    "judge": _judge,
    "bar": _real,
    "uncertified": _yes_or_no,
    "certificate": _path,
    "defence": _text,
    "dtype": _text,
    "device": _text,
    "device_map": _text_or_mapping,
    "attention": _text,
    "engine": _text,
    "tensor_parallel": _whole,
    "gpu_memory": _real,
    "shard": _text,
    "workers": _whole,
    "gpus_per_worker": _real,
    "ray": _text,
    "max_rows": _whole,
    "out": _path,
    "chat_template": _path,
    "allow_remote_code": _yes_or_no,
    "allow_pickle": _yes_or_no,
}
"""How each choice is read, by name; every field of `Choices` is here."""

DEFAULTS = Choices()
