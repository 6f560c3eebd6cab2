"""Answers every question of a list with each pair of precisions: FOLDER QUESTIONS.json PAIRS.json; prints JSON."""

import json
import sys
from pathlib import Path

from pocketvlm import VLM

folder, questions, pairs = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
asked = [(questions.parent / name, q["question"]) for name, qs in json.loads(questions.read_text()).items() for q in qs]
answers = {}
for vision, decoder in pairs:
    vlm = VLM.load(folder, vision_precision=vision, decoder_precision=decoder, decoder="onnx", threads=1, check="sizes")
    found = [vlm.generate(text, images=[picture], max_new_tokens=32) for picture, text in asked]
    answers[f"{vision} {decoder}"] = [
        {"question": f"{picture.name}: {text}", "text": answer.text, "kept": answer.kept_indices[0]}
        for (picture, text), answer in zip(asked, found, strict=True)
    ]
print(json.dumps(answers))
