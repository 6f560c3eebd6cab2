"""The client for JavaScript, in Node: the demo's answers token by token, as the runtime gives
them."""

import json
import shutil
import subprocess

import pytest
from PIL import Image

from pocketvlm import VLM, Sampling
from pocketvlm_measure.evaluation.questions import read_questions
from support.node import CLIENT, MODULES, needs_node, pixels_of, run_client

pytestmark = needs_node

BUDGETS, STEPS = (36, 7), 16
GREEDY = Sampling(max_new_tokens=STEPS)

ANSWERS = """
const vlm = await load(given.folder);
results.notices = vlm.notices;
results.provider = vlm.provider;
results.scenes = [];
for (const { pixels, questions } of given.scenes) {
  const seen = await vlm.see(picture(pixels));
  const answers = [];
  for (const budget of given.budgets)
    for (const prompt of questions) {
      const answer = vlm.answer({ prompt, pictures: [seen], budget, maxNewTokens: given.steps });
      const pieces = [];
      for await (const piece of answer) pieces.push(piece);
      const { kept, ...result } = await answer.result;
      answers.push({ ...result, kept: kept[0][0], joined: pieces.join("") });
    }
  const kept = given.budgets.map((budget) => Array.from(seen.kept(budget)[0]));
  results.scenes.push({ answers, kept });
}
const [{ pixels, questions }] = given.scenes;
const seen = await vlm.see(picture(pixels));
const turns = [], messages = [];
for (const text of questions) {
  const first = messages.length ? [] : [{ type: "image" }];
  messages.push({ role: "user", content: [...first, { type: "text", text }] });
  const { result } = vlm.answer({ messages, pictures: [seen], maxNewTokens: given.steps });
  const { text: answer, tokenIds, promptTokens } = await result;
  turns.push({ tokenIds, promptTokens });
  messages.push({ role: "assistant", content: answer });
}
results.turns = turns;
const [prompt] = questions, pictures = [seen];
results.alone = (await vlm.answer({ prompt, maxNewTokens: given.steps }).result).tokenIds;
const stopping = new AbortController();
const { signal } = stopping, onToken = () => stopping.abort();
results.stopped = await vlm.answer({ prompt, pictures, signal, onToken }).result;
results.cutShort = await vlm.answer({ prompt, pictures, stop: [given.stop] }).result;
const sampled = (sampling) => vlm.answer({ prompt, pictures, sampling }).result;
const drawn = (seed) => sampled({ temperature: 3, seed });
results.drawn = (await Promise.all([1, 1, 2, 3, 4].map(drawn))).map(({ tokenIds }) => tokenIds);
results.refused = await Promise.all([
  refusal(() => vlm.answer({ prompt: "what?", pictures: [seen], budget: 37 }).result),
  refusal(() => vlm.answer({ prompt: "what?", messages: [] }).result),
  refusal(() => vlm.answer({ prompt: "<image> and <image>?", pictures: [seen] }).result),
  refusal(() => vlm.answer({ prompt: "what?", maxNewTokens: 100000 }).result),
  refusal(() => vlm.answer({ prompt: "what?", sampling: { typical_p: 0.5 } }).result),
  refusal(() => vlm.answer({ messages: [{ role: "user", content: "<image>" }] }).result),
]);
"""


@pytest.fixture(scope="module")
def scenes(examples):
    listed = read_questions(examples / "questions.jsonl").questions
    by_scene: dict[str, list[str]] = {}
    for question in listed:
        by_scene.setdefault(str(question.images[0]), []).append(question.text)
    return {path: questions[:2] for path, questions in by_scene.items()}


@pytest.fixture(scope="module")
def results(demo_artifact, scenes, tmp_path_factory):
    assert len(scenes) == 3
    vlm = VLM.load(demo_artifact)
    path, questions = next(iter(scenes.items()))
    answer = vlm.generate(questions[0], [path], sampling=GREEDY)
    return run_client(
        tmp_path_factory.mktemp("client"),
        ANSWERS,
        folder=str(demo_artifact),
        budgets=BUDGETS,
        steps=STEPS,
        stop=answer.text.strip()[:1],
        scenes=[
            {"pixels": pixels_of(Image.open(path)), "questions": questions}
            for path, questions in scenes.items()
        ],
    )


@pytest.fixture(scope="module")
def vlm(demo_artifact):
    return VLM.load(demo_artifact)


def test_answers_and_kept_patches_are_the_runtimes(results, scenes, vlm):
    assert (results["provider"], results["notices"]) == ("cpu", [])
    for scene, (path, questions) in zip(results["scenes"], scenes.items(), strict=True):
        asked = [(budget, question) for budget in BUDGETS for question in questions]
        for answer, (budget, question) in zip(scene["answers"], asked, strict=True):
            expected = vlm.generate(question, [path], budget=budget, sampling=GREEDY)
            assert answer["tokenIds"] == expected.token_ids
            assert answer["kept"] == expected.kept_indices[0]
            assert answer["text"] == answer["joined"] == expected.text
            assert answer["finishReason"] == expected.finish_reason
            assert answer["promptTokens"]["total"] == expected.prompt_tokens["total"]
            assert answer["kept"] == scene["kept"][BUDGETS.index(budget)]


def test_a_further_question_goes_on_from_the_picture(results):
    for scene in results["scenes"]:
        first, second, smaller, _ = (
            answer["promptTokens"]["cached"] for answer in scene["answers"]
        )
        assert second > BUDGETS[0]  # the picture, and what stands before it
        assert first < BUDGETS[0]
        assert smaller < BUDGETS[1]


def test_a_conversation_is_the_runtimes_and_reuses_its_cache(results, scenes, vlm):
    path, questions = next(iter(scenes.items()))
    chat = vlm.chat()
    for number, (turn, question) in enumerate(zip(results["turns"], questions, strict=True)):
        images = None if number else [path]
        assert turn["tokenIds"] == chat.ask(question, images, sampling=GREEDY).token_ids
    first, second = (turn["promptTokens"] for turn in results["turns"])
    assert second["cached"] >= first["total"] - 1


def test_a_question_without_a_picture(results, scenes, vlm):
    question = next(iter(scenes.values()))[0]
    assert results["alone"] == vlm.generate(question, sampling=GREEDY).token_ids


def test_an_answer_ends_where_it_is_told_to(results):
    stopped, cut = results["stopped"], results["cutShort"]
    assert (len(stopped["tokenIds"]), stopped["finishReason"]) == (1, "interrupted")
    assert (cut["text"].strip(), cut["finishReason"]) == ("", "stop")


def test_a_seed_makes_draws_repeatable(results):
    one, again, *others = results["drawn"]
    assert one == again
    assert any(other != one for other in others)


def test_what_is_not_served_is_refused_in_words(results):
    budget, both, places, long, sampling, spelt = results["refused"]
    assert budget == "ClientError: A budget of 37 is not served: the loaded graph keeps 1 to 36"
    assert "prompt or messages" in both
    assert "2 <image> for 1 pictures" in places
    assert "are more than" in long
    assert "typical_p is not a setting" in sampling
    assert "a part of its own" in spelt


SELF_TEST = """
const wasm = { runtime: "onnxruntime-web", provider: "wasm" };
const vlm = await load(given.folder, wasm);
results.notices = vlm.notices;
const seen = await vlm.see(picture(given.pixels));
const asked = { prompt: given.question, pictures: [seen], maxNewTokens: 8 };
results.tokenIds = (await vlm.answer(asked).result).tokenIds;
results.damaged = [];
for (const folder of given.damaged) results.damaged.push(await refusal(() => load(folder, wasm)));
const largest = { ...wasm, budget: "largest" };
results.largest = [(await load(given.folder, largest)).budget];
results.largest.push(await refusal(() => load(given.damaged[1], largest)));
const gpu = await load(given.folder, { ...wasm, provider: "webgpu" });
results.instead = [gpu.provider, gpu.notices];
"""


def damaged(artifact, folder, change):
    shutil.copytree(artifact, folder)
    path = folder / "selftest" / "image.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return str(folder)


def other_patches(data):
    for row in data["vision"]:
        for batch in row["batches"]:
            batch["kept_indices"] = [[*range(len(each))] for each in batch["kept_indices"]]


def other_logits(data):
    data["decoder"]["logits"]["values"] = [
        [-value for value in row] for row in data["decoder"]["logits"]["values"]
    ]


def test_web_assembly_is_held_against_the_self_test(demo_artifact, scenes, vlm, tmp_path):
    path, questions = next(iter(scenes.items()))
    changes = {
        "patches": other_patches,
        "logits": other_logits,
        "form": lambda data: data.pop("vision"),
        "silent": lambda data: data["vision"][0]["bounds"].clear(),
    }
    results = run_client(
        tmp_path,
        SELF_TEST,
        folder=str(demo_artifact),
        pixels=pixels_of(Image.open(path)),
        question=questions[0],
        damaged=[damaged(demo_artifact, tmp_path / name, each) for name, each in changes.items()],
    )
    expected = vlm.generate(questions[0], [path], sampling=Sampling(max_new_tokens=8))
    assert (results["notices"], results["tokenIds"]) == ([], expected.token_ids)
    patches, logits, form, silent = results["damaged"]
    assert "wasm computes this model wrong on this device" in patches
    assert "kept" in patches
    assert "logits" in logits
    assert "The self-test is damaged" in form
    assert "says nothing of the vision graph" in silent
    largest, refused = results["largest"]
    assert largest == 144  # whose decoder is tried at the budget that the self-test has
    assert "logits" in refused
    provider, notices = results["instead"]
    assert provider == "wasm"
    assert "WebGPU is not used" in notices[0]


def test_the_example_for_node_answers_from_a_folder(demo_artifact, scenes, vlm, tmp_path):
    shutil.copytree(
        CLIENT.parent, tmp_path / "clients", ignore=shutil.ignore_patterns("node_modules")
    )
    (tmp_path / "clients" / "node_modules").symlink_to(MODULES / "node_modules")
    path, questions = next(iter(scenes.items()))

    def ask(*words):
        command = ["node", str(tmp_path / "clients" / "node" / "ask.mjs"), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    done = ask(str(demo_artifact), questions[0], path, "--budget", "7")
    expected = vlm.generate(questions[0], [path], budget=7)
    assert (done.returncode, done.stdout) == (0, f"{expected.text}\n"), done.stderr
    assert "7 visual tokens" in done.stderr
    refused = ask(str(tmp_path / "nothing"), questions[0])
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "cannot be read" in refused.stderr
