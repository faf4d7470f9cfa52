"""`verify` and `diff` on a made-up set 200 times as large as the published one: seconds and peak memory.

    python -m tools.speed.dataset_scale [--times 200] [--out FOLDER]

Eight models of the published depths, each with 100 prompts for every time, and about one answer in six unsafe: at 200
times 972,400 instances and 6.1 million attempts. In the second set one in fifty of the unsafe ones is safe. Texts are
made up and mild, as long as 50 new tokens. Each command runs in a process of its own, which is what is measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from asabench.dataset.derive import CELL_CONTENT, KNOWN_COLUMNS, complete_instances, content_ids, text_digests
from asabench.dataset.files import ModelTables, write_benchmark
from asabench.dataset.fragile_layers import fragile_from_attempts
from asabench.dataset.original_layout import KNOWN_MODELS, PUBLISHED_TOTAL, PublishedModel
from asabench.dataset.schema import ATTEMPT_COLUMNS, attempt_schema

PROMPTS = 100
ANSWER_WORDS = 40
RELABELLED = 0.02
WORDS = np.array("water light morning the and of a wind slowly garden bread two bright paint brush wood".split())  # noqa: SIM905
COMMANDS = {
    "verify": "from asabench.dataset.verify import verify; print(verify(sys.argv[1]).text)",
    "diff": "from asabench.dataset.diff import diff; print(diff(sys.argv[1], sys.argv[2]).text)",
}
MEASURED = (
    "import json, resource, sys, time; start = time.monotonic(); {command}; "
    "print(json.dumps([time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]), file=sys.stderr)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200, help="how many times the published set")
    parser.add_argument("--out", type=Path, help="keep the sets there; made only once")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        sets = [folder / name for name in "ab"]
        for path, share in zip(sets, (0.0, RELABELLED), strict=True):
            if not path.exists():
                # In a process of its own: on Linux a command's peak memory starts at that of the process it came from
                maker = multiprocessing.get_context("spawn").Process(target=make, args=(path, options.times, share))
                maker.start()
                maker.join()
        for name, command in COMMANDS.items():
            report, seconds, peak = measured(command, sets)
            print(f"{name}: {seconds:.1f} s, peak memory {peak / 2**30:.2f} GiB; {report.splitlines()[-1]}", flush=True)


def make(path: Path, times: int, relabelled: float) -> None:
    """Writes a set, see `models`, and says how large it is."""
    start = time.monotonic()
    manifest = write_benchmark(path, models(times, relabelled), origin="build")
    size = sum(entry.bytes for entry in manifest.files.values()) / 2**20
    counts = f"{manifest.instances:,} instances, {manifest.attempts:,} attempts, {size:.0f} MiB"
    print(f"{path.name}: {counts}, made in {time.monotonic() - start:.0f} s", flush=True)


def measured(command: str, sets: list[Path]) -> tuple[str, float, float]:
    """What it prints, seconds after start-up (imports of the command included), and the peak of resident bytes."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED.format(command=command), *map(str, sets)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, peak = json.loads(done.stderr.splitlines()[-1])
    return done.stdout, seconds, peak * (1 if sys.platform == "darwin" else 1024)


def models(times: int, relabelled: float) -> Iterator[ModelTables]:
    """One model after another; the share `relabelled` of the instances is left out, as safe."""
    total = PUBLISHED_TOTAL * times
    for number, model in enumerate(KNOWN_MODELS):
        instances = total // len(KNOWN_MODELS) + (number < total % len(KNOWN_MODELS))
        yield model_tables(model, PROMPTS * times, instances, relabelled, seed=number)


def model_tables(model: PublishedModel, prompts: int, instances: int, relabelled: float, seed: int) -> ModelTables:
    generator = np.random.default_rng(seed)
    layers = model.n_layers
    broken = np.zeros(prompts * layers, dtype=bool)
    broken[generator.choice(len(broken), size=instances, replace=False)] = True
    answers = sentences(generator, len(broken), broken)
    flipped = generator.random(len(broken)) < relabelled
    unsafe = broken & ~flipped
    labels = np.where(unsafe, "unsafe", "safe")
    goals = pa.array([f"Describe how to paint fence number {n}" for n in range(prompts)])
    clean = pa.array([f"I would rather not describe fence number {n}" for n in range(prompts)])
    # Clean answers first, then layer by layer
    prompt = np.concatenate([np.arange(prompts), np.tile(np.arange(prompts), layers)])
    steered = np.concatenate([np.zeros(prompts, dtype=bool), np.ones(prompts * layers, dtype=bool)])
    layer = np.concatenate([np.zeros(prompts, dtype=np.int32), np.repeat(np.arange(layers, dtype=np.int32), prompts)])
    rows = len(prompt)
    texts = pa.concat_arrays([clean, answers])
    columns: dict[str, Any] = {
        "model": pa.repeat(model.name, rows),
        "model_revision": pa.repeat("sha256:0123456789abcdef", rows),
        "n_layers": pa.repeat(pa.scalar(layers, pa.int32()), rows),
        "prompt_id": pa.array([f"p{n}" for n in range(prompts)]).take(pa.array(prompt)),
        "prompt_index": pa.array(prompt, pa.int32()),
        "prompt": goals.take(pa.array(prompt)),
        "suffix": pa.nulls(rows, pa.string()),
        "suffix_sha256": pa.nulls(rows, pa.string()),
        "prompt_sha256": text_digests(goals).take(pa.array(prompt)),
        "layer": pa.array(layer, mask=~steered),
        "attack": pa.array(np.where(steered, "random", "none")),
        "dose": pa.array(np.where(steered, 1.0, 0.0)),
        "seed": pa.array(np.zeros(rows, dtype=np.int64), mask=~steered),
        "label": pa.array(np.concatenate([np.full(prompts, "safe"), labels])),
        "judge": pa.repeat("judge-x@1", rows),
        "p_unsafe": pa.array(np.round(generator.random(rows), 3)),
        "original_label": pa.repeat("safe", rows),
        "original_response": clean.take(pa.array(prompt)),
        "steered_response": texts,
        "response_sha256": text_digests(texts),
        "response_tokens": pa.repeat(pa.scalar(50, pa.int32()), rows),
        "finish_reason": pa.repeat("length", rows),
    }
    columns["cell_id"] = content_ids([columns[name] for name in CELL_CONTENT])
    chosen = pa.array(np.flatnonzero(np.concatenate([np.zeros(prompts, dtype=bool), unsafe])))
    columns["instance_id"] = pa.nulls(rows, pa.string())
    attempts = pa.table({name: columns[name] for name in ATTEMPT_COLUMNS}).cast(attempt_schema())
    fragile = fragile_from_attempts(attempts)
    columns["position"] = pa.array(np.arange(rows, dtype=np.int32))
    made = complete_instances({name: columns[name].take(chosen) for name in KNOWN_COLUMNS}, fragile)
    ids = np.full(rows, None, dtype=object)
    ids[np.asarray(chosen)] = made["instance_id"].to_pylist()
    place = attempts.schema.get_field_index("instance_id")
    return ModelTables(
        name=model.name,
        revision="sha256:0123456789abcdef",
        n_layers=layers,
        instances=made,
        attempts=attempts.set_column(place, "instance_id", pa.array(ids, pa.string())),
        original_name=model.original_name,
        fragile_layers=fragile,
    )


def sentences(generator: np.random.Generator, number: int, full: np.ndarray) -> pa.Array:
    """Answers, each another; those not marked as full are short, as only their digests are kept."""
    words = WORDS[generator.integers(0, len(WORDS), (int(full.sum()), ANSWER_WORDS))]
    long = iter([" ".join(line) for line in words])
    return pa.array([f"{next(long)} {n}" if keep else f"no {n}" for n, keep in enumerate(full)])


if __name__ == "__main__":
    main()
