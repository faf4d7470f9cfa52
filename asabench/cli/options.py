"""The options that several commands share: each has its type and its help text here, once.

A command takes them as the types of its parameters (`layers: options.Layers = "all"`). What one command alone has
stands in that command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from asabench.core.attack_names import BUILT_IN, names_without_targets
from asabench.core.defaults import TARGET_LISTS
from asabench.core.errors import UserError
from asabench.core.judge_names import GUARDS, forms
from asabench.core.prompts import PROMPT_SETS
from asabench.core.published_prompts import HUB_FORM, PUBLISHED

PROTOCOLS_OWN = "the protocol's"
CONFIGS_OWN = "the --config file's"
NO_MODEL = (
    "no model was named; give it behind the command, as in `asabench {command} smollm2-135m`, with --model{config}"
)


def option(help: str, *names: str, default: str | None = None) -> Any:
    """An option with its help text. names: its spelling, where that does not follow from the parameter's name.
    default: what is taken without it, in words, where no value says so."""
    return typer.Option(*names, help=help, show_default=True if default is None else default)


LOGGING = ("verbose", "quiet", "log_file")
"""Parameters of `asabench.cli.logs`, which choose nothing of a run."""


def given(context: typer.Context) -> dict[str, Any]:
    """What stands on the command line, by parameter; what was left at its default is not among it."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {
        name: value
        for name, value in context.params.items()
        if (source := sources[name]) is not None and not source.name.startswith("DEFAULT") and name not in LOGGING
    }


PANELS: dict[str, str] = {
    **dict.fromkeys(("model", "config", "chat_template", "defence", "allow_remote_code", "allow_pickle"), "The model"),
    **dict.fromkeys(("prompts", "prompt_column", "limit", "size", "protocol", "max_new_tokens"), "What it is asked"),
    **dict.fromkeys(("attack", "layers", "doses", "seeds", "steps", "step_layers", "target", "targets"), "The attack"),
    **dict.fromkeys(("prefix", "control", "paper_code", "noise_device"), "The attack"),
    **dict.fromkeys(("judge", "bar", "uncertified", "certificate"), "The judge"),
    **dict.fromkeys(("dtype", "device", "device_map", "attention", "engine", "tensor_parallel"), "Where it runs"),
    **dict.fromkeys(("gpu_memory", "shard", "workers", "gpus_per_worker", "ray", "max_rows"), "Where it runs"),
}
"""The panel of an option in help texts; the others are in the last one."""


def panel_of(name: str) -> str:
    return PANELS.get(name, "Options")


def named_model(place: str | None, model: str | None, command: str, *, config: bool = False) -> str:
    """The model that was named, behind the command or with `--model`; `UserError` for none, and for two."""
    if place is not None and model is not None and place != model:
        raise UserError(f"two models were named, {place} and --model {model}; give one")
    if (named := place or model) is None:
        file = ", or in the --config file as `model: smollm2-135m`" if config else ""
        raise UserError(NO_MODEL.format(command=command, config=file))
    return named


# The model

MODEL = "A short name (`asabench models`), a local folder, or a hub id[@revision]."
Model = Annotated[str, option(MODEL)]
ConfiguredModel = Annotated[Optional[str], option(MODEL, default=CONFIGS_OWN)]
ModelPlace = Annotated[Optional[str], typer.Argument(metavar="MODEL", help=MODEL)]
"""The model behind the command's name, where `--model` is there too."""
Config = Annotated[
    Optional[Path], option("A YAML file of these options, such as `dtype: bfloat16`; an option beside it wins.")
]
ModelArgument = Annotated[str, typer.Argument(help=MODEL)]
DTYPE = "Number format of the weights: auto (the checkpoint's), float32, bfloat16 or float16."
Dtype = Annotated[str, option(DTYPE)]
BY_DEVICE = "float32 on a CPU, auto on a GPU"
DtypeByDevice = Annotated[Optional[str], option(DTYPE, default=BY_DEVICE)]
DEVICE = "Where the model runs: auto, cpu, cuda, cuda:1, ..."
Device = Annotated[str, option(DEVICE)]
DEVICE_MAP = "Spread a model over all GPUs, in place of --device: auto, balanced, balanced_low_0 or sequential."
DeviceMap = Annotated[Optional[str], option(DEVICE_MAP, default="one device")]
ATTENTION = "Implementation of attention: eager, sdpa or flash_attention_2."
Attention = Annotated[Optional[str], option(ATTENTION, default="transformers' own")]
ENGINE = "What generates: hf, the model in this process; vllm, which needs vLLM in this environment."
Engine = Annotated[str, option(ENGINE)]
TensorParallel = Annotated[int, option("GPUs that share the model, for --engine vllm.")]
SHARD = "Work on share I of N of the prompts, such as 3/8."
Workers = Annotated[
    Optional[int], option("Workers under Ray, each with an engine of its own.", default="none: this process")
]
GpusPerWorker = Annotated[Optional[float], option("GPUs of each worker.", default="--tensor-parallel, where there are")]
Ray = Annotated[Optional[str], option("Address of a Ray cluster, such as auto.", default="one on this machine")]
Shard = Annotated[Optional[str], option(SHARD, default="ASABENCH_SHARD, or Slurm's array")]
GpuMemory = Annotated[
    Optional[float], option("Share of a GPU's memory that --engine vllm takes.", default="vLLM's own")
]
ChatTemplate = Annotated[Optional[Path], option("A Jinja file to format prompts with, for a model without a template.")]
AllowRemoteCode = Annotated[bool, option("Run Python code that comes with the model.", "--allow-remote-code")]
AllowPickle = Annotated[
    bool, option("Load weights in pickle files, which may run code of their author's.", "--allow-pickle")
]
DEFENCE = "package.module:Name of a defence that acts while the model answers."
Defence = Annotated[Optional[str], option(DEFENCE)]

# What it is asked, and under which attack

PROMPTS = (
    f"Requests: {', '.join([*PROMPT_SETS, *PUBLISHED])}, NAME=FILE, {HUB_FORM}, or a CSV, JSON Lines or Parquet file "
    "with goal[,id,target,suffix]."
)
Prompts = Annotated[str, option(PROMPTS)]
PromptColumn = Annotated[
    Optional[str], option("The column of a file or hub table that has the requests.", default="goal")
]
LIMIT = "Take only the first N prompts."
Limit = Annotated[Optional[int], option(LIMIT)]
LAYERS = "Decoder blocks to perturb: all, or numbers and ranges such as 0,3-5."
Layers = Annotated[str, option(LAYERS)]
LAYERS_OR_JOINT = "Decoder blocks to perturb: all, numbers and ranges such as 0,3-5; joint is all of them at once."
DOSES = "Lengths of the perturbation, such as 0.3,1: at 1 it is about as long as the hidden state."
Doses = Annotated[Optional[str], option(DOSES, default=PROTOCOLS_OWN)]
SEEDS = "Seeds of attacks that draw, such as 0,1."
Seeds = Annotated[Optional[str], option(SEEDS, default=PROTOCOLS_OWN)]
ATTACK = (
    f"Attacks between commas: {', '.join(BUILT_IN)}, required (those of a ranked entry), package.module:Name; options "
    "as gradient:direction=descend; or auto, a suite."
)
ATTACK_WITHOUT_TARGET = f"Attacks between commas: {', '.join(names_without_targets())}, package.module:Name, or none."
Attack = Annotated[str, option(ATTACK)]
EntryAttack = Annotated[str, option("Attacks between commas; a ranked entry has the required ones.")]
EntryPrompts = Annotated[str, option("The published requests: advbench, or a file that has them with their targets.")]
TARGET = "The start of compliance that directed attacks work towards, for all prompts."
Target = Annotated[Optional[str], option(TARGET, default="each prompt's own")]
Targets = Annotated[
    Optional[str],
    option(
        "Targets that directed attacks work towards one after the other, the strongest counting: "
        f"{', '.join(TARGET_LISTS)}, a text file with one a line, or such as 'Sure, here is|Step 1:'.",
        default="one target a prompt",
    ),
]
Prefix = Annotated[Optional[int], option("Tokens of its target that every answer is given to start with.")]
Control = Annotated[bool, option("Each attack's matched control too: a random direction in its place.", "--control")]
PaperCode = Annotated[bool, option("With gu2025: also what the paper's code does besides.", "--paper-code")]
NoiseDevice = Annotated[
    Optional[str],
    option("Whose generator draws noise: cpu or cuda; a seed is another vector on either.", default=PROTOCOLS_OWN),
]
PROTOCOL = "How prompts are formatted, perturbed and answered: asabench-v1 or gu2025."
Protocol = Annotated[str, option(PROTOCOL)]
Formatting = Annotated[str, option("The protocol that says how prompts are formatted: asabench-v1 or gu2025.")]
SIZE = (
    "Published size: smoke, lite, standard or full, which set prompts, blocks, seeds and doses; "
    "harm: standard with 200 tokens."
)
Size = Annotated[Optional[str], option(SIZE)]
EntrySize = Annotated[str, option("A published size: lite, standard, full or harm.")]
MAX_NEW_TOKENS = "Tokens an answer may have."
MaxNewTokens = Annotated[Optional[int], option(MAX_NEW_TOKENS, default=PROTOCOLS_OWN)]
MaxRows = Annotated[Optional[int], option("Answers generated side by side, at most.", default="by free memory")]
DryRun = Annotated[bool, option("Say what it would take, and stop.", "--dry-run")]

# Who judges the answers

JUDGE = f"{', '.join(forms())}, GUARD[:SIZE][@URL] ({', '.join(GUARDS)}), or package.module:Name."
Judge = Annotated[str, option(f"Who judges the answers: {JUDGE}")]
JudgeArgument = Annotated[str, typer.Argument(help=JUDGE)]
Bar = Annotated[float, option("Balanced accuracy that the judge must reach on labelled pairs.")]
Uncertified = Annotated[bool, option("Go on with a judge below the bar, and mark the row.", "--uncertified")]

CERTIFICATE = "A judge's certificate on people's labels, from `asabench judge-check --out`: rates may then be of harm."
Certificate = Annotated[Optional[Path], option(CERTIFICATE)]

# Data of a task, and what is printed

CSQA = "CommonsenseQA: a .jsonl or .parquet file, or hub[@REVISION]."
AsJson = Annotated[bool, option("Print JSON.", "--json")]
