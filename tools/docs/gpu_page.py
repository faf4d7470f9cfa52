"""docs/results/gpu.md, from what `python -m tools.speed.gpu_check` wrote.

python -m tools.docs.gpu_page gpu.json > docs/results/gpu.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tools.docs.defence_tables import table


def page(report: dict[str, Any]) -> str:
    """The page, in Markdown: a table a part; of a part that failed, what it said."""
    machine = report["machine"]
    memory = "" if machine["memory_bytes"] is None else f", {machine['memory_bytes'] / 2**30:.0f} GiB"
    cuda = f", CUDA {machine['cuda']}" if machine["cuda"] else ""
    lines = [
        "# On a GPU",
        "",
        f"Made by `make gpu-check` on {machine['device']}{memory} (torch {machine['torch']}{cuda}, transformers "
        f"{machine['transformers']}); random weights of the shape {report['shape']} in {report['dtype']}, "
        f"{report['prompts']} prompts, {report['new_tokens']} new tokens; {report['seconds']} s in all.",
        "",
        f"Packages that were missing: {', '.join(report['missing_packages']) or 'none'}.",
    ]
    for name, part in report["parts"].items():
        lines += ["", f"## {name.capitalize()}", "", *_part(part)]
    return "\n".join(lines) + "\n"


def _part(part: dict[str, Any]) -> list[str]:
    if "failed" in part:
        return [f"Failed after {part['seconds']} s: {part['failed']}"]
    rows = [[key.replace("_", " "), _value(value)] for key, value in _flat(part["found"])]
    return [table(["", f"{part['seconds']} s"], rows)]


def _flat(found: dict[str, Any], before: str = "") -> list[tuple[str, Any]]:
    lines: list[tuple[str, Any]] = []
    for key, value in found.items():
        name = f"{before}{key}"
        lines += _flat(value, f"{name}: ") if isinstance(value, dict) else [(name, value)]
    return lines


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:.3g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    print(page(json.loads(parser.parse_args().report.read_text(encoding="utf-8"))), end="")


if __name__ == "__main__":
    main()
