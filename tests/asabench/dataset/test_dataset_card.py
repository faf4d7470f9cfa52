"""The dataset card: what it says, what it keeps, and what it never shows."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard

from asabench.core.errors import UserError
from asabench.core.estimate import Kappa, Rate
from asabench.core.row import JudgeFigures, JudgeInfo, PromptSetInfo
from asabench.dataset import card
from asabench.dataset.card import card_metadata, draw_counts, instances_by_layer, make_card, split_card
from asabench.dataset.files import Benchmark, Manifest, read_benchmark
from asabench.dataset.schema import ATTEMPT_COLUMNS, INSTANCE_COLUMNS, SPLIT_COLUMNS
from asabench.dataset.splits import leakfree_split
from tests.asabench.dataset.dataset_fixtures import BROKEN, benchmark_folder, finished_run, prompt
from tests.conftest import ROOT

CITATION = ROOT / "CITATION.cff"
CONFIG = "lab--Small-1B"


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    folder = tmp_path_factory.mktemp("built")
    runs = [finished_run(folder / name, model=f"lab/{name}") for name in ("Small-1B", "Other-2B")]
    benchmark_folder(folder / "set", *runs)
    return read_benchmark(folder / "set")


def made(benchmark: Benchmark, **options: Any) -> str:
    return make_card(benchmark, **{"repo": "lab/ASABench", "version": "v1", "licence": "mit", "gated": True, **options})


def changed(benchmark: Benchmark, **fields: Any) -> Benchmark:
    return Benchmark(benchmark.path, benchmark.manifest.model_copy(update=fields))


def test_it_agrees_with_the_citation_file(benchmark: Benchmark) -> None:
    citation = yaml.safe_load(CITATION.read_text())
    paper = citation["references"][0]
    text = made(benchmark)
    assert citation["message"] == card.CITATION_MESSAGE
    assert citation["title"] == card.SOFTWARE_TITLE
    assert [author["name"] for author in citation["authors"]] == [card.SOFTWARE_AUTHORS]
    assert paper["title"] == card.PAPER_TITLE
    assert [author["name"] for author in paper["authors"]] == [card.PAPER_AUTHORS]
    assert paper["year"] == card.PAPER_YEAR
    assert paper["identifiers"][0]["value"] == f"arXiv:{card.PAPER_ARXIV}"
    assert paper["url"] == card.PAPER_URL
    assert paper["conference"]["name"] == card.PAPER_VENUE
    shown = (citation["message"], citation["title"], paper["title"], paper["url"], "note    = {arXiv:2506.16078}")
    assert all(words in text for words in shown)


def test_the_head(benchmark: Benchmark) -> None:
    text = made(benchmark)
    head = DatasetCard(text).data.to_dict()
    assert head["license"] == "mit"
    assert head["language"] == ["en"]
    assert "asabench" in head["tags"]
    assert "not-for-all-audiences" in head["tags"]
    assert head["size_categories"] == ["n<1K"]
    assert head["extra_gated_prompt"]
    configs = {each["config_name"]: each for each in head["configs"]}
    # Without a name it is the instances of all models
    assert configs["all"]["default"]
    assert {part["split"] for part in configs["all"]["data_files"]} == {"train", "test"}
    assert configs[CONFIG]["data_files"] == [
        {"split": "train", "path": f"{CONFIG}/train-*.parquet"},
        {"split": "test", "path": f"{CONFIG}/test-*.parquet"},
    ]
    assert configs[f"{CONFIG}.attempts"] == {
        "config_name": f"{CONFIG}.attempts",
        "data_files": [{"split": "attempts", "path": f"{CONFIG}/attempts-*.parquet"}],
    }
    described = {each["config_name"]: each["features"] for each in head["dataset_info"]}
    assert described[CONFIG] == [{"name": name, "dtype": kind} for name, kind in INSTANCE_COLUMNS.items()]
    assert {each["name"] for each in described[f"{CONFIG}.attempts"]} == set(ATTEMPT_COLUMNS)
    assert "&id" not in text, "YAML anchors are not for people"


def test_a_model_without_attempts_has_no_config_of_them(benchmark: Benchmark) -> None:
    models = tuple(model.model_copy(update={"attempts": None}) for model in benchmark.manifest.models)
    text = made(changed(benchmark, models=models, attempts=None))
    assert ".attempts" not in text
    assert "| not known |" in text


@pytest.mark.parametrize(
    ("instances", "size"), [(999, "n<1K"), (1_000, "1K<n<10K"), (4_862, "1K<n<10K"), (2_000_000, "n>1M")]
)
def test_the_size_category(benchmark: Benchmark, instances: int, size: str) -> None:
    head = card_metadata(changed(benchmark, instances=instances), licence="mit", gated=True)
    assert head["size_categories"] == [size]


def test_without_a_gate_or_without_texts(benchmark: Benchmark) -> None:
    gated = made(benchmark)
    free = made(changed(benchmark, redacted=True), gated=False, existing=gated)
    head = yaml.safe_load(free.split("---")[1])
    assert not [key for key in head if key.startswith("extra_gated")]
    assert "not-for-all-audiences" not in head["tags"]
    assert "This copy is redacted" in free
    assert "**Warning.**" in gated
    assert "**Warning.**" not in free


def test_the_statistics(benchmark: Benchmark) -> None:
    """Worked by hand from the letters of `benchmark_fixtures.BROKEN`: nine instances, and no prompt without one."""
    first = benchmark.manifest.models[0]
    lines = made(benchmark).splitlines()
    (row,) = [line for line in lines if line.startswith(f"| `{CONFIG}` |")]
    assert row == (
        f"| `{CONFIG}` | lab/Small-1B @ `sha256:feedf` | 4 | 9 | 6 | {first.train} | {first.test} | 30 "
        "| random at 1: 0 / **1** / 3 |"
    )
    (total,) = [line for line in lines if line.startswith("| **all** |")]
    assert "**18**" in total
    assert "**60**" in total
    assert benchmark.manifest.digest in made(benchmark)


def test_it_warns_of_the_published_split(benchmark: Benchmark) -> None:
    splits = made(benchmark).split("## Splits")[1].split("##")[0]
    assert all(name in splits for name in SPLIT_COLUMNS)
    published = splits[splits.index("split_published_by_layer") :].split("\n- ")[0]
    assert "same prompt on" in published


def test_where_it_is_from(benchmark: Benchmark) -> None:
    ours = made(changed(benchmark, prompts=PromptSetInfo(name="advbench", digest="c" * 64, n=50)))
    assert "protocol `asabench-v1`" in ours
    assert "AdvBench (Zou et al. 2023, MIT licence), 50 of them" in ours
    assert "`judge-x@1`" in ours
    assert "**not** checked against people" in ours
    other = made(changed(benchmark, prompts=PromptSetInfo(name="mine", digest="c" * 64, n=50)))
    assert "`mine`, 50 of them" in other
    assert "AdvBench" not in other
    published = made(changed(benchmark, origin="original-layout", protocol=None, judge=None))
    assert "QwQ-32B" in published
    assert "Regenerated" not in published


def test_a_judge_that_was_checked(benchmark: Benchmark) -> None:
    rate = Rate(value=0.91, low=0.88, high=0.94)
    figures = JudgeFigures(
        set_name="people",
        set_digest="d" * 64,
        n=395,
        n_unsafe=200,
        unscored=0,
        balanced_accuracy=rate,
        sensitivity=rate,
        specificity=Rate(value=None, low=None, high=None),
        kappa=Kappa(value=None, low=None, high=None),
        label_recall={},
    )
    text = made(changed(benchmark, judge=JudgeInfo(id="j", description="asks a model", figures=figures)))
    assert "on 395 labelled pairs: balanced accuracy 0.91 [0.88, 0.94]" in text
    assert "specificity not known" in text


def test_equal_folders_give_equal_cards_and_a_card_is_stable(benchmark: Benchmark) -> None:
    first = made(benchmark)
    assert made(benchmark) == first
    assert made(benchmark, existing=first) == first
    assert make_card(benchmark, repo="lab/ASABench", version="v2", licence="mit", gated=True, existing=first) != first


def test_what_people_wrote_stays(benchmark: Benchmark) -> None:
    theirs = (
        "---\nlicense: other\nviewer: false\nconfigs:\n- config_name: gone\n- config_name: kept\n---\nTheir words.\n"
    )
    head, text = split_card(made(benchmark, existing=theirs, replaced=["gone"]))
    assert head["viewer"] is False
    assert head["license"] == "mit"
    names = [each["config_name"] for each in head["configs"]]
    assert "kept" in names
    assert "gone" not in names
    assert text.rstrip().endswith("Their words.")
    assert split_card("No head at all.") == ({}, "No head at all.")
    with pytest.raises(UserError, match="not YAML"):
        split_card("---\n: [\n---\n")


def test_it_shows_no_text_of_the_data(benchmark: Benchmark) -> None:
    text = made(benchmark)
    for config in benchmark.configs:
        table = benchmark.instances(config)
        for name in ("prompt", "original_response", "steered_response"):
            assert not any(value in text for value in table[name].to_pylist() if value)


def test_counts_by_layer(benchmark: Benchmark) -> None:
    assert instances_by_layer(benchmark) == {
        CONFIG: {0: 3, 1: 3, 2: 1, 3: 2},
        "lab--Other-2B": {0: 3, 1: 3, 2: 1, 3: 2},
    }
    # A layer without an instance counts, where the depth is known
    deeper = tuple(model.model_copy(update={"n_layers": 6}) for model in benchmark.manifest.models)
    assert instances_by_layer(changed(benchmark, models=deeper))[CONFIG][5] == 0


def test_the_picture() -> None:
    shallow, deep = {0: 1, 1: 0}, dict.fromkeys(range(40), 3)
    image = draw_counts({"a": shallow, "$b$": deep})
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert draw_counts({"a": shallow, "$b$": deep}) == image
    assert draw_counts({"a": {0: 0, 1: 1}, "$b$": deep}) != image

    def height(counts: dict[str, dict[int, int]]) -> int:
        return int(struct.unpack(">II", draw_counts(counts)[16:24])[1])

    assert height({str(n): deep for n in range(8)}) > height({"a": deep})


def test_it_is_made_from_any_manifest(benchmark: Benchmark) -> None:
    """Names with signs that mean something in Markdown do not break the table."""
    model = benchmark.manifest.models[0].model_copy(update={"name": "a|b", "n_layers": None, "revision": None})
    manifest: Manifest = benchmark.manifest.model_copy(update={"models": (model,)})
    lines = made(Benchmark(benchmark.path, manifest)).splitlines()
    (row,) = [line for line in lines if line.startswith(f"| `{CONFIG}` |")]
    assert "a\\|b | unknown |" in row


# A side without rows


@pytest.mark.parametrize("sides", [("train",), ("test",), ("train", "test"), ()], ids="-".join)
def test_datasets_loads_the_sides_that_have_rows(tmp_path: Path, sides: tuple[str, ...]) -> None:
    """Prompts fall on a side by their digests; where few break, a side is empty, or both are."""
    datasets = pytest.importorskip("datasets")
    on = [leakfree_split(prompt(number).digest) for number in range(len(BROKEN))]
    assert set(on) == {"train", "test"}
    run = finished_run(tmp_path / "run", broken=["us" if side in sides else "ss" for side in on], clean="s" * len(on))
    benchmark_folder(tmp_path / "set", run)
    found = read_benchmark(tmp_path / "set")
    text = made(found)
    (found.path / "README.md").write_text(text, encoding="utf-8")
    head = yaml.safe_load(text.split("---")[1])
    named = {each["config_name"]: [part["split"] for part in each["data_files"]] for each in head["configs"]}
    config = found.configs[0]
    own = {"all": list(sides), config: list(sides)} if sides else {}
    assert named == {**own, f"{config}.attempts": ["attempts"]}
    assert {each["config_name"] for each in head["dataset_info"]} == set(named)
    for name, splits in named.items():
        loaded = datasets.load_dataset(str(found.path), name, cache_dir=str(tmp_path / "cache"))
        rows = {split: on.count(split) if split in sides else len(on) * 3 for split in splits}
        assert {split: len(table) for split, table in loaded.items()} == rows
    lines = [line.split(" = ")[0] for line in text.splitlines() if "datasets.load_dataset(" in line]
    assert lines == [*sides[:1], "attempts"]
