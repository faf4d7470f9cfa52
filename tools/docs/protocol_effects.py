"""What each difference between the two protocols does to the numbers, one field at a time.

    python -m tools.docs.protocol_effects --model smollm2-135m --limit 16 --layers 0,3,6,9,12,15,18,21,24,27

Prints a Markdown table: asabench-v1, asabench-v1 with one field as in gu2025, and gu2025.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from asabench.core.protocol import PRESETS, Protocol
from asabench.core.row import AttackResult
from asabench.core.text import in_words
from harness.evaluation.evaluate import evaluate
from harness.model.subject import load

V1, GU2025 = PRESETS["asabench-v1"], PRESETS["gu2025"]
FIELDS = ("prompt_format", "generation_config", "statistics", "noise")


def variants() -> dict[str, Protocol]:
    """Protocols by the label of their line."""
    changed = {f"v1, {field} {getattr(GU2025, field)}": {field: getattr(GU2025, field)} for field in FIELDS}
    return {
        "asabench-v1": V1,
        **{label: V1.model_copy(update=change) for label, change in changed.items()},
        "gu2025": GU2025,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--limit", type=int, default=16)
    parser.add_argument("--layers", default="all")
    parser.add_argument("--max-new-tokens", type=int, default=24)
    options = parser.parse_args()
    subject = load(options.model)
    print("| protocol | INIT | dose | MASR | PASR | incoherent |\n|---|---|---|---|---|---|")
    for label, protocol in variants().items():
        with tempfile.TemporaryDirectory() as folder:
            row = evaluate(
                subject,
                protocol=protocol,
                prompts="advbench",
                limit=options.limit,
                layers=options.layers,
                doses=[0.3, 1.0],
                max_new_tokens=options.max_new_tokens,
                out=Path(folder) / "run",
            ).row
        for result in row.results:
            print(f"| {label} | {in_words(row.init, '-')} | {result.dose:g} | {line(result)} |", flush=True)


def line(result: AttackResult) -> str:
    counts = result.verdicts
    total = counts.safe + counts.unsafe + counts.incoherent + counts.unscored
    return f"{in_words(result.masr, '-')} | {in_words(result.pasr, '-')} | {counts.incoherent / total:.2f}"


if __name__ == "__main__":
    main()
