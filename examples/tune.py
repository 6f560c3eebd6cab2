"""Let measurements choose the setting, then answer in it: python examples/tune.py

A minute on the demo and its 21 questions. So few only show how it goes: bring hundreds of your own,
about many pictures, in the same form as questions.jsonl (see docs/evaluate.md), and ten minutes.
"""

import json
import subprocess
import sys

from demo_folder import BUILD, EXAMPLES, demo_folder
from pocketvlm import VLM

# The same as on the command line; --json prints what was measured as one object.
command = [sys.executable, "-m", "pocketvlm", "tune", demo_folder()]
command += ["--data", EXAMPLES / "questions.jsonl", "--answers", BUILD / "tuning.jsonl"]
command += ["--budget", "144,36", "--max-loss", "5", "--time", "60s", "--json"]
(BUILD / "tuning.jsonl").unlink(missing_ok=True)  # of an earlier run
(BUILD / "tuning.times.jsonl").unlink(missing_ok=True)
done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True)
if done.returncode:
    sys.exit("nothing was chosen; the line above says why")  # or was it interrupted

tuning = json.loads(done.stdout)
for candidate in (tuning["baseline"], *tuning["candidates"]):
    times = candidate["ttft_ms"]
    first = f"first token after {min(times):.0f}-{max(times):.0f} ms" if times else "not timed"
    print(f"{candidate['budget']:4} tokens: {first}; {candidate['verdict']}: {candidate['reason']}")

# What was chosen, loaded.
chosen = tuning["chosen"]
vlm = VLM.load(
    chosen["folder"],
    budget=chosen["budget"],
    decoder=chosen["decoder"],
    decoder_precision=chosen["decoder_precision"],
    vision_precision=chosen["vision_precision"],
)
answer = vlm.generate("What shape is yellow?", images=[EXAMPLES / "scene-2.png"])
print(f"with {chosen['budget']} tokens: What shape is yellow? {answer.text.strip()}")
