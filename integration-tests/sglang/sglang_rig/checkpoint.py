# SPDX-License-Identifier: Apache-2.0
"""A tiny random llama whose greedy output hangs on its KV.

sglang's ``dummy`` weights answer every prompt with one pattern, whatever the KV holds. Here attention scores are
spread wide enough that a few tokens get most of the weight, and what attention brings outweighs the token itself; so
other KV bytes give other tokens (a test shows that they do).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

VOCABULARY = 1024
PAGE_TOKENS = 16


def write_checkpoint(
    folder: Path, *, seed: int = 7, hidden: int = 256, layers: int = 2, heads: int = 4, context: int = 4096
) -> Path:
    """Writes config and weights (float16, the same for the same arguments); returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    dim, inner = hidden // heads, 2 * hidden
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float16",
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": dim,
        "vocab_size": VOCABULARY, "max_position_embeddings": context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    save_file(_weights(seed, hidden, inner, layers), str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


def _weights(seed: int, hidden: int, inner: int, layers: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int, gain: float) -> torch.Tensor:
        """Keeps the variance of its input, times gain squared."""
        return (torch.randn(rows, columns, generator=generator) * gain / columns**0.5).to(torch.float16)

    ones = torch.ones(hidden, dtype=torch.float16)
    weights = {
        "model.embed_tokens.weight": torch.randn(VOCABULARY, hidden, generator=generator).to(torch.float16),
        "model.norm.weight": ones.clone(),
        "lm_head.weight": matrix(VOCABULARY, hidden, 1.0),
    }
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        weights |= {
            f"{prefix}input_layernorm.weight": ones.clone(),
            f"{prefix}post_attention_layernorm.weight": ones.clone(),
            f"{prefix}self_attn.q_proj.weight": matrix(hidden, hidden, 1.7),
            f"{prefix}self_attn.k_proj.weight": matrix(hidden, hidden, 1.7),
            f"{prefix}self_attn.v_proj.weight": matrix(hidden, hidden, 1.0),
            f"{prefix}self_attn.o_proj.weight": matrix(hidden, hidden, 4.0),
            f"{prefix}mlp.gate_proj.weight": matrix(inner, hidden, 1.0),
            f"{prefix}mlp.up_proj.weight": matrix(inner, hidden, 1.0),
            f"{prefix}mlp.down_proj.weight": matrix(hidden, inner, 1.0),
        }
    return weights


def prompt(number: int, tokens: int) -> list[int]:
    """Token ids of one prompt; different numbers share no prefix."""
    generator = torch.Generator().manual_seed(1000 + number)
    ids: list[int] = torch.randint(3, VOCABULARY, (tokens,), generator=generator).tolist()
    return ids
