"""Knows how a prompt with several pictures is compared with transformers, where these are arranged
otherwise than a picture alone."""

from typing import Any

import numpy as np

from pocketvlm.artifact import Artifact
from pocketvlm.layouts import open_layout
from pocketvlm.text.prompts import Prompter
from pocketvlm.vision.constants import read_constants
from pocketvlm_export.families.spec import LayoutSpec
from pocketvlm_export.loading import Checkpoint
from pocketvlm_export.memory import component
from pocketvlm_export.options import GATE_PROMPT
from pocketvlm_export.precisions import GATE_PRECISION
from pocketvlm_export.verification.arrangement import arrange_reference, text_of_picture
from pocketvlm_export.verification.bounds import within
from pocketvlm_export.verification.decoder_reference import prompt_ids
from pocketvlm_export.verification.encoding import encode, open_encoder
from pocketvlm_export.verification.kept import is_first_choice, largest
from pocketvlm_export.verification.pictures import GateBatch
from pocketvlm_export.verification.vision_reference import VisionReference


def judge_several(
    checkpoint: Checkpoint,
    artifact: Artifact,
    layout: LayoutSpec,
    batch: GateBatch,
    reference: VisionReference,
) -> dict[str, Any]:
    """Return how a prompt with several pictures, and what fills its slots, compare with
    transformers'; ``passed`` says whether they are equal to within rounding.

    Args:
        checkpoint: of the artifact.
        artifact: what is measured, in float32.
        layout: of one of several pictures, see `LayoutSpec.several`.
        batch: the pictures, one tile each.
        reference: what is kept of them at the default budget.
    """
    several, grid, count = open_layout(artifact).several, batch.grid, len(batch.pixel_values)
    constants, prompter = read_constants(artifact), Prompter.from_artifact(artifact)
    differences, scales, slots, kept = [], [1.0], [], []
    with component(open_encoder(artifact, GATE_PRECISION)) as encoder:
        for number in range(count):
            encoded = encode(artifact, encoder, batch.pixel_values[number : number + 1])
            tiles = reference.part(number, 1)
            ours = several.arrange(grid, encoded.image_features, encoded.kept_indices, constants)
            theirs = arrange_reference(checkpoint, layout, tiles, batch.size)
            same = ours.shape == theirs.shape
            kept.append(is_first_choice(encoded, tiles))
            # Of other patches, which only a tie excuses, or otherwise merged, there are other
            # features.
            differences.append(largest(ours - theirs) * kept[-1] if same else float("inf"))
            scales.append(largest(theirs))
            slots.append(several.expand(grid, encoded.budget, encoded.kept_indices))
    text = text_of_picture(checkpoint, layout, grid)
    ids = prompter.place(prompter.encode(GATE_PROMPT, pictures=count), slots)
    expected = prompt_ids(checkpoint, GATE_PROMPT, len(theirs) * count, text, pictures=count)
    difference, scale = float(np.max(differences)), float(np.max(scales))
    equal = np.array_equal(ids, expected)
    return {
        "pictures": count,
        "max_abs": difference,
        "max_reference": scale,
        "kept_equal": all(kept),
        "prompt_equal": equal,
        "passed": equal and within(difference, scale),
    }
