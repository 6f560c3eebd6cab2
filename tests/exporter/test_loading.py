"""Checkpoints opened part by part hold what transformers' own from_pretrained makes of them as a
whole."""

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import LlavaForConditionalGeneration

from make_checkpoint import PRESETS
from pocketvlm import PocketVLMError
from pocketvlm.artifact.specs import Pruning
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.options import ExportOptions
from pocketvlm_export.planning import make_plan
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification.pictures import gate_pictures
from pocketvlm_export.verification.vision_reference import vision_reference

EMBEDDING, HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
TIED = PRESETS["tiny-llama"].but(text={"tie_word_embeddings": True})


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def another_head(tensors):
    tensors[HEAD] = (
        torch.randn(tensors[EMBEDDING].shape, generator=torch.Generator().manual_seed(1)) / 8
    )


def same_head(tensors):
    tensors[HEAD] = tensors[EMBEDDING].clone()


def head_alone(tensors):
    tensors[HEAD] = tensors.pop(EMBEDDING)


def nothing(tensors):
    pass


@pytest.mark.parametrize(
    ("preset", "change"),
    [
        (PRESETS["tiny-llama"], nothing),
        (TIED, nothing),
        (TIED, same_head),
        (TIED, another_head),
        (TIED, head_alone),
        (PRESETS["tiny-dinov2"], nothing),
    ],
    ids=["untied", "tied", "tied-stored-twice", "tied-but-different", "tied-head-alone", "dinov2"],
)
def test_parts_equal_the_whole_model(make_tiny, preset, change):
    folder = make_tiny(
        preset, layout="flat" if preset.tower == "dinov2" else "classic"
    )  # the older is CLIP's own
    edit_weights(folder, change)
    checkpoint = open_checkpoint(str(folder))
    pictures = gate_pictures(1, (42, 42))
    ids = torch.tensor([[5, 9, 40, 41]])
    with quiet_transformers(), torch.inference_mode():
        whole = LlavaForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        features = whole.get_image_features(torch.from_numpy(pictures)).pooler_output[0]
        expected = whole(input_ids=ids).logits
        embedding = checkpoint.family.load_embedding(checkpoint.weights, checkpoint.spec)
        decoder = checkpoint.family.load_decoder(
            checkpoint.weights, checkpoint.spec, attention="eager"
        )
        logits = decoder(inputs_embeds=embedding(ids)).logits
        result = vision_reference(checkpoint, Pruning("none", 36, (36,), 36), pictures)[
            36
        ].image_features[0]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(result, features, atol=1e-5)
    parameters = sum(p.numel() for p in decoder.parameters())
    assert make_plan(checkpoint, ExportOptions()).decoder_bytes == 4 * parameters


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.pop("multi_modal_projector.linear_2.bias"),
            "lacks the weight projector.linear_2.bias",
        ),
        (
            lambda tensors: tensors.update(
                {"multi_modal_projector.linear_3.weight": torch.zeros(2, 2)}
            ),
            "has no place for the weight projector",
        ),
    ],
)
def test_projector_of_another_model(make_tiny, change, message):
    folder = make_tiny()
    edit_weights(folder, change)
    checkpoint = open_checkpoint(str(folder))
    with pytest.raises(PocketVLMError, match=message):
        checkpoint.family.load_projector(checkpoint.weights, checkpoint.spec)


def test_model_safetensors_is_read_before_other_files(make_tiny):
    """As transformers does, though an index or another file lies beside it."""
    folder = make_tiny()
    safetensors.torch.save_file({EMBEDDING: torch.zeros(3, 3)}, folder / "another.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {EMBEDDING: "another.safetensors"}})
    )
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.family.load_embedding(checkpoint.weights, checkpoint.spec).weight.shape == (
        512,
        64,
    )


def test_only_exported_weights_must_be_floating_point(make_tiny):
    folder = make_tiny()
    edit_weights(
        folder,
        lambda tensors: tensors.update({"optimizer.step": torch.zeros(1, dtype=torch.int64)}),
    )
    open_checkpoint(str(folder))
    edit_weights(folder, lambda tensors: tensors.update({HEAD: tensors[HEAD].to(torch.int8)}))
    with pytest.raises(PocketVLMError, match="as I8"):
        open_checkpoint(str(folder))


def test_a_method_that_reads_cls_needs_a_tower_that_has_it(tiny_checkpoint):
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    spec = replace(checkpoint.spec, vision=replace(checkpoint.spec.vision, has_cls=False))
    with pytest.raises(PocketVLMError, match="fastervlm could rank patches by"):
        make_plan(replace(checkpoint, spec=spec), ExportOptions(pruner="fastervlm"))


@pytest.mark.parametrize(
    "preset", ["tiny-llama", "tiny-video-llava", "tiny-llava-next", "tiny-internvl", "tiny-smolvlm"]
)
def test_tensors_that_no_part_reads_are_named(make_tiny, preset):
    """Those that a family leaves out for a reason, as Video-LLaVA's tower of pictures, are not."""
    folder = make_tiny(preset)
    assert make_plan(open_checkpoint(str(folder)), ExportOptions()).warnings == ()
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    odd = {f"value_head.{number}.weight": torch.zeros(1) for number in range(4)}
    ignored = {"language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(1)}
    safetensors.torch.save_file({**tensors, **odd, **ignored}, file, metadata={"format": "pt"})
    (warning,) = make_plan(open_checkpoint(str(folder)), ExportOptions()).warnings
    listed = ", ".join(list(odd)[:3])
    assert warning.startswith("4 of the checkpoint's tensors are not part of a ")
    assert f"({listed}, ...)" in warning
