"""Every layout that the web client serves, as the runtime makes it, and the facts of it that
clients read."""

from pocketvlm.layouts import LayoutConfig, make_layout
from pocketvlm_export.packaging.client_layouts import layout_facts, picture_steps

TILE, N, SLOT = 56, 16, 3
MEAN = {"image_mean": [0.48, 0.45, 0.4], "image_std": [0.27, 0.26, 0.2]}
PINPOINTS = [[TILE * rows, TILE * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
ONEVISION = {
    "image_processor_type": "LlavaOnevisionImageProcessor",
    "size": {"height": TILE, "width": TILE},
    "image_grid_pinpoints": PINPOINTS,
    **MEAN,
}
NEXT = {
    "image_processor_type": "LlavaNextImageProcessor",
    "size": {"shortest_edge": TILE},
    "crop_size": {"height": TILE, "width": TILE},
    "image_grid_pinpoints": PINPOINTS,
    **MEAN,
}
LFM2 = {
    "image_processor_type": "Lfm2VlImageProcessorFast",
    "encoder_patch_size": 8,
    "downsample_factor": 2,
    "min_image_tokens": 4,
    "max_image_tokens": 40,
    "tile_size": 64,
    "min_tiles": 2,
    "max_tiles": 6,
    **MEAN,
}
QWEN = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "size": {"shortest_edge": 4 * 784, "longest_edge": 40 * 784},
    "patch_size": 14,
    "merge_size": 2,
    **MEAN,
}
MARKED = {"factor": 16, "min_pixels": 4 * 256, "max_pixels": 40 * 256, "before": [8], "after": [9]}
PARTS = [[[100 + 10 * row + column, 7] for column in range(10)] for row in range(10)]


def clip(**stated):
    return {"image_processor_type": "CLIPImageProcessor", **MEAN, **stated}


def made(name, processor, *, size=(TILE, TILE), patches=N, **options):
    config = LayoutConfig(size, patches, SLOT, {"name": name, **options})
    return make_layout(config, processor)


def idefics(longest, tile, *, splits=True, resizes=True):
    processor = {
        "image_processor_type": "Idefics3ImageProcessor",
        "do_resize": resizes,
        "size": {"longest_edge": longest},
        "max_image_size": {"longest_edge": tile},
        "do_image_splitting": splits,
    }
    marks = {"around": [5], "whole": [6, 11], "row_end": [12], "last_row_end": [13, 14]}
    options = {"longest_edge": longest, "splits": splits, "resizes": resizes, "marks": marks}
    return made("idefics3", processor, size=(tile, tile), **options, parts=PARTS)


def thumbnails(**change):
    cutting = {"tile": 64, "min_tiles": 2, "max_tiles": 6, "cut_above": 80 * 256, "patch": 8}
    options = {**MARKED, **cutting, "thumbnail": True, "whole": [42], "parts": PARTS, **change}
    processor = {**LFM2, "use_thumbnail": options["thumbnail"]}
    return made("tiles-and-thumbnail", processor, size=None, patches=40, **options)


def internvl(tile=TILE, **options):
    processor = {
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "size": {"height": tile, "width": tile},
        "max_patches": 6,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    options = {"min_tiles": 1, "max_tiles": 6, "before": [8, 9], "after": [5], **options}
    return made("tiles", processor, size=(tile, tile), **options)


def onevision(tile=TILE):
    pinpoints = [[tile * rows, tile * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
    processor = {
        "image_processor_type": "LlavaOnevisionImageProcessorFast",
        "size": {"height": tile, "width": tile},
        "image_grid_pinpoints": pinpoints,
    }
    return made("anyres-max", processor, pinpoints=pinpoints, most_tiles=9)


CASES = {
    "single": made("single", clip(size=TILE, crop_size=TILE)),
    "single, larger than the crop": made("single", clip(size=70, crop_size=TILE)),
    "single, padded": made(
        "single",
        {
            **clip(size=TILE, crop_size=TILE, do_pad=True),
            "image_processor_type": "LlavaImageProcessor",
        },
    ),
    "squared": made("squared", ONEVISION, newline=True),
    "squared, no newline": made("squared", ONEVISION, newline=False),
    "tiles": internvl(),
    "idefics3": idefics(3 * TILE, TILE),
    "idefics3, odd": idefics(77, 26),
    "idefics3, whole": idefics(2 * TILE, TILE, splits=False),
    "idefics3, as it is": idefics(10 * TILE, TILE, resizes=False),
    "idefics3, squeezed": idefics(10 * TILE, TILE, splits=False, resizes=False),
    "smart-resize": made(
        "smart-resize",
        QWEN,
        size=None,
        patches=40,
        factor=28,
        min_pixels=4 * 784,
        max_pixels=40 * 784,
    ),
    "smart-resize, fixed": make_layout(
        LayoutConfig((56, 84), 6, SLOT, {"name": "smart-resize", "factor": 28, "size": [56, 84]}),
        QWEN,
    ),
    "marked-resize": made("marked-resize", LFM2, size=None, patches=40, **MARKED),
    "tiles-and-thumbnail": thumbnails(),
    "tiles-and-thumbnail, parts alone": thumbnails(thumbnail=False),
    "tiles-and-thumbnail, never cut": thumbnails().capped(max_tiles=1),
    "anyres-fastervlm": made("anyres-fastervlm", NEXT, pinpoints=PINPOINTS),
    "anyres-hf": made("anyres-hf", NEXT, pinpoints=PINPOINTS),
    "anyres-max": made("anyres-max", ONEVISION, pinpoints=PINPOINTS, most_tiles=2),
}


def facts_of(layout):
    return {
        "layout": layout_facts(layout),
        "picture": picture_steps(layout),
        "image_token_id": layout.config.image_token_id,
    }
