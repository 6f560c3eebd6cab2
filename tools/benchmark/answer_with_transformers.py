"""The same answer through transformers, nothing pruned: CHECKPOINT IMAGE PROMPT THREADS."""

import json
import sys

import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from benchmark.peak import peak_memory

checkpoint, image, prompt, threads = sys.argv[1:5]
torch.set_num_threads(int(threads))
model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
processor = AutoProcessor.from_pretrained(checkpoint)
content = [{"type": "image"}, {"type": "text", "text": prompt}]
text = processor.apply_chat_template(
    [{"role": "user", "content": content}], add_generation_prompt=True
)
inputs = processor(images=[Image.open(image).convert("RGB")], text=[text], return_tensors="pt")
ids = model.generate(**inputs, do_sample=False, max_new_tokens=32)
answer = processor.decode(ids[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
print(json.dumps({"text": answer, "peak_mb": peak_memory()}))
