"""The command that measures the latent vulnerability score of arXiv:2606.08044."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

from asabench.cli import options
from asabench.cli.needs import MODEL, needs
from asabench.cli.options import option
from asabench.core.defaults import DEVICE, DTYPE, LAYERS, PROMPTS, PROTOCOL, TARGET
from asabench.core.errors import UserError

REWARD_MODEL = "Ray2333/gpt2-large-harmless-reward_model"


def lvs(
    place: options.ModelPlace = None,
    model: Annotated[Optional[str], option(options.MODEL, default="MODEL")] = None,
    prompts: options.Prompts = PROMPTS,
    prompt_column: options.PromptColumn = None,
    limit: options.Limit = None,
    layers: Annotated[
        str, option("Decoder blocks: all, or such as 0,3-5; what the first block reads is measured too.")
    ] = LAYERS,
    budgets: Annotated[
        str, option("Radii, as shares of the largest entry of the clean states.")
    ] = "0.0005,0.001,0.005",
    reward_model: Annotated[
        str, option("A sequence classifier, higher for harmless answers, by folder or hub id.")
    ] = REWARD_MODEL,
    protocol: options.Formatting = PROTOCOL,
    max_new_tokens: Annotated[int, option("Tokens an answer may have.")] = 128,
    target: Annotated[str, option("The start of compliance that is made likelier.")] = TARGET,
    seed: Annotated[int, option("Of the random perturbations beside.")] = 0,
    out: Annotated[Path, option("The table, a .parquet file.")] = Path("runs/lvs.parquet"),
    dtype: options.Dtype = DTYPE,
    device: options.Device = DEVICE,
    chat_template: options.ChatTemplate = None,
    allow_remote_code: options.AllowRemoteCode = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Measure a peer's latent vulnerability score (arXiv:2606.08044), to read its table beside ours."""
    needs(*MODEL)
    import io

    from asabench.core.files import write_whole
    from asabench.core.numbers import numbers
    from asabench.core.prompts import load_prompts
    from asabench.core.protocol import preset
    from asabench.core.text import text_table
    from harness.evaluation.plan import parse_layers
    from harness.model.reward import RewardModel
    from harness.model.subject import check_prompt_format, load
    from harness.probes.lvs import EMBEDDING, HOWS, summary
    from harness.probes.lvs import lvs as measure
    from harness.progress import progress_line

    named = options.named_model(place, model, "lvs")
    radii = numbers("budgets", budgets, float)
    assert radii is not None
    if min(radii) <= 0:
        raise UserError(f"--budgets {budgets} cannot be used; give numbers above 0, such as 0.001,0.005")
    if max_new_tokens < 1:
        raise UserError(f"--max-new-tokens {max_new_tokens} leaves no answer; give 1 or more")
    chosen = load_prompts(prompts, prompt_column).first(limit).prompts
    resolved = preset(protocol)
    reward = RewardModel(reward_model, device=device, allow_pickle=allow_pickle)
    subject = load(
        named,
        dtype=dtype,
        device=device,
        chat_template=chat_template,
        allow_remote_code=allow_remote_code,
        allow_pickle=allow_pickle,
    )
    check_prompt_format(subject, resolved, chosen)
    places = [EMBEDDING, *parse_layers(layers, subject.n_layers)]
    answers = len(chosen) * len(places) * len(radii) * len(HOWS)
    with progress_line(0, answers, 1, True) as line:
        table = measure(
            subject,
            chosen,
            places,
            resolved,
            reward,
            budgets=radii,
            target=target,
            max_new_tokens=max_new_tokens,
            seed=seed,
            on_answer=line.finish,
        )
    content = io.BytesIO()
    table.assign(
        model=subject.name,
        revision=subject.revision,
        reward_model=reward.name,
        reward_revision=reward.revision,
    ).to_parquet(content, index=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, content.getvalue())
    found = summary(table)
    rows = [["layer", "budget", "how", "median LVS", "95%", "prompts"]]
    for each in found.itertuples(index=False):
        layer = "embedding" if each.layer == EMBEDDING else str(each.layer)
        rows.append(
            [
                layer,
                f"{each.budget:g}",
                str(each.how),
                f"{each.median:.3f}",
                f"[{each.low:.3f}, {each.high:.3f}]",
                str(each.prompts),
            ]
        )
    print(text_table(rows))
    print(f"table: {out}")
