"""Where patches lie in a picture: held against the geometry of each layout, computed by hand."""

import pytest

from pocketvlm.layouts import LayoutConfig, TokenGrid, make_layout
from pocketvlm.vision.places import patch_places, tile_places

CLIP = {"image_processor_type": "CLIPImageProcessor", "resample": 3}


def layout(name, config, *, size=(224, 224), patches=256, **options):
    return make_layout(LayoutConfig(size, patches, 9, {"name": name, **options}), config)


def near(place, expected, tolerance=1.5):
    assert place == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (2000, 1500), (90, 60)])
def test_a_crop_of_the_middle(width, height):
    config = {**CLIP, "size": {"shortest_edge": 224}, "crop_size": 224}
    (place,) = tile_places(layout("single", config), width, height)
    edge = min(width, height)
    expected = ((width - edge) / 2, (height - edge) / 2, edge, edge)
    near(place, expected, max(1.5, edge / 200))


def test_a_picture_padded_to_a_square_begins_outside_of_it():
    config = {
        "image_processor_type": "LlavaImageProcessor",
        "do_pad": True,
        "size": {"shortest_edge": 224},
        "crop_size": 224,
    }
    (place,) = tile_places(layout("single", config), 600, 400)
    near(place, (0, -100, 600, 600), 3)


def test_tiles_and_the_whole():
    config = {
        "image_processor_type": "GotOcr2ImageProcessor",
        "size": {"height": 224, "width": 224},
        "min_patches": 1,
        "max_patches": 4,
    }
    tiles = layout("tiles", config, min_tiles=1, max_tiles=4, before=[], after=[])
    places = tile_places(tiles, 800, 400)
    assert len(places) == 3
    near(places[0], (0, 0, 400, 400), 2)
    near(places[1], (400, 0, 400, 400), 2)
    near(places[2], (0, 0, 800, 400), 2)


def test_patches_of_a_tile():
    shape = TokenGrid(2, 4)
    places = patch_places((10, 20, 40, 30), shape, [5, 0])
    assert places == [(20, 35, 10, 15), (10, 20, 10, 15)]


def test_what_is_no_grid_has_no_places():
    config = {**CLIP, "size": {"shortest_edge": 224}, "crop_size": 224}
    assert tile_places(layout("single", config, patches=250), 300, 300) == (None,)
