"""Knows how the client for JavaScript is run in Node by tests: over onnxruntime-node, or over the
WebAssembly of pages."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients" / "web"
MODULES = ROOT / "tools" / "interop"  # whose package.json pins what the client runs on

_NEEDED = ("onnxruntime-node", "onnxruntime-web", "@huggingface/tokenizers", "@huggingface/jinja")
_MISSING = [name for name in _NEEDED if not (MODULES / "node_modules" / name).exists()]
needs_node = pytest.mark.skipif(
    shutil.which("node") is None or bool(_MISSING),
    reason="node is not installed, or `npm ci` was not run in tools/interop",
)

# What a script finds: the client, `load`, which gives a model over one of the runtimes, and
# `picture`, which makes a picture of what `pixels_of` gives. It leaves what it has in `results`.
_AROUND = """
import { readFileSync } from "node:fs";
import { Template } from "@huggingface/jinja";
import { Tokenizer } from "@huggingface/tokenizers";
const { PocketVLM } = await import(%(client)s);
const given = JSON.parse(readFileSync(%(given)s, "utf8"));
const results = {};
const load = async (folder, { runtime = "onnxruntime-node", ...options } = {}) => {
  const ort = await import(runtime);
  if (ort.env.wasm) ort.env.wasm.numThreads = 1;
  return PocketVLM.load(folder, { ort, libraries: { Tokenizer, Template }, ...options });
};
const picture = ({ rgba, width, height }) =>
  ({ data: Uint8ClampedArray.from(Buffer.from(rgba, "base64")), width, height });
const refusal = async (work) => {
  try {
    await work();
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
};
%(script)s
console.log(JSON.stringify(results));
process.exit(0);
"""


def run_client(tmp_path: Path, script: str, **given: Any) -> Any:
    """Run a script around the client with ``given`` values; returns what it left in `results`."""
    request = tmp_path / "given.json"
    request.write_text(json.dumps(given))
    names = {"client": (CLIENT / "pocketvlm.mjs").as_uri(), "given": str(request)}
    values = {name: json.dumps(value) for name, value in names.items()}
    done = subprocess.run(
        ["node", "--input-type=module"],
        input=_AROUND % {**values, "script": script},
        cwd=MODULES,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def pixels_of(image: Any) -> dict[str, Any]:
    """A picture as a page has it, upright RGBA samples."""
    import base64

    rgba = image.convert("RGBA")
    return {
        "rgba": base64.b64encode(rgba.tobytes()).decode(),
        "width": rgba.width,
        "height": rgba.height,
    }
