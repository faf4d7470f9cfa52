"""An attack's options: declared in its constructor, given as text, and read here into what the declaration says.

    def __init__(self, protocol: Protocol, steps: Annotated[int, Field(ge=0, description="gradient steps")] = 8)

declares one: its name, type, default, what is allowed, and what it is for. A name that Python keeps for itself has an
underscore behind it there, `from_`, and none here.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from keyword import iskeyword
from pathlib import Path
from types import NoneType, SimpleNamespace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from asabench.core.errors import UserError

_WORDS: Mapping[Any, str] = {bool: "true, false", int: "whole numbers", float: "numbers", Path: "a file", str: "text"}
_LIMITS = {"ge": "of {:g} or more", "gt": "above {:g}", "le": "of at most {:g}", "lt": "below {:g}"}


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option. `type` is `str` where none is declared; `default` is `inspect.Parameter.empty` where one must be
    given."""

    name: str
    type: Any
    default: Any

    @property
    def help(self) -> str:
        return FieldInfo.from_annotation(self.type).description or ""

    @property
    def allowed(self) -> str:
        """In words."""
        info = FieldInfo.from_annotation(self.type)
        kind = info.annotation
        if NoneType in get_args(kind):
            (kind, *_) = (each for each in get_args(kind) if each is not NoneType)
        if get_origin(kind) is Literal:
            return ", ".join(map(str, get_args(kind)))
        limits = [
            limit.format(getattr(each, name))
            for each in info.metadata
            for name, limit in _LIMITS.items()
            if hasattr(each, name)
        ]
        words = _WORDS[kind] if kind in _WORDS else str(getattr(kind, "__name__", kind))
        return " ".join([words, *limits])

    def read(self, text: str) -> Any:
        """What the text stands for; `ValueError` for a text that is not allowed."""
        try:
            adapter = TypeAdapter(self.type)
        except PydanticUserError:  # a type that no text can be read into
            return text
        return adapter.validate_python(text)


def declared(make: Callable[..., Any]) -> dict[str, Option] | None:
    """The options of what makes an attack, by name, behind the protocol that comes first; None where it takes any."""
    try:
        _, *parameters = inspect.signature(make).parameters.values()
    except Exception:  # it has no signature, or none that can be read
        return None
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return None
    return {
        _written(each.name): Option(name=_written(each.name), type=_type(each, make), default=each.default)
        for each in parameters
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }


def read_options(what: str, make: Callable[..., Any], given: Mapping[str, str]) -> dict[str, Any]:
    """The options as `make` takes them. what: the attack, for the user. Raises `UserError`."""
    options = declared(make)
    if options is None:
        return dict(given)
    read = {}
    for name, text in given.items():
        if name not in options:
            allowed = f"its options: {', '.join(options)}" if options else "it takes none"
            raise UserError(f"the attack {what} cannot be made: it has no option {name!r}; {allowed}")
        try:
            read[_parameter(name)] = options[name].read(text)
        except ValueError:
            raise UserError(f"{what}: {name}={text} cannot be used; allowed: {options[name].allowed}") from None
    return read


def not_default(attack: object) -> list[str]:
    """`option=value` for each option that has not its default value, in the order declared. The attack holds each one
    under its name."""
    values = {option: getattr(attack, option.name) for option in (declared(type(attack)) or {}).values()}
    return [f"{option.name}={_text(value)}" for option, value in values.items() if value != option.default]


def _text(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    # Another value must not have the same name; and a name holds no +
    return (short if float(short) == value else repr(value)).replace("+", "")


def _written(parameter: str) -> str:
    """An option's name, by its parameter's."""
    return parameter[:-1] if parameter.endswith("_") and iskeyword(parameter[:-1]) else parameter


def _parameter(option: str) -> str:
    return f"{option}_" if iskeyword(option) else option


def _type(parameter: inspect.Parameter, make: Callable[..., Any]) -> Any:
    if parameter.annotation is parameter.empty:
        return str
    try:
        holder = SimpleNamespace(__annotations__={"it": parameter.annotation})
        # A constructor may be of another module than the class that inherits it
        defined: Any = type.__getattribute__(make, "__init__") if isinstance(make, type) else make
        where = getattr(defined, "__module__", make.__module__)
        return get_type_hints(holder, vars(sys.modules[where]), include_extras=True)["it"]
    except Exception:  # a name that is there for type checkers only
        return str
