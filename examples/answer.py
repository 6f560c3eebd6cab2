"""Ask one question about one picture: python examples/answer.py"""

from demo_folder import EXAMPLES, demo_folder
from pocketvlm import VLM

# A folder that `pocketvlm export` wrote. Loading takes the longest; do it once.
vlm = VLM.load(demo_folder())

# A picture is a path, the bytes of a file, a PIL image or an array of pixels.
answer = vlm.generate("Describe the picture.", images=[EXAMPLES / "scene-2.png"])
print(answer.text.strip())

# What it took. The tower sees every patch; the decoder reads only the tokens that are kept.
tokens, times = answer.visual_tokens, answer.timings_ms
print(f"{tokens['after']} of {tokens['before']} visual tokens")
print(f"first token after {times['ttft']:.0f} ms, whole answer after {times['total']:.0f} ms")
