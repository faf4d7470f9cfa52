"""Writes the dissociated adapter: `python -m tools.known_positives --out FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path

from asabench.core.prompts import load_prompts
from tools.known_positives.dissociated import ADAPTER, SCALES, barely_refusing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the adapter")
    parser.add_argument("--prompts", default="quickstart", help="requests that must be refused")
    parser.add_argument("--limit", type=int, help="only the first of them")
    parser.add_argument("--max-new-tokens", type=int, default=24)
    given = parser.parse_args()
    prompts = load_prompts(given.prompts).first(given.limit).prompts
    scale, refused = barely_refusing(given.out, prompts, max_new_tokens=given.max_new_tokens)
    print(
        f"{given.out}: {ADAPTER} at {scale:g} of its strength, of {', '.join(f'{each:g}' for each in SCALES)} the "
        f"smallest with the most refusals ({refused} of {len(prompts)})"
    )


if __name__ == "__main__":
    main()
