"""Knows the parity gate: which differences from Hugging Face an artifact may have, and how they are
measured.

What is measured is what a device runs: the runtime's own vision encoder, prompts and decoder.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from pocketvlm import PocketVLMError
from pocketvlm.artifact import Artifact, metadata
from pocketvlm.artifact.specs import Parity
from pocketvlm.decoders import engine_class
from pocketvlm.decoders.onnx import OnnxDecoder
from pocketvlm.decoders.scoring import ScoringSequence
from pocketvlm.decoders.staged import StagedSequence
from pocketvlm.errors import ArtifactError
from pocketvlm.layouts import TileGrid, open_layout
from pocketvlm.ort.sessions import open_session
from pocketvlm.ort.settings import DEFAULT_SETTINGS
from pocketvlm.text.prompts import Prompter
from pocketvlm.vision.batches import arrange_features
from pocketvlm.vision.constants import read_constants
from pocketvlm_export.families.spec import LayoutSpec
from pocketvlm_export.gguf_types import GATE_GGUF_TYPE
from pocketvlm_export.loading import Checkpoint
from pocketvlm_export.memory import component
from pocketvlm_export.options import GATE_PROMPT
from pocketvlm_export.precisions import GATE_PRECISION, PRECISIONS
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification.arrangement import layout_of, picture_reference
from pocketvlm_export.verification.bounds import STEPS, cosine
from pocketvlm_export.verification.decoder_reference import (
    DecoderReference,
    PictureReference,
    decoder_reference,
)
from pocketvlm_export.verification.encoding import encode, open_encoder
from pocketvlm_export.verification.exact import GateAnswer, judge_answer, judge_vision
from pocketvlm_export.verification.gguf import measure_gguf
from pocketvlm_export.verification.kept import KeptRow, compare_kept, is_first_choice
from pocketvlm_export.verification.lost import (
    Prompt,
    gate_sequences,
    judge_kept,
    measure_logits,
    scores_of,
)
from pocketvlm_export.verification.pictures import GateBatch, gate_batches
from pocketvlm_export.verification.pixels import compare_pixels
from pocketvlm_export.verification.several import judge_several
from pocketvlm_export.verification.vision_reference import (
    VisionReference,
    text_reference,
    vision_reference,
)


class ParityError(PocketVLMError):
    """The exported graphs differ from the checkpoint.

    >>> from pocketvlm import PocketVLMError
    >>> from pocketvlm_export.verification import ParityError
    >>> issubclass(ParityError, PocketVLMError), ParityError.exit_code
    (True, 3)
    """

    exit_code = 3


@dataclass(frozen=True)
class References:
    """The checkpoint's own results on the gate's pictures and prompt.

    Attributes:
        batches: the pictures; the prompt is about the first of them.
        vision: of each budget, a reference a batch.
        picture: what the decoder reads of the picture asked about at the default budget.
        decoder: the answer.
    """

    batches: Sequence[GateBatch]
    vision: dict[int, list[VisionReference]]
    picture: PictureReference
    decoder: DecoderReference

    @property
    def grid(self) -> TileGrid:
        """How the picture asked about was cut."""
        return _grid_asked(self.batches)


def check_parity(checkpoint: Checkpoint, artifact: Artifact) -> Parity:
    """Run the checkpoint and the artifact on the same pictures and prompt, and compare.

    Components are in memory one at a time: first transformers', then ONNX Runtime's.
    """
    layout = layout_of(checkpoint.spec, artifact)
    if layout is None:
        raise ArtifactError(
            f"{artifact.root} has the layout {artifact.manifest.vision.layout['name']!r} with "
            "settings that this checkpoint does not give",
            advice="use the version that exported it, or export again",
        )
    references = run_references(checkpoint, artifact, layout)
    pixels = compare_pixels(checkpoint, artifact, layout)
    in_vision, in_decoder = _vision_precisions(artifact), artifact.manifest.decoder.graphs
    vision: dict[str, Any] = {}
    decoder: dict[str, Any] = {}
    if GATE_PRECISION in in_vision:
        rows = _rows(artifact, references, GATE_PRECISION)
        vision = judge_vision(rows, chain.from_iterable(references.vision.values()))
        if layout.several is not None:
            reference = references.vision[artifact.manifest.pruning.default_budget][-1]
            batch = references.batches[-1]
            several = judge_several(checkpoint, artifact, layout.several, batch, reference)
            passed = vision["passed"] and several["passed"]
            vision = {**vision, "several": several, "passed": passed}
    if GATE_PRECISION in in_decoder:
        answer = _answer(artifact, references, GATE_PRECISION)
        decoder = judge_answer(answer, references.decoder)
    others = {
        precision: _measure_other(artifact, references, precision)
        for precision in dict.fromkeys((*in_vision, *in_decoder, *artifact.manifest.decoder.embed))
        if precision != GATE_PRECISION
    }
    others |= _measure_gguf(artifact, references)
    parts = [part for part in (vision, decoder) if part]
    passed = all(part["passed"] for part in [pixels, *parts, *others.values()])
    return Parity(
        passed,
        "transformers fp32",
        vision=vision,
        decoder=decoder,
        pixels=pixels,
        by_precision=others,
    )


def vision_alone(artifact: Artifact) -> Artifact:
    """Return an artifact of a further medium with just the decoders that show that it answers as
    the checkpoint does. The others were compared with the first medium."""
    spec = artifact.manifest.decoder
    if GATE_PRECISION not in spec.graphs:
        exact = GATE_GGUF_TYPE if GATE_GGUF_TYPE in spec.gguf else next(iter(spec.gguf), "")
        graphs, gguf = {}, {name: file for name, file in spec.gguf.items() if name == exact}
    else:
        graphs, gguf = {GATE_PRECISION: spec.graphs[GATE_PRECISION]}, {}
    tables = {*graphs, artifact.manifest.vision.selector_table}
    embed = {name: file for name, file in spec.embed.items() if name in tables}
    decoder = replace(spec, graphs=graphs, embed=embed or spec.embed, gguf=gguf)
    return replace(artifact, manifest=replace(artifact.manifest, decoder=decoder))


def run_references(checkpoint: Checkpoint, artifact: Artifact, layout: LayoutSpec) -> References:
    """Run transformers on the gate's pictures, for every budget of the artifact, and on its
    prompt."""
    pruning, batches = artifact.manifest.pruning, gate_batches(artifact, checkpoint.spec.vision)
    with quiet_transformers():
        stages = artifact.manifest.vision.stages
        text = text_reference(checkpoint, pruning, GATE_PROMPT)
        each = [
            vision_reference(checkpoint, pruning, batch.pixel_values, stages, text)
            for batch in batches
        ]
        vision = {budget: [by[budget] for by in each] for budget in pruning.budgets}
        grid = _grid_asked(batches)
        tiles = _tiles_asked(vision[pruning.default_budget], grid)
        picture = picture_reference(checkpoint, layout, tiles, grid, batches[0].size)
        spec = artifact.manifest.decoder
        precisions = {*spec.graphs, *spec.embed}
        inexact = spec.gguf or any(name != GATE_PRECISION for name in precisions)
        sequences = gate_sequences(spec.vocab, spec.context) if inexact else ()
        decoder = decoder_reference(
            checkpoint, GATE_PROMPT, picture, STEPS, sequences, spec.stages, scores=spec.scores
        )
    return References(batches, vision, picture, decoder)


def failures(parity: Parity) -> str:
    """Return in a few words which parts of the gate failed, and by what figures."""
    parts = {"pixels": parity.pixels, "vision": parity.vision, "decoder": parity.decoder}
    for precision, figures in parity.by_precision.items():
        # A GGUF type has the decoder's figures alone, a precision of ONNX graphs those of each
        # part.
        nested = {
            f"{precision} {part}": figures[part]
            for part in ("vision", "decoder", "embed", "selection")
            if part in figures
        }
        parts |= nested or {precision: figures}
    return "; ".join(
        f"{name}: "
        + ", ".join(f"{key} {_short(value)}" for key, value in part.items() if key != "passed")
        for name, part in parts.items()
        if part and not part["passed"]
    )


def _vision_precisions(artifact: Artifact) -> list[str]:
    return list(artifact.manifest.vision.graphs[artifact.manifest.pruning.default_budget])


def _measure_other(artifact: Artifact, references: References, precision: str) -> dict[str, Any]:
    """Measure what a precision that is not float32 loses: in the vision graphs, in the decoder with
    the table that it reads, and in the table alone, which other decoders may read too. If a device
    reads the question by that table, the selection is measured too."""
    result: dict[str, Any] = {}
    manifest = artifact.manifest
    if precision in _vision_precisions(artifact):
        # One graph may serve several budgets.
        files = list(dict.fromkeys(graphs[precision] for graphs in manifest.vision.graphs.values()))
        bounds = PRECISIONS[precision].vision
        assert bounds is not None
        figures = judge_kept(_rows(artifact, references, precision), bounds)
        result["vision"] = {**figures, "bytes": _bytes(artifact, files)}
    if precision in manifest.decoder.graphs:
        figures = _measure_lost(artifact, references, precision)
        result["decoder"] = {
            **figures,
            "bytes": _bytes(artifact, [manifest.decoder.graphs[precision]]),
        }
    if precision in manifest.decoder.embed:
        figures = _measure_table(artifact, references, precision)
        result["embed"] = {
            **figures,
            "bytes": _bytes(artifact, [manifest.decoder.embed[precision]]),
        }
    if (selection := _measure_selection(artifact, references, precision)) is not None:
        result["selection"] = selection
    return {**result, "passed": all(figures["passed"] for figures in result.values())}


def _measure_selection(
    artifact: Artifact, references: References, precision: str
) -> dict[str, Any] | None:
    """Figures of what the exact vision graphs keep where an inexact embedding table reads the
    question; None where a device does not read it by that one."""
    exact = GATE_PRECISION in _vision_precisions(artifact)
    if precision != artifact.manifest.vision.selector_table or not exact:
        return None
    rows = _rows(artifact, references, GATE_PRECISION, as_used=True)
    return judge_kept(rows, PRECISIONS[precision].selection)


def _measure_table(artifact: Artifact, references: References, precision: str) -> dict[str, Any]:
    """Figures of an inexact embedding table, of the tokens of `gate_sequences`."""
    spec = artifact.manifest.decoder
    sequences = gate_sequences(spec.vocab, spec.context)
    opened = open_session(
        artifact,
        spec.embed[precision],
        metadata.EMBED_TOKENS,
        settings=DEFAULT_SETTINGS.for_precision(precision),
    )
    with component(opened) as session:
        rows = [session.run(None, {"input_ids": ids[None]})[0][0] for ids in sequences]
    least = cosine(np.concatenate(rows), np.concatenate(references.decoder.sequence_embeds))
    return {"cosine": least, "passed": least >= PRECISIONS[precision].table_cosine}


def _measure_lost(artifact: Artifact, references: References, precision: str) -> dict[str, Any]:
    """Figures of an inexact decoder, which reads the features that transformers made."""
    spec = artifact.manifest.decoder
    decoder = _open(artifact, precision=precision)
    sequences = gate_sequences(spec.vocab, spec.context)
    ids, picture = gate_prompt(artifact, references), references.picture
    with component(decoder):
        figures, _ = measure_logits(decoder, ids, references.decoder, picture, sequences)
    least = PRECISIONS[precision].logits_cosine
    return {**figures, "passed": bool(figures["prompt_equal"] and figures["cosine"] >= least)}


def _bytes(artifact: Artifact, graphs: Sequence[str]) -> int:
    """Bytes of graphs and of the weights that lie beside them; budgets share theirs."""
    files = artifact.manifest.files
    return sum(
        files[name].bytes for graph in graphs for name in (graph, f"{graph}_data") if name in files
    )


def _rows(
    artifact: Artifact, references: References, precision: str, *, as_used: bool = False
) -> list[KeptRow]:
    """Every picture at every budget beside its reference; ``as_used`` see `open_encoder`."""
    rows: list[KeptRow] = []
    for budget, by_batch in references.vision.items():
        with component(open_encoder(artifact, precision, budget, as_used=as_used)) as encoder:
            for batch, reference in zip(references.batches, by_batch, strict=True):
                encoded = encode(artifact, encoder, batch.pixel_values)
                rows += compare_kept(encoded, reference)
    return rows


def _measure_gguf(artifact: Artifact, references: References) -> dict[str, dict[str, Any]]:
    """Figures of each GGUF type, which reads the features that transformers made: nothing but the
    decoder differs."""
    ids = gate_prompt(artifact, references)
    return {
        kind: measure_gguf(artifact, ids, references.decoder, references.picture, kind)
        for kind in artifact.manifest.decoder.gguf
    }


def gate_prompt(artifact: Artifact, references: References) -> Prompt:
    """Return the gate's prompt as the runtime writes it, where its graphs keep what the reference
    keeps."""
    kept = [tiles.kept_indices for tiles in _default_reference(artifact, references)]
    prompter, grid = Prompter.from_artifact(artifact), references.grid
    most = max(each.shape[1] for each in kept)
    slots = open_layout(artifact).expand(grid, most, kept[0] if len(kept) == 1 else None)
    ids = prompter.place(prompter.encode(GATE_PROMPT, pictures=1), [slots])
    tokens = None if references.picture.kept is None else grid.tokens
    return Prompt(prompter, ids, artifact.manifest, tokens, references.picture.kept)


def _default_reference(artifact: Artifact, references: References) -> list[VisionReference]:
    """What of the picture that the prompt is about is kept by default, tiles of each size apart."""
    by_batch = references.vision[artifact.manifest.pruning.default_budget]
    return _tiles_asked(by_batch, references.grid)


def _grid_asked(batches: Sequence[GateBatch]) -> TileGrid:
    return batches[0].picture or batches[0].grid


def _tiles_asked(by_batch: Sequence[VisionReference], grid: TileGrid) -> list[VisionReference]:
    """Of the references of all batches, those of the tiles of the first picture."""
    return [
        reference.first(tiles.tiles)
        for reference, tiles in zip(by_batch, grid.batches, strict=False)
    ]


def _open(artifact: Artifact, **options: Any) -> OnnxDecoder:
    decoder: OnnxDecoder = engine_class(artifact, "onnx").open(artifact, **options)
    return decoder


def _answer(artifact: Artifact, references: References, precision: str) -> GateAnswer:
    """Answer the gate's prompt about its first picture, end to end."""
    vision = precision if precision in _vision_precisions(artifact) else None
    layout, grid = open_layout(artifact), references.grid
    with component(open_encoder(artifact, vision)) as encoder:
        encoded = [
            encode(artifact, encoder, batch.pixel_values).first(tiles.tiles)
            for batch, tiles in zip(references.batches, grid.batches, strict=False)
        ]
    picture, prompt = references.picture, gate_prompt(artifact, references)
    features, extras = picture.features, picture.extras
    # About other patches, which only a tie excuses, or otherwise merged, there is another answer.
    theirs = _default_reference(artifact, references)
    if all(is_first_choice(ours, tiles) for ours, tiles in zip(encoded, theirs, strict=True)):
        features, extras = arrange_features(layout, grid, encoded, read_constants(artifact))
    table = precision if precision in artifact.manifest.decoder.embed else None
    with (
        component(_open(artifact, precision=precision, table=table)) as decoder,
        closing(decoder.sequence()) as sequence,
    ):
        logits, sampler = [sequence.prefill(prompt.filled(features, extras))], prompt.sampler(STEPS)
        kept = sequence.kept_prompt if isinstance(sequence, StagedSequence) else ()
        token_ids: list[int] = []
        while True:
            token_ids.append(int(scores_of(sampler, logits[-1]).argmax()))
            sampler.follow(token_ids[-1])
            if len(token_ids) == STEPS:
                break
            logits.append(sequence.decode(token_ids[-1]))
        paid = sequence.visual_scores if isinstance(sequence, ScoringSequence) else None
    equal = np.array_equal(prompt.ids, references.decoder.prompt_ids)
    return GateAnswer(token_ids, np.stack(logits), equal, kept, paid)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
