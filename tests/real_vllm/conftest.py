"""Tests with a real vLLM: `make test-vllm` makes its environment and runs them; elsewhere they are skipped.

The folder is not called vllm: with the tests' folder on the import path, `import vllm` would find it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.judge_server.environment import find_environment

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("ASABENCH_VLLM_TESTS") == "1":
        return
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs an environment with vLLM: make test-vllm"))


@pytest.fixture(scope="session")
def vllm_environment() -> Path:
    return find_environment().folder.resolve()
