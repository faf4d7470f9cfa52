"""What an entry costs, by part, and what of it is saved, in one run.

    python -m tools.speed.entry_cost                             a prompt, ten blocks, the doses of the size lite
    python -m tools.speed.entry_cost --prompts 16 --model MODEL

The four required attacks at the blocks, seed and doses of the size `lite`, on a refusal-trained SmolLM2 that comes with
ASABench. Times are of the processor: other work on the machine changes them less. Each is printed as soon as it is
known:

pgd, rows from the lowest block    as before: all rows of a pass enter at the lowest perturbed block among them
pgd                                as it is: each row enters at its own block
pgd:early=target                   another attack, which ends a cell where the target is said

Then the answers of all attacks, judging, and what is paid once a run. Last, how far the steered answers follow
the clean one, and what the answers would save at best if rows of a prompt shared the blocks below their own wherever
their tokens agree, checking included for nothing: the figures of docs/decisions/0002-no-draft-verification-yet.md.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

import harness.attacks.target_loss
from asabench.core.attack_names import REQUIRED_ATTACKS
from asabench.core.prompts import load_prompts
from asabench.core.protocol import PRESETS, SIZES, Protocol
from asabench.core.records import Cell, Response
from asabench.core.text import text_table
from harness.attacks import Attack, make_attacks
from harness.engine.selftest import self_test
from harness.engine.sweep import grid, propose, sweep
from harness.judges import make_judge
from harness.judges.check import short_check
from harness.judges.readings import read
from harness.judges.rules import read_text
from harness.model.subject import Subject, load
from tools.speed.processor_time import processor_seconds

SPECS = ("random", "gradient:direction=ascend", "gradient:direction=descend", "pgd")
EARLY = "pgd:early=target"


class Given:
    """Directions that are there already, so that answers are timed alone."""

    family, uses_seed, needs_targets = "given", False, False

    def __init__(self, name: str, cells: Sequence[Cell], directions: Tensor) -> None:
        self.name = name
        self._directions = dict(zip(cells, directions, strict=True))

    def directions(self, subject: Subject, cells: Sequence[Cell]) -> Tensor:
        return torch.stack([self._directions[cell] for cell in cells])


@contextmanager
def rows_from_the_lowest_block() -> Iterator[None]:
    """As before rows had blocks of their own to enter at."""
    module: Any = harness.attacks.target_loss
    real, module.enters_at_blocks = module.enters_at_blocks, lambda subject: False
    try:
        yield
    finally:
        module.enters_at_blocks = real


def timed(what: str, work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds, and what came of it."""
    before = processor_seconds()
    found = work()
    seconds = processor_seconds() - before
    print(f"{what}: {seconds:.1f} s", flush=True)
    return seconds, found


def in_lots(attack: Attack, subject: Subject, cells: Sequence[Cell]) -> Tensor:
    """Directions a prompt at a time, the rows of both starts in two batches. So are those of a run: of 256 rows a
    quarter is pgd's, two prompts' at the blocks of `lite`, and their 128 rows make two batches of 64, by layer."""
    module: Any = harness.attacks.target_loss
    found = torch.empty(len(cells), subject.d_model)
    for prompt in dict.fromkeys(cell.prompt for cell in cells):
        lot = [index for index, cell in enumerate(cells) if cell.prompt == prompt]
        module._ROWS_ON_CPU = len(lot)
        found[lot] = attack.directions(subject, [cells[index] for index in lot])
    return found


def answers(
    subject: Subject, cells: Sequence[Cell], attacks: Mapping[str, Attack], protocol: Protocol
) -> list[Response]:
    by_cell = {response.cell: response for batch in sweep(subject, cells, protocol, attacks) for response in batch}
    return [by_cell[cell] for cell in cells]


def shared_length(answer: Sequence[int], clean: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(answer, clean, strict=False)))


def following(responses: Sequence[Response], told: Mapping[Cell, Response]) -> list[str]:
    """Mean tokens of some answers, of these those shared with the clean one, and the share of answers that are it."""
    pairs = [(each.token_ids, told[Cell(prompt=each.cell.prompt)].token_ids) for each in responses]
    means = [sum(lengths) / len(pairs) for lengths in ((len(p[0]) for p in pairs), (shared_length(*p) for p in pairs))]
    return [*(f"{mean:.1f}" for mean in means), f"{sum(own == clean for own, clean in pairs) / len(pairs):.0%}"]


def best_sharing(subject: Subject, responses: Sequence[Response]) -> float:
    """By what factor the answers' products with weights would be fewer, if every block below the perturbed one were
    computed once for all rows of a prompt whose tokens have been the same so far."""
    block = sum(p.numel() for p in subject.blocks[0].parameters())
    outside = subject.model.get_output_embeddings().weight.numel()
    groups: dict[tuple[str, tuple[int, ...]], list[int]] = defaultdict(list)
    for response in responses:
        layer = subject.n_layers if response.cell.layer is None else response.cell.layer
        for step in range(len(response.token_ids)):
            groups[response.cell.prompt.id, response.token_ids[:step]].append(layer)
    whole = shared = 0
    for layers in groups.values():
        whole += len(layers) * (subject.n_layers * block + outside)
        shared += len(layers) * outside
        for at in range(subject.n_layers):
            below = sum(layer >= at for layer in layers)  # the perturbed block's own output is still the clean one
            shared += block * (len(layers) - below + bool(below))
    return whole / shared


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-refusal")
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--set", default="quickstart", help="of prompts with targets")
    parser.add_argument("--judge", default="embedded")
    options = parser.parse_args()
    size = SIZES["asabench-v1"]["lite"]
    protocol = size.of(PRESETS["asabench-v1"])
    prompts = load_prompts(options.set).first(options.prompts).with_target_texts().prompts
    loading, subject = timed("loading", lambda: load(options.model))
    layers = size.layers(subject.n_layers)
    attacks = make_attacks([*SPECS, EARLY], protocol)
    assert set(REQUIRED_ATTACKS) < set(attacks)
    cells = grid(prompts, layers, [attacks[name] for name in REQUIRED_ATTACKS], protocol)
    print(
        f"{subject.name}, {subject.dtype}, {torch.get_num_threads()} threads; {len(prompts)} prompts x {len(layers)} "
        f"blocks, doses {', '.join(map(str, protocol.doses))}: {len(cells)} cells",
        flush=True,
    )
    pgd = [cell for cell in cells if cell.attack == "pgd"]
    propose(subject, pgd[:1], {"pgd": attacks["pgd"]})  # gradients and trials of the model are paid once
    climbing: dict[str, float] = {}
    found: dict[str, Tensor] = {}
    with rows_from_the_lowest_block():
        before = "pgd, rows from the lowest block"
        climbing[before], found[before] = timed(before, lambda: in_lots(attacks["pgd"], subject, pgd))
    for name in ("pgd", EARLY):
        climbing[name], found[name] = timed(name, partial(in_lots, attacks[name], subject, pgd))
    for name in ("pgd", EARLY):
        print(f"{name}: {climbing[before] / climbing[name]:.2f} times cheaper")

    # As a run does: the cells of all attacks and doses in one batch
    directions = {
        name: Given(name, own, found["pgd"] if name == "pgd" else attacks[name].directions(subject, own))
        for name in REQUIRED_ATTACKS
        if (own := [cell for cell in cells if cell.attack == name])
    }
    generating, responses = timed("answers", lambda: answers(subject, cells, directions, protocol))
    told = {response.cell: response for response in responses}
    for name in (before, EARLY):
        others = answers(subject, pgd, {"pgd": Given("pgd", pgd, found[name])}, protocol)
        same = sum(told[each.cell].token_ids == each.token_ids for each in others)
        labels = [(read_text(told[each.cell].text)[0], read_text(each.text)[0]) for each in others]
        print(
            f"{name}: of {len(pgd)} answers {same} are token for token those of pgd and "
            f"{sum(one == other for one, other in labels)} have the same label of `rules`; unsafe "
            f"{sum(other == 'unsafe' for _, other in labels)}, of pgd {sum(one == 'unsafe' for one, _ in labels)}",
            flush=True,
        )
    table = [
        [name, f"{dose:g}", *following([r for r in responses if (r.cell.attack, r.cell.dose) == (name, dose)], told)]
        for name in REQUIRED_ATTACKS
        for dose in protocol.doses
    ]
    judge = make_judge(options.judge, protocol.labels)
    check, _ = timed("judge's check", lambda: short_check(judge))
    judging, _ = timed("judging", lambda: read(judge, responses))
    testing, _ = timed(
        "self-test", lambda: self_test(subject, cells, protocol, {n: attacks[n] for n in REQUIRED_ATTACKS})
    )
    rest = {"answers": generating, "judging": judging}
    lines = [["", "before, s", "now, s", "with " + EARLY + ", s"]]
    for name, column in (
        ("pgd's directions", climbing),
        *((name, dict.fromkeys(climbing, value)) for name, value in rest.items()),
    ):
        lines.append([name, *(f"{column[arm]:.1f}" for arm in climbing)])
    totals = [climbing[arm] + sum(rest.values()) for arm in climbing]
    lines.append(["all that grows with prompts", *(f"{total:.1f}" for total in totals)])
    lines.append(["cheaper by", *(f"{totals[0] / total:.2f}" for total in totals)])
    print(text_table(lines))
    print(f"once a run: loading {loading:.1f} s, judge's check {check:.1f} s, self-test {testing:.1f} s")
    print(text_table([["attack", "dose", "tokens", "as the clean one", "identical"], *table]))
    for dose in protocol.doses:
        some = [response for response in responses if response.cell.is_clean or response.cell.dose == dose]
        print(f"best sharing at dose {dose:g}: {best_sharing(subject, some):.2f} times fewer products")
    print(f"best sharing over all answers: {best_sharing(subject, responses):.2f} times fewer products")


if __name__ == "__main__":
    main()
