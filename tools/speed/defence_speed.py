"""What a step of each recipe takes, beside a plain fine-tuning step on the same tokens, in one process.

    python -m tools.speed.defence_speed --model smollm2-135m

Prints the ratio of each recipe's step to the plain one (the same cells and harmless examples, without noise), and the
largest resident memory that each adds on a CPU, or what the GPU allocated. Steps of the recipes alternate, so that
what else the machine does falls on all of them; medians are compared.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import psutil
import torch

from harness.defences import RECIPES, make_recipe
from harness.defences.examples import Example, answer_loss, batch_of
from harness.defences.lapt import Lapt
from harness.defences.lat import Lat
from harness.defences.training import Batch, Recipe
from harness.model.subject import Subject, load

LIMIT = 1.3


def examples(subject: Subject, count: int, prompt: int, answer: int, seed: int) -> list[Example]:
    """Random tokens; prompts differ in length as requests do."""
    drawn = random.Random(seed)
    size = subject.vocabulary_size

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(drawn.randrange(size) for _ in range(length))

    return [
        Example(
            prompt=tokens(prompt + drawn.randrange(10)),
            answer=tokens(answer),
            layer=drawn.randrange(subject.n_layers),
            rejected=tokens(4),
        )
        for _ in range(count)
    ]


def step(subject: Subject, recipe: Recipe, batch: Batch, optimiser: torch.optim.Optimizer) -> None:
    subject.model.requires_grad_(True)  # t-vaccine leaves some blocks as they are
    prepared = recipe.prepare(subject, batch)
    for _ in range(recipe.updates):
        terms = recipe.losses(subject, batch, prepared)
        torch.stack([recipe.weights[name] * term for name, term in terms.items()]).sum().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def plain_step(subject: Subject, batch: Batch, optimiser: torch.optim.Optimizer) -> None:
    loss = answer_loss(subject, batch_of(batch.examples)) + answer_loss(subject, batch_of(batch.benign))
    loss.backward()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def seconds(subject: Subject, work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    if subject.device.type == "cuda":
        torch.cuda.synchronize(subject.device)
    return time.perf_counter() - started


def peak_bytes(subject: Subject, work: Callable[[], None]) -> int:
    """Largest memory while `work` runs: allocated on a GPU, resident on a CPU (sampled)."""
    if subject.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(subject.device)
        work()
        return torch.cuda.max_memory_allocated(subject.device)
    import threading

    process, done, seen = psutil.Process(), threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.01):
            seen[0] = max(seen[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return seen[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    subject = load(options.model)
    subject.model.requires_grad_(True).train()
    optimiser = torch.optim.AdamW(subject.model.parameters(), lr=1e-9)
    batch = Batch(
        examples=examples(subject, options.batch_size, 40, 14, seed=0),
        benign=examples(subject, options.batch_size // 2, 35, 50, seed=1),
        generator=torch.Generator().manual_seed(0),
    )
    lapt = Lapt(benign_noise=0.5)
    others = {name: make_recipe(name)[0] for name in RECIPES if name not in ("refusal", "lapt", "lat")}
    for recipe in others.values():
        recipe.pools(batch.examples, batch.benign)
        recipe.begin(subject)
    lats = {
        f"lat ({lat.inner_steps} inner, {lat.model_steps} model steps)": lat
        for lat in (Lat(inner_steps=6, model_steps=2), Lat())
    }
    work: dict[str, Callable[[], None]] = {
        "plain": lambda: plain_step(subject, batch, optimiser),
        "lapt": lambda: step(subject, lapt, batch, optimiser),
        **{
            name: (lambda recipe=recipe: step(subject, recipe, batch, optimiser))  # type: ignore[misc]
            for name, recipe in (lats | others).items()
        },
    }
    peaks = {name: peak_bytes(subject, run) for name, run in work.items()}  # also the warm-up
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(options.rounds):
        for name, run in work.items():
            times[name].append(seconds(subject, run))
    medians = {name: statistics.median(own) for name, own in times.items()}
    print(f"{subject.name} on {subject.device}, {torch.get_num_threads()} threads, batch {options.batch_size}")
    for name, median in medians.items():
        ratio = median / medians["plain"]
        print(f"{name:34} {median:7.2f} s a step  {ratio:5.2f} of a plain step  peak {peaks[name] / 2**30:.2f} GiB")
    met = medians["lapt"] <= LIMIT * medians["plain"]
    print(f"lapt within {LIMIT} of a plain step: {'yes' if met else 'NO'}")


if __name__ == "__main__":
    main()
