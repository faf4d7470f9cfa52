"""Generated submissions of standard size, to see and to time the board and the checks with. Their numbers are drawn at
random, not measured."""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from asabench.core.attack_names import REQUIRED_ATTACKS, built_in
from asabench.core.estimate import Rate
from asabench.core.prompts import PromptSet, load_prompts
from asabench.core.protocol import PRESETS, PROMPT_SET, SIZES
from asabench.core.records import CLEAN, Label
from asabench.core.row import (
    AttackResult,
    Eps50,
    JudgeInfo,
    ModelInfo,
    PromptSetInfo,
    ProtocolInfo,
    Row,
    VerdictCounts,
    headline_fields,
)
from asabench.core.similarity import clusters
from asabench.core.utility_report import BenignRates, RequestSet, TaskScore, UtilityReport
from asabench.judging.agreement import CheckResult, check_result
from asabench.judging.certificate import certificate
from asabench.judging.labelled_pairs import gold_pairs
from asabench.submission.columns import DIGEST_BYTES
from asabench.submission.make import yaml_bytes
from asabench.submission.manifest import PromptDigest, RunManifest, RunRecord, SubmittedSettings
from asabench.submission.row_of import row_of
from asabench.submission.schema import (
    CERTIFICATE_FILE,
    MANIFEST_FILE,
    ROW_FILE,
    SUBMISSION_FILE,
    UTILITY_FILE,
    VERDICTS_FILE,
    BaseModelRef,
    ModelRef,
    Submission,
    TrainingData,
)
from asabench.submission.verdict_table import table_bytes

STANDARD = SIZES["asabench-v1"]["standard"]
PROTOCOL = PRESETS["asabench-v1"].model_copy(update={"doses": STANDARD.doses, "seeds": STANDARD.seeds})
LAYERS = 30
BASES = 10
"""Every tenth entry is a base model; the nine after it are made from it."""
_DEFENCES = ("LAPT", "refusal training", "circuit breaker", "adversarial SFT", "steering guard")
_FAMILIES = (("llama", 135_000_000), ("qwen2", 1_540_000_000), ("gemma3", 4_300_000_000), ("mistral", 7_250_000_000))
_START = datetime(2026, 1, 1, tzinfo=UTC)


def write_entries(folder: Path, number: int, seed: int = 0, *, verdicts: bool = False, jobs: int = 1) -> list[Path]:
    """`number` submission folders under `folder`, half of them read by the embedded judge; the same for one seed.

    verdicts: whole submissions of the protocol's size `standard`, which `asabench validate` finds valid: the row
    follows from the verdicts. Those that are there stay. Without, row and utility only, which is quick.
    """
    generator = random.Random(seed)
    drafts = [(folder / _slug(place), *_draft(place, generator)) for place in range(number)]
    if not verdicts:
        for target, row, submission, utility in drafts:
            _write(target, submission, _contents(row, utility))
    elif jobs == 1:
        for place, draft in enumerate(drafts):
            _write_whole(*draft, (seed, place))
    else:
        with ProcessPoolExecutor(jobs) as pool:
            seeds = [(seed, place) for place in range(number)]
            list(pool.map(_write_whole, *zip(*drafts, strict=True), seeds, chunksize=4))
    return [target for target, *_ in drafts]


def _slug(place: int) -> str:
    return f"synthetic-{place:03d}"


def _draft(place: int, generator: random.Random) -> tuple[Row, Submission, UtilityReport | None]:
    """An entry's row, its submission without the digests of its files, and its utility, if it has one."""
    base = place - place % BASES
    is_base = place == base
    family, size = _FAMILIES[base // BASES % len(_FAMILIES)]
    model = f"synthetic/{family}-{base // BASES:02d}"
    defence = "none" if is_base else generator.choice(_DEFENCES)
    name = model if is_base else f"{model} + {defence} v{place - base}"
    strength = 0.0 if is_base else generator.uniform(0.0, 0.75)
    row = make_row(name, place, strength, generator, size=size, family=family, embedded=base // BASES % 2 == 0)
    fall = 0.2 if place % 17 == 5 else generator.uniform(-0.02, 0.04)
    submission = Submission(
        slug=_slug(place),
        name=name,
        model=ModelRef(name=name, revision=f"{place:040x}"),
        base=None if is_base else BaseModelRef(name=model, revision=f"{base:040x}", entry=_slug(base)),
        defence=defence,
        where="none" if is_base else "training",
        description=None if is_base else f"A generated entry: {defence} on {model}. Its numbers are drawn at random.",
        training_data=() if is_base else (TrainingData(name="generated", examples=1000, prompt_digests=False),),
        authors=("A generated author",),
        licence="Apache-2.0",
        protocol=row.protocol.name,
        created=row.created,
        asabench_version=row.asabench_version,
        files={},
    )
    # Some come without, and are incomplete
    utility = None if place % 23 == 7 else make_utility(row, 0.95 if is_base else 0.95 - fall)
    return row, submission, utility


def _contents(row: Row, utility: UtilityReport | None) -> dict[str, bytes]:
    given = {ROW_FILE: row} if utility is None else {ROW_FILE: row, UTILITY_FILE: utility}
    return {name: record.model_dump_json(indent=2).encode() for name, record in given.items()}


def _write(target: Path, submission: Submission, contents: dict[str, bytes]) -> None:
    """submission.yaml last: where it is, the others are whole."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    target.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (target / name).write_bytes(content)
    (target / SUBMISSION_FILE).write_bytes(yaml_bytes(submission.model_copy(update={"files": digests})))


def _write_whole(
    target: Path, row: Row, submission: Submission, utility: UtilityReport | None, seed: tuple[int, int]
) -> None:
    if (target / SUBMISSION_FILE).is_file():
        return
    table = make_verdicts(row, np.random.default_rng(seed))
    manifest = make_manifest(row)
    own = row_of(manifest, table, created=row.created, version=row.asabench_version)
    held = certificate(judge_check(row.judge.id, row.judge.kind == "embedded"))
    more = {
        VERDICTS_FILE: table_bytes(table),
        MANIFEST_FILE: manifest.model_dump_json(indent=1).encode(),
        CERTIFICATE_FILE: held.model_copy(update={"created": row.created}).model_dump_json(indent=1).encode(),
    }
    _write(target, submission, _contents(own, utility) | more)


@functools.cache
def prompts() -> PromptSet:
    return load_prompts(PROMPT_SET).first(STANDARD.prompts)


@functools.cache
def judge_check(judge_id: str, embedded: bool) -> CheckResult:
    """Of a judge that is wrong on every ninth labelled pair, or about as often as the embedded one."""
    pairs = gold_pairs()
    wrong: dict[Label, Label] = {"safe": "unsafe", "unsafe": "safe", "incoherent": "unsafe"}
    right = [min(pair.right) for pair in pairs]
    every = {True: 5, False: 7} if embedded else {True: 9, False: 9}
    seen: Counter[bool] = Counter()
    labels = []
    for pair, label in zip(pairs, right, strict=True):
        seen[pair.unsafe] += 1
        labels.append(wrong[label] if seen[pair.unsafe] % every[pair.unsafe] == 0 else label)
    info = JudgeInfo(id=judge_id, description="A generated judge.", kind="embedded" if embedded else "llm")
    return check_result(info, pairs, labels, "gold")


def make_judge(embedded: bool) -> JudgeInfo:
    checked = judge_check("embedded-a5aed7aa" if embedded else "qwen3-14b-3f0c11aa", embedded)
    return checked.judge.model_copy(update={"certified": True, "figures": checked.figures})


def make_manifest(row: Row) -> RunManifest:
    """Of one run that had all of the row's attacks."""
    settings = SubmittedSettings.model_validate(
        {
            "model": row.model.name,
            "revision": row.model.revision,
            "dtype": row.model.dtype,
            "chat_template": "0" * 16,
            # As plain values: fields that are left at their defaults belong to a run's id too
            "protocol": PROTOCOL.model_dump(),
            "attacks": REQUIRED_ATTACKS,
            "layers": row.layers,
            "prompts": prompts().digest[:16],
            "prompt_count": len(prompts().prompts),
        }
    )
    run = RunRecord(
        run_id=settings.id,
        settings=settings,
        judge=row.judge,
        started=row.created,
        finished=row.created,
        resumed=0,
        device="cpu",
        hardware=None,
        python="3.11",
        packages={"asabench": row.asabench_version},
        git_commit=None,
        self_tests={},
    )
    chosen = prompts().prompts
    digests = tuple(
        PromptDigest(id=prompt.id, sha256=prompt.digest, cluster=cluster)
        for prompt, cluster in zip(chosen, clusters([prompt.goal for prompt in chosen]), strict=True)
    )
    return RunManifest(model=row.model, prompt_set=PROMPT_SET, prompts=digests, runs=(run,))


def make_row(
    name: str, place: int, strength: float, generator: random.Random, *, size: int, family: str, embedded: bool
) -> Row:
    """A row of the protocol's standard size. strength: 0 holds nothing back, 1 everything."""
    peak = generator.randrange(5, LAYERS - 5)
    results = tuple(
        _result(attack, dose, 1 - strength, peak, generator)
        for attack in REQUIRED_ATTACKS
        for dose in STANDARD.doses or ()
    )
    return Row(
        run_id=f"{place:016x}",
        created=(_START + timedelta(hours=7 * place)).isoformat(),
        asabench_version="0.1.0",
        model=ModelInfo(
            name=name,
            revision=f"{place:040x}",
            family=family,
            n_layers=LAYERS,
            d_model=576,
            n_parameters=size,
            dtype="bfloat16",
        ),
        protocol=ProtocolInfo(name=PROTOCOL.name, digest=PROTOCOL.digest),
        prompts=PromptSetInfo(name=PROMPT_SET, digest="9988776655443322", n=STANDARD.prompts),
        judge=make_judge(embedded),
        layers=tuple(range(LAYERS)),
        seeds=STANDARD.seeds or (0,),
        **headline_fields(results),
        init=_rate(generator.uniform(0.0, 0.15)),
        clean_verdicts=VerdictCounts(safe=93, unsafe=6, incoherent=1),
        results=results,
        flags=("gradient-masking?",) if place % 29 == 3 else (),
        eps50={attack: _eps50(generator.uniform(0.05, 1.2)) for attack in REQUIRED_ATTACKS},
    )


def _result(attack: str, dose: float, weakness: float, peak: int, generator: random.Random) -> AttackResult:
    reach = weakness * dose**0.5 * generator.uniform(0.75, 1.0)
    shares = {
        layer: min(1.0, max(0.0, 0.6 * reach * 2.0 ** (-(((layer - peak) / 6) ** 2)) + generator.gauss(0, 0.03)))
        for layer in range(LAYERS)
    }
    rates = {str(layer): _rate(share) for layer, share in shares.items()}
    best = max(shares, key=lambda layer: shares[layer])
    unsafe = round(3000 * sum(shares.values()) / LAYERS)
    incoherent = round((3000 - unsafe) * 0.4 * dose)
    masr = _rate(min(1.0, max(reach, shares[best])))
    return AttackResult(
        attack=attack,
        dose=dose,
        masr=masr,
        pasr=rates[str(best)],
        peak_layer=best,
        lasr=rates,
        verdicts=VerdictCounts(safe=3000 - unsafe - incoherent, unsafe=unsafe, incoherent=incoherent),
        masr_conditional=masr,
        pasr_conditional=rates[str(best)],
        masr_coherent=masr,
        pasr_coherent=rates[str(best)],
        asr_at_k={"1": rates["0"], "5": masr, "10": masr},
    )


def _rate(value: float) -> Rate:
    return Rate(value=value, low=max(0.0, value - 0.08), high=min(1.0, value + 0.08))


def _eps50(value: float) -> Eps50:
    doses = (0.0, 0.1, 0.3, 1.0)
    ends = {"first": doses[0], "last": doses[-1], "doses": doses}
    if value > 1:
        return Eps50(value=None, low=0.3, high=None, censored="above", high_censored="above", below=1.0, **ends)
    below = max(dose for dose in doses if dose < value)
    above = min(dose for dose in doses if dose >= value)
    return Eps50(value=value, low=below, high=above, below=below, above=above, **ends)


def make_verdicts(row: Row, generator: np.random.Generator) -> pd.DataFrame:
    """One line a cell of the row's attacks, doses and layers, with about its rates. Only `random` draws by seed.

    Every prompt has a threshold: under an attack that breaks a share of prompts at a layer, those with a threshold
    below that share break, but for a little noise.
    """
    names = [prompt.id for prompt in prompts().prompts]
    threshold = dict(zip(names, generator.random(len(names)), strict=True))
    clean = pd.DataFrame({"prompt_id": names, "layer": None, "attack": CLEAN, "dose": 0.0, "seed": None})
    blocks = [clean.assign(share=row.init.value)]
    for result in row.results:
        known = built_in(result.attack)
        seeds = row.seeds if known is not None and known.uses_seed else (None,)
        frame = pd.DataFrame(itertools.product(seeds, row.layers, names), columns=["seed", "layer", "prompt_id"])
        shares = {int(layer): rate.value for layer, rate in result.lasr.items()}
        blocks.append(frame.assign(attack=result.attack, dose=result.dose, share=frame["layer"].map(shares)))
    table = pd.concat([block.astype({"layer": "Int16", "seed": "Int64"}) for block in blocks], ignore_index=True)
    number = len(table)
    noise = generator.normal(0.0, 0.05, number)
    unsafe = table["prompt_id"].map(threshold).to_numpy() + noise < table["share"].to_numpy(dtype=np.float64)
    incoherent = generator.random(number) < 0.3 * table["dose"].to_numpy()
    # As the embedded judge's: unsafe from 0.32 on, incoherent up to a half
    p_unsafe = np.select(
        [unsafe, incoherent],
        [generator.uniform(0.33, 1.0, number), generator.uniform(0.0, 0.49, number)],
        generator.uniform(0.0, 0.31, number),
    )
    table = table.drop(columns="share").assign(
        label=np.select([unsafe, incoherent], ["unsafe", "incoherent"], "safe"),
        p_unsafe=p_unsafe.astype("float32").round(3),
        response_sha256=[generator.bytes(DIGEST_BYTES) for _ in range(number)],
        response_tokens=generator.integers(1, PROTOCOL.max_new_tokens, number, dtype="int32"),
        response_characters=generator.integers(1, 250, number, dtype="int32"),
    )
    # A small dose leaves some answers as they were
    answer = ["label", "p_unsafe", "response_sha256", "response_tokens", "response_characters"]
    stays = (table["attack"] == "random") & (table["dose"] <= 0.1) & (generator.random(number) < 0.4)
    clean = table[table["layer"].isna()].set_index("prompt_id")[answer]
    for name in answer:
        table.loc[stays, name] = table.loc[stays, "prompt_id"].map(clean[name])
    return table


def make_utility(row: Row, benign: float) -> UtilityReport:
    """A report whose benign-answer rate is `benign`."""
    return UtilityReport(
        created=row.created,
        asabench_version=row.asabench_version,
        model=row.model.name,
        revision=row.model.revision,
        dtype=row.model.dtype,
        benign_set=RequestSet(name="benign", digest="aabbccddeeff0011", n=120),
        over_refusal_set=RequestSet(name="looks-unsafe", digest="1100ffeeddccbbaa", n=80),
        refusal_detector="refusals-1",
        clean=BenignRates(
            benign_answer_rate=_rate(round(benign * 120) / 120), over_refusal=_rate(round((1.0 - benign) * 80) / 80)
        ),
        under_injection=(
            BenignRates(attack="random", dose=0.3, benign_answer_rate=_rate(benign * 0.8), over_refusal=_rate(0.2)),
        ),
        tasks={
            "gsm8k": TaskScore(accuracy=_rate(0.3), n=200, chance=0.0, source="generated", digest="00ff00ff00ff00ff")
        },
    )
