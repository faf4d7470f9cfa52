"""A model behind an OpenAI-compatible server (vLLM, or any other that speaks it) that is asked about many pairs.

Many requests are in flight at once, and the server batches them. A pair of goal and response is asked about once
(`harness.judges.verdict_cache`): each verdict is on disk as soon as it is read, so that a server that dies, or Ctrl-C,
costs the requests in flight only. What is asked, and how a reply is read, is for the judges that stand on this
(`harness.judges.vllm`, `harness.judges.guard_server`, `harness.judges.paper_judge`).
"""

from __future__ import annotations

import asyncio
import copy
import math
import os
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

from asabench.core.errors import UserError
from asabench.core.records import Response, Verdict
from asabench.core.row import JudgeInfo
from harness.judges.judge_prompt import LABEL_WORDS, TOP_LOGPROBS, Decoding, Message, base_name, thinks_first
from harness.judges.server_limits import MOST_ANSWER_BYTES, TooLong
from harness.judges.verdict_cache import Counts, Keep, Opinion, Pair, VerdictCache, judged_once

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

DEFAULT_MODEL = "Qwen/QwQ-32B"
DEFAULT_URL = "http://127.0.0.1:8000/v1"
KEY_VARIABLE = "ASABENCH_JUDGE_API_KEY"
"""A name of its own: another service's key must not go to whatever server is named."""

IN_FLIGHT = 64
TIMEOUT_SECONDS = 120.0
THINKING_TIMEOUT_SECONDS = 600.0
FIRST_CONTACT_SECONDS = 10.0
HELLO_TOKENS = 8
FIRST_FAILURES = 3
"""So many pairs without a verdict before any has one, and the fault is the server's."""

PASSING = (408, 425, 429, 500, *range(502, 505), *range(520, 531))
"""Statuses that may be gone at the next try; those from 520 are of services in front of a server, 529 says that it is
overloaded."""

_HELLO: list[Message] = [{"role": "user", "content": "Reply with one word and nothing else: safe"}]
_MODEL_AND_URL = re.compile(r"(.*?)(?:@(https?://.*))?", re.DOTALL)
_SNAPSHOT = re.compile(r"/snapshots/([0-9a-f]{40})/?$")
_TOO_LONG = re.compile(r"context length|context window|maximum model length|max_model_len", re.IGNORECASE)
_FILTER = re.compile(r"content[ _-]?(filter|management|policy)|responsible ?ai|moderation|flagged", re.IGNORECASE)
_ENDS = ("", "stop", "eos", "eos_token", "stop_sequence", "end_turn", "complete")
"""How servers call the end of a whole reply."""
LOGPROB_ROUNDING = 1e-3
"""A log probability may be that much above 0 by rounding."""
FILTERED = "cut by the server's content filter"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with how many pairs have a verdict, of how many that were asked about, each time one is there."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often, and how long apart, a request is tried that failed in a way that may pass: refused for its rate (429),
    failed on the server's side (500, 502, 503, 504), timed out, cut off, or answered with what is no chat completion.

    The wait after failure `n` is between half of and the whole of `first * 2**(n - 1)` seconds, at most `longest`, or
    what the server's `Retry-After` asks for, at most `longest_asked_for`. Together they outlast a restart of a minute.
    A timeout has taken its time already: `timeouts` of them end it.
    """

    tries: int = 10
    timeouts: int = 3
    first: float = 0.5
    longest: float = 30.0
    longest_asked_for: float = 120.0

    def wait(self, failures: int, asked_for: float | None) -> float:
        """Seconds to wait after so many failures."""
        if asked_for is not None:
            return min(asked_for, self.longest_asked_for)
        longest = min(self.longest, self.first * 2 ** (failures - 1))
        return random.uniform(longest / 2, longest)


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a server says of itself and of the model. `name` is what it calls the model; `revision` (a hub commit),
    vLLM's `version` and `fingerprint` and the `context` in tokens are None where it does not say. The fingerprint is a
    digest of the engine's configuration, number format and context included: the same after a restart, another one for
    an engine that might answer otherwise. `grammar` and `logprobs`: it takes the one and gives the other. `thinks`: the
    model thinks before it answers."""

    name: str
    revision: str | None
    version: str | None
    fingerprint: str | None
    context: int | None
    grammar: bool
    logprobs: bool
    thinks: bool


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A chat completion, as far as it is used. `no_verdict`: why what is there is none, such as the server's content
    filter. `thoughts`: the server has taken the reasoning out of the content.
    `first_tokens`: the likeliest first tokens with their log probabilities, where they were asked for. `fingerprint`:
    the server's name for its configuration."""

    content: str | None
    cut: bool
    no_verdict: str | None
    thoughts: bool
    fingerprint: str | None
    first_tokens: tuple[tuple[str, float], ...]


class Failed(Exception):
    """A request that will not succeed: `what` happened, and what to `do`, the halves of the user's line. resumes: once
    that is done, the judge has the same id, so that its verdicts are found again. unscored: it may be about this one
    pair, which has no verdict then, for this reason (`VllmJudge._answers_others`)."""

    def __init__(
        self, what: str, do: str, status: int | None = None, *, resumes: bool = True, unscored: str | None = None
    ) -> None:
        super().__init__(what)
        self.what, self.do, self.status, self.resumes, self.unscored = what, do, status, resumes, unscored


@dataclass
class _Tally:
    """How many pairs a server has answered, over a judge and its twins."""

    answered: int = 0


class ServerJudge(ABC):
    """What judges behind a server share; `_opinion` and `info` are each judge's own.

    `info` asks the server what it serves, once, and raises `UserError` where there is none. Calling it may be repeated,
    and done from any thread; afterwards `counts` says how many pairs were asked about. Raises `UserError` when the
    server fails for good; what it said before is in the cache.

    model: as the server calls it, or the last part of that. in_flight: requests at once at most. timeout: seconds for
    one request; None: 120, or 600 for models that think. thinks: None finds out. cache: None reads and keeps nothing.
    """

    def __init__(
        self,
        model: str,
        url: str,
        *,
        in_flight: int = IN_FLIGHT,
        timeout: float | None = None,
        retry: Retry | None = None,
        thinks: bool | None = None,
        cache: VerdictCache | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.model = model
        self.url = base_url(url)
        self.in_flight = in_flight
        self.timeout = timeout
        self.retry = retry or Retry()
        self.thinks = thinks
        self.cache = cache
        self.progress = progress
        self.counts = Counts(given=0, pairs=0, cached=0, asked=0)
        self._served: Served | None = None
        self._tally = _Tally()

    @property
    def served(self) -> Served:
        """What the server says of itself; asked once. Raises `UserError`."""
        if self._served is None:
            try:
                self._served = run(self._meet())
            except Failed as failed:
                raise UserError(f"{failed.what}; {failed.do}") from None
        return self._served

    @property
    @abstractmethod
    def info(self) -> JudgeInfo:
        """As `harness.judges.Judge` has it."""

    @abstractmethod
    async def _opinion(self, client: AsyncOpenAI, pair: Pair) -> Opinion:
        """What the model says of one pair."""

    def _hello(self, served_name: str) -> dict[str, Any]:
        """A request that any model of the kind answers, in a few tokens."""
        return {"model": served_name, "messages": _HELLO, "max_tokens": HELLO_TOKENS, "temperature": 0}

    @property
    def engine(self) -> str:
        """The engine and the model's revision in words, for a judge's description."""
        served = self.served
        engine = f"vLLM {served.version}" if served.version else "an OpenAI-compatible server"
        revision = f" at {served.revision[:12]}" if served.revision else ""
        return f"{base_name(served.name)}{revision} on {engine}"

    def __call__(self, responses: Sequence[Response]) -> list[Verdict]:
        verdicts, self.counts = judged_once(responses, self.info.id, self.cache, self._ask, where=self.url)
        return verdicts

    def fresh(self) -> Self:
        """The same judge, under the same id, without the cache: what checks an engine must not read what another one
        said, and what an engine says that was not checked must not be read later."""
        twin = copy.copy(self)
        twin.cache = None
        return twin

    def forget(self) -> int:
        """Drops this judge's verdicts from the cache, as when it turns out to be wrong; how many there were."""
        if self.cache is None:
            return 0
        with self.cache.open(self.info.id, self.url) as session:
            return session.forget()

    def _ask(self, pairs: Sequence[Pair], keep: Keep) -> None:
        done = 0

        def kept(pair: Pair, opinion: Opinion) -> None:
            nonlocal done
            keep(pair, opinion)
            done += 1
            if self.progress:
                self.progress(done, len(pairs))

        try:
            run(self._ask_all(pairs, kept))
        except Failed as failed:
            kept_where = (
                f"are kept in {self.cache.path}, and the same command goes on from there"
                if self.cache and failed.resumes
                else "were given"
            )
            raise UserError(f"{failed.what}; {failed.do} ({done} of {len(pairs)} verdicts {kept_where})") from None

    async def _ask_all(self, pairs: Sequence[Pair], keep: Keep) -> None:
        todo = iter(pairs)
        undecided: list[tuple[Pair, Failed]] = []  # nothing was answered yet: the pair's fault, or the server's?

        async def work(client: AsyncOpenAI) -> None:
            for pair in todo:
                try:
                    opinion = await self._opinion(client, pair)
                    self._tally.answered += 1
                except Failed as failed:
                    if failed.unscored == FILTERED or await self._answers_others(client, failed):
                        opinion = Opinion(label=None, reason=failed.unscored)
                    elif failed.unscored is None or self._tally.answered or len(undecided) + 1 == FIRST_FAILURES:
                        raise
                    else:
                        undecided.append((pair, failed))
                        continue
                keep(pair, opinion)

        async with self._client() as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.in_flight, len(pairs))):
                        group.create_task(work(client))
            except BaseExceptionGroup as failures:
                # The first to fail has stopped the others
                raise failures.exceptions[0] from None
        for pair, failed in undecided:
            if not self._tally.answered:
                raise failed
            keep(pair, Opinion(label=None, reason=failed.unscored))

    async def _answers_others(self, client: AsyncOpenAI, failed: Failed) -> bool:
        """Whether a failure that may be about one pair is: the server has answered others, and still answers."""
        if failed.unscored is None or not self._tally.answered:
            return False
        twin = copy.copy(self)
        twin.retry = Retry(tries=1, timeouts=1)
        try:
            await twin._reply(client, self._hello(self.served.name))
        except Failed:
            return False
        return True

    async def _meet(self) -> Served:
        async with self._client() as client:
            card = await self._card(client)
            extra: Mapping[str, Any] = card.model_extra or {}
            snapshot = _SNAPSHOT.search(str(extra.get("root") or ""))
            context = extra.get("max_model_len")
            hello = self._hello(card.id)
            asked = (
                {"logprobs": TOP_LOGPROBS} if "prompt" in hello else {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
            )
            first = await self._taken(client, {**hello, **asked})
            reply = first or await self._reply(client, hello)
            held = await self._taken(client, {**hello, "extra_body": vllm_fields(LABEL_WORDS["three"])})
            thinks = reply.thoughts or "<think" in (reply.content or "") or thinks_first(card.id)
            return Served(
                name=card.id,
                revision=snapshot[1] if snapshot else None,
                version=await self._version(client),
                # Others change theirs from one request to the next
                fingerprint=reply.fingerprint if (reply.fingerprint or "").startswith("vllm-") else None,
                context=context if isinstance(context, int) else None,
                grammar=held is not None,
                logprobs=bool(first and first.first_tokens),
                thinks=thinks if self.thinks is None else self.thinks,
            )

    async def _card(self, client: AsyncOpenAI) -> Any:
        """The served model that was asked for; `Failed` where there is no server or no such model."""
        import openai

        another = "or name another server as vllm:MODEL@URL"
        try:
            async with asyncio.timeout(FIRST_CONTACT_SECONDS):
                served = [card for card in (await client.models.list()).data if isinstance(card.id, str)]
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                raise self._refusal(error) from None
            raise Failed(
                f"the server at {self.url} answers {error.status_code} when asked for its models",
                "give the base URL of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1",
            ) from None
        except (openai.APIConnectionError, TimeoutError):
            raise Failed(
                f"no judge server answers at {self.url}",
                f"start one with asabench judge-server {self.model}, {another}",
            ) from None
        except (openai.OpenAIError, ValueError, AttributeError, TypeError, RecursionError):
            raise Failed(
                f"what answers at {self.url} is no OpenAI-compatible server", f"check the URL, {another}"
            ) from None
        for matches in (lambda name: name == self.model, lambda name: base_name(name) == base_name(self.model)):
            if found := [card for card in served if matches(card.id)]:
                return found[0]
        names = ", ".join(card.id for card in served) or "nothing"
        raise Failed(
            f"the server at {self.url} does not serve {self.model!r}; it serves {names}",
            "name one of these as vllm:MODEL@URL, or start a server with the model you want",
        )

    async def _version(self, client: AsyncOpenAI) -> str | None:
        """vLLM says its version outside of the OpenAI-compatible paths."""
        import openai

        try:
            async with asyncio.timeout(FIRST_CONTACT_SECONDS):
                said = await client.get(self.url.removesuffix("/v1") + "/version", cast_to=object)
        except (openai.OpenAIError, TimeoutError, ValueError):
            return None
        version = said.get("version") if isinstance(said, dict) else None
        return version if isinstance(version, str) else None

    async def _taken(self, client: AsyncOpenAI, body: dict[str, Any]) -> Reply | None:
        """The reply, or None where the server does not take a field of the request."""
        try:
            return await self._reply(client, body)
        except Failed as failed:
            if failed.status in (400, 422):
                return None
            raise

    async def _reply(self, client: AsyncOpenAI, body: dict[str, Any]) -> Reply:
        """Sends one request until it is answered; `Failed` where that will not happen."""
        import openai

        seconds = self._timeout
        failures = timeouts = 0
        while True:
            asked_for = None
            try:
                async with asyncio.timeout(seconds):
                    create = client.completions.create if "prompt" in body else client.chat.completions.create
                    return reply_of(await create(**body))
            except (openai.APITimeoutError, TimeoutError):
                timeouts += 1
                failed = Failed(
                    f"the judge server at {self.url} did not answer within {seconds:g} s, {timeouts} times",
                    "see its log; a slow server needs fewer requests in flight",
                    unscored="the server did not answer in time",
                )
            except TooLong:
                raise Failed(
                    f"the judge server at {self.url} answers with more than {MOST_ANSWER_BYTES} bytes",
                    "see its log, or name another server",
                    resumes=False,
                ) from None
            except openai.APIConnectionError:
                failed = Failed(
                    f"the judge server at {self.url} cannot be reached any more",
                    "start it again",
                    unscored="the server closed the connection",
                )
            except openai.APIStatusError as error:
                if error.status_code not in PASSING:
                    raise self._refusal(error) from None
                asked_for = retry_after(error.response.headers)
                failed = Failed(
                    f"the judge server at {self.url} keeps answering {error.status_code}",
                    "see its log",
                    unscored=f"the server answered {error.status_code}",
                )
            except (openai.APIError, ValueError, RecursionError):
                failed = Failed(
                    f"the judge server at {self.url} keeps answering with what is no chat completion",
                    "see its log",
                    unscored="the server's reply is no chat completion",
                )
            failures += 1
            if failures >= self.retry.tries or timeouts >= self.retry.timeouts:
                raise failed
            await asyncio.sleep(self.retry.wait(failures, asked_for))

    @property
    def _timeout(self) -> float:
        if self.timeout is not None:
            return self.timeout
        return THINKING_TIMEOUT_SECONDS if self._served and self._served.thinks else TIMEOUT_SECONDS

    def _refusal(self, error: APIStatusError) -> Failed:
        """What a status means that no further try will change."""
        status = error.status_code
        server = f"the judge server at {self.url}"
        said = without_key(" ".join(error.message.split()))
        if 300 <= status < 400:
            return Failed(
                f"{server} answers with a redirect ({status}), which is not followed: it would take the API key along",
                "name the address that it leads to, once you know whose it is",
                status,
                resumes=False,
            )
        if _FILTER.search(f"{error.code} {said}"):
            return Failed(f"{server} filters a request ({said[:200]})", "see its log", status, unscored=FILTERED)
        if status in (401, 403):
            return Failed(
                f"{server} refuses the API key ({status})",
                f"set {KEY_VARIABLE} to the key it takes",
                status,
                # What stands in front of a server may refuse a text so
                unscored=f"the server refused the request ({status})" if status == 403 else None,
            )
        if _TOO_LONG.search(said):
            return Failed(
                f"a pair to judge does not fit the context of {server}",
                "start it with a larger --max-model-len, or a model with a longer context; either is another judge, "
                "which is asked about all pairs again",
                resumes=False,
            )
        if status == 404:
            return Failed(
                f"{server} does not serve {self.model!r} any more",
                "start it with that model",
                status,
                unscored="the server refused the request (404)",
            )
        return Failed(
            f"{server} refuses a request ({said[:200]})",
            "see its log",
            status,
            unscored=f"the server refused the request ({status})",
        )

    def _client(self) -> AsyncOpenAI:
        try:
            from openai import AsyncOpenAI

            from harness.judges.server_client import bounded_client
        except ImportError:
            raise UserError("a judge behind a server needs the package openai; pip install 'asabench[judge]'") from None
        # A proxy set for the outside world cannot reach a server on this machine
        local = urlsplit(self.url).hostname in _LOOPBACK
        return AsyncOpenAI(
            base_url=self.url,
            api_key=os.environ.get(KEY_VARIABLE) or "none",
            max_retries=0,
            timeout=None,
            http_client=bounded_client(trust_env=not local),
        )


def without_key(text: str) -> str:
    """What a server said, should it say the key back to whoever reads a log."""
    key = os.environ.get(KEY_VARIABLE)
    return text.replace(key, "(the key)") if key else text


def base_url(url: str) -> str:
    """The base URL without a slash at its end, with `/v1` where no path is given; `UserError` where it is none."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, a port beyond 65535
        usable = False
    if not usable:
        raise UserError(f"the judge server's URL {url!r} cannot be used; write it like {DEFAULT_URL}")
    url = url.rstrip("/")
    return url if parts.path.strip("/") else url + "/v1"


def request_body(served: Served, how: Decoding, question: list[Message]) -> dict[str, Any]:
    """The keywords of one request for a verdict."""
    body: dict[str, Any] = {
        "model": served.name,
        "messages": question,
        "max_tokens": how.max_tokens,
        "temperature": how.temperature,
        "top_p": how.top_p,
        "seed": how.seed,
    }
    if how.choice is not None:
        body["extra_body"] = vllm_fields(how.choice)
    return body


def model_and_url(rest: str) -> tuple[str, str | None]:
    """Of `[MODEL][@URL]`. Model names hold slashes, colons and at signs; a URL begins with its scheme."""
    model, url = _MODEL_AND_URL.fullmatch(rest).groups()  # type: ignore[union-attr]  # it matches any text
    return model, url


def vllm_fields(choice: Sequence[str] | None = None) -> dict[str, Any]:
    """Fields that vLLM adds to the OpenAI format. choice: the words that a grammar holds the reply to."""
    # vLLM applies a model's own repetition penalty unless told not to, and the label words stand in the question
    grammar = {"structured_outputs": {"choice": list(choice)}} if choice else {}
    return {**grammar, "repetition_penalty": 1.0}


def reply_of(completion: Any) -> Reply:
    """The parts that are used, of a chat completion or of a plain one; `ValueError` for what is neither."""
    try:
        choice = completion.choices[0]
        message = getattr(choice, "message", None)
        content = choice.text if message is None else message.content
    except (AttributeError, IndexError, TypeError):
        raise ValueError("no completion") from None
    try:
        # A plain completion lists the likeliest tokens of each position by token, a chat completion as records
        tokens = (
            tuple((str(token), float(logprob)) for token, logprob in choice.logprobs.top_logprobs[0].items())
            if message is None
            else tuple((str(e.token), float(e.logprob)) for e in choice.logprobs.content[0].top_logprobs)
        )
        if not all(logprob <= LOGPROB_ROUNDING for _, logprob in tokens):
            tokens = ()  # no logarithms of probabilities
    except (AttributeError, IndexError, TypeError, ValueError):
        tokens = ()  # not asked for, or a server that has none to give
    if content is not None and not isinstance(content, str):
        raise ValueError("no completion")
    ended = choice.finish_reason
    fingerprint = getattr(completion, "system_fingerprint", None)
    # The field's name in vLLM today, and its name until 2025 and in other servers
    thoughts = getattr(message, "reasoning", None) or getattr(message, "reasoning_content", None)
    return Reply(
        content=content,
        cut=ended == "length",
        no_verdict=_no_verdict(ended, content and getattr(message, "refusal", None)),
        thoughts=bool(thoughts),
        fingerprint=fingerprint if isinstance(fingerprint, str) else None,
        first_tokens=tokens,
    )


def _no_verdict(ended: object, refusal: object) -> str | None:
    """Why a reply is no verdict, whatever it says: it was filtered or broken off, or the model refused to judge."""
    if ended == "content_filter":
        return FILTERED
    if refusal:
        return "the judge refused to answer"
    if ended is None or str(ended).casefold() in (*_ENDS, "length"):
        return None
    return f"the reply ended with {str(ended)[:40]!r}"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, from a number or a date; None where it asks for nothing readable."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs it to its end in an event loop of its own; inside a running loop (a notebook) in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, main).result()
