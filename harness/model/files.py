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
from asabench.core.errors import NotAtHand, UserError
from asabench.core.files import whole_folder
from asabench.core.models import HUB_EXAMPLE, PACKAGED_ADAPTERS, PACKAGED_MODELS, SHORT_NAMES, PackagedModel
from asabench.core.records import sha256_hex
from asabench.core.training_record import TRAINING_FILE, read_training
from harness.model.packaged import weights

SAFE_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
PICKLE_FILES = ["*.bin"]
CODE_FILES = ["*.py"]
ADAPTER_FILE = "adapter_config.json"
TEXT_SUFFIXES = (".json", ".jinja", ".txt", ".py")
BINARY_SUFFIXES = (".safetensors", ".bin", ".model")
RECORDS = (TRAINING_FILE, "settings.json")
"""What `asabench defend` writes beside a model: how it was made. Times and paths in it are no part of a digest."""


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
    if name in PACKAGED_MODELS:
        return _packaged(PACKAGED_MODELS[name])
    if name in PACKAGED_ADAPTERS:
        return _adapted(Path(str(files("asabench"))) / "data" / "adapters" / name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if (folder / ADAPTER_FILE).is_file() and not (folder / "config.json").is_file():
            return _adapted(folder)
        if not (folder / "config.json").is_file():
            raise UserError(
                f"the folder {name} holds no config.json; "
                "--model takes a Hugging Face model folder, or a LoRA adapter's"
            )
        return ModelFiles(name=folder.resolve().name, folder=folder, revision=f"sha256:{folder_digest(folder)[:16]}")
    repository, _, revision = name.partition("@")
    if repository.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(
            f"unknown model {name!r}; allowed: a short name ({', '.join(SHORT_NAMES)}), a local folder that "
            f"exists, or a hub id such as {HUB_EXAMPLE}"
        )
    patterns = SAFE_FILES + (PICKLE_FILES if allow_pickle else []) + (CODE_FILES if allow_remote_code else [])
    return _from_hub(repository, revision or "main", patterns)


def _adapted(folder: Path) -> ModelFiles:
    """The base model that an adapter is for, and the adapter."""
    try:
        base_name = json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8"))["base_model_name_or_path"]
        made_for = _base_revision(folder)
        base = locate(str(base_name))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the adapter in {folder} cannot be read ({type(error).__name__}: {error}); "
            f"it needs an {ADAPTER_FILE} that names its base_model_name_or_path"
        ) from None
    if made_for is not None and made_for != base.revision:
        raise UserError(
            f"the adapter in {folder} was made for {base_name} at {made_for}, and here is {base.revision}; "
            "name that revision in base_model_name_or_path, or train the adapter again"
        )
    revision = sha256_hex(f"{folder_digest(folder)}:{base.revision}")[:16]
    return ModelFiles(
        name=folder.resolve().name,
        folder=base.folder,
        revision=f"sha256:{revision}",
        adapters=(*base.adapters, folder),
    )


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


def _from_hub(repository: str, revision: str, patterns: list[str]) -> ModelFiles:
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
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
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
        raise UserError(f"{repository!r} cannot be a hub id: {str(error).splitlines()[0]}") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise NotAtHand(
            f"the model {asked} is not in the local cache and the hub cannot be reached ({type(error).__name__}); "
            "connect to the network, or give a local folder or a short name (`asabench models`)"
        ) from None
    return ModelFiles(name=repository, folder=folder, revision=folder.name)


def _packaged(model: PackagedModel) -> ModelFiles:
    held = weights(model)
    folder = cache_folder() / "models" / f"{model.name}-{held.sha256[:12]}"
    if not (folder / "config.json").is_file():
        print(f"converting the weights of {model.name} to float32, once", file=sys.stderr)
        _convert_gguf(held.path.parent, held.path.name, folder)
    return ModelFiles(name=model.name, folder=folder, revision=held.revision)


def cache_folder() -> Path:
    """Where converted weights are kept: $ASABENCH_CACHE, or asabench in the user's cache folder."""
    if override := os.environ.get("ASABENCH_CACHE"):
        return Path(override).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "asabench"


def _convert_gguf(source: Path, gguf_file: str, folder: Path) -> None:
    """Dequantises GGUF weights to a float32 safetensors folder, once: reading GGUF takes a hundred times longer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with whole_folder(folder, fix="set ASABENCH_CACHE to a folder with room") as made:
        # dequantize: otherwise the model keeps its GGUF layers and can be neither saved nor trained
        model = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=gguf_file, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
        model.save_pretrained(made)
        AutoTokenizer.from_pretrained(source, gguf_file=gguf_file).save_pretrained(made)
