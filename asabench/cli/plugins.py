"""What installed packages announce, in the help of the options that take it."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from asabench.core.attack_names import BUILT_IN
from asabench.core.judge_names import JUDGES


class ListsPlugins(TyperCommand):
    """A command whose help names other people's attacks, judges and defences too. They are looked for when help is
    asked for: that takes a look at every installed package."""

    # Typer brings a click of its own or takes the installed one, by its version: the types of either
    def format_help(self, ctx: Any, formatter: Any) -> None:
        from harness.plugins import announced

        found = {
            "attack": announced("attack", BUILT_IN),
            "judge": announced("judge", JUDGES),
            "defence": announced("defence"),
        }
        for parameter in self.params:
            if names := found.get(parameter.name or ""):
                parameter.help += f" Installed too: {', '.join(names)}."  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)
