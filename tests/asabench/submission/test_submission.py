"""Submissions: made from a run, validated, and more than forty ways to break one or to cheat with one."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from asabench.card.making import make_card
from asabench.card.records import Generalisation, ModelCard, ModelName, read_card
from asabench.core.errors import UserError
from asabench.core.estimate import Rate
from asabench.core.prompts import load_prompts
from asabench.core.records import Label, Prompt, Response, Verdict
from asabench.core.row import JudgeInfo
from asabench.core.utility_report import BenignRates, RequestSet, UtilityReport
from asabench.judging.certificate import certificate
from asabench.judging.labelled_pairs import gold_pairs, labelled_pairs
from asabench.runs.folder import read_run
from asabench.submission.findings import Refused
from asabench.submission.make import (
    Details,
    TrainedOn,
    make_submission,
    manifest_of,
    merged_table,
    read_judged,
    slug_of,
)
from asabench.submission.schema import SUBMISSION_FILE, VERDICTS_FILE, BaseModelRef
from asabench.submission.validate import Validation, validate, validate_folder
from asabench.submission.verdict_table import METRIC_COLUMNS, parse_verdicts, table_bytes
from harness.evaluation.evaluate import evaluate
from harness.judges.check import SHORT_SET, check_judge
from tests.card_fixtures import submitted_card
from tests.command_line import asabench, asabench_process
from tests.conftest import tiny_subject
from tools.speed.board_entries import write_entries

RIGHT = {(pair.goal, pair.response): min(pair.right) for pair in gold_pairs()}
SLUG = "tiny-llama-hardened-asabench-v1"
REVISION_OF_RUN = "sha256:0123456789abcdef"
UNSEEN = tuple(hashlib.sha256(f"training request {n}".encode()).hexdigest() for n in range(3))


class Knowing:
    """A judge that knows the labelled pairs, and reads a run's answers by their letters."""

    info = JudgeInfo(id="knowing@1", description="for tests", kind="llm")

    def __call__(self, responses: list[Response]) -> list[Verdict]:
        return [
            Verdict(cell_id=r.cell.id, judge=self.info.id, label=self._label(r), p_unsafe=self._p(r)) for r in responses
        ]

    def _label(self, response: Response) -> Label:
        if response.cell.attack == "labelled":
            return RIGHT[response.cell.prompt.goal, response.text]
        return "unsafe" if self._p(response) > 0.5 else "safe"

    def _p(self, response: Response) -> float:
        return hashlib.sha256(response.text.encode()).digest()[0] / 255


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    subject = tiny_subject("llama")
    pinned = type(subject)(**{**vars(subject), "revision": REVISION_OF_RUN})
    evaluate(
        pinned,
        prompts="quickstart",
        limit=4,
        doses=(0.5, 1.0),
        max_new_tokens=5,
        attack=["random", "gradient:direction=descend"],
        target="Sure, here is",
        judge=Knowing(),
        out=path,
    )
    return path


def utility_report(**changes: Any) -> UtilityReport:
    half = Rate(value=0.9, low=0.8, high=0.95)
    requests = RequestSet(name="my-requests", digest="0123456789abcdef", n=10)
    fields: dict[str, Any] = dict(
        created="2026-11-21T12:00:00+00:00",
        asabench_version="0.1.0",
        model="tiny-llama",
        revision="sha256:0123456789abcdef",
        dtype="float32",
        benign_set=requests,
        over_refusal_set=requests,
        refusal_detector="refusals@1",
        clean=BenignRates(benign_answer_rate=half, over_refusal=Rate(value=0.1, low=0.0, high=0.2)),
    )
    return UtilityReport(**{**fields, **changes})


def details(**changes: Any) -> Details:
    fields: dict[str, Any] = dict(
        name="tiny-llama hardened",
        authors=("A. Author",),
        licence="MIT",
        defence="LAPT",
        base=BaseModelRef(name="tiny-base", revision="sha256:fedcba9876543210"),
        training=(TrainedOn(name="own requests", examples=3, goals=UNSEEN),),
    )
    return Details(**{**fields, **changes})


def submit(run: Path, out: Path, **changes: Any) -> Validation:
    held = certificate(check_judge(Knowing(), labelled_pairs(SHORT_SET), SHORT_SET))
    card = submitted_card("sha256:0123456789abcdef", "sha256:fedcba9876543210")
    return make_submission([run], details(**changes), utility=utility_report(), certificate=held, card=card, out=out)


@pytest.fixture(scope="module")
def original(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("submissions")
    submit(run, out)
    return out / SLUG


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of a valid submission, to break."""
    copy = tmp_path / "submissions" / SLUG
    shutil.copytree(original, copy)
    return copy


# A valid one


def test_a_submission_is_valid_and_holds_no_text(folder: Path, run: Path) -> None:
    found = validate_folder(folder)
    assert found.findings == ()
    assert found.row is not None
    assert found.row.masr == read_run(run).row.masr
    everything = b"".join(path.read_bytes() for path in folder.iterdir())
    responses = read_run(run).responses()
    for text in {*responses["goal"], *(text for text in responses["text"] if len(text) > 4)}:
        assert text.encode() not in everything
    assert str(run).encode() not in everything, "no path of a machine"


def test_of_a_card_it_keeps_what_the_other_files_do_not_hold(folder: Path, run: Path, tmp_path: Path) -> None:
    """The whole card is given, as `asabench card` writes it."""
    own = ModelName(name="tiny-llama", revision="sha256:0123456789abcdef")
    base = ModelName(name="tiny-base", revision="sha256:fedcba9876543210")
    card = make_card(own, base, run=read_run(run), utility=utility_report(), trained_layers=[1])
    assert card.resistance is not None
    assert card.generalisation.by_layer
    held = certificate(check_judge(Knowing(), labelled_pairs(SHORT_SET), SHORT_SET))
    make_submission([run], details(), utility=utility_report(), card=card, certificate=held, out=tmp_path / "out")
    kept = read_card(tmp_path / "out" / SLUG / "card.json")
    assert kept == ModelCard(
        created=card.created,
        asabench_version=card.asabench_version,
        model=own,
        base=base,
        generalisation=Generalisation(trained_layers=(1,)),
    )


def test_some_columns_of_the_verdicts_are_those_of_all(folder: Path) -> None:
    content = (folder / VERDICTS_FILE).read_bytes()
    whole, some = parse_verdicts(content), parse_verdicts(content, METRIC_COLUMNS)
    assert list(some) == list(METRIC_COLUMNS)
    pd.testing.assert_frame_equal(some, whole[list(METRIC_COLUMNS)])
    not_a_number(folder)
    with pytest.raises(Refused, match="p_unsafe"):  # those that are left out are checked too
        parse_verdicts((folder / VERDICTS_FILE).read_bytes(), METRIC_COLUMNS)


def test_its_rates_follow_from_its_verdicts(folder: Path, run: Path) -> None:
    table = parse_verdicts((folder / VERDICTS_FILE).read_bytes())
    assert len(table) == len(read_run(run).responses())
    at = table[(table["attack"] == "random") & (table["dose"] == 1.0)]
    broken = at.assign(unsafe=at["label"] == "unsafe").groupby("prompt_id")["unsafe"].any()
    row = json.loads((folder / "row.json").read_text())
    result = next(r for r in row["results"] if (r["attack"], r["dose"]) == ("random", 1.0))
    assert result["masr"]["value"] == pytest.approx(broken.mean())


def test_what_keeps_it_out_of_the_ranking_is_a_notice(folder: Path) -> None:
    notices = " ".join(validate_folder(folder).notices)
    for word in ("prompts", "pgd", "not the published protocol"):
        assert word in notices


def test_two_runs_of_other_attacks_are_one_submission(run: Path, tmp_path: Path) -> None:
    subject = tiny_subject("llama")
    pinned = type(subject)(**{**vars(subject), "revision": REVISION_OF_RUN})
    choices: dict[str, Any] = dict(
        prompts="quickstart", limit=4, doses=(0.5, 1.0), max_new_tokens=5, target="Sure, here is", judge=Knowing()
    )
    more = evaluate(pinned, attack="gradient:direction=ascend", out=tmp_path / "more", **choices).path
    held = certificate(check_judge(Knowing(), labelled_pairs(SHORT_SET), SHORT_SET))
    done = make_submission([run, more], details(), utility=utility_report(), certificate=held, out=tmp_path / "out")
    assert done.row is not None
    assert {r.attack for r in done.row.results} == {"random", "gradient-descend", "gradient-ascend"}
    other = evaluate(pinned, attack="gradient:direction=ascend", layers="0", out=tmp_path / "other", **choices).path
    with pytest.raises(UserError, match="layers"):
        make_submission([run, other], details(), utility=utility_report(), certificate=held, out=tmp_path / "out2")
    with pytest.raises(UserError, match="attack"):
        make_submission([run, run], details(), utility=utility_report(), certificate=held, out=tmp_path / "out3")


def test_runs_must_agree_on_the_labels_of_clean_answers(run: Path) -> None:
    """Both have them, and one of two labels would be left out without a word."""
    judged = read_judged(run)
    manifest = manifest_of([judged])
    assert len(merged_table([judged, judged], manifest)) == len(judged.table)
    for label in ("incoherent", None):
        other = judged.table.copy()
        other.loc[other["layer"].isna() & (other["prompt_id"] == other["prompt_id"].iloc[0]), "label"] = label
        with pytest.raises(UserError, match=r"label equal clean answers to 1 prompts.*asabench judge RUN"):
            merged_table([judged, replace(judged, table=other)], manifest)


def test_a_standard_run_stays_under_five_megabytes() -> None:
    """100 prompts x 32 layers x 3 doses x (3 random draws + 3 attacks): digests do not pack, the rest does."""
    rng = random.Random(0)
    cells = [
        dict(prompt_id=f"advbench-{p:03d}", layer=layer, attack=attack, dose=dose, seed=seed)
        for attack, seeds in (
            ("random", (0, 1, 2)),
            ("gradient-ascend", (None,)),
            ("gradient-descend", (None,)),
            ("pgd", (None,)),
        )
        for dose in (0.1, 0.3, 1.0)
        for seed in seeds
        for layer in range(32)
        for p in range(100)
    ]
    table = pd.DataFrame(cells)
    table["layer"], table["seed"] = table["layer"].astype("Int32"), table["seed"].astype("Int64")
    table["label"] = [rng.choice(["safe", "unsafe", "incoherent"]) for _ in cells]
    table["p_unsafe"] = [rng.random() for _ in cells]
    table["response_sha256"] = [rng.randbytes(16) for _ in cells]
    table["response_tokens"] = [rng.randrange(51) for _ in cells]
    table["response_characters"] = [rng.randrange(300) for _ in cells]
    content = table_bytes(table)
    assert len(content) < 4_500_000
    assert len(parse_verdicts(content)) == len(cells) == 57_600


def test_an_existing_submission_is_not_overwritten(run: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="--replace"):
        submit(run, folder.parent)


def test_a_copied_run_is_said_at_once(run: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"cannot be submitted: .*the same model, protocol and judge as .*{SLUG}"):
        submit(run, folder.parent, slug="again")
    assert [path.name for path in folder.parent.iterdir()] == [SLUG]
    with pytest.raises(UserError, match=r"cannot be submitted: .*base.entry: nobody is not there"):
        base = BaseModelRef(name="b", revision="sha256:fedcba9876543210", entry="nobody")
        submit(run, tmp_path / "elsewhere", base=base)


def test_it_may_take_the_place_of_itself(run: Path, folder: Path) -> None:
    held = certificate(check_judge(Knowing(), labelled_pairs(SHORT_SET), SHORT_SET))
    done = make_submission([run], details(), certificate=held, out=folder.parent, replace=True)
    assert done.ok
    assert not (folder / "utility.json").exists()


def test_a_slug_is_made_of_plain_letters() -> None:
    assert slug_of("My Model, v2!", "gu2025") == "my-model-v2-gu2025"
    with pytest.raises(UserError, match="--slug"):
        slug_of("../..", "")


# Broken and dishonest ones


def write(folder: Path, name: str, content: bytes) -> None:
    """Writes a file as somebody would who also corrects its digest."""
    (folder / name).write_bytes(content)
    path = folder / SUBMISSION_FILE
    submission = yaml.safe_load(path.read_text())
    submission["files"][name] = hashlib.sha256(content).hexdigest()
    path.write_text(yaml.safe_dump(submission, sort_keys=False))


def in_json(name: str, *keys: str | int, value: Any = None, change: Callable[[Any], Any] | None = None) -> Any:
    def mutate(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        where = content
        for key in keys[:-1]:
            where = where[key]
        where[keys[-1]] = value if change is None else change(where[keys[-1]])
        write(folder, name, json.dumps(content).encode())

    return mutate


def in_yaml(*keys: str | int, value: Any = None, drop: bool = False) -> Any:
    def mutate(folder: Path) -> None:
        path = folder / SUBMISSION_FILE
        content = yaml.safe_load(path.read_text())
        where = content
        for key in keys[:-1]:
            where = where[key]
        if drop:
            del where[keys[-1]]
        else:
            where[keys[-1]] = value
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    return mutate


def in_table(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Any:
    def mutate(folder: Path) -> None:
        write(folder, VERDICTS_FILE, table_bytes(change(parse_verdicts((folder / VERDICTS_FILE).read_bytes()))))

    return mutate


def one_more_safe(table: pd.DataFrame) -> pd.DataFrame:
    """Every unsafe answer under `random` is called safe: the label is changed, the row is not."""
    return table.assign(label=table["label"].where(table["attack"] != "random", "safe"))


def swapped_attacks(table: pd.DataFrame) -> pd.DataFrame:
    names = {"random": "gradient-descend", "gradient-descend": "random"}
    return table.assign(attack=table["attack"].replace(names))


def set_first(column: str, value: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        values = table[column].tolist()
        values[0] = value
        return table.assign(**{column: pd.Series(values, dtype=table[column].dtype)})

    return change


def not_a_number(folder: Path) -> None:
    table = pq.read_table(folder / VERDICTS_FILE)
    values = [float("nan"), *table.column("p_unsafe").to_pylist()[1:]]
    place = table.schema.get_field_index("p_unsafe")
    out = io.BytesIO()
    pq.write_table(table.set_column(place, "p_unsafe", pa.array(values, pa.float32())), out, store_schema=False)
    write(folder, VERDICTS_FILE, out.getvalue())


def text_column(folder: Path) -> None:
    table = pq.read_table(folder / VERDICTS_FILE)
    out = io.BytesIO()
    pq.write_table(table.append_column("text", pa.array(["an answer"] * len(table))), out, store_schema=False)
    write(folder, VERDICTS_FILE, out.getvalue())


def hidden_metadata(folder: Path) -> None:
    table = pq.read_table(folder / VERDICTS_FILE).replace_schema_metadata({"note": "an answer"})
    out = io.BytesIO()
    pq.write_table(table, out)
    write(folder, VERDICTS_FILE, out.getvalue())


def zip_bomb(folder: Path) -> None:
    """A small file that unpacks to hundreds of megabytes."""
    out = io.BytesIO()
    rows = 900_000
    names = pa.array(["x" * 70] * rows)
    pq.write_table(
        pa.table({"prompt_id": names, "attack": names, "label": names}), out, compression="zstd", use_dictionary=False
    )
    assert len(out.getvalue()) < 5_000_000
    write(folder, VERDICTS_FILE, out.getvalue())


def yaml_bomb(folder: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    (folder / SUBMISSION_FILE).write_text("\n".join(lines))


def raw(name: str, content: bytes) -> Any:
    return lambda folder: (folder / name).write_bytes(content)


def linked(folder: Path) -> None:
    (folder / "utility.json").unlink()
    (folder / "utility.json").symlink_to("/etc/hostname")


def tested_on_its_training_prompts(folder: Path) -> None:
    goals = [prompt.digest for prompt in load_prompts("quickstart").prompts[:2]]
    write(folder, "training_prompts.txt", "".join(f"{digest}\n" for digest in goals).encode())


def other_order(folder: Path) -> None:
    def swap(prompts: list[Any]) -> list[Any]:
        return [prompts[1], prompts[0], *prompts[2:]]

    in_json("manifest.json", "prompts", change=swap)(folder)


def better_certificate(folder: Path) -> None:
    path = ("result", "figures", "balanced_accuracy", "value")
    in_json("certificate.json", *path, value=0.99)(folder)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    # what is said of the run
    "a changed label": (in_table(one_more_safe), r"row\.json: (results|masr|lasr|verdicts)|verdicts\.parquet: label"),
    "a dropped layer": (in_table(lambda t: t[~(t["layer"] == 1).fillna(False)]), r"verdicts\.parquet: .*lack|missing"),
    "a dropped prompt": (in_table(lambda t: t[t["prompt_id"] != t["prompt_id"].iloc[0]]), "verdicts"),
    "a dropped attack": (in_table(lambda t: t[t["attack"] != "gradient-descend"]), "verdicts"),
    "clean answers left out": (in_table(lambda t: t[t["layer"].notna()]), "verdicts"),
    "a cell twice": (in_table(lambda t: pd.concat([t, t.tail(1)], ignore_index=True)), r"verdicts\.parquet"),
    "swapped attacks": (in_table(swapped_attacks), r"verdicts\.parquet|row\.json"),
    "a layer that is not there": (in_table(set_first("layer", 77)), r"verdicts\.parquet"),
    "a dose nobody asked for": (in_table(lambda t: t.assign(dose=t["dose"].replace(1.0, 0.9))), r"verdicts\.parquet"),
    "another seed": (in_table(lambda t: t.assign(seed=t["seed"].replace(0, 5))), r"verdicts\.parquet"),
    "a negative length": (in_table(set_first("response_tokens", -4)), "response_tokens"),
    "an absurd length": (in_table(set_first("response_tokens", 10**9)), "response_tokens"),
    "a P(unsafe) that is no number": (not_a_number, "p_unsafe: NaN in 1 lines"),
    "P(unsafe) above one": (in_table(set_first("p_unsafe", 7.0)), "p_unsafe"),
    "an unknown label": (in_table(set_first("label", "fine")), "label"),
    "a text for a label": (in_table(set_first("label", "<script>alert(1)</script>")), "label"),
    "a better MASR": (in_json("row.json", "masr", "value", value=0.0), r"row\.json: masr"),
    "a narrower interval": (in_json("row.json", "pasr", "high", value=0.01), r"row\.json: pasr"),
    "no flags": (in_json("row.json", "flags", value=["masked", "made up"]), r"row\.json: flags"),
    "NaN": (in_json("row.json", "masr", "value", value=float("nan")), r"row\.json"),
    "an absurd size": (in_json("row.json", "model", "n_parameters", value=10**30), r"row\.json|manifest\.json"),
    "a date to come": (in_json("row.json", "created", value="2199-01-01T00:00:00+00:00"), r"row\.json: created"),
    "an unknown field": (in_json("row.json", "note", value="hello"), r"row\.json: note"),
    "a certified judge that is none": (in_json("row.json", "judge", "certified", value=False), r"row\.json: judge"),
    # where it comes from
    "an older protocol": (
        in_json("manifest.json", "runs", 0, "settings", "protocol", "max_new_tokens", value=4),
        r"manifest\.json: runs\.0\.run_id|response_tokens",
    ),
    "another run's id": (
        in_json("manifest.json", "runs", 0, "run_id", value="0" * 16),
        r"manifest\.json: runs\.0\.run_id",
    ),
    "prompts in another order": (other_order, r"manifest\.json: prompts"),
    "a prompt under a known name": (
        in_json("manifest.json", "prompts", 0, "sha256", value="0" * 64),
        r"manifest\.json: prompts\.0",
    ),
    "another model in the manifest": (in_json("manifest.json", "model", "name", value="llama-9"), r"model\.name"),
    "an unfinished run": (in_json("manifest.json", "runs", 0, "finished", value=None), "finished"),
    "a copied certificate": (
        in_json("certificate.json", "result", "judge", "id", value="other@2"),
        r"certificate\.json: result\.judge\.id",
    ),
    "a certificate with better figures": (better_certificate, r"certificate\.json"),
    "a certificate of other pairs": (
        in_json("certificate.json", "result", "figures", "set_digest", value="0" * 64),
        r"certificate\.json: result\.figures\.set_digest",
    ),
    "a lower bar": (in_json("certificate.json", "bar", value=0.5), r"certificate\.json: bar"),
    "no certificate": (lambda f: (f / "certificate.json").unlink(), r"certificate\.json"),
    "a certificate of another schema": (
        in_json("certificate.json", "schema_version", value=2),
        r"certificate\.json: schema_version: 2",
    ),
    "a utility report of another schema": (
        in_json("utility.json", "schema_version", value=2),
        r"utility\.json: schema_version: 2",
    ),
    "another model's utility": (
        in_json("utility.json", "revision", value="sha256:9999999999999999"),
        r"utility\.json: revision",
    ),
    "utility above one": (
        in_json("utility.json", "clean", "benign_answer_rate", "value", value=1.7),
        r"utility\.json: clean\.benign_answer_rate",
    ),
    "another model's card": (
        in_json("card.json", "model", "revision", value="sha256:9999999999999999"),
        r"card\.json: model\.revision",
    ),
    "a card beside another base": (
        in_json("card.json", "base", "revision", value="sha256:9999999999999999"),
        r"card\.json: base\.revision",
    ),
    "a card of a block that is not there": (
        in_json("card.json", "generalisation", "trained_layers", value=[0, 99]),
        r"card\.json: generalisation\.trained_layers",
    ),
    "a card that says what other files hold": (
        in_json("card.json", "stability", value={"lines": [], "sets": []}),
        r"card\.json: card: parts",
    ),
    "a better loss": (
        in_json("card.json", "trainability", "model", "learning", 2, "value", value=0.1),
        r"card\.json: trainability\.model\.learning\.2\.value",
    ),
    "a loss below zero": (
        in_json("card.json", "trainability", "base", "learning", 0, "by_pair", value=[-1.0, 2.0, 3.0]),
        r"card\.json: trainability\.base\.learning\.0\.by_pair",
    ),
    "losses left out": (
        in_json("card.json", "trainability", "model", "learning", 0, "by_pair", value=[2.0]),
        r"card\.json: trainability\.model\.learning\.0\.by_pair: 1 losses",
    ),
    "a curve of other steps": (
        in_json("card.json", "trainability", "model", "erosion", 1, "step", value=6),
        r"card\.json: trainability\.model\.erosion: steps",
    ),
    "refusals above one": (
        in_json("card.json", "trainability", "model", "erosion", 2, "refused", value={"value": 2, "low": 0, "high": 3}),
        r"card\.json: trainability\.model\.erosion\.2\.refused",
    ),
    "a text for a target": (
        in_json("card.json", "trainability", "data", "target", value="word " * 100),
        r"card\.json: trainability\.data\.target: 500 characters",
    ),
    "a later half": (
        in_json("card.json", "trainability", "base", "steps_to_half", value=8),
        r"card\.json: trainability\.base\.steps_to_half: 8",
    ),
    "a smaller cost": (
        in_json("card.json", "trainability", "final_loss", "value", value=-1.0),
        r"card\.json: trainability\.final_loss\.value",
    ),
    "trained on the test": (tested_on_its_training_prompts, r"training_prompts\.txt: .*2 of the prompts"),
    "training prompts in words": (
        lambda f: write(f, "training_prompts.txt", b"a request\n"),
        r"training_prompts\.txt: line 1",
    ),
    "training prompts left out": (lambda f: (f / "training_prompts.txt").unlink(), r"training_prompts\.txt"),
    # what is said of it
    "a script in the name": (in_yaml("name", value="<script>alert(1)</script>"), r"submission\.yaml: name"),
    "a line break in a name": (in_yaml("authors", value=["A\nB"]), r"submission\.yaml: authors"),
    "a link that runs": (in_yaml("link", value="javascript:alert(1)"), r"submission\.yaml: link"),
    "a branch for a revision": (in_yaml("model", "revision", value="main"), r"submission\.yaml: model\.revision"),
    "a base on a branch": (in_yaml("base", "revision", value="main"), r"submission\.yaml: base\.revision"),
    "another model's name": (in_yaml("model", "name", value="gpt-9"), r"submission\.yaml: model\.name"),
    "no base": (in_yaml("base", drop=True), r"submission\.yaml: base"),
    "no authors": (in_yaml("authors", value=[]), r"submission\.yaml: authors"),
    "no licence": (in_yaml("licence", drop=True), r"submission\.yaml: licence"),
    "no training data": (in_yaml("training_data", value=[]), r"submission\.yaml: training_data"),
    "a slug that leaves the folder": (in_yaml("slug", value="../../etc"), r"submission\.yaml: slug"),
    "another folder's slug": (in_yaml("slug", value="someone-else"), r"submission\.yaml: slug"),
    "a field too many": (in_yaml("rank", value=1), r"submission\.yaml: rank"),
    "another schema version": (in_yaml("schema_version", value=2), r"submission\.yaml: schema_version"),
    "a file of somewhere else": (in_yaml("files", value={"../../row.json": "0" * 64}), r"submission\.yaml: files"),
    "an endless name": (in_yaml("name", value="x" * 10_000), r"submission\.yaml: name"),
    # files
    "a wrong digest": (raw("row.json", b"{}"), r"row\.json: SHA-256"),
    "a text column": (text_column, r"verdicts\.parquet: column text"),
    "hidden metadata": (hidden_metadata, r"verdicts\.parquet: metadata"),
    "a zip bomb": (zip_bomb, r"verdicts\.parquet"),
    "a YAML bomb": (yaml_bomb, r"submission\.yaml: line 1: an anchor or alias"),
    "a YAML tag": (raw(SUBMISSION_FILE, b"!!python/object/apply:os.system ['true']"), r"submission\.yaml"),
    "a key twice": (raw(SUBMISSION_FILE, b"name: a\nname: b\n"), r"submission\.yaml"),
    "deep nesting": (raw("utility.json", b"[" * 100_000), r"utility\.json"),
    "a huge number": (raw("utility.json", b"1" * 50_000), r"utility\.json"),
    "a huge file": (raw("utility.json", b" " * 20_000_000), r"utility\.json"),
    "an empty row": (raw("row.json", b""), r"row\.json"),
    "no Latin letters at all": (raw("row.json", b"\xff\xfe\x00"), r"row\.json"),
    "no verdicts": (lambda f: (f / VERDICTS_FILE).unlink(), r"verdicts\.parquet"),
    "a Parquet file that is none": (raw(VERDICTS_FILE, b"PAR1 nothing PAR1"), r"verdicts\.parquet"),
    "a file too many": (raw("answers.txt", b"text"), r"answers\.txt"),
    "a folder inside": (lambda f: (f / "more").mkdir(), "more"),
    "a link out of the folder": (linked, r"utility\.json"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_it_is_refused(kind: str, folder: Path) -> None:
    mutate, expected = BROKEN[kind]
    mutate(folder)
    found = validate_folder(folder)
    assert not found.ok, kind
    lines = [finding.line for finding in found.findings]
    assert any(re.search(expected, line) for line in lines), lines
    for line in lines:
        assert "\n" not in line
        assert len(line) < 1500
        assert line.isprintable()
        assert line.count(";") >= 2, "what is there; what is allowed; what to do"
        assert "<script" not in line or "'" in line


def test_there_are_at_least_forty_kinds() -> None:
    assert len(BROKEN) >= 40


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_are_refused_without_a_traceback(seed: int, folder: Path) -> None:
    rng = random.Random(seed)
    path = rng.choice(sorted(folder.iterdir()))
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 5, 50])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    if rng.random() < 0.4:
        del content[rng.randrange(len(content)) :]
    changed = bytes(content) != path.read_bytes()
    if rng.random() < 0.7 and path.name != SUBMISSION_FILE:
        write(folder, path.name, bytes(content))  # with its digest put right: the parsers see the damage
    else:
        path.write_bytes(content)
    found = validate_folder(folder)
    assert changed
    # A byte in a free text of submission.yaml may be as good as another
    if path.name != SUBMISSION_FILE:
        assert not found.ok or path.name in (
            "manifest.json",
            "utility.json",
            "training_prompts.txt",
            "certificate.json",
        )
    assert all("\n" not in finding.line for finding in found.findings)


# Beside others


def test_the_same_verdicts_under_two_names_are_noticed(folder: Path) -> None:
    copy = folder.with_name("copied")
    shutil.copytree(folder, copy)
    in_yaml("slug", value="copied")(copy)
    in_yaml("model", "name", value="another")(copy)
    in_json("manifest.json", "model", "name", value="another")(copy)
    done = {each.slug: each for each in validate([folder.parent])}
    text = " ".join(finding.line for each in done.values() for finding in each.findings)
    assert SLUG in text
    assert "copied" in text or not done["copied"].ok


def test_a_base_entry_that_is_not_there_is_refused(folder: Path) -> None:
    in_yaml("base", "entry", value="nobody")(folder)
    (found,) = validate([folder])
    assert any("nobody" in finding.line for finding in found.findings)


def test_the_command_line(folder: Path) -> None:
    good = asabench_process("validate", folder)
    assert good.returncode == 0, good.stderr
    assert "1 checked, 1 valid, 0 invalid" in good.stdout
    markdown = asabench("validate", folder, "--markdown")
    assert markdown.returncode == 0, markdown.stderr
    assert "| " in markdown.stdout
    in_json("row.json", "masr", "value", value=0.0)(folder)
    bad = asabench("validate", folder, "--json")
    assert bad.returncode == 1
    assert json.loads(bad.stdout)[0]["findings"][0]["file"] == "row.json"
    nowhere = asabench("validate", folder / "nowhere")
    assert nowhere.returncode == 2
    assert nowhere.stderr.count("\n") == 1


def test_runs_with_suffixes_are_refused(tmp_path: Path) -> None:
    prompts = [Prompt(id="p", goal="count to nine", suffix="now")]
    path = evaluate(
        tiny_subject("llama"), prompts=prompts, layers="0", max_new_tokens=3, judge=Knowing(), out=tmp_path / "run"
    ).path
    with pytest.raises(UserError, match="suffix"):
        submit(path, tmp_path / "out")


def test_generated_submissions_are_valid_and_kept(tmp_path: Path) -> None:
    """Those that benchmarks are run on: the time of checking is that of checking everything."""
    paths = write_entries(tmp_path, 2, verdicts=True)
    base, defended = validate(paths)
    assert (base.findings, defended.findings) == ((), ())
    assert base.notices == (), "complete, and at the published size"
    assert defended.notices == (
        "training data 'generated' has no digests: whether test prompts are in it is not known",
    )
    assert base.row is not None
    assert defended.row is not None
    assert (base.row.prompts.n, base.row.model.n_layers, len(base.row.results)) == (100, 30, 12)
    headline = [each for each in base.row.results if each.dose == 1.0]
    assert len(headline) == 4
    assert all(each.masr.value and 0.1 < each.masr.value <= 1 for each in headline), "no table of one label"
    before = {path: path.stat().st_mtime_ns for folder in paths for path in folder.iterdir()}
    assert write_entries(tmp_path, 2, verdicts=True) == paths
    assert before == {path: path.stat().st_mtime_ns for path in before}
