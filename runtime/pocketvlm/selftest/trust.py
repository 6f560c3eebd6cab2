"""Knows when a device is trusted to compute an artifact: once it has passed the self-test, which is
remembered."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from pocketvlm import upstream
from pocketvlm.artifact import Artifact
from pocketvlm.files.remembered import change_remembered, read_remembered
from pocketvlm.ort.settings import CPU_PROVIDER, EngineSettings, Provider
from pocketvlm.selftest.checks import Checks, checks_of
from pocketvlm.selftest.result import SelfTestResult
from pocketvlm.selftest.running import run_self_test

_TABLE: Final = "trusted.json"
_REMEMBERED: Final = 256  # devices, providers and artifacts, newest last


def needs_trust(settings: EngineSettings) -> bool:
    """Whether anything else than ONNX Runtime's own CPU provider computes."""
    return any(provider.name != CPU_PROVIDER for provider in settings.every_provider)


def ensure_trusted(
    artifact: Artifact,
    settings: EngineSettings,
    *,
    budget: int | None = None,
    vision_precision: str | None = None,
    decoder: str | None = None,
    decoder_precision: str | None = None,
) -> None:
    """Run the self-test of the graphs that this model answers with, unless it has passed here
    before, or the CPU provider computes alone.

    A pass is remembered in the user's cache folder, for this artifact, device, ONNX Runtime,
    providers and their options. A failure is not: it is found out each time.

    Args:
        artifact: as opened, without caps or a shorter context.
        settings: the providers and their options.
        budget: see `pocketvlm.VLM.load`, as the others.
        vision_precision: see above.
        decoder: see above.
        decoder_precision: see above.

    Raises:
        ArtifactError: the artifact has no self-test, or one that is damaged.
        EngineError: a graph computes something else here than where it was exported.
    """
    if not needs_trust(settings):
        return
    checks = checks_of(
        artifact,
        budget=budget,
        vision_precision=vision_precision,
        engine=decoder,
        decoder_precision=decoder_precision,
    )
    if not is_trusted(artifact, settings, checks):
        result = run_self_test(artifact, settings, checks)
        remember(artifact, settings, result)
        result.raise_if_failed(artifact.root)


def is_trusted(artifact: Artifact, settings: EngineSettings, checks: Sequence[Checks]) -> bool:
    """Whether each of the checks has passed here before."""
    passed = read_remembered(_TABLE).get(_key(artifact, settings))
    names = [name for each in checks for name in each.names]
    return isinstance(passed, list) and all(name in passed for name in names)


def remember(artifact: Artifact, settings: EngineSettings, result: SelfTestResult) -> None:
    """Write down which checks have passed here."""
    passed = [row.check for row in result.graphs if row.passed]
    failed = {row.check for row in result.graphs if not row.passed}
    key = _key(artifact, settings)

    def change(rows: dict[str, Any]) -> dict[str, Any]:
        before = rows.pop(key, [])
        remembered = (
            [name for name in before if isinstance(name, str)] if isinstance(before, list) else []
        )
        kept = [name for name in dict.fromkeys((*remembered, *passed)) if name not in failed]
        return {**rows, key: kept}

    change_remembered(_TABLE, _REMEMBERED, change)


def device_facts(settings: EngineSettings) -> dict[str, Any]:
    """What another device, driver or version would change, as far as it can be asked."""
    names = [provider.name for provider in settings.every_provider]
    return {
        "host": platform.node(),
        "system": [platform.system(), platform.release(), platform.machine()],
        "processor": _processor(),
        "devices": upstream.ort_devices(names),
        "onnxruntime": ort.__version__,
    }


def _key(artifact: Artifact, settings: EngineSettings) -> str:
    facts = {
        # The files that were checked, whatever the artifact states of itself.
        "artifact": artifact.manifest.content_id,
        "providers": _stated(settings.providers),
        "vision_providers": _stated(settings.for_vision.providers),
        "prepack": settings.prepack,
        **device_facts(settings),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _stated(providers: Sequence[Provider]) -> list[Any]:
    return [
        [provider.name, sorted((name, str(value)) for name, value in provider.options.items())]
        for provider in providers
    ]


def _processor() -> str:
    """The CPU as the system names it; empty where it does not."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
