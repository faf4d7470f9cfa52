"""What runs inside vLLM's workers: the injection of docs/protocol.md, request by request and block by block.

vLLM merges `SteeringWorker` into its worker (`worker_extension_cls`), and its methods are called from outside by
`collective_rpc`. Requests carry what is injected in `SamplingParams.extra_args`; directions that are not drawn here
come by file. Each rank of a tensor-parallel group holds the whole stream, so each applies the same rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.engine.steering import Dosed, Rule, Span, Steering, find_blocks, hook_blocks
from harness.stream.noise import draws_from

KEY = "asabench"
"""Under which a request's `extra_args` hold what is injected into it."""


class SteeringWorker:
    """Methods that vLLM's worker gains. Their names begin with the project's, as they share a class with its own."""

    model_runner: Any

    def asabench_install(self, n_layers: int, d_model: int) -> str:
        """Hooks the blocks and the places where a step is put together; returns the name of the model's class.
        `ValueError` where this vLLM has none of them."""
        runner = self.model_runner
        missing = [name for name in ("_prepare_inputs", "_model_forward", "requests") if not hasattr(runner, name)]
        if missing:
            raise ValueError(f"{type(runner).__module__} has no {', '.join(missing)}")
        self._asabench = state = _State(runner, n_layers, d_model)
        runner._prepare_inputs = state.before(runner._prepare_inputs)
        runner._model_forward = state.around(runner._model_forward)
        runner.model.compute_logits = state.after(runner.model.compute_logits)
        hook_blocks(find_blocks(runner.model, n_layers), state.change)
        return type(runner.model).__name__

    def asabench_begin(self, rule: dict[str, Any], directions: str | None) -> None:
        """A call of the engine begins. rule: fields of `Rule`. directions: a .npy file (row, d_model) of raw ones."""
        self._asabench.begin(rule, None if directions is None else np.load(directions))

    def asabench_seen(self) -> dict[str, Any]:
        """What was done since the call began: perturbed rows by cell, the cells that moved, those with logits that are
        not finite, and the largest relative change of the stream that a probe saw."""
        steering = self._asabench.steering
        return {
            "perturbed": sorted(steering.perturbed.items()),
            "moved": sorted(steering.moved),
            "not_finite": sorted(steering.not_finite),
            "change": self._asabench.change_by_layer,
        }


class _State:
    def __init__(self, runner: Any, n_layers: int, d_model: int) -> None:
        self.runner, self.n_layers, self.d_model = runner, n_layers, d_model
        self.steering = Steering(Rule())
        self.directions: np.ndarray[Any, Any] | None = None
        self.probing = False
        self.change_by_layer: list[float] = []
        self._dosed: dict[str, Dosed | None] = {}

    def begin(self, rule: dict[str, Any], directions: np.ndarray[Any, Any] | None) -> None:
        self.probing = bool(rule.pop("probe", False))
        self.change_by_layer = []
        steps = rule["steps"]
        self.steering = Steering(
            Rule(
                statistics=rule["statistics"],
                steps=None if steps is None else frozenset(steps),
                layer_at=dict(rule["layer_at"]),
            )
        )
        self.directions, self._dosed = directions, {}

    def before(self, prepare: Callable[..., Any]) -> Callable[..., Any]:
        def prepared(scheduler_output: Any, num_scheduled_tokens: Any, *args: Any, **kwargs: Any) -> Any:
            ended = scheduler_output.finished_req_ids
            self.steering.forget(ended)
            for request in ended:
                self._dosed.pop(request, None)
            self.steering.begin(self._spans(num_scheduled_tokens))
            return prepare(scheduler_output, num_scheduled_tokens, *args, **kwargs)

        return prepared

    def _spans(self, scheduled: Any) -> list[Span]:
        batch, row, spans = self.runner.input_batch, 0, []
        for index, request in enumerate(batch.req_ids):
            held, count = self.runner.requests[request], int(scheduled[index])
            extra = (held.sampling_params.extra_args or {}).get(KEY)
            if extra is not None:
                spans.append(
                    Span(
                        request=request,
                        row=row,
                        first=int(batch.num_computed_tokens_cpu[index]),
                        count=count,
                        prompt_length=int(held.num_prompt_tokens),
                        number=int(extra["number"]),
                        dosed=self._dose(request, extra),
                    )
                )
            row += count
        return spans

    def _dose(self, request: str, extra: dict[str, Any]) -> Dosed | None:
        if request not in self._dosed:
            self._dosed[request] = self._read(extra)
        return self._dosed[request]

    def _read(self, extra: dict[str, Any]) -> Dosed | None:
        if extra["layer"] is None:
            return None
        if extra["noise"] is not None:
            direction = draws_from(int(extra["noise"]), self.d_model)[0]
        else:
            assert self.directions is not None, "a call with directions hands their file over"
            direction = torch.from_numpy(self.directions[int(extra["row"])])
        return Dosed(
            number=int(extra["number"]), layer=int(extra["layer"]), dose=float(extra["dose"]), direction=direction
        )

    def around(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def forwarded(*args: Any, **kwargs: Any) -> Any:
            try:
                return forward(*args, **kwargs)
            finally:
                self.steering.end()

        return forwarded

    def after(self, compute_logits: Callable[..., Any]) -> Callable[..., Any]:
        def computed(*args: Any, **kwargs: Any) -> Any:
            logits = compute_logits(*args, **kwargs)
            # Ranks that do not sample have none
            if isinstance(logits, Tensor) and len(logits) == len(self.runner.input_batch.req_ids):
                self.steering.see_logits(logits)
            return logits

        return computed

    def change(self, layer: int, stream_in: Tensor, stream: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.probing:
            return self._probe(layer, stream_in, stream)
        return self.steering.apply(layer, stream_in, stream)

    def _probe(self, layer: int, stream_in: Tensor, stream: Tensor) -> tuple[Tensor, Tensor] | None:
        """Scales the stream up after block 0 and measures how much each later block changes it, in the first step."""
        if layer > 0:
            if len(self.change_by_layer) < self.n_layers - 1:
                before = stream_in.float()
                self.change_by_layer.append(float((stream.float() - before).norm() / before.norm()))
            return None
        largest = max(float(stream.float().abs().max()), 1e-6)
        scale = min(1e4, torch.finfo(stream.dtype).max / 8 / largest)
        return torch.arange(len(stream), device=stream.device), stream * scale
