"""The built board in a real browser: from a file, without a network, with and without JavaScript."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asabench.core.row import Row, read_row, worst_rate
from leaderboard.build import build
from leaderboard.text import format_estimate
from tests.board_fixtures import HOSTILE, complete_row, make_submission, make_utility, row_with_worst_case, write_entry
from tests.browser import Axe, Visit, expect
from tests.card_fixtures import submitted_card
from tests.rows import make_row, write_row
from tools.speed.board_entries import write_entries


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tracks: four entries of known order with a hostile name among them, and a bare run."""
    folder = tmp_path_factory.mktemp("board")
    given = {"name": "Base model", "revision": "1", "entry": "base"}
    hostile = make_submission("hostile").model_copy(update={"name": HOSTILE, "defence": HOSTILE})
    for slug, value, size, submission in (
        ("base", 0.9, 135_000_000, make_submission("base", name="Base model")),
        ("strong", 0.2, 135_000_000, make_submission("strong", name="Strong", base=given, defence="LAPT")),
        ("middle", 0.5, 7_000_000_000, make_submission("middle", name="Middle", base=given, defence="SFT")),
    ):
        row = row_with_worst_case(value, run_id=f"{slug}-run", model={"name": slug, "n_parameters": size})
        card = submitted_card(slug, "1") if slug == "strong" else None
        write_entry(folder / "runs" / slug, row, submission, make_utility(0.95), card)
    # Its name breaks the rules for submissions, which a bare run need not keep
    write_row(folder / "runs" / "hostile", complete_row(run_id="hostile-run", model={"name": hostile.name}))
    write_row(folder / "runs" / "bare", make_row(run_id="bare-run", judge={"certified": False}))
    build(folder / "runs", folder / "site")
    return folder / "site"


@pytest.fixture
def visit(browser: Any, site: Path) -> Iterator[Visit]:
    visit = Visit(browser, site)
    yield visit
    visit.check_quiet()
    visit.context.close()


def names(page: Any, track: str = "asabench-v1/llm") -> list[str]:
    """The entries that are seen in a track's table, from the top."""
    return page.locator(f'[data-track="{track}"] .board tbody tr:visible th a').all_inner_texts()


def tab(page: Any, track: str) -> Any:
    return page.locator(f'.tabs input[value="{track}"]')


def board(visit: Visit) -> Any:
    """The board with its tools in sight."""
    page = visit.go("index.html")
    page.locator(".tools summary").click()
    return page


def line(page: Any, slug: str) -> dict[str, str]:
    """All cells of an entry's line by their column's header, hidden columns too."""
    table = page.locator(".board").filter(has=page.locator(f'a[href="entries/{slug}.html"]'))
    headers = table.locator("thead abbr").all_text_contents()
    row = table.locator("tbody tr").filter(has=page.locator(f'a[href="entries/{slug}.html"]'))
    texts = row.locator("th, td").all_text_contents()
    return dict(zip(headers, [" ".join(text.split()) for text in texts], strict=True))


def test_the_numbers_are_those_of_row_json(visit: Visit, site: Path) -> None:
    page = visit.go("index.html")
    for slug in ("base", "strong", "middle"):
        row = read_row(site.parent / "runs" / slug / "row.json")
        shown = line(page, slug)
        for result in row.results:
            assert shown[f"MASR {result.attack}"] == format_estimate(result.masr)
            assert shown[f"PASR {result.attack}"] == format_estimate(result.pasr)
        assert shown["INIT"] == format_estimate(row.init)
        assert shown["Worst case"] == format_estimate(worst_rate(row))
        assert shown["Peak"] == f"{row.peak_layer}/{row.model.n_layers}"
    assert [line(page, slug)["Rank"] for slug in ("strong", "middle", "base")] == ["1", "2", "3"]


def test_a_header_sorts_up_down_and_back(visit: Visit) -> None:
    page = board(visit)
    first = names(page)
    assert first == ["Strong", "Middle", "Base model", HOSTILE]
    worst = page.locator('[data-track="asabench-v1/llm"]').get_by_role("button", name="Sort by Worst case")
    header = worst.locator("..")
    worst.click()
    assert names(page) == ["Strong", "Middle", HOSTILE, "Base model"], "0.20, 0.50, 0.83, 0.90"
    assert header.get_attribute("aria-sort") == "ascending"
    worst.click()
    assert names(page) == ["Base model", HOSTILE, "Middle", "Strong"]
    assert header.get_attribute("aria-sort") == "descending"
    worst.click()
    assert names(page) == first
    # By keyboard, and by size: 135M comes before 7B
    page.locator("#show-model").check()
    size = page.locator('[data-track="asabench-v1/llm"]').get_by_role("button", name="Sort by Size")
    size.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert names(page)[0] == "Middle"


def test_filters_leave_what_fits_and_say_how_many(visit: Visit) -> None:
    page = board(visit)
    status = page.locator("#shown")
    assert status.inner_text() == "4 entries", "of the track that is open"
    page.get_by_label("Search").fill("lapt")
    assert names(page) == ["Strong"]
    assert status.inner_text() == "1 of 4 entries"
    page.get_by_label("Search").fill("")
    page.get_by_role("combobox", name="Size").select_option("4B to 15B")
    assert names(page) == ["Middle"]
    page.get_by_role("button", name="Reset").click()
    expect(status).to_have_text("4 entries")
    page.get_by_label("ranked only").check()
    assert names(page) == ["Strong", "Middle", "Base model"]
    page.get_by_role("button", name="Reset").click()
    tab(page, "asabench-v1/uncertified").check()
    assert names(page) == []
    assert names(page, "asabench-v1/uncertified") == ["tiny-llama"]
    page.get_by_role("combobox", name="Attack").select_option("pgd")
    assert names(page, "asabench-v1/uncertified") == [], "it was not attacked with pgd"
    tab(page, "asabench-v1/llm").check()
    page.get_by_label("MASR by attack").check()
    seen = page.locator('[data-track="asabench-v1/llm"] thead th:visible abbr').all_inner_texts()
    assert [name.split()[-1] for name in seen if name.startswith("MASR")] == ["pgd"]


def test_columns_are_shown_and_hidden_in_groups(visit: Visit) -> None:
    page = board(visit)
    pasr = page.locator('[data-track="asabench-v1/llm"] thead th').filter(has_text=re.compile("PASR"))
    assert [header.is_visible() for header in pasr.all()] == [False] * 4
    page.get_by_label("PASR by attack").check()
    assert [header.is_visible() for header in pasr.all()] == [True] * 4
    page.get_by_role("checkbox", name="harmless requests").uncheck()
    assert not page.locator("thead").get_by_text("Benign answers").first.is_visible()


def test_the_address_shares_what_was_chosen(visit: Visit) -> None:
    page = board(visit)
    page.get_by_label("Search").fill("base")
    page.get_by_label("PASR by attack").check()
    worst = page.locator('[data-track="asabench-v1/llm"]').get_by_role("button", name="Sort by Worst case")
    worst.click()
    worst.click()
    address = page.url
    assert "#" in address
    page.goto("about:blank")
    page.goto(address)
    page.locator(".tools summary").click()
    assert page.get_by_label("Search").input_value() == "base"
    assert page.get_by_label("PASR by attack").is_checked()
    assert names(page) == ["Base model", "Middle", "Strong"], "all three name it; sorted down"
    # A link to a meaning leaves the choice as it is
    page.locator('[data-track="asabench-v1/llm"] thead a[href="#about-worst"]').click()
    assert names(page) == ["Base model", "Middle", "Strong"]
    assert page.locator("#about-worst").is_visible()


def test_an_entry_is_followed_and_compared_with_its_base(visit: Visit, site: Path) -> None:
    page = visit.go("index.html")
    page.locator("table").get_by_role("link", name="Strong", exact=True).click()
    assert page.locator("h1").inner_text() == "Strong"
    row = read_row(site.parent / "runs" / "strong" / "row.json")
    shown = page.locator("dl.key").inner_text()
    assert format_estimate(row.init) in shown
    assert format_estimate(row.masr) in shown
    assert page.locator("svg.lasr").count() == len(row.results)
    page.get_by_role("link", name="Compare with its base").click()
    page.locator(".comparison thead a").nth(1).wait_for()  # a script draws the table
    assert page.locator(".comparison thead a").all_inner_texts() == ["Strong", "Base model"]


def test_chosen_entries_are_compared(visit: Visit, site: Path) -> None:
    page = visit.go("index.html")
    compare = page.locator("#compare")
    page.get_by_label("Compare Strong").check()
    assert not compare.is_visible(), "one entry compares with nothing"
    page.get_by_label("Compare Middle").check()
    page.get_by_label(f"Compare {HOSTILE}").check()
    page.get_by_label("Compare Base model").check()
    tab(page, "asabench-v1/uncertified").check()
    assert page.get_by_label("Compare tiny-llama").is_disabled(), "four are the most"
    compare.click()
    page.wait_for_selector(".comparison")
    assert page.locator(".comparison thead a").all_inner_texts() == ["Strong", "Middle", HOSTILE, "Base model"]
    cells = page.locator(".comparison tbody tr")
    by_name = {each.locator("th").inner_text(): each.locator("td").all_inner_texts() for each in cells.all()}
    rows: list[Row] = [read_row(site.parent / "runs" / slug / "row.json") for slug in ("strong", "middle", "hostile")]
    for number, row in enumerate(rows):
        for result in row.results:
            assert by_name[f"MASR {result.attack}"][number] == format_estimate(result.masr)
    assert page.locator("svg").count() == 8, "four attacks, by dose and by layer"
    assert page.locator("svg").first.locator("path.line").count() == 4
    page.locator("#choice select").nth(3).select_option("")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".comparison thead a")).to_have_count(3)


def test_compare_says_what_it_cannot_show(visit: Visit) -> None:
    page = visit.go("compare.html?entries=strong,nobody,../strong,bare-run")
    page.wait_for_selector(".comparison")
    assert "There is no entry nobody, ../strong." in page.locator("#message").inner_text()
    assert "tracks" in page.locator(".caution:visible").inner_text()
    page = visit.go("compare.html")
    assert "Choose two to four entries" in page.locator("#message").inner_text()


def test_without_javascript_all_is_there(browser: Any, site: Path) -> None:
    visit = Visit(browser, site, java_script_enabled=False)
    page = visit.go("index.html")
    assert page.locator(".board tbody tr").count() == 5
    assert not page.locator("#filters").is_visible()
    middle = page.locator("table").get_by_role("link", name="Middle", exact=True)
    assert middle.is_visible()
    assert page.locator(".frontier").first.is_visible()
    assert not page.locator('[data-track="reported"]').is_visible()
    tab(page, "reported").check()
    assert page.locator('[data-track="reported"]').is_visible(), "tabs need no script"
    assert not middle.is_visible()
    tab(page, "asabench-v1/llm").check()
    page.locator(".tools summary").click()
    page.get_by_label("PASR by attack").check()
    assert page.locator("thead").get_by_text("PASR").first.is_visible(), "columns need no script"
    middle.click()
    assert page.locator("svg.dose").count() == 5, "the key one, and one an attack"
    visit.go("compare.html")
    assert page.get_by_text("Choosing entries here needs JavaScript").is_visible()
    visit.check_quiet()
    visit.context.close()


def test_a_hostile_name_stays_text(visit: Visit) -> None:
    for name in ("index.html", "entries/hostile-run.html", "compare.html?entries=hostile-run,base"):
        page = visit.go(name)
        page.wait_for_load_state("networkidle")
        assert page.locator("img").count() == 0
        assert "compare" in name or page.locator("main, header").get_by_text(HOSTILE).locator("visible=true").count()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("name", ["index.html", "entries/strong.html", "compare.html?entries=strong,base"])
def test_axe_finds_nothing_and_only_tables_scroll(browser: Any, site: Path, name: str, width: int, scheme: str) -> None:
    visit = Visit(browser, site, viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page = visit.go(name)
    page.wait_for_load_state("networkidle")
    violations = [
        (each["id"], [node["html"][:120] for node in each["nodes"]][:3])
        for each in Axe().run(page).response["violations"]
    ]
    assert not violations
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    visit.context.close()


@pytest.mark.parametrize("width", [1440, 390])
def test_no_flag_is_cut(browser: Any, tmp_path: Path, width: int) -> None:
    """At the width of a desk all columns that are shown fit; on a phone each line is a card."""
    flags = ("gradient-masking?", "a-flag-that-is-much-longer-than-any-that-the-board-has")
    names = ("SmolLM2-135M, refusal-trained, LAPT", "SmolLM2-135M-Instruct")
    for number, name in enumerate(names):
        row = complete_row(run_id=f"run{number}", flags=flags[: number + 1])
        submission = make_submission(f"entry-{number}", name=name, defence="refusal training")
        write_entry(tmp_path / "runs" / str(number), row, submission)
    build(tmp_path / "runs", tmp_path / "site")
    visit = Visit(browser, tmp_path / "site", viewport={"width": width, "height": 900})
    page = visit.go("index.html")
    marks = page.locator(".board mark")
    assert marks.count() == 2 + 3, "each is incomplete too"
    for mark in marks.all():
        mark.scroll_into_view_if_needed()
        seen = mark.evaluate(
            """(mark) => {
                const own = mark.getBoundingClientRect();
                const table = mark.closest(".scroll").getBoundingClientRect();
                return own.right <= table.right + 0.5 && mark.scrollWidth <= mark.clientWidth + 1;
            }"""
        )
        assert seen, mark.inner_text()
    table = page.locator(".scroll").first
    assert table.evaluate("(table) => table.scrollLeft") == 0, "on a phone a line is a card"
    visit.check_quiet()
    visit.context.close()


def test_the_first_view_of_500_entries_is_small_and_works(browser: Any, tmp_path: Path) -> None:
    write_entries(tmp_path / "runs", 500)
    build(tmp_path / "runs", tmp_path / "site")
    visit = Visit(browser, tmp_path / "site")
    page = visit.go("index.html")
    tracks = page.locator(".tabs input:checked").get_attribute("value")
    open_rows = page.locator(f'[data-track="{tracks}"] tbody tr').count()
    assert page.locator("#shown").text_content() == f"{open_rows} entries"
    assert page.locator(".board tbody tr").count() == 500
    loaded = {re.sub(r".*/", "", url.partition("?")[0]) for url in visit.requests if url.startswith("file:")}
    assert loaded == {"index.html", "style.css", "board.js"}
    assert sum((tmp_path / "site" / name).stat().st_size for name in loaded) < 350_000
    rows = json.loads((tmp_path / "site" / "rows.json").read_text())
    assert len(rows) == 500
    visit.check_quiet()
    visit.context.close()


@pytest.mark.parametrize(
    ("width", "height"), [(360, 740), (390, 844), (768, 1024), (1024, 768), (1280, 800), (1600, 900)]
)
def test_the_first_line_is_in_sight_and_nothing_is_cut(browser: Any, site: Path, width: int, height: int) -> None:
    """First a picture, then the table, whose first line is seen without scrolling; no page scrolls sideways."""
    visit = Visit(browser, site, viewport={"width": width, "height": height})
    page = visit.go("index.html")
    picture = page.locator(".frontier:visible").bounding_box()
    first = page.locator(".board:visible tbody tr").first
    line = first.bounding_box()
    assert picture is not None
    assert line is not None
    assert picture["y"] + picture["height"] <= line["y"]
    assert line["y"] + 24 < height
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for cell in first.locator("th, td").all():
        if cell.is_visible():
            assert cell.evaluate("(cell) => cell.scrollWidth <= cell.clientWidth + 1"), cell.inner_text()
    visit.check_quiet()
    visit.context.close()
