"""How to cite an entry. Pure functions."""

from __future__ import annotations

from leaderboard.entries import Entry, created


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


PAPER_BIBTEX = """@inproceedings{gu2026probing,
  title        = {Probing the Safety Robustness of LLMs in Latent Space},
  author       = {Gu and others},
  year         = {2026},
  booktitle    = {ACL 2026 (Long Papers)},
  pages        = {21126--21143},
  doi          = {10.18653/v1/2026.acl-long.967},
  note         = {arXiv:2506.16078},
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
