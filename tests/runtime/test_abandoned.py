"""An answer that nobody waits for ends before its next step, and leaves nothing behind."""

import threading
from dataclasses import replace

import pytest

from pocketvlm import VLM, EngineSettings, Sampling
from pocketvlm.answering import Abandoned
from pocketvlm.limits import APART
from support.tiny_artifact import write_artifact


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    root = tmp_path_factory.mktemp("artifacts") / "tiny"
    write_artifact(root)
    return root


@pytest.fixture
def vlm(artifact):
    return VLM.load(artifact, settings=EngineSettings(threads=1), limits=APART)


def begin(vlm, gone, pictures):
    asked = vlm.prepare("what?", pictures, sampling=Sampling(max_new_tokens=20))
    return vlm.parts.begin(replace(asked, gone=gone))


@pytest.mark.parametrize("steps", range(5))
def test_it_ends_before_its_next_step(vlm, picture, monkeypatch, steps):
    """A step is a picture, the prompt, or a token."""
    gone, done = threading.Event(), []
    sequence = type(vlm.parts.decoder.sequence())

    def counting(kind, name):
        real = getattr(kind, name)

        def step(self, *arguments, **options):
            result = real(self, *arguments, **options)
            done.append(name)
            if len(done) == steps:
                gone.set()
            return result

        monkeypatch.setattr(kind, name, step)

    counting(type(vlm.parts.viewer), "encode")
    counting(sequence, "prefill")
    counting(sequence, "decode")
    if steps == 0:
        gone.set()
    with pytest.raises(Abandoned):
        list(begin(vlm, gone, [picture, picture.T.copy().reshape(picture.shape)]))
    assert done == ["encode", "encode", "prefill", "decode"][:steps]
    assert vlm.cache_bytes == 0
    whole = vlm.generate("what?", [picture])
    assert whole.text == vlm.generate("what?", [picture]).text


def test_one_that_is_waited_for_is_as_ever(vlm, picture):
    expected = vlm.generate("what?", [picture], sampling=Sampling(max_new_tokens=20))
    assert begin(vlm, threading.Event(), [picture]).answer.token_ids == expected.token_ids
