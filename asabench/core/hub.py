"""Single files of the hub, each at one commit: from the local cache, or asked for once and quietly."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SECONDS = 10.0
"""How long the hub may take to say that it has a file."""


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file of a model or dataset repository. revision: a commit of 40 hex digits, so that it cannot change."""

    repository: str
    revision: str
    path: str
    dataset: bool = False


class HubRefusal(Exception):
    """The hub gave no file; the message says why, as part of a sentence. `answered`: it was reached and said no, so
    that another repository may be asked."""

    def __init__(self, why: str, *, answered: bool) -> None:
        super().__init__(why)
        self.answered = answered


def hub_file(file: HubFile, what: str) -> Path:
    """The file on this disk, downloaded if the cache does not hold it, which is said in a line on stderr. what: for
    that line. Raises `HubRefusal`."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise HubRefusal("huggingface_hub, which downloads from the hub, is not installed", answered=False)
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    where = {
        "repo_id": file.repository,
        "filename": file.path,
        "repo_type": "dataset" if file.dataset else "model",
        "revision": file.revision,
    }
    try:
        return Path(hf_hub_download(**where, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        with _quiet():
            # Asked first: the client's own download tries an unreachable hub six times, aloud, for half a minute
            there = get_hf_file_metadata(hf_hub_url(**where), timeout=SECONDS)
            size = "" if there.size is None else f" ({there.size / 1e6:.3g} MB)"
            print(f"downloading {what}{size} from {file.repository} on the hub, once", file=sys.stderr)
            return Path(hf_hub_download(**where))
    except GatedRepoError:
        raise HubRefusal(
            f"the hub gives {file.repository} only to accounts that accepted its terms (`hf auth login`)", answered=True
        ) from None
    except Exception as error:  # whatever the client raises, the next step is the same
        answered = isinstance(error, HfHubHTTPError)
        raise HubRefusal(
            f"the hub does not give {file.repository} ({type(error).__name__})", answered=answered
        ) from None


def hub_files(
    repository: str, revision: str | None, wanted: Callable[[Sequence[str]], Sequence[str]], what: str
) -> tuple[list[Path], str]:
    """Several files of a dataset repository at one commit, and that commit. revision: a commit, branch or tag; None
    takes the newest. wanted: given the paths of all files, those to have. what: for the line that says so. Raises
    `HubRefusal`."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise HubRefusal("huggingface_hub, which downloads from the hub, is not installed", answered=False)
    from glob import escape

    from huggingface_hub import HfApi, get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    of = {"repo_type": "dataset", "revision": revision or "main"}
    try:
        with _quiet():
            api = HfApi()
            try:
                commit = str(api.resolve_revision(repository, **of).resolved)
            except GatedRepoError:
                raise
            except Exception:  # what the revision meant when the hub was last asked, where it was
                commit = str(api.resolve_revision(repository, **of, local_files_only=True).resolved)
            of["revision"] = commit
            # Brings the commit's listing, which the client keeps: the file is in every repository
            snapshot_download(repository, **of, allow_patterns=[".gitattributes"])
            paths = wanted([file.path for file in get_cached_repo_tree(repository, **of)])
            if paths:
                print(f"having {what} from {repository} on the hub, {len(paths)} files", file=sys.stderr)
                folder = Path(snapshot_download(repository, **of, allow_patterns=[escape(path) for path in paths]))
    except GatedRepoError:
        raise HubRefusal(
            f"the hub gives {repository} only to accounts that accepted its terms (`hf auth login`)", answered=True
        ) from None
    except Exception as error:  # whatever the client raises, the next step is the same
        answered = isinstance(error, HfHubHTTPError)
        raise HubRefusal(f"the hub does not give {repository} ({type(error).__name__})", answered=answered) from None
    return [folder / path for path in paths], commit


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the client's progress bars and warnings."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    bars, level = not are_progress_bars_disabled(), logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where the environment asks for the bars, they stay
        disable_progress_bars()
        logging.set_verbosity_error()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                enable_progress_bars()
