"""Tokens that the question decides on, the whole way from pixels to an answer, with a tiny
artifact and numpy twins of its graphs."""

import gc
import json
import weakref

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper

from pocketvlm import VLM, Artifact, Limits, PocketVLMError, Sampling
from pocketvlm.artifact import Manifest
from pocketvlm.cli import main
from pocketvlm.cli.run import summary
from pocketvlm.errors import ArtifactError, EngineError, RequestError
from pocketvlm.limits import FeatureLimits
from pocketvlm.media.pictures import open_picture
from pocketvlm.text.prompts import Prompter
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vision.overlay import draw_budgets
from pocketvlm.vision.selector import TokenSelector
from support.gguf_files import needs_llama_cpp
from support.noise import picture
from support.tiny_artifact import (
    cut_pictures,
    give_gguf,
    give_selectors,
    make_dynamic,
    read_manifest,
    write_artifact,
    write_manifest,
)
from support.tiny_graphs import HIDDEN, PATCHES, reference_logits, reference_selected

K = 6
SHORT = Sampling(max_new_tokens=3)
WHAT, WHERE = "what is in the picture?", "a blue circle"
ONE, OTHER = picture(24, 16), picture(16, 20)


@pytest.fixture
def weights(tmp_path):
    weights = write_artifact(tmp_path / "a", budgets=(K, 3))
    give_selectors(tmp_path / "a", weights, (K, 3))
    return weights


@pytest.fixture
def folder(weights, tmp_path):
    return tmp_path / "a"


@pytest.fixture
def vlm(folder):
    return VLM.load(folder)


@pytest.fixture
def encoded(monkeypatch):
    """Batches that go through the vision graph."""
    calls, real = [], VisionEncoder.encode

    def encode(self, pixel_values, *rest):
        calls.append(len(pixel_values))
        return real(self, pixel_values, *rest)

    monkeypatch.setattr(VisionEncoder, "encode", encode)
    return calls


def words(vlm, question):
    return vlm.parts.prompter.tokenizer.encode(question, add_special_tokens=False).ids


def selected(weights, vlm, image, question, k):
    """(features, patches) of each tile of a picture, from the numpy twins."""
    pixels = vlm.parts.viewer.layout.cut(open_picture(image)).pixel_values
    return [reference_selected(weights, tile, words(vlm, question), k) for tile in pixels]


def numbered(kept, tokens=PATCHES):
    """Patches of each tile as an answer has them."""
    return np.concatenate([tokens * at + each for at, each in enumerate(kept)]).tolist()


def by_hand(weights, vlm, messages, images, question, k, steps=3):
    """Greedy ids after a conversation, from the numpy twins."""
    ids = vlm.parts.prompter.encode_messages(messages, len(images), k)
    embeddings = weights.embed[ids].astype(np.float64)
    rows = [selected(weights, vlm, image, question, k)[0][0] for image in images]
    embeddings[ids == vlm.parts.prompter.image_token_id] = np.concatenate(rows)
    token_ids = []
    while len(token_ids) < steps:
        token_ids.append(int(np.argmax(reference_logits(weights, embeddings))))
        embeddings = np.vstack([embeddings, weights.embed[token_ids[-1]]])
        if token_ids[-1] in vlm.artifact.manifest.decoder.eos_token_ids:
            break
    return token_ids


@pytest.mark.parametrize("question", [WHAT, WHERE])
@pytest.mark.parametrize("budget", [K, 4, 3, 1])
def test_answers_equal_those_computed_by_hand(weights, vlm, question, budget):
    """4 and 1 are cut from the graphs of 6 and 3, as their scores say."""
    answer = vlm.generate(question, [ONE, OTHER], budget=budget, sampling=SHORT)
    messages = vlm.parts.prompter.messages(question, 2)
    assert answer.token_ids == by_hand(weights, vlm, messages, [ONE, OTHER], question, budget)
    for image, kept in zip([ONE, OTHER], answer.kept_indices, strict=True):
        assert kept == selected(weights, vlm, image, question, budget)[0][1].tolist()
    assert answer.visual_tokens == {"before": 2 * PATCHES, "after": 2 * budget}
    assert 0 < answer.timings_ms["select"] <= answer.timings_ms["vision"]


def test_the_question_decides(weights, vlm):
    kept = [
        vlm.generate(question, [ONE], sampling=SHORT).kept_indices for question in (WHAT, WHERE)
    ]
    assert kept[0] != kept[1]


def test_a_smaller_graph_serves_a_smaller_budget(folder, weights):
    vlm = VLM.load(folder, budget=3)
    answer = vlm.generate(WHAT, [ONE], sampling=SHORT)
    assert answer.kept_indices == [selected(weights, vlm, ONE, WHAT, 3)[0][1].tolist()]
    with pytest.raises(RequestError, match=r"1\.\.3"):
        vlm.generate(WHAT, [ONE], budget=4)


def test_of_messages_the_users_last_words_are_read(weights, vlm):
    content = [
        {"type": "text", "text": "a blue"},
        {"type": "image", "image": ONE},
        {"type": "text", "text": "circle"},
    ]
    messages = [
        {"role": "system", "content": "what is in the picture?"},
        {"role": "user", "content": content},
    ]
    kept = vlm.generate(messages=messages, sampling=SHORT).kept_indices
    assert kept == [selected(weights, vlm, ONE, WHERE, K)[0][1].tolist()]


@pytest.mark.parametrize("prompt", ["", "  ", "<image>"])
def test_a_question_without_words_is_answered(vlm, prompt):
    answer = vlm.generate(prompt, [ONE], sampling=SHORT)
    assert len(answer.kept_indices[0]) == K


def test_a_picture_placed_in_the_words_is_none_of_them(weights, vlm):
    kept = vlm.generate("a <image> blue circle", [ONE], sampling=SHORT).kept_indices
    text = vlm.parts.prompter.question(
        {"role": "user", "content": [{"type": "text", "text": "a <image> blue circle"}]}
    )
    assert vlm.parts.prompter.image_token_id not in text
    pixels = vlm.parts.viewer.layout.cut(open_picture(ONE)).pixel_values[0]
    assert kept == [reference_selected(weights, pixels, text, K)[1].tolist()]


def test_tiles_are_selected_from_one_by_one(folder, weights):
    cut_pictures(folder, 2, 2)
    vlm, image = VLM.load(folder), picture(40, 40)
    answer = vlm.generate(WHERE, [image], sampling=SHORT)
    tiles = selected(weights, vlm, image, WHERE, K)
    assert len(tiles) == 5
    assert answer.kept_indices == [numbered([kept for _, kept in tiles])]


@pytest.mark.parametrize(("size", "tokens"), [((20, 12), 15), ((12, 8), 6), ((8, 4), 2)])
def test_pictures_of_any_size(tmp_path, size, tokens):
    """With more tokens than the budget, as many, and fewer."""
    weights = write_artifact(tmp_path / "a", budgets=(K,))
    make_dynamic(tmp_path / "a", weights, K, 24)
    give_selectors(tmp_path / "a", weights, (K,), dynamic=True)
    vlm, image = VLM.load(tmp_path / "a"), picture(*size)
    for budget in (K, 2):
        answer = vlm.generate(WHAT, [image], budget=budget, sampling=SHORT)
        ((_, kept),) = selected(weights, vlm, image, WHAT, min(budget, tokens))
        assert answer.kept_indices == [kept.tolist()]
        assert answer.pictures_below_budget == (tokens < budget)
    chat = vlm.chat()
    for question in (WHAT, WHERE):  # from the cache too
        answer = chat.ask(question, [image] if question == WHAT else None, sampling=SHORT)
        ((_, kept),) = selected(weights, vlm, image, question, min(K, tokens))
        assert answer.kept_indices == [kept.tolist()]


def test_further_features_are_selected_with_them(tmp_path):
    weights = write_artifact(tmp_path / "a", budgets=(K,))
    give_selectors(tmp_path / "a", weights, (K,), extras=("deepstack_0", "deepstack_1"))
    vlm = VLM.load(tmp_path / "a")
    ((features, _),) = selected(weights, vlm, ONE, WHERE, 4)
    for _ in range(2):  # anew, and from the cache
        (prepared,) = vlm.parts.viewer.prepare([ONE], 4)
        ids = np.array(words(vlm, WHERE))
        segment = vlm.parts.viewer.encode(prepared, cached=True, question=ids)
        np.testing.assert_allclose(segment.inputs_embeds, features, rtol=1e-4, atol=1e-5)
        for number in range(2):
            extra = segment.extras[f"deepstack_{number}"]
            np.testing.assert_allclose(extra, (number + 2) * features, rtol=1e-4, atol=1e-5)


def test_in_a_conversation_each_question_selects_anew(weights, vlm, encoded):
    """No picture goes through the tower twice; the prompt is read again from the first picture
    whose tokens are others."""
    chat, images, before = vlm.chat(), [], None
    for question, new in ((WHAT, [ONE]), (WHERE, []), (WHERE, [OTHER]), (WHAT, [])):
        images += new
        messages = [*chat.messages, *vlm.parts.prompter.messages(question, len(new))]
        answer = chat.ask(question, new, sampling=SHORT)
        assert answer.token_ids == by_hand(weights, vlm, messages, images, question, K)
        kept = [selected(weights, vlm, image, question, K)[0][1].tolist() for image in images]
        assert answer.kept_indices == kept
        anew = before is not None and question != before
        assert answer.pictures_selected_anew == (len(images) if anew else 0)
        cached = answer.prompt_tokens["cached"]
        assert (cached < K) if before is None or anew else (cached > K)
        assert ("selected again by the question" in summary(answer)) == anew
        before = question
    assert encoded == [1, 1]


def test_a_question_that_keeps_the_same_tokens_reads_on(weights, vlm):
    """Another question may keep the same: then nothing is read again."""
    chat = vlm.chat(budget=1)
    first = chat.ask(WHAT, [ONE], sampling=SHORT)
    again = chat.ask(f"{WHAT} {WHAT}", sampling=SHORT)
    assert first.kept_indices == again.kept_indices
    assert again.pictures_selected_anew == 0
    assert again.prompt_tokens["cached"] >= first.prompt_tokens["total"]


def test_two_answers_from_one_point_do_not_disturb_each_other(weights, vlm):
    chat = vlm.chat()
    chat.ask(WHAT, [ONE], sampling=SHORT)
    messages = chat.messages
    streams = {question: chat.stream(question, sampling=SHORT) for question in (WHAT, WHERE)}
    for stream in streams.values():
        next(iter(stream), None)
    for question, stream in streams.items():
        asked = [*messages, *vlm.parts.prompter.messages(question, 0)]
        assert stream.answer.token_ids == by_hand(weights, vlm, asked, [ONE], question, K)
        kept = selected(weights, vlm, ONE, question, K)[0][1].tolist()
        assert stream.answer.kept_indices == [kept]


def test_without_room_in_the_cache_pictures_are_encoded_again(folder, weights, encoded):
    """What is kept there are the features of all tokens, which count in bytes."""
    every = PATCHES * (HIDDEN * 4 + 12)
    for room, calls in ((every, 1), (every - 1, 2)):
        encoded.clear()
        limits = Limits(features=FeatureLimits(memory_bytes=room))
        vlm = VLM.load(folder, limits=limits)
        chat = vlm.chat()
        chat.ask(WHAT, [ONE], sampling=SHORT)
        answer = chat.ask(WHERE, sampling=SHORT)
        assert answer.kept_indices == [selected(weights, vlm, ONE, WHERE, K)[0][1].tolist()]
        assert len(encoded) == calls


def test_a_folder_of_features_serves_every_question_and_budget(folder, weights, tmp_path, encoded):
    for budget, question in ((K, WHAT), (3, WHERE), (K, WHERE)):
        vlm = VLM.load(folder, budget=budget, feature_cache=tmp_path / "features")
        answer = vlm.generate(question, [ONE], sampling=SHORT)
        kept = selected(weights, vlm, ONE, question, budget)[0][1].tolist()
        assert answer.kept_indices == [kept]
    assert encoded == [1]
    assert len(list((tmp_path / "features").iterdir())) == 1


@needs_llama_cpp
def test_llama_cpp_reads_what_is_selected(folder, weights):
    give_gguf(folder)
    vlm = VLM.load(folder)
    assert vlm.decoder.startswith("llama.cpp")
    chat = vlm.chat()
    for question in (WHAT, WHERE):
        answer = chat.ask(question, [ONE] if question == WHAT else None, sampling=SHORT)
        assert answer.kept_indices == [selected(weights, vlm, ONE, question, K)[0][1].tolist()]
        assert answer.token_ids


def test_a_model_for_one_answer_frees_the_selector_before_the_decoder(folder, monkeypatch):
    alive, closed = [], VisionEncoder.close
    selectors = weakref.WeakSet()
    real = TokenSelector.open
    monkeypatch.setattr(
        TokenSelector,
        "open",
        lambda *given, **named: selectors.add(made := real(*given, **named)) or made,
    )

    def close(self):
        closed(self)
        gc.collect()
        alive.append(len(selectors))

    monkeypatch.setattr(VisionEncoder, "close", close)
    expected = VLM.load(folder).generate(WHAT, [ONE], sampling=SHORT)
    gc.collect()
    once = VLM.load(folder, once=True)
    answer = once.generate(WHAT, [ONE], sampling=SHORT)
    assert alive == [0]
    assert (answer.token_ids, answer.kept_indices) == (expected.token_ids, expected.kept_indices)
    assert once.generate(WHERE, sampling=SHORT).token_ids  # words alone are still read
    with pytest.raises(EngineError, match="is closed"):
        once.generate(WHERE, [ONE], sampling=SHORT)


def test_without_a_question_nothing_is_selected(vlm):
    encoder, pixels = vlm.parts.viewer.encoder, np.zeros((1, 3, 16, 16), np.float32)
    assert encoder.encode(pixels).kept_indices.shape == (1, PATCHES)
    with pytest.raises(RequestError, match="there is no question"):
        encoder.select(encoder.encode(pixels))


def test_the_command_line_draws_what_a_question_keeps(folder, weights, vlm, tmp_path):
    ONE.save(tmp_path / "one.png")
    command = ["inspect", str(folder), "--image", str(tmp_path / "one.png"), "--json"]
    command += ["--overlay", str(tmp_path / "kept.png")]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 1
    assert "there is no question: give a prompt" in refused.stderr
    drawn = CliRunner().invoke(main, [*command, "--prompt", WHERE])
    kept = selected(weights, vlm, ONE, WHERE, K)[0][1].tolist()
    assert json.loads(drawn.stdout)["kept_indices"] == kept
    assert CliRunner().invoke(main, ["inspect", str(folder), "--prompt", "x"]).exit_code == 2
    shown = CliRunner().invoke(main, ["inspect", str(folder)]).stdout
    assert "selected by the question" in shown
    assert "selector k=3" in shown
    verified = json.loads(CliRunner().invoke(main, ["verify", str(folder), "--json"]).stdout)
    assert {"onnx/selector.onnx", "onnx/selector.k3.onnx"} <= set(verified["graphs"])


@pytest.mark.parametrize("question", ["a <image> blue circle", "<image> a blue circle"])
def test_a_drawing_keeps_what_the_answer_keeps(folder, vlm, question):
    """The place of a picture in the words is none of them, here as there."""
    answer = vlm.generate(question, [ONE], sampling=SHORT)
    ((_, kept),) = draw_budgets(Artifact.open(folder), ONE, [K], question=question).values()
    assert kept == answer.kept_indices[0]
    prompter = vlm.parts.prompter
    ids = prompter.question_of(question)
    assert ids.tolist() == vlm.prepare(question, [ONE]).question.tolist()
    assert prompter.image_token_id not in ids


def test_a_manifest_names_selectors_only_where_there_are_any(folder, tmp_path):
    text = (folder / "pocketvlm.json").read_text()
    manifest = Manifest.from_json(text)
    assert manifest.vision.selectors == {K: "onnx/selector.onnx", 3: "onnx/selector.k3.onnx"}
    again = json.loads(manifest.to_json())
    assert again["vision"]["selectors"] == json.loads(text)["vision"]["selectors"]
    assert Manifest.from_json(manifest.to_json()) == manifest
    write_artifact(tmp_path / "plain")
    plain = Artifact.open(tmp_path / "plain").manifest
    assert "selectors" not in plain.to_dict()["vision"]


def without_table(data):
    data["decoder"] |= {"engines": ["llama.cpp"], "default_engine": "llama.cpp"}
    data["decoder"] |= {"default_precisions": {"llama.cpp": "f32"}, "embed": {}, "graphs": {}}
    data["decoder"]["gguf"] = {"f32": "tokenizer.json"}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda data: data["vision"]["selectors"].pop("3"), "do not match the budgets"),
        (lambda data: data["vision"].update(selectors={}), "selectors must contain"),
        (lambda data: data["vision"].update(selectors={"0": "x"}), "selectors must be named"),
        (
            lambda data: data["vision"]["selectors"].update({"3": "onnx/no.onnx"}),
            "missing from its",
        ),
        (lambda data: data["vision"].update(extras=["features"]), "has the name of another"),
        (without_table, "no embedding table to read it by"),
        (lambda data: data["vision"].pop("selector_table"), "precision '', and there are fp32"),
        (lambda data: data["vision"].update(selector_table="int8"), "precision 'int8', and there"),
        (
            lambda data: data["vision"].update(stages=[{"layer": 1, "keep": 8, "by": "cls"}]),
            "stages of its tower drop some before",
        ),
        (
            lambda data: data["pruning"].update(merge_dropped=True, nested=False),
            "selected by the prompt, and what is dropped is merged",
        ),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(folder, change, line):
    data = read_manifest(folder)
    change(data)
    write_manifest(folder, data)
    with pytest.raises(ArtifactError, match=line):
        Artifact.open(folder)


def test_questions_are_read_by_the_stated_table_whatever_the_order(folder, weights):
    """A second table, of other words: what is kept follows the manifest, not the order of keys."""
    other = onnx.load(folder / "onnx" / "embed_tokens.onnx")
    (table,) = [each for each in other.graph.initializer if len(each.dims) == 2]
    rows = numpy_helper.to_array(table)
    table.CopyFrom(numpy_helper.from_array(rows[::-1].copy(), table.name))
    onnx.save(other, folder / "onnx" / "embed_other.onnx")
    data = read_manifest(folder)
    both = {"fp16": "onnx/embed_other.onnx", "fp32": data["decoder"]["embed"]["fp32"]}
    kept = {}
    for stated in ("fp32", "fp16"):
        for names in (list(both), list(both)[::-1]):
            data["decoder"]["embed"] = {name: both[name] for name in names}
            data["vision"]["selector_table"] = stated
            write_manifest(folder, data)
            answer = VLM.load(folder).generate(WHAT, [ONE], sampling=SHORT)
            assert kept.setdefault(stated, answer.kept_indices) == answer.kept_indices
    assert kept["fp32"] == [selected(weights, VLM.load(folder), ONE, WHAT, K)[0][1].tolist()]
    assert kept["fp32"] != kept["fp16"]


def test_a_selector_that_is_missing_or_damaged_is_refused(folder):
    path = folder / "onnx" / "selector.onnx"
    content = path.read_bytes()
    path.write_bytes(content[:-9] + b"\xff" * 9)
    with pytest.raises(ArtifactError, match=r"selector\.onnx"):
        VLM.load(folder)
    write_manifest(folder, read_manifest(folder))  # as if it had been written so
    with pytest.raises(PocketVLMError, match=r"selector\.onnx"):
        VLM.load(folder)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"selector\.onnx is listed .* cannot be read"):
        VLM.load(folder)


def edited(folder, name, edit):
    """Change a graph, with a table of files that agrees."""
    path = folder / "onnx" / name
    model = onnx.load(path)
    edit(model)
    onnx.save(model, path)
    write_manifest(folder, read_manifest(folder))


def test_a_selector_of_another_budget_or_artifact_is_refused(folder):
    data = read_manifest(folder)
    names = data["vision"]["selectors"]
    data["vision"]["selectors"] = {str(K): names["3"], "3": names[str(K)]}
    write_manifest(folder, data)
    with pytest.raises(ArtifactError, match=r"pocketvlm\.budget=3, the manifest says 6"):
        VLM.load(folder)
    data["vision"]["selectors"] = names
    write_manifest(folder, data)
    stamp = {"pocketvlm.artifact_id": "0" * 64}
    edited(folder, "selector.onnx", lambda model: helper.set_model_props(model, stamp))
    with pytest.raises(ArtifactError, match=r"pocketvlm\.artifact_id"):
        VLM.load(folder)


def test_a_selector_that_reads_other_tensors_is_refused(folder):
    def rename(model):
        model.graph.input[1].name = "words"
        for node in model.graph.node:
            node.input[:] = ["words" if name == "text_embeds" else name for name in node.input]

    edited(folder, "selector.onnx", rename)
    with pytest.raises(ArtifactError, match="has no text_embeds"):
        VLM.load(folder)


def test_a_vision_graph_that_selects_by_itself_is_refused(folder, tmp_path):
    write_artifact(tmp_path / "plain", budgets=(K, 3))
    stamps = {
        prop.key: prop.value for prop in onnx.load(folder / "onnx/selector.onnx").metadata_props
    }
    model = onnx.load(tmp_path / "plain" / "onnx" / "vision_encoder.onnx")
    helper.set_model_props(model, stamps | {"pocketvlm.graph": "vision_encoder"})
    onnx.save(model, folder / "onnx" / "vision_encoder.onnx")
    write_manifest(folder, read_manifest(folder))
    with pytest.raises(ArtifactError, match="the manifest says vision_candidates"):
        VLM.load(folder)


def test_a_selector_that_keeps_a_patch_twice_is_refused(folder):
    def repeat(model):
        """The highest score for each place."""
        (node,) = [node for node in model.graph.node if node.name == "order"]
        node.op_type, node.input[:], node.output[:] = (
            "Sub",
            ["by_score", "by_score"],
            node.output[:1],
        )
        del node.attribute[:]

    edited(folder, "selector.onnx", repeat)
    with pytest.raises(EngineError, match=r"the token selector gave kept_indices of 0\.\.0"):
        VLM.load(folder).generate(WHAT, [ONE], sampling=SHORT)


def test_the_words_are_those_of_the_tokenizer_alone(folder):
    prompter = Prompter.from_artifact(Artifact.open(folder))
    message = {"role": "user", "content": [{"type": "text", "text": WHAT}]}
    ids = prompter.question(message)
    assert ids.tolist() == prompter.tokenizer.encode(WHAT, add_special_tokens=False).ids
    assert prompter.tokenizer.token_to_id("<s>") not in ids
