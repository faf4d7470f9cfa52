"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from asabench.core.errors import UserError
from asabench.core.estimate import Rate
from asabench.core.files import (
    UNFINISHED,
    disk_errors,
    hidden_folder,
    read_record,
    whole_file,
    whole_folder,
    write_record,
    write_whole,
)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_takes_its_place_whole(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "row.json"
    path.write_bytes(b"old")
    with whole_file(path, durable=durable) as file:
        file.write(b"half")
        file.flush()
        assert path.read_bytes() == b"old"
        assert len(names(tmp_path)) == 2
        assert any(name.startswith(UNFINISHED) for name in names(tmp_path))
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert names(tmp_path) == {"row.json"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert names(tmp_path) == {"row.json"}
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    path = tmp_path / "row.json"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, full)
    with pytest.raises(UserError) as caught:
        write_whole(path, b"new", fix="try another day")
    assert str(caught.value) == f"cannot write {path} (No space left on device); try another day"
    assert names(tmp_path) == {"row.json"}
    assert path.read_bytes() == b"old"


def test_what_need_not_last_waits_for_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[object] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    write_whole(tmp_path / "a", b"page", durable=False)
    assert synced == []
    write_whole(tmp_path / "b", b"row")
    assert len(synced) == 2, "the file, and the folder that names it"


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*no-folder/x \(No such file or directory\); free some space"):
        write_whole(tmp_path / "no-folder" / "x", b"")


def test_a_folder_takes_its_place_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "set"
    with whole_folder(path) as made:
        assert made.name == "set"
        (made / "inner").mkdir()
        (made / "inner" / "a").write_text("1")
        assert not path.exists()
    assert names(tmp_path) == {"deep", "deep/set", "deep/set/inner", "deep/set/inner/a"}
    assert stat.S_IMODE(path.stat().st_mode) & 0o500 == 0o500


@pytest.mark.parametrize("replace", [True, False])
def test_a_folder_that_fails_leaves_nothing(tmp_path: Path, replace: bool) -> None:
    path = tmp_path / "set"
    path.mkdir()
    (path / "old").write_text("1")
    with pytest.raises(ZeroDivisionError), whole_folder(path, replace=replace) as made:
        (made / "new").write_text("2")
        raise ZeroDivisionError
    assert names(tmp_path) == {"set", "set/old"}


@pytest.mark.parametrize(("replace", "left"), [(True, "new"), (False, "old")])
def test_a_folder_that_is_there_makes_way_or_stays(tmp_path: Path, replace: bool, left: str) -> None:
    path = tmp_path / "set"
    with whole_folder(path, replace=replace) as made:
        (made / "new").write_text("2")
        path.mkdir()
        (path / "old").write_text("1")
    assert names(tmp_path) == {"set", f"set/{left}"}


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "set"
    path.mkdir()
    (path / "old").write_text("1")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if (self / "new").exists():
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(UserError, match="Input/output error"), whole_folder(path, replace=True) as made:
        (made / "new").write_text("2")
    assert names(tmp_path) == {"set", "set/old"}


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "set"
    path.write_text("a file")
    with pytest.raises(UserError, match=r"cannot write .*set"), whole_folder(path, fix="move it away") as made:
        (made / "new").write_text("2")
    assert path.read_text() == "a file"
    assert names(tmp_path) == {"set"}


def test_errors_of_whoever_fills_a_folder_stay_what_they_are(tmp_path: Path) -> None:
    """A file of theirs that is missing says nothing of the disk."""
    with pytest.raises(FileNotFoundError), whole_folder(tmp_path / "set") as made:
        (made / "nowhere").read_text()


def test_a_hidden_folder_is_gone_afterwards(tmp_path: Path) -> None:
    with hidden_folder(tmp_path) as made:
        (made / "a").write_text("1")
        assert made.name.startswith(UNFINISHED)
    assert names(tmp_path) == set()


def test_other_errors_pass_through() -> None:
    with pytest.raises(ValueError, match="no disk"), disk_errors(Path("x")):
        raise ValueError("no disk")


def test_a_record_is_written_and_read(tmp_path: Path) -> None:
    path, held = tmp_path / "rate.json", Rate(value=0.5, low=0.25, high=None)
    write_record(path, held)
    assert path.read_text() == '{\n  "value": 0.5,\n  "low": 0.25,\n  "high": null\n}\n'
    assert read_record(Rate, path, "a rate", "measure one") == held


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "a rate cannot be read at {path} (No such file or directory); measure one"),
        (b"\xff", "{path} is not a rate: it is not UTF-8; measure one"),
        (b'{"value": 1, "low": 0}', "{path} is not a rate: high: Field required; measure one"),
    ],
)
def test_what_is_no_record(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "rate.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_record(Rate, path, "a rate", "measure one")
    assert str(caught.value) == says.format(path=path)
