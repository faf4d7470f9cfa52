"""The engine against a plain loop and against per-layer batches, on the same cells.

    make bench                                   SmolLM2 on this CPU: 16 prompts x 30 layers x 50 tokens
    make bench DEVICE=cuda SHAPE=8b              a random Llama of that shape, in bfloat16: no weights to fetch
    make bench BENCH="--prompts 4 --plain 8"     smaller

Three ways to the same answers, all injecting through `harness.stream.injection`:

plain        as published: batch 1, `generate()`, the clean answer again for every cell (timed on a sample of cells)
per-layer    one `generate()` a layer over all prompts, and one for the clean answers
engine       `harness.engine.sweep`

Printed: seconds a cell, the ratios, the texts' agreement, the share of the machine's measured matrix-multiply speed,
and peak memory.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from asabench.core.prompts import load_prompts
from asabench.core.protocol import PRESETS, Protocol
from asabench.core.records import Cell, Prompt
from harness.attacks import make_attack
from harness.engine.decoding import decode
from harness.engine.sweep import grid, injection_of, propose, sweep
from harness.model.memory import keep_freed_memory
from harness.model.subject import Subject, load, make_subject, pick_device
from harness.stream.injection import inject

SHAPES: dict[str, dict[str, int]] = {
    "8b": dict(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
    ),
    "1b": dict(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
    ),
    "tiny": dict(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
    ),
}

Tokens = tuple[int, ...]


class WordTokenizer:
    """Enough of a tokenizer for random weights: a number per word, the same on every machine."""

    chat_template = "none"

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.eos_token_id = None

    def apply_chat_template(self, messages: Sequence[dict[str, str]], **_: Any) -> dict[str, list[int]]:
        return {"input_ids": self._numbers("user " * 20 + messages[0]["content"])}

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": self._numbers(text)}

    def _numbers(self, text: str) -> list[int]:
        return [sum(word.encode()) * 31 % (self.vocabulary - 3) + 3 for word in text.split()]

    def decode(self, tokens: Sequence[int], **_: Any) -> str:
        return " ".join(map(str, tokens))


def random_subject(shape: str, device: torch.device, dtype: torch.dtype) -> Subject:
    """A Llama of that shape with random weights, made on the device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=4096, eos_token_id=None, tie_word_embeddings=False)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = LlamaForCausalLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    return make_subject(model, WordTokenizer(config.vocab_size), name=f"random-{shape}", revision="random")


FAMILIES = ("LlamaConfig", "Qwen3Config", "GPTNeoXConfig")
TINY = dict(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=512,
    eos_token_id=None,
)


def tiny(family: str, device: torch.device, dtype: torch.dtype) -> Subject:
    """A random model of a family with weights large enough that its answers differ."""
    import transformers

    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, family)(**TINY)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3, generator=generator)
    model = model.to(device=device, dtype=dtype).requires_grad_(False)
    return make_subject(model, WordTokenizer(TINY["vocab_size"] or 0), name=family, revision="random")


def by_generate(subject: Subject, cells: Sequence[Cell], protocol: Protocol) -> list[Tokens]:
    """`generate()` over left-padded prompts; the cells share a layer."""
    attack = {"random": make_attack("random", protocol)}
    ids = [subject.format(cell.prompt, protocol) for cell in cells]
    longest = max(map(len, ids))
    padded = torch.tensor([[0] * (longest - len(row)) + row for row in ids], device=subject.device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids], device=subject.device)
    injection = injection_of(cells, propose(subject, cells, attack), protocol)
    with torch.no_grad(), inject(subject.blocks, injection):
        output = subject.model.generate(
            padded,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=protocol.max_new_tokens,
            pad_token_id=0,
            disable_compile=True,  # compiled, it would not see the hooks
        )
    return [_until_stop(subject, row) for row in output[:, longest:].tolist()]


def _until_stop(subject: Subject, tokens: list[int]) -> Tokens:
    for place, token in enumerate(tokens):
        if token in subject.stop_tokens:
            return tuple(tokens[: place + 1])
    return tuple(tokens)


def matmul_speed(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP a second of the largest of a few square products: the machine's practical peak."""
    best = 0.0
    for size in (1024, 2048, 4096) if device.type == "cpu" else (4096, 8192):
        a = torch.randn(size, size, device=device, dtype=dtype)
        for _ in range(4):
            seconds = timed(device, lambda a=a: a @ a)[0]
            best = max(best, 2 * size**3 / seconds)
    return best


def copy_speed(device: torch.device) -> float:
    """Bytes a second that are read and written in the copy of a large tensor: the memory's practical bandwidth."""
    source = torch.empty((1 << 30) if device.type == "cuda" else (1 << 26), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return max(2 * source.numel() / timed(device, lambda: target.copy_(source))[0] for _ in range(5))


def fed_weights(subject: Subject) -> int:
    """Weights that every token fed is multiplied with: the input embedding is looked up."""
    embedding = subject.model.get_input_embeddings().weight
    tied = subject.model.get_output_embeddings().weight is embedding
    return int(subject.n_parameters - (0 if tied else embedding.numel()))


def timed(device: torch.device, work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result, with the device's queue empty before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, result


def smallest_gap(subject: Subject, cells: Sequence[Cell], protocol: Protocol) -> float:
    """The smallest difference of the two best logits in answers that differ: how near a tie they were."""
    attack = {"random": make_attack("random", protocol)}
    gaps = []
    for cell in cells:
        injection = injection_of([cell], propose(subject, [cell], attack), protocol)
        tokens = [subject.format(cell.prompt, protocol)]
        row = torch.zeros(1, dtype=torch.long)
        answer = decode(subject, tokens, row, injection, protocol.max_new_tokens, measure_gap=True)[0]
        gaps.append(answer.gap or 0.0)
    return max(gaps, default=0.0)


def peak_memory(device: torch.device) -> float:
    """GiB: of the device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this shape instead of --model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", help="default: float32, and bfloat16 for a shape on a GPU")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--set", default="advbench", help="prompt set or CSV file")
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--dose", type=float, default=1.0)
    parser.add_argument("--plain", type=int, default=16, help="cells of the plain loop that are timed, evenly chosen")
    parser.add_argument("--max-rows", type=int, default=None)
    return parser.parse_args()


def main() -> None:
    options = parse()
    device = pick_device(options.device)
    on_gpu_shape = options.shape and device.type == "cuda"
    dtype = getattr(torch, options.dtype or ("bfloat16" if on_gpu_shape else "float32"))
    if options.shape:
        if device.type == "cpu":
            keep_freed_memory()
        subject = random_subject(options.shape, device, dtype)
    else:
        subject = load(options.model, device=str(device), dtype=str(dtype).removeprefix("torch."))
    protocol = PRESETS["asabench-v1"].model_copy(update={"max_new_tokens": options.tokens, "doses": (options.dose,)})
    prompts: tuple[Prompt, ...] = load_prompts(options.set).first(options.prompts).prompts
    attacks = {"random": make_attack("random", protocol)}
    cells = grid(prompts, range(subject.n_layers), list(attacks.values()), protocol)
    steered = [cell for cell in cells if not cell.is_clean]
    print(
        f"{subject.name}, {subject.n_parameters / 1e6:.0f}M parameters, {subject.dtype}, {device}, "
        f"{torch.get_num_threads()} threads; {len(prompts)} prompts x {subject.n_layers} layers x {options.tokens} "
        f"tokens at dose {options.dose:g}"
    )
    peak = matmul_speed(device, dtype)

    def engine() -> dict[str, Tokens]:
        batches = sweep(subject, cells, protocol, attacks, max_rows=options.max_rows)
        return {response.cell.id: response.token_ids for batch in batches for response in batch}

    def per_layer() -> dict[str, Tokens]:
        found: dict[str, Tokens] = {}
        for layer in (None, *range(subject.n_layers)):
            own = [cell for cell in cells if cell.layer == layer]
            found.update(zip((cell.id for cell in own), by_generate(subject, own, protocol), strict=True))
        return found

    chosen = [steered[index * len(steered) // options.plain] for index in range(min(options.plain, len(steered)))]

    def plain() -> dict[str, Tokens]:
        found: dict[str, Tokens] = {}
        for cell in chosen:
            clean = Cell(prompt=cell.prompt)
            found[clean.id] = by_generate(subject, [clean], protocol)[0]
            found[cell.id] = by_generate(subject, [cell], protocol)[0]
        return found

    warm = protocol.model_copy(update={"max_new_tokens": 2})
    by_generate(subject, chosen[:1], warm)
    for _ in sweep(subject, cells, warm, attacks, max_rows=options.max_rows):
        pass
    engine_seconds, engine_tokens = timed(device, engine)
    memory = peak_memory(device)
    layer_seconds, layer_tokens = timed(device, per_layer)
    plain_seconds, plain_tokens = timed(device, plain)

    per_cell = {
        "plain loop": plain_seconds / len(chosen),
        "per-layer batches": layer_seconds / len(steered),
        "engine": engine_seconds / len(steered),
    }
    for name, seconds in per_cell.items():
        print(f"{name:18} {seconds:8.4f} s/cell   engine is {seconds / per_cell['engine']:5.1f} times as fast")
    for name, other in (("plain loop", plain_tokens), ("per-layer batches", layer_tokens)):
        different = [cell for cell in cells if cell.id in other and other[cell.id] != engine_tokens[cell.id]]
        text = f"{len(other) - len(different)} of {len(other)} answers the same as the engine's"
        if different:
            text += f"; the others pass a near tie (gap at most {smallest_gap(subject, different[:8], protocol):.2g})"
        print(f"{name:18} {text}")
    fed = sum(len(tokens) for tokens in engine_tokens.values())
    speed = 2 * fed_weights(subject) * fed / engine_seconds  # a multiply-add per weight and token
    share = f"{speed / peak:.0%} of the measured {peak / 1e9:.0f} GFLOP/s"
    print(f"{'engine':18} {speed / 1e9:.0f} GFLOP/s in weights, {share}")
    print(f"{'engine':18} {fed / engine_seconds:.0f} tokens/s, peak memory {memory:.1f} GiB")


if __name__ == "__main__":
    main()
