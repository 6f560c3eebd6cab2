"""What holds of every family before anything is built: its default method, its caps on pictures,
and how those it has not are refused. A new family is a line of `PRUNERS_BY_DEFAULT`."""

import dataclasses
import functools

import pytest

from make_checkpoint import HUB_PRESETS, PRESETS
from pocketvlm.errors import RequestError
from pocketvlm.layouts import make_layout
from pocketvlm_export import ExportOptions
from pocketvlm_export.caps import CAPS as KNOWN
from pocketvlm_export.caps import Caps
from pocketvlm_export.families import FAMILIES
from pocketvlm_export.layouts import setting
from pocketvlm_export.loading import inspect_checkpoint
from pocketvlm_export.plan import make_plan

PRUNERS_BY_DEFAULT = {
    "llava": "fastervlm",
    "llava_next": "fastervlm",
    "video_llava": "fastervlm",
    "smolvlm": "divprune",
    "idefics3": "divprune",
    "internvl": "divprune",  # though it has [CLS]
    "qwen2_vl": "divprune",
    "qwen2_5_vl": "divprune",
}
NAMES = [name for name in (*PRESETS, *HUB_PRESETS) if name.startswith("tiny-")]
# A cap that each family takes which has it, and a smaller one for when it runs.
CAPS = {
    "max_tiles": (4, 2),
    "max_pixels": (40 * 28 * 28, 20 * 28 * 28),
    "fixed_size": ((84, 112), None),
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
    height, width = layout.largest_size()
    return height * width


def test_every_family_is_here():
    assert PRUNERS_BY_DEFAULT.keys() == FAMILIES.keys()
    assert CAPS.keys() == set(KNOWN)
    assert {name for family in FAMILIES.values() for name in family.caps} == CAPS.keys()


@pytest.mark.parametrize("preset", NAMES)
def test_a_checkpoint_is_planned_without_any_option(opened, preset):
    checkpoint = opened(preset)
    plan = make_plan(checkpoint, ExportOptions())
    assert plan.pruner.name == PRUNERS_BY_DEFAULT[checkpoint.family.model_type]
    (budget,) = plan.budgets
    assert budget == max(1, round(plan.spec.vision.tokens / 4))
    assert plan.warnings == ()


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
        capped = make_plan(checkpoint, dataclasses.replace(options, caps=Caps(**{cap: at_export})))
        layout = make_layout(setting(capped.spec, capped.layout))
        assert capped.spec.caps.given == {cap: at_export}
        assert capped.to_dict()["caps"] == {cap: at_export}
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
        assert bool(warnings) == (PRUNERS_BY_DEFAULT[family] != "fastervlm")
