"""Knows what clients in other languages read of an artifact: using.json, its names, shapes,
constants and ids, and USING.md, the same in words."""

import dataclasses
import functools
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np

from pocketvlm.artifact import Artifact, Manifest, metadata
from pocketvlm.artifact.manifest import files_digest
from pocketvlm.artifact.specs import ATTENTIONS, CAUSAL, POSITION_AXES, DecoderSpec
from pocketvlm.artifact.stages import GIVEN
from pocketvlm.decoders.positions import positions_named
from pocketvlm.layouts import Layout, open_layout
from pocketvlm.ort.signatures import SCORED_ROWS, Shapes, signature, type_of
from pocketvlm.text.prompts import Prompter, special_tokens
from pocketvlm_export.decoder_stages import find_ranking
from pocketvlm_export.onnx_passes import TWO_WAY_RUNTIME
from pocketvlm_export.options import GATE_PROMPT
from pocketvlm_export.packaging import client_files as client
from pocketvlm_export.packaging import client_layouts as layouts
from pocketvlm_export.packaging.prompt_pieces import prompt_pieces
from pocketvlm_export.precisions import PRECISIONS

USING = "USING.md"
FACTS = "using.json"
FORMAT = 1  # of using.json; another number is another meaning of what clients read already
_TEMPLATE, _SCHEMA = "templates/using.md.jinja", "using.schema.json"
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
    environment.filters["dtype"] = type_of
    stated = facts(artifact)
    text = environment.from_string(source).render({"extras": [], **stated})
    (artifact.root / USING).write_text(text, encoding="utf-8")
    listed = json.dumps(stated, indent=1, ensure_ascii=False) + "\n"
    (artifact.root / FACTS).write_text(listed, encoding="utf-8")


@functools.cache
def facts_schema() -> dict[str, Any]:
    """The JSON Schema (draft-07) of using.json, as shipped beside this module."""
    source = importlib.resources.files(__package__).joinpath(_SCHEMA)
    schema: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    return schema


def facts(artifact: Artifact) -> dict[str, Any]:
    """Return all that a client must know: inputs and outputs of each graph, how a picture is
    prepared, how a prompt is written.

    ``graphs`` are those that answer unless others are asked for; ``vision`` and ``decoder`` name
    all. Axes of any size are given by name: ``batch``, ``tokens``. The whole is described by
    using.schema.json beside this module.
    """
    manifest = artifact.manifest
    pruning, decoder = manifest.pruning, manifest.decoder
    budget, layout = pruning.default_budget, open_layout(artifact)
    around, axes = layouts.ids_around(layout), POSITION_AXES[decoder.positions]
    prompter = Prompter.from_artifact(artifact)
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
            "transformers' greedy `generate`; the values are under `generation` in using.json. "
            "A client that takes the highest logit alone gives other answers."
        )
    return {
        "format": FORMAT,
        "artifact": _content(manifest),
        "model": manifest.source.model,
        "visual_tokens": budget,
        "patches": pruning.tokens_before,
        "nested": pruning.nested,
        "needs": _needs(manifest, layout),
        "graphs": graphs,
        "vision": client.vision_graphs(manifest),
        "decoder": client.decoder_graphs(manifest),
        "weights": client.weights(artifact),
        "files": client.fetched(artifact),
        "constants": {
            name: dataclasses.asdict(constant)
            for name, constant in manifest.vision.constants.items()
        },
        "gguf": decoder.gguf.get(decoder.default_precisions.get("llama.cpp", "")),
        "tiles": layout.recipe,
        "cut": layout.grids()[-1].tiles > 1,
        "around": around,
        "in_order": layouts.is_in_order(layout),
        "positions": decoder.positions,
        "axes": axes,
        # Named where there are any; pages without stay what they were.
        **({"extras": list(decoder.extras)} if decoder.extras else {}),
        **({"first_position": first} if (first := decoder.first_position) else {}),
        **({"attention": decoder.attention} if decoder.attention != CAUSAL else {}),
        "numbering": positions_named(decoder.positions).recipe,
        "token_edge": layouts.token_edge(layout) if axes > 1 else None,
        "grid": layouts.token_grid(layout),
        "medium": _MEDIA[layout.medium],
        "picture": layouts.picture_steps(layout),
        "layout": layouts.layout_facts(layout),
        "tokenizer": _tokenizer(artifact, prompter),
        "chat_template": client.CHAT_TEMPLATE,
        "picture_text": _picture_text(decoder),
        "prompt": _prompt(prompter, around),
        "pieces": prompt_pieces(prompter, layout.medium),
        "generation": dataclasses.asdict(manifest.generation),
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


def _needs(manifest: Manifest, layout: Layout) -> dict[str, str]:
    """What not every artifact needs, each in words. A client refuses an artifact that needs what it
    does not have or does not know."""
    decoder, (_, pictures, prompts) = manifest.decoder, ATTENTIONS
    needs = {
        "llama.cpp": (not decoder.graphs, "the decoder is a GGUF file for llama.cpp"),
        "clips": (layout.medium != "image", "the model reads clips"),
        "selectors": (
            bool(manifest.vision.selectors),
            "visual tokens are selected by the words of each question",
        ),
        "stages": (bool(decoder.stages), "the decoder drops visual tokens between its layers"),
        "visual_scores": (decoder.reads_scores, "a smaller model ranks the visual tokens"),
        "scored_rows": (decoder.scores, "the decoder gives its attention to each token"),
        "picture_ids": (
            decoder.attention == pictures,
            "the tokens of one picture attend to each other in both directions",
        ),
        "prompt_in_one_run": (
            decoder.attention == prompts,
            "all tokens of a prompt attend to each other in both directions",
        ),
        "positions": (
            POSITION_AXES[decoder.positions] > 1,
            "each token has several position numbers",
        ),
        "extras": (bool(decoder.extras), "the decoder reads further features of each token"),
        "convolutions": (bool(decoder.conv_layers), "some layers are convolutions with a state"),
        "constants": (bool(layout.constants), "fixed vectors come between the features"),
    }
    return {name: words for name, (needed, words) in needs.items() if needed}


def _tokenizer(artifact: Artifact, prompter: Prompter) -> dict[str, Any]:
    """The tokenizer's files, the texts of special tokens that the chat template may name, and the
    token in a picture's place."""
    config = (
        artifact.read_json(client.TOKENIZER_CONFIG) if artifact.has(client.TOKENIZER_CONFIG) else {}
    )
    return {
        "file": client.TOKENIZER,
        "config": client.TOKENIZER_CONFIG if config else None,
        "special_tokens": special_tokens(config),
        "image_token": prompter.tokenizer.id_to_token(prompter.image_token_id),
    }


def _picture_text(decoder: DecoderSpec) -> dict[str, str] | None:
    """What takes the place of a picture's text once the template has written it; None where the
    template writes the image token itself."""
    return None if decoder.picture_text is None else dataclasses.asdict(decoder.picture_text)


def _content(manifest: Manifest) -> str:
    """What files that belong together have in common, and those of no other folder: a smaller
    artifact made of another one has its id."""
    pages = (USING, FACTS)  # which are being written
    return files_digest({name: e for name, e in manifest.files.items() if name not in pages})


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
        "picture": layouts.picture_steps(layout),
        "image_token_id": manifest.decoder.image_token_id,
        "prompt": _prompt(Prompter.from_artifact(part), layouts.ids_around(layout)),
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
