"""What a judge's server is asked for: one record for the command line and Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asabench.core.defaults import HOST
from asabench.core.errors import UserError

OWN_OPTIONS = ("--model", "--served-model-name", "--host", "--port", "--api-key")
"""vLLM options that cannot be passed on: the others of this module decide them, or what it prints would be wrong."""


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Options that some server can have; `UserError` for values that none can.

    environment: the folder of the environment (`harness.judge_server.environment.environment_folder`). port: 0 takes a
    free one. dtype: None takes float32 on a CPU, and what the model's configuration says on a GPU. tensor_parallel:
    GPUs that one copy of the model is spread over. data_parallel: copies. max_model_len: tokens of prompt and answer
    together; None: the model's own limit. gpu_memory: the share of a GPU's memory that is used, in (0, 1].
    reasoning_parser: None looks the model's name up in `harness.judge_server.command.REASONING_PARSERS`, "none" takes
    none. extra: further vLLM options, which win. log_file: None makes one in the folder for temporary files. timeout:
    seconds until it must be healthy.
    """

    environment: Path | None = None
    host: str = HOST
    port: int = 0
    dtype: str | None = None
    tensor_parallel: int = 1
    data_parallel: int = 1
    max_model_len: int | None = None
    gpu_memory: float | None = None
    reasoning_parser: str | None = None
    extra: Sequence[str] = ()
    log_file: Path | None = None
    timeout: float = 1800.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UserError(f"port {self.port}; allowed: 1 to 65535, or 0 for a free one")
        for name, number in (("tensor", self.tensor_parallel), ("data", self.data_parallel)):
            if number < 1:
                raise UserError(
                    f"{name} parallel size {number}; allowed: 1 or more, the number of GPUs it is spread over"
                )
        if self.max_model_len is not None and self.max_model_len < 1:
            raise UserError(f"a model length of {self.max_model_len} tokens; allowed: 1 or more")
        if self.gpu_memory is not None and not 0 < self.gpu_memory <= 1:
            raise UserError(f"a share of {self.gpu_memory:g} of the GPU memory; allowed: above 0, at most 1")
        for argument in self.extra:
            if (option := argument.partition("=")[0].replace("_", "-")) in OWN_OPTIONS:
                raise UserError(f"{option} cannot be passed on to vLLM; use judge-server's own options for it")
