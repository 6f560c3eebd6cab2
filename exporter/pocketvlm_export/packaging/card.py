"""Knows the model card of an artifact: what it is, where it comes from, how it is run."""

from pathlib import Path

import huggingface_hub
import yaml  # type: ignore[import-untyped]

import pocketvlm
from pocketvlm.artifact.specs import POSITION_AXES
from pocketvlm.artifact.stages import GIVEN
from pocketvlm.decoders.attention import TITLES
from pocketvlm.files import read_text
from pocketvlm.layouts import Layout, Medium, make_layout, slot_count
from pocketvlm_export.checkpoint import generation_notes, generation_warnings
from pocketvlm_export.decoder_stages import find_ranking
from pocketvlm_export.layouts import setting
from pocketvlm_export.plan import ExportPlan
from pocketvlm_export.precisions import PRECISIONS
from pocketvlm_export.tower_stages import find_criterion

_BODY = """
# {model}: {method}, {budget} of {tokens} visual tokens

{model} exported by PocketVLM {version} for {engines}. {pruning}

```bash
pip install {install}  # in a clone of PocketVLM
pocketvlm run . {option} --prompt "{question}"
```

```python
{code}
```

From Kotlin, Swift or JavaScript: see USING.md.{pictures}{answers}

Precisions: vision {vision}; decoder {decoder}. `pocketvlm.json` records under `parity` how closely
the graphs follow the checkpoint. `pocketvlm verify . --against {model}` measures it again, if
PocketVLM was installed by `pip install '.[export]'`. `pocketvlm verify .` also runs the self-test
in `selftest/`, which checks that a device computes what was exported.
"""

# By the medium that a model reads: the Hub's task, an option, an argument, a question.
_BY_MEDIUM: dict[Medium, tuple[str, str, str, str]] = {
    "image": (
        "image-text-to-text",
        "--image photo.jpg",
        'images=["photo.jpg"]',
        "What is in the picture?",
    ),
    "video": (
        "video-text-to-text",
        "--video clip.mp4",
        'videos=["clip.mp4"]',
        "What happens in the video?",
    ),
}
# How it answers from Python: alone, and with a guide.
_ALONE = """\
from pocketvlm import VLM

print(VLM.load(".").generate("{question}", {argument}).text)"""
_WITH_GUIDE = """\
from pocketvlm import VLM, Guided

guided = Guided(VLM.load("."), VLM.load("SMALL"))
print(guided.generate("{question}", {argument}).text)"""
_ENGINES = {
    "onnx": "ONNX Runtime",
    "llama.cpp": "ONNX Runtime (pictures) and llama.cpp (text)",
    "both": "ONNX Runtime and llama.cpp",
}


def write_card(plan: ExportPlan, folder: Path) -> None:
    """Write README.md with the front matter that the Hub reads."""
    tokens, budget = plan.spec.vision.tokens, plan.budgets[0]
    source, medium = plan.checkpoint.source, plan.spec.family.medium
    task, option, argument, question = _BY_MEDIUM[medium]
    is_guided = any(stage.by == GIVEN for stage in plan.decoder_stages)
    code = _WITH_GUIDE if is_guided else _ALONE
    extras = [*(["llama"] if plan.gguf else []), *(["video"] if medium == "video" else [])]
    front = huggingface_hub.ModelCardData(
        base_model=source.model if source.on_hub else None,
        license=source_license(source.folder),
        pipeline_tag=task,
        library_name="pocketvlm",
        tags=[
            "onnx",
            *(["gguf"] if plan.gguf else []),
            "token-pruning",
            plan.pruner.name,
            *dict.fromkeys(find_ranking(stage.by).tag for stage in plan.decoder_stages),
        ],
    )
    body = _BODY.format(
        model=source.name,
        method=plan.pruner.name,
        budget=budget,
        tokens=f"{'' if plan.spec.vision.image_size else 'at most '}{tokens}",
        version=pocketvlm.__version__,
        pruning="".join(
            (
                _resized(plan),
                _pruning(plan, budget),
                _tower_stages(plan),
                _guided(plan),
                _stages(plan),
                _guide(plan),
            )
        ),
        pictures="" if plan.layout.stock_clients else _pictures(plan, budget),
        answers=_answers(plan),
        option=f"--guide SMALL {option}" if is_guided else option,
        code=code.format(question=question, argument=argument),
        question=question,
        vision=_vision_precisions(plan),
        engines=_ENGINES[plan.options.decoder],
        install=f"'.[{','.join(extras)}]'" if extras else ".",
        decoder=_decoders(plan),
    )
    (folder / "README.md").write_text(f"---\n{front.to_yaml()}\n---\n{body}", encoding="utf-8")


def _pictures(plan: ExportPlan, budget: int) -> str:
    """Return how pictures are prepared, or clips sampled, how many tokens that is, and what other
    clients may not do."""
    layout = make_layout(setting(plan.spec, plan.layout))
    sentences = [_sizes(plan, layout, budget), _prompts(layout, budget)]
    if flags := [f"`--{cap.replace('_', '-')}`" for cap in layout.caps]:
        sentences.append(f"{' and '.join(flags)} ask{'s' * (len(flags) == 1)} for less.")
    if POSITION_AXES[plan.spec.decoder.positions] > 1:
        sentences.append(
            "A token has several positions, because pictures are numbered by rows and columns. "
            "Kept tokens have those of the whole picture."
        )
    if title := TITLES[plan.spec.decoder.attention]:
        sentences.append(f"In the decoder {title}.")
    promise = (
        "Only PocketVLM's runtime does this by itself.\ntransformers.js and other clients may not "
        "cut a picture or insert the tokens around it,\nand processor_config.json counts the "
        "tokens of the unpruned checkpoint."
    )
    return "\n\n" + " ".join([*filter(None, sentences), promise])


def _sizes(plan: ExportPlan, layout: Layout, budget: int) -> str:
    """What a picture or clip is made into, and how many tokens that comes to."""
    totals = plan.totals()[budget]
    if layout.medium == "video":
        frames, slots = layout.grids()[0].tiles, max(totals.values())
        return (
            f"The model reads {frames} frames of a clip, {budget} visual tokens per frame: {slots} "
            "per clip. " + _beside(plan)
        )
    if layout.grids()[-1].tiles > 1:
        cut = ", ".join(f"{slots} ({grid})" for grid, slots in totals.items())
        return (
            f"The model reads a picture whole and in parts: {budget} visual tokens per tile come "
            f"to at most\n{cut} per picture, by the rows and columns of its parts."
        )
    if plan.spec.vision.image_size is None:
        return (
            f"The model reads pictures of {layout.summary}, in about their own\nproportions. A "
            f"picture's tokens follow from its size, and one of {budget} tokens or fewer keeps all."
        )
    fixed = plan.spec.caps.fixed_size
    return "" if fixed is None else f"Pictures are {layout.summary}, whatever their proportions."


def _beside(plan: ExportPlan) -> str:
    """Return how a model of clips treats still pictures."""
    if "image" not in plan.beside:
        return "Still pictures are refused."
    budget = plan.beside["image"].budgets[0]
    return f"Still pictures have a vision graph of their own and keep {budget} tokens each."


def _prompts(layout: Layout, budget: int) -> str:
    """Whether a picture of one tile has other ids than those of its slots."""
    grid = layout.grids()[-1]
    if grid.tiles > 1 or len(ids := layout.expand(grid, budget)) == slot_count(layout, ids):
        return ""
    return "Tokens around each picture in the prompt mark where it begins and ends."


def _answers(plan: ExportPlan) -> str:
    """Return the checkpoint's published settings, and which of them answers do not follow."""
    sentences = generation_notes(plan.generation)
    sentences += [
        f"{warning[0].upper()}{warning[1:]}." for warning in generation_warnings(plan.generation)
    ]
    return "\n\n" + " ".join(sentences) if sentences else ""


def _resized(plan: ExportPlan) -> str:
    """Return that pictures have another size than the checkpoint was trained for."""
    vision = plan.spec.vision
    if vision.made_for is None:
        return ""
    (height, width), (own_height, own_width) = vision.tile_size, vision.made_for
    return (
        f"Pictures, or their tiles, are read at {height}x{width} pixels, where the checkpoint was "
        f"trained for {own_height}x{own_width}. Its learnt positions are interpolated, as in "
        "transformers. "
    )


def _pruning(plan: ExportPlan, budget: int) -> str:
    """Return which patches are kept, by which method with which options, and whether fewer can be
    requested."""
    pruner = plan.pruner
    if not pruner.prunes:
        return "No visual token is pruned."
    options = ", ".join(f"{name} {value}" for name, value in pruner.options.items())
    method = ", ".join(part for part in (pruner.title, pruner.paper) if part)
    smaller = (
        "any smaller number can be requested"
        if pruner.nested
        else "no other number can be requested"
    )
    stated = f"{method}; {options}" if options else method
    merged = ", with each the mean of itself and of the dropped ones most like it"
    selecting = "token selector" if plan.selectors else "vision graph"
    return (
        f"Its {selecting} keeps the {budget} patches {pruner.keeps}"
        f"{merged if plan.options.merge_dropped else ''} ({stated}); {smaller} when it runs."
    )


def _guided(plan: ExportPlan) -> str:
    if not plan.selectors:
        return ""
    selector = plan.selectors[plan.budgets[0]]
    return (
        f" The vision graph gives all tokens, and `{selector}` selects some of them by the words "
        "of each question, per picture or tile. A further question about a picture selects again: "
        "the tower does not run again, but the prompt is prefilled again from the first picture "
        "on. Only PocketVLM's runtime does this by itself: transformers.js and llama.cpp's own "
        "programs cannot answer from this folder."
    )


def _tower_stages(plan: ExportPlan) -> str:
    """Return where the tower drops patches, and by what."""
    sentences = []
    for stage in plan.tower_stages:
        criterion = find_criterion(stage.by)
        paper = f" ({criterion.paper})" if criterion.paper else ""
        sentences.append(
            f" Its tower drops to {stage.keep} patches before layer {stage.layer} (the first is "
            f"0): it keeps those {criterion.keeps}{paper}."
        )
    return "".join(sentences)


def _stages(plan: ExportPlan) -> str:
    """Return where the decoder drops visual tokens, and what that means for conversations."""
    if not plan.decoder_stages:
        return ""
    sentences = []
    for stage in plan.decoder_stages:
        ranking = find_ranking(stage.by)
        method = ", ".join(part for part in (ranking.title, ranking.paper) if part)
        tokens = f"{stage.keep or 'no'} visual tokens per picture"
        sentences.append(
            f" Inside the decoder, layers from {stage.layer} on (the first is 0) read {tokens}, "
            f"{ranking.keeps} ({method}), at their original positions."
        )
    if any(stage.by == GIVEN for stage in plan.decoder_stages):
        sentences.append(
            " SMALL below is that smaller model, exported with `--decoder-scores`. Without it no "
            "question about a picture is answered."
        )
    return "".join(sentences) + (
        " In a conversation pictures are therefore prefilled again with every question."
    )


def _guide(plan: ExportPlan) -> str:
    if not plan.options.decoder_scores:
        return ""
    return (
        " Its decoder also gives its attention to each visual token, so that it can guide a larger "
        "model with the same visual tokens (SGL, [arXiv "
        "2412.03324](https://arxiv.org/abs/2412.03324)): `pocketvlm run LARGE --guide` this."
    )


def _vision_precisions(plan: ExportPlan) -> str:
    """Return the vision graphs' precisions, the default first, and what was calibrated on how many
    pictures."""
    count = len(plan.calibration.pictures) if plan.calibration else 0
    return ", ".join(
        f"{name} (calibrated on {count} pictures)" if PRECISIONS[name].calibrated else name
        for name in plan.options.vision_precisions
    )


def _decoders(plan: ExportPlan) -> str:
    """Return which decoders are in the folder, the default first."""
    graphs = f"ONNX {', '.join(plan.options.decoder_precisions)}" if plan.decoder else ""
    files = f"GGUF {', '.join(plan.options.gguf)} (`--decoder llama.cpp`)" if plan.gguf else ""
    return " and ".join(part for part in (graphs, files) if part)


def source_license(source: Path) -> str | None:
    """Return the licence that the checkpoint's own card names, None where there is no card or it
    names none."""
    path = source / "README.md"
    if not path.is_file():
        return None
    try:
        data = huggingface_hub.ModelCard(read_text(path), ignore_metadata_errors=True).data
    except (OSError, ValueError, yaml.YAMLError):  # a card that cannot be parsed names none
        return None
    name = data.get("license")
    return name if isinstance(name, str) else None
