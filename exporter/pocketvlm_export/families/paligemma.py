"""PaliGemma 1 and 2 (``paligemma``): a SigLIP tower, one linear layer, a Gemma or Gemma 2 decoder
in which all tokens of a prompt see each other.

What to know when it is pruned:

- SigLIP has no [CLS] token: methods that rank patches by what it attends to are refused. Each patch
  is a token. Of 256 in a picture ``scope`` keeps some by default, weighted by received attention.
  Of 1024 or 4096 ``divprune`` does, because ``scope`` compares all with all for each pick.
- The decoder counts positions from 1 and without gaps, whatever was dropped: it reads a shorter
  picture, not one with holes.
- It was trained on single prompts. Its processor has no chat template and one form: pictures, the
  first token of a text, the text, a line break. The artifact's template writes that, and refuses a
  second turn.
- A prompt is read in one run, so of an earlier one no more than its pictures' features is used
  again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import transformers
from PIL import Image
from torch import nn
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from pocketvlm.artifact.specs import PROMPT
from pocketvlm.errors import CheckpointError, library_errors
from pocketvlm_export import upstream
from pocketvlm_export.checkpoint import Settings, image_processor, load_image_processor
from pocketvlm_export.checkpoint import load_tokenizer as stored_tokenizer
from pocketvlm_export.checkpoint.places import CHAT_TEMPLATE, statements
from pocketvlm_export.families.base import MOST_EDGE, Family
from pocketvlm_export.families.spec import LayoutSpec, VisionSpec, VLMSpec
from pocketvlm_export.families.text_models import decoder_spec

_TOWER = "siglip_vision_model"
_DECODERS = ("gemma", "gemma2")
_COUNT = "image_seq_length"  # tokens of a picture, in preprocessor_config.json
# No stock client gives the decoder its inputs for a prompt that attends in both directions.
_ONE_TILE = {"single": LayoutSpec({"name": "single"})}
# As `PaliGemmaProcessor` writes a prompt. Behind its last picture, wherever that is, comes what
# other models begin a text with.
_TEMPLATE = """\
{%- if messages | length != 1 or messages[0]['role'] != 'user' -%}
{{- raise_exception('this model answers one question at a time, without a system message') -}}
{%- endif -%}
{%- set content = messages[0]['content'] -%}
{%- set pictures = namespace(left=0) -%}
{%- if content is not string -%}
{%- set pictures.left = content | selectattr('type', 'equalto', 'image') | list | length -%}
{%- endif -%}
{%- if pictures.left == 0 -%}{{- bos_token -}}{%- endif -%}
{%- if content is string -%}{{- content -}}{%- else -%}
{%- for part in content -%}
{%- if part['type'] == 'image' -%}
{{- '<image>' -}}
{%- set pictures.left = pictures.left - 1 -%}
{%- if pictures.left == 0 -%}{{- bos_token -}}{%- endif -%}
{%- elif part['type'] == 'text' -%}
{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '\\n' -}}
"""


class PaliGemma(Family):
    """PaliGemma 1 and 2, pre-trained, mixed or trained further."""

    model_type: ClassVar[str] = "paligemma"
    processor: ClassVar[str] = "PaliGemmaProcessor"
    projector: ClassVar[type[nn.Module]] = upstream.model_class(
        "paligemma", "PaliGemmaMultiModalProjector"
    )

    def parse(self, config: PretrainedConfig) -> VLMSpec:
        """See `Family.parse`."""
        image_token = Settings.of(config).integer("image_token_id", least=0)
        text = Settings.of(config).section("text_config").text("model_type")
        if text not in _DECODERS:
            raise CheckpointError(
                f"the decoder is a {text}, which is not supported in paligemma checkpoints",
                expected=f"one of {', '.join(_DECODERS)}",
            )
        decoder = replace(decoder_spec(config), first_position=1, attention=PROMPT)
        projected = Settings.of(config).integer("projection_dim")
        if projected != decoder.hidden:
            raise CheckpointError(
                f"projection_dim is {projected}",
                expected=f"{decoder.hidden}, the width of the decoder",
                advice="correct config.json",
            )
        return VLMSpec(self, config, _vision(config), decoder, image_token, _ONE_TILE)

    def read_processor(self, spec: VLMSpec, folder: Path) -> VLMSpec:
        """Refuse a processor that writes prompts in another form."""
        stated = statements(folder, CHAT_TEMPLATE)
        if stated:
            raise CheckpointError(
                f"{folder} has a chat template ({stated[0].place}), and PaliGemma's processor "
                "writes into what a template has written",
                expected="a checkpoint without one, as those of google/paligemma2",
                advice="remove it, if the model was trained on single prompts",
            )
        if image_processor(folder).get(_COUNT) is None:
            raise CheckpointError(
                f"preprocessor_config.json in {folder} has no {_COUNT}, without which "
                "transformers' processor cannot be built",
                advice=f"add it: {spec.vision.tokens}",
            )
        return spec

    def contradictions(self, spec: VLMSpec, folder: Path) -> Sequence[str]:
        """See `Family.contradictions`."""
        counted = image_processor(folder)[_COUNT]
        if counted == spec.vision.tokens:
            return ()
        return (
            f"preprocessor_config.json counts {counted} tokens of a picture, and by config.json "
            f"the tower makes {spec.vision.tokens}: these are exported, where transformers would "
            "refuse the prompt",
        )

    def tokenizer(self, folder: Path) -> PreTrainedTokenizerFast:
        """See `Family.tokenizer`: it adds no first token, which does not come first here."""
        tokenizer: PreTrainedTokenizerFast = _processor(folder).tokenizer
        return tokenizer

    def chat_template(self, folder: Path) -> str:
        """The processor's only form, as a template."""
        return _TEMPLATE

    def image_processor_config(
        self, stated: Mapping[str, Any], spec: VLMSpec, layout: LayoutSpec
    ) -> dict[str, Any]:
        """Return it with what SigLIP's class leaves off in silence, and CLIP's does."""
        config = super().image_processor_config(stated, spec, layout)
        return {"do_center_crop": False, **config}

    def reference_prompt(self, folder: Path, prompt: str, pictures: int = 1) -> str:
        """See `Family.reference_prompt`; transformers' processor itself writes it."""
        _, texts, *_ = _processor(folder).prepare_inputs_layout(
            images=[[Image.new("RGB", (1, 1))] * pictures], text=[self.place * pictures + prompt]
        )
        return str(texts[0])

    def reference_inputs(
        self,
        model: Any,
        inputs_embeds: torch.Tensor,
        is_visual: npt.NDArray[np.bool_],
        extras: Mapping[str, npt.NDArray[np.float32]],
    ) -> Mapping[str, Any]:
        """See `Family.reference_inputs`: a mask by which the tokens of a prompt attend to each
        other. The class makes it of ``token_type_ids``, which its processor sets to 0 in a
        prompt."""
        masks = transformers.PaliGemmaForConditionalGeneration.create_masks_for_generate(
            config=model.config,
            inputs_embeds=inputs_embeds,
            attention_mask=None,
            past_key_values=None,
            position_ids=None,
            token_type_ids=torch.zeros(inputs_embeds.shape[:2], dtype=torch.int64),
        )
        return {"attention_mask": masks}


def _processor(folder: Path) -> Any:
    """transformers' own."""
    images, tokenizer = load_image_processor(folder), stored_tokenizer(folder)
    with library_errors(
        lambda reason: CheckpointError(
            f"transformers' processor cannot be built of the files in {folder} ({reason})",
            advice="download them again",
        )
    ):
        return transformers.PaliGemmaProcessor(image_processor=images, tokenizer=tokenizer)


def _vision(config: Any) -> VisionSpec:
    settings = Settings.of(config).section("vision_config")
    if settings.text("model_type") != _TOWER:
        raise CheckpointError(
            f"the vision tower is a {settings.text('model_type')}, which is not supported in "
            "paligemma checkpoints",
            expected=_TOWER,
        )
    edge, patch = (settings.integer(key, most=MOST_EDGE) for key in ("image_size", "patch_size"))
    if edge % patch:
        raise settings.refusal("patch_size", f"a divisor of image_size, which is {edge}")
    depth = settings.integer("num_hidden_layers")
    return VisionSpec(
        config.vision_config,
        (edge, edge),
        (edge // patch) ** 2,
        has_cls=False,
        feature_layers=(depth,),
    )
