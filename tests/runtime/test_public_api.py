"""What `import pocketvlm` gives, and what it must not bring along."""

import subprocess
import sys

import pytest

import pocketvlm

FORBIDDEN = {"torch", "transformers", "onnx", "pocketvlm_export"}


def modules_after(code):
    """Top-level modules loaded once ``code`` has run in a fresh interpreter; what it prints is
    ignored."""
    script = (
        f"import sys; {code}; print(); print(*(name for name in sys.modules if '.' not in name))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import pocketvlm",
        "from pocketvlm import VLM, Answer, Artifact",
        "import pocketvlm.decoders.onnx, pocketvlm.vision.overlay, pocketvlm.cli.run, "
        "pocketvlm.cli.verify",
    ],
)
def test_the_runtime_needs_none_of_the_exporters_libraries(code):
    assert not modules_after(code) & FORBIDDEN


def test_an_answer_on_the_device_needs_none_of_them_either(artifact_dir):
    code = (
        f"from pocketvlm import VLM, Sampling; VLM.load({str(artifact_dir)!r}).generate('hi', "
        f"sampling=Sampling(max_new_tokens=2))"
    )
    assert not modules_after(code) & FORBIDDEN


def test_the_command_line_waits_for_no_engine():
    loaded = modules_after(
        "from pocketvlm.cli import main; main(['run', '--help'], standalone_mode=False)"
    )
    assert not loaded & (FORBIDDEN | {"onnxruntime", "numpy"})


def test_limits_can_be_stated_before_anything_heavy_is_loaded():
    code = "from pocketvlm import Limits, PictureLimits; Limits(PictureLimits(max_bytes=1))"
    assert not modules_after(code) & (FORBIDDEN | {"onnxruntime", "numpy", "PIL"})


def test_the_limits_that_are_used_are_the_public_ones():
    from pocketvlm.media import pictures, videos
    from pocketvlm.vision import feature_cache

    assert pictures.PictureLimits is pocketvlm.PictureLimits
    assert videos.VideoLimits is pocketvlm.VideoLimits
    assert feature_cache.FeatureLimits is pocketvlm.FeatureLimits
    assert pocketvlm.Limits().sequences == pocketvlm.SequenceLimits(memory_bytes=2**30)


def test_the_public_names():
    names = [
        "VLM",
        "Answer",
        "Artifact",
        "Chat",
        "Guided",
        "PocketVLMError",
        "Sampling",
        "__version__",
    ]
    names += ["Limits", "PictureLimits", "VideoLimits", "FeatureLimits", "SequenceLimits"]
    names += ["EngineSettings", "Provider"]
    assert sorted(pocketvlm.__all__) == sorted(names)
    assert all(getattr(pocketvlm, name) is not None for name in pocketvlm.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = pocketvlm.nonsense
