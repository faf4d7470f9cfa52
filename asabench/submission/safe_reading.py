"""Reading what a stranger wrote: sizes before contents, and nothing that a parser could be made to blow up on.

Each file is read once, as bytes; what is checked is what is parsed. JSON and YAML come back as plain values whose every
text is short, printable and without markup.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from asabench.core.canonical import canonical_text
from asabench.core.errors import NotAtHand, one_line
from asabench.submission.findings import REMAKE, Finding, Refused, shown
from asabench.submission.schema import (
    CARD_FILE,
    CERTIFICATE_FILE,
    MANIFEST_FILE,
    OTHER_JUDGES_FILE,
    RERUN_FILE,
    ROW_FILE,
    SUBMISSION_FILE,
    TRAINING_PROMPTS_FILE,
    UTILITY_FILE,
    VERDICTS_FILE,
)

MOST_BYTES: Mapping[str, int] = {
    SUBMISSION_FILE: 64 * 2**10,
    ROW_FILE: 2 * 2**20,
    VERDICTS_FILE: 5 * 10**6,
    UTILITY_FILE: 256 * 2**10,
    CERTIFICATE_FILE: 256 * 2**10,
    MANIFEST_FILE: 2**20,
    CARD_FILE: 256 * 2**10,
    OTHER_JUDGES_FILE: 5 * 10**6,
    TRAINING_PROMPTS_FILE: 8 * 2**20,
    RERUN_FILE: 16 * 2**10,
}
"""The files that a submission may have, and how long each may be."""
REQUIRED_FILES = (SUBMISSION_FILE, ROW_FILE, VERDICTS_FILE, MANIFEST_FILE)

MOST_DEPTH = 12
MOST_YAML_EVENTS = 5_000
MOST_TEXT = 1_000
MOST_DIGITS = 20
"""Of a whole number. Longer ones cost more than their length to read, and nothing here is counted so far."""
MOST_WORDS = 16_000
"""Characters of a file's texts that could be sentences: those with a space, or of more than `LONGEST_WORD`."""
LONGEST_WORD = 80
# A text, closed or not: one that is not closed is looked through once. Or a bracket
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|([\[\]{}])', re.DOTALL)

Record = TypeVar("Record", bound=BaseModel)


def read_files(folder: Path) -> tuple[dict[str, bytes], list[Finding]]:
    """The contents of the folder's files by name, text with the line ends it was written with, and what is wrong with
    the folder. Links are not followed, and no file is opened that is not expected or is too long. `NotAtHand` for what
    this machine cannot read."""
    contents: dict[str, bytes] = {}
    findings: list[Finding] = []
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from None
    for entry in listed:
        try:
            content = _read(folder, entry)
            contents[entry.name] = content if entry.name == VERDICTS_FILE else canonical_text(content)
        except Refused as refused:
            findings.append(refused.in_file(shown(entry.name)[1:-1]))
    there = {entry.name for entry in listed}
    for name in REQUIRED_FILES:
        if name not in there:
            findings.append(Finding(name, "the file", "missing", f"every submission has {', '.join(REQUIRED_FILES)}"))
    return contents, findings


def _read(folder: Path, entry: os.DirEntry[str]) -> bytes:
    if entry.name not in MOST_BYTES:
        raise Refused(
            "the name",
            "no file of a submission",
            f"allowed: {', '.join(MOST_BYTES)}",
            "take it out of the folder",
        )
    status = entry.stat(follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        kind = "a link" if stat.S_ISLNK(status.st_mode) else "no plain file"
        raise Refused("the file", kind, "allowed: plain files", "put the file itself there")
    most = MOST_BYTES[entry.name]
    try:
        # O_NOFOLLOW: it may have become a link since it was looked at
        descriptor = os.open(folder / entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Refused("the file", "a link", "allowed: plain files", "put the file itself there") from None
        raise _unreadable(folder / entry.name, error) from None
    if len(content) > most:
        raise Refused("size", f"more than {most} bytes", f"at most {most} bytes", _why_so_long(entry.name))
    return content


def _unreadable(path: Path, error: OSError) -> NotAtHand:
    """Whose fault it is cannot be seen from here."""
    return NotAtHand(f"{path} cannot be read ({error.strerror}); make it readable and check again")


def _why_so_long(name: str) -> str:
    return "evaluate at the protocol's size `standard`" if name == VERDICTS_FILE else REMAKE


# JSON and YAML


def read_json(content: bytes) -> Any:
    """The value of a JSON text; raises `Refused`. Keys must differ, numbers be finite, and texts be plain."""
    text = _decoded(content)
    _refuse_depth(text)
    try:
        value = json.loads(
            text, object_pairs_hook=_distinct, parse_constant=_no_number, parse_float=_finite, parse_int=_whole
        )
    except (ValueError, RecursionError) as error:
        raise Refused("the file", f"not JSON ({_said(error)})", "it must be one JSON object") from None
    check_texts(value)
    _refuse_free_text(value)
    return value


def read_yaml(content: bytes) -> Any:
    """The value of a YAML text; raises `Refused`. No anchors, aliases, tags or merged keys: a value stands where it
    is, and a short file cannot stand for a long one."""
    text = _decoded(content)
    try:
        _refuse_yaml_features(text)
        value = yaml.load(text, Loader=_PlainLoader)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = "" if where is None else f"line {where.line + 1}: "
        raise Refused(
            "the file",
            f"not YAML ({line}{_said(error)})",
            "it must be one mapping of names to values",
            "mend that line; put text with a colon or a dash between quotation marks",
        ) from None
    except (ValueError, RecursionError) as error:
        raise Refused("the file", f"not YAML ({_said(error)})", "it must be one mapping of names to values") from None
    check_texts(value)
    _refuse_free_text(value)
    return value


class _PlainLoader(yaml.SafeLoader):
    """Texts, whole numbers, true, false and null: dates stay texts, and keys must differ."""


_PLAIN = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:int", "tag:yaml.org,2002:null")
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _PLAIN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _construct_mapping(loader: _PlainLoader, node: yaml.MappingNode) -> dict[str, Any]:
    return _distinct([(_key(loader, key), loader.construct_object(value, deep=True)) for key, value in node.value])


def _key(loader: _PlainLoader, node: yaml.Node) -> str:
    key = loader.construct_object(node, deep=True)
    if not isinstance(key, str):
        raise Refused(
            shown(key), "a name that is no text", "names of fields are texts", "put it between quotation marks"
        )
    return key


def _construct_whole(loader: _PlainLoader, node: yaml.ScalarNode) -> int:
    if len(node.value) > MOST_DIGITS:
        raise Refused("a number", f"of {len(node.value)} characters", f"whole numbers of at most {MOST_DIGITS}")
    return int(loader.construct_yaml_int(node))


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _construct_whole)
_PlainLoader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def _refuse_yaml_features(text: str) -> None:
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        mark = event.start_mark
        line = "a line" if mark is None else f"line {mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise Refused(line, "an anchor or alias (& or *)", "plain values only", "write the value out")
        if getattr(event, "tag", None) is not None:
            raise Refused(line, "a tag (!)", "plain values only", "leave the tag out")
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            depth += 1
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            depth -= 1
        if depth > MOST_DEPTH:
            raise Refused(line, "values nested too deep", f"at most {MOST_DEPTH} levels")
        if number > MOST_YAML_EVENTS:
            raise Refused("the file", "too many values", f"at most {MOST_YAML_EVENTS}")


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused("the file", f"not UTF-8 at byte {error.start}", "text in UTF-8") from None


def _refuse_depth(text: str) -> None:
    """Before a parser that recurses sees it."""
    depth = 0
    for found in _JSON_TOKEN.finditer(text):
        if found[1] is not None:
            depth += 1 if found[1] in "[{" else -1
        if depth > MOST_DEPTH:
            raise Refused("the file", "values nested too deep", f"at most {MOST_DEPTH} levels")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise Refused(shown(twice)[1:-1], "there twice", "every field once", "take one of them out")
    return found


def _no_number(name: str) -> float:
    raise Refused("a number", name, "finite numbers, or null where nothing was measured")


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise Refused("a number", f"of {len(text)} characters", f"whole numbers of at most {MOST_DIGITS}")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise Refused("a number", shown(text)[1:-1], "finite numbers")
    return number


def check_texts(value: Any, field: str = "") -> None:
    """Raises `Refused` for the first text, name of a field included, that is long, unprintable or holds markup."""
    if isinstance(value, dict):
        for name, each in value.items():
            _check_text(name, field or "a name")
            check_texts(each, f"{field}.{name}" if field else name)
    elif isinstance(value, list):
        for number, each in enumerate(value):
            check_texts(each, f"{field}.{number}" if field else str(number))
    elif isinstance(value, str):
        _check_text(value, field or "the file")


def _refuse_free_text(value: Any) -> None:
    """A submission carries no text: what its fields hold of it stays within a page or two."""
    total = sum(len(text) for text in _texts(value) if " " in text or len(text) > LONGEST_WORD)
    if total > MOST_WORDS:
        raise Refused("the file", f"{total} characters of text", f"at most {MOST_WORDS}: a submission carries no text")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value


def _check_text(text: str, field: str) -> None:
    if len(text) > MOST_TEXT:
        raise Refused(
            field, f"{len(text)} characters", f"at most {MOST_TEXT}: a submission carries no text", "shorten it"
        )
    if any(character in "<>" or not character.isprintable() for character in text):
        raise Refused(
            field,
            shown(text),
            "plain text on one line, without < and >",
            "take markup, line breaks and control characters out",
        )


# Records


def parsed(kind: type[Record], value: Any, file: str, fix: str = REMAKE) -> tuple[Record | None, list[Finding]]:
    """The value as that record, strictly (no text where a number belongs), or what is wrong with it."""
    try:
        return kind.model_validate_json(json.dumps(value), strict=True), []
    except ValidationError as error:
        return None, [
            Finding(
                file,
                shown(".".join(str(part) for part in problem["loc"]) or "the file").strip("'\""),
                "not allowed here" if problem["type"] == "extra_forbidden" else _found(problem),
                _allowed(problem),
                "take it out" if problem["type"] == "extra_forbidden" else fix,
            )
            for problem in error.errors()[:5]
        ]


def _found(problem: Any) -> str:
    return "missing" if problem["type"] == "missing" else shown(problem["input"])


def _allowed(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return "only the fields of the schema"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return "it is required" if problem["type"] == "missing" else _plain(message)


def _said(error: Exception) -> str:
    """YAML's own word for what is wrong, without the lines that it shows of the file."""
    return _plain(getattr(error, "problem", None) or one_line(error))


def _plain(text: str) -> str:
    return ascii(text)[1:-1][:120]
