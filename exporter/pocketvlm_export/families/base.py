"""Knows what the exporter must learn about a VLM family, whatever the family, and what most of them
have in common."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from pocketvlm.errors import CheckpointError, RequestError
from pocketvlm.layouts import Medium
from pocketvlm.text.templates import ChatTemplate
from pocketvlm_export.caps import DEFAULT_TILES, MOST_COMPARED, Caps
from pocketvlm_export.checkpoint import (
    Settings,
    chat_template,
    image_processor,
    load_tokenizer,
    read_json,
    special_tokens,
)
from pocketvlm_export.checkpoint.weights import Weights
from pocketvlm_export.families.assembly import assign, fill, understood, with_changes
from pocketvlm_export.families.picture_size import (
    at_size,
    check_resizing,
    resized_model,
    resized_settings,
    suited,
)
from pocketvlm_export.families.spec import LayoutSpec, ReferenceFeatures, VLMSpec
from pocketvlm_export.families.text_models import load_embedding, load_text_model
from pocketvlm_export.towers import TOWERS

MOST_EDGE = 16_384  # of a tower's picture in pixels; the runtime resizes to no more


class Family:
    """One VLM family: its configuration, the names of its weights, the building of its parts, its
    processor, and transformers' results for a picture.

    Every ``load_*`` returns a float32 module in eval mode and reads no weights but its own. What is
    called ``reference_*`` is for the parity gate and runs transformers' own code.

    Attributes:
        model_type: of its configuration.
        processor: the name of transformers' processor class.
        medium: what its checkpoints read.
        beside: further media, each read by a family of its own, which differs in the tower and in
            how pictures become slots. The decoder is the same.
        rules: patterns of stored weights' names with what takes their place, so that a name begins
            with ``vision_tower.``, ``projector.`` or ``decoder.``; the first match decides.
            Published files, transformers 4 and transformers 5 name the same weights differently.
            Those of most families, unless stated.
        unread: patterns of stored names that ``rules`` leave out for a reason; whoever exports
            hears of any other.
        projector: transformers' class, made of the whole configuration.
        caps: the names of those fields of `Caps` that it takes.
        count_key: what processor_config.json calls the number of tokens of a picture or tile; empty
            where it has none that is counted so.
        place_key: what the tokenizer and processor_config.json call the token that the processor
            writes in the place of a picture or clip.
        place: that token where neither names one.
    """

    model_type: ClassVar[str]
    processor: ClassVar[str]
    medium: ClassVar[Medium] = "image"
    beside: ClassVar[Mapping[Medium, "Family"]] = {}
    rules: ClassVar[Sequence[tuple[re.Pattern[str], str]]] = [
        (re.compile(r"^(model\.)?vision_tower\.(vision_model\.)?"), "vision_tower."),
        (re.compile(r"^(model\.)?multi_modal_projector\."), "projector."),
        (re.compile(r"^(language_model\.model|model\.language_model)\."), "decoder.model."),
        (re.compile(r"^(language_model\.)?lm_head\."), "decoder.lm_head."),
    ]
    # Buffers that transformers computes again.
    unread: ClassVar[Sequence[re.Pattern[str]]] = [
        re.compile(r"^(.*\.)?(rotary_emb\.inv_freq|position_ids)$")
    ]
    projector: ClassVar[type[nn.Module]]
    caps: ClassVar[frozenset[str]] = frozenset()
    count_key: ClassVar[str] = ""
    place_key: ClassVar[str] = "image_token"
    place: ClassVar[str] = "<image>"

    @property
    def media(self) -> Mapping[Medium, "Family"]:
        """Every medium that its checkpoints read, this one's own first, with what reads it."""
        return {self.medium: self, **self.beside}

    # What it is.

    def parse(self, config: PretrainedConfig) -> VLMSpec:
        """Check a configuration and return its dimensions; raises `CheckpointError` for what is not
        supported."""
        raise NotImplementedError

    def read_processor(self, spec: VLMSpec, folder: Path) -> VLMSpec:
        """Return ``spec`` with what only the tokenizer's and the image processor's files in
        ``folder`` state.

        Most families have nothing to add. Raises `CheckpointError` for what is not supported.
        """
        return spec

    def picture_token(self, tokenizer: PreTrainedTokenizerFast, folder: Path) -> str:
        """The token that transformers' processor writes in the place of a picture or clip: the
        tokenizer's, else that of processor_config.json, else the class's own."""
        named = getattr(tokenizer, self.place_key, None)
        stated = Settings(read_json(folder / "processor_config.json"), "processor_config.json")
        return str(named or stated.text(self.place_key, self.place))

    def tokenizer(self, folder: Path) -> PreTrainedTokenizerFast:
        """The tokenizer in ``folder`` as transformers' processor has it; most leave it as it is."""
        return load_tokenizer(folder)

    def chat_template(self, folder: Path) -> str:
        """The template that the artifact's prompts are written by, of the checkpoint in ``folder``.

        Raises:
            CheckpointError: there is none, and the processor has no form of its own.
        """
        return chat_template(folder)

    def contradictions(self, spec: VLMSpec, folder: Path) -> Sequence[str]:
        """What config.json and the processor's files in ``folder`` state differently and is
        exported all the same, a sentence each, beside `pocketvlm_export.checkpoint.conflicts`."""
        counted = self.tokens_counted(
            spec, Settings(read_json(folder / "processor_config.json"), "processor_config.json")
        )
        if counted in (None, spec.vision.tokens):
            return ()
        return (
            f"processor_config.json counts {counted} tokens of a picture or tile, and by "
            f"config.json the tower makes {spec.vision.tokens}: these are exported, where "
            "transformers would refuse the prompt",
        )

    def tokens_counted(self, spec: VLMSpec, stated: Settings) -> int | None:
        """Return how many tokens transformers' processor writes for one tile, as
        processor_config.json has it; None where it is the image processor that counts."""
        return stated.integer(self.count_key, spec.vision.tokens) if self.count_key else None

    def square(self, settings: Settings) -> bool:
        """Whether pictures, or tiles, are squares whatever their size, by the image processor's
        ``settings``; true of most families."""
        return True

    def resized(self, spec: VLMSpec, size: tuple[int, int], folder: Path) -> VLMSpec:
        """Return ``spec`` for pictures, or tiles, of another ``size`` (height, width) in pixels:
        the tower's learnt positions are interpolated for it.

        It comes before `capped`. Families whose layouts depend on the size add what follows for
        them. Raises `RequestError` for a size that the checkpoint in ``folder`` cannot be read at.
        """
        settings = Settings(image_processor(folder, self.medium), "the image processor")
        resized = at_size(spec, size, square=self.square(settings))
        if resized.vision.made_for is not None:
            check_resizing(settings, size)
        return resized

    def suited_size(
        self, spec: VLMSpec, size: tuple[int, int], folder: Path
    ) -> tuple[int, int] | None:
        """Return what of a ``size`` that a device suggests `resized` can be given, no more than the
        checkpoint's own; None where that is left."""
        settings = Settings(image_processor(folder, self.medium), "the image processor")
        return suited(spec, size, square=self.square(settings))

    def capped(self, spec: VLMSpec, caps: Caps) -> VLMSpec:
        """Return ``spec`` for pictures no larger than ``caps`` allow. Raises `RequestError` for a
        cap that the family does not have, or a value that it cannot follow."""
        for name, value in caps.given.items():
            if name not in self.caps:
                others = ", ".join(f"--{other.replace('_', '-')}" for other in sorted(self.caps))
                raise RequestError(
                    f"--{name.replace('_', '-')} {value} does not apply to {self.model_type} "
                    "checkpoints",
                    advice=f"give {others}" if others else "leave it out: pictures are of one size",
                    setting=name,
                )
        return spec

    @staticmethod
    def parts_allowed(caps: Caps, least: int, own: int) -> int:
        """How many parts a picture is cut into at most, of a checkpoint that cuts into ``least`` to
        ``own``. Raises `RequestError` where others are asked for."""
        if caps.max_tiles is None or "max_tiles" in caps.suggested:
            return max(least, min(caps.max_tiles or DEFAULT_TILES, own))
        if not least <= caps.max_tiles <= own:
            raise RequestError(
                f"--max-tiles {caps.max_tiles} is outside {least}..{own}, which this checkpoint "
                "was trained with",
                advice=f"give at most {own}" if caps.max_tiles > own else f"give at least {least}",
                setting="max_tiles",
            )
        return caps.max_tiles

    def default_pruner(self, spec: VLMSpec) -> str:
        """The name of the default method: scope, which kept most of the demo's answers at every
        budget. For a picture or tile of more than ``MOST_COMPARED`` tokens it is divprune, which
        costs less."""
        return "scope" if spec.vision.tokens <= MOST_COMPARED else "divprune"

    def warnings(self, spec: VLMSpec, pruner: str, reads: Collection[str]) -> Sequence[str]:
        """What whoever exports with the method called ``pruner``, which ``reads`` so much of the
        tower (`pocketvlm_export.pruning.base.Reads`), should know, a sentence each."""
        return ()

    # Its weights.

    def canonical(self, stored: str) -> str | None:
        """Return the component-wise name of a stored weight, see ``rules``; None for one that is
        not read."""
        for pattern, component in self.rules:
            name, count = pattern.subn(component, stored)
            if count:
                return name
        return None

    def unknown(self, weights: Weights) -> Sequence[str]:
        """Return the stored names that no rule reads, and none leaves out for a reason."""
        return [
            name
            for name in weights.unread
            if not any(pattern.match(name) for pattern in self.unread)
        ]

    def load_tower(
        self, weights: Weights, spec: VLMSpec, *, layers: int, attention: str
    ) -> PreTrainedModel:
        """Return the vision tower cut after ``layers`` encoder layers."""
        tower = TOWERS[spec.vision.config.model_type]
        depth = spec.vision.dimensions.layers
        above = (f"{tower.layers_prefix}{i}." for i in range(layers, depth))
        unused = "|".join(re.escape(name) for name in (*above, *tower.unread))
        state = weights.component("vision_tower.", without=unused or "(?!)")
        config = with_changes(spec.vision.config, num_hidden_layers=layers, **tower.leaves_out)
        return fill(tower.model, config, state, attention)

    def load_projector(self, weights: Weights, spec: VLMSpec) -> nn.Module:
        """Return the projector: (..., features) -> (..., decoder hidden)."""
        with understood(self.projector.__name__), torch.device("meta"):
            projector = self.projector(spec.config)
        assign(projector, weights.component("projector."), "projector")
        return projector.eval()

    def load_connector(self, weights: Weights, spec: VLMSpec) -> nn.Module:
        """Return transformers' own module from the features of all patches to those of all tokens,
        for the parity gate.

        Where each patch is a token it is the projector: (B, patches, C) -> (B, N, decoder hidden).
        """
        return self.load_projector(weights, spec)

    def load_constants(self, weights: Weights, spec: VLMSpec) -> Mapping[str, torch.Tensor]:
        """Return what its layouts read beside features, by name, (decoder hidden,) each; none for
        most families."""
        return {}

    def load_decoder(self, weights: Weights, spec: VLMSpec, *, attention: str) -> nn.Module:
        """Return the causal language model without its input embedding: it is fed
        ``inputs_embeds``."""
        return load_text_model(weights, spec.decoder, attention=attention)

    def load_embedding(self, weights: Weights, spec: VLMSpec) -> nn.Module:
        """Return the input embedding of ids, int64 (B, n) -> (B, n, hidden)."""
        return load_embedding(weights, spec.decoder)

    # The configuration files of its artifacts.

    def model_config(self, stated: Mapping[str, Any], spec: VLMSpec) -> dict[str, Any]:
        """Return config.json as the artifact has it, of the checkpoint's."""
        return resized_model(stated, spec)

    def processor_config(
        self, stated: Mapping[str, Any], spec: VLMSpec, layout: LayoutSpec, budget: int
    ) -> dict[str, Any]:
        """Return processor_config.json as the artifact has it, of the checkpoint's and the default
        budget.

        Most processors have no words for a number of tokens that is not the model's own.
        """
        config = {"processor_class": self.processor, **stated}
        if spec.vision.made_for is not None and self.count_key:
            config[self.count_key] = spec.vision.tokens
        return config

    def image_processor_config(
        self, stated: Mapping[str, Any], spec: VLMSpec, layout: LayoutSpec
    ) -> dict[str, Any]:
        """Return preprocessor_config.json as the artifact has it, its caps in it.

        transformers.js takes the kind of processor from this file, Hugging Face from the other.
        """
        return {**stated, **resized_settings(stated, spec), "processor_class": self.processor}

    # transformers' side of the parity gate.

    def reference_pixels(
        self, processor: Any, images: Sequence[Image.Image], layout: LayoutSpec
    ) -> npt.NDArray[np.float32]:
        """Return what transformers' image processor makes of one picture, or of the frames of a
        clip: float32 (tiles, 3, height, width)."""
        pixels = np.asarray(processor(images=list(images), return_tensors="np")["pixel_values"])
        reshaped: npt.NDArray[np.float32] = pixels.reshape(-1, *pixels.shape[-3:])
        return reshaped

    def reference_batches(
        self, processor: Any, images: Sequence[Image.Image], layout: LayoutSpec
    ) -> Sequence[npt.NDArray[np.float32]]:
        """As `reference_pixels`, the tiles of each size apart, as `TileGrid.batches` has them."""
        return [self.reference_pixels(processor, images, layout)]

    def reference_features(
        self, tower: Any, connector: Any, spec: VLMSpec, pixel_values: torch.Tensor
    ) -> ReferenceFeatures:
        """Run transformers' tower and connector on one tile, (1, 3, height, width)."""
        before = int(spec.vision.has_cls)
        features = tower(pixel_values, **spec.vision.called_with).last_hidden_state[:, before:]
        return ReferenceFeatures(features[0], connector(features)[0])

    def reference_inputs(
        self,
        model: Any,
        inputs_embeds: torch.Tensor,
        is_visual: npt.NDArray[np.bool_],
        extras: Mapping[str, npt.NDArray[np.float32]],
    ) -> Mapping[str, Any]:
        """Return what transformers gives its decoder, ``model``, with a whole prompt beside
        embeddings and positions; nothing, for most families.

        Args:
            model: the decoder.
            inputs_embeds: of the prompt, (1, n, hidden).
            is_visual: which of its tokens are pictures', (n,).
            extras: its pictures' further features by `DecoderSpec.extras`, (slots, hidden) each.
        """
        return {}

    def reference_prompt(self, folder: Path, prompt: str, pictures: int = 1) -> str:
        """Return what transformers' processor in ``folder`` tokenizes of a question about so many
        pictures, the place of each a single token in it."""
        content = [*[{"type": self.medium}] * pictures, {"type": "text", "text": prompt}]
        return self.reference_conversation(folder, [{"role": "user", "content": content}])

    def reference_conversation(self, folder: Path, messages: Sequence[Mapping[str, Any]]) -> str:
        """As `reference_prompt`, of a conversation in messages with pictures as parts.

        The runtime renders it before: transformers sets no bounds to what a template does.
        """
        tokenizer, template = self.tokenizer(folder), self.chat_template(folder)
        ChatTemplate(template, special_tokens(tokenizer)).render(list(messages))
        text: str = tokenizer.apply_chat_template(
            list(messages), chat_template=template, add_generation_prompt=True, tokenize=False
        )
        return text

    def reference_positions(
        self, spec: VLMSpec, ids: npt.NDArray[np.int64], grids: Sequence[tuple[int, int]]
    ) -> npt.NDArray[np.int64] | None:
        """Return the positions of a prompt about unpruned pictures, whose ids are (n,) and whose
        tokens are grids of (rows, columns): int64 (axes, n). None where they are 0, 1, 2, ..."""
        return None


def feature_layers(listed: Any, depth: int) -> tuple[int, ...]:
    """Return the hidden states that ``vision_feature_layer`` lists, counted from the front, of a
    tower with ``depth`` layers; raises `CheckpointError` for one that there is not."""
    indices = list(listed) if isinstance(listed, (list, tuple)) else [listed]
    are_whole = all(type(index) is int for index in indices)
    layers = tuple(index if index >= 0 else depth + 1 + index for index in indices if are_whole)
    if not layers or not all(1 <= index <= depth for index in layers):
        raise CheckpointError(
            f"vision_feature_layer {listed} names no layer of a tower with {depth}",
            expected=f"-{depth}..-1 or 1..{depth}",
        )
    return layers
