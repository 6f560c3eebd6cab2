"""llama.cpp's own way with pictures: libmtmd with an mmproj file, through llama-cpp-python."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import llama_cpp
import llama_cpp.llama_cpp as llama
import llama_cpp.mtmd_cpp as mtmd
import numpy as np
from PIL import Image

from compare_peers.programs.common import Stopwatch, read_settings, serve

options = read_settings()
quiet = llama.llama_log_callback(lambda level, text, data: None)
llama.llama_log_set(quiet, ctypes.c_void_p(0))
mtmd.mtmd_log_set(quiet, ctypes.c_void_p(0))
mtmd.mtmd_helper_log_set(quiet, ctypes.c_void_p(0))
llama.llama_backend_init()

model = llama.llama_model_load_from_file(
    options["model"].encode(), llama.llama_model_default_params()
)
context_options = llama.llama_context_default_params()
context_options.n_ctx = 2048
context_options.n_threads = context_options.n_threads_batch = options["threads"]
context = llama.llama_init_from_model(model, context_options)
batch_size = llama.llama_n_batch(context)
vision_options = mtmd.mtmd_context_params_default()
vision_options.use_gpu = False
vision_options.print_timings = False
vision_options.n_threads = options["threads"]
vision = mtmd.mtmd_init_from_file(options["mmproj"].encode(), model, vision_options)
if not (model and context and vision):
    raise SystemExit("llama.cpp does not open the files")
sampler = llama.llama_sampler_init_greedy()
# The marks around a picture are written by mtmd itself.
marks = re.compile(
    rf"(<\|vision_start\|>|<img>|<start_of_image>)?{re.escape(options['image_token'])}"
    r"(<\|vision_end\|>|</img>|<end_of_image>)?"
)
prompt = marks.sub(mtmd.mtmd_default_marker().decode(), options["prompt"]).encode()
text = mtmd.mtmd_input_text(
    text=prompt, text_len=len(prompt), add_special=False, parse_special=True
)


def answer(picture: Path, watch: Stopwatch) -> int:
    """See `serve`."""
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    pixels = np.ascontiguousarray(Image.open(picture).convert("RGB"))
    data = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    bitmap = mtmd.mtmd_bitmap_init(pixels.shape[1], pixels.shape[0], data)
    chunks = mtmd.mtmd_input_chunks_init()
    bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
    if mtmd.mtmd_tokenize(vision, chunks, ctypes.byref(text), bitmaps, 1):
        raise SystemExit("mtmd does not take the prompt")
    past = llama.llama_pos(0)
    if mtmd.mtmd_helper_eval_chunks(
        vision, context, chunks, 0, 0, batch_size, True, ctypes.byref(past)
    ):
        raise SystemExit("mtmd does not evaluate the prompt")
    length = mtmd.mtmd_helper_get_n_tokens(chunks)  # the next position is another with M-RoPE
    for _ in range(options["new_tokens"]):
        token = llama.llama_sampler_sample(sampler, context, -1)
        watch.token()
        batch = llama.llama_batch()
        batch.n_tokens = 1
        batch.token = (ctypes.c_int32 * 1)(token)
        llama.llama_decode(context, batch)
    mtmd.mtmd_input_chunks_free(chunks)
    mtmd.mtmd_bitmap_free(bitmap)
    return length


serve(answer, f"llama-cpp-python {llama_cpp.__version__}")
