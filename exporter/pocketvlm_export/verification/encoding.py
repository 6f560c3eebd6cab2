"""Knows how the gate encodes pictures as a device does, with its own question where the method
reads the prompt."""

from pocketvlm.artifact import Artifact
from pocketvlm.text.prompts import Prompter
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vision.features import VisionFeatures
from pocketvlm_export.options import GATE_PROMPT
from pocketvlm_export.precisions import GATE_PRECISION
from pocketvlm_export.verification.vision_reference import Floats


def open_encoder(
    artifact: Artifact, precision: str | None, budget: int | None = None, *, as_used: bool = False
) -> VisionEncoder:
    """Return a vision graph of an artifact, see `VisionEncoder.open`.

    A question is read by the table that a device reads it by. Only the graph that is compared
    exactly reads it by the exact one, unless it is opened ``as_used``.
    """
    tables = artifact.manifest.decoder.embed
    exact = precision == GATE_PRECISION and not as_used
    table = GATE_PRECISION if exact and GATE_PRECISION in tables else None
    return VisionEncoder.open(artifact, budget=budget, precision=precision, table=table)


def encode(artifact: Artifact, encoder: VisionEncoder, pixel_values: Floats) -> VisionFeatures:
    """Return what is kept of pictures, (B, 3, H, W), when the gate's question is asked."""
    features = encoder.encode(pixel_values)
    if not encoder.reads_prompt:
        return features
    message = {"role": "user", "content": [{"type": "text", "text": GATE_PROMPT}]}
    return encoder.select(features, Prompter.from_artifact(artifact).question(message))
