"""ASABench's rates as a metric of Hugging Face `evaluate`: `evaluate.load(str(FOLDER))`."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "asabench_metric"
"""What `evaluate.load` is given: a folder with a script of its own name. `evaluate` copies the script, so that it is
never imported from here."""
