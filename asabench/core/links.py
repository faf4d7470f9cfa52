"""Where what is not in an installed package stands: documentation and configurations. One home for the address."""

from __future__ import annotations

REPOSITORY = "https://github.com/asabench/asabench"
"""As in CITATION.cff and pyproject.toml."""


def link(path: str) -> str:
    """The address of a file of the repository, such as `docs/defences.md`."""
    return f"{REPOSITORY}/blob/main/{path}"
