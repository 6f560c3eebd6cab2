"""Knows a profile as tables for people: aligned text for a terminal, Markdown for a page."""

from __future__ import annotations

from collections.abc import Iterator

from pocketvlm_measure.profiler.once import Sample
from pocketvlm_measure.profiler.result import FURTHER, STAGES, Profile, Result, clips_of
from pocketvlm_measure.table import Table, compact, count

_PARTS = ("decoder", "its precision", "vision", "threads")  # of `Case.family`, as heads of columns


def tables(profile: Profile) -> list[Table]:
    """The stages; then the time to first token with its savings, measured and by formula."""
    return [_stages(profile), _savings(profile)]


def notes(profile: Profile) -> Iterator[str]:
    """What belongs under the tables."""
    yield profile.machine.describe()
    if outliers := profile.outliers():
        taken = sum(
            len(spread.samples) for result in profile.results for spread in result.stages.values()
        )
        far = sum(len(outlier["samples_ms"]) for outlier in outliers)
        yield (
            f"{far} of {taken} samples are far from the others of their stage; all count, --json "
            f"lists them"
        )
    if any(FURTHER in result.stages for result in profile.results):
        yield (
            "further: to the first token of another question about the same pictures, which the "
            "tower does not see again; it selects again, and the prompt is read again"
        )
    if any(result.select_share is None for result in profile.results):
        yield ("select was not measured: the vision graph names no node as selecting")


def headline(profile: Profile) -> str:
    """What was measured, in a line."""
    first = profile.results[0]
    sample, pruning = first.samples[0], profile.manifest.pruning
    turns = count(profile.repeat, "interleaved turn") + (
        ", interrupted" if profile.interrupted else ""
    )
    text_tokens = sample.prompt_tokens - sample.visual_after
    inside = " and ".join(
        f"{stage.keep} per picture from layer {stage.layer} on"
        for stage in profile.manifest.decoder.stages
    )
    inside = f" with {inside} of the decoder" if inside else ""
    for stage in profile.manifest.vision.stages:
        inside += f", {stage.keep} per tile from layer {stage.layer} of the tower on"
    return (
        f"{profile.manifest.source.model}, {pruning.method}{inside}, "
        f"{_before(profile)} before "
        f"pruning; {_shown(profile)}{_sizes(sample)} and {text_tokens} text "
        f"tokens in, "
        f"{sample.new_tokens} tokens out; {_same(profile)}{turns}"
    )


def _stages(profile: Profile) -> Table:
    further = any(FURTHER in result.stages for result in profile.results)
    columns = [*STAGES, *([FURTHER] if further else [])]
    head = [*_case_head(profile), *columns]
    body = []
    for result in profile.results:
        cells = {stage: compact(spread.median) for stage, spread in result.stages.items()}
        if (share := result.select_share) is not None:
            cells["select"] = f"{100 * share:.2g} %"
        body.append([*_case_cells(profile, result), *(cells.get(stage, "?") for stage in columns)])
    return Table(
        "Milliseconds, median; select is a part of vision, ttft is all but load up to the first "
        "token:",
        head,
        body,
    )


def _savings(profile: Profile) -> Table:
    head = [*_case_head(profile), "ttft", "p95", "stddev", "sooner", "by FLOPs"]
    head += ["prefill", "by FLOPs", "decode tokens/s", "KV cache", "peak memory"]
    body = []
    for result in profile.results:
        base = profile.reference(result)
        spread, costs, before = result.stages["ttft"], result.costs, base.costs
        rate, peak = result.decode_rate, result.peak_bytes
        cells = [compact(spread.median), compact(spread.p95), compact(spread.deviation)]
        cells += [_times(base.stages["ttft"].median, spread.median)]
        cells += [_times(before.flops_first_token, costs.flops_first_token)]
        cells += [_times(base.stages["prefill"].median, result.stages["prefill"].median)]
        cells += [_times(before.flops_prompt, costs.flops_prompt)]
        cells += [compact(rate) if rate else "", f"{costs.kv_bytes_prompt / 1e6:.2f} MB"]
        cells += [f"{peak.median / 1e6:.0f} MB" if peak else "?"]
        body.append([*_case_cells(profile, result), *cells])
    title = (
        "Time to first token in milliseconds, and how many times sooner it and the prefill are "
        "done than with the most tokens, measured and by formula:"
    )
    return Table(title, head, body)


def _times(before: float | None, after: float | None) -> str:
    return f"{before / after:.2f}x" if before and after else "?"


def _sizes(sample: Sample) -> str:
    """Of the pictures and clips, where they are known, each once."""
    sizes = ", ".join(dict.fromkeys(sample.picture_sizes))
    return f" of {sizes} pixels" if sizes else ""


def _shown(profile: Profile) -> str:
    """How many pictures and clips."""
    clips = clips_of(profile)
    pictures = profile.results[0].shown - clips
    kinds = ((pictures, "picture"), (clips, "clip"))
    return " and ".join(count(number, kind) for number, kind in kinds if number)


def _before(profile: Profile) -> str:
    first = profile.results[0]
    sample, clips = first.samples[0], clips_of(profile)
    if sample.tiles == first.shown:
        return f"{sample.visual_before // first.shown} visual tokens per picture"
    pieces = count(sample.tiles, "frame" if clips == first.shown else "tile")
    if 0 < clips < first.shown:
        pieces += " and frames"
    return f"{sample.visual_before} visual tokens in {pieces}"


def _in_tiles(profile: Profile) -> bool:
    first = profile.results[0]
    return first.samples[0].tiles > first.shown


def _per(profile: Profile) -> str:
    clips = clips_of(profile)
    return "per frame" if clips == profile.results[0].shown else "per tile"


def _case_head(profile: Profile) -> list[str]:
    """Heads of the columns that name a case. A picture in several tiles, or a clip, has the budget
    in each, so both numbers get a column."""
    return [
        *([_per(profile)] if _in_tiles(profile) else []),
        "tokens",
        *(_PARTS[part] for part in profile.varying),
    ]


def _case_cells(profile: Profile, result: Result) -> list[str]:
    first, in_tiles = result.samples[0], _in_tiles(profile)
    tokens = (
        [result.case.budget, first.visual_after // result.shown]
        if in_tiles
        else [result.case.budget]
    )
    return [*map(str, tokens), *(str(result.case.family[part]) for part in profile.varying)]


def _same(profile: Profile) -> str:
    """The parts that are the same for all results."""
    decoder, precision, vision, threads = profile.results[0].case.family
    parts = (decoder, precision, f"vision {vision}", count(threads, "thread"))
    same = [text for part, text in enumerate(parts) if part not in profile.varying]
    return "".join(f"{text}, " for text in same)
