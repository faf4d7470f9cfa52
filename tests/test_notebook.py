"""The notebook of the documentation runs, shows tables and no model's text, and is kept without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOK = ROOT / "docs" / "notebooks" / "quickstart.ipynb"


def test_the_notebook_runs_and_shows_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where it puts its run
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output for output in outputs if output.output_type == "execute_result"]
    assert len(shown) == 4, "the rates, LASR by block, the verdicts, and the run folder"

    (responses,) = tmp_path.glob("**/responses")
    texts = pd.read_parquet(responses)["text"].str.strip()
    assert len(texts) == 10, "two prompts: clean, and two attacks at two blocks"
    written = "\n".join(str(output) for output in outputs)
    assert [text for text in texts if text and text in written] == []


def test_the_notebook_is_kept_without_outputs() -> None:
    """They can hold a model's text, and differ from run to run."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert [cell.source for cell in cells if cell.outputs or cell.execution_count] == []
