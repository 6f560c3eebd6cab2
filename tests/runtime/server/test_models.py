"""Which models are held: what is asked for is opened once, the one unused for longest goes, and
none that is in use."""

import threading

import pytest

from pocketvlm import EngineSettings
from pocketvlm.answering import Abandoned
from pocketvlm.errors import RequestError
from pocketvlm.server.answers import answer_events
from pocketvlm.server.models import Models
from support.tiny_artifact import read_manifest, write_artifact, write_manifest

OPTIONS = {"settings": EngineSettings(threads=1)}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    root = tmp_path_factory.mktemp("artifacts") / "tiny"
    write_artifact(root, budgets=(6, 12))
    return root


def test_a_budget_is_answered_by_the_graph_that_serves_it(artifact):
    models = Models(str(artifact), OPTIONS)
    with models.using() as default, models.using(3) as smaller, models.using(6, "fp32") as named:
        assert default is smaller is named
        assert default.budget == 6
        with models.using(7) as larger, models.using(12, None, "fp32") as largest:
            assert larger is largest is not default
    for refused in ((13,), (6, "int8"), (6, None, "int8"), (6, None, "fp32+int8")):
        with pytest.raises(RequestError), models.using(*refused):
            pass


def test_the_servers_own_budget_and_precisions_are_the_defaults(artifact):
    models = Models(str(artifact), {**OPTIONS, "budget": 8, "decoder_precision": "fp32"})
    assert models.budget == models.facts()["budget"] == 8
    with models.using() as vlm, models.using(12) as other:
        assert vlm is other


def test_the_model_unused_for_longest_goes(artifact):
    models = Models(str(artifact), OPTIONS, most=1)
    with models.using() as first:
        pass
    with models.using(12) as second:
        assert second is not first
        with pytest.raises(Exception, match="closed"):
            first.generate("what?")
        assert second.generate("what?").text
    with models.using() as again:
        assert again is not first
        assert again.generate("what?").text


def test_one_that_is_in_use_is_waited_for_and_who_waits_is_not_overtaken(artifact):
    models, order = Models(str(artifact), OPTIONS, most=1), []

    def ask(budget):
        with models.using(budget):
            order.append(budget)

    with models.using() as vlm:
        waiting = threading.Thread(target=ask, args=(12,), daemon=True)
        waiting.start()
        waiting.join(0.2)
        later = threading.Thread(target=ask, args=(6,), daemon=True)
        later.start()  # the model that it asks for is there, and would never be let go of
        later.join(0.2)
        assert order == []
        assert vlm.generate("what?").text
    for thread in (waiting, later):
        thread.join(30)
    assert order == [12, 6]


def test_a_model_that_needs_a_guide_is_refused(artifact, tmp_path):
    write_artifact(tmp_path / "staged")
    manifest = read_manifest(tmp_path / "staged")
    manifest["decoder"]["stages"] = [{"layer": 1, "keep": 2, "by": "given"}]
    write_manifest(tmp_path / "staged", manifest)
    with pytest.raises(RequestError, match="guide"):
        Models(str(tmp_path / "staged"), OPTIONS)


def test_nothing_is_decoded_for_a_request_that_was_left_while_it_waited(artifact):
    gone = threading.Event()
    gone.set()
    message = {"role": "user", "content": [{"type": "image", "image": 0}]}
    asked = {"messages": [message], "sampling": {}, "max_tokens": 1}
    models = Models(str(artifact), OPTIONS)
    with models.using() as vlm, pytest.raises(Abandoned):
        next(answer_events(vlm, asked, [b"no picture"], 6, gone))
