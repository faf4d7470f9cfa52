"""What downloading from and publishing on the Hub share: the client, its progress bars, and errors in one line.

The client is imported inside functions: it costs a quarter of a second.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from asabench.core.errors import UserError, one_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PUBLISHED_REPO = "Carol0110/ASABench"
"""The dataset of the paper, in the original layout."""
DATASET = "dataset"

_COMMIT = re.compile(r"[0-9a-f]{40}")
# What the client talks HTTP with, by its version
_TRANSPORTS = ("httpx", "httpx2")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM)


def is_commit(revision: str) -> bool:
    """Whether a revision is a whole commit id, which cannot move."""
    return _COMMIT.fullmatch(revision) is not None


def hub_api(token: str | None = None) -> HfApi:
    """The client of the Hub at HF_ENDPOINT. token: the one of HF_TOKEN or `hf auth login` if None."""
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="asabench")


def repo_url(repo: str) -> str:
    """The page of a dataset."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/datasets/{repo}"


def model_url(repo: str) -> str:
    """The page of a model."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo}"


@contextmanager
def hub_progress(wanted: bool) -> Iterator[None]:
    """The client's progress bars inside the block, if they are wanted and standard error is a terminal."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hide = not (wanted and sys.stderr.isatty()) and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


@contextmanager
def hub_errors(repo: str, revision: str | None = None, *, doing: str, page: str | None = None) -> Iterator[None]:
    """Turns what the client raises into a `UserError` of one line; `doing` names the work, as in "downloading it".
    page: the repository's, where it is no dataset."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        message = _message(error, repo, revision, doing)
        if message is None:
            raise
        raise UserError(message if page is None else message.replace(repo_url(repo), page)) from None


def _message(error: BaseException, repo: str, revision: str | None, doing: str) -> str | None:
    """The one line for an error of the client or of the disk; None for any other error, which is a fault of ours."""
    from huggingface_hub import errors

    at = f"{repo} at {revision}" if revision else repo
    log_in = "run `hf auth login`, or set HF_TOKEN"
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # as the client wraps a failed upload
        return _message(error.__cause__, repo, revision, doing)
    if isinstance(error, errors.LocalTokenNotFoundError):
        return f"{doing} needs a token of the Hub and there is none; {log_in}"
    if isinstance(error, errors.GatedRepoError):
        if error.response.status_code == 401:
            return f"{repo} is gated and there is no token; accept its terms at {repo_url(repo)}, then {log_in}"
        return (
            f"{repo} is gated and this token's account has no access to it; accept its terms at {repo_url(repo)} "
            "(an owner may have to approve), then run the same command again"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}; give a tag, a branch or a commit that {repo_url(repo)} lists"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the Hub shows no dataset {repo!r}; check the name, and if it is private, {log_in} with access to it"
    if isinstance(error, errors.HFValidationError):
        return f"{repo!r} is not the name of a dataset; give OWNER/NAME, such as {PUBLISHED_REPO}"
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError | errors.RevisionResolutionError):
        return (
            f"{at} is not (whole) in the cache, and the Hub cannot be reached; connect, unset HF_HUB_OFFLINE, and run "
            "the same command again, or give a revision that was downloaded before"
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _http_message(error, repo, doing, log_in)
    return _stopped(error, repo, doing)


def _stopped(error: BaseException, repo: str, doing: str) -> str | None:
    """Of what the Hub did not say itself: transfers, the card, the disk, the connection."""
    if isinstance(error, RuntimeError):  # as the transfers of large files (Xet) fail
        return f"{doing} stopped ({one_line(error)}); check the connection and run the same command again"
    if isinstance(error, ValueError) and "metadata in README.md" in str(error):
        return f"the Hub does not accept the card of {repo}; report it with this: {one_line(error)}"
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return (
            f"{doing} stopped: {error.strerror} ({error.filename or 'the cache'}); free some space or set HF_HOME to "
            "another disk, then run the same command again: finished files are kept"
        )
    if isinstance(error, OSError) and error.filename:
        return (
            f"{doing} stopped: {error.filename} cannot be read or written ({error.strerror}); look there and try again"
        )
    if type(error).__module__.partition(".")[0] in ("huggingface_hub", *_TRANSPORTS) or isinstance(error, OSError):
        return (
            f"{doing} stopped: no whole answer from {repo_url(repo)} ({type(error).__name__}); check the connection "
            "and run the same command again: finished files are kept"
        )
    return None


def unreachable(error: Exception) -> bool:
    """Whether an error of the client means that the Hub could not be asked: offline, no connection, or out of order."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    return isinstance(error, OfflineModeIsEnabled) or type(error).__module__.partition(".")[0] in _TRANSPORTS


def _http_message(error: OSError, repo: str, doing: str, log_in: str) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return f"the Hub does not accept this token; {log_in}, with a token that is valid"
    if status == 403:
        return f"this token may not do that: {doing} needs a token with the right to write to {repo}; {log_in} with one"
    if status == 412:
        return f"{repo} has changed while {doing}; run the same command again"
    if status == 429:
        return "the Hub asks to slow down (status 429); wait some minutes and run the same command again"
    return (
        f"{doing} stopped: the Hub answered with status {status}; run the same command again: what is finished is kept"
    )
