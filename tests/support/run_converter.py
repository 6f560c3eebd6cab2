"""Runs llama.cpp's own converter as a process of its own: ``run_converter.py SOURCE JOBS``.

SOURCE is a folder with llama.cpp's ``convert_hf_to_gguf.py``, ``conversion`` and ``gguf-py``, which
must come before any other gguf. JOBS is a JSON list of [checkpoint, file, type, pre-tokenizer]: the
converter knows pre-tokenizers by the ids they give, so those of a made-up vocabulary are told to
it.
"""

import json
import runpy
import sys
import types
from pathlib import Path

source = Path(sys.argv[1])
sys.path[:0] = [str(source / "gguf-py"), str(source)]
from conversion.base import TextModel  # noqa: E402

# Imported before it is known whether there is a tokenizer.model, and never used without one.
sys.modules["sentencepiece"] = types.ModuleType("sentencepiece")
sys.modules["sentencepiece"].SentencePieceProcessor = object

for checkpoint, file, kind, pre in json.loads(sys.argv[2]):
    TextModel.get_vocab_base_pre = lambda self, tokenizer, pre=pre: pre
    sys.argv = ["convert_hf_to_gguf.py", checkpoint, "--outtype", kind, "--outfile", file]
    runpy.run_path(str(source / "convert_hf_to_gguf.py"), run_name="__main__")
