"""Knows how to write a whole tiny artifact, and how to damage one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tokenizers
from onnx import helper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from pocketvlm.artifact import SCHEMA_VERSION, FileEntry, files_digest, metadata
from pocketvlm.artifact.integrity import sha256_of
from pocketvlm.artifact.manifest import MANIFEST_NAME
from support.tiny_graphs import (
    CONTEXT,
    HIDDEN,
    IMAGE,
    LAYERS,
    PATCH,
    PATCHES,
    Weights,
    candidates_graph,
    decoder_graph,
    embed_graph,
    given_decoder_graph,
    selector_graph,
    vision_graph,
)

TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
CORPUS = [
    "USER: what is in the picture?\nASSISTANT: a red square and a blue circle",
    "naïve café 你好 🙂",
]
PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": IMAGE},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": IMAGE, "width": IMAGE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.25, 0.3],
    "do_convert_rgb": True,
}


def byte_tokenizer(*, add_bos: bool = True) -> Tokenizer:
    """Byte-level BPE with GPT-2's pre-tokenizer and a post-processor that prepends <s>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>"],
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken("<image>", special=True, normalized=False)])
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return tokenizer


def write_artifact(
    root: Path,
    *,
    seed: int = 0,
    budgets: tuple[int, ...] = (6,),
    method: str = "fastervlm",
    template: str = TEMPLATE,
    tokenizer: Tokenizer | None = None,
    **pruning: Any,
) -> Weights:
    """Write an artifact of the tiny graphs; the first budget is the default. Returns its
    weights."""
    tokenizer = tokenizer or byte_tokenizer()
    weights = Weights.random(tokenizer.get_vocab_size(), seed)
    (root / "onnx").mkdir(parents=True)
    graphs: dict[str, tuple[onnx.ModelProto, dict[str, str]]] = {
        vision_name(k, budgets): (
            vision_graph(weights, k),
            {metadata.GRAPH: "vision_encoder", metadata.BUDGET: str(k), metadata.PRUNER: method},
        )
        for k in budgets
    }
    graphs["onnx/embed_tokens.onnx"] = (embed_graph(weights), {metadata.GRAPH: "embed_tokens"})
    graphs["onnx/decoder_model_merged.onnx"] = (decoder_graph(weights), {metadata.GRAPH: "decoder"})
    for name, (model, _) in graphs.items():
        onnx.save(model, root / name)
    artifact_id = files_digest(files_table(root))
    for name, (model, props) in graphs.items():
        helper.set_model_props(
            model, {metadata.ARTIFACT_ID: artifact_id, metadata.SCHEMA: SCHEMA_VERSION, **props}
        )
        onnx.save(model, root / name)
    tokenizer.save(str(root / "tokenizer.json"))
    (root / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}})
    )
    (root / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    (root / "chat_template.jinja").write_text(template)
    write_manifest(root, _manifest(artifact_id, tokenizer, method, budgets, pruning))
    return weights


def write_clip_artifact(root: Path, *, frames: int = 4, **options: Any) -> Weights:
    """`write_artifact` of a model that reads clips of so many frames, where its template puts
    ``<video>``."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens([AddedToken("<video>", special=True, normalized=False)])
    template = TEMPLATE.replace("'image'", "'video'").replace("<image>", "<video>")
    weights = write_artifact(root, tokenizer=tokenizer, template=template, **options)
    processor = {**PREPROCESSOR, "image_processor_type": "VideoLlavaImageProcessor"}
    (root / "preprocessor_config.json").write_text(json.dumps(processor))
    data = read_manifest(root)
    data["vision"]["layout"] = {"name": "frames", "frames": frames}
    data["decoder"]["image_token_id"] = tokenizer.token_to_id("<video>")
    write_manifest(root, data)
    return weights


def make_dynamic(root: Path, weights: Weights, k: int, tokens: int) -> None:
    """Let a tiny artifact of one budget k take pictures of any size up to so many ``tokens``."""
    _exchange_vision(root, vision_graph(weights, k, dynamic=True))
    limits = {"min_pixels": 2 * PATCH**2, "max_pixels": tokens * PATCH**2}
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "size": {"shortest_edge": limits["min_pixels"], "longest_edge": limits["max_pixels"]},
        "patch_size": PATCH // 2,
        "merge_size": 2,
        "image_mean": PREPROCESSOR["image_mean"],
        "image_std": PREPROCESSOR["image_std"],
    }
    (root / "preprocessor_config.json").write_text(json.dumps(processor))
    data = read_manifest(root)
    data["pruning"]["tokens_before"] = tokens
    data["vision"]["image_size"] = None
    data["vision"]["layout"] = {"name": "smart-resize", "factor": PATCH, **limits}
    write_manifest(root, data)


def make_thumbnails(root: Path, weights: Weights, k: int) -> None:
    """Let a tiny artifact of one budget k cut pictures of more than 24 tokens into 2 to 4 tiles of
    4 x 4 tokens and a thumbnail of 12 at most; smaller ones are one tile of as many at most."""
    make_dynamic(root, weights, k, PATCHES)
    processor = {
        "image_processor_type": "Lfm2VlImageProcessorFast",
        "encoder_patch_size": PATCH // 2,
        "downsample_factor": 2,
        "min_image_tokens": 2,
        "max_image_tokens": 12,
        "tile_size": IMAGE,
        "min_tiles": 2,
        "max_tiles": 4,
        "image_mean": PREPROCESSOR["image_mean"],
        "image_std": PREPROCESSOR["image_std"],
    }
    (root / "preprocessor_config.json").write_text(json.dumps(processor))
    data = read_manifest(root)
    data["vision"]["layout"] = {
        "name": "tiles-and-thumbnail",
        "factor": PATCH,
        "min_pixels": 2 * PATCH**2,
        "max_pixels": 12 * PATCH**2,
        "tile": IMAGE,
        "min_tiles": 2,
        "max_tiles": 4,
        "cut_above": 24 * PATCH**2,
        "patch": PATCH // 2,
        "thumbnail": True,
        "before": [40],
        "after": [41],
        "whole": [42],
        "parts": [
            [[50 + 4 * row + column] for column in range(4 // (row + 1))] for row in range(4)
        ],
    }
    write_manifest(root, data)


def cut_pictures(root: Path, rows: int, columns: int) -> None:
    """Let a tiny artifact cut pictures into so many parts, or fewer, and those of a prompt that has
    several not at all."""
    edges = [
        [IMAGE * row, IMAGE * column]
        for row in range(1, rows + 1)
        for column in range(1, columns + 1)
    ]
    processor = {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "size": {"height": IMAGE, "width": IMAGE},
        "image_grid_pinpoints": edges,
        "image_mean": PREPROCESSOR["image_mean"],
        "image_std": PREPROCESSOR["image_std"],
    }
    (root / "preprocessor_config.json").write_text(json.dumps(processor))
    (root / "constants").mkdir()
    newline = np.arange(HIDDEN, dtype="<f4") / HIDDEN
    (root / "constants" / "image_newline.bin").write_bytes(newline.tobytes())
    data = read_manifest(root)
    data["vision"]["layout"] = {"name": "anyres-max", "pinpoints": edges, "most_tiles": 9}
    constant = {"file": "constants/image_newline.bin", "shape": [HIDDEN]}
    data["vision"]["constants"] = {"image_newline": constant}
    write_manifest(root, data)


def give_extras(
    root: Path, weights: Weights, k: int, extras: tuple[str, ...], read: tuple[str, ...] = ()
) -> None:
    """Let the vision graph of a tiny artifact of one budget k have further outputs, and the decoder
    ``read`` some of them."""
    _exchange_vision(root, vision_graph(weights, k, extras=extras))
    data = read_manifest(root)
    data["vision"]["extras"] = list(extras)
    if read:
        _exchange(root, "decoder_model_merged", decoder_graph(weights, read))
        data["decoder"]["extras"] = list(read)
    write_manifest(root, data)


def give_selectors(
    root: Path,
    weights: Weights,
    budgets: tuple[int, ...] = (6,),
    *,
    dynamic: bool = False,
    extras: tuple[str, ...] = (),
) -> None:
    """Let the question decide which tokens of a tiny artifact are kept: its vision graph gives all
    of them, and a selector of each budget takes some."""
    data = read_manifest(root)
    method = data["pruning"]["method"]
    for old in (root / "onnx").glob("vision_encoder*.onnx"):
        old.unlink()
    every, selectors = "onnx/vision_encoder.onnx", {}
    stamps = {metadata.ARTIFACT_ID: data["artifact_id"], metadata.SCHEMA: SCHEMA_VERSION}
    model = candidates_graph(weights, dynamic=dynamic, extras=extras)
    helper.set_model_props(model, stamps | {metadata.GRAPH: metadata.CANDIDATES})
    onnx.save(model, root / every)
    for k in budgets:
        name = selectors[str(k)] = vision_name(k, budgets).replace("vision_encoder", "selector")
        model = selector_graph(k, dynamic=dynamic, extras=extras)
        own = {metadata.GRAPH: metadata.SELECTOR, metadata.BUDGET: str(k), metadata.PRUNER: method}
        helper.set_model_props(model, stamps | own)
        onnx.save(model, root / name)
    data["vision"]["graphs"] = {str(k): {"fp32": every} for k in budgets}
    data["vision"]["selectors"] = selectors
    data["vision"]["selector_table"] = "fp32"
    data["vision"]["extras"] = list(extras)
    write_manifest(root, data)


def give_attention(root: Path, weights: Weights, attention: str) -> None:
    """Let the tokens of a picture, or of a whole prompt, see each other in a tiny artifact."""
    _exchange(root, "decoder_model_merged", decoder_graph(weights, two_way=True))
    data = read_manifest(root)
    data["decoder"]["attention"] = attention
    write_manifest(root, data)


def read_scores(root: Path, weights: Weights, keep: int) -> None:
    """Let the second layer of a tiny artifact's decoder read so many visual tokens per picture, by
    scores that it is given."""
    stage = {"layer": 1, "keep": keep, "by": "given"}
    _exchange_decoder(
        root,
        given_decoder_graph(weights, keep),
        {metadata.GRAPH: metadata.STAGED_DECODER, metadata.STAGES: f"1:{keep}:given"},
        stages=[stage],
    )


def give_scores(root: Path, weights: Weights) -> None:
    """Let the decoder of a tiny artifact say what its attention pays to each token."""
    graph = decoder_graph(weights, scores=True)
    _exchange_decoder(root, graph, {metadata.GRAPH: metadata.SCORING_DECODER}, scores=True)


def _exchange_decoder(
    root: Path, graph: onnx.ModelProto, stamps: dict[str, str], **stated: Any
) -> None:
    """Put a decoder graph of another kind in the place of a tiny artifact's."""
    path = root / "onnx" / "decoder_model_merged.onnx"
    _exchange(root, path.stem, graph)
    model = onnx.load(path)
    props = {prop.key: prop.value for prop in model.metadata_props}
    helper.set_model_props(model, props | stamps)
    onnx.save(model, path)
    data = read_manifest(root)
    data["decoder"] |= stated
    write_manifest(root, data)


def _exchange_vision(root: Path, model: onnx.ModelProto) -> None:
    _exchange(root, "vision_encoder", model)


def _exchange(root: Path, graph: str, model: onnx.ModelProto) -> None:
    path = root / "onnx" / f"{graph}.onnx"
    stamps = onnx.load(path).metadata_props
    helper.set_model_props(model, {prop.key: prop.value for prop in stamps})
    onnx.save(model, path)


def state_the_id_of(root: Path, other: Path) -> None:
    """Let one artifact say that it is another, in its manifest and in all its graphs."""
    stated = read_manifest(other)["artifact_id"]
    for path in (root / "onnx").glob("*.onnx"):
        model = onnx.load(path, load_external_data=False)
        props = {prop.key: prop.value for prop in model.metadata_props}
        helper.set_model_props(model, props | {metadata.ARTIFACT_ID: stated})
        onnx.save(model, path)
    write_manifest(root, read_manifest(root) | {"artifact_id": stated})


def give_gguf(root: Path, seed: int = 0) -> None:
    """Make llama.cpp the engine of a tiny artifact: a random Llama that reads the same features."""
    from support.tiny_gguf import KV_HEADS, TinyLlama, write_gguf  # needs the package gguf

    data = read_manifest(root)
    vocab = data["decoder"]["vocab"]
    (root / "gguf").mkdir()
    write_gguf(root / "gguf" / "decoder-f32.gguf", TinyLlama.random(seed, vocab, HIDDEN))
    data["decoder"] |= {
        "engines": ["llama.cpp"],
        "default_engine": "llama.cpp",
        "default_precisions": {"llama.cpp": "f32"},
        "gguf": {"f32": "gguf/decoder-f32.gguf"},
        "kv_heads": KV_HEADS,
    }
    write_manifest(root, data)


def vision_name(k: int, budgets: tuple[int, ...]) -> str:
    return "onnx/vision_encoder.onnx" if k == budgets[0] else f"onnx/vision_encoder.k{k}.onnx"


def files_table(root: Path) -> dict[str, FileEntry]:
    paths = sorted(
        path for path in root.rglob("*") if path.is_file() and path.name != MANIFEST_NAME
    )
    return {
        p.relative_to(root).as_posix(): FileEntry(p.stat().st_size, sha256_of(p)) for p in paths
    }


def read_manifest(root: Path) -> dict[str, Any]:
    return json.loads((root / MANIFEST_NAME).read_text())


def write_manifest(root: Path, manifest: dict[str, Any], *, recount: bool = True) -> None:
    """Write pocketvlm.json, by default with a files table of what lies in the folder now."""
    if recount:
        table = files_table(root)
        manifest["files"] = {
            name: {"bytes": entry.bytes, "sha256": entry.sha256} for name, entry in table.items()
        }
    (root / MANIFEST_NAME).write_text(json.dumps(manifest))


def _manifest(
    artifact_id: str,
    tokenizer: tokenizers.Tokenizer,
    method: str,
    budgets: tuple[int, ...],
    pruning: dict[str, Any],
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "artifact_id": artifact_id,
        "created_by": {"pocketvlm": "0.1.0"},
        "source": {"model": "tiny", "commit": None, "family": "llava", "license": None},
        "pruning": {
            "method": method,
            "options": {},
            "tokens_before": PATCHES,
            "budgets": list(budgets),
            "default_budget": budgets[0],
            **pruning,
        },
        "vision": {
            "image_size": [IMAGE, IMAGE],
            "graphs": {str(k): {"fp32": vision_name(k, budgets)} for k in budgets},
            "default_precision": "fp32",
        },
        "decoder": {
            "engines": ["onnx"],
            "default_engine": "onnx",
            "default_precisions": {"onnx": "fp32"},
            "embed": {"fp32": "onnx/embed_tokens.onnx"},
            "graphs": {"fp32": "onnx/decoder_model_merged.onnx"},
            "tables": {"fp32": "fp32"},
            "gguf": {},
            "layers": LAYERS,
            "kv_heads": 1,
            "head_dim": HIDDEN,
            "hidden": HIDDEN,
            "vocab": tokenizer.get_vocab_size(),
            "context": CONTEXT,
            "image_token_id": tokenizer.token_to_id("<image>"),
            "eos_token_ids": [tokenizer.token_to_id("</s>")],
        },
        "parity": {
            "passed": True,
            "reference": "numpy",
            "vision": {"max_abs": 1e-6},
            "decoder": {},
            "by_precision": {},
        },
        "requires": {"onnxruntime": ">=1.20"},
    }
