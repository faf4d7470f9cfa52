"""The command line as a user meets it: what it prints, exit codes, bad input, interruption and `kill -9`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from asabench.core.errors import UserError
from asabench.core.paths import expanded
from asabench.runs.folder import read_run
from harness.model.files import cache_folder
from tests.command_line import ASABENCH, RULES, asabench, asabench_process, by_rules, refused, refused_in_one_line
from tests.forks import Fork, with_models


@pytest.fixture
def model(save_model: Callable[..., Path]) -> Path:
    return save_model("gpt2")


def test_version_and_help() -> None:
    assert asabench_process("--version").stdout.startswith("asabench 0.")
    done = asabench_process("--help")
    assert done.returncode == 0
    for command in ("evaluate", "report", "models", "data", "judge", "train", "board"):
        assert command in done.stdout
    assert "--max-new-tokens" in asabench_process("evaluate", "--help").stdout


def test_commands_stand_in_groups_and_keep_their_old_names() -> None:
    for new, old in (
        (("data", "verify"), ("verify",)),
        (("judge", "check"), ("judge-check",)),
        (("train", "defend"), ("defend",)),
        (("board", "validate"), ("validate",)),
        (("board", "build"), ("leaderboard", "build")),
    ):
        texts = [asabench_process(*words, "--help").stdout.partition("\n")[2] for words in (new, old)]
        assert texts[0]
        # The example's variable is named after the command as it was called
        assert [line for line in texts[0].split("\n") if "ASABENCH_" not in line] == [
            line for line in texts[1].split("\n") if "ASABENCH_" not in line
        ]
    assert "Did you mean 'evaluate'" in asabench_process("evalute").stderr


def test_a_run_is_judged_again_without_a_word_more(tmp_path: Path) -> None:
    for words in (("judge",), ("judge", "again")):
        assert str(tmp_path) in refused_in_one_line(*words, tmp_path, "--judge", "rules", cwd=tmp_path)


def test_options_from_the_environment_and_the_model_behind_the_command(model: Path, tmp_path: Path) -> None:
    done = asabench_process(
        *("evaluate", model, "--protocol", "gu2025", "--uncertified", "--max-new-tokens", "2", "--json"),
        *("--out", tmp_path / "run"),
        ASABENCH_EVALUATE_LIMIT="1",
        ASABENCH_EVALUATE_LAYERS="0",
        ASABENCH_EVALUATE_JUDGE="rules",
    )
    row = json.loads(done.stdout)
    assert (row["prompts"]["n"], row["layers"], row["judge"]["kind"]) == (1, [0], "rules")
    assert "two models" in refused_in_one_line("evaluate", model, "--model", "other", cwd=tmp_path)
    assert "`asabench evaluate smollm2-135m`" in refused_in_one_line("evaluate", cwd=tmp_path)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written(unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as device:
        full = subprocess.run([*ASABENCH, "models"], stdout=device, stderr=subprocess.PIPE, text=True, env=environment)
    assert full.returncode == 1
    assert full.stderr == (
        "asabench: a write failed (No space left on device); free some space where the output goes\n"
    )
    closed = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *ASABENCH, "models"], capture_output=True, text=True, env=environment
    )
    assert (closed.returncode, closed.stderr) == (0, "")


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}],
    ids=str,
)
def test_a_terminal_of_few_characters(environment: dict[str, str], tmp_path: Path) -> None:
    done = asabench_process("report", "mødel-✓", cwd=tmp_path, **environment)
    assert (done.returncode, done.stderr.count("\n"), "Traceback" in done.stderr) == (2, 1, False)
    assert "is not a run folder" in done.stderr
    code = (
        "import sys\nfrom asabench.cli.terminal import any_characters\nany_characters()\n"
        "print('m\\xf8del-\\u2713-\\udcff')\nprint('m\\xf8del', file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "m\\xf8del-\\u2713-\\udcff\n", "m\\xf8del\n")


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.delenv("ASABENCH_CACHE", raising=False)
    for call in (cache_folder, lambda: expanded("~/model")):
        with pytest.raises(UserError, match="none is known for this user; set HOME"):
            call()


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from asabench.cli.app import app\n"
        "from typer.testing import CliRunner\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'pandas', 'pyarrow', 'numpy', 'scipy', 'matplotlib', 'jinja2',\n"
        "    'huggingface_hub', 'datasets', 'pydantic', 'harness', 'leaderboard'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_benchmark_package_imports_no_torch() -> None:
    code = (
        "import sys, asabench, asabench.core.records, asabench.core.protocol, asabench.core.prompts\n"
        "import asabench.runs.folder, asabench.stats.metrics, asabench.core.models, asabench.core.row\n"
        "import leaderboard.build, leaderboard.figures.lasr\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_models_lists_the_short_name() -> None:
    assert "smollm2-135m" in asabench("models").stdout


def test_evaluate_report_and_leaderboard(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--model", model, "--limit", 2, "--doses", "0.3,1", "--seeds", "0,1", "--max-new-tokens", 5)
    done = asabench_process("evaluate", *options, "--layers", "0,2-3", "--out", run)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no progress line where nobody watches"
    for word in ("MASR", "PASR", "INIT", "peak layer", "row.json", "lasr.png"):
        assert word in done.stdout
    assert (run / "lasr.png").read_bytes().startswith(b"\x89PNG")
    assert len(pd.read_parquet(run / "responses")) == 2 * (1 + 2 * 2 * 3)
    row = json.loads((run / "row.json").read_text())
    assert f"{row['pasr']['value']:.2f} [{row['pasr']['low']:.2f}, {row['pasr']['high']:.2f}]" in done.stdout

    again = asabench("report", run)
    assert again.returncode == 0
    assert again.stdout == done.stdout
    built = asabench("leaderboard", "build", "--rows", tmp_path, "--out", tmp_path / "site")
    assert built.returncode == 0, built.stderr
    page = Path(built.stdout.removeprefix("page: ").strip())
    assert "tiny-gpt2" in page.read_text()


def test_the_answers_are_not_printed_or_put_on_the_page(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = asabench("evaluate", "--model", model, "--limit", 2, "--max-new-tokens", 12, "--out", run)
    asabench("leaderboard", "build", "--rows", tmp_path, "--out", tmp_path / "site")
    shown = done.stdout + done.stderr + (tmp_path / "site" / "index.html").read_text() + (run / "row.json").read_text()
    answers = [text for text in read_run(run).responses()["text"] if len(text) > 6]
    assert answers
    assert not [text for text in answers if text in shown]


def test_dry_run_says_what_it_would_take_and_writes_nothing(model: Path, tmp_path: Path) -> None:
    done = asabench("evaluate", "--model", model, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "80 answers" in done.stdout  # 16 prompts, 4 layers and the clean answer
    assert "memory:" in done.stdout
    assert "time:" in done.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "no-such-model"), "smollm2-135m"),
        (("--model", "nobody/nothing@v1"), "cannot be reached"),
        (("--model", "MODEL", "--layers", "4"), "4 blocks"),
        (("--model", "MODEL", "--layers", "x"), "0 to 3"),
        (("--model", "MODEL", "--doses", "-1"), "0 or more"),
        (("--model", "MODEL", "--doses", "one"), "cannot be read"),
        (("--model", "MODEL", "--doses", ""), "cannot be read"),
        (("--model", "MODEL", "--seeds", "1,1"), "twice"),
        (("--model", "MODEL", "--seeds", "0.5"), "cannot be read"),
        (("--model", "MODEL", "--limit", "0"), "1 or more"),
        (("--model", "MODEL", "--max-new-tokens", "0"), "1 or more"),
        (("--model", "MODEL", "--max-rows", "0"), "1 or more"),
        (("--model", "MODEL", "--prompts", "nothing"), "quickstart, advbench"),
        (("--model", "MODEL", "--protocol", "gu2024"), "asabench-v1, gu2025"),
        (("--model", "MODEL", "--attack", "gravity"), "random"),
        (("--model", "MODEL", "--judge", "oracle"), "rules"),
        (("--model", "MODEL", "--dtype", "float8"), "bfloat16"),
        (("--model", "MODEL", "--device", "abacus"), "auto or cpu"),
        (("--model", "MODEL", "--chat-template", "none.jinja"), "cannot be read"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, tuple) else None,
)
def test_bad_choices(arguments: tuple[str, ...], words: str, model: Path, tmp_path: Path) -> None:
    message = refused_in_one_line("evaluate", *(str(model) if a == "MODEL" else a for a in arguments), cwd=tmp_path)
    assert words in message
    assert not (tmp_path / "runs").exists()


def test_a_missing_option_names_it(tmp_path: Path) -> None:
    assert "--model" in refused("evaluate", cwd=tmp_path)


def test_a_model_without_a_chat_template(save_model: Callable[..., Path], tmp_path: Path) -> None:
    base = save_model("gpt2", chat=False)
    message = refused_in_one_line("evaluate", "--model", base, "--limit", 1, cwd=tmp_path)
    assert "--chat-template FILE" in message
    assert "gu2025" in message
    done = asabench(
        "evaluate", "--model", base, "--limit", 1, "--protocol", "gu2025", "--max-new-tokens", 3, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "content", ["", "goal\n", "text\nhello\n", 'goal\n""\n', "goal,target\na,b,c\n", "goal\nsame\nsame\n"]
)
def test_malformed_prompts(content: str, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text(content)
    assert "prompts.csv" in refused_in_one_line("evaluate", "--model", model, "--prompts", file, cwd=tmp_path)


def test_an_output_folder_that_cannot_be_written(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "--out" in refused_in_one_line("evaluate", "--model", model, "--out", tmp_path / "file" / "run")


def test_a_full_disk_keeps_what_is_finished(model: Path, tmp_path: Path) -> None:
    """A limit on the size of a file stands for a full disk: the system answers the write with an error."""
    run = tmp_path / "run"
    command = ["evaluate", "--model", model, "--limit", "4", "--max-rows", "5", "--out", run, *RULES]
    limited = (
        "import resource\nfrom asabench.cli.app import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3072, 3072))\nmain()"
    )
    done = with_models().run(["-c", limited, *command])
    assert done.returncode == 2, done.stderr
    assert "free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(run.rglob(".unfinished-*"))
    assert asabench(*command).returncode == 0
    assert len(read_run(run).responses()) == 4 * 5


def test_no_run_and_no_rows(tmp_path: Path) -> None:
    assert "not a run folder" in refused_in_one_line("report", tmp_path)
    assert "--rows" in refused_in_one_line("leaderboard", "build", cwd=tmp_path)
    refused_in_one_line("leaderboard", "build", "--rows", tmp_path, cwd=tmp_path)


def start(*arguments: object) -> Fork:
    return with_models().start(["-m", "asabench", *by_rules(("evaluate", *arguments))])


def wait_for_parts(run: Path, process: Fork, parts: int) -> None:
    deadline = time.monotonic() + 120
    while len(list((run / "verdicts").glob("part-*.parquet"))) < parts:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Many small batches, so that a signal finds the run between them and inside them
SLOW = ("--limit", 4, "--max-rows", 2, "--max-new-tokens", 40, "--doses", "0.3,1", "--seeds", "0,1")


def test_killed_resumed_and_locked(model: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert asabench("evaluate", "--model", model, *SLOW, "--out", whole).returncode == 0
    for parts in (1, 4, 9):
        process = start("--model", model, *SLOW, "--out", broken)
        wait_for_parts(broken, process, parts)
        process.send_signal(signal.SIGSTOP)  # it holds the lock while it stands still
        message = refused_in_one_line("evaluate", "--model", model, *SLOW, "--out", broken)
        assert "another process" in message
        process.kill()  # SIGKILL
        process.wait()
    assert asabench("evaluate", "--model", model, *SLOW, "--out", broken).returncode == 0
    tables = [read_run(run).responses().sort_values("cell_id", ignore_index=True) for run in (whole, broken)]
    pd.testing.assert_frame_equal(*tables)
    assert len(tables[0]) == 4 * (1 + 2 * 2 * 4)
    rows = [json.loads((run / "row.json").read_text()) for run in (whole, broken)]
    assert {**rows[0], "created": 0} == {**rows[1], "created": 0}
    assert len(read_run(broken).manifest["resumed"]) == 3
    assert "other settings" in refused_in_one_line("evaluate", "--model", model, "--limit", 1, "--out", broken)


def test_control_c_says_how_to_go_on(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start("--model", model, *SLOW, "--out", run)
    wait_for_parts(run, process, 2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert "run the same command again" in stderr
    assert "Traceback" not in stderr
    kept = len(read_run(run).responses())
    assert 0 < kept < 4 * 17
    assert asabench("evaluate", "--model", model, *SLOW, "--out", run).returncode == 0
    assert len(read_run(run).responses()) == 4 * 17


def test_compare_two_runs(model: Path, save_model: Callable[..., Path], tmp_path: Path) -> None:
    options = ("--limit", 6, "--max-new-tokens", 6, "--doses", "0.3,1")
    other = save_model("gpt2", name="other", seed=3)
    for folder, run in ((model, "a"), (other, "b")):
        assert asabench("evaluate", "--model", folder, *options, "--out", tmp_path / run).returncode == 0
    done = asabench("compare", tmp_path / "a", tmp_path / "b")
    assert done.returncode == 0, done.stderr
    for word in ("tiny-gpt2", "other", "MASR", "PASR", "INIT"):
        assert word in done.stdout
    refused_in_one_line("compare", tmp_path / "a", tmp_path / "nowhere", cwd=tmp_path)


def test_several_attacks_and_probes(model: Path, tmp_path: Path) -> None:
    options = ("--model", model, "--limit", 2, "--max-new-tokens", 5, "--target", "Sure, here is")
    attacks = "random,gradient:direction=ascend,gradient:direction=descend,pgd:steps=2:starts=1,mean_difference"
    done = asabench("evaluate", *options, "--attack", attacks, "--doses", "0.3,1", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    for word in ("gradient-ascend", "gradient-descend", "pgd:steps=2:starts=1", "mean_difference", "eps50 of random"):
        assert word in done.stdout
    row = json.loads((tmp_path / "run" / "row.json").read_text())
    assert len(row["results"]) == 5 * 2
    assert set(row["eps50"]) == {result["attack"] for result in row["results"]}
    probed = asabench("probe", *options, "--layers", "0,3", "--out", tmp_path / "probe")
    assert probed.returncode == 0, probed.stderr
    assert "kl_trend:" in probed.stdout
    for table in ("nll", "kl", "landscape"):
        assert len(pd.read_parquet(tmp_path / "probe" / f"{table}.parquet"))
    assert len(list((tmp_path / "probe").glob("*.png"))) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--attack", "gradient"), '--target "Sure, here is"'),
        (("--attack", "gradient:direction=sideways"), "ascend, descend"),
        (("--attack", "random", "--target", " "), "--target is empty"),
        (("--attack", "random,random"), "twice"),
        (("--attack", "no.such:Thing"), "cannot be imported"),
        (("--size", "huge"), "smoke, lite, standard, full"),
        (("--steps", "soon"), "every, first"),
        (("--step-layers", "1"), "--steps"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_attacks(arguments: tuple[str, ...], words: str, model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("goal\nsay hello\n")
    message = refused_in_one_line("evaluate", "--model", model, "--prompts", prompts, *arguments, cwd=tmp_path)
    assert words in message


def test_an_unknown_probe(model: Path, tmp_path: Path) -> None:
    assert "nll, kl, landscape" in refused_in_one_line("probe", "--model", model, "--what", "entropy", cwd=tmp_path)
