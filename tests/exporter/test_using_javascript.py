"""The JavaScript of USING.md, as pasted, in Node: with an onnxruntime that only notes what it is
given. `make interop` runs it with the real ones."""

import json
import re
import shutil
import subprocess

import pytest

from pocketvlm import Artifact
from pocketvlm_export.packaging.using import FACTS, USING, write_using
from support.tiny_artifact import (
    give_attention,
    give_extras,
    make_dynamic,
    read_manifest,
    write_artifact,
    write_manifest,
)

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")

# Embeddings of token i are all i; the decoder answers with what it was told to.
STUB = """
import * as page from %s;
const opened = [], runs = [], disposed = [];
class Tensor {
  constructor(type, data, dims) { Object.assign(this, { type, data, dims }); }
  dispose() { disposed.push(this.data.length); }
}
const filled = (ids) => Float32Array.from(ids.flatMap((id) => Array(page.HIDDEN).fill(Number(id))));
const ortOf = (versions, tokens = []) => ({
  Tensor,
  env: { versions },
  InferenceSession: {
    async create(graph, options) {
      opened.push({ graph, options });
      return {
        async run(feed) {
          if (feed.input_ids) return { inputs_embeds: { data: filled([...feed.input_ids.data]) } };
          if (feed.pixel_values) return vision(feed.pixel_values);
          const numbers = ([name, tensor]) => [name, [...tensor.data].map(Number)];
          runs.push(Object.fromEntries(Object.entries(feed).map(numbers)));
          const logits = Float32Array.from({ length: 9 }, (_, i) => Number(i === tokens[0]));
          tokens.shift();
          const made = Object.keys(feed).filter((name) => name.startsWith("past_"));
          const cache = () => new Tensor("float32", [runs.length], []);
          const present = made.map((name) => [name.replace("past_key_values", "present"), cache()]);
          return { logits: { data: logits }, ...Object.fromEntries(present) };
        },
      };
    },
  },
});
const count = page.VISUAL_TOKENS;
const further = (page.EXTRAS ?? []).map((name, number) => [
  name,
  { data: filled(Array.from({ length: count }, (_, i) => 1000 * (number + 1) + i)) },
]);
const vision = () => ({
  image_features: { data: filled(Array.from({ length: count }, (_, i) => 100 + i)) },
  kept_indices: { data: BigInt64Array.from({ length: count }, (_, i) => BigInt(2 * i)) },
  kept_scores: { data: Float32Array.from({ length: count }, (_, i) => [5, 9, 9, 1][i %% 4]) },
  ...Object.fromEntries(further),
});
const results = {};
%s
console.log(JSON.stringify({ ...results, opened, runs, disposed }));
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("using") / "a"
    write_artifact(folder, budgets=(4,))
    write_using(Artifact.open(folder))
    return folder


@pytest.fixture
def run(tmp_path):
    """Run a script around the code of a folder's page; returns what it left."""

    def call(folder, script):
        (code,) = re.findall(r"```javascript\n(.*?)```", (folder / USING).read_text(), re.DOTALL)
        pasted = tmp_path / "vlm.mjs"
        pasted.write_text(code)
        done = subprocess.run(
            ["node", "--input-type=module"],
            input=STUB % (json.dumps(pasted.as_uri()), script),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


def with_weights(folder, tmp_path):
    """The page of a folder whose table lies in the decoder's file."""
    stated = json.loads((folder / FACTS).read_text())
    table, decoder = (stated["graphs"][role]["file"] for role in ("embed", "decoder"))
    page = (folder / USING).read_text()
    for graph in (table, decoder):
        before = f"{json.dumps(graph)}: []"
        assert before in page
        page = page.replace(before, f'{json.dumps(graph)}: ["onnx/shared.onnx_data"]')
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / USING).write_text(page)
    return tmp_path / "shared"


@pytest.mark.parametrize(
    ("versions", "read", "data"),
    [
        ({"web": "1.31.0"}, "", "/models/onnx/shared.onnx_data"),
        ({"node": "1.31.0"}, "", None),  # it finds files itself, and refuses addresses of them
        ({"web": "1.31.0"}, "read: async (path) => ({ bytes: path }),", "bytes"),
        ({"node": "1.31.0"}, "read: async (path) => ({ bytes: path }),", "bytes"),
    ],
)
def test_each_runtime_is_given_the_files_it_needs(folder, tmp_path, run, versions, read, data):
    shared = with_weights(folder, tmp_path)
    options = f"{{ {read} options: {{ threads: 2 }} }}"
    script = f'await page.load(ortOf({json.dumps(versions)}), "/models/", {options});'
    for opened in run(shared, script)["opened"]:
        assert opened["options"]["threads"] == 2
        assert "executionProviders" not in opened["options"]
        needs = "vision" not in json.dumps(opened["graph"])
        if data is None or not needs:
            assert "externalData" not in opened["options"]
            continue
        (beside,) = opened["options"]["externalData"]
        address = "/models/onnx/shared.onnx_data"
        assert beside["path"] == "shared.onnx_data"
        assert beside["data"] == ({"bytes": address} if data == "bytes" else data)


def test_other_graphs_of_the_folder_can_be_named(folder, run):
    script = 'await page.load(ortOf({ web: "1" }), "/m/", { vision: "onnx/vision_encoder.onnx" });'
    opened = [each["graph"] for each in run(folder, script)["opened"]]
    assert opened[0] == "/m/onnx/vision_encoder.onnx"
    assert len(opened) == 3


def embeds_of(run, hidden):
    """The token that each row was made of."""
    return run["inputs_embeds"][::hidden]


def test_a_picture_takes_the_place_of_its_token(folder, run):
    stated = json.loads((folder / FACTS).read_text())
    image, end = stated["image_token_id"], stated["eos_token_ids"][0]
    script = f"""
    const vlm = await page.load(ortOf({{ web: "1" }}, [7, 8, {end}, 7]), "");
    const seen = await page.see(vlm, new Uint8Array(4 * 1000000));
    results.seen = {{ kept: seen.kept, grid: [seen.rows, seen.columns] }};
    const streamed = (results.streamed = []);
    const onToken = (id) => void streamed.push(id);
    results.answer = await page.answer(vlm, seen, [5, {image}, 6], {{ onToken }});
    results.cut = await page.answer(vlm, seen, [5, {image}, 6], {{ maxNewTokens: 1 }});
    """
    result = run(folder, script)
    assert result["seen"] == {"kept": [0, 2, 4, 6], "grid": stated["grid"]}
    assert (result["answer"], result["streamed"], result["cut"]) == ([7, 8, end], [7, 8], [7])
    runs, hidden = result["runs"], stated["hidden"]
    rows = [embeds_of(each, hidden) for each in runs[:3]]
    assert rows == [[5, 100, 101, 102, 103, 6], [7], [8]]
    assert [each["position_ids"] for each in runs[:3]] == [[0, 1, 2, 3, 4, 5], [6], [7]]
    assert [len(each["attention_mask"]) for each in runs[:3]] == [6, 7, 8]
    caches = 2 * stated["layers"]
    # Every cache is given back: the empty one and those of three runs, then of one.
    assert len(result["disposed"]) == caches * (4 + 2)


def test_a_question_without_a_picture_is_one(folder, run):
    stated = json.loads((folder / FACTS).read_text())
    image = stated["image_token_id"]
    script = f"""
    const vlm = await page.load(ortOf({{ web: "1" }}, [7, 8, 7]), "");
    results.answer = await page.answer(vlm, null, [5, 6], {{ onToken: (id) => id !== 8 }});
    const seen = await page.see(vlm, new Uint8Array(4 * 1000000));
    results.refused = [];
    for (const [picture, ids] of [[null, [5, {image}]], [seen, [5]], [seen, [{image}, {image}]]])
      await page.answer(vlm, picture, ids).catch((error) => results.refused.push(error.message));
    """
    result = run(folder, script)
    assert result["answer"] == [7, 8]
    assert embeds_of(result["runs"][0], stated["hidden"]) == [5, 6]
    assert result["refused"] == ["a picture and one IMAGE_TOKEN go together"] * 3


def test_prompts_that_see_themselves_both_ways_and_are_numbered_from_one(tmp_path, run):
    folder = tmp_path / "a"
    give_attention(folder, write_artifact(folder, budgets=(4,)), "prompt")
    manifest = read_manifest(folder)
    manifest["decoder"]["first_position"] = 1
    write_manifest(folder, manifest)
    write_using(Artifact.open(folder))
    image = json.loads((folder / FACTS).read_text())["image_token_id"]
    script = f"""
    const vlm = await page.load(ortOf({{ web: "1" }}, [7, 8, 7]), "");
    const seen = await page.see(vlm, new Uint8Array(4 * 1000000));
    await page.answer(vlm, seen, [5, {image}, 6], {{ maxNewTokens: 3 }});
    """
    runs = run(folder, script)["runs"]
    assert [each["position_ids"] for each in runs] == [[1, 2, 3, 4, 5, 6], [7], [8]]
    assert [each["picture_ids"] for each in runs] == [[1] * 6, [0], [0]]


def test_fewer_tokens_are_the_best_in_the_order_of_the_picture(folder, run):
    script = """
    const seen = await page.see(await page.load(ortOf({ web: "1" }), ""), new Uint8Array(4000000));
    for (const budget of [1, 2, 3, 4]) {
      const few = page.fewer(seen, budget);
      const rows = [...few.features].filter((_, i) => i % page.HIDDEN === 0);
      results[budget] = [few.kept, [...few.scores], rows];
    }
    """
    result = run(folder, script)
    assert result["1"] == [[2], [9], [101]]  # ties to the lower index
    assert result["2"] == [[2, 4], [9, 9], [101, 102]]
    assert result["3"] == [[0, 2, 4], [5, 9, 9], [100, 101, 102]]
    assert result["4"][0] == [0, 2, 4, 6]


def test_pictures_of_any_size(tmp_path, run):
    weights = write_artifact(tmp_path / "a", budgets=(4,))
    make_dynamic(tmp_path / "a", weights, 4, 24)
    write_using(Artifact.open(tmp_path / "a"))
    script = """
    const vlm = await page.load(ortOf({ web: "1" }), "");
    results.seen = (await page.see(vlm, new Uint8Array(4000000), 12, 24)).kept;
    """
    assert run(tmp_path / "a", script)["seen"] == [0, 2, 4, 6]


def test_further_features_are_read_in_the_pictures_places(tmp_path, run):
    """And zeros at text, in every run."""
    extras = ("deepstack_0", "deepstack_1")
    folder = tmp_path / "a"
    weights = write_artifact(folder, budgets=(4,))
    give_extras(folder, weights, 4, extras, read=extras)
    write_using(Artifact.open(folder))
    stated = json.loads((folder / FACTS).read_text())
    assert stated["extras"] == list(extras)
    assert stated["graphs"]["decoder"]["inputs"]["deepstack_1"] == ["batch", "tokens", 8]
    image = stated["image_token_id"]
    script = f"""
    const vlm = await page.load(ortOf({{ web: "1" }}, [7, 8, 7, 8, 7, 8]), "");
    const seen = await page.see(vlm, new Uint8Array(4 * 1000000));
    await page.answer(vlm, seen, [5, {image}, 6], {{ maxNewTokens: 2 }});
    await page.answer(vlm, page.fewer(seen, 2), [5, {image}, 6], {{ maxNewTokens: 1 }});
    await page.answer(vlm, null, [5, 6], {{ maxNewTokens: 1 }});
    """
    runs = run(folder, script)["runs"]

    def rows(number, name):
        return runs[number][name][:: stated["hidden"]]

    assert [rows(0, name) for name in extras] == [
        [0, 1000, 1001, 1002, 1003, 0],
        [0, 2000, 2001, 2002, 2003, 0],
    ]
    assert [rows(1, name) for name in extras] == [[0], [0]]
    assert rows(2, "inputs_embeds") == [5, 101, 102, 6]
    assert [rows(2, name) for name in extras] == [[0, 1001, 1002, 0], [0, 2001, 2002, 0]]
    assert rows(3, "deepstack_0") == [0, 0]
    page = (folder / USING).read_text()
    for language in ("kotlin", "swift", "javascript"):
        (code,) = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
        assert all(json.dumps(name) in code for name in extras), language


def test_pages_without_them_name_none(folder):
    assert "extras" not in json.loads((folder / FACTS).read_text())
    assert "extras" not in (folder / USING).read_text().lower()


@pytest.mark.parametrize(
    ("attention", "numbers"), [("pictures", [0, 1, 1, 1, 1, 0]), ("prompt", [1] * 6)]
)
def test_a_decoder_is_told_which_tokens_see_each_other(tmp_path, run, attention, numbers):
    weights = write_artifact(tmp_path / "a", budgets=(4,))
    give_attention(tmp_path / "a", weights, attention)
    write_using(Artifact.open(tmp_path / "a"))
    stated = json.loads((tmp_path / "a" / FACTS).read_text())
    script = f"""
    const vlm = await page.load(ortOf({{ web: "1" }}, [7, 8, 7]), "");
    const seen = await page.see(vlm, new Uint8Array(4 * 1000000));
    await page.answer(vlm, seen, [5, {stated["image_token_id"]}, 6], {{ maxNewTokens: 2 }});
    """
    runs = run(tmp_path / "a", script)["runs"]
    assert [each["picture_ids"] for each in runs] == [numbers, [0]]
    assert [len(each["attention_mask"]) for each in runs] == [6, 7]
    text = (tmp_path / "a" / USING).read_text()
    assert text.count("picture_ids") >= 4  # the words, and three languages
