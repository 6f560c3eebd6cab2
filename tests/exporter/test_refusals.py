"""Bad input gets one line that names the next step, exit code 1 (2 for wrong usage), and leaves
nothing behind."""

import importlib.metadata
import json
import shutil
import sys

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner

from make_checkpoint import PRESETS
from pocketvlm.cli import main
from pocketvlm.errors import CheckpointError
from pocketvlm_export import ExportOptions
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.pipeline import prepare
from support.checkpoints import edit_json, edit_pictures


@pytest.fixture
def run(tmp_path):
    """Call ``pocketvlm export MODEL -o OUT`` and return the result; nothing may be left in the
    folder of OUT."""
    out = tmp_path / "out" / "artifact"
    out.parent.mkdir()

    def call(model, *arguments):
        result = CliRunner().invoke(
            main, ["export", str(model), "-o", str(out), *map(str, arguments)]
        )
        assert list(out.parent.iterdir()) == []
        assert result.stdout == ""
        return result

    return call


@pytest.fixture
def refuse(run):
    """The one line of a refusal."""

    def call(model, *arguments):
        result = run(model, *arguments)
        # What the export would cost is said before, where it can be told.
        lines = [
            line for line in result.stderr.splitlines() if not line.startswith("on the device: ")
        ]
        assert result.exit_code == 1
        assert len(lines) == 1, lines
        return lines[0]

    return call


def test_no_such_folder(refuse):
    assert "no such folder: ./nowhere" in refuse("./nowhere")


def test_hub_that_cannot_be_reached(refuse, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "cannot be fetched from the Hub" in refuse("nobody/nothing-here")


def test_revision_of_what_is_not_on_the_hub(refuse, tiny_checkpoint):
    for model in (tiny_checkpoint, "demo"):
        assert "leave it out" in refuse(model, "--revision", "main")


def test_an_artifact_is_no_checkpoint_even_by_the_name_of_the_demo(refuse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "pocketvlm.json").write_text("{}")
    line = refuse("demo")
    assert "./demo is a PocketVLM artifact, not a checkpoint" in line
    assert "rename it" in line


def test_an_unfit_precision_is_named(tmp_path):
    words = ["export", "demo", "-o", str(tmp_path / "out"), "--vision-precision", "int4"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "'int4' is not for this option, which takes precisions (fp32" in result.stderr


def test_folder_without_config(refuse, tmp_path):
    assert "no config.json" in refuse(tmp_path)


def test_config_that_is_not_json(refuse, copied_checkpoint):
    (copied_checkpoint / "config.json").write_text("{")
    assert "not readable JSON" in refuse(copied_checkpoint)


@pytest.mark.parametrize(
    "wrong", [{"hidden_size": "wide"}, {"num_hidden_layers": 9, "layer_types": ["full_attention"]}]
)
def test_config_that_contradicts_itself(refuse, copied_checkpoint, wrong):
    text = json.loads((copied_checkpoint / "config.json").read_text())["text_config"]
    edit_json(copied_checkpoint, text_config=text | wrong)
    assert "cannot be understood" in refuse(copied_checkpoint)


def test_not_a_vlm(refuse, copied_checkpoint):
    (copied_checkpoint / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    line = refuse(copied_checkpoint)
    assert "gpt2" in line
    assert "not a vision-language model" in line


def test_family_that_is_not_supported(refuse, copied_checkpoint):
    edit_json(copied_checkpoint, model_type="mllama")
    line = refuse(copied_checkpoint)
    assert "is a mllama model, a family that is not supported: expected" in line
    assert "idefics3, internvl, lfm2_vl, llava" in line


@pytest.mark.parametrize(
    "changes",
    [{"mm_vision_tower": "openai/clip"}, {"architectures": ["LlavaLlamaForCausalLM"]}],
    ids=str,
)
def test_original_llava_checkpoint(refuse, copied_checkpoint, changes):
    edit_json(copied_checkpoint, **changes)
    assert "llava-hf" in refuse(copied_checkpoint)


def test_adapter(refuse, copied_checkpoint):
    (copied_checkpoint / "adapter_config.json").write_text("{}")
    assert "merge_and_unload" in refuse(copied_checkpoint)


def test_tokenizer_model_alone(refuse, copied_checkpoint):
    (copied_checkpoint / "tokenizer.json").rename(copied_checkpoint / "tokenizer.model")
    assert "AutoTokenizer" in refuse(copied_checkpoint)


def test_quantized_checkpoint(refuse, copied_checkpoint):
    edit_json(copied_checkpoint, quantization_config={"quant_method": "awq"})
    assert "already quantized" in refuse(copied_checkpoint)


def test_decoder_that_is_not_supported(refuse, copied_checkpoint):
    edit_json(copied_checkpoint, text_config={"model_type": "gpt2"})
    assert "llama, mistral, qwen2" in refuse(copied_checkpoint)


def test_tower_without_cls(refuse, make_tiny):
    vision = {
        key: value for key, value in PRESETS["tiny-llama"].vision.items() if key != "projection_dim"
    }
    preset = PRESETS["tiny-llama"].but(tower="siglip_vision_model")
    object.__setattr__(preset, "vision", vision)
    folder = make_tiny(preset)
    line = refuse(folder)
    assert "siglip_vision_model, which is not supported and has no [CLS] token" in line
    assert refuse(folder, "--pruner", "none", "--dry-run") == line


def test_cls_sent_to_the_decoder(refuse, copied_checkpoint):
    edit_json(copied_checkpoint, vision_feature_select_strategy="full")
    assert "use" in refuse(copied_checkpoint)


@pytest.mark.parametrize("layer", [9, -6, 0, []])
def test_feature_layer_that_does_not_exist(refuse, copied_checkpoint, layer):
    edit_json(copied_checkpoint, vision_feature_layer=layer)
    assert "vision_feature_layer" in refuse(copied_checkpoint)


def test_transformers_outside_the_tested_range(refuse, tiny_checkpoint, monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr(
        "importlib.metadata.version",
        lambda name: "4.57.6" if name == "transformers" else version(name),
    )
    # Said before its modules are imported, which lack what the exporter asks of them.
    monkeypatch.setitem(sys.modules, "pocketvlm_export.pipeline", None)
    line = refuse(tiny_checkpoint)
    assert "4.57.6" in line
    assert "pip install" in line


@pytest.mark.parametrize("budget", ["0", "-4", "37", "9,9"])
def test_budget_out_of_range(refuse, tiny_checkpoint, budget):
    line = refuse(tiny_checkpoint, f"--budget={budget}")
    assert "1..36" in line or "repeat" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["--budget", "many"],
        ["--budget", "9.5"],
        ["--vision-precision", "int3"],
        ["--decoder", "abacus"],
        ["--pruner-option", "ratio"],
    ],
    ids=" ".join,
)
def test_wrong_usage(run, tiny_checkpoint, arguments):
    assert run(tiny_checkpoint, *arguments).exit_code == 2


def test_unpruned_export_with_a_budget(refuse, tiny_checkpoint):
    assert "keeps all 36 tokens" in refuse(tiny_checkpoint, "--pruner", "none", "--budget", "9")


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth"])
def test_pickle_weights_only(refuse, copied_checkpoint, suffix):
    (copied_checkpoint / "model.safetensors").unlink()
    marker = copied_checkpoint / "opened"
    torch.save(_Trap(str(marker)), copied_checkpoint / f"pytorch_model.{suffix}")
    assert "never loaded" in refuse(copied_checkpoint)
    assert not marker.exists()


class _Trap:
    """Unpickling it touches a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_missing_shard(refuse, make_tiny, tmp_path):
    folder = shutil.copytree(make_tiny(shard_bytes=200_000), tmp_path / "sharded")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    shards[1].unlink()
    assert shards[1].name in refuse(folder)


def test_shard_outside_the_folder(refuse, copied_checkpoint):
    (copied_checkpoint / "model.safetensors").rename(copied_checkpoint.parent / "model.safetensors")
    index = {"weight_map": {"lm_head.weight": "../model.safetensors"}}
    (copied_checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "is not a plain file name" in refuse(copied_checkpoint)


@pytest.mark.parametrize("keep", [0.5, 0.001])
def test_truncated_weights(refuse, copied_checkpoint, keep):
    path = copied_checkpoint / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert "truncated or damaged" in refuse(copied_checkpoint)


def test_truncated_shard(refuse, make_tiny):
    folder = make_tiny(shard_bytes=200_000)
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-1000])
    line = refuse(folder)
    assert shard.name in line
    assert "truncated or damaged" in line


def test_missing_weight(refuse, copied_checkpoint):
    path = copied_checkpoint / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    del tensors["vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight"]
    safetensors.torch.save_file(tensors, path)
    assert "encoder.layers.1.mlp.fc1.weight" in refuse(copied_checkpoint)


def test_config_that_leaves_a_layer_out(refuse, copied_checkpoint):
    """Both sides of the parity gate would read the same short configuration, and agree."""
    text = json.loads((copied_checkpoint / "config.json").read_text())["text_config"]
    text.pop("layer_types", None)
    edit_json(copied_checkpoint, text_config=text | {"num_hidden_layers": 1})
    line = refuse(copied_checkpoint)
    assert "layers.1." in line
    assert "config.json is another model's" in line


def test_weights_of_another_size(refuse, copied_checkpoint):
    path = copied_checkpoint / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["multi_modal_projector.linear_1.weight"] = torch.zeros(3, 3)
    safetensors.torch.save_file(tensors, path)
    assert "shape (3, 3)" in refuse(copied_checkpoint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_processor_type": "FuyuImageProcessor"}, "is unknown"),
        (
            {"crop_size": {"height": 28, "width": 28}},
            "makes 28x28 pixels, the vision graph reads 42x42",
        ),
        ({"do_center_crop": False}, "makes 56x42 pixels of a picture of 64x48"),
        ({"size": {"longest_edge": 42}}, "only shortest_edge, or height and width"),
    ],
    ids=str,
)
def test_pictures_that_the_runtime_would_prepare_otherwise(
    refuse, copied_checkpoint, changes, message
):
    edit_pictures(copied_checkpoint, **changes)
    line = refuse(copied_checkpoint, "--dry-run")
    assert message in line
    assert "again" not in line


def test_pictures_that_are_padded_to_a_square(copied_checkpoint):
    changes = {
        "image_processor_type": "LlavaImageProcessor",
        "do_pad": True,
        "do_center_crop": False,
    }
    edit_pictures(copied_checkpoint, **changes)
    prepare(str(copied_checkpoint), copied_checkpoint.parent / "artifact", ExportOptions())


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}",
            "refuses this conversation",
        ),
        (
            "{% for m in messages %}{{ m['role'] }}: {{ m['content'][-1]['text'] }}{% endfor %}",
            "holds 0 <image>",
        ),
        ("{% for m in messages %}", "does not compile"),
    ],
    ids=["text-only", "drops-the-picture", "broken"],
)
def test_chat_template_that_takes_no_picture(refuse, copied_checkpoint, template, message):
    (copied_checkpoint / "chat_template.jinja").write_text(template)
    line = refuse(copied_checkpoint)
    assert message in line
    assert "export it again" not in line


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "cannot be read"),
        ("{}", "is not one that PocketVLM reads"),
        ('{"model": {"type": "Nothing"}}', "is not one that PocketVLM reads"),
    ],
)
def test_damaged_tokenizer(refuse, copied_checkpoint, content, reason):
    (copied_checkpoint / "tokenizer.json").write_text(content)
    assert f"tokenizer.json {reason}" in refuse(copied_checkpoint)


@pytest.mark.parametrize("listed", [None, [], "</s>", 512, [2, -1]], ids=str)
def test_end_of_an_answer_that_is_no_token(refuse, copied_checkpoint, listed):
    config = json.loads((copied_checkpoint / "config.json").read_text())
    text = {**config["text_config"], "eos_token_id": None}
    edit_json(copied_checkpoint, text_config=text)
    edit_json(copied_checkpoint, "generation_config.json", eos_token_id=listed)
    assert "eos_token_id" in refuse(copied_checkpoint)


def test_image_token_outside_the_vocabulary(refuse, copied_checkpoint):
    edit_json(copied_checkpoint, image_token_index=512)
    assert "outside its vocabulary of 512" in refuse(copied_checkpoint)


def test_no_chat_template(refuse, copied_checkpoint):
    (copied_checkpoint / "chat_template.jinja").unlink()
    assert "no chat template" in refuse(copied_checkpoint)


def test_demo_that_is_not_installed(refuse, tmp_path, monkeypatch):
    monkeypatch.setattr("pocketvlm_export.checkpoint.source.DEMO_FOLDER", tmp_path / "nothing")
    assert "demo checkpoint is not part" in refuse("demo")


def test_export_without_torch(refuse, tiny_checkpoint, monkeypatch):
    for name in [
        name
        for name in sys.modules
        if name.startswith("pocketvlm_export.") and not name.endswith("cli")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("pocketvlm_export.pipeline", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install 'pocketvlm[export]'" in refuse(tiny_checkpoint)


def test_export_with_packages_of_another_release(refuse, tiny_checkpoint, monkeypatch):
    for name in [
        name
        for name in sys.modules
        if name.startswith("pocketvlm_export.") and not name.endswith("cli")
    ]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("pipeline", "upstream"):
        monkeypatch.delattr(f"pocketvlm_export.{name}", raising=False)
    monkeypatch.delattr("transformers.models.llava.modeling_llava.LlavaMultiModalProjector")
    line = refuse(tiny_checkpoint, "--dry-run")
    assert "LlavaMultiModalProjector" in line
    assert "pip install 'pocketvlm[export]'" in line


@pytest.mark.parametrize("whatever_it_costs", [False, True])
def test_text_that_transformers_changes_behind_the_tokenizer(
    refuse, run, copied_checkpoint, whatever_it_costs
):
    """It drops spaces in front of stops, of most tokenizers only where they insist."""
    edit_json(
        copied_checkpoint,
        "tokenizer_config.json",
        clean_up_tokenization_spaces=True,
        clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output=whatever_it_costs,
    )
    if whatever_it_costs:
        assert "clean_up_tokenization_spaces to false" in refuse(copied_checkpoint)
    else:
        prepare(str(copied_checkpoint), copied_checkpoint.parent / "new", ExportOptions())


def test_generation_settings_that_transformers_refuses(refuse, copied_checkpoint):
    edit_json(copied_checkpoint, "generation_config.json", bad_words_ids=[[1 << 30]])
    assert "correct generation_config.json" in refuse(copied_checkpoint)


def test_more_layers_than_any_model_has(refuse, make_tiny):
    """Each is built before its weights are missed."""
    checkpoint = make_tiny()
    config = json.loads((checkpoint / "config.json").read_text())
    edit_json(checkpoint, vision_config={**config["vision_config"], "num_hidden_layers": 4096})
    line = refuse(checkpoint)
    assert "vision_config.num_hidden_layers 4096: expected a whole number from 1 to 512" in line


@pytest.mark.parametrize(
    ("channels", "reason"),
    [
        (4, r"patch_embedding.weight has shape \(32, 3, 7, 7\) and by config.json \(32, 4, 7, 7\)"),
        (1 << 62, "CLIPVisionModel cannot be built of its configuration"),  # beyond torch
    ],
)
def test_weights_of_another_shape_than_the_configuration_says(make_tiny, channels, reason):
    checkpoint = make_tiny()
    config = json.loads((checkpoint / "config.json").read_text())
    edit_json(checkpoint, vision_config={**config["vision_config"], "num_channels": channels})
    opened = open_checkpoint(str(checkpoint))
    with pytest.raises(CheckpointError, match=reason):
        opened.family.load_tower(opened.weights, opened.spec, layers=4, attention="eager")


def test_what_torch_asserts_of_a_configuration_is_a_refusal(make_tiny):
    checkpoint = make_tiny()
    config = json.loads((checkpoint / "config.json").read_text())
    edit_json(checkpoint, text_config={**config["text_config"], "pad_token_id": 1 << 20})
    opened = open_checkpoint(str(checkpoint))
    with pytest.raises(CheckpointError, match="cannot be built of its configuration"):
        opened.family.load_decoder(opened.weights, opened.spec, attention="eager")
