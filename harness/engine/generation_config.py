"""What a model's generation_config does to greedy decoding, for protocols that leave it active (preset gu2025)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers.generation import logits_process as lp

from asabench.core.errors import UserError, first_line
from harness.engine.decoding import LogitsProcessor
from harness.model.architecture import generation_settings
from harness.model.subject import Subject

# Each field that changes greedy text, and the processor that `generate` would make of it, in its order
_PROCESSORS: dict[str, Callable[[Any, list[int]], LogitsProcessor]] = {
    "sequence_bias": lambda value, stops: lp.SequenceBiasLogitsProcessor(value),
    "repetition_penalty": lambda value, stops: lp.RepetitionPenaltyLogitsProcessor(value),
    "no_repeat_ngram_size": lambda value, stops: lp.NoRepeatNGramLogitsProcessor(value),
    "bad_words_ids": lambda value, stops: lp.NoBadWordsLogitsProcessor(value, stops),
    "suppress_tokens": lambda value, stops: lp.SuppressTokensLogitsProcessor(value),
}
# Fields that would change greedy text too, but that no processor here stands for
_UNSUPPORTED = (
    "min_length",
    "min_new_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "encoder_repetition_penalty",
    "guidance_scale",
    "watermarking_config",
    "num_beams",
    "penalty_alpha",
    "dola_layers",
    "constraints",
    "force_words_ids",
    "stop_strings",
    "max_time",
)
_NEUTRAL: tuple[object, ...] = (None, 0, 1, 1.0, [], (), {}, False)


def active_processors(subject: Subject) -> list[LogitsProcessor]:
    """The logits processors that the subject's generation_config asks for, in the order in which `generate` applies
    them. `UserError` for a field that is not supported, rather than text that differs in silence."""
    config = generation_settings(subject.model)
    if unsupported := [name for name in _UNSUPPORTED if getattr(config, name, None) not in _NEUTRAL]:
        raise UserError(
            f"the generation_config of {subject.name} sets {', '.join(unsupported)}, which this protocol would have to "
            "keep and the harness does not support; remove it there, or use --protocol asabench-v1, which ignores it"
        )
    stops = sorted(subject.stop_tokens)
    made = []
    for name, make in _PROCESSORS.items():
        if (value := getattr(config, name, None)) in _NEUTRAL:
            continue
        try:
            made.append(make(value, stops))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"the generation_config of {subject.name} sets {name} to {str(value)[:60]!r}, which transformers does "
                f"not take ({first_line(error)}); repair it, or use --protocol asabench-v1, which ignores it"
            ) from None
    return made


def only_repetition_penalty(subject: Subject) -> float:
    """The repetition penalty that the subject's generation_config asks for (1 is none), for an engine that knows no
    other field. `UserError` where it sets others that change greedy text."""
    active_processors(subject)  # refuses what no engine here supports
    config = generation_settings(subject.model)
    others = [n for n in _PROCESSORS if n != "repetition_penalty" and getattr(config, n, None) not in _NEUTRAL]
    if others:
        raise UserError(
            f"the generation_config of {subject.name} sets {', '.join(others)}, which this protocol keeps and the "
            "engine vllm does not support; use --engine hf"
        )
    return float(getattr(config, "repetition_penalty", None) or 1.0)
