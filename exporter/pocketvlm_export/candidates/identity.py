"""Knows whether two exports are of the same checkpoint by the same programs."""

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version

from pocketvlm_export.loading import Checkpoint
from pocketvlm_export.options import ExportOptions

_PROGRAMS = ("pocketvlm", "torch", "transformers", "onnx", "onnx_ir", "onnxscript", "onnxruntime")


def identity_of(checkpoint: Checkpoint, options: ExportOptions) -> str:
    """Return a digest (hex) of a checkpoint's commit, or of the names, sizes and times of a
    folder's files. It also covers the medium that is read and the versions of what exports it."""
    source = checkpoint.source
    stated: dict[str, object] = {"media": list(options.media), "programs": _versions()}
    if source.commit is not None:
        stated |= {"model": source.model, "commit": source.commit}
    else:
        infos = {path.name: path.stat() for path in source.folder.iterdir() if path.is_file()}
        stated["files"] = {
            name: [info.st_size, info.st_mtime_ns] for name, info in sorted(infos.items())
        }
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def _versions() -> dict[str, str]:
    installed = {}
    for name in _PROGRAMS:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:  # a checkout without metadata
            installed[name] = ""
    return installed
