"""The notebook ``examples/pocketvlm.ipynb``, cell by cell; ``make notebook`` executes it."""


# %% [markdown]
# # PocketVLM in pictures
#
# A vision tower turns a picture into many tokens, and most of them say little. PocketVLM exports
# models whose graph keeps the best ones. This notebook asks such a model, looks at what it keeps,
# and measures what that saves. The model is the demo: 9 MB, and it knows coloured shapes and
# letters. It needs `pip install 'pocketvlm[export,measure]'` and no GPU.

# %%
import json

import matplotlib.pyplot as plt
from PIL import Image

from demo_folder import EXAMPLES, demo_folder
from pocketvlm import VLM, Artifact
from pocketvlm.limits import NOTHING_KEPT
from pocketvlm.vision.overlay import draw_budgets

folder = demo_folder()  # exported into build/ the first time
vlm = VLM.load(folder, budget=144)  # of its graphs the one that can keep all 144 patches

# %% [markdown]
# ## A question

# %%
scene = EXAMPLES / "scene-3.png"
answer = vlm.generate("Describe this image.", images=[scene], budget=36)
print(answer.text.strip())
print(answer.visual_tokens)

plt.figure(figsize=(2.6, 2.6))
plt.imshow(Image.open(scene))
plt.axis("off")
plt.show()

# %% [markdown]
# ## What is kept
#
# The patches that the model keeps at several budgets, out of one graph: bright ones are kept, the
# best brightest. A photograph is nothing that this small model knows, but its tower still finds
# what stands out.

# %%
budgets = (72, 36, 14, 7)
pictures = [scene, EXAMPLES / "coffee.jpg"]
figure, rows = plt.subplots(len(pictures), len(budgets), figsize=(9, 4.8))
for row, picture in zip(rows, pictures, strict=True):
    drawn = draw_budgets(Artifact.open(folder), picture, budgets)
    for place, budget in zip(row, budgets, strict=True):
        drawing, kept = drawn[budget]
        place.imshow(drawing)
        place.set_title(f"{len(kept)} of 144")
        place.axis("off")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## What it costs
#
# All the questions that come with the examples, at each budget. A small set: it shows the
# direction, not the third digit. `docs/measured.md` has large ones.

# %%
questions = [json.loads(line) for line in (EXAMPLES / "questions.jsonl").open()]
for budget in (144, *budgets):
    answers = [
        vlm.generate(row["question"], images=[EXAMPLES / row["image"]], budget=budget)
        for row in questions
    ]
    right = [
        answer.text.strip() in row["answers"]
        for answer, row in zip(answers, questions, strict=True)
    ]
    print(f"{budget:4} tokens: {sum(right)} of {len(right)} right")

# %% [markdown]
# ## What it saves
#
# Milliseconds to the first token by stage, the least of ten runs with nothing kept from earlier
# ones. Prefill is the part that falls with the budget. In this small model the tower is most of the
# rest; `--tower-stage` drops patches inside it too (`docs/methods.md`).

# %%
alone = VLM.load(folder, budget=144, limits=NOTHING_KEPT)
stages = ("preprocess", "vision", "embed", "prefill")
shown = (144, 72, 36, 14)
runs: dict[int, list] = {budget: [] for budget in shown}
for _ in range(10):
    for budget in shown:  # in turns, so that what disturbs one disturbs all
        answer = alone.generate("What shape is blue?", images=[scene], budget=budget)
        runs[budget].append(answer.timings_ms)
fastest = {budget: min(times, key=lambda each: each["ttft"]) for budget, times in runs.items()}

labels = [str(budget) for budget in shown]
plt.figure(figsize=(6, 2.6))
left = [0.0] * len(shown)
for stage in stages:
    widths = [fastest[budget][stage] for budget in shown]
    plt.barh(labels, widths, left=left, label=stage)
    left = [before + width for before, width in zip(left, widths, strict=True)]
plt.gca().invert_yaxis()
plt.xlabel("milliseconds")
plt.ylabel("visual tokens")
plt.legend(frameon=False, loc="lower right")
plt.tight_layout()
plt.show()

# %% [markdown]
# ## A conversation
#
# The picture is encoded once, and its tokens stay in the decoder's cache: only the first question
# waits for them.

# %%
chat = vlm.chat()
asked = ["How many objects are there?", "What color is the circle?", "Where is the blue triangle?"]
for number, question in enumerate(asked):
    answer = chat.ask(question, images=[scene] if number == 0 else None)
    cached, total = answer.prompt_tokens["cached"], answer.prompt_tokens["total"]
    print(f"{question} {answer.text.strip()}")
    print(f"    {answer.timings_ms['ttft']:.0f} ms, {cached} of {total} tokens read before")

# %% [markdown]
# ## From here
#
# * Your own checkpoint: `pocketvlm export MODEL -o DIR --budget 64`, then `VLM.load("DIR")`.
# * Which method, budget and precision: `pocketvlm tune` (`docs/tune.md`, `examples/tune.py`).
# * In a browser: `pocketvlm web DIR -o SITE`. For other programs: `pocketvlm serve DIR`.
