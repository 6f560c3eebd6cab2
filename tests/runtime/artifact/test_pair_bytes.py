"""How much memory answering with two decoders is said to take, counted by hand."""

import dataclasses

from pocketvlm import Artifact
from pocketvlm.artifact.pair import pair_bytes
from pocketvlm.artifact.specs import FileEntry, MediumSpec
from pocketvlm.limits import SequenceLimits


def test_all_that_is_in_memory_is_counted(artifact_dir):
    """Everything that is open at once, and the caches that are kept."""
    manifest = Artifact.open(artifact_dir).manifest
    (only,) = manifest.decoder.graphs
    spec = dataclasses.replace(manifest.decoder, pair=f"{only}+{only}")
    manifest = dataclasses.replace(manifest, decoder=spec)
    alone = pair_bytes(manifest)
    token = 2 * 4 * spec.layers * spec.kv_heads * spec.head_dim  # keys and values, float32
    (graph,) = manifest.vision.graphs[manifest.pruning.default_budget].values()

    longer = dataclasses.replace(spec, context=spec.context + 10)
    with_more = dataclasses.replace(manifest, decoder=longer)
    assert pair_bytes(with_more) - alone == (2 + SequenceLimits().kept) * 10 * token
    endless = dataclasses.replace(spec, context=10**9)
    with_more = dataclasses.replace(manifest, decoder=endless)
    without = alone - (2 + SequenceLimits().kept) * spec.context * token
    caches = 2 * 10**9 * token + SequenceLimits().memory_bytes
    assert pair_bytes(with_more) == without + caches

    files = {**manifest.files, "selector": FileEntry(1000, ""), "table": FileEntry(70, "")}
    spec = dataclasses.replace(spec, embed={**spec.embed, "fp16": "table"})
    vision = dataclasses.replace(
        manifest.vision, selectors=dict.fromkeys((6, 3), "selector"), selector_table="fp16"
    )
    with_more = dataclasses.replace(manifest, files=files, decoder=spec, vision=vision)
    assert pair_bytes(with_more) - alone == 2500 + 70

    files = {**manifest.files, "clips": FileEntry(2000, ""), "clips_data": FileEntry(4000, "")}
    clips = dataclasses.replace(manifest.vision, graphs={6: {"fp32": "clips"}})
    medium = MediumSpec(
        vision=clips,
        **{
            name: getattr(manifest, name, None) or getattr(manifest.decoder, name)
            for name in ("pruning", "parity", "image_token_id")
        },
    )
    with_more = dataclasses.replace(manifest, files=files, media={"video": medium})
    assert pair_bytes(with_more) - alone == 15000
    assert manifest.bytes_of(graph) == (artifact_dir / graph).stat().st_size
