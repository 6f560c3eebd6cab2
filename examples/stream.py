"""Print an answer as it comes, and stop when it is long enough: python examples/stream.py"""

from demo_folder import EXAMPLES, demo_folder
from pocketvlm import VLM

vlm = VLM.load(demo_folder())

# Pieces are whole characters: print them as they come.
stream = vlm.stream("Describe the picture.", images=[EXAMPLES / "scene-3.png"])
for piece in stream:
    print(piece, end="", flush=True)
print()

# Afterwards the stream has the whole answer, with its tokens and times.
answer = stream.answer
milliseconds = answer.timings_ms["decode"] / max(1, len(answer.token_ids) - 1)
print(f"{len(answer.token_ids)} tokens, {milliseconds:.1f} ms for each after the first")

# An answer is ended from outside by `stop`, from another thread too.
stream = vlm.stream("Describe the picture.", images=[EXAMPLES / "scene-3.png"])
words = ""
for piece in stream:
    words += piece
    if len(words.split()) >= 5:
        stream.stop()
print(f"stopped: {words.strip()} ... ({stream.answer.finish_reason})")
