"""Knows how to write tiny but real ONNX graphs in the artifact's layout, with numpy twins to
compare them with.

The vision graph scores 4x4 patches and keeps the best k in raster order; the decoder is causal
attention with learnt positions and a cache. Both are small enough to be read, and strict enough
that a wrong position or cache shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IMAGE, PATCH, HIDDEN, LAYERS, CONTEXT = 16, 4, 8, 2, 160
PATCHES = (IMAGE // PATCH) ** 2


@dataclass(frozen=True)
class Weights:
    patch: np.ndarray  # (hidden, 3, patch, patch)
    score: np.ndarray  # (hidden, 1)
    embed: np.ndarray  # (vocab, hidden)
    position: np.ndarray  # (context, hidden)
    layers: list[dict[str, np.ndarray]]  # each q, k, v, o: (hidden, hidden)

    @classmethod
    def random(cls, vocab: int, seed: int) -> "Weights":
        rng = np.random.default_rng(seed)

        def draw(*shape: int) -> np.ndarray:
            return rng.normal(size=shape).astype(np.float32)

        layers = [{name: draw(HIDDEN, HIDDEN) * 0.5 for name in "qkvo"} for _ in range(LAYERS)]
        patch = draw(HIDDEN, 3, PATCH, PATCH)
        return cls(patch, draw(HIDDEN, 1), draw(vocab, HIDDEN), draw(CONTEXT, HIDDEN), layers)


def vision_graph(
    weights: Weights, k: int, *, dynamic: bool = False, extras: tuple[str, ...] = ()
) -> onnx.ModelProto:
    """Where it is ``dynamic`` it reads any multiple of `PATCH`, and keeps all of fewer than k; each
    of ``extras`` is `extra_of` the kept features."""
    constants = {
        "patch": weights.patch,
        "score": weights.score,
        "flat": np.array([0, HIDDEN, -1]),
        "k": np.array([k]),
        "last": np.array([-1]),
        "one_hot_shape": np.array([1, 1, HIDDEN]),
    }
    nodes = [
        helper.make_node("Conv", ["pixel_values", "patch"], ["map"], strides=[PATCH, PATCH]),
        helper.make_node("Reshape", ["map", "flat"], ["channels_first"]),
        helper.make_node("Transpose", ["channels_first"], ["features"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["features", "score"], ["scores_3d"], "select/score"),
        helper.make_node("Squeeze", ["scores_3d", "last"], ["scores"]),
        helper.make_node(
            "TopK", ["scores", "k"], ["best_scores", "by_score"], "select/best", axis=1
        ),
        helper.make_node(
            "TopK", ["by_score", "k"], ["kept_indices", "order"], "select/order", axis=1, largest=0
        ),
        helper.make_node("GatherElements", ["scores", "kept_indices"], ["kept_scores"], axis=1),
        helper.make_node("Unsqueeze", ["kept_indices", "last"], ["rows"]),
        helper.make_node("Tile", ["rows", "one_hot_shape"], ["wide_rows"]),
        helper.make_node("GatherElements", ["features", "wide_rows"], ["image_features"], axis=1),
    ]
    kept: int | str = k
    edges: list[int | str] = [IMAGE, IMAGE]
    if dynamic:
        kept, edges = "kept", ["height", "width"]
        constants["budget"] = constants.pop("k")
        nodes[5:5] = [
            helper.make_node("Shape", ["scores"], ["all_tokens"], start=1, end=2),
            helper.make_node("Min", ["budget", "all_tokens"], ["k"]),
        ]
    for number, name in enumerate(extras):
        constants[f"{name}.factor"] = np.array(number + 2, np.float32)
        nodes.append(helper.make_node("Mul", ["image_features", f"{name}.factor"], [name]))
    inputs = [_value("pixel_values", TensorProto.FLOAT, ["batch_size", 3, *edges])]
    features = ["batch_size", kept, HIDDEN]
    outputs = [
        _value("image_features", TensorProto.FLOAT, features),
        _value("kept_indices", TensorProto.INT64, ["batch_size", kept]),
        _value("kept_scores", TensorProto.FLOAT, ["batch_size", kept]),
        *(_value(name, TensorProto.FLOAT, features) for name in extras),
    ]
    return _model(nodes, inputs, outputs, constants)


def candidates_graph(
    weights: Weights, *, dynamic: bool = False, extras: tuple[str, ...] = ()
) -> onnx.ModelProto:
    """The features of all patches, of which a selector takes some; each of ``extras`` is a multiple
    of them, as in `vision_graph`."""
    constants = {"patch": weights.patch, "flat": np.array([0, HIDDEN, -1])}
    nodes = [
        helper.make_node("Conv", ["pixel_values", "patch"], ["map"], strides=[PATCH, PATCH]),
        helper.make_node("Reshape", ["map", "flat"], ["channels_first"]),
        helper.make_node("Transpose", ["channels_first"], ["candidate_features"], perm=[0, 2, 1]),
    ]
    for number, name in enumerate(extras):
        constants[f"{name}.factor"] = np.array(number + 2, np.float32)
        factors = ["candidate_features", f"{name}.factor"]
        nodes.append(helper.make_node("Mul", factors, [f"candidate_{name}"]))
    edges: list[int | str] = ["height", "width"] if dynamic else [IMAGE, IMAGE]
    rows = ["batch_size", "tokens" if dynamic else PATCHES, HIDDEN]
    inputs = [_value("pixel_values", TensorProto.FLOAT, ["batch_size", 3, *edges])]
    outputs = [
        _value(f"candidate_{name}", TensorProto.FLOAT, rows) for name in ("features", *extras)
    ]
    return _model(nodes, inputs, outputs, constants)


def selector_graph(
    k: int, *, dynamic: bool = False, extras: tuple[str, ...] = ()
) -> onnx.ModelProto:
    """Keeps the k patches whose features are most like the mean of the question's embeddings."""
    constants = {
        "budget": np.array([k]),
        "last": np.array([-1]),
        "first": np.array([1]),
        "one_hot_shape": np.array([1, 1, HIDDEN]),
    }
    nodes = [
        helper.make_node("ReduceMean", ["text_embeds", "first"], ["mean"], keepdims=1),
        helper.make_node("Transpose", ["mean"], ["column"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["candidate_features", "column"], ["scores_3d"]),
        helper.make_node("Squeeze", ["scores_3d", "last"], ["scores"]),
        helper.make_node("Shape", ["scores"], ["all_tokens"], start=1, end=2),
        helper.make_node("Min", ["budget", "all_tokens"], ["k"]),
        helper.make_node("TopK", ["scores", "k"], ["best_scores", "by_score"], axis=1),
        helper.make_node(
            "TopK", ["by_score", "k"], ["kept_indices", "order"], "order", axis=1, largest=0
        ),
        helper.make_node("GatherElements", ["scores", "kept_indices"], ["kept_scores"], axis=1),
        helper.make_node("Unsqueeze", ["kept_indices", "last"], ["rows"]),
        helper.make_node("Tile", ["rows", "one_hot_shape"], ["wide_rows"]),
    ]
    given = {"candidate_features": "image_features"}
    given |= {f"candidate_{name}": name for name in extras}
    nodes += [
        helper.make_node("GatherElements", [every, "wide_rows"], [kept], axis=1)
        for every, kept in given.items()
    ]
    tokens: int | str = "tokens" if dynamic else PATCHES
    kept: int | str = "kept" if dynamic else k
    if not dynamic:  # of a size that ONNX can tell
        nodes[4:6] = [helper.make_node("Identity", ["budget"], ["k"])]
    inputs = [
        *(_value(name, TensorProto.FLOAT, ["batch_size", tokens, HIDDEN]) for name in given),
        _value("text_embeds", TensorProto.FLOAT, [1, "text_tokens", HIDDEN]),
    ]
    outputs = [
        _value("kept_indices", TensorProto.INT64, ["batch_size", kept]),
        _value("kept_scores", TensorProto.FLOAT, ["batch_size", kept]),
        *(_value(name, TensorProto.FLOAT, ["batch_size", kept, HIDDEN]) for name in given.values()),
    ]
    return _model(nodes, inputs, outputs, constants)


def embed_graph(weights: Weights) -> onnx.ModelProto:
    nodes = [helper.make_node("Gather", ["embed", "input_ids"], ["inputs_embeds"])]
    inputs = [_value("input_ids", TensorProto.INT64, ["batch_size", "n"])]
    outputs = [_value("inputs_embeds", TensorProto.FLOAT, ["batch_size", "n", HIDDEN])]
    return _model(nodes, inputs, outputs, {"embed": weights.embed})


def decoder_graph(
    weights: Weights,
    extras: tuple[str, ...] = (),
    *,
    two_way: bool = False,
    scores: bool = False,
) -> onnx.ModelProto:
    """Each of ``extras`` is an input that is added behind a layer, from the first on. Where it is
    ``two_way`` tokens of a run with the same number in ``picture_ids``, which is not 0, see each
    other. With ``scores`` it has the input ``scored_rows`` and the output ``token_scores``."""
    constants = {
        "embed_t": weights.embed.T.copy(),
        "position": weights.position,
        "far": np.array(-1e9, np.float32),
        "zero": np.array(0),
        "one": np.array(1),
        "heads_axis": np.array([1]),
        "queries_axes": np.array([1, 3]),
        "keys_axes": np.array([1, 2]),
        "last": np.array([-1]),
    }
    nodes = [
        helper.make_node("Gather", ["position", "position_ids"], ["at"]),
        helper.make_node("Add", ["inputs_embeds", "at"], ["x.0"]),
        # hidden keys: those after the query's own position, and those masked out
        helper.make_node("Shape", ["attention_mask"], ["mask_shape"]),
        helper.make_node("Gather", ["mask_shape", "one"], ["total"]),
        helper.make_node("Range", ["zero", "total", "one"], ["key_positions"]),
        helper.make_node("Unsqueeze", ["position_ids", "queries_axes"], ["query_positions"]),
        helper.make_node("Greater", ["key_positions", "query_positions"], ["later"]),
        helper.make_node("Equal", ["attention_mask", "zero"], ["padding_2d"]),
        helper.make_node("Unsqueeze", ["padding_2d", "keys_axes"], ["padding"]),
        helper.make_node("Or", ["unseen" if two_way else "later", "padding"], ["hidden_keys"]),
    ]
    if two_way:
        nodes[-1:-1] = [
            helper.make_node("Shape", ["picture_ids"], ["new"], start=1, end=2),
            helper.make_node("Shape", ["attention_mask"], ["all"], start=1, end=2),
            helper.make_node("Sub", ["all", "new"], ["past"]),
            helper.make_node("Shape", ["picture_ids"], ["rows"], start=0, end=1),
            helper.make_node("Concat", ["rows", "past"], ["past_shape"], axis=0),
            helper.make_node("ConstantOfShape", ["past_shape"], ["no_numbers_f"]),
            helper.make_node("Cast", ["no_numbers_f"], ["no_numbers"], to=TensorProto.INT64),
            helper.make_node("Concat", ["no_numbers", "picture_ids"], ["numbers"], axis=1),
            helper.make_node("Unsqueeze", ["numbers", "keys_axes"], ["key_numbers"]),
            helper.make_node("Unsqueeze", ["picture_ids", "queries_axes"], ["query_numbers"]),
            helper.make_node("Equal", ["key_numbers", "query_numbers"], ["equal"]),
            helper.make_node("Greater", ["query_numbers", "zero"], ["numbered"]),
            helper.make_node("And", ["equal", "numbered"], ["together"]),
            helper.make_node("Not", ["together"], ["apart"]),
            helper.make_node("And", ["later", "apart"], ["unseen"]),
        ]
    for layer, matrices in enumerate(weights.layers):
        constants |= {f"{name}.{layer}": matrix for name, matrix in matrices.items()}
        nodes += _attention(layer, extras[layer : layer + 1])
    nodes += [
        helper.make_node("Gather", [f"x.{LAYERS}", "last"], ["last_position"], axis=1),
        helper.make_node("MatMul", ["last_position", "embed_t"], ["logits"]),
    ]
    if scores:
        paid = [f"paid.{layer}" for layer in range(LAYERS)]
        for layer, name in enumerate(paid):
            nodes += [
                helper.make_node(
                    "Gather", [f"attention.{layer}", "scored_rows"], [f"rows.{layer}"], axis=2
                ),
                helper.make_node("ReduceSum", [f"rows.{layer}", "keys_axes"], [name], keepdims=0),
            ]
        nodes.append(helper.make_node("Sum", paid, ["token_scores"]))
    cache = [(layer, kind) for layer in range(LAYERS) for kind in ("key", "value")]
    inputs = [
        _value("inputs_embeds", TensorProto.FLOAT, ["batch_size", "n", HIDDEN]),
        _value("attention_mask", TensorProto.INT64, ["batch_size", "total"]),
        _value("position_ids", TensorProto.INT64, ["batch_size", "n"]),
        *([_value("picture_ids", TensorProto.INT64, ["batch_size", "n"])] if two_way else []),
    ]
    inputs += [_value(name, TensorProto.FLOAT, ["batch_size", "n", HIDDEN]) for name in extras]
    inputs += [
        _value(
            f"past_key_values.{layer}.{kind}", TensorProto.FLOAT, ["batch_size", 1, "past", HIDDEN]
        )
        for layer, kind in cache
    ]
    if scores:
        inputs.append(_value("scored_rows", TensorProto.INT64, ["rows"]))
    outputs = [_value("logits", TensorProto.FLOAT, ["batch_size", 1, len(weights.embed)])]
    if scores:
        outputs.append(_value("token_scores", TensorProto.FLOAT, ["batch_size", "total"]))
    outputs += [
        _value(f"present.{layer}.{kind}", TensorProto.FLOAT, ["batch_size", 1, "total", HIDDEN])
        for layer, kind in cache
    ]
    return _model(nodes, inputs, outputs, constants)


def given_decoder_graph(weights: Weights, keep: int) -> onnx.ModelProto:
    """The same decoder, one sequence at a time, whose second layer reads of P pictures the keep * P
    visual tokens with the highest ``visual_scores``, and of text all."""
    constants = {
        "embed_t": weights.embed.T.copy(),
        "position": weights.position,
        "far": np.array(-1e9, np.float32),
        "zero": np.array(0),
        "one": np.array(1),
        "none_1d": np.array([0]),
        "heads_axis": np.array([1]),
        "tokens_axis": np.array([1]),
        "last": np.array([-1]),
        "keep": np.array([keep]),
        "above": np.array(1e30, np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["position", "position_ids"], ["at"]),
        helper.make_node("Add", ["inputs_embeds", "at"], ["x.0"]),
        helper.make_node("Shape", ["picture_ids"], ["n"], start=1, end=2),
        helper.make_node("Sub", ["n", "one"], ["n_less_one"]),
        helper.make_node("Squeeze", ["n", "none_1d"], ["n_scalar"]),
        helper.make_node("Range", ["zero", "n_scalar", "one"], ["numbers"]),
        helper.make_node("Less", ["numbers", "n_less_one"], ["not_last"]),
        helper.make_node("Greater", ["picture_ids", "zero"], ["of_pictures"]),
        helper.make_node("And", ["of_pictures", "not_last"], ["ranked"]),
        helper.make_node("Cast", ["ranked"], ["ones"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["ones", "tokens_axis"], ["visual"], keepdims=0),
        helper.make_node("ReduceMax", ["picture_ids", "tokens_axis"], ["pictures"], keepdims=0),
        helper.make_node("Mul", ["pictures", "keep"], ["allowed"]),
        helper.make_node("Sub", ["visual", "allowed"], ["too_many"]),
        helper.make_node("Max", ["too_many", "none_1d"], ["lost"]),
        helper.make_node("Sub", ["n", "lost"], ["count"]),
        helper.make_node("Where", ["ranked", "visual_scores", "above"], ["by"]),
        helper.make_node("TopK", ["by", "count"], ["best", "by_score"], axis=1),
        helper.make_node(
            "TopK", ["by_score", "count"], ["kept_tokens.0", "order"], axis=1, largest=0
        ),
    ]
    for layer, matrices in enumerate(weights.layers):
        constants |= {f"{name}.{layer}": matrix for name, matrix in matrices.items()}
        if layer == 1:
            nodes += [
                helper.make_node("Squeeze", ["kept_tokens.0", "none_1d"], ["rows"]),
                helper.make_node("Gather", [f"x.{layer}", "rows"], ["x.kept"], axis=1),
            ]
        x = f"x.{layer}" if layer == 0 else "x.kept"
        nodes += [
            helper.make_node("Shape", [x], [f"new.{layer}"], start=1, end=2),
            helper.make_node(
                "Shape", [f"past_key_values.{layer}.key"], [f"old.{layer}"], start=2, end=3
            ),
            helper.make_node("Add", [f"old.{layer}", f"new.{layer}"], [f"all.{layer}"]),
            helper.make_node("Squeeze", [f"old.{layer}", "none_1d"], [f"first.{layer}"]),
            helper.make_node("Squeeze", [f"all.{layer}", "none_1d"], [f"end.{layer}"]),
            helper.make_node("Range", ["zero", f"end.{layer}", "one"], [f"keys.{layer}"]),
            helper.make_node(
                "Range", [f"first.{layer}", f"end.{layer}", "one"], [f"queries_1d.{layer}"]
            ),
            helper.make_node("Unsqueeze", [f"queries_1d.{layer}", "last"], [f"queries.{layer}"]),
            helper.make_node(
                "Greater", [f"keys.{layer}", f"queries.{layer}"], [f"hidden_keys.{layer}"]
            ),
        ]
        nodes += _attention(layer, x=x, hidden=f"hidden_keys.{layer}")
    nodes += [
        helper.make_node("Gather", [f"x.{LAYERS}", "last"], ["last_position"], axis=1),
        helper.make_node("MatMul", ["last_position", "embed_t"], ["logits"]),
    ]
    inputs = [
        _value("inputs_embeds", TensorProto.FLOAT, ["batch_size", "n", HIDDEN]),
        _value("position_ids", TensorProto.INT64, ["batch_size", "n"]),
        _value("picture_ids", TensorProto.INT64, ["batch_size", "n"]),
        _value("visual_scores", TensorProto.FLOAT, ["batch_size", "n"]),
    ]
    outputs = [
        _value("logits", TensorProto.FLOAT, ["batch_size", 1, len(weights.embed)]),
        _value("kept_tokens.0", TensorProto.INT64, ["batch_size", "kept"]),
    ]
    for layer in range(LAYERS):
        for kind in ("key", "value"):
            shape = ["batch_size", 1, f"past.{layer}", HIDDEN]
            inputs.append(_value(f"past_key_values.{layer}.{kind}", TensorProto.FLOAT, shape))
            shape = ["batch_size", 1, f"total.{layer}", HIDDEN]
            outputs.append(_value(f"present.{layer}.{kind}", TensorProto.FLOAT, shape))
    return _model(nodes, inputs, outputs, constants)


def reference_logits(
    weights: Weights,
    inputs_embeds: np.ndarray,
    extras: Sequence[np.ndarray] = (),
    numbers: np.ndarray | None = None,
) -> np.ndarray:
    """The decoder's last logits in numpy, all (n, hidden) embeddings at once, and what is added
    behind the first layers, (n, hidden) each; tokens with the same one of ``numbers`` (n,), which
    is not 0, see each other."""
    x = inputs_embeds.astype(np.float64) + weights.position[: len(inputs_embeds)]
    later = np.triu(np.ones((len(x), len(x)), bool), 1)
    if numbers is not None:
        later &= ~((numbers[:, None] == numbers[None]) & (numbers > 0))
    for layer, matrices in enumerate(weights.layers):
        q, k, v = (x @ matrices[name] for name in "qkv")
        scores = np.where(later, -np.inf, q @ k.T)
        attention = np.exp(scores - scores.max(axis=1, keepdims=True))
        x = x + attention / attention.sum(axis=1, keepdims=True) @ v @ matrices["o"]
        x = x + sum(extras[layer : layer + 1])
    return x[-1] @ weights.embed.T


def reference_scores(weights: Weights, inputs_embeds: np.ndarray, first: int) -> np.ndarray:
    """What the rows from ``first`` on of the decoder's attention pay to each of (n, hidden)
    embeddings, summed over layers, (n,)."""
    x = inputs_embeds.astype(np.float64) + weights.position[: len(inputs_embeds)]
    later = np.triu(np.ones((len(x), len(x)), bool), 1)
    paid = np.zeros(len(x))
    for matrices in weights.layers:
        q, k, v = (x @ matrices[name] for name in "qkv")
        products = np.where(later, -np.inf, q @ k.T)
        attention = np.exp(products - products.max(axis=1, keepdims=True))
        attention /= attention.sum(axis=1, keepdims=True)
        paid += attention[first:].sum(axis=0)
        x = x + attention @ v @ matrices["o"]
    return paid


def reference_vision(
    weights: Weights, pixel_values: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """(features (k, hidden), indices (k,)) of one picture (3, height, width) in numpy."""
    rows, columns = (edge // PATCH for edge in pixel_values.shape[1:])
    patches = (
        pixel_values.reshape(3, rows, PATCH, columns, PATCH)
        .transpose(1, 3, 0, 2, 4)
        .reshape(rows * columns, -1)
    )
    features = patches @ weights.patch.reshape(HIDDEN, -1).T
    indices = np.sort(np.argsort(-(features @ weights.score)[:, 0], kind="stable")[:k])
    return features[indices], indices


def reference_selected(
    weights: Weights, pixel_values: np.ndarray, ids: Sequence[int], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """(features (k, hidden), indices (k,)) of one picture (3, height, width) and a question, as
    `selector_graph` takes them, in numpy."""
    every = (pixel_values.shape[1] // PATCH) * (pixel_values.shape[2] // PATCH)
    features, _ = reference_vision(weights, pixel_values, every)
    likeness = features @ weights.embed[list(ids)].mean(axis=0)
    indices = np.sort(np.argsort(-likeness, kind="stable")[:k])
    return features[indices], indices


def _attention(
    layer: int, added: Sequence[str] = (), x: str = "", hidden: str = "hidden_keys"
) -> list[onnx.NodeProto]:
    """One head of causal attention over past and present, added to the stream x, and then what
    ``added`` names; ``hidden`` are the keys that are not seen."""
    x, following = x or f"x.{layer}", f"x.{layer + 1}"
    attended = f"attended.{layer}" if added else following
    nodes = [
        helper.make_node("MatMul", [x, f"{name}.{layer}"], [f"{name}_flat.{layer}"])
        for name in ("q", "k", "v")
    ]
    nodes += [
        helper.make_node(
            "Unsqueeze", [f"{name}_flat.{layer}", "heads_axis"], [f"{name}_new.{layer}"]
        )
        for name in ("q", "k", "v")
    ]
    for name, kind in (("k", "key"), ("v", "value")):
        past, new = f"past_key_values.{layer}.{kind}", f"{name}_new.{layer}"
        nodes.append(helper.make_node("Concat", [past, new], [f"present.{layer}.{kind}"], axis=2))
    return [
        *nodes,
        helper.make_node("Transpose", [f"present.{layer}.key"], [f"kt.{layer}"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", [f"q_new.{layer}", f"kt.{layer}"], [f"raw.{layer}"]),
        helper.make_node("Where", [hidden, "far", f"raw.{layer}"], [f"scores.{layer}"]),
        helper.make_node("Softmax", [f"scores.{layer}"], [f"attention.{layer}"], axis=-1),
        helper.make_node(
            "MatMul", [f"attention.{layer}", f"present.{layer}.value"], [f"mixed.{layer}"]
        ),
        helper.make_node("Squeeze", [f"mixed.{layer}", "heads_axis"], [f"mixed_flat.{layer}"]),
        helper.make_node("MatMul", [f"mixed_flat.{layer}", f"o.{layer}"], [f"out.{layer}"]),
        helper.make_node("Add", [x, f"out.{layer}"], [attended]),
        *(helper.make_node("Add", [attended, name], [following]) for name in added),
    ]


def _value(name: str, kind: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray],
) -> onnx.ModelProto:
    initializers = [
        numpy_helper.from_array(np.ascontiguousarray(value), name)
        for name, value in constants.items()
    ]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model
