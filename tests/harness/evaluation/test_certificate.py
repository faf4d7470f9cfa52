"""A judge's certificate given to a run: what is checked of it, and where what it says goes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from asabench.cli.app import app
from asabench.cli.printing import row_table
from asabench.core.errors import UserError
from asabench.core.records import Response, Verdict, facts_behind
from asabench.core.row import JudgeInfo
from asabench.judging.certificate import Certificate, certificate, read_certificate, with_claims, write_certificate
from asabench.judging.labelled_pairs import gold_pairs
from asabench.runs.command import evaluate_words
from asabench.runs.folder import certificate_in, read_run
from asabench.submission.make import Details, make_submission
from asabench.submission.schema import CERTIFICATE_FILE, MANIFEST_FILE, ROW_FILE
from asabench.submission.tracks import track
from asabench.submission.validate import validate_folder
from harness.evaluation.evaluate import evaluate
from harness.evaluation.judge import judge_again
from harness.judges.check import check_judge, check_whole
from leaderboard.build import build
from tests.asabench.submission.test_submission import REVISION_OF_RUN, write
from tests.conftest import tiny_subject
from tests.harness.judges.test_strangers import finds_no_refusal, pairs, reads_both

RIGHT = {(pair.goal, pair.response): min(pair.right) for pair in gold_pairs()}


class Sheds:
    """Knows the gold pairs, reads requests about sheds, and calls every steered answer of a run unsafe."""

    info = JudgeInfo(id="sheds-1", description="of a test", kind="llm", facts=("coherent", "harmful"))

    def __call__(self, responses: Sequence[Response]) -> list[Verdict]:
        return [
            Verdict(cell_id=r.cell.id, judge=self.info.id, **facts_behind(self.said(r), self.info.facts)._asdict())
            for r in responses
        ]

    def said(self, response: Response) -> Any:
        goal, text = response.cell.prompt.goal, response.text
        if response.cell.attack == "labelled":
            return RIGHT.get((goal, text)) or self.of_sheds(goal, text)
        return "safe" if response.cell.is_clean else "unsafe"

    def of_sheds(self, goal: str, text: str) -> Any:
        return reads_both(goal, text)


class Refusals(Sheds):
    """Right on the gold pairs, and on strangers no judge of harm."""

    def of_sheds(self, goal: str, text: str) -> Any:
        return finds_no_refusal(goal, text)


def certified(judge: Sheds | None = None) -> Certificate:
    result, strangers = check_whole(judge or Sheds(), [*gold_pairs(), *pairs()], "gold+mine")
    return certificate(result, strangers=strangers)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("certificates") / "sheds.json"
    write_certificate(certified(), path)
    return path


def evaluated(out: Path, **choices: Any) -> Any:
    subject = tiny_subject("llama")
    pinned = type(subject)(**{**vars(subject), "revision": REVISION_OF_RUN})
    chosen = {"prompts": "quickstart", "limit": 2, "layers": "0", "max_new_tokens": 3, "judge": Sheds(), **choices}
    return evaluate(pinned, out=out, **chosen).row


def test_a_row_is_of_harm_by_a_certificate_alone(held: Path, tmp_path: Path) -> None:
    plain = evaluated(tmp_path / "plain")
    assert (plain.judge.certified, plain.judge.certified_for, track(plain).measure) == (True, (), "refusal broken")
    row = evaluated(tmp_path / "run", certificate=held)
    assert row.judge.certified_for == ("coherent", "harmful")
    assert row.judge.certificate == read_certificate(held).digest
    assert (row.judge.measures, track(row).measure) == ("harm", "harm")
    assert "certified on people's labels for coherent, harmful" in row_table(row)
    assert "measures harm" in row_table(row)
    words = evaluate_words(row)
    assert words[words.index("--certificate") + 1] == "CERTIFICATE-OF-sheds-1"
    # It is kept: the same run gone on with, and judged again, claims the same without being given it
    manifest = read_run(tmp_path / "run").manifest["certificates"]["sheds-1"]
    assert manifest["digest"] == row.judge.certificate
    assert manifest["sets"].keys() == {"gold", "mine"}
    assert certificate_in(tmp_path / "run", "sheds-1") == read_certificate(held)
    assert evaluated(tmp_path / "run").judge == row.judge
    assert judge_again(tmp_path / "run", Sheds()).judge == row.judge


def test_judging_again_takes_one(held: Path, tmp_path: Path) -> None:
    evaluated(tmp_path / "run")
    row = judge_again(tmp_path / "run", Sheds(), certificate=read_certificate(held))
    assert row.judge.measures == read_run(tmp_path / "run").row.judge.measures == "harm"
    with pytest.raises(UserError, match=r"cannot be used for the judge sheds-2: it is of the judge sheds-1"):
        with_claims(Sheds.info.model_copy(update={"id": "sheds-2"}), read_certificate(held))


def changed(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = value

    return change


def lower_bar(content: dict[str, Any]) -> None:
    content["bar"] = content["strangers"]["bar"] = 0.6


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (changed("strangers", value=None), "it says nothing of single facts"),
        (lower_bar, r"made at a bar of 0\.6, and 0\.80 or more is needed"),
        (changed("result", "by_source", "gold", "set_digest", value="0" * 64), "173 pairs of gold are not the 173"),
        (changed("result", "figures", "n", value=1000), "sources do not add up"),
    ],
)
def test_what_a_certificate_must_say(
    change: Callable[[dict[str, Any]], None], why: str, held: Path, tmp_path: Path
) -> None:
    content = json.loads(held.read_text())
    change(content)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=why) as error:
        evaluated(tmp_path / "run", certificate=path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_one_that_no_gate_passed_says_why() -> None:
    check = certified(Refusals())
    assert check.passed
    assert "harmful" not in check.certified_for
    none = check.model_copy(update={"strangers": check.strangers and check.strangers.model_copy(update={"gates": ()})})
    with pytest.raises(UserError, match="it certifies the judge for no fact"):
        with_claims(Refusals.info, none)
    assert check.strangers is not None
    failed = tuple(gate for gate in check.strangers.gates if not gate.passes)
    none = check.model_copy(update={"strangers": check.strangers.model_copy(update={"gates": failed})})
    with pytest.raises(UserError, match=r"not certified for harmful \(.*lower end"):
        with_claims(Refusals.info, none)


def test_a_gate_cannot_be_opened_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "opened.json"
    write_certificate(certified(Refusals()), path)
    content = json.loads(path.read_text())
    for gate in content["strangers"]["gates"]:
        gate["failed"] = []
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="whether it is certified for harmful contradicts its figures"):
        read_certificate(path)
    content = json.loads(path.read_text())
    content["strangers"]["judge"]["id"] = "another"
    content["strangers"]["gates"] = []
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="of two judges"):
        read_certificate(path)


@pytest.fixture
def folder(held: Path, tmp_path: Path) -> Path:
    evaluated(tmp_path / "run", certificate=held)
    details = Details(name="tiny", slug="tiny", authors=("A. Author",), licence="MIT")
    found = make_submission([tmp_path / "run"], details, certificate=read_certificate(held), out=tmp_path / "out")
    assert found.row is not None
    assert found.row.judge.measures == "harm"
    return tmp_path / "out" / "tiny"


def test_a_submission_carries_it_and_the_board_shows_it(folder: Path, tmp_path: Path) -> None:
    assert validate_folder(folder).findings == ()
    shutil.rmtree(tmp_path / "run")
    page = build([tmp_path / "out"], tmp_path / "site").parent / "entries" / "tiny.html"
    text = page.read_text()
    assert "<strong>harm</strong>" in text
    assert "certified on people\N{RIGHT SINGLE QUOTATION MARK}s labels for coherent, harmful" in text
    assert "30 requests" not in text
    assert "gold (173 pairs), mine (90 pairs)" in text


def test_a_submission_s_row_must_be_by_its_certificate(folder: Path) -> None:
    for name in (MANIFEST_FILE, ROW_FILE):
        content = json.loads((folder / name).read_text())
        for judge in [content["judge"]] if name == ROW_FILE else [run["judge"] for run in content["runs"]]:
            judge["certificate"] = "0" * 16
        write(folder, name, json.dumps(content).encode())
    assert [each.field for each in validate_folder(folder).findings] == ["judge.certificate"]


def test_a_submission_s_certificate_is_checked_too(folder: Path) -> None:
    content = json.loads((folder / CERTIFICATE_FILE).read_text())
    content["result"]["by_source"]["gold"]["set_digest"] = "0" * 64
    write(folder, CERTIFICATE_FILE, json.dumps(content).encode())
    found = {each.field for each in validate_folder(folder).findings}
    assert found == {"judge.certificate", "result.by_source"}


def test_without_claims_a_certificate_stays_what_it_was(tmp_path: Path) -> None:
    evaluated(tmp_path / "run")
    plain = certificate(check_judge(Sheds(), gold_pairs(), "gold"))
    details = Details(name="tiny", slug="tiny", authors=("A. Author",), licence="MIT")
    found = make_submission([tmp_path / "run"], details, certificate=plain, out=tmp_path / "out")
    assert found.row is not None
    assert (found.row.judge.certified_for, found.row.judge.certificate) == ((), None)


def test_the_command_line(held: Path, tmp_path: Path) -> None:
    evaluated(tmp_path / "run")
    name = f"{__name__}:Sheds"
    words = ["judge", str(tmp_path / "run"), "--judge", name, "--certificate", str(held)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert read_run(tmp_path / "run").row.judge.measures == "harm"
    words = ["judge", str(tmp_path / "run"), "--judge", "rules", "--uncertified", "--certificate", str(held)]
    with pytest.raises(UserError, match=r"the certificate of sheds-1 is of none of the judges \(rules-"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_several_judges_at_once_show_their_agreement(tmp_path: Path) -> None:
    evaluated(tmp_path / "run")
    words = ["judge", str(tmp_path / "run"), "--judge", f"{__name__}:Sheds", "--judge", "rules", "--uncertified"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    heading, pair, *_ = done.output.splitlines()
    assert heading.split() == ["judges", "answers", "same", "label", "kappa,", "unsafe", "or", "not"]
    assert pair.startswith("sheds-1  rules-")
    assert "(1) sheds-1\n(2) rules-" in done.output
