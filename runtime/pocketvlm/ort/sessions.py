"""Knows how an ONNX Runtime session is opened, the only place that does: options, checks, errors
for people."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnxruntime as ort

from pocketvlm import upstream
from pocketvlm.artifact import Artifact, Manifest, metadata
from pocketvlm.artifact.stages import stamp
from pocketvlm.errors import ArtifactError, EngineError, first_line
from pocketvlm.ort.graph_rules import check_graph
from pocketvlm.ort.overflow import integer_options
from pocketvlm.ort.settings import DEFAULT_SETTINGS, EngineSettings
from pocketvlm.ort.signatures import signature

# Log severity: warnings about a graph's nodes are of no use to whoever asks a question.
_ERRORS_ONLY = 3
# Tensors that are computed as a graph is opened, where all they need is known: what is larger than
# its constants and than this is computed as it runs. Versions of ONNX Runtime that do not know the
# entry ignore it.
_FOLDED = "optimization.constant_folding_max_output_size_in_bytes"
_FOLDED_BYTES = 64 << 20
_MAX_VALUE_BYTES = 8

_opened: weakref.WeakSet[ort.InferenceSession] = weakref.WeakSet()


def open_session(
    artifact: Artifact,
    name: str,
    kind: str,
    *,
    budget: int | None = None,
    settings: EngineSettings = DEFAULT_SETTINGS,
    profile: Path | None = None,
) -> ort.InferenceSession:
    """Open one graph of an artifact.

    External weights lie beside the graph and are memory-mapped by ONNX Runtime. Optimized graphs
    are not kept for the next time: those of CLIP-L and a 0.5B decoder, prepacked, open 0.4 s
    faster, and take the disk space of the weights once more. No session option is read from the
    artifact: a graph may carry options in its metadata, which are ignored.

    Args:
        artifact: the opened artifact; ``name`` must be listed in its manifest.
        name: file name inside the artifact.
        kind: what the graph must be, one of `metadata.GRAPH_KINDS`.
        budget: the k that the graph must carry, for vision graphs.
        settings: threads, providers, and whether weights are prepacked; for integers they have to
            be, see `EngineSettings.for_precision`.
        profile: note the time of every node; `end_profiling` of the session then writes a file that
            begins with this.

    Raises:
        PocketVLMError: the file is not a graph, or one that `check_graph` refuses; or it belongs to
            another artifact, budget or role; or its inputs and outputs do not match the manifest.
    """
    path = artifact.path(name)
    largest = check_graph(str(artifact.root / name), path)
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    for key, value in integer_options().items():
        options.add_session_config_entry(key, value)
    options.add_session_config_entry(_FOLDED, str(max(_FOLDED_BYTES, largest * _MAX_VALUE_BYTES)))
    if not settings.prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if settings.threads is not None:
        options.intra_op_num_threads = settings.threads
    options.enable_mem_pattern = _has_fixed_shapes(artifact, kind)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    providers = [(provider.name, dict(provider.options)) for provider in settings.providers]
    full_name = f"{artifact.root / name}"
    # Around the checks too: what a graph calls its tensors may be no text.
    with ort_errors(f"{full_name} cannot be opened by ONNX Runtime {ort.__version__}"):
        with upstream.ort_path(path) as opened:
            session = ort.InferenceSession(
                opened, options, providers=providers, **upstream.ORT_SESSION_ARGUMENTS
            )
        _opened.add(session)
        check_set_up(full_name, [name for name, _ in providers], session.get_providers())
        _check_metadata(full_name, session, artifact.manifest, kind, budget)
        signature(artifact.manifest, kind, budget).check(full_name, session)
    return session


def _has_fixed_shapes(artifact: Artifact, kind: str) -> bool:
    """Whether nothing but the number of tiles differs from one run of a graph to the next.

    ONNX Runtime plans its memory again for each shape of the inputs, and keeps every plan for as
    long as the session lives. That is 9.5 kB for each pair of a prompt's and a cache's length in a
    decoder of 4 layers. Without plans a run takes no longer.
    """
    is_vision = kind in (metadata.VISION_ENCODER, metadata.CANDIDATES)
    return is_vision and artifact.manifest.vision.image_size is not None


def _keep_after_fork() -> None:
    """In a process that has just been forked: let no session of the other one be freed here.

    Its threads are not copied, and a session waits for them as it goes, at the latest when Python
    ends.
    """
    for session in list(_opened):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_after_fork)


@contextmanager
def ort_errors(what: str) -> Iterator[None]:
    """Turn what ONNX Runtime raises into a one-line `PocketVLMError` that begins with ``what``."""
    raised: tuple[type[Exception], ...] = (*upstream.ort_errors(), OSError)
    try:
        yield
    except raised as error:
        raise EngineError(f"{what}: {first_line(error)}") from error


def check_set_up(graph: str, requested: Sequence[str], present: Sequence[str]) -> None:
    """Raise `EngineError` where ONNX Runtime continues without a provider that was asked for: it
    writes to its log that its libraries are missing, and takes the next one."""
    for provider in requested:
        if provider not in present:
            raise EngineError(
                f"{provider} could not be set up for {graph}",
                advice="install the libraries that it needs, or use the CPU provider",
            )


def _check_metadata(
    name: str, session: ort.InferenceSession, manifest: Manifest, kind: str, budget: int | None
) -> None:
    stamped: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
    expected = {metadata.ARTIFACT_ID: manifest.artifact_id, metadata.GRAPH: kind}
    if budget is not None:
        expected |= {metadata.BUDGET: str(budget), metadata.PRUNER: manifest.pruning.method}
        if manifest.vision.stages:
            expected |= {metadata.STAGES: stamp(manifest.vision.stages)}
    if kind == metadata.STAGED_DECODER:
        expected |= {metadata.STAGES: stamp(manifest.decoder.stages)}
    for key, value in expected.items():
        if (carried := stamped.get(key)) != value:
            raise ArtifactError(
                f"{name} carries {key}={_short(carried)}, the manifest says {_short(value)}",
                advice="files of two artifacts are mixed, copy or export it again",
            )


def _short(value: str | None) -> str:
    """A digest abbreviated as git does; other values as they are."""
    return "nothing" if value is None else value if len(value) < 40 else value[:12]
