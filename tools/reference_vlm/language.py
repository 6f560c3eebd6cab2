"""Knows SmolLM2-135M-Instruct as a GGUF file holds it, and makes transformers' model and tokenizer
of it."""

from __future__ import annotations

from pathlib import Path

import torch
from gguf import GGUFReader, dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

IMAGE_TOKEN = "<image>"  # one row more than SmolLM2 has
_CONTROL = 3  # token type of special tokens (llama.cpp: LLAMA_TOKEN_TYPE_CONTROL)
_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def load_language(file: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """SmolLM2 dequantized to float32, with one token more, for pictures."""
    reader = GGUFReader(file)
    tokenizer = build_tokenizer(reader)
    config = build_config(reader, tokenizer)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(read_weights(reader, config), assign=True)
    model.tie_weights()
    # Rotary frequencies are not weights: made again, since "meta" has none.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval(), tokenizer


def build_config(reader: GGUFReader, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """The model's dimensions as the file states them."""

    def read(name: str) -> float:
        return float(reader.fields[f"llama.{name}"].contents())

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=int(read("embedding_length")),
        intermediate_size=int(read("feed_forward_length")),
        num_hidden_layers=int(read("block_count")),
        num_attention_heads=int(read("attention.head_count")),
        num_key_value_heads=int(read("attention.head_count_kv")),
        max_position_embeddings=int(read("context_length")),
        rms_norm_eps=read("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": read("rope.freq_base")},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def read_weights(reader: GGUFReader, config: LlamaConfig) -> dict[str, torch.Tensor]:
    """All tensors in float32 by transformers' names; the embedding gets a row of zeros for the
    picture's token."""
    weights: dict[str, torch.Tensor] = {}
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for tensor in reader.tensors:
        value = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).float()
        if tensor.name == "token_embd.weight":
            weights["model.embed_tokens.weight"] = torch.cat(
                [value, torch.zeros(1, config.hidden_size)]
            )
        elif tensor.name == "output_norm.weight":
            weights["model.norm.weight"] = value
        else:
            _, layer, part, _ = tensor.name.split(".")
            value = _half_split(value, heads[part]) if part in heads else value
            weights[f"model.layers.{layer}.{_NAMES[part]}.weight"] = value
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    return weights


def _half_split(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rotary pairs lie side by side in llama.cpp's Llama and half a head apart in transformers':
    put them back."""
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def build_tokenizer(reader: GGUFReader) -> PreTrainedTokenizerFast:
    """Byte-level BPE over single digits, which is what ``tokenizer.ggml.pre = smollm`` means.

    transformers' own reading of the file is wrong here: it keeps digits together and prepends a
    token.
    """

    def read(name: str) -> list[str]:
        return list(reader.fields[f"tokenizer.ggml.{name}"].contents())

    tokens, kinds = read("tokens"), reader.fields["tokenizer.ggml.token_type"].contents()
    merges = [(left, right) for left, right in (merge.split(" ") for merge in read("merges"))]
    core = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    core.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (*special, IMAGE_TOKEN)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<|endoftext|>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        clean_up_tokenization_spaces=False,
        model_max_length=int(reader.fields["llama.context_length"].contents()),
    )
