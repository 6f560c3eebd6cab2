"""Knows the page on how an artifact is called from other languages: its own names, shapes,
constants and ids."""

import dataclasses
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import jinja2
import numpy as np

from pocketvlm.artifact import Artifact, Manifest, metadata
from pocketvlm.artifact.specs import CAUSAL, POSITION_AXES, DecoderSpec
from pocketvlm.artifact.stages import GIVEN
from pocketvlm.decoders.positions import positions_named
from pocketvlm.layouts import Layout, open_layout, tokens_of_tile
from pocketvlm.ort.signatures import SCORED_ROWS, Shapes, signature, type_of
from pocketvlm.text.prompts import Prompter
from pocketvlm_export.decoder_stages import find_ranking
from pocketvlm_export.onnx_passes import TWO_WAY_RUNTIME, weights_files
from pocketvlm_export.options import GATE_PROMPT
from pocketvlm_export.precisions import PRECISIONS

USING = "USING.md"
FACTS = "using.json"
_TEMPLATE = "templates/using.md.jinja"
_MEDIA = {"image": "picture", "video": "clip"}


def write_using(artifact: Artifact) -> None:
    """Write USING.md and using.json, the facts of the page, into an artifact's folder.

    The page names graphs, shapes and ids as a client will meet them, which only the manifest of the
    finished folder has. It is therefore made from that manifest, and the manifest is written
    afterwards, with both in its table of files.
    """
    source = importlib.resources.files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(  # Markdown, not HTML: nothing is escaped
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.filters["dtype"] = type_of
    stated = facts(artifact)
    text = environment.from_string(source).render({"extras": [], **stated})
    (artifact.root / USING).write_text(text, encoding="utf-8")
    listed = json.dumps(stated, indent=1, ensure_ascii=False) + "\n"
    (artifact.root / FACTS).write_text(listed, encoding="utf-8")


def facts(artifact: Artifact) -> dict[str, Any]:
    """Return all that a client must know: inputs and outputs of each graph, how a picture is
    prepared, how a prompt is written.

    Of each list of precisions the default is named. Axes of any size are given by name: ``batch``,
    ``tokens``.
    """
    manifest = artifact.manifest
    pruning, decoder = manifest.pruning, manifest.decoder
    budget, layout = pruning.default_budget, open_layout(artifact)
    around, axes = _around(layout), POSITION_AXES[decoder.positions]
    vision = manifest.vision.graphs[budget][manifest.vision.default_precision]
    graphs = {"vision": _graph(manifest, vision, manifest.vision.graph_kind, budget)}
    if budget in manifest.vision.selectors:
        selector = manifest.vision.selectors[budget]
        graphs["selector"] = _graph(manifest, selector, metadata.SELECTOR, budget)
        table = decoder.embed[manifest.vision.selector_table]
        graphs["embed"] = _graph(manifest, table, metadata.EMBED_TOKENS)
    notes: list[str] = []  # what else whoever writes a client should know, a paragraph each
    if decoder.graphs:
        precision = decoder.default_precisions["onnx"]
        table = decoder.embed[decoder.tables[precision]]
        graphs["embed"] = _graph(manifest, table, metadata.EMBED_TOKENS)
        graphs["decoder"] = _graph(manifest, decoder.graphs[precision], decoder.graph_kind)
        notes += filter(None, [PRECISIONS[precision].note])
    if manifest.requires.get("onnxruntime") == TWO_WAY_RUNTIME:
        notes.append(
            f"The decoder graph needs ONNX Runtime {TWO_WAY_RUNTIME}: older ones refuse it."
        )
    if processors := manifest.generation.processors:
        notes.append(
            f"The checkpoint's answers go through {', '.join(processors)}, with PocketVLM as with "
            "transformers' greedy `generate`; the values are under `generation` in pocketvlm.json. "
            "The code below takes the highest logit alone."
        )
    return {
        "model": manifest.source.model,
        "visual_tokens": budget,
        "patches": pruning.tokens_before,
        "nested": pruning.nested,
        "graphs": graphs,
        "weights": _weights(artifact),
        "constants": {
            name: dataclasses.asdict(constant)
            for name, constant in manifest.vision.constants.items()
        },
        "gguf": decoder.gguf.get(decoder.default_precisions.get("llama.cpp", "")),
        "tiles": layout.recipe,
        "cut": layout.grids()[-1].tiles > 1,
        "around": around,
        "in_order": _in_order(layout),
        "positions": decoder.positions,
        "axes": axes,
        # Named where there are any; pages without stay what they were.
        **({"extras": list(decoder.extras)} if decoder.extras else {}),
        **({"first_position": first} if (first := decoder.first_position) else {}),
        **({"attention": decoder.attention} if decoder.attention != CAUSAL else {}),
        "numbering": positions_named(decoder.positions).recipe,
        "token_edge": _token_edge(layout) if axes > 1 else None,
        "grid": _grid(layout),
        "medium": _MEDIA[layout.medium],
        "picture": _picture(layout),
        "prompt": _prompt(Prompter.from_artifact(artifact), around),
        "image_token_id": decoder.image_token_id,
        "eos_token_ids": list(decoder.eos_token_ids),
        # Of each where the decoder drops tokens, and what becomes of them; empty for most.
        "stages": _stages(decoder),
        **({"ranked_by_prompt": True} if _ranks_by_prompt(decoder) else {}),
        **({"given_scores": True} if decoder.reads_scores else {}),
        "layers": decoder.layers,
        "kv_heads": decoder.kv_heads,
        "head_dim": decoder.head_dim,
        "hidden": decoder.hidden,
        "vocab": decoder.vocab,
        "context": decoder.context,
        "notes": notes,
        **({"scores": True} if decoder.scores else {}),
        **_convolutions(decoder),
        **_selecting(artifact),
        **_also(artifact),
        **_self_test(manifest),
    }


def _self_test(manifest: Manifest) -> dict[str, Any]:
    """By which files a client finds out whether its device computes as it should."""
    test = manifest.self_test
    return {"self_test": {"file": test.file, "pictures": list(test.pictures)}} if test else {}


def _selecting(artifact: Artifact) -> dict[str, Any]:
    """Where tokens are selected by the prompt, which words of an example the selector reads, and by
    which table."""
    manifest = artifact.manifest
    if not manifest.vision.selectors:
        return {}
    message = {"role": "user", "content": [{"type": "text", "text": GATE_PROMPT}]}
    ids = Prompter.from_artifact(artifact).question(message).tolist()
    table = manifest.decoder.embed[manifest.vision.selector_table]
    return {"selects_by": {"question": GATE_PROMPT, "ids": ids, "table": table}}


def _also(artifact: Artifact) -> dict[str, Any]:
    """What a client must know of each further medium that an artifact reads; no key where it reads
    one alone."""
    media = artifact.manifest.media
    return {"also": [_beside(artifact.reading(medium)) for medium in media]} if media else {}


def _beside(part: Artifact) -> dict[str, Any]:
    manifest, layout = part.manifest, open_layout(part)
    budget = manifest.pruning.default_budget
    vision = manifest.vision.graphs[budget][manifest.vision.default_precision]
    selector = manifest.vision.selectors.get(budget)
    return {
        "medium": _MEDIA[layout.medium],
        "graph": _graph(manifest, vision, manifest.vision.graph_kind, budget),
        **({"selector": selector} if selector else {}),
        "visual_tokens": budget,
        "patches": manifest.pruning.tokens_before,
        "nested": manifest.pruning.nested,
        "tiles": layout.recipe,
        "cut": layout.grids()[-1].tiles > 1,
        "unit": layout.unit,
        "picture": _picture(layout),
        "image_token_id": manifest.decoder.image_token_id,
        "prompt": _prompt(Prompter.from_artifact(part), _around(layout)),
    }


def _stages(decoder: DecoderSpec) -> list[dict[str, Any]]:
    """The stages of a decoder with the last layer of each."""
    return [
        {**dataclasses.asdict(stage), "last": layers.stop - 1}
        for stage, layers in zip(decoder.stages, decoder.segments[1:], strict=True)
    ]


def _ranks_by_prompt(decoder: DecoderSpec) -> bool:
    """Whether the prompt itself says which tokens a stage keeps."""
    ranked = [stage.by for stage in decoder.stages if find_ranking(stage.by).ranks]
    return any(by != GIVEN for by in ranked)


def _convolutions(decoder: DecoderSpec) -> dict[str, Any]:
    """Which layers are convolutions, which attend, and how wide a state is; nothing of a decoder
    whose layers all attend."""
    if not decoder.conv_layers:
        return {}
    layers = {"layers": list(decoder.conv_layers), "attention": list(decoder.attention_layers)}
    return {"convolutions": {**layers, "width": decoder.conv_width}}


def _graph(manifest: Manifest, file: str, kind: str, budget: int | None = None) -> dict[str, Any]:
    tensors = signature(manifest, kind, budget)
    return {
        "file": file,
        "inputs": _shapes(tensors.inputs),
        "outputs": _shapes(tensors.outputs),
    }


def _weights(artifact: Artifact) -> dict[str, list[str]]:
    """Of every graph of the folder, whatever its budget and precision, the files that its weights
    lie in."""
    manifest = artifact.manifest
    visions = [manifest.vision, *(other.vision for other in manifest.media.values())]
    graphs = [file for each in visions for by in each.graphs.values() for file in by.values()]
    graphs += [file for each in visions for file in each.selectors.values()]
    graphs += [*manifest.decoder.embed.values(), *manifest.decoder.graphs.values()]
    return {
        file: [str(PurePosixPath(file).with_name(name)) for name in weights_files(path)]
        for file, path in ((file, artifact.root / file) for file in graphs)
    }


def _shapes(tensors: Shapes) -> dict[str, list[int | str]]:
    """Name the axes that may have any size."""
    return {
        name: [
            axes if size is None else size
            for size, axes in zip(shape, _axes(name, len(shape)), strict=True)
        ]
        for name, shape in tensors.items()
    }


def _axes(name: str, count: int) -> Sequence[str]:
    """What the axes of a tensor are: but for pictures, and numbers of positions in front, the batch
    and then tokens."""
    if name == "pixel_values":
        return ("batch", "channels", "height", "width")
    if name == "position_ids" and count > 2:
        return ("numbers", "batch", "tokens")
    if name == SCORED_ROWS:
        return ("rows",)
    return ("batch", *["tokens"] * (count - 1))


def _picture(layout: Layout) -> dict[str, Any]:
    """The steps of a tile. Its size is that of every tile, or where resolution is ``dynamic`` that
    of the largest picture."""
    steps, size = layout.steps, layout.config.image_size
    return {
        "size": list(size or layout.largest_size()),
        "dynamic": size is None,
        "pad_colour": _listed(steps.pad_colour),
        "shortest_edge": steps.shortest_edge,
        "resize_to": _listed(steps.resize_to),
        "resample": steps.resample.name.lower(),
        "crop_to": _listed(steps.crop_to),
        "scale": 1.0 if steps.rescale_factor is None else steps.rescale_factor,
        "mean": list(steps.mean or (0.0, 0.0, 0.0)),
        "std": list(steps.std or (1.0, 1.0, 1.0)),
    }


def _listed(values: tuple[int, ...] | None) -> list[int] | None:
    return None if values is None else list(values)


def _around(layout: Layout) -> Mapping[str, list[int]] | None:
    """The ids in front of a picture's slots and behind them; None where ids come between the slots
    of two tiles, or others for another number of tiles."""
    edges = []
    for grid in layout.grids():
        ids = layout.expand(grid, 1)
        (slots,) = np.nonzero(ids == layout.config.image_token_id)
        if len(slots) != slots[-1] + 1 - slots[0]:
            return None
        edges.append({"before": ids[: slots[0]].tolist(), "after": ids[slots[-1] + 1 :].tolist()})
    return edges[0] if all(ids == edges[0] for ids in edges) else None


def _in_order(layout: Layout) -> bool:
    """Whether the slots are filled with the rows of one tile after those of another, and nothing
    else."""
    if layout.constants:
        return False
    for grid in layout.grids():
        kept = np.tile(np.arange(min(2, tokens_of_tile(layout, grid))), (grid.tiles, 1))
        rows = np.arange(kept.size, dtype=np.float32).reshape(*kept.shape, 1)
        if not np.array_equal(layout.arrange(grid, rows, kept, {}), rows.reshape(-1, 1)):
            return False
    return True


def _token_edge(layout: Layout) -> int:
    """Edge in pixels of the square that a token is of."""
    return layout.largest_size()[0] // layout.token_grid(layout.grids()[-1]).rows


def _grid(layout: Layout) -> list[int] | None:
    """Rows and columns of the tokens of a picture or tile, which `kept_indices` count in; None
    where they follow from the picture."""
    if layout.config.image_size is None:
        return None
    tokens = layout.token_grid(layout.grids()[-1])
    return [tokens.rows, tokens.columns]


def _prompt(prompter: Prompter, around: Mapping[str, list[int]] | None) -> Mapping[str, Any]:
    """A question about one picture: its text, its ids with one image token, and whether the
    tokenizer adds tokens; and the text of the question alone.

    Among the ids are those ``around`` the picture.
    """
    text = prompter.render(GATE_PROMPT, pictures=1)
    ids = prompter.encode(GATE_PROMPT, pictures=1).tolist()
    plain = prompter.tokenizer.encode(text, add_special_tokens=False).ids
    adds = ids != plain
    if around is not None:
        slot = [*around["before"], prompter.image_token_id, *around["after"]]
        ids = prompter.place(np.array(ids), [np.array(slot, dtype=np.int64)]).tolist()
    return {
        "question": GATE_PROMPT,
        "text": text,
        "ids": ids,
        "adds_special_tokens": adds,
        "without": prompter.render(GATE_PROMPT),
    }
