"""Of a checkpoint's settings transformers gets those that are allowed: enough of them to make what
it makes of the whole files, and nothing else."""

import json
import shutil
from pathlib import Path

import pytest
import transformers

from pocketvlm.errors import CheckpointError
from pocketvlm_export import upstream
from pocketvlm_export.checkpoint import generation_settings, load_image_processor, load_tokenizer
from pocketvlm_export.loading import inspect_checkpoint
from pocketvlm_export.quiet import quiet_transformers
from support.checkpoints import edit_json

# One of every family, and each language model that reads settings of its own.
PRESETS = [
    *("tiny-llama", "tiny-mistral", "tiny-qwen2", "tiny-dinov2", "tiny-llava-next"),
    *("tiny-llava-onevision", "tiny-smolvlm2", "tiny-idefics3", "tiny-video-llava"),
    *("tiny-internvl-qwen3", "tiny-qwen2-vl", "tiny-qwen2.5-vl", "tiny-qwen3-vl"),
    *("tiny-gemma3", "tiny-lfm2-vl", "tiny-paligemma"),
]
# What training and uploading leave behind.
LEFTOVERS = {
    "_name_or_path": "someone/else",
    "transformers_version": "3.0",
    "torch_dtype": "bfloat16",
    "auto_map": {"AutoModel": "modeling.Model"},
    "trained_with": {"script": "train.py", "steps": 1000},
    "use_flash_attn": True,
}
FILES = [
    *("config.json", "tokenizer_config.json", "preprocessor_config.json"),
    *("generation_config.json", "processor_config.json", "special_tokens_map.json"),
]


@pytest.fixture(params=PRESETS)
def checkpoint(request, make_tiny) -> Path:
    return make_tiny(request.param)


def compared(config):
    """What a configuration has of what its class declares, at any depth."""
    names = upstream.declared_settings(type(config)) - {"transformers_version"}
    made = {name: getattr(config, name, None) for name in names}
    return {
        name: compared(each) if isinstance(each, transformers.PretrainedConfig) else each
        for name, each in made.items()
    }


def test_transformers_makes_the_same_of_what_is_allowed(checkpoint):
    """Configuration, tokenizer, image processor and generation settings, as from whole files."""
    own = inspect_checkpoint(str(checkpoint)).spec.config
    with quiet_transformers():
        whole = transformers.AutoConfig.from_pretrained(checkpoint)
        tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
        pictures = transformers.AutoImageProcessor.from_pretrained(checkpoint, backend="pil")
    assert compared(own) == compared(whole)
    loaded = load_tokenizer(checkpoint)
    assert type(loaded) is type(tokenizer)
    for text in ("A <image> of two things .\n", "naïve 你好 🙂"):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
    assert str(loaded.added_tokens_decoder) == str(tokenizer.added_tokens_decoder)
    images = load_image_processor(checkpoint)
    assert type(images) is type(pictures)
    for name in images.valid_kwargs.__annotations__:
        assert getattr(images, name, None) == getattr(pictures, name, None), name
    if (checkpoint / "generation_config.json").is_file():
        theirs = transformers.GenerationConfig.from_pretrained(checkpoint).to_diff_dict()
        theirs.pop("_from_model_config", None)  # is to say where they come from
        assert generation_settings(checkpoint, own).to_diff_dict() == theirs


def test_leftovers_change_nothing(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    for name in FILES:
        if (folder / name).is_file():
            edit_json(folder, name, **LEFTOVERS)
    stated = json.loads((folder / "config.json").read_text())
    parts = {key: each | LEFTOVERS for key, each in stated.items() if key.endswith("_config")}
    edit_json(folder, **parts)
    before, after = (inspect_checkpoint(str(each)).spec.config for each in (checkpoint, folder))
    assert compared(before) == compared(after)
    for part in (after, after.vision_config, after.get_text_config()):
        assert not LEFTOVERS.keys() & vars(part).keys() - {"_name_or_path", "transformers_version"}
        assert part._name_or_path == ""
    assert load_tokenizer(folder)("A thing")["input_ids"]
    assert not hasattr(load_image_processor(folder), "trained_with")


@pytest.mark.parametrize("change", [{"hidden_size": 1 << 14}, {"num_hidden_layers": 500}])
def test_no_weight_is_made_as_large_as_a_configuration_says(make_tiny, monkeypatch, change):
    """transformers makes those that are missing or of another shape before it complains."""
    folder = make_tiny()
    stated = json.loads((folder / "config.json").read_text())
    edit_json(folder, vision_config={**stated["vision_config"], **change})
    checkpoint = inspect_checkpoint(str(folder))
    monkeypatch.setattr(upstream, "fill", lambda *_: pytest.fail("it is built"))
    spec = checkpoint.spec
    with pytest.raises(CheckpointError, match="CLIPVisionModel"):
        checkpoint.family.load_tower(
            checkpoint.weights, spec, layers=spec.vision.depth, attention="eager"
        )


def test_a_number_format_is_not_looked_up(checkpoint, tmp_path):
    """transformers takes it for the name of something in torch."""
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    edit_json(folder, dtype="load", torch_dtype="load")
    config = inspect_checkpoint(str(folder)).spec.config
    assert config.dtype is None
