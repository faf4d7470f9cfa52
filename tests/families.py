"""Which families of transformers are measured: each as a tiny random model, tried, and a page that says so.

    python -m tests.families      writes docs/families.md anew

A family is measured when the batched sweep gives, token for token, what a plain loop at batch 1 without a cache gives
(`tests.harness.model.test_families.plain_answer`); else it must be refused in one line when it is loaded.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import transformers

from asabench.core.errors import UserError
from harness.attacks.random import RandomAttack
from harness.engine.sweep import grid
from harness.model.subject import Subject, make_subject
from tests.conftest import COMMON, FAMILIES, GROUPED, ROOT, VOCABULARY, chat_tokenizer, tiny_model

PAGE = ROOT / "docs" / "families.md"


class Family(NamedTuple):
    """`name`: as people know it. `config_class` and `arguments`: a small configuration of it in transformers."""

    name: str
    config_class: str
    arguments: dict[str, Any]


_HEAD = {**GROUPED, "head_dim": 8}
_WINDOW = {"sliding_window": 12}
_ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"] * 2}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
_LATENT = {
    **COMMON,
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    **_ROUTED,
}
_GEMMA4 = {**_HEAD, **_WINDOW, **_ALTERNATING, "global_head_dim": 16, "vocab_size_per_layer_input": VOCABULARY}
_GPT = dict(vocab_size=VOCABULARY, n_embd=32, n_layer=4, n_head=4, n_positions=256, bos_token_id=1, eos_token_id=2)
_MAMBA = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=4, state_size=4)
_MIXER = {"mamba_n_groups": 1, "mamba_d_state": 8}

# Those of the matrix that every test of the engine runs, and more
TABLE: tuple[Family, ...] = (
    *(
        Family(name, *FAMILIES[key])
        for key, name in {
            "llama": "Llama 2, 3",
            "mistral": "Mistral",
            "qwen2": "Qwen 2, 2.5",
            "qwen3": "Qwen 3",
            "gemma3": "Gemma 3",
            "phi3": "Phi 3, 4",
            "olmo2": "OLMo 2",
            "gpt_neox": "GPT-NeoX, Pythia",
            "gpt2": "GPT-2",
            "gptj": "GPT-J",
            "falcon": "Falcon",
            "bloom": "BLOOM",
        }.items()
    ),
    Family("Apertus", "ApertusConfig", GROUPED),
    Family("Arcee", "ArceeConfig", GROUPED),
    Family("BitNet", "BitNetConfig", GROUPED),
    Family("CodeGen", "CodeGenConfig", {**_GPT, "n_ctx": 256, "rotary_dim": 4}),
    Family("Command R", "CohereConfig", GROUPED),
    Family("Command R7B, A", "Cohere2Config", {**GROUPED, **_WINDOW, **_ALTERNATING}),
    Family("DeepSeek V2", "DeepseekV2Config", {**_LATENT, "topk_method": "greedy"}),
    Family("DeepSeek V3, R1", "DeepseekV3Config", {**_LATENT, "n_group": 2}),
    Family("Ernie 4.5", "Ernie4_5Config", _HEAD),
    Family(
        "Ernie 4.5 MoE",
        "Ernie4_5_MoeConfig",
        {**GROUPED, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16},
    ),
    Family("Exaone 4", "Exaone4Config", {**_HEAD, **_WINDOW, "sliding_window_pattern": 2}),
    Family(
        "Falcon H1", "FalconH1Config", {**GROUPED, **_MIXER, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8}
    ),
    Family("Gemma 1", "GemmaConfig", _HEAD),
    Family("Gemma 2", "Gemma2Config", {**_HEAD, **_WINDOW, "query_pre_attn_scalar": 8}),
    Family(
        "Gemma 3n",
        "Gemma3nTextConfig",
        {
            **_HEAD,
            **_WINDOW,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 0,
            "laurel_rank": 4,
            "altup_num_inputs": 2,
            "activation_sparsity_pattern": [0.0] * 4,
            "intermediate_size": [48] * 4,
        },
    ),
    Family("Gemma 4", "Gemma4TextConfig", {**_GEMMA4, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 2}),
    Family(
        "Gemma 4 MoE",
        "Gemma4TextConfig",
        {
            **_GEMMA4,
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 16,
        },
    ),
    Family("GLM 4 (2024)", "GlmConfig", _HEAD),
    Family("GLM 4 (2025)", "Glm4Config", _HEAD),
    Family("GLM 4.5", "Glm4MoeConfig", {**_HEAD, **_ROUTED}),
    Family("GPT-BigCode, StarCoder", "GPTBigCodeConfig", _GPT),
    Family(
        "GPT-Neo",
        "GPTNeoConfig",
        dict(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_layers=4,
            num_heads=4,
            max_position_embeddings=256,
            attention_types=[[["global", "local"], 2]],
            window_size=12,
            bos_token_id=1,
            eos_token_id=2,
        ),
    ),
    Family("GPT-OSS", "GptOssConfig", {**_HEAD, **_LOCAL_EXPERTS, **_WINDOW}),
    Family(
        "Granite 3",
        "GraniteConfig",
        {
            **GROUPED,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.125,
            "logits_scaling": 8.0,
        },
    ),
    Family("Granite 3 MoE", "GraniteMoeConfig", {**GROUPED, **_LOCAL_EXPERTS}),
    Family(
        "Granite 4 hybrid",
        "GraniteMoeHybridConfig",
        {
            **GROUPED,
            **_LOCAL_EXPERTS,
            **_MIXER,
            "layer_types": ["mamba", "attention"] * 2,
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "shared_intermediate_size": 48,
        },
    ),
    Family("Helium", "HeliumConfig", _HEAD),
    Family("Hunyuan", "HunYuanDenseV1Config", _HEAD),
    Family("Jamba", "JambaConfig", {**GROUPED, "num_experts": 2}),
    Family("LFM 2", "Lfm2Config", {**GROUPED, "layer_types": ["conv", "full_attention"] * 2}),
    Family(
        "Llama 4 (text)",
        "Llama4TextConfig",
        {
            **_HEAD,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "intermediate_size_mlp": 48,
            "attention_chunk_size": 12,
            "interleave_moe_layer_step": 2,
        },
    ),
    Family("Mamba", "MambaConfig", _MAMBA),
    Family("Mamba 2", "Mamba2Config", {**_MAMBA, "num_heads": 8, "head_dim": 8, "n_groups": 1}),
    Family("MiniMax 1", "MiniMaxConfig", {**_HEAD, **_LOCAL_EXPERTS}),
    Family("MiniMax 2", "MiniMaxM2Config", {**_HEAD, **_LOCAL_EXPERTS}),
    Family(
        "Ministral",
        "MinistralConfig",
        {**_HEAD, **_WINDOW, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    ),
    Family("Mixtral", "MixtralConfig", {**GROUPED, **_LOCAL_EXPERTS, **_WINDOW}),
    Family("MPT", "MptConfig", dict(vocab_size=VOCABULARY, d_model=32, n_heads=4, n_layers=4, max_seq_len=256)),
    Family("Nemotron", "NemotronConfig", GROUPED),
    Family("OLMo 1", "OlmoConfig", GROUPED),
    Family("OLMo 3", "Olmo3Config", {**GROUPED, **_WINDOW}),
    Family("OLMoE", "OlmoeConfig", {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
    Family(
        "OPT",
        "OPTConfig",
        {
            **{key: value for key, value in COMMON.items() if key != "intermediate_size"},
            "ffn_dim": 48,
            "word_embed_proj_dim": 32,
        },
    ),
    Family("Persimmon", "PersimmonConfig", COMMON),
    Family("Phi 1, 2", "PhiConfig", GROUPED),
    Family("Phi 3.5 MoE", "PhimoeConfig", {**GROUPED, **_LOCAL_EXPERTS, "sliding_window": None}),
    Family("Qwen 2 MoE", "Qwen2MoeConfig", {**GROUPED, **_EXPERTS, "shared_expert_intermediate_size": 24}),
    Family("Qwen 3 MoE", "Qwen3MoeConfig", {**_HEAD, **_EXPERTS}),
    Family(
        "Qwen 3 Next",
        "Qwen3NextConfig",
        {
            **_HEAD,
            **_EXPERTS,
            "shared_expert_intermediate_size": 16,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
    ),
    Family("RecurrentGemma", "RecurrentGemmaConfig", _HEAD),
    Family("RWKV 4", "RwkvConfig", dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=4)),
    Family("Seed-OSS", "SeedOssConfig", _HEAD),
    Family("SmolLM 3", "SmolLM3Config", GROUPED),
    Family("StableLM", "StableLmConfig", GROUPED),
    Family("StarCoder 2", "Starcoder2Config", {**GROUPED, **_WINDOW}),
)


def subject_of(family: Family) -> Subject:
    """A tiny random model of the family; `UserError` where it is refused."""
    model = tiny_model((family.config_class, family.arguments))
    return make_subject(model, chat_tokenizer(), name=f"tiny {family.name}", revision="random")


def outcome(family: Family) -> str:
    """`measured`, or why it is refused. `AssertionError` where it is neither: measured, and not as the plain loop."""
    from tests.harness.model.test_families import GU2025, PROMPTS, V1, answers, plain_answer

    try:
        subject = subject_of(family)
    except UserError as error:
        reason = re.sub(r"^the (family|blocks of the family) '\w+' ", "", str(error).partition(";")[0])
        # What was tried is of this version of transformers; the page says why
        return "refused: " + re.sub(r" \((tried|relative) .*", "", reason)
    for protocol in (V1, GU2025):
        protocol = protocol.model_copy(update={"max_new_tokens": 8})
        cells = grid(PROMPTS[:2], (0, 2), [RandomAttack()], protocol)
        got = answers(subject, cells, protocol)
        for cell in cells:
            assert list(got[cell.id]) == plain_answer(subject, cell, protocol), (family.name, cell)
    return "measured"


def line(family: Family) -> str:
    """The family's line of the table."""
    model_type = getattr(transformers, family.config_class).model_type
    return f"| {family.name} | `{model_type}` | {outcome(family)} |"


HEAD = """# Families of models

Every family below was tried as a tiny random model of the installed transformers: *measured* means that the batched
engine gave, token for token, what a plain loop at batch 1 without a cache gives, clean and under perturbation, in both
protocols. Other families are tried when they are loaded: what does not fit is refused in one line, before anything
runs. A measured family may still hold a model that is refused, for its positions, its tokenizer or its template
([protocol](protocol.md#what-is-checked-before-a-run)).

Written by `python -m tests.families`; the tests compare each line with what they find.

| family | `model_type` | |
|---|---|---|
"""


def page() -> str:
    return HEAD + "".join(line(family) + "\n" for family in sorted(TABLE, key=lambda family: family.name.casefold()))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
