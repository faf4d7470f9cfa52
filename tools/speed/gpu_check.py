"""What ASABench does on a GPU, in one command of under nine minutes that downloads nothing.

    make gpu-check                                                 the same as
    python -m tools.speed.gpu_check --out gpu.json                 on a CUDA machine with torch and transformers
    python -m tools.speed.gpu_check --device cpu --shape tiny --out gpu.json
    python -m tools.docs.gpu_page gpu.json > docs/results/gpu.md

Each part runs in a process of its own within its share of the time: one that fails, hangs or breaks the device loses
none of the others. Models have random weights of a real shape. What a part found is a mapping of plain values; the JSON
holds them by part, with the seconds of each, the machine, and which packages are missing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from asabench.core.errors import with_type
from asabench.core.files import write_whole
from asabench.core.protocol import PRESETS, Protocol
from asabench.core.records import Cell, Prompt, Response
from harness.attacks import make_attack, make_attacks
from harness.engine.decoding import decode
from harness.engine.sweep import ROWS_ON_GPU, grid, injection_of, propose, sweep
from harness.model.subject import Subject, pick_device
from tools.speed.sweep import (
    FAMILIES,
    SHAPES,
    by_generate,
    copy_speed,
    fed_weights,
    matmul_speed,
    peak_memory,
    random_subject,
    smallest_gap,
    timed,
    tiny,
)

SECONDS = 520.0
"""Of the whole command; what is left of it bounds each part too."""

AIM, LIMIT = 30.0, 10.0
"""Seconds for 100 prompts x 32 blocks x 50 tokens of an 8B model on one H200: the aim, and what would be the limit."""

PACKAGES = ("transformers", "accelerate", "peft", "flash-attn", "bitsandbytes", "gptqmodel", "vllm", "ray")

Found = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """device: where. shape: of the large model. prompts, tokens: of the benchmark."""

    device: torch.device
    shape: str
    prompts: int
    tokens: int

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16

    def prompt_set(self, count: int | None = None) -> tuple[Prompt, ...]:
        """Harmless requests of unequal length."""
        return tuple(
            Prompt(
                id=f"p{number}",
                goal=" ".join(["describe", f"thing{number}", *["word"] * (number % 7)]),
                target="Of course",
            )
            for number in range(self.prompts if count is None else count)
        )

    def large(self) -> Subject:
        return random_subject(self.shape, self.device, self.dtype)

    def protocol(self, tokens: int | None = None) -> Protocol:
        return PRESETS["asabench-v1"].model_copy(
            update={"max_new_tokens": tokens or self.tokens, "doses": (1.0,), "seeds": (0,)}
        )


def answered(subject: Subject, cells: Sequence[Cell], protocol: Protocol, **how: Any) -> list[Response]:
    attacks = {"random": make_attack("random", protocol)}
    return [response for batch in sweep(subject, cells, protocol, attacks, **how) for response in batch]


def random_cells(subject: Subject, prompts: Sequence[Prompt], protocol: Protocol) -> list[Cell]:
    return grid(prompts, range(subject.n_layers), [make_attack("random", protocol)], protocol)


def same_as_the_plain_loop(setting: Setting, dtype: torch.dtype) -> dict[str, Any]:
    """By family: answers that are token for token those of `generate()` at batch 1, of how many, and the largest gap
    between the two best logits where one differs."""
    protocol, found = setting.protocol(12), {}
    for family in FAMILIES:
        subject = tiny(family, setting.device, dtype)
        cells = random_cells(subject, setting.prompt_set(3), protocol)
        own = {response.cell.id: response.token_ids for response in answered(subject, cells, protocol)}
        other = {cell.id: by_generate(subject, [cell], protocol)[0] for cell in cells}
        different = [cell for cell in cells if own[cell.id] != other[cell.id]]
        gap = smallest_gap(subject, different[:8], protocol)
        found[family] = {"same": len(cells) - len(different), "of": len(cells), "largest_gap": gap}
    return found


def equality(setting: Setting) -> Found:
    found = same_as_the_plain_loop(setting, torch.float32)
    return {"families": found, "holds": all(each["same"] == each["of"] for each in found.values())}


def half_precision(setting: Setting) -> Found:
    return {"families": same_as_the_plain_loop(setting, setting.dtype)}


def out_of_memory(setting: Setting) -> Found:
    """A batch that does not fit halves until it does, with the same answers: on a GPU within a small part of its
    memory, elsewhere with an error put in its place."""
    protocol = setting.protocol(8)
    subject = tiny(FAMILIES[0], setting.device, torch.float32)
    cells = random_cells(subject, setting.prompt_set(8), protocol)
    expected = {each.cell.id: each.token_ids for each in answered(subject, cells, protocol)}
    sizes: list[int] = []

    def watched(subject: Subject, prompts: Any, rows: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(rows))
        if setting.device.type != "cuda" and len(rows) > 8:
            raise torch.OutOfMemoryError("stands for a device that is full")
        return decode(subject, prompts, rows, *args, **kwargs)

    if setting.device.type == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(setting.device).total_memory
        held = torch.cuda.memory_reserved(setting.device)
        torch.cuda.set_per_process_memory_fraction(min(1.0, (held + (2 << 20)) / total), setting.device)
    with (
        mock.patch("harness.engine.sweep.decode", watched),
        mock.patch("harness.model.placement.free_memory", return_value=1 << 60),
    ):
        got = {each.cell.id: each.token_ids for each in answered(subject, cells, protocol)}
    return {"batches": sizes, "halved": len(sizes) > 1, "same": got == expected}


def bench(setting: Setting) -> Found:
    """The engine on the large model, against one `generate()` a layer over all prompts, timed on two layers."""
    subject, protocol, device = setting.large(), setting.protocol(), setting.device
    cells = random_cells(subject, setting.prompt_set(), protocol)
    answered(subject, cells[: 2 * subject.n_layers], setting.protocol(2))  # warm
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds, responses = timed(device, lambda: answered(subject, cells, protocol))
    memory = peak_memory(device)
    tokens = sum(len(response.token_ids) for response in responses)
    own = {response.cell.id: response.token_ids for response in responses}
    layers = (0, subject.n_layers // 2)
    chosen = [[cell for cell in cells if cell.layer == layer] for layer in layers]
    by_layer, others = timed(device, lambda: [by_generate(subject, part, protocol) for part in chosen])
    pairs = [(own[c.id], o) for part, said in zip(chosen, others, strict=True) for c, o in zip(part, said, strict=True)]
    peak, bandwidth = matmul_speed(device, setting.dtype), copy_speed(device)
    step, read = one_step(subject, setting)
    return {
        "cells": len(cells),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "matrix_peak_flops": peak,
        "share_of_matrix_peak": 2 * fed_weights(subject) * tokens / seconds / peak,
        "memory_bytes_per_second": bandwidth,
        "share_of_bandwidth_in_a_step": read / step / bandwidth,
        "seconds_of_a_step": step,
        "peak_memory_gib": memory,
        "per_layer_seconds_per_cell": by_layer / sum(map(len, chosen)),
        "engine_seconds_per_cell": seconds / len(cells),
        "same_as_per_layer": sum(a == b for a, b in pairs),
        "compared": len(pairs),
    }


def one_step(subject: Subject, setting: Setting, steps: int = 8) -> tuple[float, float]:
    """Seconds of one decoding step of a full batch, and the bytes that it reads at least: weights and cache."""
    from harness.engine.sweep import kv_bytes_per_position

    protocol, device = setting.protocol(), setting.device
    prompts = setting.prompt_set()
    cells = random_cells(subject, prompts, protocol)[: ROWS_ON_GPU if device.type == "cuda" else 64]
    attacks = {"random": make_attack("random", protocol)}
    tokens = [subject.format(prompt, protocol) for prompt in prompts]
    rows = torch.tensor([prompts.index(cell.prompt) for cell in cells])
    directions = propose(subject, cells, attacks)

    def run(count: int) -> float:
        injection = injection_of(cells, directions, protocol)
        return timed(device, lambda: decode(subject, tokens, rows, injection, count, stops=()))[0]

    run(1)
    seconds = max(run(1 + steps) - run(1), 1e-9) / steps
    weights = fed_weights(subject) * subject.model.dtype.itemsize
    return seconds, weights + len(cells) * max(map(len, tokens)) * kv_bytes_per_position(subject)


def compiled(setting: Setting) -> Found:
    """A decoding step with the MLPs of the blocks compiled, which no hook looks into, beside one without."""
    subject = setting.large()
    eager = one_step(subject, setting)[0]
    backend = "inductor" if setting.device.type == "cuda" else "aot_eager"
    for block in subject.blocks:
        block.mlp.forward = torch.compile(block.mlp.forward, dynamic=True, backend=backend)
    one_step(subject, setting, 1)
    after = one_step(subject, setting)[0]
    return {"backend": backend, "eager_step": eager, "compiled_step": after, "times_as_fast": eager / after}


def gradients(setting: Setting) -> Found:
    """Seconds a prompt for the directions of all blocks: `gradient`, and `pgd` as it is by default."""
    subject, protocol = setting.large(), setting.protocol(16)
    prompts, found = setting.prompt_set(3), {}
    for name in ("gradient:direction=descend", "pgd"):
        attacks = make_attacks([name], protocol)
        attack = next(iter(attacks.values()))
        cells = grid(prompts, range(subject.n_layers), [attack], protocol)
        steered = [cell for cell in cells if not cell.is_clean]
        first = [cell for cell in steered if cell.prompt == prompts[0]]
        attack.directions(subject, first)  # warm
        rest = [cell for cell in steered if cell.prompt != prompts[0]]
        found[name.partition(":")[0]] = timed(setting.device, lambda a=attack, c=rest: a.directions(subject, c))[0] / 2
    return {"seconds_per_prompt": found, "peak_memory_gib": peak_memory(setting.device)}


def training(setting: Setting) -> Found:
    """Seconds and peak memory of one step of lapt and of lat, all weights in bf16, AdamW; a 1B shape on a GPU."""
    from harness.defences.lapt import Lapt
    from harness.defences.lat import Lat
    from harness.defences.training import Batch
    from tools.speed.defence_speed import examples, peak_bytes, seconds, step

    shape = "1b" if setting.device.type == "cuda" else setting.shape
    subject = random_subject(shape, setting.device, setting.dtype)
    subject.model.requires_grad_(True).train()
    optimiser = torch.optim.AdamW(subject.model.parameters(), lr=1e-9)
    batch = Batch(
        examples=examples(subject, 4, 40, 14, seed=0),
        benign=examples(subject, 2, 35, 50, seed=1),
        generator=torch.Generator().manual_seed(0),
    )
    found: dict[str, Any] = {"shape": shape}
    for name, recipe in {"lapt": Lapt(benign_noise=0.5), "lat": Lat(inner_steps=2, model_steps=1)}.items():
        peak = peak_bytes(subject, lambda recipe=recipe: step(subject, recipe, batch, optimiser))  # type: ignore[misc]
        took = seconds(subject, lambda recipe=recipe: step(subject, recipe, batch, optimiser))  # type: ignore[misc]
        found[name] = {"seconds": took, "peak_memory_gib": peak / 2**30}
    return found


def judge(setting: Setting) -> Found:
    """Answers a second of the embedded judge on the device, and labels that differ from those on the CPU. Its weights
    must be on this machine."""
    import os

    os.environ["HF_HUB_OFFLINE"] = "1"
    from asabench.judging.labelled_pairs import labelled_pairs
    from harness.judges.check import as_responses
    from harness.judges.embedded import Embedded

    responses = as_responses(labelled_pairs("gold"))
    on_cpu, here = Embedded("cpu"), Embedded(str(setting.device))
    expected = [verdict.label for verdict in on_cpu(responses)]
    here(responses)
    took, verdicts = timed(setting.device, lambda: here(responses))
    different = sum(a != b.label for a, b in zip(expected, verdicts, strict=True))
    return {"answers": len(responses), "answers_per_second": len(responses) / took, "other_labels": different}


PARTS: dict[str, tuple[Callable[[Setting], Found], float]] = {
    "equality": (equality, 70),
    "half precision": (half_precision, 50),
    "out of memory": (out_of_memory, 40),
    "bench": (bench, 170),
    "gradients": (gradients, 80),
    "training": (training, 60),
    "judge": (judge, 50),
    "compiled": (compiled, 90),
}
"""By name, the part and the seconds that it may take."""


def missing_packages() -> list[str]:
    found = []
    for package in PACKAGES:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found.append(package)
    return found


def machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    return {
        "device": name,
        "memory_bytes": memory,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": importlib.metadata.version("transformers"),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }


def guarded(name: str, setting: Setting) -> dict[str, Any]:
    """A part in this process: what it found, or in a line what went wrong."""
    began = time.perf_counter()
    try:
        found: dict[str, Any] = {"found": dict(PARTS[name][0](setting))}
    except Exception as error:  # whatever it is: the other parts are worth having
        found = {"failed": with_type(error)}
    return {**found, "seconds": round(time.perf_counter() - began, 2)}


def apart(name: str, words: Sequence[str], seconds: float) -> dict[str, Any]:
    """A part in a process of its own that is ended after so many seconds."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "tools.speed.gpu_check", "--part", name, *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        lines = done.stdout.splitlines()
        return dict(json.loads(lines[-1]))
    except subprocess.TimeoutExpired:
        return {"failed": f"not done within {seconds:.0f} s", "seconds": round(time.perf_counter() - began, 2)}
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return {"failed": f"exit code {done.returncode}: {last}", "seconds": round(time.perf_counter() - began, 2)}


def check(setting: Setting, run: Callable[[str, float], dict[str, Any]], seconds: float = SECONDS) -> dict[str, Any]:
    """All parts, in order; those for which no time is left are said to be left out. run: a part within its seconds."""
    began = time.perf_counter()
    parts = {}
    for name, (_, most) in PARTS.items():
        left = seconds - (time.perf_counter() - began)
        parts[name] = run(name, min(most, left)) if left > 5 else {"failed": "no time was left", "seconds": 0.0}
        print(f"{name}: {parts[name].get('failed', 'done')} ({parts[name]['seconds']} s)", file=sys.stderr, flush=True)
    return {
        "machine": machine(setting.device),
        "missing_packages": missing_packages(),
        "shape": setting.shape,
        "dtype": str(setting.dtype).removeprefix("torch."),
        "prompts": setting.prompts,
        "new_tokens": setting.tokens,
        "seconds": round(time.perf_counter() - began, 1),
        "parts": parts,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--prompts", type=int, help="default: 100 on a GPU, 2 elsewhere")
    parser.add_argument("--tokens", type=int, help="default: 50 on a GPU, 8 elsewhere")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--in-process", action="store_true", help="all parts in one process")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    device = pick_device(options.device)
    on_gpu = device.type == "cuda"
    setting = Setting(
        device=device,
        shape=options.shape,
        prompts=options.prompts or (100 if on_gpu else 2),
        tokens=options.tokens or (50 if on_gpu else 8),
    )
    if options.part:
        print(json.dumps(guarded(options.part, setting)))
        return
    words = ["--device", options.device, "--shape", setting.shape]
    words += ["--prompts", str(setting.prompts), "--tokens", str(setting.tokens)]

    def run(name: str, seconds: float) -> dict[str, Any]:
        return guarded(name, setting) if options.in_process else apart(name, words, seconds)

    report = check(setting, run)
    write_whole(options.out, (json.dumps(report, indent=2) + "\n").encode(), fix="give another --out")
    print(options.out)


if __name__ == "__main__":
    main()
