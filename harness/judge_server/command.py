"""What a server is started with: vLLM's arguments, and the environment variables beside them."""

from __future__ import annotations

import os

from harness.judge_server.environment import Environment
from harness.judge_server.options import ServerOptions
from harness.judges.judge_prompt import thinks_first
from harness.model.files import ModelFiles

CPU_DTYPE = "float32"
CPU_KV_CACHE_GB = "2"

REASONING_PARSERS: dict[str, str] = {"qwq": "deepseek_r1", "deepseek-r1": "deepseek_r1", "qwen3": "qwen3"}
"""What the name of a model that thinks first holds, in small letters, and vLLM's parser that cuts off such a model's
thoughts; the first that fits is taken. (For gpt-oss vLLM chooses its own.)"""


def server_arguments(environment: Environment, files: ModelFiles, options: ServerOptions) -> list[str]:
    """What the environment's Python is given to start the server."""
    folder = str(files.folder.resolve())
    if environment.distribution == "vllm":
        arguments = ["-m", "vllm.entrypoints.cli.main", "serve", folder]
    else:  # the vllm command looks for the metadata of a package called vllm, and ends when it finds none
        arguments = ["-m", "vllm.entrypoints.openai.api_server", "--model", folder]
    arguments += ["--served-model-name", files.name, "--host", options.host, "--port", str(options.port)]
    # Sampling is what the request says, not what the model's generation_config.json adds to it
    arguments += ["--generation-config", "vllm"]
    arguments += ["--disable-uvicorn-access-log"]
    if environment.kind == "cpu":
        # Compiling takes a minute or more at every start; and a CPU has given nonsense in bfloat16 without an error
        arguments += ["--dtype", options.dtype or CPU_DTYPE, "--enforce-eager"]
    elif options.dtype is not None:
        arguments += ["--dtype", options.dtype]
    if options.tensor_parallel > 1:
        arguments += ["--tensor-parallel-size", str(options.tensor_parallel)]
    if options.data_parallel > 1:
        arguments += ["--data-parallel-size", str(options.data_parallel)]
    if options.max_model_len is not None:
        arguments += ["--max-model-len", str(options.max_model_len)]
    if options.gpu_memory is not None:
        arguments += ["--gpu-memory-utilization", f"{options.gpu_memory:g}"]
    parser = reasoning_parser_of(files.name) if options.reasoning_parser is None else options.reasoning_parser
    if parser is not None and parser != "none":
        arguments += ["--reasoning-parser", parser]
    return [*arguments, *options.extra]


def reasoning_parser_of(name: str) -> str | None:
    """vLLM's reasoning parser for the model of that name; None for one that is not known to think first
    (`harness.judges.judge_prompt.thinks_first`), or whose parser is not known."""
    if not thinks_first(name):
        return None
    return next((parser for part, parser in REASONING_PARSERS.items() if part in name.casefold()), None)


def surroundings(environment: Environment) -> dict[str, str]:
    """The environment variables of a server; what the user has set wins."""
    own = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    if environment.kind == "cpu":
        own |= {"VLLM_CPU_KVCACHE_SPACE": CPU_KV_CACHE_GB}
        # Log probabilities are compiled on their first use even in eager mode: 20 s, and a C++ compiler
        own |= {"TORCH_COMPILE_DISABLE": "1"}
    path = f"{environment.folder / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**own, **os.environ, "PATH": path}
