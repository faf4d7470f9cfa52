"""A version's Croissant metadata (mlcommons.org/croissant, 1.0): JSON-LD that says to search engines and loaders which
files there are, with their digests, and what their columns are. Pure functions of the manifest: no text of the data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from asabench.dataset.card import ALL, ATTEMPTS_SUFFIX, TITLE, bibtex
from asabench.dataset.files import PARTS, Benchmark, Part
from asabench.dataset.schema import ATTEMPT_COLUMNS, INSTANCE_COLUMNS

CROISSANT = "croissant.json"
CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
REPOSITORY = "repository"
_TYPES = {"string": "sc:Text", "int32": "cr:Int32", "int64": "cr:Int64", "float64": "cr:Float64"}
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "recordSet": "cr:recordSet",
    "sc": "https://schema.org/",
    "sha256": "cr:sha256",
    "source": "cr:source",
}


def croissant_json(benchmark: Benchmark, *, repo: str, version: str, licence: str, url: str) -> str:
    """The file, as text. url: of the dataset's page."""
    return json.dumps(croissant(benchmark, repo=repo, version=version, licence=licence, url=url), indent=1) + "\n"


def croissant(benchmark: Benchmark, *, repo: str, version: str, licence: str, url: str) -> dict[str, Any]:
    """A record set for each model's instances on either side of the split, and for its attempts, each over a set of
    Parquet files; every file stands for itself as well, with its SHA-256."""
    manifest = benchmark.manifest
    distribution: list[dict[str, Any]] = [
        {
            "@type": "cr:FileObject",
            "@id": REPOSITORY,
            "name": REPOSITORY,
            "description": "The repository at this version.",
            "contentUrl": f"{url}/tree/{version}",
            "encodingFormat": "git+https",
            # A repository has no digest of its own; Croissant wants a value, and its files have theirs below
            "sha256": manifest.digest,
        }
    ]
    record_sets = []
    for model in manifest.models:
        for part in PARTS:
            paths = [path for path in manifest.files if path.startswith(f"{model.config}/{part}-")]
            if not paths or not _rows(benchmark, paths):
                continue
            name = f"{model.config}/{part}"
            distribution += [_file_object(benchmark, path, url, version) for path in paths]
            distribution.append(
                {
                    "@type": "cr:FileSet",
                    "@id": name,
                    "name": name,
                    "containedIn": {"@id": REPOSITORY},
                    "encodingFormat": "application/x-parquet",
                    "includes": f"{name}-*.parquet",
                }
            )
            record_sets.append(_record_set(name, part))
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": repo.rpartition("/")[2],
        "description": f"{TITLE}. {manifest.instances} instances of {len(manifest.models)} models; the config {ALL} "
        f"has those of all, and MODEL{ATTEMPTS_SUFFIX} every cell that was run.",
        "url": url,
        "version": version,
        "license": licence,
        "datePublished": manifest.created,
        "citeAs": bibtex(repo, version),
        "isLiveDataset": False,
        "distribution": distribution,
        "recordSet": record_sets,
    }


def _rows(benchmark: Benchmark, paths: list[str]) -> int:
    return sum(benchmark.manifest.files[path].rows for path in paths)


def _file_object(benchmark: Benchmark, path: str, url: str, version: str) -> dict[str, Any]:
    file = benchmark.manifest.files[path]
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "contentUrl": f"{url}/resolve/{version}/{path}",
        "contentSize": f"{file.bytes} B",
        "encodingFormat": "application/x-parquet",
        "sha256": file.sha256,
    }


def _record_set(name: str, part: Part) -> dict[str, Any]:
    columns: Mapping[str, str] = ATTEMPT_COLUMNS if part == "attempts" else INSTANCE_COLUMNS
    return {
        "@type": "cr:RecordSet",
        "@id": f"records/{name}",
        "name": f"records/{name}",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"records/{name}/{column}",
                "name": column,
                "dataType": _TYPES[kind],
                "source": {"fileSet": {"@id": name}, "extract": {"column": column}},
            }
            for column, kind in columns.items()
        ],
    }
