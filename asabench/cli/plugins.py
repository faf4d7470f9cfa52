"""What installed packages announce, in the help of the options that take it."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from asabench.core.attack_names import BUILT_IN
from asabench.core.judge_names import JUDGES
from harness.plugins import Kind, announced

OWN: dict[Kind, tuple[str, ...]] = {"attack": tuple(BUILT_IN), "judge": tuple(JUDGES), "defence": ()}
"""The names that come with ASABench, by the parameter that takes them."""


class ListsPlugins(TyperCommand):
    """A command whose help names other people's attacks, judges and defences too. They are looked for when help is
    asked for: that takes a look at every installed package."""

    # Typer brings a click of its own or takes the installed one, by its version: the types of either
    def format_help(self, ctx: Any, formatter: Any) -> None:
        parameters: dict[str, Any] = {parameter.name or "": parameter for parameter in self.params}
        for kind, own in OWN.items():
            if kind in parameters and (found := announced(kind, own)):
                parameters[kind].help += f" Installed too: {', '.join(found)}."
        super().format_help(ctx, formatter)
