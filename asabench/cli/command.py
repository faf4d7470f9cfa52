"""What installed packages announce, in the help of the options that take it."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from asabench.cli.options import panel_of
from asabench.core.attack_names import BUILT_IN
from asabench.core.judge_names import JUDGES

AGAIN = "again"


class Command(TyperCommand):
    """A command whose help has its options in panels (`asabench.cli.options.PANELS`), and names other people's
    attacks, judges and defences too. They are looked for when help is asked for: that takes a look at every installed
    package."""

    # Typer brings a click of its own or takes the installed one, by its version: the types of either
    def format_help(self, ctx: Any, formatter: Any) -> None:
        from harness.plugins import announced

        found = {
            "attack": announced("attack", BUILT_IN),
            "judge": announced("judge", JUDGES),
            "defence": announced("defence"),
        }
        for parameter in self.params:
            parameter.show_envvar = False  # type: ignore[attr-defined]  # said once, at the end
            if names := found.get(parameter.name or ""):
                parameter.help += f" Installed too: {', '.join(names)}."  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        arguments = []
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is None:
                continue
            if parameter.param_type_name == "argument":
                arguments.append(record)
            else:
                panels.setdefault(panel_of(parameter.name or ""), []).append(record)
        rest = {title: panels.pop(title) for title in ("Options",) if title in panels}
        for title, records in {"Arguments": arguments, **panels, **rest}.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class JudgeGroup(TyperGroup):
    """`asabench judge RUN` judges a run again, as `asabench judge again RUN` does; `check`, `read` and `server` are
    beside it, and a run folder of such a name is `./check`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = [AGAIN, *args]
        return super().parse_args(ctx, args)
