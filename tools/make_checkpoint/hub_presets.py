"""Knows the checkpoints that this tool writes file by file. A new family is a module of its files,
one of its dimensions, and a line for each here."""

from make_checkpoint import (
    gemma3,
    internvl,
    lfm2_vl,
    llava_onevision,
    paligemma,
    qwen3_vl,
    qwen_vl,
    smolvlm2,
)
from make_checkpoint.hub import HubFamily, HubPreset
from make_checkpoint.sizes import gemma3 as gemma3_sizes
from make_checkpoint.sizes import internvl as internvl_sizes
from make_checkpoint.sizes import lfm2_vl as lfm2_vl_sizes
from make_checkpoint.sizes import llava_onevision as llava_onevision_sizes
from make_checkpoint.sizes import paligemma as paligemma_sizes
from make_checkpoint.sizes import qwen3_vl as qwen3_vl_sizes
from make_checkpoint.sizes import qwen_vl as qwen_vl_sizes
from make_checkpoint.sizes import smolvlm2 as smolvlm2_sizes

HUB_FAMILIES: dict[str, HubFamily] = {
    "gemma3": gemma3.GEMMA3,
    "internvl": internvl.INTERNVL,
    "lfm2_vl": lfm2_vl.LFM2_VL,
    "llava_onevision": llava_onevision.LLAVA_ONEVISION,
    "paligemma": paligemma.PALIGEMMA,
    "qwen2_vl": qwen_vl.QWEN_VL,
    "qwen2_5_vl": qwen_vl.QWEN_VL,
    "qwen3_vl": qwen3_vl.QWEN3_VL,
    "smolvlm": smolvlm2.SMOLVLM2,
}

_SIZES = (
    internvl_sizes,
    gemma3_sizes,
    lfm2_vl_sizes,
    llava_onevision_sizes,
    paligemma_sizes,
    qwen_vl_sizes,
    smolvlm2_sizes,
    qwen3_vl_sizes,
)
HUB_PRESETS: dict[str, HubPreset] = {
    name: preset for sizes in _SIZES for name, preset in sizes.PRESETS.items()
}
