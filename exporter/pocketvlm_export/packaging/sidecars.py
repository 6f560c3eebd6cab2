"""Knows the configuration files beside the graphs, and what other clients read in them."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from pocketvlm_export.checkpoint import (
    image_processor,
    load_tokenizer,
    read_json,
    special_tokens,
)
from pocketvlm_export.onnx_passes import weights_files
from pocketvlm_export.plan import ExportPlan
from pocketvlm_export.precisions import PRECISIONS

_GENERATION = "generation_config.json"
_TEMPLATE = "chat_template.jinja"
_ADDS_BOS = "add_bos_token"
_NESTED = "image_processor"  # of processor_config.json


def write_sidecars(plan: ExportPlan, folder: Path) -> None:
    """Write tokenizer, processor and model configuration into ``folder``.

    Raises:
        PocketVLMError: the checkpoint lacks an image processor or a chat template.
    """
    source = plan.checkpoint.source.folder
    if (source / _GENERATION).is_file():
        shutil.copyfile(source / _GENERATION, folder / _GENERATION)
    spec, layout, family = plan.spec, plan.layout, plan.spec.family
    template = family.chat_template(source)
    write_tokenizer(source, folder, template, family.tokenizer(source))
    (folder / _TEMPLATE).write_text(template, encoding="utf-8")
    pictures = pictures_config(plan)
    _write(folder / "preprocessor_config.json", pictures)
    stated = read_json(source / "processor_config.json")
    processor = family.processor_config(stated, spec, layout, plan.budgets[0])
    if _NESTED in processor:  # where transformers 5 looks first: the same pictures in both
        own = {name: value for name, value in pictures.items() if name != "processor_class"}
        processor = {**processor, _NESTED: own}
    _write(folder / "processor_config.json", processor)
    _write(folder / "config.json", _model_config(source, plan, folder))


def pictures_config(plan: ExportPlan) -> dict[str, Any]:
    """Return preprocessor_config.json: how pictures become pixel_values."""
    family, source = plan.spec.family, plan.checkpoint.source.folder
    stated = image_processor(source, family.medium)
    return family.image_processor_config(stated, plan.spec, plan.layout)


def write_tokenizer(
    source: Path,
    folder: Path,
    template: str,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> None:
    """Write the tokenizer as transformers makes it, not as it lies there: that is what the
    checkpoint was used with.

    Some tokenizers (Llama's among them) are rebuilt instead of read from tokenizer.json, and
    special tokens may come from older files or from the class. transformers.js looks for the chat
    ``template`` of most models in tokenizer_config.json alone. ``tokenizer`` is what transformers'
    processor makes of it, where that is not what lies in ``source``.
    """
    tokenizer = tokenizer or load_tokenizer(source)
    # What a file was saved with is not part of the tokenizer: transformers decides it again at each
    # call.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    # Written here: of a full disk the library raises a bare Exception.
    text = tokenizer.backend_tokenizer.to_str(pretty=True)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    stated = read_json(source / "tokenizer_config.json")
    if stated.get(_ADDS_BOS) and not getattr(tokenizer, _ADDS_BOS, True):
        stated[_ADDS_BOS] = False
    _write(
        folder / "tokenizer_config.json",
        {**stated, **special_tokens(tokenizer), "chat_template": template},
    )


def _model_config(source: Path, plan: ExportPlan, folder: Path) -> dict[str, Any]:
    """Return the checkpoint's config.json, with settings for transformers.js where it can use the
    graphs."""
    config = plan.spec.family.model_config(read_json(source / "config.json"), plan.spec)
    # Nor does it know of a graph that selects tokens by the prompt.
    if plan.options.format != "onnx" or not plan.layout.stock_clients or plan.selectors:
        return config
    kept = [folder / file for file in plan.sizes() if file not in plan.extra]
    # It looks for a graph's own file alone. Others are found where it reads files from disk.
    external = {
        graph.name: True for graph in kept if weights_files(graph) == (f"{graph.name}_data",)
    }
    settings: dict[str, Any] = {"dtype": _dtypes(plan)}
    if external:
        settings["use_external_data_format"] = external
    return {**config, "transformers.js_config": settings}


def _dtypes(plan: ExportPlan) -> dict[str, str]:
    """What transformers.js loads by default: of each graph the first precision that it has a name
    for."""
    options = plan.options
    listed = {"vision_encoder": options.vision_precisions}
    if plan.decoder:
        named = [name for name in options.decoder_precisions if PRECISIONS[name].js]
        tables = [options.table(name) for name in named] + list(options.embed)
        listed["embed_tokens"] = tuple(tables)
        # Others transformers.js cannot drive.
        if not (plan.decoder_stages or options.decoder_scores):
            listed["decoder_model_merged"] = tuple(named)
    named_js = {graph: [PRECISIONS[name].js for name in names] for graph, names in listed.items()}
    return {graph: next(filter(None, names)) for graph, names in named_js.items() if any(names)}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
