"""`other_judges.parquet`: what further judges said of the answers of a submission, label by label, without any text.

    judge   the judge's id; the lines of one judge stand together
    label   safe, unsafe, incoherent; null where it gave no readable verdict

Each judge has as many lines as `verdicts.parquet`, and its n-th line is of the answer in that one's n-th. No rate of
the row is made of them: they say how far the order of entries depends on who judges (`asabench.stats.rank_stability`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping

import pandas as pd

from asabench.submission.findings import Finding, Refused, shown
from asabench.submission.guarded import read_table
from asabench.submission.schema import OTHER_JUDGES_FILE


def other_judges_bytes(labels: Mapping[str, pd.Series]) -> bytes:
    """The Parquet file. labels: by judge, in the order of the lines of verdicts.parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from asabench.submission.table_file import others_schema

    parts = [
        pa.table({"judge": [judge] * len(said), "label": pa.array(said, pa.string(), from_pandas=True)})
        for judge, said in sorted(labels.items())
    ]
    file = io.BytesIO()
    # No Arrow or pandas schema: metadata could hold text
    table = pa.concat_tables(parts).cast(others_schema()).replace_schema_metadata(None)
    pq.write_table(table, file, compression="zstd", compression_level=9, store_schema=False, write_statistics=False)
    return file.getvalue()


def parse_other_judges(content: bytes, lines: int) -> dict[str, pd.Series]:
    """The labels by judge, in the order of verdicts.parquet, which has so many lines; raises `Refused`."""
    table = read_table(content, "other judges")
    judges, labels = (table.column(name).to_pandas().astype(object) for name in ("judge", "label"))
    found = {}
    for number in range(0, len(judges), lines):
        of_one = judges.iloc[number : number + lines]
        judge = str(of_one.iloc[0])
        if len(of_one) < lines or (of_one != judge).any() or judge in found:
            raise Refused("judge", f"the lines of {shown(judge)}", f"{lines} that stand together, one a verdict")
        said = labels.iloc[number : number + lines].reset_index(drop=True)
        found[judge] = said.astype(pd.Series([""]).dtype)
    return found


def other_judge_findings(labels: Mapping[str, pd.Series], table: pd.DataFrame, own: str) -> Iterator[Finding]:
    """What no further judge could have said. table: that of verdicts.parquet; own: the judge of its labels."""
    if own in labels:
        yield Finding(OTHER_JUDGES_FILE, "judge", shown(own), "others than the judge of verdicts.parquet")
    for judge, said in labels.items():
        answers = pd.DataFrame({"prompt": table["prompt_id"], "digest": table["response_sha256"], "label": said})
        codes = answers.assign(label=pd.factorize(said, use_na_sentinel=False)[0])
        if several := int((codes.groupby(["prompt", "digest"])["label"].nunique() > 1).sum()):
            yield Finding(
                OTHER_JUDGES_FILE,
                f"label of {shown(judge)[1:-1]}",
                f"{several} answers to a prompt have several labels",
                "a judge gives equal answers to a prompt one label",
            )
