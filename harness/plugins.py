"""Someone else's attack or judge by its import path, `package.module:Name`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from asabench.core.errors import UserError


def imported(what: str, module: str, name: str) -> Callable[..., Any]:
    """The class or function of that name; `UserError` where there is none. what: `attack` or `judge`, for the user."""
    if not name:
        raise UserError(f"the {what} {module!r} names no class; write package.module:Name")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"the {what} {module}:{name} cannot be imported ({error}); "
            "check the path, and that its folder is installed or on PYTHONPATH"
        ) from None
