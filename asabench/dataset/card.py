"""The dataset card: README.md with its YAML head, and the picture in it, made from a benchmark folder.

The card shows counts and names, never a prompt or an answer. Equal folders give equal cards.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

import yaml

from asabench.core.errors import UserError
from asabench.core.links import link
from asabench.core.text import in_words
from asabench.dataset.files import Benchmark, FragileLayers, Manifest, ModelEntry
from asabench.dataset.schema import ATTEMPT_COLUMNS, INSTANCE_COLUMNS, SPLITS, Split

CARD = "README.md"
PICTURE = "images/instances-by-layer.png"
ATTEMPTS_SUFFIX = ".attempts"
"""`<config>.attempts` is the config of a model's attempts; its one split is `attempts`."""

ALL = "all"
"""The config of the instances of all models, which is taken where none is named."""

TITLE = "ASABench: a benchmark for the latent robustness of language model safety"
# As in CITATION.cff
CITATION_MESSAGE = "If you use ASABench, please cite it, and the paper whose attack it measures."
SOFTWARE_TITLE = "ASABench: a benchmark and leaderboard harness for the latent robustness of language model safety"
SOFTWARE_AUTHORS = "The ASABench authors"
PAPER_TITLE = "Probing the Safety Robustness of LLMs in Latent Space"
PAPER_AUTHORS = "Gu et al."
PAPER_YEAR = 2026
PAPER_ARXIV = "2506.16078"
PAPER_VENUE = "ACL 2026 (Long Papers)"
PAPER_URL = "https://doi.org/10.18653/v1/2026.acl-long.967"

_START, _END = "<!-- made by asabench push: start -->", "<!-- made by asabench push: end -->"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_GATE = {
    "extra_gated_heading": "Ask for access to ASABench",
    "extra_gated_prompt": (
        "The prompts in this data set ask for harm, and some of the answers comply. It exists to find out where a "
        "model's refusal is thin and whether a defence holds. By asking for access you agree to the conditions below."
    ),
    "extra_gated_fields": {
        "Affiliation": "text",
        "What I will use it for": "text",
        "I will use it to study, measure or improve the safety of language models": "checkbox",
        "I will not publish or pass on the texts, nor train a model to comply with them": "checkbox",
    },
    "extra_gated_button_content": "Agree and ask for access",
}


def make_card(
    benchmark: Benchmark,
    *,
    repo: str,
    version: str,
    licence: str,
    gated: bool,
    existing: str | None = None,
    replaced: Iterable[str] = (),
) -> str:
    """The card of a benchmark folder as version `version` of the dataset `repo`.

    existing: the card that is there. Of its YAML, keys and configs that are not ours stay; of its text, what stands
    outside our markers. replaced: the configs of the version before, which go.
    """
    ours = card_metadata(benchmark, licence=licence, gated=gated)
    theirs, text = split_card(existing or "")
    gone = {each["config_name"] for each in ours["configs"]} | set(replaced)
    for key in ("configs", "dataset_info"):
        kept = [each for each in _entries(theirs.get(key)) if each.get("config_name") not in gone]
        ours[key] = [*ours[key], *kept]
    ours |= {key: value for key, value in theirs.items() if key not in ours and key not in _GATE}
    head = yaml.safe_dump(ours, sort_keys=False, allow_unicode=True, width=120)
    body = f"{_START}\n{card_text(benchmark, repo=repo, version=version, licence=licence)}\n{_END}"
    before, _, rest = text.partition(_START) if _START in text else ("", "", text)
    after = rest.partition(_END)[2] if _END in rest else rest
    parts = (part.strip() for part in (before, body, after))
    return f"---\n{head}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def split_card(card: str) -> tuple[dict[str, Any], str]:
    """The YAML head and the text of a card; `UserError` when the head is not YAML."""
    match = re.match(r"---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", card, re.DOTALL)
    if match is None:
        return {}, card
    try:
        head = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        raise UserError(
            f"the head of the card on the Hub is not YAML ({type(error).__name__}); mend it there, then push again"
        ) from None
    return head if isinstance(head, dict) else {}, card[match.end() :]


def _entries(value: object) -> list[dict[str, Any]]:
    """`configs` or `dataset_info` of a card: a list, or the one entry alone."""
    found = value if isinstance(value, list) else [value]
    return [each for each in found if isinstance(each, dict)]


def card_metadata(benchmark: Benchmark, *, licence: str, gated: bool) -> dict[str, Any]:
    """The YAML head."""
    rows = benchmark.manifest.instances
    size = next((name for limit, name in _SIZES if rows < limit), "n>1M")
    configs: list[dict[str, Any]] = []
    features: list[dict[str, Any]] = []
    for model in benchmark.manifest.models:
        if sides := _sides(model):
            configs.append(_config(model.config, model.config, sides))
            features.append({"config_name": model.config, "features": _features(INSTANCE_COLUMNS)})
        if model.attempts is not None:
            configs.append(_config(model.config + ATTEMPTS_SUFFIX, model.config, ("attempts",)))
            features.append({"config_name": model.config + ATTEMPTS_SUFFIX, "features": _features(ATTEMPT_COLUMNS)})
    if whole := [side for side in SPLITS if any(side in _sides(model) for model in benchmark.manifest.models)]:
        configs.insert(0, _config_of_all(benchmark.manifest.models, whole))
        features.insert(0, {"config_name": ALL, "features": _features(INSTANCE_COLUMNS)})
    return {
        "pretty_name": "ASABench" + (" (redacted)" if benchmark.manifest.redacted else ""),
        "license": licence,
        "language": ["en"],
        "task_categories": ["text-generation"],
        "size_categories": [size],
        "tags": ["asabench", "ai-safety", "robustness", "activation-steering", "red-teaming", f"arxiv:{PAPER_ARXIV}"]
        + ([] if benchmark.manifest.redacted else ["not-for-all-audiences"]),
        **(_GATE if gated else {}),
        "configs": configs,
        "dataset_info": features,
    }


def _sides(model: ModelEntry) -> list[Split]:
    """The splits of a model's instances that have rows: `datasets` fails on a file without any."""
    rows: dict[Split, int] = {"train": model.train, "test": model.test}
    return [side for side in SPLITS if rows[side]]


def _config(name: str, folder: str, parts: Iterable[str]) -> dict[str, Any]:
    data_files = [{"split": part, "path": f"{folder}/{part}-*.parquet"} for part in parts]
    return {"config_name": name, "data_files": data_files}


def _config_of_all(models: Iterable[ModelEntry], sides: Iterable[Split]) -> dict[str, Any]:
    """Each side's files of every model that has rows there."""
    models = list(models)
    data_files = [
        {"split": side, "path": [f"{model.config}/{side}-*.parquet" for model in models if side in _sides(model)]}
        for side in sides
    ]
    return {"config_name": ALL, "default": True, "data_files": data_files}


def _features(columns: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "dtype": kind} for name, kind in columns.items()]


def card_text(benchmark: Benchmark, *, repo: str, version: str, licence: str) -> str:
    """The text under the head."""
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=False)
    environment.filters.update(
        number=lambda value: f"{value:,}",
        quoted=lambda value: f'"{value}"',
        cell=lambda value: str(value).replace("|", "\\|"),
        fragile=lambda model: "; ".join(map(_fragile, model.fragile_layers)) or "not known",
        rate=lambda rate: in_words(rate, "not known"),
    )
    template = files("asabench.dataset").joinpath("templates", "card.md.j2").read_text(encoding="utf-8")
    manifest = benchmark.manifest
    return environment.from_string(template).render(
        title=TITLE,
        documentation=link("docs/dataset.md"),
        repo=repo,
        version=version,
        digest=manifest.digest,
        redacted=manifest.redacted,
        origin=manifest.origin,
        asabench_version=manifest.asabench_version,
        created=manifest.created[:10],
        protocol=manifest.protocol,
        judge=manifest.judge,
        prompts=manifest.prompts,
        models=manifest.models,
        example=_example(manifest.models),
        example_sides=_sides(_example(manifest.models)) if manifest.models else [],
        total={
            "instances": manifest.instances,
            "attempts": manifest.attempts,
            "train": sum(model.train for model in manifest.models),
            "test": sum(model.test for model in manifest.models),
        },
        instance_columns=INSTANCE_COLUMNS,
        attempt_columns=ATTEMPT_COLUMNS,
        picture=PICTURE,
        paper_url=PAPER_URL,
        licence=licence,
        advbench=_from_advbench(manifest),
        citation_message=CITATION_MESSAGE,
        bibtex=bibtex(repo, version),
    )


def _example(models: Iterable[ModelEntry]) -> ModelEntry:
    """The model that the card's lines of code name."""
    return max(models, key=lambda model: model.instances)


def _from_advbench(manifest: Manifest) -> bool:
    return manifest.origin == "original-layout" or (
        manifest.prompts is not None and manifest.prompts.name == "advbench"
    )


def _fragile(found: FragileLayers) -> str:
    where = f"{found.attack} at {found.dose:g}"
    if found.peak is None:
        return f"{where}: none"
    before, after = ("none" if layer is None else str(layer) for layer in (found.before, found.after))
    return f"{where}: {before} / **{found.peak}** / {after}"


def bibtex(repo: str, version: str) -> str:
    """What to cite: this version of the data, and the paper."""
    from asabench.dataset.hub import repo_url

    return f"""\
@misc{{asabench,
  title  = {{{{{SOFTWARE_TITLE}}}}},
  author = {{{{{SOFTWARE_AUTHORS}}}}},
  note   = {{Data set {repo}, version {version}}},
  url    = {{{repo_url(repo)}}}
}}
@inproceedings{{gu{PAPER_YEAR}probing,
  title   = {{{{{PAPER_TITLE}}}}},
  author  = {{{PAPER_AUTHORS}}},
  year    = {{{PAPER_YEAR}}},
  booktitle = {{{PAPER_VENUE}}},
  note    = {{arXiv:{PAPER_ARXIV}}},
  url     = {{{PAPER_URL}}}
}}"""


def instances_by_layer(benchmark: Benchmark) -> dict[str, dict[int, int]]:
    """How many instances each config has at each layer; layers without one are 0 where the model's depth is known."""
    counts: dict[str, dict[int, int]] = {}
    for model in benchmark.manifest.models:
        found: Counter[int] = Counter(dict.fromkeys(range(model.n_layers or 0), 0))
        found.update(benchmark.instances(model.config, columns=["layer"])["layer"].to_pylist())
        counts[model.config] = dict(sorted(found.items()))
    return counts


def draw_counts(counts: Mapping[str, Mapping[int, int]]) -> bytes:
    """A PNG: one line a model, one cell a layer, darker with more instances; beyond a model's depth it is grey."""
    import matplotlib.style
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    width = max((max(layers, default=0) + 1 for layers in counts.values()), default=1)
    grid = np.full((len(counts), width), np.nan)
    for row, layers in enumerate(counts.values()):
        for layer, number in layers.items():
            grid[row, layer] = number
    # Names may hold a dollar sign; a reader's matplotlibrc must not change the picture
    with matplotlib.style.context(["default", {"font.size": 9.5, "text.parse_math": False}]):
        figure = Figure(figsize=(8, 1.4 + 0.34 * len(counts)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_facecolor("#bbbbbb")
        # Edges of cells lie half-way between the numbers of layers
        mesh = axes.pcolormesh(grid, cmap="Blues", vmin=0, edgecolors="white", linewidth=1.5)
        axes.set_yticks(np.arange(len(counts)) + 0.5, list(counts))
        axes.invert_yaxis()
        every = max(1, width // 16)
        axes.set_xticks(np.arange(0, width, every) + 0.5, [str(layer) for layer in range(0, width, every)])
        axes.tick_params(length=0)
        axes.set_xlabel("decoder block (from 0)")
        axes.set_title("Instances by model and layer")
        axes.spines[:].set_visible(False)
        figure.colorbar(mesh, ax=axes, label="instances", ticks=MaxNLocator(integer=True))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    return buffer.getvalue()
