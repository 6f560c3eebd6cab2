"""What `pocketvlm tune` exports of a checkpoint: a grid that its tower allows, the decoder made
once, every folder through the gate, and nothing half-written."""

import dataclasses
import json

import onnx
import pytest

from pocketvlm.artifact import Artifact
from pocketvlm.errors import RequestError
from pocketvlm_export import ExportOptions, build, pipeline
from pocketvlm_export.candidates import make, offer
from pocketvlm_export.kept_files import KeptFiles

FEW = {
    "methods": ("uniform",),  # the cheapest to trace
    "budgets": (9,),
    "tower_stages": ((),),
    "vision_precisions": ("fp32",),
    "decoder_precisions": ("int8",),
}


def names(offered):
    return [variant["name"].rpartition("-")[0] for variant in offered["variants"]]


def test_the_grid_is_what_the_tower_allows(tiny_checkpoint, make_tiny):
    whole = offer(str(tiny_checkpoint))
    # Three layers are read: a stage before the one at two fifths, which keeps half of 36 tokens.
    assert names(whole) == ["none", "scope", "scope+tower-1-18-keys", "divprune", "fastervlm"]
    assert [variant["budgets"] for variant in whole["variants"]] == [[36], *[[18, 9, 4]] * 4]
    assert whole["variants"][2]["made_by"] == [
        ("--pruner", "scope"),
        ("--tower-stage", "1:18:keys"),
    ]
    towers = [variant["vision_precisions"] for variant in whole["variants"]]
    assert towers == [["fp32", "int8"]] * 2 + [["int8"]] * 3
    for variant in whole["variants"]:
        assert variant["decoder_precisions"] == {"onnx": ["int8", "int4"]}
    assert any("budgets below 4 of 36" in sentence for sentence in whole["left_out"])
    assert any(sentence.startswith("decoders of llama.cpp: ") for sentence in whole["left_out"])
    # About three quarters and half of 42 pixels, in patches of 7.
    assert any(sentence.endswith("--image-sizes 28,21") for sentence in whole["left_out"])
    # No [CLS] token, and a tower that reads pictures of any size, which can have no stages.
    dynamic = offer(str(make_tiny("tiny-qwen2.5-vl")))
    assert not [name for name in names(dynamic) if "fastervlm" in name or "tower" in name]
    assert any(sentence.startswith("fastervlm: ") for sentence in dynamic["left_out"])
    assert not any("--image-size" in sentence for sentence in dynamic["left_out"])
    assert all(each["caps"]["max_pixels"] > 0 for each in dynamic["variants"])
    assert json.loads(json.dumps(dynamic))["variants"]


def test_wishes_restrict_it(tiny_checkpoint):
    offered = offer(
        str(tiny_checkpoint),
        methods=("score", "none"),
        tower_stages=((), ("1:20:even", "2:10:even")),
        budgets=(12, 8),
        decoder_precisions=("int4", "fp32"),
        options={"context": 128},
    )
    assert names(offered) == ["none", "score", "score+tower-1-20-even+tower-2-10-even"]
    # No budget of more than the last stage keeps; the most exact precision first.
    assert [variant["budgets"] for variant in offered["variants"]] == [[36], [12, 8], [8]]
    assert offered["variants"][2]["decoder_precisions"] == {"onnx": ["fp32", "int4"]}
    # Towers in two precisions, another engine, other sizes, and what is never tried.
    assert len(offered["left_out"]) == 4


def test_smaller_sizes_are_tried_where_they_are_asked_for(tiny_checkpoint):
    model = str(tiny_checkpoint)
    offered = offer(model, image_sizes=((28, 28), (21, 21)), vision_precisions=("fp32",))
    own = offer(model, vision_precisions=("fp32",))
    count = len(own["variants"])
    assert offered["variants"][0] == own["variants"][0]
    small = [one for one in offered["variants"] if one["made_by"][-1][0] == "--image-size"]
    assert len(offered["variants"]) == count + len(small)
    # Unpruned and by the first method, at a half, a quarter and an eighth of what there is.
    assert [(one["made_by"], one["tokens"], one["budgets"]) for one in small] == [
        ([("--pruner", "none"), ("--image-size", "28")], 16, [16]),
        ([("--pruner", "none"), ("--image-size", "21")], 9, [9]),
        ([("--pruner", "scope"), ("--image-size", "28")], 16, [8, 4, 2]),
        ([("--pruner", "scope"), ("--image-size", "21")], 9, [4, 2, 1]),
    ]
    assert len({one["folder"] for one in offered["variants"]}) == count + 4
    assert not any("--image-sizes" in sentence for sentence in offered["left_out"])
    wishes = {"methods": ("uniform", "score"), "budgets": (18, 9), "tower_stages": ((),)}
    named = offer(model, image_sizes=((28, 28), (14, 14)), **wishes)
    budgets = {(one["made_by"][0][1], one["tokens"]): one["budgets"] for one in named["variants"]}
    assert budgets == {
        ("none", 36): [36], ("uniform", 36): [18, 9], ("score", 36): [18, 9],
        ("none", 16): [16], ("uniform", 16): [9], ("score", 16): [9],
        ("none", 4): [4],
    }  # fmt: skip
    assert [sentence for sentence in named["left_out"] if "4 tokens" in sentence] == [
        "none with --image-size 14 with pruning: it has 4 tokens, the least budget is 9"
    ]


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (((42, 42),), "no smaller than 42, the checkpoint's own"),
        (((49, 49),), "no smaller than 42"),
        (((30, 30),), "multiples of 7 pixels"),
        (((21, 28),), "read squares"),
        (((7, 7),), "a quarter to twice"),
    ],
)
def test_a_size_that_makes_no_sense_is_refused(tiny_checkpoint, sizes, words):
    with pytest.raises(RequestError, match=words):
        offer(str(tiny_checkpoint), image_sizes=sizes)


def test_pictures_of_any_size_have_no_other(make_tiny):
    with pytest.raises(RequestError, match="--image-size 56x56 does not apply"):
        offer(str(make_tiny("tiny-qwen2.5-vl")), image_sizes=((56, 56),))


def test_bytes_are_those_of_a_dry_run(tiny_checkpoint, tmp_path):
    variant = offer(str(tiny_checkpoint), **FEW)["variants"][1]
    assert variant["gate_bytes"] > variant["shared_bytes"]  # the decoder in float32, beside int8
    options = ExportOptions("uniform", budgets=(9,), decoder_precisions=("int8",))
    plan = pipeline.prepare(str(tiny_checkpoint), tmp_path / "x", options).to_dict()
    assert (variant["bytes"], variant["device_bytes"]) == (
        plan["bytes"],
        plan["device_memory_bytes"],
    )


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"methods": ("fastest",)}, "pruner 'fastest' is unknown"),
        ({"budgets": (99,)}, "budget 99"),
        ({"tower_stages": (("9:4",),)}, "tower stage 9:4"),
        ({"decoder_precisions": ("int3",)}, "'int3'"),
        ({"methods": ("scope",), "options": {"portable": True, "format": "ort"}}, "--portable"),
        ({"colour": "red"}, "no wish 'colour'"),
    ],
)
def test_what_was_wished_for_and_cannot_be_is_refused(tiny_checkpoint, wishes, words):
    with pytest.raises(RequestError, match=words):
        offer(str(tiny_checkpoint), **wishes)


def test_engines_without_onnx_runtimes_operators_get_no_four_bits(tiny_checkpoint):
    offered = offer(str(tiny_checkpoint), methods=("scope",), options={"portable": True})
    assert offered["variants"][0]["decoder_precisions"] == {"onnx": ["int8"]}


@pytest.mark.parametrize(
    ("decoder", "named", "expected"),
    [
        ("both", ("int8", "q8_0"), {"onnx": ["int8"], "llama.cpp": ["q8_0"]}),
        ("llama.cpp", ("q4_0",), {"llama.cpp": ["q4_0"]}),
    ],
)
def test_engines_have_precisions_of_their_own(tiny_checkpoint, decoder, named, expected):
    wishes = {**FEW, "decoder_precisions": named, "options": {"decoder": decoder}}
    offered = offer(str(tiny_checkpoint), **wishes)
    assert offered["variants"][1]["decoder_precisions"] == expected


def test_the_decoder_is_made_once_and_each_folder_passes_the_gate(
    tiny_checkpoint, tmp_path, monkeypatch
):
    calls = []
    for function in (build.build_decoder, build.build_embedding):
        monkeypatch.setattr(
            build,
            function.__name__,
            lambda *arguments, own=function: calls.append(own.__name__) or own(*arguments),
        )
    model, root = str(tiny_checkpoint), str(tmp_path / "kept")
    offered = offer(model, **FEW)
    folders = [make(model, each["name"], root, **FEW) for each in offered["variants"]]
    assert calls == ["build_decoder", "build_embedding"]
    first, second = (Artifact.open(folder, "full").manifest for folder in folders)
    assert first.passed
    assert second.passed
    assert second.decoder == first.decoder
    # Every graph bears the id of its own folder, so those of the decoder are the same but for that.
    assert first.artifact_id != second.artifact_id
    for name in (*first.decoder.graphs.values(), *first.decoder.embed.values()):
        graphs = [onnx.load(f"{folder}/{name}") for folder in folders]
        assert {prop.value for prop in graphs[1].metadata_props} >= {second.artifact_id}
        for graph in graphs:
            del graph.metadata_props[:]
        assert graphs[0] == graphs[1]
    calls.clear()
    assert make(model, offered["variants"][1]["name"], root, **FEW) == folders[1]
    assert not calls


def test_weights_are_links_and_graphs_are_not(tiny_checkpoint, tmp_path):
    options = ExportOptions("fastervlm", budgets=(9,), decoder_precisions=("int8",))
    plan = pipeline.prepare(str(tiny_checkpoint), tmp_path / "x", options)
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    (first / "onnx").mkdir(parents=True)
    (first / "onnx/decoder.onnx").write_text("a graph")
    (first / "onnx/decoder.onnx_data").write_text("weights")
    kept, names_of = KeptFiles(tmp_path / "kept"), ["onnx/decoder.onnx"]
    assert not kept.take(plan, "decoder", names_of, second)
    kept.keep(plan, "decoder", names_of, first)
    (first / "onnx/decoder.onnx").write_text("a graph, stamped")
    assert kept.take(plan, "decoder", names_of, second)
    assert (second / "onnx/decoder.onnx").read_text() == "a graph"
    weights = [folder / "onnx/decoder.onnx_data" for folder in (first, second)]
    assert weights[0].stat().st_ino == weights[1].stat().st_ino
    kept.keep(plan, "decoder", names_of, first)  # as another export does that began as early
    assert kept.take(plan, "decoder", names_of, tmp_path / "fifth")
    assert (tmp_path / "fifth/onnx/decoder.onnx").read_text() == "a graph"
    # Whatever decides what the decoder's files are has a place of its own.
    for other in ({"context": 128}, {"decoder_precisions": ("int4",)}, {"portable": True}):
        changed = pipeline.prepare(
            str(tiny_checkpoint), tmp_path / "x", dataclasses.replace(options, **other)
        )
        assert not kept.take(changed, "decoder", names_of, third)
    pruned = dataclasses.replace(options, budgets=(7,), pruner="uniform")
    same = pipeline.prepare(str(tiny_checkpoint), tmp_path / "x", pruned)
    assert kept.take(same, "decoder", names_of, third)
    smaller = dataclasses.replace(options, image_size=(28, 28))
    same = pipeline.prepare(str(tiny_checkpoint), tmp_path / "x", smaller)
    assert kept.take(same, "decoder", names_of, tmp_path / "fourth")


def test_an_interrupt_leaves_nothing_half_written(tiny_checkpoint, tmp_path, monkeypatch):
    model, root = str(tiny_checkpoint), tmp_path / "kept"
    name = offer(model, **FEW)["variants"][1]["name"]

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "check", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(model, name, str(root), **FEW)
    (folder,) = root.iterdir()
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == ["shared"]
    assert not list(root.rglob("*.partial"))
    # What was whole is used.
    monkeypatch.setattr(build, "build_decoder", interrupted)
    assert Artifact.open(make(model, name, str(root), **FEW), "full").manifest.passed


def test_another_checkpoint_lies_elsewhere(make_tiny):
    one, other = (offer(str(make_tiny(seed=seed)), **FEW)["variants"][0] for seed in (0, 1))
    assert one["name"] == other["name"]
    assert one["folder"] != other["folder"]
