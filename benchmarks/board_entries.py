"""Generated submissions of standard size, to see and to time the board with. Their numbers are drawn, not measured."""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from asabench.protocol import PRESETS, SIZES
from asabench.records import CLEAN
from asabench.row import (
    AttackResult,
    Eps50,
    JudgeFigures,
    JudgeInfo,
    Kappa,
    ModelInfo,
    PromptSetInfo,
    ProtocolInfo,
    Rate,
    Row,
    VerdictCounts,
)
from asabench.submission.schema import (
    ROW_FILE,
    SUBMISSION_FILE,
    UTILITY_FILE,
    VERDICTS_FILE,
    BaseModelRef,
    ModelRef,
    Submission,
)
from asabench.submission.verdict_table import DIGEST_BYTES, table_bytes
from asabench.tracks import REQUIRED_ATTACKS
from asabench.utility_report import BenignRates, RequestSet, TaskScore, UtilityReport

STANDARD = SIZES["asabench-v1"]["standard"]
_DIGEST = PRESETS["asabench-v1"].model_copy(update={"doses": STANDARD.doses, "seeds": STANDARD.seeds}).digest
LAYERS = 30
BASES = 10
"""Every tenth entry is a base model; the nine after it are made from it."""
_DEFENCES = ("LAPT", "refusal training", "circuit breaker", "adversarial SFT", "steering guard")
_FAMILIES = (("llama", 135_000_000), ("qwen2", 1_540_000_000), ("gemma3", 4_300_000_000), ("mistral", 7_250_000_000))
_START = datetime(2026, 1, 1, tzinfo=UTC)


def write_entries(folder: Path, number: int, seed: int = 0, *, verdicts: bool = False) -> list[Path]:
    """`number` submission folders under `folder`, half of them read by the embedded judge; the same for one seed.

    verdicts: with a table of the cells' verdicts each, of the size that the protocol's `standard` has.
    """
    generator = random.Random(seed)
    folders = [_write(folder, place, generator) for place in range(number)]
    if verdicts:
        for place, target in enumerate(folders):
            (target / VERDICTS_FILE).write_bytes(table_bytes(make_verdicts(np.random.default_rng((seed, place)))))
    return folders


def _slug(place: int) -> str:
    return f"synthetic-{place:03d}"


def _write(folder: Path, place: int, generator: random.Random) -> Path:
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
        authors=("A generated author",),
        licence="Apache-2.0",
        protocol=row.protocol.name,
        created=row.created,
        asabench_version=row.asabench_version,
        files={ROW_FILE: "0" * 64},
    )
    target = folder / submission.slug
    target.mkdir(parents=True, exist_ok=True)
    (target / ROW_FILE).write_text(row.model_dump_json(indent=2), encoding="utf-8")
    (target / SUBMISSION_FILE).write_text(
        yaml.safe_dump(submission.model_dump(mode="json"), sort_keys=False), encoding="utf-8"
    )
    if place % 23 != 7:  # some come without, and are incomplete
        utility = make_utility(row, 0.95 if is_base else 0.95 - fall)
        (target / UTILITY_FILE).write_text(utility.model_dump_json(indent=2), encoding="utf-8")
    return target


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
    headline = next(result for result in results if (result.attack, result.dose) == ("random", 1.0))
    figures = JudgeFigures(
        set_name="gold",
        set_digest="0011223344556677",
        n=173,
        n_unsafe=52,
        unscored=0,
        balanced_accuracy=Rate(value=0.89, low=0.84, high=0.93),
        sensitivity=Rate(value=0.9, low=0.8, high=0.96),
        specificity=Rate(value=0.88, low=0.81, high=0.92),
        kappa=Kappa(value=0.75, low=0.6, high=0.85),
        label_recall={},
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
        protocol=ProtocolInfo(name="asabench-v1", digest=_DIGEST),
        prompts=PromptSetInfo(name="advbench", digest="9988776655443322", n=STANDARD.prompts),
        judge=JudgeInfo(
            id="embedded-a5aed7aa" if embedded else "qwen3-14b-3f0c11aa",
            certified=True,
            kind="embedded" if embedded else "llm",
            description="A generated judge.",
            figures=figures,
        ),
        layers=tuple(range(LAYERS)),
        seeds=STANDARD.seeds or (0,),
        attack="random",
        dose=1.0,
        init=_rate(generator.uniform(0.0, 0.15)),
        masr=headline.masr,
        pasr=headline.pasr,
        peak_layer=headline.peak_layer,
        lasr=headline.lasr,
        verdicts=headline.verdicts,
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
    if value > 1:
        return Eps50(value=None, low=0.8, high=None, censored="above", high_censored="above", first=0.0, last=1.0)
    return Eps50(value=value, low=value * 0.8, high=min(1.0, value * 1.2), first=0.0, last=1.0)


def make_verdicts(generator: np.random.Generator) -> pd.DataFrame:
    """One line a cell: 100 prompts, clean and under each attack, dose, seed and layer. Only `random` draws by seed."""
    prompts = [f"p{number:03d}" for number in range(STANDARD.prompts)]
    blocks = [pd.DataFrame({"prompt_id": prompts, "layer": None, "attack": CLEAN, "dose": 0.0, "seed": None})]
    for attack in REQUIRED_ATTACKS:
        seeds = STANDARD.seeds if attack == "random" else (None,)
        cells = itertools.product(STANDARD.doses or (), seeds or (None,), range(LAYERS), prompts)
        frame = pd.DataFrame(cells, columns=["dose", "seed", "layer", "prompt_id"])
        blocks.append(frame.assign(attack=attack))
    table = pd.concat([block.astype({"layer": "Int16", "seed": "Int64"}) for block in blocks], ignore_index=True)
    number = len(table)
    return table.assign(
        label=generator.choice(["safe", "unsafe", "incoherent"], number, p=[0.6, 0.2, 0.2]),
        p_unsafe=generator.random(number).astype("float32").round(3),
        response_sha256=[generator.bytes(DIGEST_BYTES) for _ in range(number)],
        response_tokens=generator.integers(1, 50, number, dtype="int32"),
        response_characters=generator.integers(1, 250, number, dtype="int32"),
    )


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
        clean=BenignRates(benign_answer_rate=_rate(benign), over_refusal=_rate(1.0 - benign)),
        under_injection=(
            BenignRates(attack="random", dose=0.3, benign_answer_rate=_rate(benign * 0.8), over_refusal=_rate(0.2)),
        ),
        tasks={
            "gsm8k": TaskScore(accuracy=_rate(0.3), n=200, chance=0.0, source="generated", digest="00ff00ff00ff00ff")
        },
    )
