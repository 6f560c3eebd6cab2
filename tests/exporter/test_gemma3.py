"""Gemma 3's parts against transformers' own, before anything is exported: prompts, pixels, tower,
methods; and its decoder against golden vectors."""

import json
import shutil

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoImageProcessor, Gemma3ForCausalLM, Gemma3TextConfig

from pocketvlm import PocketVLMError
from pocketvlm.artifact import metadata
from pocketvlm.errors import RequestError
from pocketvlm.layouts import make_layout
from pocketvlm.text.prompts import Prompter
from pocketvlm.text.templates import ChatTemplate
from pocketvlm_export import ExportOptions
from pocketvlm_export.checkpoint import chat_template, image_processor, load_tokenizer
from pocketvlm_export.families.spec import DecoderSpec
from pocketvlm_export.graphs import DecoderGraph, trace
from pocketvlm_export.graphs.masks import two_way_masks
from pocketvlm_export.layouts import setting
from pocketvlm_export.loading import inspect_checkpoint, open_checkpoint
from pocketvlm_export.onnx_passes import fuse, tidy
from pocketvlm_export.pipeline import prepare
from pocketvlm_export.pruning import PRUNERS, find_pruner, make_pruner
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification.oracles import find_oracle
from support.checkpoints import edit_json, edit_pictures
from support.gemma3 import EDGE, IMAGE, N, Theirs, parts
from support.golden import DATA, TEXT, filled
from support.internvl import vision_outputs
from support.noise import picture

METHODS = [
    name
    for name, method in ((name, find_pruner(name)) for name in PRUNERS)
    if not {"cls_row", "text"} & method.reads and not method.merges
]


@pytest.fixture(scope="module")
def folder(make_tiny):
    return make_tiny("tiny-gemma3")


@pytest.fixture(scope="module")
def checkpoint(folder):
    return open_checkpoint(str(folder))


@pytest.fixture(scope="module")
def theirs(folder):
    return Theirs(folder)


# Prompts.


@pytest.fixture(scope="module")
def prompter(folder, checkpoint):
    tokenizer = load_tokenizer(folder)
    template = ChatTemplate(chat_template(folder), {"bos_token": "<bos>", "eos_token": "<eos>"})
    spec = checkpoint.spec
    return Prompter(
        tokenizer.backend_tokenizer,
        template,
        spec.image_token_id,
        "<bos>",
        picture_text=spec.picture_text,
    )


PICTURE = picture(20, 30)
# Line breaks are what makes one token with those around a picture; spaces are trimmed by the
# template.
TEXTS = st.lists(st.sampled_from(["\n", "\n\n", "what is", " ", "?", "é", "\t"]), max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS.map("".join), min_size=1, max_size=4))
def test_prompts_are_the_processors(prompter, theirs, texts):
    """Pictures at the beginning, in the middle, at the end, next to line breaks, several."""
    prompt, pictures = IMAGE.join(texts), len(texts) - 1
    if not any(texts) and not pictures:
        return
    ours = prompter.encode(prompt, pictures, slots=N)
    expected = theirs.prepare(prompt, [PICTURE] * pictures)["input_ids"][0]
    assert ours.tolist() == expected.tolist()


def test_runs_of_line_breaks_are_tokens_of_their_own(theirs, prompter):
    """So that what is written around a picture cannot be tokenized by itself."""
    names = theirs.processor.tokenizer.convert_ids_to_tokens
    ids = prompter.encode(f"\n\n{IMAGE}{IMAGE}\nwhat?", 2)
    tokens = names(ids.tolist())
    assert tokens.count("<start_of_image>") == tokens.count("<image_soft_token>") == 2
    assert "\n\n\n\n" in tokens
    assert tokens[1:7] == ["<start_of_turn>", "u", "s", "e", "r", "\n\n\n"]


def test_conversations_are_the_processors(prompter, theirs):
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "be brief"}]},
        {"role": "user", "content": parts(f"what? {IMAGE}", [PICTURE])},
        {"role": "assistant", "content": [{"type": "text", "text": "\n\na square"}]},
        {"role": "user", "content": parts(f"{IMAGE}\nand {IMAGE}?", [PICTURE] * 2)},
    ]
    expected = theirs.prepare(messages, [])["input_ids"][0]
    conversation = prompter.conversation(messages=messages)
    assert len(conversation.media) == 3
    ours = prompter.encode_messages(conversation.messages, 3, slots=N)
    assert ours.tolist() == expected.tolist()


@pytest.mark.parametrize("token", ["<start_of_image>", "<image_soft_token>"])
def test_a_picture_that_nobody_gave_is_refused(prompter, token):
    with pytest.raises(RequestError, match=r"holds \d <image_soft_token> for 0 pictures"):
        prompter.encode(f"is {token} here?")
    with pytest.raises(RequestError, match=f"message 1 has {token} in its text"):
        prompter.conversation(messages=[{"role": "user", "content": f"is {token} here?"}])
    with pytest.raises(RequestError, match=f"has {token} in its text"):
        prompter.system(token)
    spelt = f"a {token[:5]}<start_of_image>{token[5:]} b"
    (part,) = prompter.reply(spelt)["content"]
    assert part["text"] == "a  b"


# Pixels.


@pytest.mark.parametrize("size", [(60, 50), (112, 112), (1, 1), (300, 80), (1000, 999), (3, 400)])
def test_pixels_are_the_processors(folder, checkpoint, size):
    with quiet_transformers():
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    (stated,) = checkpoint.spec.layouts.values()
    layout = make_layout(setting(checkpoint.spec, stated), image_processor(folder))
    expected = processor(picture(*size), return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(layout.cut(picture(*size)).pixel_values, expected)


# Tower and methods.


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(3).normal(size=(2, 3, EDGE, EDGE)).astype(np.float32)


def test_all_features_are_the_classes(checkpoint, theirs, pixels):
    spec = checkpoint.spec.vision
    assert (spec.tokens, spec.merge, spec.pool, spec.normed) == (N, 4, "mean", True)
    ours, kept, _ = vision_outputs(checkpoint, make_pruner("none", {}), N, pixels)
    expected = theirs.features(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())
    assert kept.tolist() == [list(range(N))] * 2


@pytest.mark.parametrize("method", METHODS)
def test_methods_keep_what_their_oracles_keep(checkpoint, theirs, pixels, method):
    pruner = make_pruner(method, {})
    pruner.settle(checkpoint.spec.vision)
    budget = N if method == "none" else 5
    features, kept, _ = vision_outputs(checkpoint, pruner, budget, pixels)
    every = theirs.features(torch.from_numpy(pixels)).numpy()
    for row, image in enumerate(torch.from_numpy(pixels)):
        expected = find_oracle(method)(theirs.encoded(image), pruner.options).kept(budget)
        assert kept[row].tolist() == expected.tolist()
        np.testing.assert_allclose(
            features[row], every[row][expected], atol=1e-5 * np.abs(every).max()
        )


@pytest.mark.parametrize("method", ["fastervlm", "vtc-cls"])
def test_methods_that_read_cls_are_refused(folder, tmp_path, method):
    with pytest.raises(RequestError, match=r"siglip_vision_model, which has no \[CLS\] token"):
        prepare(str(folder), tmp_path / "out", ExportOptions(method))


# The decoder.


def test_masks_are_those_of_transformers(checkpoint):
    """Windows shorter than a picture, and pictures at both ends."""
    config, family = checkpoint.spec.decoder.config, checkpoint.family
    config._attn_implementation = "eager"
    visual = np.array([1] * 40 + [0] * 3 + [1] * 9 + [0] + [1] * 2, dtype=bool)
    numbers = np.repeat([1, 0, 2, 0, 3], [40, 3, 9, 1, 2])
    model = torch.nn.Module()
    model.config = config
    embeds = torch.zeros(1, len(visual), 64)
    expected = family.reference_inputs(model, embeds, visual, {})["attention_mask"]
    ours = two_way_masks(
        config,
        torch.ones(1, len(visual), dtype=torch.int64),
        torch.from_numpy(numbers)[None],
        torch.float32,
    )
    assert ours.keys() == expected.keys() == {"full_attention", "sliding_attention"}
    for kind, mask in expected.items():
        assert torch.equal(ours[kind], mask)


LAYERS, STEPS = 3, 14


@pytest.fixture(scope="module")
def golden():
    return np.load(DATA / "gemma3_decoder.npz")


@pytest.fixture(scope="module")
def golden_graphs():
    """The golden decoder as a graph: portable, fused, and with operators that hide what lies
    behind a token."""
    # Drawn as a part of the whole class: its tower comes first.
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, SiglipVisionConfig

    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    text = Gemma3TextConfig(
        **TEXT,
        num_hidden_layers=LAYERS,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=12,
        layer_types=kinds,
    )
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=56,
        patch_size=7,
        vision_use_head=False,
    )
    whole = filled(
        Gemma3ForConditionalGeneration(
            Gemma3Config(
                text_config=text,
                vision_config=vision,
                mm_tokens_per_image=16,
                image_token_index=250,
                boi_token_index=249,
                eoi_token_index=248,
            )
        ),
        7,
    )
    model = Gemma3ForCausalLM(text).eval()
    model.model, model.lm_head = whole.model.language_model, whole.lm_head
    table = model.get_input_embeddings()
    model.set_input_embeddings(torch.nn.Identity())
    model.config._attn_implementation = "eager"
    spec = DecoderSpec(text, LAYERS, 4, 2, 16, 64, 256, 2048, True, attention="pictures")
    graph = DecoderGraph(model, spec)
    portable = trace(graph)
    tidy(portable, graph.output_axes)
    fused, causal = portable.clone(), portable.clone()
    fuse(fused, metadata.DECODER, causal=False)
    fuse(causal, metadata.DECODER)

    def opened(model):
        return ort.InferenceSession(
            ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
        )

    return {
        name: opened(each)
        for name, each in {"portable": portable, "fused": fused, "causal": causal}.items()
    }, table


def run(session, embeds, numbers, cache):
    """Logits (vocab,) of tokens after a cache, and the longer cache."""
    names = [output.name for output in session.get_outputs()]
    past = cache["present.0.key"].shape[2] if cache else 0
    empty = np.zeros((1, 2, 0, 16), np.float32)
    feed = {
        "inputs_embeds": embeds,
        "attention_mask": np.ones((1, past + embeds.shape[1]), np.int64),
        "position_ids": np.arange(past, past + embeds.shape[1])[None],
        "picture_ids": numbers,
    }
    for name in names[1:]:
        feed[name.replace("present", "past_key_values")] = cache[name] if cache else empty
    made = dict(zip(names, session.run(names, feed), strict=True))
    return made.pop("logits")[0, 0], made


@pytest.mark.parametrize("name", ["portable", "fused"])
def test_golden_decoder(golden, golden_graphs, name):
    sessions, table = golden_graphs
    close = 3e-5 * np.abs(golden["logits_prefill"]).max()
    logits, cache = run(sessions[name], golden["inputs_embeds"], golden["token_type_ids"], {})
    np.testing.assert_allclose(logits, golden["logits_prefill"], atol=close)
    answer = []
    while len(answer) < STEPS:
        answer.append(int(logits.argmax()))
        with torch.no_grad():
            embeds = table(torch.tensor([answer[-1:]])).numpy()
        logits, cache = run(sessions[name], embeds, np.zeros((1, 1), np.int64), cache)
    assert answer == golden["greedy"].tolist()
    np.testing.assert_allclose(logits, golden["logits_last"], atol=close)


def test_golden_decoder_is_wrong_where_operators_hide_what_lies_behind(golden, golden_graphs):
    sessions, _ = golden_graphs
    inputs = golden["inputs_embeds"], golden["token_type_ids"]
    logits, _ = run(sessions["causal"], *inputs, {})
    assert np.abs(logits - golden["logits_prefill"]).max() > 1
    text_alone = np.zeros_like(golden["token_type_ids"])
    for name in ("portable", "fused", "causal"):
        logits, _ = run(sessions[name], golden["inputs_embeds"], text_alone, {})
        close = 3e-5 * np.abs(golden["logits_causal"]).max()
        np.testing.assert_allclose(logits, golden["logits_causal"], atol=close)


def test_only_operators_that_are_told_need_a_newer_runtime(golden_graphs):
    sessions, _ = golden_graphs
    assert {name: len(each.get_inputs()) for name, each in sessions.items()} == dict.fromkeys(
        sessions, 4 + 2 * LAYERS
    )


def test_embeddings_are_scaled_and_the_table_is_not(checkpoint, theirs):
    embedding = checkpoint.family.load_embedding(checkpoint.weights, checkpoint.spec)
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        assert torch.equal(embedding(ids), theirs.model.get_input_embeddings()(ids))
    table = theirs.model.get_input_embeddings().weight
    assert torch.equal(dict(embedding.named_parameters())["table.weight"], table)


# What is refused.


def in_config(**changes):
    def edit(folder):
        stated = json.loads((folder / "config.json").read_text())
        for key, value in changes.items():
            stated[key] = {**stated[key], **value} if isinstance(value, dict) else value
        (folder / "config.json").write_text(json.dumps(stated))

    return edit


def in_pictures(**changes):
    return lambda folder: edit_pictures(folder, **changes)


def without_marks(folder):
    edit_json(folder, "tokenizer_config.json", boi_token=None, extra_special_tokens={})
    edit_json(folder, "special_tokens_map.json", boi_token=None)


def text_alone(folder):
    stated = json.loads((folder / "config.json").read_text())
    alone = {**stated["text_config"], "architectures": ["Gemma3ForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(alone))


def gemma3n(folder):
    edit_json(folder, model_type="gemma3n", audio_config={})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (text_alone, r"is a gemma3_text model without vision_config.*one of the families gemma3,"),
        (gemma3n, r"is a gemma3n model, a family that is not supported: .*families gemma3,"),
        (in_pictures(do_pan_and_scan=True), r"shows crops beside each picture \(do_pan_and_scan"),
        (in_pictures(size={"height": 84, "width": 84}), "makes 84x84 pixels"),
        (in_pictures(do_resize=False), "makes 64x48 pixels"),
        (in_config(mm_tokens_per_image=15), "mm_tokens_per_image 15 do not make whole squares"),
        (in_config(mm_tokens_per_image=9), "mm_tokens_per_image 9 do not make whole squares"),
        (in_config(vision_config={"patch_size": 9}), "patch_size 9"),
        (in_config(vision_config={"model_type": "clip_vision_model"}), "is a clip_vision_model"),
        (in_config(text_config={"model_type": "llama"}), "the decoder is a llama"),
        (in_config(text_config={"final_logit_softcapping": 30.0}), "final_logit_softcapping 30.0"),
        (in_config(text_config={"attn_logit_softcapping": 50.0}), "attn_logit_softcapping 50.0"),
        (
            in_config(text_config={"use_bidirectional_attention": True}),
            "use_bidirectional_attention True",
        ),
        (
            in_config(text_config={"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
            "rope type 'dynamic' is not supported",
        ),
        (without_marks, "does not name boi_token, eoi_token, image_token"),
        (in_config(image_token_index=7), "not the image token 7 of config.json"),
        (in_config(image_token_index=9999), "outside its vocabulary"),
    ],
)
def test_checkpoints_that_are_refused(folder, tmp_path, damage, words):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    damage(damaged)
    with pytest.raises(PocketVLMError, match=words) as caught:
        prepare(str(damaged), tmp_path / "out", ExportOptions())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ({"query_pre_attn_scalar": 8}, "query_pre_attn_scalar is 8, llama.cpp has 16"),
        ({"hidden_activation": "silu"}, "hidden_act is silu, llama.cpp has gelu_pytorch_tanh"),
        (
            {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
            "its windows are not of the kind",
        ),
    ],
)
def test_decoders_that_llama_cpp_computes_otherwise_are_refused(folder, tmp_path, text, words):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    in_config(text_config=text)(damaged)
    prepare(str(damaged), tmp_path / "out", ExportOptions())
    with pytest.raises(PocketVLMError, match=words):
        prepare(str(damaged), tmp_path / "out", ExportOptions(decoder="llama.cpp"))


def test_stages_of_the_decoder_are_refused(folder, tmp_path):
    from pocketvlm.artifact.stages import Stage

    with pytest.raises(RequestError, match="tokens of one picture attend to each other in both"):
        prepare(str(folder), tmp_path / "out", ExportOptions(decoder_stages=(Stage(1, 2),)))


def test_a_published_configuration_is_read(folder, tmp_path):
    """Of the 4B, whose dimensions of heads are the class's own."""
    published = shutil.copytree(folder, tmp_path / "published")
    stated = json.loads((folder / "config.json").read_text())
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    vision = {
        "hidden_size": 1152,
        "image_size": 896,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
        "vision_use_head": False,
    }
    edit_json(published, text_config=text, vision_config=vision, mm_tokens_per_image=256)
    spec = inspect_checkpoint(str(published)).spec
    assert stated["eos_token_id"] == [1, 106]
    assert (spec.vision.tokens, spec.vision.merge, spec.vision.sequence) == (256, 4, 4096)
    decoder = spec.decoder
    assert (decoder.heads, decoder.kv_heads, decoder.head_dim, decoder.vocab) == (8, 4, 256, 262208)
    assert decoder.config.layer_types.count("full_attention") == 34 // 6
    assert decoder.config.rope_parameters == {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
    }
