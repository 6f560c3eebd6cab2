"""Checkpoints written as their publishers wrote them: transformers must read every file."""

import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from make_checkpoint import HUB_PRESETS
from make_checkpoint.__main__ import main
from make_checkpoint.hub import hub_shapes
from make_checkpoint.hub_presets import HUB_FAMILIES
from pocketvlm_export.quiet import quiet_transformers
from support.processors import processor_of

TINY = sorted(name for name in HUB_PRESETS if name.startswith("tiny-"))
INTERNVL = [name for name in TINY if HUB_PRESETS[name].family == "internvl"]
QWEN2 = [name for name in TINY if HUB_PRESETS[name].family.startswith("qwen2")]
SMOLVLM2 = [name for name in TINY if HUB_PRESETS[name].family == "smolvlm"]
# By family, the tokens of the ids in config.json, and what ends an answer.
NAMED = {
    "gemma3": (
        {
            "image_token_id": "<image_soft_token>",
            "boi_token_id": "<start_of_image>",
            "eoi_token_id": "<end_of_image>",
        },
        "<end_of_turn>",
    ),
    "internvl": ({"image_token_id": "<IMG_CONTEXT>"}, "<|im_end|>"),
    "lfm2_vl": ({"image_token_id": "<image>"}, "<|im_end|>"),
    "llava_onevision": (
        {"image_token_id": "<image>", "video_token_id": "<video>"},
        "<|im_end|>",
    ),
    "paligemma": ({"image_token_id": "<image>"}, "<eos>"),
    "smolvlm": ({"image_token_id": "<image>"}, "<end_of_utterance>"),
    **dict.fromkeys(
        ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"),
        (
            {
                "image_token_id": "<|image_pad|>",
                "video_token_id": "<|video_pad|>",
                "vision_start_token_id": "<|vision_start|>",
                "vision_end_token_id": "<|vision_end|>",
            },
            "<|im_end|>",
        ),
    ),
}


@pytest.fixture(scope="module")
def written(make_tiny):
    """Write each preset once."""
    folders = {}

    def write(name):
        if name not in folders:
            folders[name] = make_tiny(HUB_PRESETS[name])
        return folders[name]

    return write


def load(folder):
    with quiet_transformers():
        return AutoModelForImageTextToText.from_pretrained(folder).eval()


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def question(*images):
    parts = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "what is it?"}]}]


def prepare(folder, messages):
    processor = processor_of(folder)
    if processor.chat_template is None:  # single prompts, which the processor writes itself
        *images, text = messages[0]["content"]
        return without_labels(
            processor(
                images=[[part["image"] for part in images]],
                text=[text["text"]],
                return_tensors="pt",
            )
        )
    return processor.apply_chat_template(
        messages,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def without_labels(inputs):
    inputs.pop("labels", None)
    return inputs


def stored(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


@pytest.mark.parametrize("layout", ["classic", "nested"])
@pytest.mark.parametrize("name", TINY)
def test_the_class_that_the_configuration_names_finds_every_weight(make_tiny, name, layout):
    folder = make_tiny(HUB_PRESETS[name], layout=layout)
    with quiet_transformers():
        model, found = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    config = json.loads((folder / "config.json").read_text())
    assert [type(model).__name__] == config["architectures"]
    assert not any(found.values()), found


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_a_picture_is_answered(written, name):
    model = load(written(name))
    inputs = prepare(written(name), question(picture(84, 126)))
    logits = model(**inputs).logits
    assert torch.isfinite(logits).all()
    assert 0.1 < logits.std() < 20
    other = model(**prepare(written(name), question(picture(84, 126, seed=1)))).logits
    assert (logits - other)[0, -1].abs().max() > 0.01  # the picture is read
    answer = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert answer.shape[1] > inputs["input_ids"].shape[1]


@pytest.mark.parametrize("name", TINY)
def test_ids_of_the_configuration_are_those_of_the_tokenizer(written, name):
    folder = written(name)
    config = AutoConfig.from_pretrained(folder)
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.get_vocab()
    assert max(ids.values()) < config.text_config.vocab_size
    expected, end = NAMED[HUB_PRESETS[name].family]
    assert {key: ids[token] for key, token in expected.items()} == {
        key: getattr(config, key) for key in expected
    }
    generation = json.loads((folder / "generation_config.json").read_text())
    ends = generation["eos_token_id"]
    assert ids[end] in (ends if isinstance(ends, list) else [ends])


@pytest.mark.parametrize("name", TINY)
def test_transformers_reads_the_tokenizer_as_it_lies_there(written, name):
    folder = written(name)
    with quiet_transformers():
        theirs = AutoTokenizer.from_pretrained(folder)
    file = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = sorted(file.get_added_tokens_decoder().values(), key=lambda token: token.content)
    words = st.sampled_from([token.content for token in special]) | st.text(max_size=12)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(words, max_size=6).map("".join))
    def same(text):
        assert theirs(text)["input_ids"] == file.encode(text).ids

    same()


@pytest.mark.parametrize(("size", "tiles"), [((56, 56), 1), ((112, 50), 3), ((84, 126), 7)])
@pytest.mark.parametrize("name", INTERNVL)
def test_slots_of_internvl(written, name, size, tiles):
    inputs = prepare(written(name), question(picture(*size)))
    assert tuple(inputs["pixel_values"].shape) == (tiles, 3, 56, 56)
    slots = "<IMG_CONTEXT>" * 16 * tiles
    text = f"<|im_start|>user\n<img>{slots}</img>\nwhat is it?<|im_end|>\n<|im_start|>assistant\n"
    file = Tokenizer.from_file(str(written(name) / "tokenizer.json"))
    assert inputs["input_ids"][0].tolist() == file.encode(text).ids


@pytest.mark.parametrize("size", [(56, 56), (170, 115), (30, 200)])
@pytest.mark.parametrize("name", QWEN2)
def test_slots_of_qwen(written, name, size):
    inputs = prepare(written(name), question(picture(*size), picture(84, 56)))
    counts = [rows * columns // 4 for _, rows, columns in inputs["image_grid_thw"].tolist()]
    assert counts[1] == 6  # 84 x 56 pixels stay as they are: 3 x 2 tokens of 28 x 28
    pictures = "".join(
        f"<|vision_start|>{'<|image_pad|>' * count}<|vision_end|>" for count in counts
    )
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{pictures}what is it?<|im_end|>\n<|im_start|>assistant\n"
    )
    file = Tokenizer.from_file(str(written(name) / "tokenizer.json"))
    assert inputs["input_ids"][0].tolist() == file.encode(text).ids


@pytest.mark.parametrize(("size", "rows", "columns"), [((100, 60), 3, 4), ((40, 40), 4, 4)])
@pytest.mark.parametrize("name", SMOLVLM2)
def test_slots_of_smolvlm2(written, name, size, rows, columns):
    inputs = prepare(written(name), question(picture(*size), picture(50, 50)))
    around, slots = "<fake_token_around_image>", "<image>" * 16

    def cut(rows, columns):
        lines = [
            "".join(f"{around}<row_{r}_col_{c}>{slots}" for c in range(1, columns + 1)) + "\n"
            for r in range(1, rows + 1)
        ]
        return f"{''.join(lines)}\n{around}<global-img>{slots}{around}"

    text = f"<|im_start|>User:{cut(rows, columns)}{cut(4, 4)}what is it?<end_of_utterance>\n"
    file = Tokenizer.from_file(str(written(name) / "tokenizer.json"))
    assert inputs["input_ids"][0].tolist() == file.encode(f"{text}Assistant:").ids
    assert inputs["pixel_values"].shape[1] == rows * columns + 1 + 4 * 4 + 1


@pytest.mark.parametrize(("sizes", "slots"), [([(37, 37)], [55]), ([(74, 20), (37, 37)], [26] * 2)])
def test_slots_of_llava_onevision(written, sizes, slots):
    """A picture alone is whole and in parts; beside another it is one square."""
    folder = written("tiny-llava-onevision")
    inputs = prepare(folder, question(*(picture(*size) for size in sizes)))
    pictures = "<image>" * sum(slots)
    text = f"<|im_start|>user {pictures}\nwhat is it?<|im_end|><|im_start|>assistant\n"
    file = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert inputs["input_ids"][0].tolist() == file.encode(text).ids


@pytest.mark.parametrize("size", [(56, 56), (170, 115), (30, 200)])
def test_slots_of_qwen3(written, size):
    folder = written("tiny-qwen3-vl")
    inputs = prepare(folder, question(picture(*size), picture(320, 256)))
    counts = [rows * columns // 4 for _, rows, columns in inputs["image_grid_thw"].tolist()]
    assert counts[1] == 80  # 10 x 8 tokens of 32 x 32 pixels
    assert counts[0] >= 64  # smaller pictures are made larger
    pictures = "".join(
        f"<|vision_start|>{'<|image_pad|>' * count}<|vision_end|>" for count in counts
    )
    text = f"<|im_start|>user\n{pictures}what is it?<|im_end|>\n<|im_start|>assistant\n"
    file = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert inputs["input_ids"][0].tolist() == file.encode(text).ids


def test_what_a_turn_of_qwen3_looks_like(written):
    folder = written("tiny-qwen3-vl")
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "be brief"}]},
        *question(picture(320, 256)),
        {"role": "assistant", "content": "a dog"},
        {"role": "user", "content": "sure?"},
    ]
    text = processor_of(folder).apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False
    )
    assert text == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>what is it?<|im_end|>\n"
        "<|im_start|>assistant\na dog<|im_end|>\n<|im_start|>user\nsure?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_what_transformers_would_save_is_the_same_model(written, name, tmp_path):
    """The published configurations are older than the form that transformers 5 gives them."""
    model = load(written(name))
    with quiet_transformers():
        model.save_pretrained(tmp_path)
    again = load(tmp_path)
    inputs = prepare(written(name), question(picture(84, 126)))
    assert torch.equal(model(**inputs).logits, again(**inputs).logits)


@pytest.mark.parametrize("name", ["tiny-internvl", "tiny-internvl-llama"])
@torch.no_grad()
def test_dynamic_rope_does_nothing_within_the_context(written, make_tiny, name):
    plain = load(make_tiny(HUB_PRESETS[name].but(text={"rope_scaling": None})))
    inputs = prepare(written(name), question(picture(84, 126)))
    assert torch.equal(load(written(name))(**inputs).logits, plain(**inputs).logits)


def test_published_names_of_qwen(written):
    """Out of the indices of Qwen2-VL-2B and Qwen2.5-VL-3B-Instruct: the first block and all that is
    in none."""
    shared = {
        "model.embed_tokens.weight",
        "model.norm.weight",
        "visual.merger.ln_q.weight",
        "visual.merger.mlp.0.bias",
        "visual.merger.mlp.0.weight",
        "visual.merger.mlp.2.bias",
        "visual.merger.mlp.2.weight",
        "visual.patch_embed.proj.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.post_attention_layernorm.weight",
        *(f"model.layers.0.mlp.{kind}_proj.weight" for kind in ("down", "gate", "up")),
        *(f"model.layers.0.self_attn.{kind}_proj.weight" for kind in "koqv"),
        *(f"model.layers.0.self_attn.{kind}_proj.bias" for kind in "kqv"),
        *(f"visual.blocks.0.attn.{kind}.weight" for kind in ("proj", "qkv")),
        *(f"visual.blocks.0.attn.{kind}.bias" for kind in ("proj", "qkv")),
        *(f"visual.blocks.0.norm{number}.weight" for number in (1, 2)),
    }
    gated = {
        f"visual.blocks.0.mlp.{kind}_proj.{part}"
        for kind in ("down", "gate", "up")
        for part in ("bias", "weight")
    }
    plain = {
        "visual.merger.ln_q.bias",
        *(f"visual.blocks.0.mlp.fc{n}.{part}" for n in (1, 2) for part in ("bias", "weight")),
        *(f"visual.blocks.0.norm{number}.bias" for number in (1, 2)),
    }
    for name, own in {"tiny-qwen2.5-vl": gated, "tiny-qwen2-vl": plain}.items():
        names = {
            key
            for key in stored(written(name))
            if not any(f".{part}." in key for part in ("1", "2", "3")) or "merger" in key
        }
        assert names == shared | own, name


def test_published_names_of_llava_onevision(written):
    """Those of llava-hf's uploads; there is no table for the output, and no head of the tower."""
    names = stored(written("tiny-llava-onevision"))
    assert {
        "image_newline",
        "language_model.model.embed_tokens.weight",
        "multi_modal_projector.linear_1.weight",
        "vision_tower.vision_model.embeddings.position_embedding.weight",
        "vision_tower.vision_model.post_layernorm.weight",
    } <= names
    assert not any("lm_head" in name or ".head." in name for name in names)


@pytest.mark.parametrize("name", INTERNVL)
def test_published_names_of_internvl(written, name):
    """Parts under the names of the first classes; both tables of words, which differ although the
    configuration's default ties them."""
    names = stored(written(name))
    starts = ("vision_tower.", "multi_modal_projector.", "language_model.")
    assert all(key.startswith(starts) for key in names)
    assert {
        "language_model.lm_head.weight",
        "language_model.model.embed_tokens.weight",
        "vision_tower.encoder.layer.0.attention.q_proj.weight",
        "vision_tower.encoder.layer.0.lambda_1",
        "multi_modal_projector.layer_norm.weight",
    } <= names
    model = load(written(name))
    table = model.get_input_embeddings().weight
    assert not torch.equal(model.get_output_embeddings().weight, table)


def test_published_names_of_paligemma(written):
    """Those of google's uploads; there is no table for the output, and no head of the tower."""
    for name in ("tiny-paligemma", "tiny-paligemma-gemma"):
        names = stored(written(name))
        assert {
            "language_model.model.embed_tokens.weight",
            "language_model.model.layers.0.self_attn.q_proj.weight",
            "language_model.model.norm.weight",
            "multi_modal_projector.linear.bias",
            "multi_modal_projector.linear.weight",
            "vision_tower.vision_model.embeddings.patch_embedding.weight",
            "vision_tower.vision_model.encoder.layers.0.self_attn.out_proj.bias",
            "vision_tower.vision_model.post_layernorm.weight",
        } <= names
        assert not [key for key in names if "lm_head" in key or "vision_model.head" in key]


QWEN2_VL_2B = HUB_PRESETS["tiny-qwen2-vl"].but(
    vision={
        "depth": 32,
        "embed_dim": 1280,
        "hidden_size": 1536,
        "mlp_ratio": 4,
        "num_heads": 16,
    },
    text={
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "vocab_size": 151936,
    },
)


SO400M = {
    "hidden_size": 1152,
    "image_size": 224,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
}
PALIGEMMA_3B = HUB_PRESETS["tiny-paligemma-gemma"].but(
    vision=SO400M,
    text={
        "head_dim": 256,
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "num_attention_heads": 8,
        "num_hidden_layers": 18,
        "vocab_size": 257216,
    },
)
PALIGEMMA2_3B = HUB_PRESETS["tiny-paligemma"].but(
    vision=SO400M,
    text={
        "head_dim": 256,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_attention_heads": 8,
        "num_hidden_layers": 26,
        "num_key_value_heads": 4,
        "vocab_size": 257216,
    },
)
GEMMA3_4B = HUB_PRESETS["tiny-gemma3"].but(
    vision={**SO400M, "image_size": 896},
    text={
        "head_dim": 256,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_attention_heads": 8,
        "num_hidden_layers": 34,
        "num_key_value_heads": 4,
        "vocab_size": 262208,
    },
    model={"mm_tokens_per_image": 256},
)
# Of KerasHub's list of presets; its tables have 257,152 rows, without those that fill them up.
IN_KERAS = {"paligemma-3b": 2_923_335_408, "paligemma2-3b": 3_032_094_960}


@pytest.mark.parametrize(
    ("preset", "size"),
    [
        (HUB_PRESETS["qwen2.5-vl-3b"], 7_509_245_952),
        (QWEN2_VL_2B, 4_417_971_200),
        # Its card states 507,482,304 parameters.
        (HUB_PRESETS["smolvlm2-500m"], 2 * 507_482_304),
        (HUB_PRESETS["qwen3-vl-2b"], 2 * 2_127_532_032),  # parameters as its page counts them
        (GEMMA3_4B, 8_600_158_944),
        (PALIGEMMA_3B, 2 * (IN_KERAS["paligemma-3b"] + 64 * 2048)),
        (PALIGEMMA2_3B, 2 * (IN_KERAS["paligemma2-3b"] + 64 * 2304)),
    ],
    ids=[
        "Qwen2.5-VL-3B-Instruct",
        "Qwen2-VL-2B",
        "SmolVLM2-500M-Video-Instruct",
        "Qwen3-VL-2B-Instruct",
        "gemma-3-4b-it",
        "paligemma-3b-pt-224",
        "paligemma2-3b-pt-224",
    ],
)
def test_at_real_dimensions_weights_have_the_published_size(tmp_path, preset, size):
    """The total size that the indices state, in bytes of bfloat16: nothing more is stored, nothing
    less."""
    family = HUB_FAMILIES[preset.family]
    config = family.files(preset, family.tokenizer(preset), "bfloat16")["config.json"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    shapes = hub_shapes(preset, tmp_path)
    assert 2 * sum(shape.numel() for shape in shapes.values()) == size


def test_command_line_writes_as_many_layers_as_asked_for(tmp_path, monkeypatch, capsys):
    arguments = ["tiny-qwen2.5-vl", "-o", str(tmp_path / "a"), "--decoder-layers", "1"]
    monkeypatch.setattr(sys, "argv", ["make_checkpoint", *arguments])
    main()
    assert capsys.readouterr().out.strip() == str(tmp_path / "a")
    assert len(load(tmp_path / "a").model.language_model.layers) == 1
