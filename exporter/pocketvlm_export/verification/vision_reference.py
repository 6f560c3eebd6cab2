"""The Hugging Face side of the parity gate, up to what the decoder reads of pictures: transformers'
own towers in float32 with full eager attention maps.

Selection is written again in numpy, on the whole maps (`oracles`), and the layers run as
transformers runs them. The weights reach both sides by way of the family's loaders, which this gate
therefore cannot check: the tests hold those against
``LlavaForConditionalGeneration.from_pretrained``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pocketvlm.artifact.specs import Pruning
from pocketvlm.artifact.stages import Stage
from pocketvlm_export import upstream
from pocketvlm_export.checkpoint import text_ids
from pocketvlm_export.families.spec import VLMSpec
from pocketvlm_export.loading import Checkpoint
from pocketvlm_export.memory import component, release_memory
from pocketvlm_export.pruning import find_pruner, make_pruner
from pocketvlm_export.pruning.base import ATTENTION, TEXT, Pruner
from pocketvlm_export.verification.masked_tower import MaskedTower
from pocketvlm_export.verification.mixing import Mixer, make_mixer
from pocketvlm_export.verification.oracles import AmongPlaces, Encoded, Ranking, find_oracle

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
        mixers: of each picture, what a method that merges makes of it; none of other methods.
        certain: no rounding decides which tokens were merged, `Mixture.certain` of all.
    """

    image_features: Floats
    kept_indices: Ints
    rankings: Sequence[Ranking]
    extras: Mapping[str, Floats] = field(default_factory=dict)
    instead: Sequence[Sequence["VisionReference"]] = ()
    mixers: Sequence[Mixer] = ()
    certain: bool = True

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
            self.mixers[rows],
            self.certain,
        )

    def candidates(self, row: int) -> list["VisionReference"]:
        """Return what is right for one picture, itself first."""
        return [self.part(row, 1), *(self.instead[row] if self.instead else ())]


@dataclass(frozen=True)
class _Read:
    """transformers' results for one picture: features of every token by name, the ranking of its
    tokens, and how a method merges them. The kept ones are selected afterwards."""

    features: Mapping[str, Floats]
    ranking: Ranking
    mixer: Mixer | None = None


def vision_reference(
    checkpoint: Checkpoint,
    pruning: Pruning,
    pixel_values: Floats,
    stages: Sequence[Stage] = (),
    text: Floats | None = None,
) -> dict[int, VisionReference]:
    """Run tower and connector on ``pixel_values`` (B, 3, H, W), with ``stages`` inside the tower,
    and select as ``pruning`` says, at all its budgets. ``text`` is the question's, see
    `text_reference`.

    One picture at a time: attention maps are large.

    Raises:
        PocketVLMError: ``pruning`` has an option that the method has not, or a value that it does
            not take.
    """
    family, spec = checkpoint.family, checkpoint.spec
    rank, pruner = find_oracle(pruning.method), settled(pruning, spec)
    every: list[list[_Read]] = []  # of each picture, first as it should be, then as it may be
    projector = family.load_projector(checkpoint.weights, spec) if pruner.merges else None
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
            if text is not None:
                encoded = replace(encoded, text=text.astype(np.float64))
            ranking, features = rank(encoded, pruner.options), encoded.projected
            if encoded.places is not None:
                tokens = spec.vision.tokens
                ranking = AmongPlaces.of(ranking, encoded.places, tokens)
                features = np.full((tokens, features.shape[1]), np.nan)
                features[encoded.places] = encoded.projected
            mixer = projector and make_mixer(pruning, pruner, encoded, ranking, projector)
            return _Read({_FEATURES: features.astype(np.float32), **extras}, ranking, mixer)

        for picture in pixel_values:
            masked = MaskedTower(spec.vision, stages)
            every.append([read(picture, masked)])
            release_memory()  # the next picture's maps would not all fit where these lay
            for number, choice in enumerate(masked.choices):
                for other in choice.otherwise:
                    again = MaskedTower(spec.vision, stages, {number: other})
                    every[-1].append(read(picture, again))
    return {budget: _at_budget(budget, every) for budget in pruning.budgets}


def text_reference(checkpoint: Checkpoint, pruning: Pruning, prompt: str) -> Floats | None:
    """Return the input embeddings of a question's tokens, (T, hidden), without template, where the
    method of ``pruning`` reads the prompt."""
    if TEXT not in find_pruner(pruning.method).reads:
        return None
    tokenizer = checkpoint.family.tokenizer(checkpoint.source.folder)
    ids = text_ids(tokenizer, prompt, add_special_tokens=False)
    with (
        component(
            checkpoint.family.load_embedding(checkpoint.weights, checkpoint.spec)
        ) as embedding,
        torch.inference_mode(),
    ):
        rows: Floats = embedding(torch.tensor(ids, dtype=torch.int64)).float().numpy().copy()
    return rows


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
    pruner = settled(pruning, spec)
    keys: dict[int, list[torch.Tensor]] | None = {} if "keys" in pruner.reads else None
    first = pruner.first_layer(spec.vision.score_layer) if pruner.reads & ATTENTION else None
    with (
        torch.inference_mode(),
        masked.follow(tower),
        upstream.recorded_attention(first, masked, keys) as layers,
    ):
        pixel_values = torch.from_numpy(picture[None])
        made = spec.family.reference_features(tower, connector, spec, pixel_values)
    grid, merge = spec.vision.grid_of(*picture.shape[1:]), spec.vision.merge
    features = merge_patches(made.features.double().numpy(), grid, merge)
    if spec.vision.pool == "mean":
        features = features.reshape(len(features), merge**2, -1).mean(axis=1)
    used = list(layers)[: made.layers]
    maps = [_whole_map(layers[layer], made.patches) for layer in used]
    projected = made.projected.double().numpy()
    if masked.places is not None:
        features, projected = features[masked.places], projected[masked.places]
        rows = masked.rows()
        maps = [each[:, rows][:, :, rows] if each.size else each for each in maps]
    encoded = Encoded(
        maps,
        int(spec.vision.has_cls),
        features,
        projected,
        grid,
        merge,
        places=masked.places,
        keys=None if keys is None else _in_raster(keys[used[-1]][0], made.patches),
    )
    return encoded, {name: each.numpy() for name, each in made.extras.items()}


def settled(pruning: Pruning, spec: VLMSpec) -> Pruner:
    """Return the method that a manifest names, with its options; raises `PocketVLMError` for those
    that it does not take."""
    options = {name: str(value) for name, value in pruning.options.items()}
    pruner = make_pruner(pruning.method, options, merge_dropped=pruning.merge_dropped)
    pruner.settle(spec.vision)
    return pruner


def _whole_map(maps: Sequence[torch.Tensor], patches: torch.Tensor | None) -> Floats:
    """Return a layer's only map, (heads, tokens, tokens), in raster order; none of a layer that was
    not recorded, or that has one a window."""
    if len(maps) != 1:
        return np.empty((0, 0, 0), dtype=np.float32)
    if patches is None:
        return np.asarray(maps[0].numpy())
    raster = torch.argsort(patches)
    return np.asarray(maps[0][:, raster][:, :, raster].numpy())


def _in_raster(keys: torch.Tensor, patches: torch.Tensor | None) -> Floats:
    """Return the keys of a layer, (heads, tokens, d), in raster order."""
    return np.asarray((keys if patches is None else keys[:, torch.argsort(patches)]).numpy())


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
    mixers = [read.mixer for read in first if read.mixer is not None]
    if not mixers:
        return VisionReference(by_name.pop(_FEATURES), kept, rankings, by_name, instead)
    mixed = [
        mixer.rows(row, ranking.scores[row])
        for mixer, ranking, row in zip(mixers, rankings, kept, strict=True)
    ]
    certain = all(bool(each.all()) for _, each in mixed)
    merged = np.stack([rows for rows, _ in mixed])
    return VisionReference(merged, kept, rankings, mixers=mixers, certain=certain)


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
