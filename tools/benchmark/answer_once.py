"""Loads an artifact, answers once, reports peak memory: FOLDER IMAGE PROMPT THREADS."""

import json
import sys

from benchmark.peak import peak_memory
from pocketvlm import VLM, EngineSettings, Sampling

folder, image, prompt, threads = sys.argv[1:5]
vlm = VLM.load(folder, settings=EngineSettings(threads=int(threads)))
answer = vlm.generate(prompt, images=[image], sampling=Sampling(max_new_tokens=32))
print(json.dumps({"text": answer.text, "peak_mb": peak_memory()}))
