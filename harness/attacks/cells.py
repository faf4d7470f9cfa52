"""What every attack asks of the cells that it is given."""

from __future__ import annotations

from collections.abc import Sequence

from asabench.core.records import Cell


def require_steered(cells: Sequence[Cell]) -> None:
    """`ValueError` for a clean answer: it has no direction."""
    if any(cell.is_clean for cell in cells):
        raise ValueError("a direction needs a cell with a layer, or of an attack on every block")
