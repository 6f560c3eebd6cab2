"""What holds of every family before anything is built: its default method, its caps on pictures,
and how those it has not are refused. A new family is a line of `PRUNERS_BY_DEFAULT`."""

import dataclasses
import functools
import json
import re
import shutil

import pytest
import transformers

from make_checkpoint import HUB_PRESETS, PRESETS
from pocketvlm.errors import RequestError
from pocketvlm.layouts import make_layout, tokens_of_tiles
from pocketvlm_export import ExportOptions
from pocketvlm_export.caps import CAPS as KNOWN
from pocketvlm_export.caps import MOST_COMPARED, Caps
from pocketvlm_export.checkpoint import load_image_processor
from pocketvlm_export.families import FAMILIES
from pocketvlm_export.layouts import setting
from pocketvlm_export.loading import inspect_checkpoint
from pocketvlm_export.packaging.sidecars import write_sidecars
from pocketvlm_export.planning import make_plan

# The method, and what it weighs patches by.
PRUNERS_BY_DEFAULT = {
    "llava": ("scope", "cls"),
    "llava_next": ("scope", "cls"),
    "llava_onevision": ("scope", "received"),
    "video_llava": ("scope", "cls"),
    "smolvlm": ("scope", "received"),
    "idefics3": ("scope", "received"),
    "internvl": ("scope", "received"),  # though it has [CLS]
    "gemma3": ("scope", "received"),
    "qwen2_vl": ("scope", "received"),
    "qwen2_5_vl": ("scope", "received"),
    "paligemma": ("scope", "received"),
    "qwen3_vl": ("scope", "received"),
    "lfm2_vl": ("scope", "received"),
}
NAMES = [name for name in (*PRESETS, *HUB_PRESETS) if name.startswith("tiny-")]
# A cap that each family takes which has it, and a smaller one for when it runs.
CAPS = {
    "max_tiles": (4, 2),
    "max_pixels": (40 * 28 * 28, 20 * 28 * 28),
    "fixed_size": ((224, 224), None),  # whole tokens of 28 pixels, and of 32
}


@pytest.fixture(scope="module")
def opened(make_tiny):
    """A preset's checkpoint, written and opened once."""
    return functools.cache(lambda preset: inspect_checkpoint(str(make_tiny(preset))))


@pytest.fixture(scope="module")
def of_family(opened):
    """The first preset's checkpoint of a family."""
    presets = {**PRESETS, **HUB_PRESETS}
    return lambda family: opened(next(name for name in NAMES if presets[name].family == family))


def size_of(layout, cap):
    """What a cap bounds, of the largest picture."""
    if cap == "max_tiles":  # a further tile of the whole not counted
        return max(grid.rows * grid.columns for grid in layout.grids())
    return layout.factor**2 * max(max(tokens_of_tiles(layout, grid)) for grid in layout.grids())


def test_every_family_is_here():
    assert PRUNERS_BY_DEFAULT.keys() == FAMILIES.keys()
    assert CAPS.keys() == set(KNOWN)
    assert {name for family in FAMILIES.values() for name in family.caps} == CAPS.keys()


@pytest.mark.parametrize("preset", NAMES)
def test_a_checkpoint_is_planned_without_any_option(opened, preset):
    checkpoint = opened(preset)
    plan = make_plan(checkpoint, ExportOptions())
    pruner = plan.pruner
    expected = PRUNERS_BY_DEFAULT[checkpoint.family.model_type]
    assert (pruner.name, pruner.options["weight"]) == expected
    (budget,) = plan.budgets
    assert budget == max(1, round(plan.spec.vision.tokens / 4))
    assert plan.warnings == ()


def test_where_comparing_all_with_all_costs_much_another_method_prunes(opened):
    checkpoint = opened("tiny-qwen2-vl")
    for tokens, method in ((MOST_COMPARED, "scope"), (MOST_COMPARED + 1, "divprune")):
        caps = Caps(max_pixels=tokens * 28 * 28)
        assert make_plan(checkpoint, ExportOptions(caps=caps, context=4096)).pruner.name == method


@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_caps_that_a_family_has_not_are_refused_in_words(of_family, family, cap):
    checkpoint, options = of_family(family), ExportOptions(caps=Caps(**{cap: CAPS[cap][0]}))
    if cap in FAMILIES[family].caps:
        make_plan(checkpoint, options)
        return
    with pytest.raises(RequestError) as caught:
        make_plan(checkpoint, options)
    error, flag = caught.value, f"--{cap.replace('_', '-')}"
    assert f"{flag} {CAPS[cap][0]} does not apply to {family} checkpoints" in str(error)
    assert error.setting == cap
    assert "\n" not in str(error)
    # What to do instead: the caps that there are, or none.
    others = [f"--{name.replace('_', '-')}" for name in FAMILIES[family].caps]
    assert error.advice
    assert all(other in error.advice for other in others)


@pytest.mark.parametrize(
    ("family", "cap"), [(name, cap) for name in FAMILIES for cap in sorted(FAMILIES[name].caps)]
)
def test_every_layout_can_be_capped(of_family, family, cap):
    """By the export, and what is left by whoever runs it; the memory that is planned for falls with
    it."""
    checkpoint, (at_export, at_run) = of_family(family), CAPS[cap]
    for name in checkpoint.spec.layouts:
        options = ExportOptions(layout=name)
        free = make_plan(checkpoint, options)
        asking = dataclasses.replace(options, caps=Caps(**{cap: at_export}))
        own = make_layout(setting(free.spec, free.layout)).caps
        if cap != "fixed_size" and cap not in own:  # one of the family's layouts that cuts nothing
            assert cap not in free.spec.caps.given
            with pytest.raises(RequestError, match=cap.replace("_", "-")):
                make_plan(checkpoint, asking)
            continue
        capped = make_plan(checkpoint, asking)
        layout = make_layout(setting(capped.spec, capped.layout))
        # A family with two of them states the other one too.
        assert capped.spec.caps.given[cap] == at_export
        assert capped.spec.caps.given.keys() <= {*FAMILIES[family].caps}
        assert capped.to_dict()["caps"] == capped.spec.caps.given
        assert capped.footprint().total <= free.footprint().total
        if cap == "fixed_size":
            assert layout.largest_size() == at_export
            assert layout.grid(300, 20).tokens == layout.grid(40, 40).tokens
            continue
        assert size_of(layout, cap) <= at_export
        assert size_of(layout, cap) <= size_of(make_layout(setting(free.spec, free.layout)), cap)
        assert size_of(layout.capped(**{cap: at_run}), cap) <= at_run
        with pytest.raises(RequestError, match=cap):
            layout.capped(**{cap: at_export + 1})


@pytest.mark.parametrize("pruner", ["fastervlm", "vtc-cls"])
def test_who_asks_for_what_is_known_to_fail_is_warned(of_family, pruner):
    """InternVL's [CLS] ranks patches badly; its export is allowed all the same."""
    for family in FAMILIES:
        checkpoint = of_family(family)
        if not checkpoint.spec.vision.has_cls:
            with pytest.raises(RequestError, match=rf"no \[CLS\] token that {pruner}"):
                make_plan(checkpoint, ExportOptions(pruner=pruner))
            continue
        warnings = make_plan(checkpoint, ExportOptions(pruner=pruner)).warnings
        assert all(pruner in warning for warning in warnings)
        assert bool(warnings) == (PRUNERS_BY_DEFAULT[family][1] != "cls")


# A cap under which each family's processor states another number than its checkpoint's.
NESTED = {
    "llava_next": ({"max_tiles": 2}, "image_grid_pinpoints"),
    "llava_onevision": ({"max_tiles": 2}, "image_grid_pinpoints"),
    "smolvlm": ({"max_tiles": 1}, "size"),
    "idefics3": ({"max_tiles": 1}, "size"),
    "internvl": ({"max_tiles": 2}, "max_patches"),
    "qwen2_vl": ({"max_pixels": 40 * 28 * 28}, "size"),
    "qwen2_5_vl": ({"max_pixels": 40 * 28 * 28}, "size"),
    "lfm2_vl": ({"max_pixels": 40 * 28 * 28}, "max_image_tokens"),
}


@pytest.mark.parametrize("family", NESTED)
def test_caps_are_written_where_transformers_looks_first(make_tiny, tmp_path, family):
    """transformers 5 saves the image processor inside processor_config.json, and takes that."""
    preset = f"tiny-{family.replace('qwen2_5', 'qwen2.5').replace('_', '-')}"
    source = shutil.copytree(make_tiny(preset), tmp_path / "checkpoint")
    stated = json.loads((source / "preprocessor_config.json").read_text())
    stated.pop("processor_class", None)
    (source / "preprocessor_config.json").unlink()
    (source / "processor_config.json").write_text(json.dumps({"image_processor": stated}))
    caps, key = NESTED[family]
    plan = make_plan(inspect_checkpoint(str(source)), ExportOptions(caps=Caps(**caps)))
    (tmp_path / "artifact").mkdir()
    write_sidecars(plan, tmp_path / "artifact")
    built = load_image_processor(tmp_path / "artifact")
    beside = json.loads((tmp_path / "artifact" / "preprocessor_config.json").read_text())
    expected = beside[key]
    actual = getattr(built, key)
    assert actual == expected or dict(actual) == {**dict(actual), **expected}
    assert beside[key] != stated.get(key)


@pytest.mark.parametrize(
    ("preset", "caps", "message"),
    [
        ("tiny-smolvlm", {"max_tiles": 5}, "--max-tiles 5 is outside 1..4"),
        ("tiny-llava-next", {"max_tiles": 99}, "--max-tiles 99 is outside"),
        ("tiny-llava-onevision", {"max_tiles": 37}, "--max-tiles 37 is outside 1..36"),
        (
            "tiny-qwen2-vl",
            {"fixed_size": (28 * 1000, 28 * 1000)},
            "pixels: expected at most 12845056",
        ),
    ],
)
def test_more_than_a_checkpoint_allows_is_refused(opened, preset, caps, message):
    with pytest.raises(RequestError, match=re.escape(message)):
        make_plan(opened(preset), ExportOptions(caps=Caps(**caps)))


def test_a_suggestion_that_changes_nothing_is_not_recorded(opened):
    suggested = Caps(max_tiles=50, suggested=frozenset({"max_tiles"}))
    for preset in ("tiny-smolvlm", "tiny-llava-next", "tiny-llava-onevision"):
        plan = make_plan(opened(preset), ExportOptions(caps=suggested))
        assert plan.spec.caps.given == {}


def test_what_capped_accepts_is_listed(opened):
    """Targets and baselines take limits by that list."""
    for preset in NAMES:
        spec = opened(preset).spec
        for stated in spec.layouts.values():
            layout = make_layout(setting(spec, stated))
            for cap in ("max_tiles", "max_pixels"):
                try:
                    layout.capped(**{cap: layout.caps.get(cap, 1)})
                except RequestError:
                    assert cap not in layout.caps
                else:
                    assert cap in layout.caps


def test_small_pictures_stay_under_a_cap_near_the_processors_minimum(opened):
    spec = opened("tiny-qwen2-vl").spec
    (layout,) = spec.layouts.values()
    stated = {**layout.stated, "min_pixels": 256 * 784, "max_pixels": 1024 * 784}
    own = make_layout(setting(spec, dataclasses.replace(layout, stated=stated)))
    capped = own.capped(max_pixels=256 * 784)
    for size in ((200, 300), (30, 70), (1, 1), (900, 400)):
        assert capped.grid(*size).tokens.tokens <= 256


# Where each key of a family's own configuration goes. Those of towers and decoders are read by
# transformers' modules, which the graphs are made of.
READ_BY = {
    "vision_config": "the tower",
    "text_config": "the decoder",
    "tie_word_embeddings": "decoder_spec",
    "image_token_index": "parse",
    "image_token_id": "parse",
    "video_token_index": "parse",
    "projector_bias": "transformers' projector",
    "projector_hidden_act": "transformers' projector",
    "projector_hidden_size": "transformers' projector",
    "projector_use_layernorm": "transformers' projector",
    "multimodal_projector_bias": "transformers' projector",
    "vision_feature_layer": "parse",
    "vision_feature_select_strategy": "parse",
    "image_grid_pinpoints": "parse",
    "vision_aspect_ratio": "parse",
    "downsample_factor": "parse",
    "downsample_ratio": "parse",
    "scale_factor": "parse",
    "projection_dim": "parse",
    "hidden_size": "nothing: text_config has it",
    "vocab_size": "nothing: text_config has it",
    "mm_tokens_per_image": "parse",
    "boi_token_index": "nothing: the processor writes it",
    "eoi_token_index": "nothing: the processor writes it",
    "initializer_range": "nothing",
    # Nothing that transformers' forward pass reads of a picture.
    "image_seq_length": "nothing: layouts count",
    "video_seq_length": "nothing: layouts count",
    "use_cache": "nothing",
    "video_token_id": "nothing: clips",
    "vision_start_token_id": "nothing: the template writes it",
    "vision_end_token_id": "nothing: the template writes it",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_of_a_familys_configuration_is_read_or_known_to_change_nothing(family):
    """A release of transformers that adds one is noticed here, before its checkpoints are."""
    of_all = {field.name for field in dataclasses.fields(transformers.PretrainedConfig)}
    own = {field.name for field in dataclasses.fields(transformers.CONFIG_MAPPING[family])}
    assert own - of_all <= READ_BY.keys()
