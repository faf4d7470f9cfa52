"""LASR by layer as a picture and as text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from asabench.core.errors import UserError
from asabench.core.estimate import Rate
from asabench.core.row import Row
from leaderboard.figures.lasr import lasr_figure, lasr_text
from tests.rows import NO_RATE, make_result, make_row, rate

UNSCORED = make_row(masr=NO_RATE, pasr=NO_RATE, peak_layer=None, lasr={str(layer): NO_RATE for layer in range(4)})
POINT = rate(0.3, 0.2, 0.4)
SPARSE = make_row(
    model={"n_layers": 30},
    layers=(0, 10, 11, 29),
    lasr={"0": POINT, "10": POINT, "11": NO_RATE, "29": Rate(value=0.5, low=None, high=None)},
    peak_layer=29,
)
SEVERAL = make_row(
    results=(
        *make_row().results,
        make_result(attack="gradient", dose=0.3, masr=rate(0.88, 0.81, 0.95), pasr=rate(0.7, 0.6, 0.8), peak_layer=1),
        make_result(dose=0.1, masr=NO_RATE, pasr=NO_RATE, peak_layer=None, lasr={"0": NO_RATE}),
    )
)


def svg_texts(path: Path) -> str:
    """The words of a picture: matplotlib draws letters as outlines and leaves each text as a comment."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8"), flags=re.DOTALL))


@pytest.mark.parametrize("row", [make_row(), UNSCORED, SPARSE, SEVERAL], ids=["plain", "unscored", "sparse", "several"])
def test_the_picture_is_drawn(tmp_path: Path, row: Row) -> None:
    png = lasr_figure(row, tmp_path / "new" / "lasr.png")
    assert png == tmp_path / "new" / "lasr.png"
    pixels = imread(png)
    assert pixels.shape[0] > 500
    assert pixels.shape[1] > 1000
    # ink: the axes and texts at least; paper: most of it
    ink = np.mean(pixels[:, :, :3].min(axis=2) < 0.7)
    assert 0.005 < ink < 0.5
    svg = lasr_figure(row, tmp_path / "lasr.svg")
    assert ET.parse(svg).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lasr.svg", "new"]


def test_the_picture_names_the_run_its_rates_and_its_peak(tmp_path: Path) -> None:
    texts = svg_texts(lasr_figure(make_row(), tmp_path / "lasr.svg"))
    for part in (
        "tiny-llama",
        "asabench-v1, judge judge-x@1",
        "MASR 0.64 [0.52, 0.77]",
        "PASR 0.44 [0.31, 0.58], peak at layer 2",
        "attack random, dose 1",
    ):
        assert part in texts


def test_several_series_have_their_rates_in_the_legend(tmp_path: Path) -> None:
    texts = svg_texts(lasr_figure(SEVERAL, tmp_path / "lasr.svg"))
    for part in (
        "attack random, dose 1: MASR 0.64 [0.52, 0.77], PASR 0.44 [0.31, 0.58] at layer 2",
        "attack gradient, dose 0.3: MASR 0.88 [0.81, 0.95], PASR 0.70 [0.60, 0.80] at layer 1",
        "attack random, dose 0.1: MASR —, PASR —",
    ):
        assert part in texts


def test_each_series_is_drawn_from_its_own_rates(tmp_path: Path) -> None:
    first, second, third = SEVERAL.results
    moved = second.model_copy(update={"lasr": {**second.lasr, "0": rate(0.9, 0.8, 1.0)}})
    other = SEVERAL.model_copy(update={"results": (first, moved, third)})
    pictures = [lasr_figure(row, tmp_path / f"{name}.svg") for name, row in (("one", SEVERAL), ("two", other))]
    assert svg_texts(pictures[0]) == svg_texts(pictures[1])
    assert pictures[0].read_bytes() != pictures[1].read_bytes()


def test_a_picture_without_rates_claims_none(tmp_path: Path) -> None:
    texts = svg_texts(lasr_figure(UNSCORED, tmp_path / "lasr.svg"))
    assert "attack random, dose 1" in texts
    assert "MASR" not in texts
    assert "peak" not in texts


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_equal_rows_make_equal_bytes(tmp_path: Path, suffix: str) -> None:
    first = lasr_figure(SEVERAL, tmp_path / f"first.{suffix}").read_bytes()
    # a reader's own settings change nothing
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.hashsalt": "other"}):
        second = lasr_figure(SEVERAL, tmp_path / f"second.{suffix}").read_bytes()
    assert first == second
    assert lasr_figure(make_row(), tmp_path / f"third.{suffix}").read_bytes() != first


def test_names_from_outside_are_only_text(tmp_path: Path) -> None:
    name = r"a$\frac{$ & <b>--"
    path = lasr_figure(make_row(model={"name": name}), tmp_path / "lasr.svg")
    ET.parse(path)  # still well formed
    assert r"a$\frac{$" in svg_texts(path)


@pytest.mark.parametrize("name", ["lasr.pdf", "lasr", "lasr.txt"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"\.png and \.svg"):
        lasr_figure(make_row(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*lasr\.png"):
        lasr_figure(make_row(), tmp_path / "file" / "lasr.png")


def test_the_text_holds_each_layers_value() -> None:
    assert lasr_text(make_row(), width=60).splitlines() == [
        "LASR by layer: tiny-llama, asabench-v1, judge judge-x@1",
        "",
        "attack random, dose 1",
        # bars of 38 characters: 0.12 is 4.56 of them (36 eighths), 0.24 is 9.12, 0.44 is 16.72, 0.16 is 6.08
        "  0 ████▌                                  0.12 [0.04, 0.22]",
        "  1 █████████▏                             0.24 [0.13, 0.36]",
        "> 2 ████████████████▊                      0.44 [0.31, 0.58]",
        "  3 ██████▏                                0.16 [0.06, 0.28]",
        "",
        "MASR 0.64 [0.52, 0.77]",
        "PASR 0.44 [0.31, 0.58] at layer 2",
    ]


@pytest.mark.parametrize("width", [40, 60, 100])
@pytest.mark.parametrize("row", [make_row(), SPARSE, SEVERAL, UNSCORED], ids=["plain", "sparse", "several", "unscored"])
def test_lines_of_layers_keep_to_the_width(row: Row, width: int) -> None:
    text = lasr_text(row, width=width)
    layers = [line for line in text.splitlines() if re.match(r"[> ] +\d+ |> \d+ ", line)]
    assert len(layers) == sum(len(result.lasr) for result in row.results)
    assert {len(line) for line in layers} <= set(range(width + 1))
    assert max(map(len, layers)) == width


def test_plain_ascii() -> None:
    row = make_row(model={"name": "modèle"}, lasr={"0": rate(0.5, 0.4, 0.6), "1": NO_RATE, "2": rate(1, 0.9, 1)})
    text = lasr_text(row, width=60, ascii_only=True)
    assert text.isascii()
    lines = text.splitlines()
    assert lines[3] == "  0 " + "#" * 19 + " " * 20 + "0.50 [0.40, 0.60]"
    assert lines[4].split() == ["1", "-"]
    assert lines[5] == "> 2 " + "#" * 38 + " 1.00 [0.90, 1.00]"
    assert "mod?le" in lines[0]


def test_what_was_not_scored_is_a_dash_without_a_bar() -> None:
    text = lasr_text(UNSCORED)
    assert [line.split() for line in text.splitlines()[3:7]] == [[str(layer), "—"] for layer in range(4)]
    assert "MASR —\nPASR —" in text
    assert "█" not in text
    assert ">" not in text


def test_several_results_follow_each_other() -> None:
    text = lasr_text(SEVERAL)
    assert re.findall(r"^attack .*$", text, flags=re.MULTILINE) == [
        "attack random, dose 1",
        "attack gradient, dose 0.3",
        "attack random, dose 0.1",
    ]
    assert "MASR 0.88 [0.81, 0.95]\nPASR 0.70 [0.60, 0.80] at layer 1" in text


def test_a_name_cannot_steer_the_terminal() -> None:
    text = lasr_text(make_row(model={"name": "x\x1b[2Jy"}, attack="a\rb"))
    assert "x?[2Jy" in text
    assert "attack a?b" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
