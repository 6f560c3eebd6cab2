"""A checkpoint is data: whatever lies in its folder and whatever its files ask for, none of its
code runs, no pickle is opened, nobody is asked over the network."""

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from pocketvlm.errors import CheckpointError, PocketVLMError
from pocketvlm_export import ExportOptions, upstream
from pocketvlm_export.checkpoint import load_image_processor, load_tokenizer
from pocketvlm_export.families import FAMILIES
from pocketvlm_export.loading import inspect_checkpoint
from pocketvlm_export.options import GATE_PROMPT
from pocketvlm_export.pipeline import prepare
from support.checkpoints import edit_json, edit_pictures

WATCHED = Path(__file__).parents[1] / "support" / "watched.py"
HUB_ID, COMMIT = "nobody/planted", "c0ffee" * 6 + "c0ff"
NO_NETWORK = ("unshare", "--net", "--map-root-user")
KERNEL = "kernels-community/flash-attn3"
CODE = {
    "AutoConfig": "planted.Planted",
    "AutoModel": "planted.Planted",
    "AutoModelForImageTextToText": "someone/else--planted.Planted",
    "AutoProcessor": "planted.Planted",
    "AutoImageProcessor": "planted.Planted",
    "AutoTokenizer": ["planted.Planted", "planted.Planted"],
}
# What a program in this folder might import, and what transformers might, by its names.
MODULES = (
    *("planted", "configuration_llava", "modeling_llava", "processing_llava", "tokenization_llama"),
    *("multiprocessing", "torch", "numpy", "transformers", "json", "runpy", "sitecustomize"),
    *("usercustomize", "pocketvlm", "onnxruntime", "conftest", "custom_generate/generate"),
)
# What transformers, or a class of it, takes for the name of a file, a folder or a repository.
NAMES = (
    *("gguf_file", "tokenizer_file", "vocab_file", "merges_file", "spm_file", "name_or_path"),
    *("subfolder", "cache_dir", "class_info_file", "repo_path", "backbone", "tokenizer_type"),
    *("adapter_name_or_path", "processor_config", "custom_generate", "special_tokens_map_file"),
)
NAMED = "named.json"
PICKLES = ("pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "adapter_model.bin")
# Flags by which programs around these libraries let code of a checkpoint run.
TRUSTING = (
    *("TRUST_REMOTE_CODE", "HF_TRUST_REMOTE_CODE", "HF_HUB_TRUST_REMOTE_CODE"),
    *("TRANSFORMERS_TRUST_REMOTE_CODE", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "USE_HUB_KERNELS"),
    *("HF_DATASETS_TRUST_REMOTE_CODE", "POCKETVLM_TRUST", "POCKETVLM_NO_CHECKS"),
)


class Planted:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def plant(folder: Path, canary: Path) -> None:
    """Put into a checkpoint whatever might write ``canary``, and name it wherever that is read."""
    code = f"from pathlib import Path\nPath({str(canary)!r}).touch()\nclass Planted: pass\n"
    for name in MODULES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(code)
    (folder / "custom_generate" / "requirements.txt").write_text("planted\n")
    for name in PICKLES:
        (folder / name).write_bytes(pickle.dumps(Planted(f"touch {canary}")))
    (folder / NAMED).write_text("{}")
    named = {name: str(folder / NAMED) for name in NAMES}
    for name in (
        *("tokenizer_config.json", "preprocessor_config.json", "processor_config.json"),
        *("special_tokens_map.json", "generation_config.json", "video_preprocessor_config.json"),
    ):
        edit_json(folder, name, auto_map=CODE, **named)
    stated = json.loads((folder / "config.json").read_text())
    inner = {"auto_map": CODE, "_attn_implementation": KERNEL, "attn_implementation": KERNEL}
    asked = {**inner, "use_kernels": True, "trust_remote_code": True, "_commit_hash": COMMIT}
    parts = {name: {**stated[name], **asked, **named} for name in ("text_config", "vision_config")}
    edit_json(
        folder, **parts, **asked, **named, _name_or_path="someone/else", use_timm_backbone=True
    )
    edit_json(folder, _experts_implementation=KERNEL)
    edit_json(
        folder,
        "generation_config.json",
        custom_generate="someone/else",
        trust_remote_code=True,
        auto_map=CODE,
    )


@pytest.fixture
def snapshot(tiny_checkpoint, tmp_path):
    """A checkpoint in the cache of the Hub's client, with what `plant` puts there; nothing but the
    cache is there to be asked."""
    repository = tmp_path / "home" / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    folder = shutil.copytree(tiny_checkpoint, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    plant(folder, tmp_path / "canary")
    return folder


def has_namespaces() -> bool:
    """Whether a process without any network can be begun here."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*NO_NETWORK, "true"], capture_output=True, check=False).returncode == 0


def test_planted_code_is_not_run_and_no_network_is_needed(snapshot, tmp_path):
    """A whole export of a checkpoint in the Hub's cache, from within its folder, every flag set."""
    prefix = NO_NETWORK if has_namespaces() else ()
    heard, out = tmp_path / "heard.json", tmp_path / "artifact"
    command = [
        *(*prefix, sys.executable, "-P", str(WATCHED), str(heard), str(snapshot)),
        *("export", HUB_ID, "-o", str(out), "--budget", "9", "--pruner", "fastervlm"),
    ]
    flags = {**dict.fromkeys(TRUSTING, "1"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command,
        env={**os.environ, **flags, "HF_HOME": str(tmp_path / "home")},
        cwd=snapshot,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, (out / "pocketvlm.json").is_file()) == (0, True), done.stderr[-2000:]
    assert not (tmp_path / "canary").exists()
    events = json.loads(heard.read_text())
    assert events["asked"] == events["unpickled"] == []
    suffixes = {Path(name).suffix for name in events["opened"]}
    assert "config.json" in events["opened"]  # or nothing was heard
    assert NAMED not in events["opened"]
    assert suffixes <= {".json", ".jinja", ".safetensors"}, events["opened"]
    assert not any("planted" in started for started in events["started"]), events["started"]


def test_the_canary_sings(tmp_path):
    """What is planted does write it, where it is run."""
    folder, canary = tmp_path / "planted", tmp_path / "canary"
    folder.mkdir()
    (folder / "config.json").write_text('{"text_config": {}, "vision_config": {}}')
    plant(folder, canary)
    subprocess.run([sys.executable, "-c", "import planted"], cwd=folder, check=True)
    assert canary.exists()
    canary.unlink()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())  # that is the point
    assert canary.exists()


@pytest.fixture
def asked_hosts(monkeypatch):
    """The hosts that this process asks for, each of which is refused."""
    hosts = []

    def refuse(host, *_, **__):
        hosts.append(host)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: refuse(address))
    return hosts


def test_a_folder_needs_no_network_offline_or_not(
    copied_checkpoint, tmp_path, monkeypatch, asked_hosts
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    plant(copied_checkpoint, tmp_path / "canary")
    prepare(str(copied_checkpoint), tmp_path / "artifact", ExportOptions("fastervlm"))
    assert (asked_hosts, (tmp_path / "canary").exists()) == ([], False)


def test_no_configuration_keeps_what_it_asks_to_be_computed_with(copied_checkpoint, tmp_path):
    plant(copied_checkpoint, tmp_path / "canary")
    config = inspect_checkpoint(str(copied_checkpoint)).spec.config
    for part in (config, config.text_config, config.vision_config):
        assert part._attn_implementation is None
        assert part._experts_implementation is None


def test_a_kernel_of_the_hub_is_known_by_its_name():
    """The name that is planted is one that transformers would fetch."""
    from transformers.integrations.hub_kernels import is_kernel

    assert is_kernel(KERNEL)


@pytest.mark.parametrize("part", [None, "text_config", "vision_config"])
def test_a_quantizer_is_refused_at_any_depth(copied_checkpoint, part):
    stated = json.loads((copied_checkpoint / "config.json").read_text())
    chosen = {"quantization_config": {"quant_method": "mxfp4"}}
    edit_json(copied_checkpoint, **(chosen if part is None else {part: {**stated[part], **chosen}}))
    with pytest.raises(CheckpointError, match="is already quantized"):
        inspect_checkpoint(str(copied_checkpoint))


def test_no_other_configuration_is_read_than_was_checked(copied_checkpoint):
    """transformers takes the newest of these files, of which nothing here knows."""
    stated = json.loads((copied_checkpoint / "config.json").read_text())
    text = {**stated["text_config"], "quantization_config": {"quant_method": "mxfp4"}}
    edit_json(copied_checkpoint, "config.1.0.0.json", **{**stated, "text_config": text})
    edit_json(copied_checkpoint, configuration_files=["config.1.0.0.json"])
    with pytest.raises(CheckpointError, match="configuration_files"):
        inspect_checkpoint(str(copied_checkpoint))


def test_no_configuration_of_single_layers(copied_checkpoint):
    stated = json.loads((copied_checkpoint / "config.json").read_text())
    text = {**stated["text_config"], "per_layer_config": {"0": {"_attn_implementation": KERNEL}}}
    edit_json(copied_checkpoint, text_config=text)
    with pytest.raises(CheckpointError, match=r"text_config\.per_layer_config"):
        inspect_checkpoint(str(copied_checkpoint))


def test_no_other_tokenizer_is_read_than_was_checked(copied_checkpoint):
    """One whose pattern takes exponential time, behind a name of its own."""
    file = copied_checkpoint / "tokenizer.json"
    split = {"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Removed"}
    hostile = json.loads(file.read_text()) | {"pre_tokenizer": {**split, "invert": False}}
    (copied_checkpoint / "tokenizer.1.0.0.json").write_text(json.dumps(hostile))
    edit_json(
        copied_checkpoint, "tokenizer_config.json", fast_tokenizer_files=["tokenizer.1.0.0.json"]
    )
    with pytest.raises(CheckpointError, match="fast_tokenizer_files"):
        load_tokenizer(copied_checkpoint)


OF_CLASSES = [
    ("llava", "PreTrainedTokenizerFast"),
    ("qwen2_vl", "Qwen2Tokenizer"),
    ("llava", "LlamaTokenizer"),
]


@pytest.mark.parametrize("name", ["special_tokens_map.json", "tokenizer_config.json"])
@pytest.mark.parametrize(("model_type", "kind"), OF_CLASSES)
def test_no_file_of_this_machine_is_read_as_a_tokenizer(
    copied_checkpoint, tmp_path, name, model_type, kind
):
    """transformers takes the tokenizer's file from the map of special tokens where that names
    one. Qwen2's class builds its tokenizer from tokenizer.json, then reads the file of a GGUF."""
    expected = load_tokenizer(copied_checkpoint)
    other = json.loads((copied_checkpoint / "tokenizer.json").read_text())
    other["added_tokens"].append({**other["added_tokens"][0], "id": 4999, "content": "<stolen>"})
    (tmp_path / "other.json").write_text(json.dumps(other))
    edit_json(copied_checkpoint, model_type=model_type)
    edit_json(copied_checkpoint, "tokenizer_config.json", tokenizer_class=kind)
    edit_json(copied_checkpoint, name, **dict.fromkeys(NAMES, str(tmp_path / "other.json")))
    path = copied_checkpoint / "tokenizer_config.json"
    stated = json.loads(path.read_text())
    stated.pop("added_tokens_decoder", None)  # or the map of special tokens is not looked at
    path.write_text(json.dumps(stated))
    tokenizer = load_tokenizer(copied_checkpoint)
    assert tokenizer.get_added_vocab() == expected.get_added_vocab()


@pytest.mark.parametrize("part", ["text_config", "vision_config"])
def test_no_configuration_of_a_backbone_is_fetched(
    copied_checkpoint, part, asked_hosts, monkeypatch
):
    """Detectors ask the Hub for it as their configuration is built, local files or not."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    stated = json.loads((copied_checkpoint / "config.json").read_text())
    hostile = {"model_type": "detr", "backbone": "someone/else", "use_timm_backbone": False}
    edit_json(copied_checkpoint, **{part: {**stated[part], **hostile}})
    with pytest.raises(CheckpointError, match=rf"has {part}\.model_type 'detr'"):
        inspect_checkpoint(str(copied_checkpoint))
    assert asked_hosts == []


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", ["CanineTokenizer", "MarianTokenizer", "RagTokenizer", 7])
def test_no_tokenizer_with_files_of_its_own(copied_checkpoint, file, kind):
    edit_json(copied_checkpoint, file, tokenizer_class=kind)
    with pytest.raises(CheckpointError, match="has tokenizer_class"):
        load_tokenizer(copied_checkpoint)


@pytest.mark.parametrize("kind", ["LlamaTokenizer", "PythonBackend", "TheirOwnTokenizer"])
def test_tokenizers_that_transformers_reads_from_tokenizer_json(kind):
    assert upstream.reads_tokenizer_json(kind)


@pytest.mark.parametrize("place", ["preprocessor_config.json", "config.json"])
def test_no_image_processor_that_fetches_what_it_needs(copied_checkpoint, place, asked_hosts):
    """OneFormer's is built with a file of a repository on the Hub, or any file of this machine."""
    hostile = {
        "image_processor_type": "OneFormerImageProcessor",
        "repo_path": "someone/else",
        "class_info_file": "classes.json",
    }
    if place == "config.json":
        edit_json(copied_checkpoint, image_processor_type=hostile["image_processor_type"])
    else:
        edit_pictures(copied_checkpoint, **hostile)
    with pytest.raises(CheckpointError, match="is unknown"):
        load_image_processor(copied_checkpoint)
    assert asked_hosts == []


def test_the_class_of_pictures_is_looked_at_where_a_clip_is_prepared(make_tiny, tmp_path):
    """A clip's settings have a file of their own; the class is that of the pictures' file."""
    folder = shutil.copytree(make_tiny("tiny-video-llava"), tmp_path / "checkpoint")
    stated = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "video_preprocessor_config.json").write_text(json.dumps(stated))
    edit_pictures(folder, image_processor_type="OneFormerImageProcessor")
    with pytest.raises(CheckpointError, match="is unknown"):
        load_image_processor(folder, "video")


LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
ATTRIBUTES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ messages[0].items.__self__.__class__.__base__ }}",
    "{{ raise_exception.__globals__['os'].system('true') }}",
    "{% set n = namespace() %}{{ n.__init__.__globals__ }}",
    "{{ ('' | attr('__class__')).__mro__ }}",
]
# It goes to work only where something else than this program renders it, or is asked of more.
ELSEWHERE = [
    LOOPS,
    "{% if lipsum is defined %}" + LOOPS + "{% endif %}",
    "{% if 'urlize' is filter %}" + LOOPS + "{% endif %}",
    "{% if 'odd' is test %}" + LOOPS + "{% endif %}",
]


@pytest.mark.parametrize("source", [*ATTRIBUTES, *ELSEWHERE])
@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_hostile_template_is_refused_before_the_export(copied_checkpoint, place, source):
    template = (copied_checkpoint / "chat_template.jinja").read_text() + source
    (copied_checkpoint / "chat_template.jinja").write_text(template)
    if place != "chat_template.jinja":
        (copied_checkpoint / "chat_template.jinja").unlink()
        edit_json(copied_checkpoint, place, chat_template=template)
    with pytest.raises(CheckpointError, match=r"the prompt of .* cannot be used"):
        prepare(str(copied_checkpoint), copied_checkpoint.parent / "artifact", ExportOptions())


def test_transformers_renders_nothing_that_has_no_bounds(copied_checkpoint):
    """A template that loops for two pictures alone, of which the gate asks last."""
    source = "{% if messages[0].content | length > 2 %}" + LOOPS + "{% endif %}"
    path = copied_checkpoint / "chat_template.jinja"
    path.write_text(path.read_text() + source)
    prepare(str(copied_checkpoint), copied_checkpoint.parent / "artifact", ExportOptions())
    with pytest.raises(PocketVLMError, match="refuses this conversation"):
        FAMILIES["llava"].reference_prompt(copied_checkpoint, GATE_PROMPT, 2)


def test_an_adapter_is_refused_whatever_it_holds(copied_checkpoint, tmp_path):
    plant(copied_checkpoint, tmp_path / "canary")
    edit_json(copied_checkpoint, "adapter_config.json", base_model_name_or_path="someone/else")
    with pytest.raises(CheckpointError, match="is a LoRA adapter"):
        inspect_checkpoint(str(copied_checkpoint))


def test_pickles_alone_are_refused(copied_checkpoint, tmp_path):
    plant(copied_checkpoint, tmp_path / "canary")
    (copied_checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds pickle weights only"):
        inspect_checkpoint(str(copied_checkpoint))
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("kind", ["load", "float16; import os", "no_such_type", 7])
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_an_odd_type_of_numbers_is_refused_or_nothing(copied_checkpoint, key, kind):
    edit_json(copied_checkpoint, **{key: kind})
    with suppress(PocketVLMError):  # and nothing else
        inspect_checkpoint(str(copied_checkpoint))
