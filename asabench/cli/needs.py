"""What a command needs beside the benchmark itself, checked before anything of it is imported."""

from __future__ import annotations

import importlib.util
import os

from asabench.core.errors import UserError
from asabench.core.judge_names import JUDGES

MODEL = ("torch", "transformers")
"""What running a model needs."""


def needs(*packages: str) -> None:
    """`UserError` that says what to install where one of the packages is missing. They need a working directory too:
    without one, torch's libraries end the process."""
    try:
        os.getcwd()
    except OSError:
        raise UserError("the working directory is not there any more; change to one that is") from None
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        raise UserError(f"this command needs {', '.join(missing)}; run `pip install 'asabench[eval]'`")


def judge_needs(spec: str) -> None:
    """`needs` of a judge that is named so, where it runs a model here; others say themselves what they lack."""
    judge = JUDGES.get(spec.partition(":")[0])
    if judge is not None and judge.runs_model:
        needs(*MODEL)
