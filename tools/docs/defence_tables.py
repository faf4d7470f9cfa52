"""The tables of docs/results/defences.md, from finished runs and utility reports.

    python -m tools.docs.defence_tables --base rt=runs/defences/rt lapt=runs/defences/lapt lat=runs/defences/lat

`--base` is the run that differences are taken from. `--utility NAME=FILE` adds lines to the table of harmless requests.
Prints Markdown; nothing is computed here that `asabench compare` and `row.json` do not hold.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from asabench.core.text import eps50_text, in_words
from asabench.core.utility_report import read_utility
from asabench.runs.compare import compare
from asabench.runs.folder import Run, read_run


def table(header: list[str], lines: list[list[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in rows)


def rates(runs: dict[str, Run]) -> str:
    """One line an attack and dose, one column a model: MASR, and in brackets the share of incoherent answers."""
    pairs = [(r.attack, r.dose) for run in runs.values() for r in run.row.results]
    lines = [["clean (INIT)", "", *(in_words(run.row.init, "-") for run in runs.values())]]
    for attack, dose in dict.fromkeys(pairs):
        cells = []
        for run in runs.values():
            found = next((r for r in run.row.results if (r.attack, r.dose) == (attack, dose)), None)
            if found is None:
                cells.append("")
                continue
            all_answers = sum(found.verdicts.model_dump().values())
            masr, incoherent = in_words(found.masr, "-"), found.verdicts.incoherent / max(all_answers, 1)
            cells.append(f"{masr}, {incoherent:.0%}")
        lines.append([attack, f"{dose:g}", *cells])
    return table(["attack", "dose", *runs], lines)


def eps50s(runs: dict[str, Run]) -> str:
    attacks = dict.fromkeys(attack for run in runs.values() for attack in run.row.eps50)
    lines = [
        [attack, *(eps50_text(run.row.eps50[attack]) if attack in run.row.eps50 else "" for run in runs.values())]
        for attack in attacks
    ]
    return table(["eps50", *runs], lines)


def differences(base: Run, runs: dict[str, Run]) -> str:
    """MASR of each less MASR of the base, paired by prompt."""
    found = {name: {(d.attack, d.dose): d for d in compare(base, run).differences} for name, run in runs.items()}
    pairs = dict.fromkeys(pair for each in found.values() for pair in each)
    lines = []
    for attack, dose in pairs:
        cells = [in_words(each[attack, dose].masr, "-") if (attack, dose) in each else "" for each in found.values()]
        lines.append([attack, f"{dose:g}", *cells])
    return table(["attack", "dose", *found], lines)


def utilities(paths: dict[str, Path]) -> str:
    lines = []
    for name, path in paths.items():
        report = read_utility(path)
        for at in (report.clean, *report.under_injection):
            where = "clean" if at.dose == 0 else f"{at.attack} at {at.dose:g}"
            lines.append([name, where, in_words(at.benign_answer_rate, "-"), in_words(at.over_refusal, "-")])
    return table(["model", "injection", "harmless requests answered", "safe ones that look unsafe refused"], lines)


def named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=PATH")
    return name, Path(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=named, metavar="NAME=RUN")
    parser.add_argument("--base", type=named, required=True, metavar="NAME=RUN")
    parser.add_argument("--utility", nargs="*", type=named, default=[], metavar="NAME=FILE")
    options = parser.parse_args()
    base_name, base_path = options.base
    base = read_run(base_path)
    others = {name: read_run(path) for name, path in options.runs}
    everything = {base_name: base, **others}
    print(f"MASR with its interval, and the share of incoherent answers\n\n{rates(everything)}\n")
    print(f"{eps50s(everything)}\n")
    if others:
        print(f"MASR less that of {base_name}, paired by prompt\n\n{differences(base, others)}\n")
    if options.utility:
        print(utilities(dict(options.utility)))


if __name__ == "__main__":
    main()
