"""Loads an artifact, answers once, reports peak memory: FOLDER IMAGE|noise PROMPT THREADS [BUDGET]."""

import json
import resource
import sys

import numpy as np

from pocketvlm import VLM

folder, image, prompt, threads = sys.argv[1:5]
vlm = VLM.load(folder, threads=int(threads), budget=int(sys.argv[5]) if len(sys.argv) > 5 else None)
height, width = vlm.artifact.manifest.vision.image_size
picture = np.zeros((height, width, 3), dtype=np.uint8) if image == "noise" else image
answer = vlm.generate(prompt, images=[picture], max_new_tokens=32 if image != "noise" else 2)
peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"text": answer.text, "peak_mb": peak_mb}))
