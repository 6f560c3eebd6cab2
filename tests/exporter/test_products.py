"""Families, methods, engines and precisions together: every pair of them is exported and answers.

``make test-all`` tries the whole product.
"""

import functools
import re
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image

from pocketvlm import VLM, Artifact, Sampling
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.caps import Caps
from pocketvlm_export.families import FAMILIES
from pocketvlm_export.pruning import PRUNERS, find_pruner
from support.products import combinations
from support.using import check_facts

pytest.importorskip("llama_cpp")


@dataclass(frozen=True)
class Model:
    """A preset under one of its family's layouts.

    ``has_cls``: its tower has a [CLS] token. ``methods``: those with which it is one of the pairs,
    so that every method meets two families at least; none for those whose own tests export them in
    every precision and for both engines. ``caps``: on its pictures, which may be of ``any_size``.
    ``gguf``: llama.cpp reads its decoder.
    """

    preset: str
    layout: str
    has_cls: bool = True
    methods: tuple[str, ...] = ()
    caps: Caps = field(default_factory=Caps)
    any_size: bool = False
    gguf: bool = True

    def __str__(self) -> str:
        return f"{self.preset}-{self.layout}"


MODELS = [
    Model("tiny-llama", "single", methods=("fastervlm", "vtc-cls", "received-attention", "none")),
    Model(
        "tiny-llava-next",
        "fastervlm",
        methods=("fastervlm", "vtc-cls", "score", "uniform", "cdpruner"),
    ),
    Model("tiny-llava-next", "hf", methods=("uniform", "gprune", "none")),
    Model("tiny-llava-onevision", "hf", has_cls=False),
    Model("tiny-smolvlm", "hf", has_cls=False, methods=("divprune", "gprune", "random", "none")),
    Model("tiny-idefics3", "hf", has_cls=False, methods=("received-attention", "cdpruner")),
    Model("tiny-video-llava", "fastervlm", methods=("fastervlm", "random")),
    Model("tiny-internvl", "hf", methods=("vtc-cls", "scope", "gprune", "none")),
    Model("tiny-gemma3", "single", has_cls=False),
    Model(
        "tiny-qwen2-vl",
        "hf",
        has_cls=False,
        caps=Caps(fixed_size=(84, 112)),
    ),
    Model(
        "tiny-qwen2.5-vl",
        "hf",
        has_cls=False,
        any_size=True,
    ),
    Model("tiny-paligemma", "single", has_cls=False, gguf=False),
    Model(
        "tiny-qwen3-vl",
        "hf",
        has_cls=False,
        any_size=True,
    ),
    Model("tiny-lfm2-vl", "hf", has_cls=False, any_size=True),
]
# What --decoder, --decoder-precision and --gguf-type are given.
DECODERS = [
    ("onnx", ("fp32", "fp16", "int8", "int4", "int4_b128"), ()),
    ("llama.cpp", (), ("f32", "q4_0", "q4_k_m")),
    ("both", ("fp32",), ("q8_0", "f16")),
]
EXACT = ("fp32",)
VISION = [EXACT, ("fp16", "int8")]
BUDGET = 9


def allowed(combination):
    """Whether the family has what the method reads, the layout is for it, and random weights keep
    the same patches in every precision."""
    model, pruner = combination.get("model"), combination.get("pruner")
    if model is not None and not model.gguf and combination.get("decoder", DECODERS[0])[2]:
        return False
    if model is None or pruner is None:
        return True
    # G-Prune's scores jump where a similarity passes its threshold; many of these towers' are near
    # it, so that the gate rightly refuses what fp16 and int8 keep.
    if pruner == "gprune" and not model.has_cls and combination.get("vision", EXACT) != EXACT:
        return False
    if model.any_size and pruner in ("uniform", "random"):  # their patterns are of one grid
        return False
    # Its decoder reads further features of each token, which no method says how to merge.
    if "qwen3-vl" in model.preset and find_pruner(pruner).merges:
        return False
    if pruner == "none":  # under which a family has one layout: that of transformers
        return model.layout in ("single", "hf")
    return model.has_cls or "cls_row" not in find_pruner(pruner).reads


def allowed_in_pairs(combination):
    """Whether it is allowed, and worth its time where not everything is tried."""
    model, pruner = combination.get("model"), combination.get("pruner")
    if model is not None and not model.methods:
        return False
    chosen = model is None or pruner is None or pruner in model.methods
    return chosen and allowed(combination)


def pytest_generate_tests(metafunc):
    if "combination" in metafunc.fixturenames:
        every = metafunc.config.getoption("all_combinations")
        factors = {"model": MODELS, "pruner": list(PRUNERS), "decoder": DECODERS, "vision": VISION}
        rows = combinations(metafunc.config, factors, allowed if every else allowed_in_pairs)
        names = ["-".join((str(r["model"]), r["pruner"], r["decoder"][0])) for r in rows]
        metafunc.parametrize("combination", rows, ids=names)


@pytest.fixture(scope="module")
def checkpoints(make_tiny):
    """A preset's checkpoint, written once."""
    return functools.cache(make_tiny)


def test_every_family_is_here():
    presets = {re.sub("[-.]", "_", model.preset.removeprefix("tiny-")) for model in MODELS}
    assert presets - {"llama"} | {"llava"} == FAMILIES.keys()


def test_it_passes_the_gate_and_every_engine_answers(combination, checkpoints, tmp_path):
    model, (decoder, precisions, gguf) = combination["model"], combination["decoder"]
    options = ExportOptions(
        pruner=combination["pruner"],
        budgets=() if combination["pruner"] == "none" else (BUDGET,),
        layout=model.layout,
        caps=model.caps,
        decoder=decoder,
        vision_precisions=combination["vision"],
        decoder_precisions=precisions or ("fp32",),
        gguf_types=gguf,
    )
    export(str(checkpoints(model.preset)), tmp_path / "artifact", options)
    manifest = Artifact.open(tmp_path / "artifact").manifest
    assert manifest.parity.passed
    assert manifest.decoder.engines == options.engines
    needs = check_facts(tmp_path / "artifact")["needs"]
    assert ("llama.cpp" in needs, "clips" in needs) == (not precisions, "video" in model.preset)
    noise = np.random.default_rng(0).integers(0, 256, (60, 84, 3), dtype=np.uint8)
    frame = Image.fromarray(noise)
    media = {"videos": [[frame] * 3]} if "video" in model.preset else {"images": [frame]}
    for engine in manifest.decoder.engines:
        for precision in manifest.decoder.by_engine[engine]:
            vlm = VLM.load(tmp_path / "artifact", decoder=engine, decoder_precision=precision)
            answer = vlm.generate("what is it?", sampling=Sampling(max_new_tokens=3), **media)
            assert answer.decoder == f"{engine} {precision}"
            assert 1 <= len(answer.token_ids) <= 3
            assert 0 < answer.visual_tokens["after"] <= answer.visual_tokens["before"]
            vlm.close()
