"""A text model small enough for tests: SmolLM2's tokenizer and chat template around a random Llama."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from respect_core.model.local import locate


@cache
def small_llama() -> str:
    """The folder of the model, which is made once."""
    folder = Path(mkdtemp(prefix="respect-llama-"))
    tokenizer = AutoTokenizer.from_pretrained(locate("smollm2"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)
