"""What fewer visual tokens cost and gain, on questions with answers: python
examples/choose_a_budget.py

One graph serves every budget up to its own, so that nothing is exported again. For a choice that
you can rely on, with intervals and a limit on what may be lost, see tune.py.
"""

import json
from statistics import median

from demo_folder import EXAMPLES, demo_folder
from pocketvlm import VLM
from pocketvlm.limits import NOTHING_KEPT

BUDGETS = (144, 72, 36, 14, 7)

questions = [json.loads(line) for line in (EXAMPLES / "questions.jsonl").open()]

# Usually a second question about a picture reuses the work of the first. Here every question is to
# cost what it costs alone, so nothing is kept.
vlm = VLM.load(demo_folder(), budget=max(BUDGETS), limits=NOTHING_KEPT)
print(f"{len(questions)} questions about three pictures, {vlm.decoder}")
print("budget   right   prefill, ms   first token, ms")
for budget in BUDGETS:
    right, prefill, first = 0, [], []
    for row in questions:
        answer = vlm.generate(row["question"], images=[EXAMPLES / row["image"]], budget=budget)
        right += answer.text.strip() in row["answers"]
        prefill.append(answer.timings_ms["prefill"])
        first.append(answer.timings_ms["ttft"])
    print(f"{budget:6} {right:7} {median(prefill):13.1f} {median(first):17.1f}")
