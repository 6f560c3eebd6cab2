"""A model for one answer: its decoder is opened when its vision graphs are gone."""

import numpy as np
import pytest

from pocketvlm import VLM, EngineSettings, PocketVLMError, Sampling
from pocketvlm.ort import sessions
from pocketvlm.vision import encoder as vision
from support.tiny_artifact import write_artifact

PICTURE = np.random.default_rng(2).integers(0, 256, (30, 40, 3), dtype=np.uint8)
BRIEF = Sampling(max_new_tokens=6)
ONE_THREAD = EngineSettings(threads=1)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    root = tmp_path_factory.mktemp("once") / "tiny"
    write_artifact(root)
    return root


def load(root, **options):
    return VLM.load(root, settings=ONE_THREAD, **options)


def test_it_answers_as_any_other(artifact):
    expected = load(artifact).generate("what is it?", [PICTURE], sampling=BRIEF)
    once = load(artifact, once=True)
    assert once.decoder == "onnx fp32"
    before = once.parts.load_ms
    answer = once.generate("what is it?", [PICTURE], sampling=BRIEF)
    assert (answer.token_ids, answer.kept_indices) == (expected.token_ids, expected.kept_indices)
    assert answer.timings_ms["load"] > before  # the decoder's opening is loading
    assert answer.decoder == "onnx fp32"
    chat = load(artifact, once=True).chat(system="Be brief.")
    assert chat.ask("what?", [PICTURE], sampling=BRIEF).token_ids


def test_the_decoder_is_opened_when_the_vision_graph_is_gone(artifact, monkeypatch):
    opened, closed = [], []
    real, close = sessions.open_session, vision.VisionEncoder.close
    for module in ("pocketvlm.decoders.onnx", "pocketvlm.vision.encoder"):
        monkeypatch.setattr(
            f"{module}.open_session",
            lambda *given, **named: opened.append(given[2]) or real(*given, **named),
        )
    monkeypatch.setattr(
        vision.VisionEncoder, "close", lambda self: closed.append(len(opened)) or close(self)
    )
    once = load(artifact, once=True)
    assert opened == ["vision_encoder"]
    once.generate("what is it?", [PICTURE], sampling=BRIEF)
    assert closed == [1]
    assert opened[0] == "vision_encoder"
    assert set(opened[1:]) == {"decoder", "embed_tokens"}


def test_a_further_picture_is_refused_and_text_is_not(artifact):
    once = load(artifact, once=True)
    once.generate("what is it?", [PICTURE], sampling=BRIEF)
    with pytest.raises(PocketVLMError, match="the vision graph is closed"):
        once.generate("and this?", [255 - PICTURE], sampling=BRIEF)
    assert once.generate("why?", sampling=BRIEF).token_ids
    once.close()
    with pytest.raises(PocketVLMError, match="closed"):
        once.generate("why?", sampling=BRIEF)


def test_what_is_not_there_is_refused_before_anything_is_opened(artifact):
    for options, message in (
        ({"decoder_precision": "int3"}, "the decoder has no precision 'int3'"),
        ({"decoder_precision": "int3+fp32"}, "the decoder has no precision 'int3'"),
        ({"decoder": "llama.cpp"}, "decoder engine 'llama.cpp' is not in this artifact"),
    ):
        with pytest.raises(PocketVLMError, match=message.replace("(", r"\(")):
            load(artifact, once=True, **options)


def test_a_closed_model_opens_no_decoder(artifact):
    once = load(artifact, once=True)
    stream = once.stream("what is it?", [PICTURE], sampling=BRIEF)
    once.close()
    with pytest.raises(PocketVLMError, match="closed"):
        list(stream)
