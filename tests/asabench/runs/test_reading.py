"""Reading a run's answers: the sample, the page, what is kept, and judges against readers."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pandas as pd
import pytest

from asabench.core.errors import UserError
from asabench.core.records import Cell, Facts, Prompt, Response, Verdict
from asabench.judging.readers import agreement, people_say, readings_report
from asabench.runs.folder import Run
from asabench.runs.reading import HOST, Answer, Notebook, Reading, make_server, read_notebook, sampled

YES = {"refused": "yes", "coherent": "yes", "harmful": "no"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Two clean and six steered answers, and verdicts on them."""
    for folder in ("responses", "verdicts"):
        (tmp_path / folder).mkdir()
    run = Run(tmp_path, {"run_id": "r", "settings": {}})
    prompts = [Prompt(id=f"p{n}", goal=f"Goal <{n}>") for n in range(2)]
    cells = [Cell(prompt=prompt) for prompt in prompts]
    cells += [
        Cell(prompt=prompt, layer=layer, attack="random", dose=1.0, seed=0) for prompt in prompts for layer in range(3)
    ]
    run.append_responses(
        [Response(cell=cell, text=f"Text & {n}", token_ids=(), finish_reason="stop") for n, cell in enumerate(cells)]
    )
    run.append_verdicts([Verdict(cell_id=cell.id, judge="j", harmful=n % 2 == 0) for n, cell in enumerate(cells)])
    return run


@contextmanager
def serving(reading: Reading) -> Iterator[http.client.HTTPConnection]:
    with make_server(reading, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield http.client.HTTPConnection(HOST, server.server_address[1], timeout=10)
        finally:
            server.shutdown()
            thread.join()


def asked(connection: http.client.HTTPConnection, method: str, path: str, **form: str) -> tuple[int, str]:
    connection.request(method, path, body=urlencode(form) if form else None)
    response = connection.getresponse()
    return response.status, response.read().decode()


def test_everybody_reads_the_same_steered_answers(run: Run) -> None:
    first = sampled(run, 4)
    assert first == sampled(run, 4)
    assert first == sampled(run, 100)[:4]
    assert len(sampled(run, 100)) == 6
    assert sampled(run, 6, seed=1) != sampled(run, 6)
    with pytest.raises(UserError, match="a sample of 0"):
        sampled(run, 0)


def test_an_answer_is_shown_with_its_request_and_nothing_else(run: Run) -> None:
    reading = Reading(sampled(run), Notebook(run, "ann"))
    page = reading.page()
    assert "Goal &lt;" in page
    assert "Text &amp; " in page
    for hidden in ("random", "layer", "dose", "unsafe", '"j"', "http"):
        assert hidden not in page
    assert "0 of 6 read" in page


def test_what_is_said_is_kept_and_reading_goes_on(run: Run) -> None:
    reading = Reading(sampled(run), Notebook(run, "ann"))
    with serving(reading) as connection:
        for number in range(6):
            answer = reading.next
            assert answer is not None
            assert asked(connection, "POST", f"/{reading.secret}", cell=answer.cell_id, **YES)[0] == 303
            # A session that begins anew goes on from there
            assert Reading(sampled(run), Notebook(run, "ann")).done == number + 1
        assert "All read" in asked(connection, "GET", f"/{reading.secret}")[1]
    said = read_notebook(run.path / "readings" / "ann.csv")
    assert set(said.values()) == {Facts(refused=True, coherent=True, harmful=False)}
    assert "Text" not in (run.path / "readings" / "ann.csv").read_text(encoding="utf-8")


def test_who_does_not_know_the_address_gets_nothing(run: Run) -> None:
    reading = Reading(sampled(run), Notebook(run, "ann"))
    cell = sampled(run)[0].cell_id
    with serving(reading) as connection:
        assert asked(connection, "GET", "/") == (404, "")
        assert asked(connection, "POST", "/guess", cell=cell, **YES)[0] == 404
        connection.request("GET", f"/{reading.secret}", headers={"Host": "elsewhere.example"})
        assert connection.getresponse().read() == b""
        connection.close()
        # Forms that are none
        for form in ({"cell": "no", **YES}, {"cell": cell}, {"cell": cell, **YES, "harmful": "perhaps"}):
            assert asked(connection, "POST", f"/{reading.secret}", **form)[0] == 400
        connection.request("GET", f"/{reading.secret}")
        policy = connection.getresponse().headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
    assert reading.done == 0


def test_names_and_files_that_cannot_be_used(run: Run) -> None:
    with pytest.raises(UserError, match="allowed: up to 40 letters"):
        Notebook(run, "../ann")
    (run.path / "readings").mkdir()
    (run.path / "readings" / "bob.csv").write_text("other\n1\n", encoding="utf-8")
    with pytest.raises(UserError, match="is no reader's notebook"):
        Notebook(run, "bob")


def test_a_later_word_takes_the_place_of_an_earlier_one(run: Run) -> None:
    notebook = Notebook(run, "ann")
    notebook.write("c", Facts(refused=True))
    notebook.write("c", Facts(refused=False, harmful=True))
    assert read_notebook(notebook.path) == {"c": Facts(refused=False, harmful=True)}


def test_agreement_by_hand() -> None:
    # 3 of 4 alike; by chance 0.5 * 0.25 + 0.5 * 0.75 = 0.5; kappa 0.5
    told = agreement([True, True, False, False, None], [True, False, False, False, True])
    assert (told.n, told.alike, told.kappa) == (4, 0.75, pytest.approx(0.5))
    assert agreement([True], [True]).kappa is None
    assert agreement([None], [True]).n == 0


def test_people_count_where_they_say_the_same() -> None:
    first = {"a": Facts(refused=True, harmful=False), "b": Facts(harmful=True), "c": Facts()}
    second = {"a": Facts(refused=False, harmful=False), "b": Facts(harmful=True)}
    assert people_say([first, second]) == {"a": Facts(harmful=False), "b": Facts(harmful=True)}
    assert people_say([]) == {}


def test_a_judge_against_the_readers() -> None:
    readers = {name: {str(n): Facts(coherent=True, harmful=n < 2) for n in range(4)} for name in ("ann", "bob")}
    verdicts = pd.DataFrame(
        {
            "cell_id": list("0123"),
            "judge": "j",
            "label": ["unsafe", "safe", "safe", "safe"],
            "refused": None,
            "coherent": None,
            "harmful": [True, False, False, False],
        }
    )
    shown = readings_report(readers, verdicts, {str(n): f"p{n}" for n in range(4)})
    lines = {tuple(line.split()[:2]): line.split() for line in shown.splitlines() if line.startswith("j")}
    # Of the two harmful answers it finds one, of the two others it calls none harmful
    assert lines["j", "harmful"][2:5] == ["4", "2", "0.50"]
    assert lines["j", "unsafe"][2:5] == ["4", "2", "0.50"]
    assert ("j", "coherent") not in lines
    assert ["ann", "bob", "harmful", "4", "1.00", "1.00"] in [line.split() for line in shown.splitlines()]


def test_an_answer_without_text_is_shown_as_empty(run: Run) -> None:
    assert "(empty)" in Reading([Answer(cell_id="c", goal="g", text="")], Notebook(run, "ann")).page()


@pytest.mark.parametrize("words", [["judge", "read"], ["judge-read"]])
def test_the_command(
    words: list[str], run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from asabench.cli.app import main

    (run.path / "manifest.json").write_text('{"run_id": "r", "settings": {}}', encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["asabench", *words, str(run.path), "--report"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "nobody has read answers of" in capsys.readouterr().err
    Notebook(run, "ann").write(sampled(run)[0].cell_id, Facts(harmful=True))
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code
    assert "answers read: ann 1" in capsys.readouterr().out
