"""Knows how an ONNX Runtime session is opened, the only place that does: options, checks, errors
for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from pocketvlm.artifact import Artifact, Manifest, metadata
from pocketvlm.errors import ArtifactError, EngineError
from pocketvlm.ort.overflow import integer_options
from pocketvlm.ort.signatures import signature
from pocketvlm.ort.threads import check_threads

# ONNX Runtime's status exceptions share no base class of their own; not every release has all of
# them.
_STATUS = [
    "Fail",
    "InvalidArgument",
    "NoSuchFile",
    "NoModel",
    "EngineError",
    "RuntimeException",
    "InvalidProtobuf",
    "ModelLoaded",
    "NotImplemented",
    "InvalidGraph",
    "EPFail",
    "NotFound",
]
_ORT_ERRORS: tuple[type[Exception], ...] = (
    *(getattr(ort_state, name) for name in _STATUS if hasattr(ort_state, name)),
    RuntimeError,
    ValueError,
)
_ERRORS_ONLY = (
    3  # log severity: warnings about a graph's nodes are of no use to whoever asks a question
)


def open_session(
    artifact: Artifact,
    name: str,
    kind: str,
    *,
    budget: int | None = None,
    threads: int | None = None,
    prepack: bool = True,
    profile: Path | None = None,
) -> ort.InferenceSession:
    """Open one graph of an artifact on the CPU.

    External weights lie beside the graph and are memory-mapped by ONNX Runtime. Nothing that it
    makes of them is kept for the next time: optimized and prepacked graphs of CLIP-L and a 0.5B
    decoder open 0.4 s sooner, and take the disk space of the weights once more. No session option
    is read from the artifact: a graph may carry options in its metadata, which ONNX Runtime ignores
    unless asked.

    Args:
        artifact: the opened artifact; ``name`` must be listed in its manifest.
        name: file name inside the artifact.
        kind: what the graph must be, one of `metadata.GRAPH_KINDS`.
        budget: the k that the graph must carry, for vision graphs.
        threads: intra-op threads; None leaves ONNX Runtime's default (the physical cores).
        prepack: copy each weight into the order that products read fastest. Without, a float32
            graph multiplies straight from the mapped file: 3.2 GB of CLIP-L and a 0.5B decoder
            opened in 0.1 s instead of 13, and each picture and prompt then cost a fifth to a half
            more, each token a tenth. For integers it is no choice: their products take 3 to 40
            times as long without; see `wants_prepacking`.
        profile: note the time of every node; `end_profiling` of the session then writes a file that
            begins with this.

    Raises:
        PocketVLMError: the file is no graph, belongs to another artifact, budget or role, or its
            inputs and outputs are not those that the manifest's dimensions call for.
    """
    check_threads(threads)
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    for key, value in integer_options().items():
        options.add_session_config_entry(key, value)
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    path = artifact.path(name)
    with ort_errors(f"{artifact.root / name} cannot be opened by ONNX Runtime {ort.__version__}"):
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    _check_metadata(f"{artifact.root / name}", session, artifact.manifest, kind, budget)
    signature(artifact.manifest, kind, budget).check(f"{artifact.root / name}", session)
    return session


def wants_prepacking(precision: str, prepack: bool) -> bool:
    """What `open_session` is told for a graph of this precision where ``prepack`` is asked for in
    general."""
    return prepack or precision != "fp32"


@contextmanager
def ort_errors(what: str) -> Iterator[None]:
    """Turn what ONNX Runtime raises into a one-line `PocketVLMError` that begins with ``what``."""
    try:
        yield
    except _ORT_ERRORS as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise EngineError(f"{what}: {first_line[:300]}") from error


def _check_metadata(
    name: str, session: ort.InferenceSession, manifest: Manifest, kind: str, budget: int | None
) -> None:
    stamped: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
    expected = {metadata.ARTIFACT_ID: manifest.artifact_id, metadata.GRAPH: kind}
    if budget is not None:
        expected |= {metadata.BUDGET: str(budget), metadata.PRUNER: manifest.pruning.method}
    if kind == metadata.FASTV_DECODER and (fastv := manifest.decoder.fastv):
        expected |= {metadata.FASTV: f"{fastv.layer},{fastv.keep}"}
    for key, value in expected.items():
        if (found := stamped.get(key)) != value:
            raise ArtifactError(
                f"{name} carries {key}={_short(found)}, the manifest says {_short(value)}",
                advice="files of two artifacts are mixed, copy or export it again",
            )


def _short(value: str | None) -> str:
    """A digest abbreviated as git does; other values as they are."""
    return "nothing" if value is None else value if len(value) < 40 else value[:12]
