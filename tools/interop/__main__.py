"""transformers.js in Node against Hugging Face, token by token: ``PYTHONPATH=tools python -m
interop``.

Exports the demo checkpoint, lets Node answer every question about the three example scenes from
that folder, and compares with Hugging Face's modules on the same kept patches and with this
project's runtime; then runs the JavaScript of the artifact's USING.md in onnxruntime-web, and that
of models of random weights whose pictures are cut into tiles, or numbered by rows and columns.
Needs node and npm.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from demo_reference.answers import PrunedModel, fastervlm, prompt_of
from interop.page import answer_with_the_page
from make_checkpoint import HUB_PRESETS, make_checkpoint
from pocketvlm import VLM, Sampling
from pocketvlm_export import ExportOptions, export
from pocketvlm_measure.evaluation.questions import read_questions
from train_demo.__main__ import DEMO
from train_demo.scenes import Question

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
BUDGET = 36
FAMILIES = ("tiny-internvl", "tiny-qwen2.5-vl")
ASKED = "What is in the picture?"


@click.command(help=__doc__)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("build/interop/demo"),
    help="Where to export.",
)
def main(folder: Path) -> None:
    """Export, ask all three, compare; exit 1 on a difference."""
    if not (HERE / "node_modules" / "@huggingface" / "transformers").exists():
        npm = ["npm", "ci", "--no-audit", "--no-fund", "--onnxruntime-node-install=skip"]
        subprocess.run(npm, cwd=HERE, check=True, stdout=sys.stderr)
    export("demo", folder, ExportOptions(budgets=(BUDGET,), overwrite=True))
    asked = read_questions(EXAMPLES / "questions.jsonl").questions
    pairs = [(Path(q.images[0]), Question(q.tags[0], q.text, q.answers[0])) for q in asked]
    processor = AutoProcessor.from_pretrained(DEMO)

    ours = VLM.load(folder)
    runtime = [
        list(ours.generate(q.text, images=[path], sampling=Sampling(max_new_tokens=32)).token_ids)
        for path, q in pairs
    ]
    request = {
        "folder": str(folder),
        "asked": [{"image": str(path), "prompt": prompt_of(q, processor)} for path, q in pairs],
    }
    command = ["node", str(HERE / "answer.mjs")]
    node = subprocess.run(
        command, input=json.dumps(request), capture_output=True, text=True, check=False
    )
    if node.returncode:
        raise SystemExit(f"node failed:\n{node.stderr}")
    javascript = json.loads(node.stdout.splitlines()[-1])
    reference = hugging_face_tokens(pairs, processor)

    end = processor.tokenizer.eos_token_id
    differ = 0
    for (path, question), theirs, js, mine in zip(
        pairs, reference, javascript, runtime, strict=True
    ):
        same = _until(end, theirs) == _until(end, js) == _until(end, mine)
        differ += not same
        text = processor.tokenizer.decode(js, skip_special_tokens=True).strip()
        click.echo(f"{'same' if same else 'DIFFERENT'}  {path.name}  {question.text}  ->  {text}")
        if not same:
            click.echo(f"  transformers {theirs}\n  transformers.js {js}\n  pocketvlm {mine}")
    click.echo(f"{len(pairs) - differ} of {len(pairs)} answers have the same tokens in all three")
    from_page = answer_with_the_page(
        folder, [(path, question.text) for path, question in pairs], HERE
    )
    alike = sum(
        theirs[: len(mine)] == mine for theirs, mine in zip(from_page, runtime, strict=True)
    )
    click.echo(
        f"{alike} of {len(pairs)} answers of the JavaScript in USING.md have the same tokens"
    )
    differ += len(pairs) - alike
    for preset in FAMILIES:
        wrong = page_differs(preset, folder.parent)
        click.echo(f"{preset}: {wrong} answers of the JavaScript in USING.md differ")
        differ += wrong
    raise SystemExit(1 if differ else 0)


def page_differs(preset: str, folder: Path) -> int:
    """Export a preset of `make_checkpoint` and count the example pictures, square and wide, about
    which its USING.md does not answer as the runtime does."""
    images = sorted([*EXAMPLES.glob("*.png"), *EXAMPLES.glob("*.jpg")])
    checkpoint, artifact = folder / f"checkpoint-{preset}", folder / preset
    make_checkpoint(HUB_PRESETS[preset], checkpoint)
    export(str(checkpoint), artifact, ExportOptions(budgets=(7,), overwrite=True))
    vlm = VLM.load(artifact)
    ours = [vlm.generate(ASKED, [image]).token_ids for image in images]
    theirs = answer_with_the_page(artifact, [(image, ASKED) for image in images], HERE)
    return sum(list(mine) != page[: len(mine)] for mine, page in zip(ours, theirs, strict=True))


def hugging_face_tokens(
    pairs: list[tuple[Path, Question]], processor: AutoProcessor
) -> list[list[int]]:
    """Greedy tokens of Hugging Face's modules on the patches that FasterVLM keeps."""
    model = LlavaForConditionalGeneration.from_pretrained(DEMO, dtype=torch.float32).eval()
    pruned = PrunedModel(model, processor)
    features, scores = pruned.encode([Image.open(path).convert("RGB") for path, _ in pairs])
    kept = [fastervlm(row, BUDGET) for row in scores]
    return [
        pruned.tokens(features[i : i + 1], kept[i][None], [question])[0]
        for i, (_, question) in enumerate(pairs)
    ]


def _until(end: int, tokens: list[int]) -> list[int]:
    """Tokens before the end token: clients differ in whether they return it."""
    return tokens[: tokens.index(end)] if end in tokens else tokens


if __name__ == "__main__":
    main()
