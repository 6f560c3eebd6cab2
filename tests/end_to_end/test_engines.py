"""The same artifact on both engines: the same answers, conversations included, and each says who
gave them."""

import itertools
import json

import pytest
from click.testing import CliRunner

from pocketvlm import VLM, Artifact, EngineSettings, Limits, PocketVLMError, Sampling
from pocketvlm.cli import main
from pocketvlm.decoders.pool import SequenceLimits
from pocketvlm.limits import APART
from pocketvlm_export import ExportOptions, export
from pocketvlm_measure.cases import sweep
from pocketvlm_measure.profiler.measure import profile
from pocketvlm_measure.profiler.questions import Question
from pocketvlm_measure.profiler.result import STAGES
from pocketvlm_measure.profiler.rows import rows
from train_demo.scenes import question_set

pytest.importorskip(
    "llama_cpp", reason="llama-cpp-python is not installed: pip install 'pocketvlm[llama]'"
)

ENGINES = {"onnx": "onnx fp32", "llama.cpp": "llama.cpp f16"}
QUESTIONS = ["Describe the picture.", "How many objects are there?", "Describe the picture."]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("both") / "artifact"
    export("demo", folder, ExportOptions(budgets=(36,), decoder="both", gguf_types=("f16",)))
    return folder


@pytest.fixture(scope="module")
def loaded(artifact):
    settings = EngineSettings(threads=1)
    return {
        engine: VLM.load(artifact, decoder=engine, settings=settings, limits=APART)
        for engine in ENGINES
    }


def test_onnx_answers_unless_asked(artifact, loaded):
    assert VLM.load(artifact).decoder == "onnx fp32"
    assert {engine: vlm.decoder for engine, vlm in loaded.items()} == ENGINES


def test_both_give_the_same_answers(loaded):
    for picture, question in question_set("validation", 28):
        answers = [vlm.generate(question.text, images=[picture]) for vlm in loaded.values()]
        assert [answer.decoder for answer in answers] == list(ENGINES.values())
        assert answers[0].token_ids == answers[1].token_ids
        assert answers[0].kept_indices == answers[1].kept_indices


def test_both_converse_alike(loaded, examples):
    conversations = {}
    for engine, vlm in loaded.items():
        chat = vlm.chat()
        pictures = [[examples / "scene-1.png"], [], [examples / "scene-2.png"]]
        answers = [
            chat.ask(q, images, sampling=Sampling(max_new_tokens=40))
            for q, images in zip(QUESTIONS, pictures, strict=True)
        ]
        assert answers[1].prompt_tokens["cached"] >= answers[0].prompt_tokens["total"]
        assert answers[2].visual_tokens == {"before": 288, "after": 72}
        conversations[engine] = [(answer.token_ids, answer.prompt_tokens) for answer in answers]
    assert conversations["onnx"] == conversations["llama.cpp"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_conversation_equals_its_questions_asked_without_memory(
    artifact, loaded, examples, engine
):
    """A kept cache against a fresh one, which computes the whole conversation at once."""
    settings, no_room = EngineSettings(threads=1), SequenceLimits(memory_bytes=0, kept=0)
    small = VLM.load(
        artifact,
        decoder=engine,
        settings=settings,
        limits=Limits(sequences=no_room),
    )
    chat, forgetful, rival = loaded[engine].chat(), small.chat(), small.chat()
    turns_pictures = [[examples / "scene-1.png"], [], []]
    kept = [
        chat.ask(q, pictures, sampling=Sampling(max_new_tokens=30))
        for q, pictures in zip(QUESTIONS, turns_pictures, strict=True)
    ]
    assert [answer.prompt_tokens["cached"] > 0 for answer in kept] == [False, True, True]
    for question, pictures, expected in zip(QUESTIONS, turns_pictures, kept, strict=True):
        rival.ask(
            "", sampling=Sampling(max_new_tokens=1)
        )  # which takes the other conversation's room
        answer = forgetful.ask(question, pictures, sampling=Sampling(max_new_tokens=30))
        assert answer.prompt_tokens["cached"] == 0
        assert answer.token_ids == expected.token_ids


def test_sampling_means_the_same_and_is_repeatable(loaded, examples):
    for vlm in loaded.values():

        def sample(seed, vlm=vlm, **setting):
            options = {"temperature": 1.5, "max_new_tokens": 12, "seed": seed} | setting
            return vlm.generate(
                "Describe the picture.",
                [examples / "scene-1.png"],
                sampling=Sampling(**options),
            ).token_ids

        assert sample(1) == sample(1)
        assert len({tuple(sample(seed)) for seed in range(4)}) > 1
        greedy = vlm.generate(
            "Describe the picture.",
            [examples / "scene-1.png"],
            sampling=Sampling(max_new_tokens=12),
        ).token_ids
        assert sample(3, top_p=1e-6) == greedy
        assert sample(3, top_k=1) == greedy


def test_penalties_mean_the_same_to_both(loaded, examples):
    sampling = Sampling(
        max_new_tokens=24, min_new_tokens=24, repetition_penalty=1.3, no_repeat_ngram_size=2
    )
    answers = [
        vlm.generate("Describe the picture.", [examples / "scene-1.png"], sampling=sampling)
        for vlm in loaded.values()
    ]
    plain = loaded["onnx"].generate("Describe the picture.", [examples / "scene-1.png"])
    assert answers[0].token_ids == answers[1].token_ids != plain.token_ids
    pairs = list(itertools.pairwise(answers[0].token_ids))
    assert len(set(pairs)) == len(pairs)


def test_the_timings_have_the_same_fields(loaded, examples):
    timings = [
        vlm.generate(
            "Describe the picture.", [examples / "scene-1.png"], sampling=Sampling(max_new_tokens=3)
        ).timings_ms
        for vlm in loaded.values()
    ]
    assert list(timings[0]) == list(timings[1])
    for milliseconds in timings:
        assert milliseconds["total"] == pytest.approx(milliseconds["ttft"] + milliseconds["decode"])
        assert milliseconds["prefill"] > 0


def test_the_commands_take_either_engine(artifact, examples):
    for engine, name in ENGINES.items():
        options = ["--image", examples / "scene-3.png", "--decoder", engine, "--json"]
        for command, extra, typed in (
            ("run", ["--prompt", QUESTIONS[0]], None),
            ("chat", [], QUESTIONS[0]),
        ):
            arguments = [command, artifact, *options, *extra]
            result = CliRunner().invoke(
                main, [str(argument) for argument in arguments], input=typed
            )
            assert result.exit_code == 0, result.output
            assert json.loads(result.stdout)["decoder"] == name
    result = CliRunner().invoke(main, ["verify", str(artifact), "--json"])
    assert "gguf/decoder-f16.gguf" in json.loads(result.stdout)["graphs"]


def test_an_artifact_for_llama_cpp_alone_answers(tmp_path, examples):
    export(
        "demo",
        tmp_path / "a",
        ExportOptions(budgets=(36,), decoder="llama.cpp", gguf_types=("q8_0",)),
    )
    assert not list((tmp_path / "a" / "onnx").glob("decoder*"))
    vlm = VLM.load(tmp_path / "a", settings=EngineSettings(threads=1))
    assert vlm.decoder == "llama.cpp q8_0"
    assert (
        vlm.generate("How many objects are there?", [examples / "scene-3.png"]).text.strip()
        == "three"
    )
    with pytest.raises(PocketVLMError, match="'onnx' is not in this artifact"):
        VLM.load(tmp_path / "a", decoder="onnx")


def test_a_profile_sets_the_engines_side_by_side(artifact, examples):
    opened = Artifact.open(artifact)
    question = Question("Describe the picture.", (str(examples / "scene-2.png"),), new_tokens=4)
    report = profile(
        opened,
        sweep(opened.manifest, decoders=("all",), threads=(1,)),
        question,
        repeat=1,
        warmup=0,
    )
    onnx, llama = report.results
    assert (onnx.case.decoder, llama.case.decoder) == ("onnx", "llama.cpp")
    assert llama.stages["embed"].median == 0  # llama.cpp looks embeddings up itself
    assert (
        onnx.costs.kv_bytes == 2 * llama.costs.kv_bytes == 36 * 2 * 4 * 2 * 64 * 4
    )  # float32 against float16
    assert (
        onnx.costs.flops
        == llama.costs.flops
        == 8 * (4 * 36 * 256**2 + 2 * 36**2 * 256 + 3 * 36 * 256 * 768)
    )
    assert {result.samples[0].new_tokens for result in report.results} == {4}
    assert len(list(rows(report))) == 2 * len(STAGES)
