"""The Jinja2 environment of every page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def page_environment(filters: Mapping[str, Any], names: Mapping[str, Any]) -> Environment:
    """With what the templates call and the names that they know. A name that is not there is an error."""
    # autoescape is a plain True: the usual choice by suffix would not see "html" in "index.html.j2".
    environment = Environment(
        loader=PackageLoader("leaderboard", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    environment.globals |= names
    return environment
