"""The words that a guard was trained on or published with, read where its makers put them, when the judge is made.

In this order: the file that `ASABENCH_JUDGE_PROMPT` names; the model's card (`README.md` in its folder, or on the hub);
a file of the makers' installed package, which is read and never imported.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from asabench.core.errors import UserError
from harness.judges.guards import TABLE, Published

VARIABLE = "ASABENCH_JUDGE_PROMPT"
CARD = "README.md"

_QUOTED = re.compile(r"\"\"\"(.*?)\"\"\"|'''(.*?)'''", re.DOTALL)
_BEGINS_TEXT = re.compile(r"\A(?:<s>|<bos>)")


def published_prompt(name: str, model: str) -> str | None:
    """The prompt of the guard of that name, with its two holes in braces; None for one that needs none. `UserError`
    where it is not to be had.

    model: the guard's, a hub id or a folder.
    """
    where = TABLE[name].prompt
    if where is None:
        return None
    holes = " and ".join(f"{{{hole}}}" for hole in where.holes)
    if given := os.environ.get(VARIABLE):
        try:
            text = Path(given).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"the prompt {given} that {VARIABLE} names cannot be read: {error}") from None
        if not _has_holes(text, where):
            raise UserError(f"the prompt {given} has no {holes}, which the judge {name} puts the pair into")
        return text
    looked, found = _looked_for(where, model)
    if not found:
        raise UserError(
            f"the prompt of the judge {name} was not found in {looked}; put the makers' prompt, with {holes} where "
            f"the pair goes, into a file and name it in {VARIABLE}"
        )
    return found[0]


def _looked_for(where: Published, model: str) -> tuple[str, list[str]]:
    """Where the prompt was looked for, in words, and what was found there."""
    if where.card:
        text = _card(model)
        quoted = [a or b for a, b in _QUOTED.findall(text or "")]
        # The engine adds the token that begins a text
        return f"the card of {model}", [_BEGINS_TEXT.sub("", each) for each in quoted if _has_holes(each, where)]
    looked = f"the package {where.package} ({where.file})"
    path = _in_package(where)
    if path is None:
        return looked, []
    content = path.read_text(encoding="utf-8")
    strings = _json_strings(content) if path.suffix == ".json" else _python_strings(content, where.within or "")
    return looked, [
        each
        for each in strings
        if _has_holes(each, where) and (path.suffix != ".json" or each.rstrip().endswith(where.within or ""))
    ]


def _has_holes(text: str, where: Published) -> bool:
    return all(f"{{{hole}}}" in text for hole in where.holes)


def _card(model: str) -> str | None:
    folder = Path(model)
    try:
        if folder.is_dir():
            return (folder / CARD).read_text(encoding="utf-8")
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        repository, _, revision = model.partition("@")
        try:
            return Path(hf_hub_download(repository, CARD, revision=revision or None)).read_text(encoding="utf-8")
        except (HfHubHTTPError, HFValidationError):
            return None
    except (OSError, UnicodeDecodeError):
        return None


def _in_package(where: Published) -> Path | None:
    spec = importlib.util.find_spec(where.package or "")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / (where.file or "")
    return path if path.is_file() else None


def _python_strings(source: str, class_name: str) -> Iterator[str]:
    """Strings that stand in the class of that name, in order."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                    yield inner.value


def _json_strings(source: str) -> Iterator[str]:
    """All strings of a JSON document, in order."""
    try:
        todo = [json.loads(source)]
    except ValueError:
        return
    while todo:
        value = todo.pop(0)
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            todo.extend(value.values() if isinstance(value, dict) else value)
