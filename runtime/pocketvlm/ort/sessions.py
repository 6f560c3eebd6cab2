"""Knows how an ONNX Runtime session is opened, the only place that does: options, checks, errors
for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnxruntime as ort

from pocketvlm import upstream
from pocketvlm.artifact import Artifact, Manifest, metadata
from pocketvlm.errors import ArtifactError, EngineError, first_line
from pocketvlm.ort.overflow import integer_options
from pocketvlm.ort.settings import DEFAULT_SETTINGS, EngineSettings
from pocketvlm.ort.signatures import signature

# Log severity: warnings about a graph's nodes are of no use to whoever asks a question.
_ERRORS_ONLY = 3


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

    External weights lie beside the graph and are memory-mapped by ONNX Runtime. Nothing that it
    makes of them is kept for the next time: optimized and prepacked graphs of CLIP-L and a 0.5B
    decoder open 0.4 s sooner, and take the disk space of the weights once more. No session option
    is read from the artifact: a graph may carry options in its metadata, which are ignored.

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
        PocketVLMError: the file is no graph, belongs to another artifact, budget or role, or its
            inputs and outputs are not those that the manifest's dimensions call for.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    for key, value in integer_options().items():
        options.add_session_config_entry(key, value)
    if not settings.prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if settings.threads is not None:
        options.intra_op_num_threads = settings.threads
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    providers = [(provider.name, dict(provider.options)) for provider in settings.providers]
    path = _as_utf8(artifact.path(name))
    with ort_errors(f"{artifact.root / name} cannot be opened by ONNX Runtime {ort.__version__}"):
        session = ort.InferenceSession(
            path, options, providers=providers, **upstream.ORT_SESSION_ARGUMENTS
        )
    _check_metadata(f"{artifact.root / name}", session, artifact.manifest, kind, budget)
    signature(artifact.manifest, kind, budget).check(f"{artifact.root / name}", session)
    return session


@contextmanager
def ort_errors(what: str) -> Iterator[None]:
    """Turn what ONNX Runtime raises into a one-line `PocketVLMError` that begins with ``what``."""
    try:
        yield
    except upstream.ort_errors() as error:
        raise EngineError(f"{what}: {first_line(error)}") from error


def _as_utf8(path: Path) -> Path:
    """The same path; raises `ArtifactError` where it has bytes in it that ONNX Runtime's binding
    cannot pass on."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ArtifactError(
            f"{path} has a name that is not UTF-8, which ONNX Runtime cannot open",
            advice="rename the folder",
        ) from error
    return path


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
        if (carried := stamped.get(key)) != value:
            raise ArtifactError(
                f"{name} carries {key}={_short(carried)}, the manifest says {_short(value)}",
                advice="files of two artifacts are mixed, copy or export it again",
            )


def _short(value: str | None) -> str:
    """A digest abbreviated as git does; other values as they are."""
    return "nothing" if value is None else value if len(value) < 40 else value[:12]
