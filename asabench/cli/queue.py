"""The command that enters many models, one after the other; `asabench.cli.app` adds it to the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

from asabench.cli import options
from asabench.cli.enter import SIZE
from asabench.cli.options import option
from asabench.cli.printing import interrupted, say
from asabench.core.attack_names import REQUIRED
from asabench.core.defaults import DEVICE, JUDGE, PROTOCOL, PUBLISHED_PROMPTS
from asabench.core.errors import UserError

if TYPE_CHECKING:
    from asabench.submission.queue import Queued

CONFIGS = "configs/board"
FAILED = 1
"""The exit code where some model could not be entered."""


def queue(
    config: Annotated[
        Optional[list[Path]],
        option("A YAML file that lists models; may be repeated.", default=f"{CONFIGS}/*.yaml"),
    ] = None,
    author: Annotated[
        Optional[list[str]], option("An author of the entries, who measures; may be repeated.", default="none: --list")
    ] = None,
    only: Annotated[Optional[list[str]], option("Only models whose name has this in it; may be repeated.")] = None,
    memory: Annotated[
        Optional[float], option("Gigabytes that weights may take; larger models are left for another machine.")
    ] = None,
    size: options.EntrySize = SIZE,
    attack: options.EntryAttack = REQUIRED,
    prompts: options.EntryPrompts = PUBLISHED_PROMPTS,
    protocol: options.Protocol = PROTOCOL,
    judge: options.Judge = JUDGE,
    uncertified: options.Uncertified = False,
    card: Annotated[bool, option("Of defences: fine-tune copies of both models in memory, for the card.")] = True,
    entries: Annotated[Path, option("Where submissions are.")] = Path("submissions"),
    dtype: options.DtypeByDevice = None,
    device: options.Device = DEVICE,
    only_list: Annotated[
        bool, option("Say what is left and what its weights take, and stop.", "--list", "--dry-run")
    ] = False,
) -> None:
    """Enter the models of a list that have no entry yet, one after the other, each as `asabench enter` does.

    A model that cannot be entered is said, and the next goes on. The same command again goes on where it stopped.
    """
    from asabench.submission.queue import left, read_queue

    paths = config or sorted(Path(CONFIGS).glob("*.yaml"))
    if not paths:
        raise UserError(f"there is no {CONFIGS}/*.yaml here; name a file with --config")
    models = read_queue(paths)
    if only:
        models = tuple(each for each in models if any(part.casefold() in each.name.casefold() for part in only))
        if not models:
            raise UserError(f"no model's name has {' or '.join(only)} in it; --list names them")
    # The smallest first: most entries by the morning
    todo = sorted(left(models, protocol, entries), key=lambda each: each.parameters)
    say(f"{len(models) - len(todo)} of {len(models)} are entered in {entries}; left: {len(todo)}")
    for each in todo:
        say(line(each, dtype, memory))
    if only_list:
        return
    if todo and not author:
        raise UserError(
            "whoever measures is an author of the entries; give --author 'A. Author', or --list to only look"
        )
    shared = [
        *(word for name in author or () for word in ("--author", name)),
        *("--size", size, "--attack", attack, "--prompts", prompts, "--protocol", protocol, "--judge", judge),
        *("--entries", str(entries), "--device", device),
        *(() if dtype is None else ("--dtype", dtype)),
        *(["--uncertified"] if uncertified else []),
    ]
    failed, waiting = [], []
    for number, each in enumerate(todo, start=1):
        if each.lacks or (memory is not None and each.gigabytes(dtype) > memory):
            waiting.append(each.name)
            continue
        words = ["enter", *words_of(each, card), *shared]
        say(f"\n{number} of {len(todo)}: {each.name}")
        # A process each: what ends one, such as a full memory, leaves the rest of the night
        code = run(words)
        if code:
            failed.append(each.name)
            say(f"not entered: {each.name}, exit code {code}; what it said stands above")
    say(f"\nentered: {len(todo) - len(failed) - len(waiting)}; not entered: {len(failed)}; waiting: {len(waiting)}")
    for title, names in (("not entered", failed), ("waiting", waiting)):
        for name in names:
            say(f"  {title}: {name}")
    if failed:
        sys.exit(FAILED)


def words_of(each: Queued, card: bool) -> list[str]:
    """What `asabench enter` is told about one model."""
    words = [each.weights, "--name", each.name, "--licence", each.licence, "--defence", each.defence]
    words += [] if each.base is None else ["--base", each.base]
    words += [] if card else ["--no-card"]
    words += [word for data in each.training_data for word in ("--training-data", data)]
    words += [word for given in each.training_prompts for word in ("--training-prompts", f"{given.name}={given.file}")]
    for name, value in (("--description", each.description), ("--link", each.link)):
        words += [] if value is None else [name, value]
    return words


def line(each: Queued, dtype: str | None, memory: float | None) -> str:
    """What a model takes, and what it waits for, in lines for a terminal. dtype: None takes the device's own."""
    takes = each.gigabytes(dtype)
    lines = [f"  {each.name}: {each.weights}, {takes:.1f} GB of weights in {dtype or 'float32, at most'}"]
    if memory is not None and takes > memory:
        lines.append(f"    waits for a machine with more than {memory:g} GB")
    lines += [f"    waits for {given.file}: {given.source}" for given in each.lacks]
    if each.trap:
        lines.append(f"    note: {each.trap}")
    return "\n".join(lines)


def run(words: list[str]) -> int:
    """Runs a command of this program; its exit code."""
    try:
        return subprocess.run([sys.executable, "-m", "asabench", *words], stdin=subprocess.DEVNULL).returncode
    except KeyboardInterrupt:
        interrupted("what is there is kept. To go on, run the same command again.")
