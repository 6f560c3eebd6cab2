"""How the client for JavaScript gets files from a server, with a cache as pages have it: what a
person sees meanwhile, and what a second visit needs."""

import json
import shutil
from pathlib import Path

import pytest

from pocketvlm import Artifact
from pocketvlm_export.packaging.using import write_using
from support.node import needs_node, run_client
from support.tiny_artifact import write_artifact

pytestmark = needs_node

# A server of a folder, and the Cache API in memory.
AROUND = """
import { existsSync } from "node:fs";
const network = { on: true, asked: [], cut: "" };
globalThis.fetch = async (address) => {
  const file = String(address).replace("http://host/model/", "");
  network.asked.push(file);
  if (!network.on) throw new TypeError("Failed to fetch");
  const path = `${given.folders[network.folder ?? 0]}/${file}`;
  if (!existsSync(path)) return new Response("", { status: 404 });
  const bytes = new Uint8Array(readFileSync(path));
  return new Response(file === network.cut ? bytes.slice(0, -1) : bytes);
};
const stores = new Map();
const kept = (name) => {
  const store = stores.get(name) ?? new Map();
  stores.set(name, store);
  return {
    match: async (url) => store.get(url)?.clone(),
    delete: async (url) => store.delete(url),
    put: async (url, response) => {
      if (network.full && name !== "pocketvlm-facts") throw new Error("no room");
      store.set(url, new Response(await response.blob()));
    },
  };
};
const browser = { open: async (name) => kept(name), delete: async (name) => stores.delete(name) };
const visit = async (options) => {
  network.asked = [];
  const progress = [];
  const onProgress = (each) => progress.push(each);
  const vlm = await load("http://host/model", { ...options, onProgress });
  const { tokenIds } = await vlm.answer({ prompt: "what?", maxNewTokens: 3 }).result;
  return { tokenIds, asked: network.asked, progress, notices: vlm.notices };
};
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp("served") / "a"
        write_artifact(folder, seed=seed)
        write_using(Artifact.open(folder))
        made.append(str(folder))
    return made


def test_a_second_visit_needs_no_network(folders, tmp_path):
    script = """
    globalThis.caches = browser;
    results.first = await visit();
    results.second = await visit();
    network.on = false;
    results.offline = await visit();
    results.names = [...stores.keys()];
    network.on = true;
    network.folder = 1;
    results.other = await visit();
    results.after = [...stores.keys()];
    """
    results = run_client(tmp_path, AROUND + script, folders=folders)
    first, second, offline, other = (
        results[name] for name in ("first", "second", "offline", "other")
    )
    graphs = {
        "onnx/vision_encoder.onnx",
        "onnx/embed_tokens.onnx",
        "onnx/decoder_model_merged.onnx",
    }
    assert graphs < set(first["asked"])
    assert second["asked"] == offline["asked"] == ["using.json"]
    assert first["tokenIds"] == second["tokenIds"] == offline["tokenIds"]
    last = {each["file"]: each for each in first["progress"]}
    assert graphs < set(last)
    assert all(each["loaded"] == each["total"] and not each["cached"] for each in last.values())
    assert all(each["cached"] for each in offline["progress"])
    # Another artifact at the address: the old files go.
    assert len(other["asked"]) == len(first["asked"])
    assert other["tokenIds"] != first["tokenIds"]
    assert len(results["names"]) == len(results["after"]) == 2
    assert results["names"] != results["after"]


def test_a_page_without_a_cache_says_so_and_answers(folders, tmp_path):
    script = """
    results.none = await visit();
    globalThis.caches = browser;
    network.full = true;
    results.full = await visit();
    """
    results = run_client(tmp_path, AROUND + script, folders=folders)
    assert "is not a secure context" in results["none"]["notices"][0]
    assert "no room" in results["full"]["notices"][0]
    assert results["none"]["tokenIds"] == results["full"]["tokenIds"]


def test_what_fails_is_told_in_words(folders, tmp_path):
    script = """
    network.cut = "onnx/decoder_model_merged.onnx";
    results.cut = await refusal(visit);
    globalThis.caches = browser;
    results.cutIntoCache = await refusal(visit);
    network.cut = "";
    results.again = (await visit()).tokenIds.length;
    stores.clear();
    network.on = false;
    results.away = await refusal(visit);
    network.on = true;
    given.folders[0] += "/nothing";
    results.missing = await refusal(visit);
    """
    results = run_client(tmp_path, AROUND + script, folders=folders)
    for name in ("cut", "cutIntoCache"):
        assert results[name].startswith("ClientError: onnx/decoder_model_merged.onnx has ")
    assert results["again"] == 3
    assert "cannot be fetched" in results["away"]
    assert "the server says 404" in results["missing"]


ELSEWHERE = ["../a/tokenizer.json", "/etc/hostname", "onnx/%2e%2e/x", "onnx//x", "..\\x", "a?b"]
SIZES = [("layers", 10**9), ("hidden", -1), ("context", 0.5), ("axes", None), ("patches", 2**40)]


def test_a_hostile_using_json_is_refused_in_words(folders, tmp_path):
    facts = json.loads((Path(folders[0]) / "using.json").read_text())
    changes = [{"tokenizer": {**facts["tokenizer"], "file": name}} for name in ELSEWHERE]
    changes += [{name: size} for name, size in SIZES]
    changes += [
        {"vision": {**facts["vision"], "budgets": [1, 10**9]}},
        {"needs": {"constructor": "it wants what every object has"}},
        {"generation": {**facts["generation"], "processors": {"toString": 1}}},
    ]
    copies = []
    for number, change in enumerate(changes):
        copies.append(str(tmp_path / f"a{number}"))
        shutil.copytree(folders[0], copies[-1])
        (Path(copies[-1]) / "using.json").write_text(json.dumps({**facts, **change}))
    script = """
    results.disk = [];
    for (const folder of given.copies) results.disk.push(await refusal(() => load(folder)));
    results.served = [];
    for (const folder of given.copies.slice(0, given.names)) {
      given.folders[0] = folder;
      results.served.push(await refusal(() => visit()));
    }
    results.asked = network.asked;
    """
    given = {"folders": folders, "copies": copies, "names": len(ELSEWHERE)}
    results = run_client(tmp_path, AROUND + script, **given)
    names, others = results["disk"][: len(ELSEWHERE)], results["disk"][len(ELSEWHERE) :]
    for refused in (*names, *results["served"]):
        assert refused.startswith("ClientError: using.json names the file ")
    assert set(ELSEWHERE).isdisjoint(results["asked"])
    for (name, size), refused in zip(SIZES, others[: len(SIZES)], strict=True):
        stated = json.dumps(size)
        assert refused.startswith(f"ClientError: using.json states {name} {stated}")
    budget, need, processor = others[len(SIZES) :]
    assert "states budgets 1000000000" in budget
    assert "it wants what every object has" in need
    assert "go through toString" in processor
