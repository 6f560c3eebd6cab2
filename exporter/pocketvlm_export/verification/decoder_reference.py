"""The Hugging Face side of the parity gate from a prompt on: transformers' own decoders in float32,
and what the processor makes of a question about a picture."""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from pocketvlm.artifact.stages import Stage
from pocketvlm_export import upstream
from pocketvlm_export.checkpoint import generation_settings, text_ids
from pocketvlm_export.loading import Checkpoint
from pocketvlm_export.memory import component
from pocketvlm_export.packaging import eos_token_ids
from pocketvlm_export.verification.masked_reader import Dropping, MaskedReader, gate_scores
from pocketvlm_export.verification.readers import (
    PlainReader,
    PromptPositions,
    ScoringReader,
)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


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
        visual_scores: what attention paid to each visual token, (v,); None where nobody asks.
    """

    prompt_ids: Ints
    token_ids: list[int]
    logits: Floats
    scores: Floats
    sequence_logits: list[Floats] = field(default_factory=list)
    sequence_embeds: list[Floats] = field(default_factory=list)
    dropping: Sequence[Dropping] = ()
    visual_scores: npt.NDArray[np.float64] | None = None


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
        tiles: how many of the slots are each tile's, where tiles keep different numbers of tokens.
    """

    features: Floats
    text: str = ""
    grid: tuple[int, int] | None = None
    kept: Ints | None = None
    extras: Mapping[str, Floats] = field(default_factory=dict)
    tiles: Sequence[int] = ()

    @property
    def slots(self) -> int | Sequence[int]:
        """How many there are, or of each tile; see `prompt_ids`."""
        return self.tiles or len(self.features)


def decoder_reference(
    checkpoint: Checkpoint,
    prompt: str,
    picture: PictureReference,
    steps: int,
    sequences: Sequence[Ints] = (),
    stages: Sequence[Stage] = (),
    *,
    scores: bool = False,
) -> DecoderReference:
    """Answer ``prompt`` about one picture greedily for ``steps`` tokens.

    ``sequences`` are token ids, (tokens,) each, that are read without a prompt. ``stages`` drop
    visual tokens inside; with ``scores`` it is added up what attention pays to them.
    """
    family, spec, features = checkpoint.family, checkpoint.spec, picture.features
    ids = prompt_ids(checkpoint, prompt, picture.slots, picture.text)
    positions = prompt_positions(checkpoint, prompt, picture)
    further = functools.partial(family.reference_inputs, extras=picture.extras)
    with (
        component(family.load_embedding(checkpoint.weights, spec)) as embedding,
        component(family.load_decoder(checkpoint.weights, spec, attention="eager")) as model,
        component(
            MaskedReader(model, stages, gate_scores(stages, len(features)))
            if stages
            else ScoringReader(model)
            if scores
            else PlainReader(model, positions, further)
        ) as reader,
        one_thread(),
        torch.inference_mode(),
    ):
        answer = greedy_answer(checkpoint, embedding, reader, ids, features, steps)
        embeds = [embedding(torch.from_numpy(row)) for row in sequences]
        read = [model(inputs_embeds=rows[None]).logits[0].numpy() for rows in embeds]
        looked_up = [rows.float().numpy().copy() for rows in embeds]
        dropping = reader.dropping
        visual_scores = reader.visual_scores if isinstance(reader, ScoringReader) else None
    return replace(
        answer,
        sequence_logits=read,
        sequence_embeds=looked_up,
        dropping=dropping,
        visual_scores=visual_scores,
    )


def greedy_answer(
    checkpoint: Checkpoint,
    embedding: torch.nn.Module,
    reader: PlainReader | MaskedReader,
    ids: Ints,
    features: Floats,
    steps: int,
) -> DecoderReference:
    """Answer a prompt greedily for ``steps`` tokens, by modules that are loaded.

    Args:
        checkpoint: whose modules, and whose settings for generation.
        embedding: of token ids.
        reader: of this prompt, which it has not read yet.
        ids: the prompt's, (n,), with a slot for each row of ``features``.
        features: what is kept of all its pictures, (slots, hidden), in order.
        steps: how many tokens.
    """
    spec = checkpoint.spec
    is_visual = ids == spec.image_token_id
    processors = upstream.greedy_processors(
        generation_settings(checkpoint.source.folder, spec.config),
        ids.tolist(),
        steps,
        eos_token_ids=eos_token_ids(checkpoint),
        vocab=spec.decoder.vocab,
    )
    token_ids: list[int] = []
    logits: list[Floats] = []
    compared: list[Floats] = []

    def pick(row: torch.Tensor) -> None:
        so_far = torch.tensor([[*ids.tolist(), *token_ids]])
        logits.append(row.numpy().copy())
        compared.append(processors(so_far, row[None].clone())[0].numpy())
        token_ids.append(int(compared[-1].argmax()))

    inputs = embedding(torch.from_numpy(ids)[None])
    inputs[0, torch.from_numpy(is_visual)] = torch.from_numpy(features)
    pick(reader.prefill(inputs, is_visual))
    while len(token_ids) < steps:
        pick(reader.step(embedding(torch.tensor([token_ids[-1:]]))))
    return DecoderReference(ids, token_ids, np.stack(logits), np.stack(compared))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread. With more, one small decoder gave either of two results
    4e-3 apart, the rarer once in ten runs, on a CPU with AMX. With one it gave the same bits every
    time. A reference must not depend on luck.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def prompt_ids(
    checkpoint: Checkpoint,
    prompt: str,
    slots: int | Sequence[int],
    picture: str = "",
    *,
    pictures: int = 1,
) -> Ints:
    """Return the token ids of a question about a picture, or several alike, as transformers'
    processors make them, with the ``slots`` of all, or those of each tile of all.

    ``picture`` is the text in place of a picture, an image token for each tile in it; without it
    there is one.
    """
    text = checkpoint.family.reference_prompt(checkpoint.source.folder, prompt, pictures)
    return text_to_ids(checkpoint, text, slots, [picture] * pictures)


def text_to_ids(
    checkpoint: Checkpoint, text: str, slots: int | Sequence[int], pictures: Sequence[str] = ()
) -> Ints:
    """Return the token ids of a prompt that a template has written, as `prompt_ids`.

    ``pictures`` are the texts in place of each, as they come; an empty one leaves the place as it
    is. Processors render the template to text and tokenize that once, without a second BOS where
    the template wrote one; a tokenizer's own ``apply_chat_template`` would add none at all.
    """
    tokenizer = checkpoint.family.tokenizer(checkpoint.source.folder)
    if any(pictures):
        token = str(tokenizer.convert_ids_to_tokens(checkpoint.spec.image_token_id))
        around = checkpoint.spec.picture_text
        place = around.placeholder if around else token
        first, *rest = text.split(place)
        instead = [picture or place for picture in pictures]
        text = first + "".join(a + b for a, b in zip(instead, rest, strict=True))
    has_bos = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    ids: Ints = np.array(text_ids(tokenizer, text, add_special_tokens=not has_bos), dtype=np.int64)
    is_image = ids == checkpoint.spec.image_token_id
    counts = np.ones(len(ids), dtype=np.int64)
    counts[is_image] = slots // is_image.sum() if isinstance(slots, int) else slots
    return np.repeat(ids, counts)


def prompt_positions(
    checkpoint: Checkpoint, prompt: str, picture: PictureReference
) -> PromptPositions | None:
    """Return the positions of a prompt about one pruned picture: those that transformers gives the
    unpruned one, without those of what is dropped. The answer continues where it would have.

    Where tokens count on from a first position, whatever is dropped, they do so; None where that
    is 0.
    """
    spec = checkpoint.spec
    if not spec.decoder.first_position and picture.grid is None:
        return None
    ids = prompt_ids(checkpoint, prompt, picture.slots, picture.text)
    whole = ids
    if picture.grid is not None:
        whole = prompt_ids(checkpoint, prompt, math.prod(picture.grid), picture.text)
    return pruned_positions(checkpoint, ids, whole, [picture])


def pruned_positions(
    checkpoint: Checkpoint, ids: Ints, whole: Ints, pictures: Sequence[PictureReference]
) -> PromptPositions | None:
    """As `prompt_positions`, of a prompt's ``ids`` and those that it has where nothing is
    dropped."""
    spec = checkpoint.spec
    if first := spec.decoder.first_position:
        following = first + len(ids)
        return PromptPositions(np.arange(first, following)[None], following)
    grids = [picture.grid for picture in pictures if picture.grid is not None]
    positions = spec.family.reference_positions(spec, whole, grids) if grids else None
    if positions is None:
        return None
    sizes = np.cumsum([0, *(math.prod(grid) for grid in grids)])
    kept = [
        start + picture.kept
        for start, picture in zip(sizes, pictures, strict=False)
        if picture.kept is not None
    ]
    dropped = np.setdiff1d(np.arange(sizes[-1]), np.concatenate(kept))
    at = np.flatnonzero(whole == spec.image_token_id)[dropped]
    return PromptPositions(np.delete(positions, at, axis=1), int(positions.max()) + 1)
