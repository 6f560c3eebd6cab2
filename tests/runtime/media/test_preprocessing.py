"""pixel_values against transformers' CLIPImageProcessorPil: equal for every size, mode and
configuration."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from pocketvlm import PocketVLMError
from pocketvlm.layouts.single import tile_steps
from pocketvlm.media.pictures import open_picture
from support.tiny_artifact import PREPROCESSOR

CLIP_336 = {
    "size": {"shortest_edge": 336},
    "crop_size": {"height": 336, "width": 336},
    "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "rescale_factor": 0.00392156862745098,
}


def noise(width, height, mode="RGB", seed=0):
    rng = np.random.default_rng(seed)
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Image.fromarray(
        rng.integers(0, 256, shape, dtype=np.uint8), mode="P" if mode == "P" else None
    ).convert(mode)


def reference(image, config):
    return CLIPImageProcessorPil(**config)(image, return_tensors="np")["pixel_values"][0]


def ours(image, config):
    return tile_steps(config)(open_picture(image))


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    mode=st.sampled_from(["RGB", "L", "1", "LA", "RGBA", "P", "CMYK", "YCbCr", "HSV"]),
    edge=st.integers(1, 40),
    crop=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    resample=st.sampled_from(list(Image.Resampling)),
    flags=st.fixed_dictionaries(
        {
            name: st.booleans()
            for name in ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
        }
    ),
)
def test_equal_to_transformers_for_any_size_mode_and_flags(
    width, height, mode, edge, crop, resample, flags
):
    image = noise(width, height, mode)
    size = {"size": {"shortest_edge": edge}, "crop_size": {"height": crop[0], "width": crop[1]}}
    config = {**PREPROCESSOR, **size, "resample": int(resample), **flags}
    expected = reference(image, config)
    actual = ours(image, config)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(640, 480), (333, 1000), (336, 336), (90, 60)])
def test_exactly_equal_at_clip_336(size):
    image = noise(*size)
    np.testing.assert_array_equal(ours(image, CLIP_336), reference(image, CLIP_336))


def test_a_fixed_height_and_width_ignores_the_aspect_ratio():
    config = {**PREPROCESSOR, "size": {"height": 20, "width": 30}, "do_center_crop": False}
    image = noise(50, 40)
    np.testing.assert_array_equal(ours(image, config), reference(image, config))
    assert ours(image, config).shape == (3, 20, 30)


@pytest.mark.parametrize("size", [(50, 40), (31, 44), (40, 40), (1, 7)])
@pytest.mark.parametrize("normalise", [True, False])
def test_padding_to_a_square_equals_llava(size, normalise):
    config = {
        **PREPROCESSOR,
        "do_pad": True,
        "do_normalize": normalise,
        "image_processor_type": "LlavaImageProcessor",
    }
    image = noise(*size)
    expected = LlavaImageProcessorPil(**config)(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(ours(image, config), expected, rtol=0, atol=1e-5)
    as_clip = {**config, "image_processor_type": "CLIPImageProcessor"}
    np.testing.assert_allclose(ours(image, as_clip), reference(image, as_clip), rtol=0, atol=1e-5)


def test_a_picture_too_large_for_a_square_that_stays_as_large_is_refused():
    config = {**PREPROCESSOR, "do_pad": True, "image_processor_type": "LlavaImageProcessorFast"}
    assert ours(Image.new("RGB", (1, 10_001)), config).ndim == 3
    with pytest.raises(PocketVLMError, match="1x10001 pixels is too large"):
        ours(Image.new("RGB", (1, 10_001)), {**config, "do_resize": False})
    as_it_is = {"do_resize": False, "do_center_crop": False}
    with pytest.raises(PocketVLMError, match="is read without resizing by this model"):
        tile_steps({**PREPROCESSOR, **as_it_is}).resize_and_crop(Image.new("1", (6000, 6000)))


@pytest.mark.parametrize("size", [(300, 2100), (2100, 300), (1, 1500), (1500, 1), (1300, 1300)])
@pytest.mark.parametrize("resample", [0, 3, 4])  # nearest, bicubic, box
def test_a_square_that_is_made_some_rows_at_a_time_is_the_whole_square_resized(size, resample):
    samples = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
    image, edge = Image.fromarray(samples), max(size)
    kind = {"do_pad": True, "image_processor_type": "LlavaImageProcessor", "resample": resample}
    steps = tile_steps({**PREPROCESSOR, **kind, "do_center_crop": False})
    whole = Image.new("RGB", (edge, edge), tuple(int(255 * mean) for mean in steps.mean))
    whole.paste(image, ((edge - image.width) // 2, (edge - image.height) // 2))
    side = steps.shortest_edge
    expected = np.asarray(whole.resize((side, side), resample))
    np.testing.assert_array_equal(steps.resize_and_crop(image), expected)


@pytest.mark.parametrize("kind", ["ViTImageProcessor", ["CLIPImageProcessor"], 3])
def test_another_image_processor_is_refused_with_those_there_are(kind):
    with pytest.raises(
        PocketVLMError, match=r"is unknown .*one of .*CLIPImageProcessor, .*LlavaImageProcessorFast"
    ):
        tile_steps({**PREPROCESSOR, "image_processor_type": kind})


@pytest.mark.parametrize(
    "change",
    [
        {"crop_size": {"height": 16_384, "width": 16_384}},
        {"crop_size": {"height": 16, "width": 17}},
        {"do_center_crop": False, "size": {"height": 16_384, "width": 16}},
        {"size": {"shortest_edge": 16_384}},
        {"size": {"height": 16_384, "width": 16_384}},
    ],
)
def test_a_size_that_the_vision_graph_does_not_read_is_refused_before_any_picture(change):
    with pytest.raises(PocketVLMError, match="the vision graph reads 16x16"):
        tile_steps({**PREPROCESSOR, **change}).check_size((16, 16))


def test_a_bare_configuration_means_what_clip_means():
    image = noise(300, 260)
    np.testing.assert_array_equal(ours(image, {}), reference(image, {}))


@pytest.mark.parametrize(
    "damage",
    [
        {"size": {"shortest_edge": 0}},
        {"size": {"shortest_edge": 1 << 40}},
        {"size": {"longest_edge": 20}},
        {"size": "large"},
        {"crop_size": {"height": 16}},
        {"image_mean": [0.5, 0.5]},
        {"resample": 99},
        {"rescale_factor": "much"},
        {"image_processor_type": "LlavaImageProcessor", "do_pad": True, "image_mean": [2, 2, 2]},
    ],
)
def test_a_configuration_that_cannot_be_followed_is_refused(damage):
    with pytest.raises(PocketVLMError, match="preprocessor configuration"):
        tile_steps({**PREPROCESSOR, **damage})


def test_a_sliver_is_refused_before_it_is_resized():
    with pytest.raises(PocketVLMError, match="too narrow"):
        tile_steps(CLIP_336)(Image.new("RGB", (1, 60_000)))
