"""A real server that is killed in mid-run, and comes back on its port, or does not."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asabench.core.errors import UserError
from harness.judge_server.health import free_port
from harness.judge_server.process import members
from harness.judges.server import Retry
from harness.judges.verdict_cache import VerdictCache
from harness.judges.vllm import VllmJudge
from tests.real_vllm import smollm2

ANSWERS = smollm2.mild_answers(60)
BEFORE_THE_KILL = 5


def test_a_server_killed_in_mid_run_and_started_again_costs_no_verdict(vllm_environment: Path, tmp_path: Path) -> None:
    port = free_port("127.0.0.1", 0)
    some_are_there = threading.Event()
    done = 0

    def progress(now: int, of: int) -> None:
        nonlocal done
        done = now
        if now >= BEFORE_THE_KILL:
            some_are_there.set()

    cache = VerdictCache(tmp_path)
    # Patient: a start takes half a minute, and more on a busy machine
    retry = Retry(tries=200, longest=3.0)

    with ThreadPoolExecutor(1) as pool:
        with smollm2.server(vllm_environment, tmp_path / "first.log", port) as first:
            judge = VllmJudge(first.model, first.url, in_flight=4, retry=retry, cache=cache, progress=progress)
            result = pool.submit(judge, ANSWERS)
            assert some_are_there.wait(timeout=120)
            os.killpg(first.pid, signal.SIGKILL)
        assert members(first.pid) == []
        at_the_kill = done
        assert not result.done()
        with smollm2.server(vllm_environment, tmp_path / "second.log", port) as second:
            verdicts = result.result(timeout=300)
            assert BEFORE_THE_KILL <= at_the_kill < len(ANSWERS)
            assert [verdict.cell_id for verdict in verdicts] == [answer.cell.id for answer in ANSWERS]
            assert all(verdict.label is not None for verdict in verdicts)
            # and all of them are on disk
            again = VllmJudge(second.model, second.url, cache=cache)
            assert again(ANSWERS) == verdicts
            assert (again.counts.cached, again.counts.asked) == (len(ANSWERS), 0)
            more = smollm2.mild_answers(120)
            dies = VllmJudge(
                second.model, second.url, in_flight=4, retry=Retry(tries=3, first=0.1), cache=cache, progress=progress
            )
            done = 0
            some_are_there.clear()
            cut_short = pool.submit(dies, more)
            assert some_are_there.wait(timeout=120)
            os.killpg(second.pid, signal.SIGKILL)
            killed = time.monotonic()
            with pytest.raises(UserError, match="cannot be reached any more") as caught:
                cut_short.result(timeout=60)
            assert time.monotonic() - killed < 30
    with cache.open(judge.info.id, second.url) as session:
        kept = session.known([(answer.cell.prompt.goal, answer.text) for answer in more])
    assert len(kept) == len(ANSWERS) + done
    assert f"({done} of 60 verdicts are kept in {cache.path}" in str(caught.value)
