"""Knows how to pack archives as npm does."""

import base64
import hashlib
import io
import tarfile

ENTRIES = {
    "onnxruntime-web": [
        "dist/ort.wasm.min.mjs",
        "dist/ort-wasm-simd-threaded.mjs",
        "dist/ort-wasm-simd-threaded.wasm",
        "dist/ort.webgpu.min.mjs",
        "dist/ort-wasm-simd-threaded.asyncify.mjs",
        "dist/ort-wasm-simd-threaded.asyncify.wasm",
        "dist/ort.js",
    ],
    "@huggingface/tokenizers": ["dist/tokenizers.min.mjs", "LICENSE"],
    "@huggingface/jinja": ["dist/index.js", "LICENSE"],
}


def archive(entries):
    """A .tgz of {name: bytes, or a TarInfo}."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as tar:
        for name, content in entries.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return target.getvalue()


def integrity(data):
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
