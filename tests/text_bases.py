"""Text models small enough for tests: SmolLM2's tokenizer and chat template around a Llama."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from respect_core.model.local import locate

CALL = '{"tool": 1}'
"""What `one_call` answers: a legal action in the smart home, and never what its users want."""


@cache
def small_llama() -> str:
    """The folder of a random model, which is made once."""
    folder = Path(mkdtemp(prefix="respect-llama-"))
    tokenizer = AutoTokenizer.from_pretrained(locate("smollm2"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(_config(tokenizer, 2)).save_pretrained(folder)
    return str(folder)


def one_call(cache: Path) -> None:
    """Put a model that answers everything with CALL into a cache, in the place of SmolLM2-135M-Instruct.

    Its layers, of which it has as many as the profile `home` puts adapters on, add nothing: the next token follows from
    the last one.
    """
    real = Path(locate("smollm2"))
    tokenizer = AutoTokenizer.from_pretrained(real)
    torch.manual_seed(0)
    model = LlamaForCausalLM(_config(tokenizer, 16, tie_word_embeddings=False))
    said = tokenizer(f"\n{CALL}<|im_end|>", add_special_tokens=False).input_ids
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        for own, (token, following) in zip(torch.eye(32), pairwise(said), strict=False):
            model.model.embed_tokens.weight[token] = 100 * own  # next to which no adapter counts
            model.lm_head.weight[following] = 18 / 32**0.5 * own  # 18 nats more than any other token
    tokenizer.save_pretrained(cache / "models" / real.name)
    model.save_pretrained(cache / "models" / real.name)


def _config(tokenizer: Any, layers: int, **given: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **{"tie_word_embeddings": True} | given,
    )
