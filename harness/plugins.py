"""Other people's attacks, judges and defences: found by import path or by an installed package's entry point.

What goes wrong in their code is said in one line: what was asked for, what was raised and where. Why it was raised is
left to them.
"""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from asabench.core.errors import UserError, with_type

Kind = Literal["attack", "judge", "defence"]


def announced(kind: Kind, own: Collection[str] = ()) -> Mapping[str, tuple[str, ...]]:
    """What installed packages announce in the group `asabench.attacks` (`.judges`, `.defences`): import paths by name.

    own: names that are ASABench's, which nobody else's take the place of. A name has several paths where packages
    disagree.
    """
    found: dict[str, dict[str, None]] = {}
    for entry in entry_points(group=f"asabench.{kind}s"):
        if entry.name not in own:
            path = entry.value.partition("[")[0].replace(" ", "")
            found.setdefault(entry.name, {})[path] = None
    return {name: tuple(found[name]) for name in sorted(found)}


def path_of(kind: Kind, name: str, own: Collection[str], forms: Collection[str]) -> str:
    """The import path behind a name that is not ASABench's; `UserError` where no package, or several, announce it.

    own: ASABench's names. forms: how those are written, for the message.
    """
    others = announced(kind, own)
    if name not in others and "." in name:
        raise UserError(f"the {kind} {name!r} names no class; write package.module:Name")
    if name not in others:
        allowed = ", ".join([*forms, *others])
        listed = f"{allowed}, or an import path" if allowed else "an import path"
        raise UserError(f"unknown {kind} {name!r}; allowed: {listed} such as package.module:Name")
    first, *more = others[name]
    if more:
        raise UserError(
            f"the {kind} {name!r} is announced by several packages; name one by its path: {', '.join(others[name])}"
        )
    return first


def imported(kind: Kind, path: str) -> Callable[..., Any]:
    """What the import path `package.module:Name` names; `UserError` where there is nothing that can be called."""
    module, _, name = path.partition(":")
    if not name or not all(module.split(".")):
        raise UserError(f"the {kind} {path!r} names no class; write package.module:Name")
    what = f"the {kind} {path} cannot be imported"
    with blamed(what, module):
        try:
            found = attrgetter(name)(importlib.import_module(module))
        except ModuleNotFoundError as error:
            # Also a module that is there may raise this, of one that it needs
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            raise UserError(
                f"{what}: there is no module {error.name}; check the path, and that its folder is installed or on "
                "PYTHONPATH"
            ) from None
    if not callable(found):
        raise UserError(f"the {kind} {path} cannot be called, so nothing can be made of it; name a class or a function")
    return found


def made(what: str, make: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What `make` makes of these arguments; `UserError` where it does not take them, and for whatever it raises."""
    try:
        signature = inspect.signature(make)
    except Exception:  # what has none, such as classes written in C, says by itself what it does not take
        signature = None
    if signature is not None:
        try:
            signature.bind(*arguments, **options)
        except TypeError as error:
            raise UserError(f"{what}: {error}") from None
    with blamed(what, getattr(make, "__module__", "")):
        return make(*arguments, **options)


@contextmanager
def blamed(what: str, module: str, passes: Callable[[BaseException], bool] = lambda error: False) -> Iterator[None]:
    """Turns what somebody else's code raises inside, an exit too, into a `UserError` of one line.

    what: the line's start. module: theirs, of which the line is named. passes: what is for the caller all the same.
    """
    try:
        yield
    except (KeyboardInterrupt, UserError):
        raise
    except BaseException as error:
        if passes(error):
            raise
        raise UserError(f"{what}: it raised {_in_words(error, module)}") from error


def _in_words(error: BaseException, module: str) -> str:
    said = with_type(error)
    frames = list(traceback.walk_tb(error.__traceback__))
    theirs = [each for each in frames if each[0].f_globals.get("__name__") == module] or frames
    if not theirs:
        return said
    frame, line = theirs[-1]
    return f"{said} ({Path(frame.f_code.co_filename).name}, line {line})"
