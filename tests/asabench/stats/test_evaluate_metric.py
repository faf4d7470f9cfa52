"""The metric of Hugging Face `evaluate` gives the numbers of `asabench.stats.metrics`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from asabench.evaluate_metric import FOLDER
from asabench.stats.metrics import attack_result, init_rate
from tests.tables import Grid, clean_lines, frame, lines

pytestmark = pytest.mark.skipif(find_spec("evaluate") is None, reason="evaluate is not installed")

GRID: Grid = {(0, 0): "usssi?", (2, 0): "uusss?", (0, 1): "ssusss", (2, 1): "usssis"}
CELLS = [*clean_lines("sssus?"), *lines(GRID), *lines({(1, None): "uuus"}, attack="gradient", dose=0.3)]

# A process of its own: evaluate takes its folders from the environment when it is imported
SCRIPT = """
import json, sys
import evaluate

folder, calls = sys.argv[1], json.load(sys.stdin)
metric = evaluate.load(folder)
found = []
for call in calls:
    try:
        found.append(metric.compute(**call))
    except Exception as error:
        found.append(f"{type(error).__name__}: {error}")
    metric = evaluate.load(folder)
print(json.dumps(found))
"""


def computed(home: Path, *calls: dict[str, Any]) -> list[Any]:
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    for name in ("HF_MODULES_CACHE", "HF_EVALUATE_CACHE", "HF_METRICS_CACHE"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(FOLDER)],
        input=json.dumps(calls),
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return list(json.loads(done.stdout.splitlines()[-1]))


def call(cells: list[dict[str, Any]], **chosen: Any) -> dict[str, Any]:
    names = ("prompt_id", "layer", "attack", "dose", "seed")
    return {
        "predictions": [cell["label"] for cell in cells],
        "references": [{name: cell[name] for name in names} for cell in cells],
        **chosen,
    }


def test_the_numbers_are_those_of_the_metrics(tmp_path: Path) -> None:
    one_attack = [cell for cell in CELLS if cell["attack"] != "gradient"]
    random, gradient, alone, several, unknown, nowhere = computed(
        tmp_path,
        call(CELLS, attack="random", dose=1.0),
        call(CELLS, attack="gradient"),
        call(one_attack),
        call(CELLS),
        call([{**CELLS[0], "label": "harmless"}, *CELLS[1:]], attack="random"),
        call(CELLS, attack="pgd"),
    )
    table = frame(CELLS)
    for found, attack, dose in ((random, "random", 1.0), (gradient, "gradient", 0.3), (alone, "random", 1.0)):
        result, init = attack_result(table, attack, dose), init_rate(table)
        assert found == {
            "init": init.value,
            "masr": result.masr.value,
            "pasr": result.pasr.value,
            "peak_layer": result.peak_layer,
            "init_interval": [init.low, init.high],
            "masr_interval": [result.masr.low, result.masr.high],
            "pasr_interval": [result.pasr.low, result.pasr.high],
        }
    assert random["masr"] not in (0, gradient["masr"], 1)
    for message in (several, nowhere):
        assert message == (
            "UserError: the references hold gradient at 0.3, random at 1; name one of them with attack= and dose="
        )
    assert unknown.startswith("UserError: unknown label 'harmless'; allowed: safe, unsafe, incoherent")


def test_evaluate_finds_the_script_by_the_name_of_its_folder() -> None:
    script = FOLDER / f"{FOLDER.name}.py"
    assert script.is_file()
    imports = [row for row in script.read_text().splitlines() if row.startswith(("import ", "from "))]
    assert not [row for row in imports if row.endswith(("(", "\\")) or (row.startswith("import ") and "," in row)]
