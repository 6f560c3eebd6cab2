"""Knows the text and picture side of the written checkpoints: byte-level BPE, public chat templates, processors."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlavaNextProcessor, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

# The template that ships with llava-hf/llava-1.5-7b-hf, `{% generation %}` blocks included.
VICUNA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
# The ChatML form of the llava-hf checkpoints with a Qwen2 decoder.
CHATML_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "{{'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# SmolLM2-135M-Instruct's, with pictures.
SMOLLM_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, "
    "trained by Hugging Face<|im_end|>\n' }}{% endif %}" + CHATML_TEMPLATE
)
TEMPLATES = {"vicuna": VICUNA_TEMPLATE, "chatml": CHATML_TEMPLATE, "smollm": SMOLLM_TEMPLATE}
_CORPUS = [
    "what is in the picture? a red circle is to the left of the blue square.",
    "how many shapes are there? which colour is the triangle? is there a green star?",
    "USER: describe the image in one sentence. ASSISTANT: there are two yellow shapes on a grey background.",
]


def make_tokenizer(chat: Literal["vicuna", "chatml"]) -> PreTrainedTokenizerFast:
    """Train a small byte-level BPE tokenizer; ``vicuna`` puts ``<s>`` before every text, ``chatml`` puts nothing."""
    if chat == "vicuna":
        core = train_bpe(_CORPUS, 401, ["<unk>", "<s>", "</s>", "<image>"])
        begin_with(core, "<s>")
        names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    else:
        core = train_bpe(_CORPUS, 401, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"])
        names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, extra_special_tokens={"image_token": "<image>"}, **names)


def train_bpe(texts: Iterable[str], vocabulary: int, special: Sequence[str]) -> Tokenizer:
    """Learn a byte-level BPE (GPT-2's pre-tokenizer) of at most ``vocabulary`` tokens, the special ones first."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
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
        single=f"{token} $A", pair=f"{token} $A $B", special_tokens=[(token, core.token_to_id(token))]
    )


def make_processor(
    tokenizer: PreTrainedTokenizerFast,
    *,
    image_size: int,
    patch_size: int,
    chat: Literal["vicuna", "chatml", "smollm"],
    cls_tokens: int = 1,
    strategy: str = "default",
    pinpoints: list[list[int]] | None = None,
) -> LlavaProcessor | LlavaNextProcessor:
    """A LLaVA processor over CLIP's image processor, for square pictures of ``image_size`` pixels.

    With ``pinpoints`` it is LLaVA-NeXT's, which cuts pictures into tiles of that size.
    """
    sizes = {"size": {"shortest_edge": image_size}, "crop_size": {"height": image_size, "width": image_size}}
    images = LlavaNextImageProcessorPil(**sizes, image_grid_pinpoints=pinpoints) if pinpoints else None
    processor = LlavaNextProcessor if pinpoints else LlavaProcessor
    return processor(
        images or CLIPImageProcessorPil(**sizes),
        tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=cls_tokens,
        chat_template=TEMPLATES[chat],
    )


def save_processor(processor: LlavaProcessor | LlavaNextProcessor, folder: Path) -> None:
    """Write tokenizer, processor, image processor and chat template.

    transformers 5 nests the image processor inside ``processor_config.json``; other readers look for
    ``preprocessor_config.json``, so both are written, as the published checkpoints have them.
    """
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
