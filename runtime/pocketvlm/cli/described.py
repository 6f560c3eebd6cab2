"""Knows how an artifact is described to people, line by line: contents, settings and figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocketvlm.artifact import Artifact, Manifest
    from pocketvlm.artifact.specs import DecoderSpec, Generation, Parity
    from pocketvlm.layouts import Layout

_LONGEST_VALUE = 60  # characters of a setting
_MEDIA = {"image": "pictures", "video": "clips"}


def graphs(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """(what it is, file name) of each graph and GGUF file; those that answer unless another
    precision is given are marked as the default."""
    decoder = manifest.decoder
    visions = {"vision": manifest.vision}
    visions |= {f"vision ({name})": other.vision for name, other in manifest.media.items()}
    for what, vision in visions.items():
        for budget, by_precision in sorted(vision.graphs.items(), reverse=True):
            for precision, name in by_precision.items():
                yield f"{what} k={budget} {_marked(precision, vision.default_precision)}", name
        for budget, name in sorted(vision.selectors.items(), reverse=True):
            yield f"selector{what.removeprefix('vision')} k={budget}", name
    for precision, name in decoder.embed.items():
        yield f"embed {precision}", name
    for kind, engine in (("decoder", "onnx"), ("llama.cpp", "llama.cpp")):
        for precision, name in decoder.by_engine[engine].items():
            default = decoder.default_precisions.get(engine)
            yield f"{kind} {_marked(precision, default)}", name


def _marked(value: Any, default: Any) -> str:
    return f"{value} (default)" if value == default else str(value)


def describe(artifact: Artifact) -> Iterator[str]:
    """Lines for people; pictures are described under the artifact's caps."""
    from pocketvlm.layouts import counting_layout

    manifest, layout = artifact.manifest, counting_layout(artifact)
    source, parity = manifest.source, manifest.parity
    commit = f" at {source.commit}" if source.commit else ""
    yield (
        f"source     {source.model}{commit} ({source.family}, licence "
        f"{source.license or 'not stated'})"
    )
    yield from _pruning_text(manifest, layout)
    yield from _stages_text(manifest)
    yield _reads(layout)
    for medium in manifest.media:
        other = counting_layout(artifact.reading(medium))
        tokens = manifest.media[medium].pruning.tokens_before
        yield f"{_reads(other)}, {tokens} tokens per {other.unit}"
    yield from _decoder_text(manifest.decoder)
    yield from _pair_text(manifest)
    yield from _generation_text(manifest.generation)
    for what, name in graphs(manifest):
        yield f"graph      {what:<26} {size_text(manifest.bytes_of(name)):>10}  {name}"
    total = sum(entry.bytes for entry in manifest.files.values())
    yield f"files      {len(manifest.files)}, {size_text(total)} in all"
    yield (
        f"parity     {'passed' if parity.passed else 'FAILED, not for use'} against "
        f"{parity.reference}"
    )
    yield from _parity_text(parity)
    for medium, spec in manifest.media.items():
        yield f"           with {_MEDIA[medium]}: {'passed' if spec.parity.passed else 'FAILED'}"
        yield from _parity_text(spec.parity)
    yield _self_test_text(manifest)
    makers = ", ".join(f"{name} {version}" for name, version in manifest.created_by.items())
    yield f"made by    {makers or 'not stated'}"
    yield f"id         {manifest.artifact_id}"


def _self_test_text(manifest: Manifest) -> str:
    """What a device is compared with."""
    tests = [manifest.self_test, *(other.self_test for other in manifest.media.values())]
    files = [name for test in tests if test for name in (test.file, *test.pictures)]
    if not files:
        return "self-test  none: export it again to have providers other than the CPU's checked"
    size = size_text(sum(manifest.files[name].bytes for name in files))
    return f"self-test  {', '.join(files)} ({size}), run by `pocketvlm verify`"


def _pruning_text(manifest: Manifest, layout: Layout) -> Iterator[str]:
    """What the vision graph keeps."""
    pruning = manifest.pruning
    budgets = ", ".join(_marked(k, pruning.default_budget) for k in pruning.budgets)
    before = f"{pruning.tokens_before} tokens per {layout.unit}"
    if manifest.vision.image_size is None:
        before = f"at most {before}"
    options = ", ".join(f"{name} {value}" for name, value in pruning.options.items())
    method = f"{pruning.method} ({options})" if options else pruning.method
    method += ", dropped ones merged" if pruning.merge_dropped else ""
    yield f"pruning    {method}, {before} -> {budgets}"
    if (made_for := manifest.vision.made_for) and (size := manifest.vision.image_size):
        yield (
            f"           pictures or tiles of {size[0]}x{size[1]} pixels, where the checkpoint was "
            f"made for {made_for[0]}x{made_for[1]}"
        )
    for budget, text in totals_text(manifest.vision.totals):
        yield f"           {budget} per tile come to {text}"
    if manifest.vision.selectors:
        yield (
            "           selected by the question: the vision graph gives all tokens, which further "
            "questions select again from"
        )


def _stages_text(manifest: Manifest) -> Iterator[str]:
    """What tower and decoder drop between their layers, and by whose scores."""
    decoder = manifest.decoder
    for stage in manifest.vision.stages:
        yield (
            f"stage      layers from {stage.layer} on of the tower read {stage.keep} patches per "
            f"tile, by {stage.by}"
        )
    for stage, layers in zip(decoder.stages, decoder.segments[1:], strict=True):
        yield (
            f"stage      layers {layers.start}..{layers.stop - 1} of the decoder read "
            f"{stage.keep} tokens per picture, by {stage.by}, original positions"
        )
    if decoder.reads_scores:
        yield "guide      needed, as it ranks visual tokens: run DIR --guide SMALL"
    if decoder.scores:
        yield "guide      its decoder says what attention pays to each token, for run LARGE --guide"


def _decoder_text(decoder: DecoderSpec) -> Iterator[str]:
    """What the decoder is, and how its tokens are numbered and see each other."""
    from pocketvlm.decoders.attention import TITLES
    from pocketvlm.decoders.positions import positions_named

    if title := positions_named(decoder.positions).title:
        yield f"positions  {title}"
    if decoder.first_position:
        yield f"positions  count on from {decoder.first_position}"
    if title := TITLES[decoder.attention]:
        yield f"attention  {title}"
    if decoder.extras:
        yield (
            f"features   further ones of each token, which the decoder reads behind its first "
            f"{len(decoder.extras)} layers: {', '.join(decoder.extras)}"
        )
    engines = ", ".join(_marked(engine, decoder.default_engine) for engine in decoder.engines)
    yield (
        f"decoder    {engines}: {decoder.layers} layers, hidden "
        f"{decoder.hidden}, {decoder.kv_heads} KV heads of {decoder.head_dim}, vocabulary "
        f"{decoder.vocab}, context {decoder.context}"
    )
    if decoder.conv_layers:
        yield (
            f"           {len(decoder.conv_layers)} of the layers are convolutions: a conversation "
            "continues from its last turn, nothing else of a prompt is reused"
        )


def _pair_text(manifest: Manifest) -> Iterator[str]:
    """Which two decoders answer together, and whether they do here."""
    from pocketvlm.artifact.pair import choose_precision

    if manifest.decoder.pair:
        chosen = choose_precision(manifest, "onnx")
        yield f"pair       here {chosen.precision} answers: {chosen.reason}"


def _reads(layout: Layout) -> str:
    return f"{_MEDIA[layout.medium]:<10} {layout.summary}"


def _parity_text(parity: Parity) -> Iterator[str]:
    """The figures of a parity check."""
    for part, figures in (
        ("vision", parity.vision),
        ("decoder", parity.decoder),
        *parity.by_precision.items(),
    ):
        if figures:
            yield f"           {part}: {figures_text(figures)}"
    if parity.pixels:
        yield f"           pixels: {pixels_text(parity.pixels)}"


def settings_text(stated: Mapping[str, Any]) -> str:
    """Settings of an artifact's checkpoint on one line, long lists cut."""
    return ", ".join(f"{name} {_short(json.dumps(value))}" for name, value in stated.items())


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def _generation_text(generation: Generation) -> Iterator[str]:
    """How the checkpoint was published to answer; nothing where it states nothing."""
    rows = (
        ("answers    go through", generation.processors, ""),
        ("           sample by", generation.sampling, " with --sampling checkpoint"),
        ("           do not follow", generation.not_applied, ", which the checkpoint states"),
    )
    for label, stated, where in rows:
        if stated:
            yield f"{label} {settings_text(stated)}{where}"


def totals_text(totals: Mapping[str, Mapping[str, int]]) -> Iterator[tuple[str, str]]:
    """(budget, visual tokens by grid of tiles as words) of each; none where a picture is one
    tile."""
    for budget, by_grid in totals.items():
        if len(by_grid) > 1:
            cut = ", ".join(f"{slots} ({grid})" for grid, slots in by_grid.items())
            yield budget, f"{cut} visual tokens per picture, by the parts that it is cut into"


def size_text(size: int) -> str:
    """Bytes for people, in decimal units."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def pixels_text(pixels: Mapping[str, Any]) -> str:
    """How pixels follow transformers' image processor, of the parity figures called ``pixels``."""
    largest = pixels.get("max_abs", 0.0)
    return f"max difference {_figure(largest)}" if largest else "equal"


def figures_text(figures: Any) -> str:
    """Measured figures, however nested, on one line."""
    if not isinstance(figures, dict):
        return _figure(figures)
    return ", ".join(
        f"{key} ({figures_text(value)})" if isinstance(value, dict) else f"{key} {_figure(value)}"
        for key, value in figures.items()
    )


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
