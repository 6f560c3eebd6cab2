"""Knows how a plan of an export and its report read for people."""

from collections.abc import Iterator
from typing import Any

from pocketvlm.cli.described import figures_text, pixels_text, totals_text


def describe_plan(plan: dict[str, Any]) -> Iterator[str]:
    """Return the lines that say what a plan, see `ExportPlan.to_dict`, would write and cost."""
    stages = "".join(
        f", {stage['keep']} from layer {stage['layer']} of the {part} on"
        for part in ("tower", "decoder")
        for stage in plan[f"{part}_stages"]
    )
    budgets = ", ".join(map(str, plan["budgets"]))
    merged = ", dropped ones merged" if plan["merge_dropped"] else ""
    yield f"{plan['pruner']}{merged}, visual tokens {budgets}{stages}; nothing written"
    yield from describe_size(plan.get("image_size"))
    yield from describe_caps(plan["caps"])
    yield from _describe_totals(plan["totals"])
    yield from (f"  {note}" for note in plan["notes"])
    for file, size in plan["files"].items():
        yield f"  {file:44} about {size / 1e6:10.1f} MB"
    disk, memory = plan["disk_bytes"] / 1e6, plan["memory_bytes"] / 1e6
    yield f"  while exporting: disk about {disk:.1f} MB, memory about {memory:.1f} MB"
    yield f"  {describe_cost(plan)}"


def describe_caps(caps: dict[str, Any]) -> Iterator[str]:
    """Return what pictures are made of, where that is not the checkpoint's own."""
    if pixels := caps.get("max_pixels"):
        smaller = "are made smaller" if "max_tiles" not in caps else "in one tile are made smaller"
        yield f"  pictures of more than {pixels} pixels {smaller}; --max-pixels N for others"
    if tiles := caps.get("max_tiles"):
        yield f"  pictures are cut into {tiles} parts at most; --max-tiles N for others"
    if size := caps.get("fixed_size"):
        yield f"  every picture is resized to {size[0]}x{size[1]} pixels (height x width)"


def describe_size(size: dict[str, Any] | None) -> Iterator[str]:
    """Return what another size than the checkpoint's own comes to; nothing where it is its own."""
    if size is not None:
        (height, width), (own_height, own_width) = size["asked"], size["made_for"]
        yield (
            f"  pictures or tiles of {height}x{width} pixels, where the checkpoint was made for "
            f"{own_height}x{own_width}: {size['tokens']} tokens each before pruning"
        )


def _describe_totals(totals: dict[str, dict[str, int]]) -> Iterator[str]:
    """Nothing where a picture is one tile: its budget is the total."""
    for budget, text in totals_text(totals):
        yield f"  {budget} per tile come to {text}"


def describe_cost(plan: dict[str, Any]) -> str:
    """Return what an artifact takes on a device, in one line."""
    size, memory = plan["bytes"] / 1e6, plan["device_memory_bytes"] / 1e6
    full = f"with its context of {plan['context']} tokens full"
    return (
        f"on the device: files of about {size:.1f} MB, memory about {memory:.1f} MB while "
        f"answering {full}"
    )


def describe_report(report: dict[str, Any]) -> Iterator[str]:
    """Return the lines that say what was written, and how near it is to the checkpoint."""
    pruning, parity = report["pruning"], report["parity"]
    kept = f"{', '.join(map(str, pruning['budgets']))} of {pruning['tokens_before']} visual tokens"
    yield f"{report['output']}: {report['bytes'] / 1e6:.1f} MB, {pruning['method']}, {kept}"
    yield from _describe_totals(report["totals"])
    for name in ("vision", "decoder"):
        if not (part := parity[name]):
            continue
        detail = (
            f"kept equal, smallest gap {part['min_gap']:.1e}"
            if name == "vision"
            else f"{part['greedy_equal']} tokens equal"
        )
        yield (
            f"  parity {name:8} max difference {part['max_abs']:.1e} of "
            f"{part['max_reference']:.3g}; {detail}"
        )
    if parity["pixels"]:
        yield f"  parity pixels   {pixels_text(parity['pixels'])}"
    for precision, figures in parity["by_precision"].items():
        yield f"  parity {precision:8} {figures_text(figures)}"
    for medium, other in report.get("media", {}).items():
        kept, most = other["pruning"]["budgets"], other["pruning"]["tokens_before"]
        gap = other["parity"]["vision"].get("max_abs")
        differs = "" if gap is None else f", max difference {gap:.1e}"
        yield f"  beside {medium:8} {', '.join(map(str, kept))} of {most} visual tokens{differs}"
