"""How a reader loads the model of an entry: a few lines of code, by what kind of model it is. Pure functions."""

from __future__ import annotations

import re

from asabench.core.model_names import is_folder, split_defence
from asabench.core.models import PACKAGED_ADAPTERS, SHORT_NAMES
from leaderboard.entries import Entry

_COMMIT = re.compile(r"[0-9a-f]{40}")


def loading(entry: Entry) -> tuple[str, str | None]:
    """In words where the weights are, and the code that loads them; None for weights that nobody else can have."""
    model = entry.row.model
    name, defence = split_defence(model.name)
    more = f" It acts with the defence {defence} while it answers, which this does not load." if defence else ""
    if name in SHORT_NAMES:
        kind = (
            "An adapter that comes with ASABench." if name in PACKAGED_ADAPTERS else "It comes to ASABench by itself."
        )
        return f"{kind}{more}", f"asabench evaluate {name}"
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return f"On the hub; an adapter needs peft installed as well.{more}", _transformers(name, model.revision)
    where = (
        "Its weights are in a folder of its author's, known by their digest"
        if is_folder(model.revision)
        else ("Where its weights are is not known to the board")
    )
    return f"{where}: no name loads them.{more}", None


def _transformers(name: str, revision: str) -> str:
    # A name comes from strangers and is pasted into a terminal: as Python writes a text
    pinned = f", revision={revision!r}" if _COMMIT.fullmatch(revision) else ""
    return (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({name!r}{pinned})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({name!r}{pinned})"
    )
