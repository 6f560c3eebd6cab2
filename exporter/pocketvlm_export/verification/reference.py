"""The Hugging Face side of the parity gate: transformers' own modules in float32 with full eager
attention maps.

Selection is written again in numpy, on the whole maps (`oracles`), and the layers run as
transformers runs them. The weights reach both sides by way of the family's loaders, which this gate
therefore cannot check: the tests hold those against
``LlavaForConditionalGeneration.from_pretrained``.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from pocketvlm.artifact.manifest import FastV, Pruning
from pocketvlm_export.checkpoint import load_tokenizer
from pocketvlm_export.families import VLMSpec
from pocketvlm_export.loading import Checkpoint
from pocketvlm_export.memory import component, release_memory
from pocketvlm_export.packaging import chat_template
from pocketvlm_export.verification.oracles import Encoded, Ranking, find_oracle
from pocketvlm_export.verification.readers import Dropping, FastVReader, PlainReader

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class VisionReference:
    """What one budget should give.

    Attributes:
        image_features: (B, k, hidden).
        kept_indices: (B, k), in raster order.
        rankings: of each picture's patches.
    """

    image_features: Floats
    kept_indices: Ints
    rankings: Sequence[Ranking]

    @property
    def gap(self) -> float:
        """The smallest at the cut of a picture, see `Ranking.gap`."""
        return min(ranking.gap(self.kept_indices.shape[1]) for ranking in self.rankings)

    def first(self, count: int) -> Self:
        """Return that of the first ``count`` rows of the batch."""
        return replace(self, **{name: values[:count] for name, values in vars(self).items()})


@dataclass(frozen=True)
class DecoderReference:
    """A greedy answer, and what follows each token of fixed sequences.

    Attributes:
        prompt_ids: (n,).
        token_ids: (steps,).
        logits: before each of them, (steps, vocab).
        sequence_logits: after each token of every sequence, (tokens, vocab) each.
        dropping: what of the prompt went on inside the decoder, None where all of it did.
    """

    prompt_ids: Ints
    token_ids: list[int]
    logits: Floats
    sequence_logits: list[Floats] = field(default_factory=list)
    dropping: Dropping | None = None


def vision_reference(
    checkpoint: Checkpoint, pruning: Pruning, pixel_values: Floats
) -> dict[int, VisionReference]:
    """Run tower and connector on ``pixel_values`` (B, 3, H, W) and select as ``pruning`` says, at
    all its budgets.

    One picture at a time: the attention maps of all layers are large.
    """
    family, spec = checkpoint.family, checkpoint.spec
    depth = spec.vision.config.num_hidden_layers
    rank = find_oracle(pruning.method)
    all_features: list[Floats] = []  # of every patch; the kept rows are taken afterwards
    rankings: list[Ranking] = []
    with (
        component(
            family.load_tower(checkpoint.weights, spec, layers=depth, attention="eager")
        ) as tower,
        component(family.load_connector(checkpoint.weights, spec)) as connector,
    ):
        for picture in pixel_values:
            encoded = _encode(tower, connector, spec, picture)
            all_features.append(encoded.projected.astype(np.float32))
            rankings.append(rank(encoded, pruning.options))
            del encoded
            release_memory()  # the next picture's maps would not all fit where these lay
    return {budget: _at_budget(budget, all_features, rankings) for budget in pruning.budgets}


def _encode(tower: Any, connector: Any, spec: VLMSpec, picture: Floats) -> Encoded:
    """Run transformers' modules on one picture, (3, H, W)."""
    before = int(spec.vision.has_cls)
    with torch.inference_mode():
        output = tower(
            torch.from_numpy(picture[None]), output_hidden_states=True, output_attentions=True
        )
        features, attentions = _tower_features(spec.config, output, before=before)
        projected = connector(features)
    return Encoded(
        [layer[0].numpy() for layer in attentions],
        before,
        merge_patches(features[0].double().numpy(), spec.vision.grid, spec.vision.merge),
        projected[0].double().numpy(),
        spec.vision.grid,
        spec.vision.merge,
    )


def _at_budget(
    budget: int, features: Sequence[Floats], rankings: Sequence[Ranking]
) -> VisionReference:
    kept = np.stack([ranking.kept(budget) for ranking in rankings])
    rows = [picture[indices] for picture, indices in zip(features, kept, strict=True)]
    return VisionReference(np.stack(rows), kept, rankings)


def decoder_reference(
    checkpoint: Checkpoint,
    prompt: str,
    features: Floats,
    steps: int,
    sequences: Sequence[Ints] = (),
    fastv: FastV | None = None,
    picture: str = "",
) -> DecoderReference:
    """Answer ``prompt`` about one picture, whose kept ``features`` are (slots, hidden), greedily
    for ``steps`` tokens.

    ``sequences`` are token ids, (tokens,) each, that are read without a prompt; ``fastv`` drops
    visual tokens inside; ``picture`` as for `prompt_ids`.
    """
    family, spec = checkpoint.family, checkpoint.spec
    ids = prompt_ids(checkpoint, prompt, len(features), picture)
    token_ids: list[int] = []
    logits: list[Floats] = []
    with (
        component(family.load_embedding(checkpoint.weights, spec)) as embedding,
        component(family.load_decoder(checkpoint.weights, spec, attention="eager")) as model,
        component(FastVReader(model, fastv) if fastv else PlainReader(model)) as reader,
        one_thread(),
        torch.inference_mode(),
    ):
        inputs = embedding(torch.from_numpy(ids)[None])
        is_visual = ids == spec.image_token_id
        inputs[0, torch.from_numpy(is_visual)] = torch.from_numpy(features)
        logits.append(reader.prefill(inputs, is_visual).numpy().copy())
        token_ids.append(int(logits[-1].argmax()))
        while len(token_ids) < steps:
            logits.append(reader.step(embedding(torch.tensor([token_ids[-1:]]))).numpy().copy())
            token_ids.append(int(logits[-1].argmax()))
        read = [
            model(inputs_embeds=embedding(torch.from_numpy(row)[None])).logits[0].numpy()
            for row in sequences
        ]
        dropping = reader.dropping
    return DecoderReference(ids, token_ids, np.stack(logits), read, dropping)


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


def prompt_ids(checkpoint: Checkpoint, prompt: str, slots: int, picture: str = "") -> Ints:
    """Return the token ids of a question about one picture, as transformers' processors make them,
    with its slots.

    ``picture`` is the text in place of the picture, an image token for each tile in it; without it
    there is one. Processors render the template to text and tokenize that once, without a second
    BOS where the template wrote one; a tokenizer's own ``apply_chat_template`` would add none at
    all.
    """
    tokenizer = load_tokenizer(checkpoint.source.folder)
    messages = [
        {
            "role": "user",
            "content": [{"type": checkpoint.family.medium}, {"type": "text", "text": prompt}],
        }
    ]
    template = chat_template(checkpoint.source.folder)
    text = tokenizer.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=True, tokenize=False
    )
    if picture:
        text = text.replace(
            str(tokenizer.convert_ids_to_tokens(checkpoint.spec.image_token_id)), picture
        )
    has_bos = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    ids: Ints = np.array(
        tokenizer(text, add_special_tokens=not has_bos)["input_ids"], dtype=np.int64
    )
    is_image = ids == checkpoint.spec.image_token_id
    return np.repeat(ids, np.where(is_image, slots // is_image.sum(), 1))


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


def _tower_features(
    config: Any, output: Any, *, before: int
) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
    """Features of all patches, (1, patches, C), and all maps up to that behind the last of them.

    They are taken as LlavaModel.get_image_features takes them, or, of families that choose no
    layer, as the tower gives them. ``hidden_states`` has one entry more than ``attentions``: the
    embeddings. Counted from the end the two agree; counted from the start, hidden state i is the
    output of layer i - 1.
    """
    if not hasattr(config, "vision_feature_layer"):
        return output.last_hidden_state, output.attentions
    listed = config.vision_feature_layer
    layers = [listed] if isinstance(listed, int) else list(listed)
    features = torch.cat([output.hidden_states[index][:, before:] for index in layers], dim=-1)
    last = layers[-1]
    maps = output.attentions
    return features, maps[: last + len(maps) + 1 if last < 0 else last]
