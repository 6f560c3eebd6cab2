"""The Hugging Face side of the parity gate: transformers' own modules in float32 with full eager
attention maps.

Selection is written again in numpy, on the whole maps (`oracles`), and the layers run as
transformers runs them. The weights reach both sides by way of the family's loaders, which this gate
therefore cannot check: the tests hold those against
``LlavaForConditionalGeneration.from_pretrained``.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pocketvlm.artifact.specs import Pruning
from pocketvlm.artifact.stages import Stage
from pocketvlm_export import upstream
from pocketvlm_export.checkpoint import generation_settings, text_ids
from pocketvlm_export.families.spec import VLMSpec
from pocketvlm_export.loading import Checkpoint
from pocketvlm_export.memory import component, release_memory
from pocketvlm_export.packaging import eos_token_ids
from pocketvlm_export.pruning import make_pruner
from pocketvlm_export.pruning.base import ATTENTION
from pocketvlm_export.verification.masked_reader import Dropping, MaskedReader, gate_scores
from pocketvlm_export.verification.masked_tower import MaskedTower
from pocketvlm_export.verification.oracles import AmongPlaces, Encoded, Ranking, find_oracle
from pocketvlm_export.verification.readers import PlainReader, PromptPositions

_FEATURES = "image_features"

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class VisionReference:
    """What one budget should give.

    Attributes:
        image_features: (B, k, hidden).
        kept_indices: (B, k), in raster order.
        rankings: of each picture's patches.
        extras: further features by name, (B, k, hidden) each.
        instead: of each picture what may be given in its place, where rounding decides what a stage
            of the tower drops: references of that picture alone. Empty where there is no such tie.
    """

    image_features: Floats
    kept_indices: Ints
    rankings: Sequence[Ranking]
    extras: Mapping[str, Floats] = field(default_factory=dict)
    instead: Sequence[Sequence["VisionReference"]] = ()

    @property
    def gap(self) -> float:
        """The smallest at the cut of a picture, see `Ranking.gap`."""
        return min(ranking.gap(self.kept_indices.shape[1]) for ranking in self.rankings)

    def first(self, count: int) -> "VisionReference":
        """Return that of the first ``count`` rows of the batch."""
        return self.part(0, count)

    def part(self, start: int, count: int) -> "VisionReference":
        """Return that of ``count`` rows of the batch."""
        rows = slice(start, start + count)
        return VisionReference(
            self.image_features[rows],
            self.kept_indices[rows],
            self.rankings[rows],
            {name: values[rows] for name, values in self.extras.items()},
            self.instead[rows],
        )

    def candidates(self, row: int) -> list["VisionReference"]:
        """Return what is right for one picture, itself first."""
        return [self.part(row, 1), *(self.instead[row] if self.instead else ())]


@dataclass(frozen=True)
class DecoderReference:
    """A greedy answer, and what follows each token of fixed sequences.

    Attributes:
        prompt_ids: (n,).
        token_ids: (steps,).
        logits: before each of them, (steps, vocab).
        scores: what is left of those once they went through what the checkpoint was published
            with, (steps, vocab); the highest is the token.
        sequence_logits: after each token of every sequence, (tokens, vocab) each.
        sequence_embeds: what the embedding table has for these tokens, (tokens, hidden) each.
        dropping: what of the prompt went on inside the decoder, stage by stage.
    """

    prompt_ids: Ints
    token_ids: list[int]
    logits: Floats
    scores: Floats
    sequence_logits: list[Floats] = field(default_factory=list)
    sequence_embeds: list[Floats] = field(default_factory=list)
    dropping: Sequence[Dropping] = ()


@dataclass(frozen=True)
class _Read:
    """What transformers made of one picture: features of every token by name, of which the kept are
    taken afterwards, and how its tokens rank."""

    features: Mapping[str, Floats]
    ranking: Ranking


def vision_reference(
    checkpoint: Checkpoint,
    pruning: Pruning,
    pixel_values: Floats,
    stages: Sequence[Stage] = (),
) -> dict[int, VisionReference]:
    """Run tower and connector on ``pixel_values`` (B, 3, H, W), with ``stages`` inside the tower,
    and select as ``pruning`` says, at all its budgets.

    One picture at a time: attention maps are large.
    """
    family, spec = checkpoint.family, checkpoint.spec
    rank = find_oracle(pruning.method)
    every: list[list[_Read]] = []  # of each picture, first as it should be, then as it may be
    with (
        component(
            family.load_tower(
                checkpoint.weights,
                spec,
                layers=spec.vision.dimensions.layers,
                attention=upstream.recording_attention(),
            )
        ) as tower,
        component(family.load_connector(checkpoint.weights, spec)) as connector,
    ):

        def read(picture: Floats, masked: MaskedTower) -> _Read:
            encoded, extras = encode_reference(tower, connector, spec, pruning, picture, masked)
            ranking, features = rank(encoded, pruning.options), encoded.projected
            if encoded.places is not None:
                tokens = spec.vision.tokens
                ranking = AmongPlaces.of(ranking, encoded.places, tokens)
                features = np.full((tokens, features.shape[1]), np.nan)
                features[encoded.places] = encoded.projected
            return _Read({_FEATURES: features.astype(np.float32), **extras}, ranking)

        for picture in pixel_values:
            masked = MaskedTower(spec.vision, stages)
            every.append([read(picture, masked)])
            release_memory()  # the next picture's maps would not all fit where these lay
            for number, choice in enumerate(masked.choices):
                for other in choice.otherwise:
                    again = MaskedTower(spec.vision, stages, {number: other})
                    every[-1].append(read(picture, again))
    return {budget: _at_budget(budget, every) for budget in pruning.budgets}


def encode_reference(
    tower: Any,
    connector: Any,
    spec: VLMSpec,
    pruning: Pruning,
    picture: Floats,
    masked: MaskedTower | None = None,
) -> tuple[Encoded, dict[str, Floats]]:
    """Run transformers' modules on one picture, (3, H, W), and return with it its further features,
    (N, hidden) each; ``tower`` was loaded with the attention `upstream.recording_attention`, and
    ``masked`` drops rows of it."""
    masked = masked or MaskedTower(spec.vision, ())
    pruner = make_pruner(
        pruning.method, {name: str(value) for name, value in pruning.options.items()}
    )
    first = pruner.first_layer(spec.vision.score_layer) if pruner.reads & ATTENTION else None
    with (
        torch.inference_mode(),
        masked.follow(tower),
        upstream.recorded_attention(first, masked) as layers,
    ):
        pixel_values = torch.from_numpy(picture[None])
        made = spec.family.reference_features(tower, connector, spec, pixel_values)
    grid, merge = spec.vision.grid_of(*picture.shape[1:]), spec.vision.merge
    features = merge_patches(made.features.double().numpy(), grid, merge)
    if spec.vision.pool == "mean":
        features = features.reshape(len(features), merge**2, -1).mean(axis=1)
    maps = [_whole_map(maps, made.patches) for maps in list(layers.values())[: made.layers]]
    projected = made.projected.double().numpy()
    if masked.places is not None:
        features, projected = features[masked.places], projected[masked.places]
        rows = masked.rows()
        maps = [each[:, rows][:, :, rows] if each.size else each for each in maps]
    encoded = Encoded(
        maps, int(spec.vision.has_cls), features, projected, grid, merge, masked.places
    )
    return encoded, {name: each.numpy() for name, each in made.extras.items()}


def _whole_map(maps: Sequence[torch.Tensor], patches: torch.Tensor | None) -> Floats:
    """Return a layer's only map, (heads, tokens, tokens), in raster order; none of a layer that was
    not recorded, or that has one a window."""
    if len(maps) != 1:
        return np.empty((0, 0, 0), dtype=np.float32)
    if patches is None:
        return np.asarray(maps[0].numpy())
    raster = torch.argsort(patches)
    return np.asarray(maps[0][:, raster][:, :, raster].numpy())


def _at_budget(budget: int, every: Sequence[Sequence[_Read]]) -> VisionReference:
    """Return what a budget keeps of the pictures."""
    instead = [[_at_budget(budget, [[other]]) for other in others] for _, *others in every]
    first = [picture[0] for picture in every]
    kept = np.stack([read.ranking.kept(budget) for read in first])
    by_name = {
        name: np.stack([read.features[name][row] for read, row in zip(first, kept, strict=True)])
        for name in first[0].features
    }
    rankings = [read.ranking for read in first]
    return VisionReference(by_name.pop(_FEATURES), kept, rankings, by_name, instead)


@dataclass(frozen=True)
class PictureReference:
    """What a prompt holds of one picture.

    Attributes:
        features: what is kept of it, (slots, hidden), in the decoder's order.
        text: what the processor writes in its place, an image token for each tile in it; empty
            where that is nothing but image tokens.
        grid: (rows, columns) of its tokens before pruning, where it is one tile.
        kept: their numbers, (slots,), where it is.
        extras: further features by name, (slots, hidden) each, as `DecoderSpec.extras` lists them.
    """

    features: Floats
    text: str = ""
    grid: tuple[int, int] | None = None
    kept: Ints | None = None
    extras: Mapping[str, Floats] = field(default_factory=dict)


def decoder_reference(
    checkpoint: Checkpoint,
    prompt: str,
    picture: PictureReference,
    steps: int,
    sequences: Sequence[Ints] = (),
    stages: Sequence[Stage] = (),
) -> DecoderReference:
    """Answer ``prompt`` about one picture greedily for ``steps`` tokens.

    ``sequences`` are token ids, (tokens,) each, that are read without a prompt; ``stages`` drop
    visual tokens inside.
    """
    family, spec, features = checkpoint.family, checkpoint.spec, picture.features
    ids = prompt_ids(checkpoint, prompt, len(features), picture.text)
    positions = prompt_positions(checkpoint, prompt, picture)
    is_visual = ids == spec.image_token_id
    further = functools.partial(family.reference_inputs, extras=picture.extras)
    processors = upstream.greedy_processors(
        generation_settings(checkpoint.source.folder, spec.config),
        ids.tolist(),
        steps,
        eos_token_ids=eos_token_ids(checkpoint),
        vocab=spec.decoder.vocab,
    )
    token_ids: list[int] = []
    logits: list[Floats] = []
    scores: list[Floats] = []

    def pick(row: torch.Tensor) -> None:
        so_far = torch.tensor([[*ids.tolist(), *token_ids]])
        logits.append(row.numpy().copy())
        scores.append(processors(so_far, row[None].clone())[0].numpy())
        token_ids.append(int(scores[-1].argmax()))

    with (
        component(family.load_embedding(checkpoint.weights, spec)) as embedding,
        component(family.load_decoder(checkpoint.weights, spec, attention="eager")) as model,
        component(
            MaskedReader(model, stages, gate_scores(stages, len(features)))
            if stages
            else PlainReader(model, positions, further)
        ) as reader,
        one_thread(),
        torch.inference_mode(),
    ):
        inputs = embedding(torch.from_numpy(ids)[None])
        inputs[0, torch.from_numpy(is_visual)] = torch.from_numpy(features)
        pick(reader.prefill(inputs, is_visual))
        while len(token_ids) < steps:
            pick(reader.step(embedding(torch.tensor([token_ids[-1:]]))))
        embeds = [embedding(torch.from_numpy(row)) for row in sequences]
        read = [model(inputs_embeds=rows[None]).logits[0].numpy() for rows in embeds]
        looked_up = [rows.float().numpy().copy() for rows in embeds]
        dropping = reader.dropping
    return DecoderReference(
        ids, token_ids, np.stack(logits), np.stack(scores), read, looked_up, dropping
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread: with more, one small decoder gave either of two results
    4e-3 apart, the rarer once in ten runs, on a CPU with AMX; with one it gave the same bits every
    time. A reference must not depend on luck.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def prompt_ids(
    checkpoint: Checkpoint, prompt: str, slots: int, picture: str = "", *, pictures: int = 1
) -> Ints:
    """Return the token ids of a question about a picture, or several alike, as transformers'
    processors make them, with the ``slots`` of all.

    ``picture`` is the text in place of a picture, an image token for each tile in it; without it
    there is one. Processors render the template to text and tokenize that once, without a second
    BOS where the template wrote one; a tokenizer's own ``apply_chat_template`` would add none at
    all.
    """
    family, folder = checkpoint.family, checkpoint.source.folder
    tokenizer, text = family.tokenizer(folder), family.reference_prompt(folder, prompt, pictures)
    if picture:
        token = str(tokenizer.convert_ids_to_tokens(checkpoint.spec.image_token_id))
        around = checkpoint.spec.picture_text
        text = text.replace(around.placeholder if around else token, picture)
    has_bos = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    ids: Ints = np.array(text_ids(tokenizer, text, add_special_tokens=not has_bos), dtype=np.int64)
    is_image = ids == checkpoint.spec.image_token_id
    return np.repeat(ids, np.where(is_image, slots // is_image.sum(), 1))


def prompt_positions(
    checkpoint: Checkpoint, prompt: str, picture: PictureReference
) -> PromptPositions | None:
    """Return the positions of a prompt about one pruned picture: those that transformers gives the
    unpruned one, without those of what is dropped. The answer goes on where it would have.

    Where tokens count on from a first position, whatever is dropped, they do so; None where that
    is 0.
    """
    spec = checkpoint.spec
    if first := spec.decoder.first_position:
        following = first + len(prompt_ids(checkpoint, prompt, len(picture.features), picture.text))
        return PromptPositions(np.arange(first, following)[None], following)
    if picture.grid is None or picture.kept is None:
        return None
    tokens = picture.grid[0] * picture.grid[1]
    ids = prompt_ids(checkpoint, prompt, tokens, picture.text)
    positions = spec.family.reference_positions(spec, ids, picture.grid)
    if positions is None:
        return None
    dropped = np.setdiff1d(np.arange(tokens), picture.kept)
    at = np.flatnonzero(ids == spec.image_token_id)[dropped]
    return PromptPositions(np.delete(positions, at, axis=1), int(positions.max()) + 1)


def merge_patches(
    features: npt.NDArray[np.float64], grid: tuple[int, int], merge: int
) -> npt.NDArray[np.float64]:
    """Return the patches of each token side by side, row by row: (N merge^2, C) -> (N, merge^2
    C)."""
    rows, columns = grid
    width = columns * merge
    tokens = [
        [(row * merge + y) * width + column * merge + x for y in range(merge) for x in range(merge)]
        for row in range(rows)
        for column in range(columns)
    ]
    return features[np.array(tokens)].reshape(rows * columns, -1)
