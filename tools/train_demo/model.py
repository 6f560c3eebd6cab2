"""Knows the demo checkpoint's anatomy: its tokenizer, its processor and its dimensions."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import (
    CLIPConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from make_checkpoint.text import begin_with, make_processor, train_bpe
from train_demo.scenes import IMAGE_SIZE

PATCH_SIZE = 8
VOCABULARY = 512


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (GPT-2's pre-tokenizer, Llama's special tokens) learnt from
    ``texts``."""
    core = train_bpe(texts, VOCABULARY, ["<unk>", "<s>", "</s>", "<pad>", "<image>"])
    begin_with(core, "<s>")
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        model_max_length=2048,
        extra_special_tokens={"image_token": "<image>"},
        clean_up_tokenization_spaces=False,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Pictures to pixel_values as CLIP does; prompts as llava-1.5 phrases them, one ``<image>`` a
    patch."""
    return make_processor(tokenizer, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE, chat="vicuna")


def vision_config() -> CLIPVisionConfig:
    """A CLIP ViT of 6 layers over 12 x 12 patches; LLaVA uses the output of the fifth."""
    return CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=128,
    )


def clip_config(tokenizer: PreTrainedTokenizerFast) -> CLIPConfig:
    """The tower with a small text tower beside it, for the contrastive stage only."""
    text = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=128,
        max_position_embeddings=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPConfig(
        text_config=text.to_dict(), vision_config=vision_config().to_dict(), projection_dim=128
    )


def llava_config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """The whole model: tower, two-layer GELU projector, Llama of width 256 with grouped-query
    attention."""
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=vision_config(),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
    )
