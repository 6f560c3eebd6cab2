"""A process that is forked after a model was loaded: refused or answered, and it ends."""

import os
import subprocess
import sys

import pytest

from support.gguf_files import needs_llama_cpp
from support.tiny_artifact import give_gguf, write_artifact

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

# The child prints a line for each thing that it tries. It ends as Python does, which frees whatever
# it has.
PROGRAM = """
import os, signal, sys, warnings
import numpy as np
from pocketvlm import VLM, EngineSettings, PocketVLMError, Sampling

warnings.simplefilter("ignore")
asked = {
    "prompt": "what is it?",
    "images": [np.zeros((30, 40, 3), np.uint8)],
    "sampling": Sampling(max_new_tokens=5),
}

def load(threads):
    return VLM.load(sys.argv[1], settings=EngineSettings(threads=threads))

def answers(threads):
    same = load(threads).generate(**asked).token_ids == expected.token_ids
    return "the same" if same else "another answer"

vlm = load(2)
expected = vlm.generate(**asked)
chat, stream = vlm.chat(), vlm.stream(**asked)
chat.ask("and?", sampling=Sampling(max_new_tokens=1))
next(stream, None)
child = os.fork()
if child == 0:
    signal.alarm(60)
    for step in (
        lambda: vlm.generate(**asked),
        lambda: stream.answer,
        lambda: chat.ask("and?"),
        lambda: chat.reset(),
        lambda: vlm.close(),
        lambda: answers(1),
        lambda: answers(2),
    ):
        try:
            print(step())
        except PocketVLMError as error:
            print(f"refused: {error}")
    sys.exit(0)
ended = os.waitpid(child, 0)[1] == 0
print("ended" if ended else "killed", stream.answer.token_ids == expected.token_ids)
"""
REFUSED = (
    "refused: this model was loaded before this process was forked: load it again here, or begin "
    "processes by spawn"
)
NOT_AGAIN = (
    "refused: llama.cpp was loaded before this process was forked: begin processes by spawn, or "
    "set threads to 1"
)


@pytest.mark.parametrize("engine", ["onnx", pytest.param("llama.cpp", marks=needs_llama_cpp)])
def test_what_was_loaded_before_is_refused_and_may_be_loaded_again(engine, tmp_path):
    write_artifact(tmp_path / "a")
    if engine == "llama.cpp":
        give_gguf(tmp_path / "a")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "a")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        *[REFUSED] * 4,  # ask, read on, chat, reset
        "None",  # closed
        "the same",
        "the same" if engine == "onnx" else NOT_AGAIN,
        "ended True",
    ]
