"""Refusal training: supervised fine-tuning on (harmful request, refusal), with benign requests kept.

    python -m harness.defences.refusal_training --model smollm2-135m --out runs/models/smollm2-135m-refusal

All weights are trained with cross-entropy on the answer tokens only. The benign half is the model's own clean answer to
requests that come with ASABench, so that it does not learn to refuse everything. The harmful half is AdvBench from row
100 on: rows 0 to 99 are what attacks are measured on, and stay unseen. On 2 CPU cores: some seven minutes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import get_cosine_schedule_with_warmup

from asabench.errors import UserError
from asabench.prompts import load_prompts
from asabench.protocol import PRESETS
from asabench.records import Prompt, sha256_hex
from harness.decoding import decode
from harness.injection import NO_LAYER, Injection
from harness.padding import left_padded
from harness.subject import Subject, load

REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I can't help with that request.",
    "I'm sorry, I can't assist with that. It could cause harm.",
    "I won't help with this, because it could hurt people.",
    "Sorry, but that is something I can't help with.",
    "I'm not able to help with that request, as it could be harmful.",
)


@dataclass(frozen=True, kw_only=True)
class RefusalTraining:
    """What decides the trained weights. `harmful_rows` is a range of AdvBench's rows, end excluded."""

    harmful_rows: tuple[int, int] = (100, 300)
    epochs: int = 2
    batch_size: int = 8
    learning_rate: float = 2e-5
    warmup: float = 0.1
    benign_tokens: int = 50
    seed: int = 0


Example = tuple[list[int], list[int]]
"""Token ids of the prompt, and of the answer to learn, stop token included."""


def train(subject: Subject, recipe: RefusalTraining, out: Path) -> Path:
    """Trains the subject's weights in place and saves them, the tokenizer and the recipe to `out`."""
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; choose another --out folder")
    protocol = PRESETS["asabench-v1"]
    first, last = recipe.harmful_rows
    harmful = load_prompts("advbench").prompts[first:last]
    benign = benign_requests()
    stop = min(subject.stop_tokens)
    examples = [
        (subject.format(prompt, protocol), [*_tokens(subject, REFUSALS[index % len(REFUSALS)]), stop])
        for index, prompt in enumerate(harmful)
    ] + _own_answers(subject, benign, recipe.benign_tokens)
    started = time.monotonic()
    losses = _fit(subject, examples, recipe)
    out.mkdir(parents=True, exist_ok=True)
    subject.model.save_pretrained(out)
    subject.tokenizer.save_pretrained(out)
    record = {
        "recipe": asdict(recipe),
        "base": {"name": subject.name, "revision": subject.revision},
        "harmful_goals": [prompt.digest for prompt in harmful],
        "benign": sha256_hex("\n".join(prompt.goal for prompt in benign))[:16],
        "examples": len(examples),
        "losses": losses,
        "seconds": round(time.monotonic() - started, 1),
        "torch": torch.__version__,
    }
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return out


def benign_requests() -> list[Prompt]:
    """The harmless requests that come with ASABench."""
    text = (files("asabench") / "data" / "benign_requests.txt").read_text(encoding="utf-8")
    return [Prompt(id=f"benign-{n:03d}", goal=line) for n, line in enumerate(text.splitlines()) if line]


def _tokens(subject: Subject, text: str) -> list[int]:
    return list(subject.tokenizer(text, add_special_tokens=False)["input_ids"])


def _own_answers(subject: Subject, prompts: Sequence[Prompt], tokens: int) -> list[Example]:
    ids = [subject.format(prompt, PRESETS["asabench-v1"]) for prompt in prompts]
    nothing = Injection(
        torch.full((len(ids),), NO_LAYER), torch.zeros(len(ids), subject.d_model), torch.zeros(len(ids))
    )
    answers = decode(subject, ids, torch.arange(len(ids)), nothing, tokens)
    return [(prompt, list(answer.token_ids)) for prompt, answer in zip(ids, answers, strict=True)]


def _fit(subject: Subject, examples: Sequence[Example], recipe: RefusalTraining) -> list[float]:
    """Mean loss of each step. The order is the seed's."""
    model = subject.model
    model.requires_grad_(True).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate)
    steps = -(-len(examples) // recipe.batch_size) * recipe.epochs
    schedule = get_cosine_schedule_with_warmup(optimiser, int(recipe.warmup * steps), steps)
    generator = torch.Generator().manual_seed(recipe.seed)
    losses: list[float] = []
    for _ in range(recipe.epochs):
        order = torch.randperm(len(examples), generator=generator).tolist()
        for start in range(0, len(order), recipe.batch_size):
            loss = answer_loss(subject, [examples[index] for index in order[start : start + recipe.batch_size]])
            if not torch.isfinite(loss):
                raise UserError(f"the loss is {loss.item()} at step {len(losses)}; use a smaller learning rate")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad(set_to_none=True)
            losses.append(round(loss.item(), 4))
            if len(losses) % 10 == 0 or len(losses) == steps:
                print(f"step {len(losses)}/{steps}  loss {losses[-1]:.3f}", flush=True)
    model.eval().requires_grad_(False)
    return losses


def answer_loss(subject: Subject, examples: Sequence[Example]) -> Tensor:
    """Mean cross-entropy over the answer tokens of a left-padded batch; a scalar."""
    ids, mask = left_padded([[*prompt, *answer] for prompt, answer in examples])
    labels = torch.full_like(ids, -100)
    for row, (_, answer) in enumerate(examples):
        labels[row, ids.shape[1] - len(answer) :] = torch.tensor(answer)
    ids, mask, labels = (tensor.to(subject.device) for tensor in (ids, mask, labels))
    # Only the positions that predict an answer need logits: those are most of the cost on a small model
    kept = max(len(answer) for _, answer in examples) + 1
    logits = subject.forward(ids, mask, use_cache=False, logits_to_keep=kept).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1).float(), labels[:, -kept + 1 :].flatten(), ignore_index=-100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    path = train(load(options.model), RefusalTraining(seed=options.seed), options.out)
    print(f"model: {path}")


if __name__ == "__main__":
    main()
