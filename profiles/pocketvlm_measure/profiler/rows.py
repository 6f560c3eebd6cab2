"""Knows a profile as rows for other programs: llama-bench's keys where they mean the same, ours
beside them.

A row is one stage of one configuration. JSONL has one row per line; CSV the same columns, lists as
JSON in their cell.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

from pocketvlm_measure.profiler.result import Profile, Result, clips_of
from pocketvlm_measure.spread import Spread

_CACHE_TYPES = {2: "f16", 4: "f32"}  # by bytes per value, as llama-bench names them
_ENGINES = {"onnx": "onnxruntime", "llama.cpp": "llama_cpp_python"}  # the package behind an engine


def rows(profile: Profile) -> Iterator[dict[str, Any]]:
    """Every stage of every configuration, in order."""
    shared = _machine(profile)
    for result in profile.results:
        case = shared | _case(profile, result)
        for stage, spread in result.stages.items():
            yield case | _tokens(result, stage) | _times(spread, result.rates(stage))


def to_dict(profile: Profile) -> dict[str, Any]:
    """What ``--json`` prints: ``results`` are the `rows`."""
    return {
        "folder": profile.folder,
        "test_time": profile.started,
        "machine": profile.machine.describe(),
        "warnings": profile.warnings(),
        "outliers": profile.outliers(),
        "interrupted": profile.interrupted,
        "results": list(rows(profile)),
    }


def to_jsonl(profile: Profile) -> str:
    """The rows as JSON Lines."""
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows(profile))


def to_csv(profile: Profile) -> str:
    """The rows as CSV under a header."""
    lines = list(rows(profile))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in line.items()} for line in lines)
    return text.getvalue()


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


def _machine(profile: Profile) -> dict[str, Any]:
    machine = profile.machine
    return {
        "build_commit": machine.versions["pocketvlm"],
        "cpu_info": machine.cpu,
        "gpu_info": "",
        "cpus": machine.cpus,
        "cores": machine.cores,
        "memory_bytes": machine.memory_bytes,
        "system": machine.system,
        "governor": machine.governor,
        "other_load": machine.other_load,
        **{f"version_{name}": release for name, release in machine.versions.items()},
        "test_time": profile.started,
        "interrupted": profile.interrupted,
    }


def _case(profile: Profile, result: Result) -> dict[str, Any]:
    manifest, case, costs, first = profile.manifest, result.case, result.costs, result.samples[0]
    package = _ENGINES.get(case.decoder, case.decoder)
    cache = _CACHE_TYPES.get(first.value_bytes)
    clips = clips_of(profile)
    return {
        "backends": " ".join(
            filter(None, (package, profile.machine.versions.get(package), *case.providers))
        ),
        "model_filename": profile.folder,
        "model_type": f"{manifest.source.model} {case.decoder} {case.decoder_precision}",
        "artifact_id": manifest.artifact_id,
        "pruner": manifest.pruning.method,
        "n_threads": case.n_threads,
        "context": case.context or manifest.decoder.context,
        "type_k": cache,
        "type_v": cache,
        "budget": case.budget,
        "decoder": case.decoder,
        "decoder_precision": case.decoder_precision,
        "vision_precision": case.vision_precision,
        "max_pixels": case.max_pixels,
        "max_tiles": case.max_tiles,
        "pictures": result.shown - clips,
        "clips": clips,
        "picture_sizes": list(first.picture_sizes),
        "tiles": first.tiles,
        "visual_tokens_before": first.visual_before,
        "visual_tokens_after": first.visual_after,
        "visual_tokens_by_stage": list(first.visual_stages),
        "prompt_tokens": first.prompt_tokens,
        "new_tokens": first.new_tokens,
        "select_share": result.select_share,
        "flops": costs.flops,
        "flops_prompt": costs.flops_prompt,
        "flops_vision": costs.flops_vision,
        "kv_bytes": costs.kv_bytes,
        "kv_bytes_prompt": costs.kv_bytes_prompt,
        "peak_memory_bytes": result.peak_bytes.median if result.peak_bytes else None,
        "samples_peak_memory_bytes": list(result.peak_bytes.samples) if result.peak_bytes else [],
        "samples_other_load": [sample.other_load for sample in result.samples],
        "n_warmup": profile.warmup,
    }


def _tokens(result: Result, stage: str) -> dict[str, Any]:
    """The tokens that a stage reads and generates, as llama-bench counts a test's: a decode has the
    prompt as its depth."""
    first = result.samples[0]
    read, generated, depth = {
        "prefill": (first.prompt_tokens, 0, 0),
        "decode": (0, first.new_tokens - 1, first.prompt_tokens),
        "ttft": (first.prompt_tokens, 1, 0),
        "total": (first.prompt_tokens, first.new_tokens, 0),
    }.get(stage, (0, 0, 0))
    return {"stage": stage, "n_prompt": read, "n_gen": generated, "n_depth": depth}


def _times(spread: Spread, rates: Iterable[float]) -> dict[str, Any]:
    rate = Spread(list(rates))
    return {
        "avg_ns": _ns(spread.mean),
        "stddev_ns": _ns(spread.deviation),
        "median_ns": _ns(spread.median),
        "p95_ns": _ns(spread.p95),
        "avg_ts": rate.mean if rate.samples else None,
        "stddev_ts": rate.deviation if rate.samples else None,
        "samples_ns": [_ns(sample) for sample in spread.samples],
        "samples_ts": list(rate.samples),
    }


def _ns(milliseconds: float) -> int:
    return round(milliseconds * 1e6)
