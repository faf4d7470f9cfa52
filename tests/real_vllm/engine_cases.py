"""Run by the Python of the vLLM environment: answers cells with both engines, prints as JSON how many are the same.

python engine_cases.py FILE

FILE: JSON, a list of cases: `name`, `model` (a folder), `prompts` (texts), `protocol` (a preset and changes),
`attacks`, `layers` (`all` or numbers), `parallel`, `further` (keywords of vllm.LLM).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from asabench.core.prompts import Prompt
from asabench.core.protocol import preset
from harness.attacks import make_attacks
from harness.engine.engine import HookedEngine
from harness.engine.sweep import grid
from harness.engine.vllm_engine import VllmEngine
from harness.model.subject import load


def answered(case: dict[str, Any]) -> dict[str, Any]:
    changes = {key: tuple(value) if isinstance(value, list) else value for key, value in case["protocol"][1].items()}
    protocol = preset(case["protocol"][0]).model_copy(update=changes)
    attacks = make_attacks(case["attacks"], protocol)
    prompts = [
        Prompt(id=f"p{number}", goal=text, target="Sure, here is") for number, text in enumerate(case["prompts"])
    ]
    subject = load(case["model"])
    layers = range(subject.n_layers) if case["layers"] == "all" else case["layers"]
    cells = grid(prompts, layers, list(attacks.values()), protocol)
    expected = {
        response.cell.id: response
        for responses in HookedEngine(subject).sweep(cells, protocol, attacks)
        for response in responses
    }
    engine = VllmEngine(subject, tensor_parallel=case.get("parallel", 1), **case.get("further", {}))
    try:
        engine.open(cells, cells, protocol, attacks)
        found = engine.self_test(cells, protocol, attacks)
        got = [response for responses in engine.sweep(cells, protocol, attacks) for response in responses]
    finally:
        engine.close()
    clean = {cell.prompt.id: expected[cell.id].token_ids for cell in cells if cell.is_clean}
    return {
        "cells": len(cells),
        "same": sum(response == expected[response.cell.id] for response in got),
        "steered away": sum(response.token_ids != clean[response.cell.prompt.id] for response in got),
        "self_test": dict(found),
        "calls_again": engine.calls_again,
        "reasons": sorted({response.finish_reason for response in got}),
    }


# vLLM's engine starts by importing this file again
if __name__ == "__main__":
    for case in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        try:
            result = answered(case)
        except Exception as error:  # one case that fails leaves the others their results
            result = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"case": case["name"], **result}), flush=True)
