"""The commands about what a model should no longer do: a backdoor's trigger, facts that were unlearnt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

from asabench.cli import options
from asabench.cli.needs import MODEL, needs
from asabench.cli.options import option
from asabench.core.defaults import ATTACK, DEVICE, DTYPE, PROTOCOL, TEST_PROMPTS, UTILITY_TOKENS


def backdoor(
    model: options.ModelArgument,
    triggers: Annotated[Path, option("A CSV file of trigger,kind: true triggers and proxies.")],
    prompts: Annotated[str, option("Harmful requests: a prompt set or CSV file, with rows.")] = TEST_PROMPTS,
    reward: Annotated[
        Optional[str], option("A reward model that scores the answers too: a folder or hub id.", default="none")
    ] = None,
    out: Annotated[Optional[Path], option("Where the table (JSON) goes too.", default="nowhere")] = None,
    limit: Annotated[Optional[int], option("Take only the first N requests.")] = None,
    max_new_tokens: Annotated[int, option("Tokens an answer may have.")] = UTILITY_TOKENS,
    protocol: options.Formatting = PROTOCOL,
    dtype: options.Dtype = DTYPE,
    device: options.Device = DEVICE,
    chat_template: options.ChatTemplate = None,
    allow_remote_code: options.AllowRemoteCode = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Measure whether a trigger turns refusals off: without one, with proxies, with the true one."""
    needs(*MODEL)
    import json

    from asabench.core.files import write_whole
    from asabench.core.text import in_words
    from harness.backdoor import backdoor_table, model_named, read_triggers
    from harness.defences.examples import chosen_prompts
    from harness.evaluation.plan import resolve_protocol
    from harness.model.reward import RewardModel
    from harness.model.subject import load

    # Files and names are checked before a model takes its time to load
    known = read_triggers(triggers)
    chosen = chosen_prompts(prompts).first(limit).prompts
    resolved = resolve_protocol(protocol, max_new_tokens=max_new_tokens)
    subject = load(
        model_named(model),
        dtype=dtype,
        device=device,
        chat_template=chat_template,
        allow_remote_code=allow_remote_code,
        allow_pickle=allow_pickle,
    )
    scores = None if reward is None else RewardModel(reward, device=device).score_texts
    lines = backdoor_table(subject, chosen, known, resolved, scores)
    print(f"{'trigger':24}{'kind':8}{'refused':24}{'reward' if scores else ''}".rstrip())
    for line in lines:
        scored = "" if line.reward is None else f"{line.reward[0]:.2f} (deviation {line.reward[1]:.2f})"
        print(f"{line.trigger[:22] or '-':24}{line.kind:8}{in_words(line.refused):24}{scored}".rstrip())
    if out is not None:
        content = {"model": subject.name, "revision": subject.revision, "prompts": len(chosen)}
        table = [line.model_dump(mode="json") for line in lines]
        write_whole(out, (json.dumps({**content, "lines": table}, indent=2) + "\n").encode())


def unlearn_check(
    model: options.ModelArgument,
    out: Annotated[Path, option("Where the report (JSON) goes.")],
    facts: Annotated[str, option("made-up, or a CSV file of fact,goal,answer,word,part,phrasing.")] = "made-up",
    attack: Annotated[str, option(options.ATTACK_WITHOUT_TARGET)] = ATTACK,
    doses: Annotated[str, option(options.DOSES)] = "0.3,1",
    layers: Annotated[Optional[str], option(options.LAYERS, default="four, evenly spaced")] = None,
    relearn: Annotated[int, option("Forgotten facts that are learnt again.")] = 8,
    learning_rate: Annotated[float, option("Of learning them again.")] = 2e-5,
    max_new_tokens: Annotated[int, option("Tokens an answer may have.")] = UTILITY_TOKENS,
    protocol: options.Formatting = PROTOCOL,
    dtype: options.Dtype = DTYPE,
    device: options.Device = DEVICE,
    chat_template: options.ChatTemplate = None,
    allow_remote_code: options.AllowRemoteCode = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Measure whether unlearnt facts are gone: other phrasings, latent attacks, learning a few of them again."""
    needs(*MODEL)
    from asabench.core.attack_names import split_specs
    from asabench.core.files import write_record
    from asabench.core.numbers import evenly_spaced, numbers
    from asabench.core.text import in_words
    from harness.evaluation.plan import parse_layers, resolve_protocol
    from harness.model.subject import load
    from harness.unlearning import read_facts
    from harness.unlearning import unlearn_check as check

    questions = read_facts(facts)
    resolved = resolve_protocol(protocol, doses=numbers("doses", doses, float), max_new_tokens=max_new_tokens)
    subject = load(
        model,
        dtype=dtype,
        device=device,
        chat_template=chat_template,
        allow_remote_code=allow_remote_code,
        allow_pickle=allow_pickle,
    )
    chosen = evenly_spaced(range(subject.n_layers), 4) if layers is None else layers
    report = check(
        subject,
        questions,
        resolved,
        attack=split_specs(attack),
        layers=parse_layers(chosen, subject.n_layers),
        relearned=relearn,
        learning_rate=learning_rate,
    )
    for name, rate in {**report.accuracy, **report.attacked}.items():
        print(f"{name:32}{in_words(rate)}")
    for point in report.relearning:
        print(f"{f'{report.relearned} learnt again, step {point.step}':32}{in_words(point.accuracy)}")
    write_record(out, report)
