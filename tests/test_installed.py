"""Installed, not only cloned: the README's commands in an empty folder, from the wheel, in an environment that sees
what the wheel asks for and nothing else.

Nothing is downloaded: the packages that the wheel's own requirements name, and theirs, are linked from the environment
that runs the tests. So a package that is used and not asked for shows here, and so does a file that the wheel lacks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterator
from email.parser import Parser
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.asabench.dataset.dataset_fixtures import benchmark_folder, finished_run
from tests.asabench.runs.test_compare import LETTERS_A, LETTERS_B, make_run
from tests.conftest import ROOT
from tests.hub_server import HubServer, User

WINGS = ("asabench", "harness", "leaderboard")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built from the files that git knows, as from a fresh clone."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in known_files():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(out), "."]
    subprocess.run([sys.executable, "-m", *build], cwd=source, check=True)
    (made,) = out.glob("asabench-*.whl")
    return made


def known_files() -> list[str]:
    """What a commit of everything would hold of the package: its wings and the files that build it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    building = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
    return [name for name in listed if (name.split("/")[0] in WINGS or name in building) and (ROOT / name).is_file()]


def closure(wheel: Path, *extras: str) -> list[Distribution]:
    """The packages that the wheel asks for with these extras, and what they ask for, on this machine."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        asked = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])
    waiting = [(Requirement(line), frozenset(extras)) for line in asked]
    found: dict[str, Distribution] = {}
    done: set[tuple[str, str]] = set()
    while waiting:
        requirement, chosen = waiting.pop()
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in (chosen or {""})):
            continue
        try:
            found[requirement.name.lower()] = wanted = distribution(requirement.name)
        except PackageNotFoundError:
            continue  # what the wheel itself lacks, a command below will miss
        key = (requirement.name.lower(), ",".join(sorted(requirement.extras)))
        if key not in done:
            done.add(key)
            waiting += [(Requirement(line), frozenset(requirement.extras)) for line in wanted.requires or []]
    return list(found.values())


class Installed:
    """An environment with the wheel, and an empty folder to run its commands in."""

    def __init__(self, place: Path, wheel: Path, *extras: str) -> None:
        self.place, self.here = place, place / "here"
        self.here.mkdir()
        venv.create(place / "env", with_pip=False)
        self.python = place / "env" / "bin" / "python"
        (site,) = (place / "env" / "lib").glob("python*/site-packages")
        linked = place / "packages"
        linked.mkdir()
        for each in closure(wheel, *extras):
            for name in {file.parts[0] for file in each.files or []} - {"..", "__pycache__"}:
                if not (linked / name).exists():
                    (linked / name).symlink_to(Path(str(each.locate_file(name))))
        (site / "linked.pth").write_text(f"{linked}\n", encoding="utf-8")
        pip = ["-m", "pip", "--python", str(self.python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
        subprocess.run([sys.executable, *pip], check=True)

    def run(self, *command: object, code: int = 0, **environment: str) -> str:
        """What a command of the environment prints; `asabench` by its script. It must end with `code`."""
        program, *arguments = map(str, command)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ASABENCH", "HF_"))}
        offline = {"HF_HUB_OFFLINE": "1", "HOME": str(self.place), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [self.python.with_name(program), *arguments],
            cwd=self.here,
            env={**kept, **offline, **environment},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
        )
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture(scope="session")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """`pip install asabench`."""
    return Installed(tmp_path_factory.mktemp("base"), wheel)


@pytest.fixture(scope="session")
def with_eval(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """`pip install 'asabench[eval]'`."""
    return Installed(tmp_path_factory.mktemp("eval"), wheel, "eval")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer({"reader": User("reader")}) as server:
        yield server


def test_the_wheel_holds_every_file_of_the_three_wings(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == {name for name in known_files() if name.split("/")[0] in WINGS}


def test_the_base_install_has_no_torch_and_imports_from_the_wheel(base: Installed) -> None:
    base.run("python", "-c", "import torch", code=1)
    found = base.run("python", "-c", "import asabench, harness, leaderboard; print(asabench.__file__)")
    assert found.startswith(str(base.place / "env"))
    assert not list(base.here.iterdir()), "nothing of the repository is in reach"


def test_the_command_its_module_and_their_help(base: Installed) -> None:
    version = base.run("asabench", "--version")
    assert version == base.run("python", "-m", "asabench", "--version")
    assert "evaluate" in base.run("asabench", "--help")
    assert "smollm2-135m" in base.run("asabench", "models")


def test_download_and_verify(base: Installed, hub: HubServer, tmp_path: Path) -> None:
    benchmark_folder(tmp_path / "set")
    files = {
        path.relative_to(tmp_path / "set").as_posix(): path.read_bytes()
        for path in (tmp_path / "set").rglob("*")
        if path.is_file()
    }
    hub.create("lab/set", files)
    asked = {**hub.environment(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    online = {name: value for name, value in asked.items() if name.startswith(("HF_", "NO_PROXY"))}
    base.run("asabench", "download", "--repo", "lab/set", "--out", "asabench-data", **online)
    assert "tiny-llama" in base.run("asabench", "verify", "asabench-data")
    rows = "import asabench; print(len(asabench.load_benchmark(path='asabench-data', split='train')))"
    assert 0 < int(base.run("python", "-c", rows)) <= 9


def test_validate(base: Installed) -> None:
    entries = sorted(path for path in (ROOT / "submissions").iterdir() if (path / "card.json").is_file())
    assert base.run("asabench", "validate", entries[0], "--jobs", "1")


def test_report(base: Installed) -> None:
    finished_run(base.here / "runs" / "tiny")
    assert "tiny-llama" in base.run("asabench", "report", "runs/tiny")
    read = "import asabench; print(asabench.read_run('runs/tiny').row.model.name)"
    assert base.run("python", "-c", read).strip() == "tiny-llama"


def test_compare(base: Installed) -> None:
    make_run(base.here / "runs" / "a", LETTERS_A)
    make_run(base.here / "runs" / "b", LETTERS_B)
    assert "MASR" in base.run("asabench", "compare", "runs/a", "runs/b")


def test_leaderboard_build(base: Installed) -> None:
    base.run("asabench", "leaderboard", "build", "--rows", ROOT / "submissions", "--out", "site")
    page = (base.here / "site" / "index.html").read_text(encoding="utf-8")
    assert "smollm2-135m" in page.lower()


def test_the_metric_for_evaluate_is_there(base: Installed) -> None:
    found = base.run("python", "-c", "from asabench.evaluate_metric import FOLDER; print(*FOLDER.iterdir())")
    assert "asabench_metric.py" in found


def test_what_runs_a_model_says_what_to_install(base: Installed) -> None:
    said = base.run("asabench", "evaluate", "--model", "smollm2-135m", code=2)
    assert said.strip() == "asabench: this command needs torch, transformers; run `pip install 'asabench[eval]'`"


def test_evaluate(with_eval: Installed, save_model: Callable[..., Path]) -> None:
    model = save_model("llama")
    (with_eval.here / "my.csv").write_text("goal,target\npaint a fence,Sure\ncount to nine,Sure\n", encoding="utf-8")
    chosen = ["--prompts", "my.csv", "--layers", "0,2", "--doses", "0.3", "--max-new-tokens", "4", "--judge", "rules"]
    attacks = ["--attack", "random,gradient:direction=descend", "--uncertified"]
    with_eval.run("asabench", "evaluate", "--model", model, *chosen, *attacks, "--out", "runs/tiny")
    row = json.loads((with_eval.here / "runs" / "tiny" / "row.json").read_text(encoding="utf-8"))
    assert row["model"]["name"] == "tiny-llama"
    assert row["prompts"]["n"] == 2
    assert "tiny-llama" in with_eval.run("asabench", "report", "runs/tiny")
    with_eval.run("asabench", "leaderboard", "build", "--rows", "runs")
    assert (with_eval.here / "leaderboard" / "site" / "index.html").is_file()
