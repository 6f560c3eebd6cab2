"""Answers questions with the runtime, on whichever machine runs it: FOLDER QUESTIONS.json VISION
DECODER.

Writes one JSON object per question, ``token_ids``, ``text``, ``kept``, and the prompt's last
``logits``.
"""

import functools
import json
import sys
import tempfile
from pathlib import Path

from pocketvlm import VLM, Artifact, EngineSettings, Sampling
from pocketvlm.decoders import open_decoder
from pocketvlm.decoders.base import EmbeddingSegment
from pocketvlm.layouts import open_layout
from pocketvlm.media.pictures import open_picture
from pocketvlm.text.prompts import Prompter
from pocketvlm.vision.encoder import VisionEncoder

folder, questions, vision, precision = sys.argv[1:5]
artifact = Artifact.open(folder)
settings = EngineSettings(threads=1)  # emulated threads wait for each other by spinning
encoder = VisionEncoder.open(artifact, precision=vision, settings=settings)
decoder = open_decoder(artifact, engine="onnx", precision=precision, settings=settings)
prompter, preprocessor = Prompter.from_artifact(artifact), open_layout(artifact).steps


@functools.cache
def encoded(image: str) -> EmbeddingSegment:
    """A picture's features; float32 towers take most of the time where they are emulated."""
    return EmbeddingSegment(
        encoder.encode(preprocessor(open_picture(image))[None]).image_features[0]
    )


with tempfile.TemporaryDirectory() as features:
    vlm = VLM(artifact, encoder, decoder, feature_cache=features)
    for image, question in json.loads(Path(questions).read_text()):
        picture = encoded(image)
        sequence = decoder.sequence()
        logits = sequence.prefill(
            prompter.segments(prompter.encode(question, 1, len(picture)), [picture])
        )
        sequence.close()
        answer = vlm.generate(question, images=[image], sampling=Sampling(max_new_tokens=32))
        result = {
            "token_ids": answer.token_ids,
            "text": answer.text.strip(),
            "kept": answer.kept_indices[0],
        }
        print(json.dumps({"logits": logits.tolist(), **result}), flush=True)
