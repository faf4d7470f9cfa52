"""Tiny random models of every family, and their tokenizer; one real model; a browser; what all tests run under."""

from __future__ import annotations

import fcntl
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

# Before torch is imported, here and in the programs that tests start: each worker of pytest-xdist has one core
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from harness.model.files import locate
from harness.model.subject import Subject, load, make_subject
from tests import browser as browsers

# A shell that starts the tests in the background has them ignore Ctrl-C, and the programs they start too, of which some
# tests ask what they do on Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]
"""The repository, for what tests read or run of it wherever their own file lies."""

VOCABULARY = 160
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

COMMON = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    max_position_embeddings=256,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
GROUPED = {**COMMON, "num_key_value_heads": 2}

# Each family of the test matrix: (configuration class, its arguments)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", GROUPED),
    # a window shorter than prompt and answer: the cache must not lose what the mask keeps, nor the reverse
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": 12}),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 8}),
    "gemma3": (
        "Gemma3TextConfig",
        {
            **GROUPED,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 12,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "phi3": ("Phi3Config", {**GROUPED, "sliding_window": None}),
    "olmo2": ("Olmo2Config", GROUPED),
    "gpt_neox": ("GPTNeoXConfig", COMMON),
    "gpt2": (
        "GPT2Config",
        dict(vocab_size=VOCABULARY, n_embd=32, n_layer=4, n_head=4, n_positions=256, bos_token_id=1, eos_token_id=2),
    ),
    "gptj": (
        "GPTJConfig",
        dict(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=4,
            n_head=4,
            n_positions=256,
            rotary_dim=4,
            bos_token_id=1,
            eos_token_id=2,
        ),
    ),
    "falcon": ("FalconConfig", {**COMMON, "alibi": False, "new_decoder_architecture": False}),
    "bloom": (
        "BloomConfig",
        dict(
            vocab_size=VOCABULARY, hidden_size=32, n_layer=4, n_head=4, bos_token_id=1, eos_token_id=2, pad_token_id=0
        ),
    ),
}


def byte_tokenizer() -> Any:
    """A tokenizer of single letters over a small vocabulary, without a chat template."""
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    # Printable ASCII first, a space ("Ġ") and a newline ("Ċ") included: those fit into the small vocabulary
    characters = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda c: (c not in "ĠĊ", c))
    vocabulary = {token: index for index, token in enumerate((specials + characters)[:VOCABULARY])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )


def chat_tokenizer() -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_model(family: str | tuple[str, dict[str, Any]], seed: int = 0, **changes: Any) -> Any:
    """A random model, float32, with weights large enough that its answers differ between prompts. family: a name in
    FAMILIES, or a configuration class and its arguments."""
    config_class, arguments = FAMILIES[family] if isinstance(family, str) else family
    config = getattr(transformers, config_class)(**{**arguments, **changes})
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3, generator=generator)
    # Several stop tokens, so that rows leave a batch at different steps
    model.generation_config.eos_token_id = [2, *range(20, 30)]
    model.generation_config.pad_token_id = 0
    return model.requires_grad_(False)


@cache
def tiny_subject(family: str) -> Subject:
    return make_subject(tiny_model(family), chat_tokenizer(), name=f"tiny-{family}", revision="random")


@pytest.fixture(params=sorted(FAMILIES))
def family_subject(request: pytest.FixtureRequest) -> Subject:
    """A tiny subject of every family."""
    return tiny_subject(request.param)


@pytest.fixture
def llama() -> Subject:
    return tiny_subject("llama")


@pytest.fixture
def save_model(tmp_path: Path) -> Callable[..., Path]:
    """Saves a tiny model with its tokenizer as a folder: `save_model("gpt2", chat=True)`."""

    def save(family: str, *, chat: bool = True, name: str | None = None, **changes: Any) -> Path:
        folder = tmp_path / (name or f"tiny-{family}")
        tiny_model(family, **changes).save_pretrained(folder)
        (chat_tokenizer() if chat else byte_tokenizer()).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of this session in place of the user's, shared by its workers, so that what was converted by
    other code is not what is tested."""
    if os.environ.get("ASABENCH_CACHE"):
        yield Path(os.environ["ASABENCH_CACHE"])
        return
    folder = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASABENCH_CACHE", str(folder / "asabench-cache"))
        yield folder / "asabench-cache"


@pytest.fixture(scope="session")
def packaged_model(own_cache: Path) -> str:
    """The short name of the real model, its weights converted: by one worker, while the others wait."""
    name = "smollm2-135m"
    own_cache.mkdir(exist_ok=True)
    with (own_cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        locate(name)
    return name


@pytest.fixture(scope="session")
def smollm2(packaged_model: str) -> Subject:
    """The real model, loaded once a worker: tests leave it as it is."""
    return load(packaged_model)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium (`tests.browser`). Not for the whole session: Playwright runs an event loop meanwhile."""
    if browsers.sync_playwright is None or browsers.Axe is None:
        browsers.leave_out()
    with browsers.sync_playwright() as playwright:
        chromium = browsers.launch(playwright)
        if chromium is None:
            browsers.leave_out()
        yield chromium
        chromium.close()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.getreports("skipped")
    if number := sum(browsers.LEFT_OUT in str(report.longrepr) for report in skipped):
        terminalreporter.write_line(browsers.left_out(number))
