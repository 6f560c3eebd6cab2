"""Several questions about one picture, each quicker than the first: python examples/chat.py"""

from demo_folder import EXAMPLES, demo_folder
from pocketvlm import VLM

chat = VLM.load(demo_folder()).chat()

# The picture comes with the first question. It is encoded once; its tokens stay in the decoder's
# cache, so that the questions after it read nothing but their own words.
questions = ["How many objects are there?", "What shape is blue?", "What color is the circle?"]
for number, question in enumerate(questions):
    pictures = [EXAMPLES / "scene-3.png"] if number == 0 else None
    answer = chat.ask(question, images=pictures)
    prompt = answer.prompt_tokens
    print(f"{question} {answer.text.strip()}")
    print(
        f"    first token after {answer.timings_ms['ttft']:.0f} ms; "
        f"{prompt['cached']} of {prompt['total']} tokens of the prompt were read before"
    )

# Another picture, another conversation.
chat.reset()
answer = chat.ask("Which letter is shown?", images=[EXAMPLES / "scene-1.png"])
print(f"Which letter is shown? {answer.text.strip()}")
