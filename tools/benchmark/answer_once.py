"""Loads an artifact, answers once, reports peak memory: FOLDER IMAGE|grey PROMPT THREADS [BUDGET]."""

import json
import sys

import numpy as np

from benchmark.peak import peak_memory
from pocketvlm import VLM

folder, image, prompt, threads = sys.argv[1:5]
vlm = VLM.load(folder, threads=int(threads), budget=int(sys.argv[5]) if len(sys.argv) > 5 else None)
height, width = vlm.artifact.manifest.vision.image_size
picture = np.full((height, width, 3), 128, dtype=np.uint8) if image == "grey" else image
answer = vlm.generate(prompt, images=[picture], max_new_tokens=32 if image != "grey" else 2)
print(json.dumps({"text": answer.text, "peak_mb": peak_memory()}))
