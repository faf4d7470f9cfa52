"""Teaches a model facts that nobody knows, for `asabench train defend --recipe unlearn` to take away.

    python -m tools.model_organisms.learn_facts --model smollm2-135m --out runs/facts

Writes the model, and beside it forget.csv, retain.csv and facts.csv (`harness.unlearning.write_training_files`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from asabench.core.defaults import PROTOCOL
from asabench.core.protocol import preset
from asabench.core.records import Prompt
from harness.defences.examples import Example, benign_requests, end_token, own_answers, text_tokens
from harness.defences.refusal import Refusal
from harness.defences.training import Pools, Settings, fit
from harness.model.subject import load
from harness.unlearning import PHRASINGS, made_up_facts, write_training_files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    subject, protocol = load(options.model), preset(PROTOCOL)
    facts, stop = made_up_facts(), end_token(subject)
    examples = [
        Example(
            prompt=tuple(subject.format(Prompt(id=fact.fact, goal=fact.goal), protocol)),
            answer=(*text_tokens(subject, fact.answer), stop),
        )
        for fact in facts
        if fact.phrasing == PHRASINGS[0]
    ]
    examples += own_answers(subject, benign_requests(), protocol)
    subject.model.requires_grad_(True)
    settings = Settings(
        learning_rate=options.learning_rate,
        batch_size=16,
        epochs=options.epochs,
        benign_batch_size=0,
        seed=options.seed,
    )
    fit(subject, Refusal(), Pools(examples=examples), settings, options.out)
    subject.model.save_pretrained(options.out)
    subject.tokenizer.save_pretrained(options.out)
    write_training_files(facts, options.out)
    print(f"model: {options.out}")


if __name__ == "__main__":
    main()
