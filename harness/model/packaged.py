"""The weights of a model with a short name: one GGUF file, from its Python package or from the hub."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from asabench.core.errors import NotAtHand, UserError
from asabench.core.hub import HubRefusal, hub_file
from asabench.core.models import PackagedModel


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A GGUF file on this disk. `revision` is the same wherever the same file came from."""

    path: Path
    revision: str

    @property
    def sha256(self) -> str:
        return file_sha256(self.path)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex; read once in a process while it stays as it is."""
    found = path.stat()
    return _digest_of(path.resolve(), found.st_size, found.st_mtime_ns)


@cache
def _digest_of(path: Path, size: int, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights(model: PackagedModel) -> Weights:
    """From the installed package, or else from the hub, downloaded once. `NotAtHand` where there is neither,
    `UserError` for a download that is not the pinned file."""
    installed = _installed(model)
    return _from_hub(model) if installed is None else installed


def _installed(model: PackagedModel) -> Weights | None:
    spec = importlib.util.find_spec(model.module)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / model.gguf_file
    # Another version of the package has other weights, and is named as such
    found = Weights(path=path, revision=f"{model.distribution}=={importlib.metadata.version(model.distribution)}")
    again = f"run `{model.install_command} --force-reinstall`"
    try:
        digest = found.sha256
    except OSError as error:
        raise UserError(f"the weights of {model.name} cannot be read ({error.strerror}: {path}); {again}") from None
    if found.revision == model.revision and digest != model.sha256:
        raise UserError(
            f"the weights of {model.name} in {path} are not those of {model.revision} (SHA-256 {digest[:12]}, expected "
            f"{model.sha256[:12]}); {again}"
        )
    return found


def _from_hub(model: PackagedModel) -> Weights:
    try:
        path = hub_file(model.hub, f"the weights of {model.name}")
    except HubRefusal as refusal:
        raise NotAtHand(
            f"the weights of {model.name} are not installed and {refusal}; connect to the network, "
            f"or run `{model.install_command}`"
        ) from None
    found = Weights(path=path, revision=model.revision)
    if found.sha256 != model.sha256:
        raise UserError(
            f"the weights of {model.name} as downloaded to {path.resolve()} are not the pinned file "
            f"(SHA-256 {found.sha256[:12]}, expected {model.sha256[:12]}); delete that file and run the same command "
            f"again, or run `{model.install_command}`"
        )
    return found
