"""Pictures of the probes, from tables written here."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from asabench.core.errors import UserError
from leaderboard.figures.probes import kl_figure, landscape_figure, nll_figure, probe_figures
from tests.probe_manifest import probe_manifest


def nll_table(layers: int = 6, doses: tuple[float, ...] = (0.1, 1.0), scale: float = 100.0) -> pd.DataFrame:
    return pd.DataFrame(
        {"prompt_id": f"p{p}", "layer": layer, "attack": "random", "dose": dose, "rise": scale**dose * (1 + p + layer)}
        for dose in doses
        for layer in range(layers)
        for p in range(5)
    )


def kl_table(layers: int = 4, longest: int = 12) -> pd.DataFrame:
    return pd.DataFrame(
        {"prompt_id": f"p{p}", "layer": layer, "attack": "random", "dose": 1.0, "position": t, "kl": 0.1 * t + layer}
        for layer in range(layers)
        for p in range(4)
        for t in range(longest if p == 0 else longest - 4)
    )


def plane_table(layers: tuple[int, ...] = (0, 3, 9, 12, 29), side: int = 5) -> pd.DataFrame:
    grid = np.linspace(-1, 1, side)
    return pd.DataFrame(
        {"prompt_id": p, "layer": layer, "a": a, "b": b, "nll": 5 + layer * a * a + b * b}
        for p in ("x", "y")
        for layer in layers
        for a in grid
        for b in grid
    )


DRAWINGS: dict[str, tuple[Callable[..., Path], pd.DataFrame]] = {
    "nll": (nll_figure, nll_table()),
    "nll of one layer": (nll_figure, nll_table(layers=1)),
    "nll without a rise": (nll_figure, nll_table(scale=0.0)),
    "nll with a hole": (nll_figure, nll_table().query("layer != 2")),
    "kl lines": (kl_figure, kl_table()),
    "kl map": (kl_figure, kl_table(layers=12)),
    "kl of one token": (kl_figure, kl_table(longest=5).query("position == 0")),
    "landscape": (landscape_figure, plane_table()),
    "landscape of one point": (landscape_figure, plane_table((2,), side=1)),
    "flat landscape": (landscape_figure, plane_table((0,)).assign(nll=4.0)),
}


def svg_texts(path: Path) -> str:
    """The words of a picture: matplotlib draws letters as outlines and leaves each text as a comment."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8"), flags=re.DOTALL))


@pytest.mark.parametrize("name", DRAWINGS)
@pytest.mark.filterwarnings("error")
def test_every_picture_is_drawn_twice_the_same(tmp_path: Path, name: str) -> None:
    draw, table = DRAWINGS[name]
    png = draw(table, tmp_path / "new" / "a.png", title="a $ model")
    pixels = imread(png)
    ink = np.mean(pixels[:, :, :3].min(axis=2) < 0.7)
    assert 0.005 < ink < 0.9
    svgs = [draw(table, tmp_path / f"{number}.svg", title="a $ model") for number in (1, 2)]
    assert svgs[0].read_bytes() == svgs[1].read_bytes()
    assert ET.parse(svgs[0]).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert "a $ model" in svg_texts(svgs[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.svg", "2.svg", "new"]


def test_the_nll_picture_says_what_it_shows(tmp_path: Path) -> None:
    texts = svg_texts(nll_figure(nll_table(), tmp_path / "a.svg"))
    for part in ("attack random, dose 0.1", "attack random, dose 1", "median and quartiles over 5 prompts", "100"):
        assert part in texts
    assert "mathdefault" not in texts


def test_the_kl_picture_leaves_out_positions_that_few_prompts_reach(tmp_path: Path) -> None:
    pictures = [kl_figure(kl_table(), tmp_path / "all.svg"), kl_figure(kl_table(longest=8), tmp_path / "half.svg")]
    assert "block 3" in svg_texts(pictures[0])
    drawn = kl_table().query("position < 8")
    assert pictures[0].read_bytes() == kl_figure(drawn, tmp_path / "drawn.svg").read_bytes()
    assert pictures[0].read_bytes() != pictures[1].read_bytes()


def test_the_landscape_has_a_panel_a_layer_and_names_its_axes(tmp_path: Path) -> None:
    texts = svg_texts(landscape_figure(plane_table(), tmp_path / "a.svg", a_name="gradient", b_name="random"))
    for part in ("block 0", "block 29", "a (gradient)", "b (random)", "mean over 2 prompts"):
        assert part in texts


def test_a_panel_is_coloured_on_the_scale_of_all(tmp_path: Path) -> None:
    """One panel alone, and beside a far steeper one: its colours must differ."""
    alone = imread(landscape_figure(plane_table((1,)), tmp_path / "alone.png"))
    both = imread(landscape_figure(plane_table((1, 500)), tmp_path / "both.png"))
    yellow = [np.mean((p[:, :, 0] > 0.9) & (p[:, :, 1] > 0.8) & (p[:, :, 2] < 0.3)) for p in (alone, both)]
    left = both[:, : both.shape[1] // 2 - 60]
    assert yellow[0] > 0.01
    assert np.mean((left[:, :, 0] > 0.9) & (left[:, :, 1] > 0.8) & (left[:, :, 2] < 0.3)) < 0.001


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_text(json.dumps(probe_manifest(attack="gradient")))
    for name, table in (("nll", nll_table()), ("kl", kl_table()), ("landscape", plane_table())):
        table.to_parquet(tmp_path / f"{name}.parquet")
    return tmp_path


def test_a_folder_gives_a_picture_a_table(folder: Path) -> None:
    assert [path.name for path in probe_figures(folder)] == ["nll.png", "kl.png", "landscape.png"]
    pictures = probe_figures(folder, folder / "pictures", ".svg")
    assert all(path.parent == folder / "pictures" for path in pictures)
    for path in pictures:
        assert "asabench-v1, attack gradient" in svg_texts(path)
    assert "b (random)" in svg_texts(pictures[2])
    (folder / "kl.parquet").unlink()
    assert [path.name for path in probe_figures(folder)] == ["nll.png", "landscape.png"]


@pytest.mark.parametrize("manifest", [None, "{", "[]", '{"kind": "probe"}', '{"run_id": "x", "settings": {}}'])
def test_a_folder_without_a_probe_is_said(folder: Path, manifest: str | None) -> None:
    (folder / "manifest.json").unlink()
    if manifest is not None:
        (folder / "manifest.json").write_text(manifest)
    with pytest.raises(UserError, match="the manifest of a finished probe"):
        probe_figures(folder)


def test_another_ending_or_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"allowed are \.png and \.svg"):
        nll_figure(nll_table(), tmp_path / "a.pdf")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        nll_figure(nll_table(), tmp_path / "file" / "a.png")
