"""From the name of a model to a local folder with its weights, and to the revision that names them."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from asabench.core.canonical import canonical_text
from asabench.core.errors import NotAtHand, UserError, first_line
from asabench.core.files import whole_folder
from asabench.core.model_names import folder_revision
from asabench.core.models import HUB_EXAMPLE, PACKAGED_ADAPTERS, PACKAGED_MODELS, SHORT_NAMES, PackagedModel
from asabench.core.paths import expanded
from asabench.core.records import sha256_hex
from asabench.core.training_record import TRAINING_FILE, read_training
from harness.model.adapters import adapter_weights, base_of, is_adapter, is_folder, is_pinned
from harness.model.inspection import check_folder
from harness.model.packaged import Weights, file_sha256, weights
from harness.model.weights import ADAPTER_CONFIG, refuse_other_weights

SAFE_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
PICKLE_FILES = ["*.bin"]
CODE_FILES = ["*.py"]
TEXT_SUFFIXES = (".json", ".jinja", ".txt", ".py")
BINARY_SUFFIXES = (".safetensors", ".bin", ".model")
CONVERTED_FILE = "converted.json"
_LONGEST_NAME = 200
"""Characters of a name that a line repeats."""
MOST_ADAPTERS = 8
"""Adapters that may stand on top of each other."""
RECORDS = (TRAINING_FILE, "settings.json", CONVERTED_FILE)
"""What is written beside a model: how it was made. Times and paths in it are no part of a digest."""


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A model on this disk. `revision` is a hub commit, `package==version`, or `sha256:...` of a local folder.

    `adapters`: folders of LoRA adapters that are merged into the weights in `folder`, in this order (one may be trained
    on top of another); then `revision` names all.
    """

    name: str
    folder: Path
    revision: str
    adapters: tuple[Path, ...] = ()


def locate(name: str, *, allow_pickle: bool = False, allow_remote_code: bool = False) -> ModelFiles:
    """The files of a short name, a local folder, or a hub id with an optional `@revision` (downloaded if need be)."""
    return _located(name, _Trust(pickle=allow_pickle, code=allow_remote_code), above=())


@dataclass(frozen=True, kw_only=True)
class _Trust:
    """What may be read and run of a model."""

    pickle: bool
    code: bool


def _located(name: str, trust: _Trust, above: tuple[Path, ...]) -> ModelFiles:
    """above: the adapters whose base this is, the outermost first."""
    if name in PACKAGED_MODELS:
        return _packaged(PACKAGED_MODELS[name])
    if name in PACKAGED_ADAPTERS:
        return _adapted(Path(str(files("asabench"))) / "data" / "adapters" / name, name, None, trust, above)
    folder = expanded(name)
    if is_folder(folder):
        return _in_folder(folder, folder.resolve().name, None, trust, above)
    repository, _, revision = name.partition("@")
    return _on_hub(repository, revision or "main", trust, above)


def _on_hub(repository: str, revision: str, trust: _Trust, above: tuple[Path, ...]) -> ModelFiles:
    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        shown = repository if len(repository) <= _LONGEST_NAME else f"{repository[:_LONGEST_NAME]}..."
        raise UserError(
            f"unknown model {shown!r}; allowed: a short name ({', '.join(SHORT_NAMES)}), a local folder that "
            f"exists, or a hub id such as {HUB_EXAMPLE}"
        )
    patterns = SAFE_FILES + (PICKLE_FILES if trust.pickle else []) + (CODE_FILES if trust.code else [])
    folder = _from_hub(repository, revision, patterns)
    return _in_folder(folder, repository, folder.name, trust, above)


def _in_folder(folder: Path, name: str, commit: str | None, trust: _Trust, above: tuple[Path, ...]) -> ModelFiles:
    """A whole model, or an adapter and its base. commit: of the hub, where the folder comes from there."""
    check_folder(folder, name if commit else str(folder), allow_remote_code=trust.code)
    if is_adapter(folder, name if commit else str(folder)):
        return _adapted(folder, name, commit, trust, above)
    if not (folder / "config.json").is_file():
        gguf = " (GGUF is read of packaged models only)" if any(folder.glob("*.gguf")) else ""
        raise UserError(
            f"the folder {name if commit else folder} holds no config.json{gguf}; "
            "--model takes a Hugging Face model folder, or an adapter's"
        )
    return ModelFiles(name=name, folder=folder, revision=commit or folder_revision(folder_digest(folder)))


def _adapted(folder: Path, name: str, commit: str | None, trust: _Trust, above: tuple[Path, ...]) -> ModelFiles:
    """The base model that an adapter is for, and the adapter."""
    shown = name if commit or name in PACKAGED_ADAPTERS else str(folder)
    if folder.resolve() in above:
        raise UserError(
            f"the adapter {shown} is its own base; name the model it was trained on in its {ADAPTER_CONFIG}"
        )
    above = (*above, folder.resolve())
    if len(above) > MOST_ADAPTERS:
        raise UserError(
            f"the adapter {shown} is one of more than {MOST_ADAPTERS}, each the base of the next; merge some of them"
        )
    adapter_weights(folder, shown, allow_pickle=trust.pickle)
    made_for = _base_revision(folder)
    wanted = base_of(folder, shown, made_for)
    if wanted.folder is not None:
        base = _in_folder(wanted.folder, wanted.folder.name, None, trust, above)
    elif wanted.name in SHORT_NAMES:
        base = _located(wanted.name, trust, above)
    else:
        base = _on_hub(wanted.name, wanted.revision or "main", trust, above)
    on_hub = wanted.folder is None and wanted.name not in SHORT_NAMES
    # `main` names no weights in particular; a folder of the hub's cache is called by its commit
    if not on_hub and wanted.revision not in (None, "main", base.revision, wanted.folder and wanted.folder.name):
        raise UserError(
            f"the adapter {shown} is for {wanted.name} at {wanted.revision}, and here is {base.revision}; name a hub "
            f"id as its base, or take the revision out of its {ADAPTER_CONFIG}"
        )
    if made_for is not None and made_for != base.revision:
        raise UserError(
            f"the adapter {shown} was made for {wanted.name} at {made_for}, and here is {base.revision}; "
            "name that revision in base_model_name_or_path, or train the adapter again"
        )
    if commit is not None and on_hub and is_pinned(wanted.revision):
        revision = commit  # which names the base's too
    else:
        revision = folder_revision(sha256_hex(f"{folder_digest(folder)}:{base.revision}"))
    return ModelFiles(name=name, folder=base.folder, revision=revision, adapters=(*base.adapters, folder))


def _base_revision(folder: Path) -> str | None:
    """The revision of the weights that an adapter was trained on, where its training record says it."""
    path = folder / TRAINING_FILE
    base = read_training(path).base if path.is_file() else None
    return None if base is None else base.revision


def folder_digest(folder: Path) -> str:
    """SHA-256, in hex, over the names and contents of a model folder's weights, configuration and tokenizer; text
    counts as `canonical_text`, however it was checked out."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and p.name not in RECORDS):
        if path.suffix in TEXT_SUFFIXES:
            content = hashlib.sha256(canonical_text(path.read_bytes())).hexdigest()
        elif path.suffix in BINARY_SUFFIXES:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            continue
        digest.update(f"{path.name}:{content}\n".encode())
    return digest.hexdigest()


def _from_hub(repository: str, revision: str, patterns: list[str]) -> Path:
    """The folder of a snapshot, whose name is its commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    asked = f"{repository}@{revision}"
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except GatedRepoError:
        raise UserError(
            f"the model {asked} is gated and this account has no access; accept its terms on the hub, "
            "then `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(f"the hub has no model {repository!r} that this account can see; check the name") from None
    except RevisionNotFoundError:
        raise UserError(f"the model {repository} has no revision {revision!r}; name a branch, tag or commit") from None
    except HFValidationError as error:
        raise UserError(f"{repository!r} cannot be a hub id: {first_line(error)}") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise NotAtHand(
            f"the model {asked} is not in the local cache and the hub cannot be reached ({type(error).__name__}); "
            "connect to the network, or give a local folder or a short name (`asabench models`)"
        ) from None


def _packaged(model: PackagedModel) -> ModelFiles:
    held = weights(model)
    folder = cache_folder() / "models" / f"{model.name}-{held.sha256[:12]}"
    if not _is_converted(folder, held.sha256):
        print(f"converting the weights of {model.name} to float32, once", file=sys.stderr)
        _convert_gguf(held, folder, model.name)
    return ModelFiles(name=model.name, folder=folder, revision=held.revision)


def cache_folder() -> Path:
    """Where converted weights are kept: $ASABENCH_CACHE, or asabench in the user's cache folder."""
    if override := os.environ.get("ASABENCH_CACHE"):
        return expanded(override)
    return expanded(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "asabench"


def _is_converted(folder: Path, gguf_digest: str) -> bool:
    """Whether a folder holds what was converted from the GGUF file of that digest, whole and unchanged."""
    try:
        record = json.loads((folder / CONVERTED_FILE).read_text(encoding="utf-8"))
        there = {path.name for path in folder.iterdir()} - {CONVERTED_FILE}
        return bool(
            record["gguf_sha256"] == gguf_digest
            and record["files"].keys() == there
            and all(file_sha256(folder / name) == digest for name, digest in record["files"].items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _convert_gguf(gguf: Weights, folder: Path, name: str) -> None:
    """Dequantises GGUF weights to a float32 safetensors folder, once: reading GGUF takes a hundred times longer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source, gguf_file = gguf.path.parent, gguf.path.name
    # What is there and is not what was converted makes way
    with whole_folder(folder, replace=folder.exists(), fix="set ASABENCH_CACHE to a folder with room") as made:
        # dequantize: otherwise the model keeps its GGUF layers and can be neither saved nor trained
        model, info = AutoModelForCausalLM.from_pretrained(
            source,
            gguf_file=gguf_file,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
            output_loading_info=True,
        )
        refuse_other_weights(model, info, name)
        model.save_pretrained(made)
        AutoTokenizer.from_pretrained(source, gguf_file=gguf_file).save_pretrained(made)
        digests = {path.name: file_sha256(path) for path in sorted(made.iterdir())}
        record = json.dumps({"gguf_sha256": gguf.sha256, "files": digests}, indent=2)
        (made / CONVERTED_FILE).write_text(record + "\n", encoding="utf-8")
