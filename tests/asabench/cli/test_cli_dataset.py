"""The dataset's five commands as a user meets them: what they print, their exit codes, bad input, interruption."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from asabench.dataset.files import read_benchmark
from tests.asabench.dataset.dataset_fixtures import benchmark_folder, finished_run, original_folder, original_rows
from tests.command_line import asabench
from tests.conftest import ROOT
from tests.forks import with_models, with_tables
from tests.hub_server import HubServer, User

OWNER, READER = "hf_owner", "hf_reader"


def by_hub(environment: Mapping[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """`asabench ...` in a process of its own, since the client reads at its import where the Hub is."""
    return with_tables().run(["-m", "asabench", *arguments], env=environment)


def refused(*arguments: object) -> str:
    return refusal_in(asabench(*arguments))


def refusal_in(done: subprocess.CompletedProcess[str]) -> str:
    """The last line on standard error, which a `UserError` becomes; what went on until then stands before it."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("asabench: ")
    return last


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    benchmark_folder(tmp_path / "set")
    return tmp_path / "set"


# verify


def test_verify_prints_counts_and_says_that_nothing_differs(folder: Path) -> None:
    done = asabench("verify", folder)
    assert done.returncode == 0, done.stderr
    assert "tiny-llama" in done.stdout
    assert "\n" in done.stdout.strip()


def test_verify_names_a_changed_file_and_exits_with_1(folder: Path) -> None:
    name = next(name for name in read_benchmark(folder).manifest.files if "attempts" in name)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    done = asabench("verify", folder)
    assert done.returncode == 1, done.stderr
    assert name in done.stdout
    assert done.stderr == ""


def test_verify_as_json_is_json(folder: Path) -> None:
    found = json.loads(asabench("verify", folder, "--json").stdout)
    assert found["ok"] is True
    assert found["models"][0]["train"] + found["models"][0]["test"] == 9


def test_the_published_totals_are_asked_for_by_option(tmp_path: Path) -> None:
    few = original_folder(tmp_path / "few", {"Llama-2-13B-Chat": original_rows()})
    done = asabench("verify", few, "--published")
    assert done.returncode == 1
    assert "4862" in done.stdout.replace(",", "")
    assert asabench("verify", few, "--not-published").returncode == 0


@pytest.mark.parametrize("command", ["verify", "diff", "push"])
def test_a_folder_that_is_not_there_is_refused(command: str, tmp_path: Path, folder: Path) -> None:
    more: dict[str, tuple[object, ...]] = {
        "verify": (),
        "diff": (folder,),
        "push": ("--repo", "lab/set", "--version", "v1"),
    }
    assert "nowhere" in refused(command, tmp_path / "nowhere", *more[command])


# diff


def test_diff_counts_what_both_hold_and_what_one_lacks(tmp_path: Path, folder: Path) -> None:
    other = tmp_path / "other"
    benchmark_folder(
        other, finished_run(tmp_path / "other-run", broken=("uusu", "uuss", "s?iu", "usss", "suss", "ssss"))
    )
    found = json.loads(asabench("diff", folder, other, "--json").stdout)
    (model,) = found["models"]
    assert (model["instances_a"], model["instances_b"], model["cells"]["both"]) == (9, 8, 8)
    text = asabench("diff", folder, other)
    assert text.returncode == 0
    assert "tiny-llama" in text.stdout


def test_diff_refuses_an_unknown_key(folder: Path) -> None:
    assert "prompt-layer" in refused("diff", folder, folder, "--key", "colour")


# push and download


def test_push_then_download_by_tag_without_a_hub_account_file(tmp_path: Path, folder: Path) -> None:
    with HubServer({OWNER: User("lab"), READER: User("reader")}) as hub:
        owner = hub.environment(tmp_path / "owner", OWNER)
        pushed = by_hub(owner, "push", folder, "--repo", "lab/set", "--version", "v1")
        assert pushed.returncode == 0, pushed.stderr
        assert "lab/set" in pushed.stdout
        assert "gated: auto" in pushed.stdout
        hub.repos["lab/set"].accepted.add("reader")
        reader = hub.environment(tmp_path / "reader", READER)
        out = tmp_path / "fetched"
        fetched = by_hub(reader, "download", "--repo", "lab/set", "--revision", "v1", "--out", out)
        assert fetched.returncode == 0, fetched.stderr
        assert f"benchmark: {out}" in fetched.stdout
        assert read_benchmark(out).manifest.digest == read_benchmark(folder).manifest.digest
        again = refusal_in(by_hub(owner, "push", folder, "--repo", "lab/set", "--version", "v1"))
        assert "v1" in again
        missing = refusal_in(by_hub(reader, "download", "--repo", "lab/nothing-here"))
        assert "nothing-here" in missing


def test_push_refuses_an_unknown_gate(folder: Path) -> None:
    assert "auto, manual, none" in refused("push", folder, "--repo", "lab/set", "--version", "v1", "--gated", "ajar")


# build


def build_arguments(model: Path, out: Path, *more: object) -> list[object]:
    own = ["--prompts", "quickstart", "--limit", "3", "--max-new-tokens", "5", "--judge", "rules", "--uncertified"]
    return ["build", "--models", model, "--out", out, *own, *more]


def test_build_then_verify_as_the_last_line_says(save_model: Callable[..., Path], tmp_path: Path) -> None:
    model, out = save_model("gpt2", name="small"), tmp_path / "out"
    done = asabench(*build_arguments(model, out))
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.endswith(f"asabench verify {out / 'benchmark'}")
    assert asabench("verify", out / "benchmark").returncode == 0
    again = asabench(*build_arguments(model, out))
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, last), "it is complete"
    assert "--overwrite" in refused(*build_arguments(model, out, "--seeds", "7"))


def test_a_dry_run_prints_cells_and_writes_nothing(save_model: Callable[..., Path], tmp_path: Path) -> None:
    model, out = save_model("gpt2", name="small"), tmp_path / "out"
    done = asabench(*build_arguments(model, out, "--dry-run"))
    assert done.returncode == 0, done.stderr
    layers = json.loads((model / "config.json").read_text())["n_layer"]
    (line,) = [line for line in done.stdout.splitlines() if str(model) in line]
    assert line.removeprefix(str(model)).split()[0] == str(3 * (1 + layers))
    assert not out.exists()


def test_the_recipe_of_the_paper_is_costed_without_its_models(tmp_path: Path) -> None:
    recipe = ROOT / "configs" / "asabench-8.yaml"
    # The prompts of the paper may not be at hand; how many cells there are does not depend on which they are
    done = asabench(
        "build", "--models", recipe, "--out", tmp_path / "out", "--prompts", "quickstart", "--limit", "16", "--dry-run"
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "not here" in line]
    assert len(lines) == 8
    (llama,) = [line for line in lines if "Llama-2-13b" in line or "Llama-2-13B" in line]
    assert llama.split()[1] == str(16 * (1 + 40))


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        (["--doses", "big"], "doses"),
        (["--protocol", "mine"], "gu2025"),
        (["--layers", "0-99"], "layer 99"),
        (["--limit", "0"], "limit"),
    ],
)
def test_build_refuses_bad_choices(
    changes: list[str], fragment: str, save_model: Callable[..., Path], tmp_path: Path
) -> None:
    assert fragment in refused(*build_arguments(save_model("gpt2", name="small"), tmp_path / "out", *changes))


def test_an_interrupted_build_goes_on(save_model: Callable[..., Path], tmp_path: Path) -> None:
    model, out = save_model("gpt2", name="small"), tmp_path / "out"
    arguments = build_arguments(model, out, "--seeds", ",".join(map(str, range(60))), "--max-rows", "8")
    process = with_models().start(["-m", "asabench", *arguments])
    deadline = time.monotonic() + 120
    while not list(out.glob("runs/small/verdicts/*.parquet")) and not list(out.glob("runs/small/verdicts/*/*.parquet")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert not (out / "benchmark").exists()
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/small/responses/*.parquet")}
    assert before
    done = asabench(*arguments)
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mtime_ns == old for path, old in before.items()), "what was finished is kept"
    assert asabench("verify", out / "benchmark").returncode == 0
