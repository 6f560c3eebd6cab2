"""Knows the text and picture side of the written checkpoints: byte-level BPE, public chat
templates, processors."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Idefics3Processor,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor

# The template that ships with llava-hf/llava-1.5-7b-hf, `{% generation %}` blocks included.
VICUNA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + "
    "': '}}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', "
    "'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ "
    "content['text'] + ' '}}"
    "{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', "
    "'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor "
    "%}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
# The ChatML form of the llava-hf checkpoints with a Qwen2 decoder.
CHATML_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ "
    "'<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ "
    "content['text'] }}{% endfor %}"
    "{{'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' "
    "}}{% endif %}"
)
# SmolLM2-135M-Instruct's, with pictures.
SMOLLM_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI "
    "assistant named SmolLM, "
    "trained by Hugging Face<|im_end|>\n' }}{% endif %}" + CHATML_TEMPLATE
)
# Video-LLaVA's: Vicuna's, with clips after pictures.
VIDEO_TEMPLATE = VICUNA_TEMPLATE.replace(
    "{# Render all text next #}",
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ "
    "'<video>\n' }}{% endfor %}"
    "{# Render all text next #}",
)
# That of HuggingFaceTB/SmolVLM-256M-Instruct.
SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor "
    "%}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
TEMPLATES = {
    "vicuna": VICUNA_TEMPLATE,
    "chatml": CHATML_TEMPLATE,
    "smollm": SMOLLM_TEMPLATE,
    "smolvlm": SMOLVLM_TEMPLATE,
    "vicuna-video": VIDEO_TEMPLATE,
}
CORPUS = [
    "what is in the picture? a red circle is to the left of the blue square.",
    "how many shapes are there? which colour is the triangle? is there a green star?",
    "USER: describe the image in one sentence. ASSISTANT: there are two yellow shapes on a grey "
    "background.",
]
_SMOLVLM_TOKENS = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<global-img>"),
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
    *("<fake_token_around_image>", "<image>", "<end_of_utterance>"),
]


def make_tokenizer(
    chat: Literal["vicuna", "chatml", "smolvlm", "vicuna-video"],
) -> PreTrainedTokenizerFast:
    """Train a small byte-level BPE tokenizer; ``vicuna`` puts ``<s>`` before every text, ``chatml``
    and ``smolvlm`` put nothing.

    That of ``smolvlm`` has SmolVLM's special tokens, which name the parts of a picture among
    others.
    """
    if chat in ("vicuna", "vicuna-video"):
        video = ["<video>"] if chat == "vicuna-video" else []
        core = train_bpe(CORPUS, 401, ["<unk>", "<s>", "</s>", "<image>", *video])
        begin_with(core, "<s>")
        names = {
            "unk_token": "<unk>",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<unk>",
        }
    elif chat == "smolvlm":
        core = train_bpe(CORPUS, 440, _SMOLVLM_TOKENS)
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        names = {
            "bos_token": "<|im_start|>",
            "eos_token": "<end_of_utterance>",
            "pad_token": "<|im_end|>",
        }
    else:
        core = train_bpe(CORPUS, 401, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"])
        names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=core, extra_special_tokens={"image_token": "<image>"}, **names
    )


def train_bpe(
    texts: Iterable[str],
    vocabulary: int,
    special: Sequence[str],
    split: pre_tokenizers.PreTokenizer | None = None,
) -> Tokenizer:
    """Learn a byte-level BPE of at most ``vocabulary`` tokens, the special ones first; words are
    what ``split`` makes, GPT-2's by default."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = split or pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return core


def begin_with(core: Tokenizer, token: str) -> None:
    """Let every text begin with ``token``, as Llama's tokenizers do."""
    core.post_processor = processors.TemplateProcessing(
        single=f"{token} $A",
        pair=f"{token} $A $B",
        special_tokens=[(token, core.token_to_id(token))],
    )


def make_processor(
    tokenizer: PreTrainedTokenizerFast,
    *,
    image_size: int,
    patch_size: int,
    chat: Literal["vicuna", "chatml", "smollm", "smolvlm", "vicuna-video"],
    cls_tokens: int = 1,
    strategy: str = "default",
    pinpoints: list[list[int]] | None = None,
) -> LlavaProcessor | LlavaNextProcessor:
    """A LLaVA processor over CLIP's image processor, for square pictures of ``image_size`` pixels.

    With ``pinpoints`` it is LLaVA-NeXT's, which cuts pictures into tiles of that size.
    """
    sizes = {
        "size": {"shortest_edge": image_size},
        "crop_size": {"height": image_size, "width": image_size},
    }
    images = (
        LlavaNextImageProcessorPil(**sizes, image_grid_pinpoints=pinpoints) if pinpoints else None
    )
    processor = LlavaNextProcessor if pinpoints else LlavaProcessor
    return processor(
        images or CLIPImageProcessorPil(**sizes),
        tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=cls_tokens,
        chat_template=TEMPLATES[chat],
    )


def make_tiling_processor(
    tokenizer: PreTrainedTokenizerFast, family: str, pictures: Mapping[str, Any], image_seq_len: int
) -> Idefics3Processor:
    """Idefics3's or SmolVLM's processor, whose image processor cuts as ``pictures`` says.

    SmolVLM's own class asks for packages that prepare videos; of pictures and prompts it does the
    same.
    """
    kind = Idefics3ImageProcessorPil if family == "idefics3" else SmolVLMImageProcessorPil
    return Idefics3Processor(
        kind(**pictures), tokenizer, image_seq_len=image_seq_len, chat_template=TEMPLATES["smolvlm"]
    )


def save_processor(
    processor: LlavaProcessor | LlavaNextProcessor | Idefics3Processor, folder: Path
) -> None:
    """Write tokenizer, processor, image processor and chat template.

    transformers 5 nests the image processor inside ``processor_config.json``; other readers look
    for ``preprocessor_config.json``, so both are written, as the published checkpoints have them.
    """
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)


def save_video_processor(
    tokenizer: PreTrainedTokenizerFast, folder: Path, *, image_size: int, patch_size: int
) -> None:
    """As `save_processor`, of Video-LLaVA: its processor itself needs torchvision, so its file is
    written by hand."""
    sizes = {
        "size": {"shortest_edge": image_size},
        "crop_size": {"height": image_size, "width": image_size},
    }
    tokenizer.save_pretrained(folder)
    VideoLlavaImageProcessor(**sizes).save_pretrained(folder)
    stated: dict[str, Any] = {
        "processor_class": "VideoLlavaProcessor",
        "image_token": "<image>",
        "video_token": "<video>",
        "patch_size": patch_size,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    }
    (folder / "processor_config.json").write_text(json.dumps(stated, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(VIDEO_TEMPLATE)
