"""Records that stand alone in a JSON file: `utility.json`, `certificate.json`, `card.json`."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from asabench.core.errors import UserError

Record = TypeVar("Record", bound=BaseModel)


def read_record(kind: type[Record], path: Path, what: str, how: str) -> Record:
    """The record in a file. what: "a card", for the user; how: what writes one. Raises `UserError` for a file that is
    missing or is not one."""
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{what} cannot be read at {path} ({error.strerror}); {how}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not {what}: it is not UTF-8; {how}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{path} is not {what}: {where}: {first['msg']}; {how}") from None
