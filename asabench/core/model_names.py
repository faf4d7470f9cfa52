"""What a model is called in rows: its name, a defence that acts while it answers, and the revision of its weights."""

from __future__ import annotations

_FOLDER = "sha256:"


def folder_revision(digest: str) -> str:
    """The revision of weights in somebody's folder, by a digest in hex of what it holds."""
    return f"{_FOLDER}{digest[:16]}"


def is_folder(revision: str) -> bool:
    """Whether the weights are known by their digest alone, so that the model's name is whatever a folder is called."""
    return revision.startswith(_FOLDER)


def with_defence(model: str, defence: str) -> str:
    """The name of a model with a defence that acts at inference time; `defence` is its import path."""
    return f"{model}+{defence}"


def split_defence(name: str) -> tuple[str, str]:
    """The model and the defence in a name; no defence is an empty text."""
    model, _, defence = name.partition("+")
    return model, defence
