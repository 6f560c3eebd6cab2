"""Other clients against Hugging Face and this runtime, token by token: ``PYTHONPATH=tools python -m
interop``.

Exports the demo checkpoint in float32 and in what each shipped target writes, and lets
transformers.js and PocketVLM's own client, `clients/web`, answer every question about the three
example scenes: in Node, and in the WebAssembly of pages. Then models of random weights: pictures
cut into tiles, tokens numbered by rows and columns, a table that is the decoder's head. Needs node
and npm.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import eq
from pathlib import Path

import click
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer

from demo_reference.answers import prompt_of
from interop.client import RUNTIMES, Asked, ClientError, answer_with_the_client
from interop.reference import Expected, hugging_face_tokens, in_one_run
from interop.transformers_js import Dtype, answer_with_transformers_js
from make_checkpoint import HUB_PRESETS, PRESETS, make_checkpoint
from pocketvlm import VLM, Artifact, Sampling
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.precisions import PRECISIONS
from pocketvlm_measure.evaluation.questions import read_questions
from pocketvlm_targets import load_target, target_names
from train_demo.__main__ import DEMO
from train_demo.scenes import Question

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
BUDGET, SMALLER, STEPS = 36, 7, 32
FAMILIES = ("tiny-internvl", "tiny-qwen2.5-vl", "tiny-qwen3-vl")
# Its table has more than ExternalWeights leaves inside a graph, in 4 bits too.
TIED = PRESETS["tiny-qwen2"].but(text={"vocab_size": 40_000})
WHAT = "What is in the picture?"

Pairs = list[tuple[Path, Question]]


@dataclass(frozen=True)
class Row:
    """How many answers of a client have the tokens that are expected.

    Attributes:
        client: what answered, from what.
        same: answers that are equal.
        asked: answers there should be.
        note: why there is none, or what differs.
    """

    client: str
    same: int
    asked: int
    note: str = ""

    def __str__(self) -> str:
        """A line of the report."""
        note = f"  ({self.note})" if self.note else ""
        return f"{self.same:3} of {self.asked:3}  {self.client}{note}"


@click.command(help=__doc__)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("build/interop"),
    help="Where to export.",
)
@click.option(
    "--questions",
    type=click.IntRange(min=1),
    metavar="N",
    help="Ask the first N questions about the scenes alone, for a quick look.",
)
def main(folder: Path, questions: int | None) -> None:
    """Export, ask, compare; exit 1 on a difference."""
    if not (HERE / "node_modules" / "@huggingface" / "transformers").exists():
        npm = ["npm", "ci", "--no-audit", "--no-fund", "--onnxruntime-node-install=skip"]
        subprocess.run(npm, cwd=HERE, check=True, stdout=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    listed = read_questions(EXAMPLES / "questions.jsonl").questions[:questions]
    pairs = [(Path(q.images[0]), Question(q.tags[0], q.text, q.answers[0])) for q in listed]
    rows = []
    for row in chain(
        exact(folder, pairs),
        of_targets(folder, pairs),
        of_families(folder),
        of_one_tile(folder),
        of_a_tied_table(folder),
    ):
        click.echo(str(row))
        rows.append(row)
    differ = sum(row.asked - row.same for row in rows)
    asked = sum(row.asked for row in rows)
    click.echo(f"{asked - differ} of {asked} answers have the tokens that are expected")
    raise SystemExit(1 if differ else 0)


def exact(folder: Path, pairs: Pairs) -> Iterator[Row]:
    """The demo in float32, against Hugging Face."""
    artifact, processor = folder / "demo", AutoProcessor.from_pretrained(DEMO)
    export("demo", artifact, ExportOptions("fastervlm", budgets=(BUDGET,), overwrite=True))
    expected = hugging_face_tokens(pairs, processor, BUDGET)
    vlm = VLM.load(artifact)
    ours = [
        vlm.generate(q.text, [path], sampling=Sampling(max_new_tokens=STEPS)).token_ids
        for path, q in pairs
    ]
    end = processor.tokenizer.eos_token_id
    yield compared("PocketVLM, fp32", expected, ours, (end,))
    yield from by_transformers_js(artifact, pairs, expected, "fp32", pages=(False, True))
    yield from by_the_client(artifact, asked_about(pairs), "fp32", as_blobs=True)


def of_targets(folder: Path, pairs: Pairs) -> Iterator[Row]:
    """The demo in every set of precisions that a target writes."""
    sets: dict[str, tuple[ExportOptions, list[str]]] = {}
    for name in target_names():
        options = options_of(name)
        sets.setdefault(repr(options), (options, []))[1].append(name)
    for options, names in sets.values():
        artifact = folder / names[0]
        export("demo", artifact, replace(options, overwrite=True))
        for decoder in options.decoder_precisions:
            expected = in_one_run(artifact, asked_about(pairs), STEPS, decoder)
            parts = (options.vision_precisions[0], options.table(decoder), decoder)
            label = f"{', '.join(names)}: {'/'.join(parts)}"
            precisions = {"decoderPrecision": decoder}
            yield from by_the_client(artifact, asked_about(pairs), label, expected, precisions)
            by_graph = dtypes(*parts)
            default = decoder == options.decoder_precisions[0]
            pictures = expected[: len(pairs)]
            dtype = None if default else by_graph  # what config.json says
            yield from by_transformers_js(artifact, pairs, pictures, label, dtype)
            if set(by_graph.values()) == {"q8"}:
                named = f"{label}, dtype q8"
                pages = (False, True) if not options.shared_tables else (False,)
                yield from by_transformers_js(artifact, pairs, pictures, named, "q8", pages)
            if not options.shared_tables:
                yield from in_a_page(artifact, pairs, options, decoder, label, dtype)


def in_a_page(
    artifact: Path, pairs: Pairs, options: ExportOptions, decoder: str, label: str, dtype: Dtype
) -> Iterator[Row]:
    """transformers.js in WebAssembly, with a table that it looks up in there: where the decoder's
    is in 4 bits, another one of the folder. Where there is none, nothing is asked."""
    own = options.table(decoder)
    table = next((name for name in (own, *options.embed) if PRECISIONS[name].standard), None)
    if table is None:
        yield Row(f"transformers.js in a page, {label}", 0, 0, f"no look-up in {own} there")
        return
    if table != own:
        label, dtype = (
            f"{label}, table {table}",
            dtypes(options.vision_precisions[0], table, decoder),
        )
    asked = asked_about(pairs)[: len(pairs)]
    expected = in_one_run(artifact, asked, STEPS, decoder, table)
    yield from by_transformers_js(artifact, pairs, expected, label, dtype, (True,))


def options_of(target: str) -> ExportOptions:
    """What a target writes, at one budget; where it is for pages, with a decoder of 4 bits too."""
    settings = load_target(target)
    decoders = settings.decoder_precision
    if settings.shared_tables is False:
        decoders = tuple(dict.fromkeys((*decoders, "int4")))
    return ExportOptions(
        budgets=(BUDGET,),
        vision_precisions=settings.vision_precision,
        decoder_precisions=decoders,
        embed_precisions=settings.embed_precision,
        shared_tables=settings.shared_tables is not False,
    )


def of_families(folder: Path) -> Iterator[Row]:
    """Models of random weights, about pictures square and wide."""
    images = sorted([*EXAMPLES.glob("*.png"), *EXAMPLES.glob("*.jpg")])
    for preset in FAMILIES:
        checkpoint, artifact = folder / f"checkpoint-{preset}", folder / preset
        make_checkpoint(HUB_PRESETS[preset], checkpoint)
        export(str(checkpoint), artifact, ExportOptions(budgets=(SMALLER,), overwrite=True))
        yield from by_the_client(artifact, [Asked(WHAT, image) for image in images], preset)


def of_one_tile(folder: Path) -> Iterator[Row]:
    """A model that cuts pictures, exported to read them whole: transformers.js can do that."""
    preset = HUB_PRESETS["tiny-llava-onevision"]
    checkpoint, artifact = folder / "checkpoint-whole", folder / "whole"
    make_checkpoint(preset, checkpoint)
    options = ExportOptions(budgets=(SMALLER,), layout="whole", overwrite=True)
    export(str(checkpoint), artifact, options)
    scene = small_scene(folder / "scene-whole.png", preset.vision["image_size"])
    expected = in_one_run(artifact, [Asked(WHAT, scene)], STEPS)
    question = Question("", WHAT, "")
    yield from by_transformers_js(
        artifact, [(scene, question)], expected, "one tile", None, (False, True)
    )


def small_scene(path: Path, edge: int) -> Path:
    """A picture of the size that a tower sees: other clients resize otherwise, or not at all
    without sharp."""
    Image.open(EXAMPLES / "scene-1.png").convert("RGB").resize((edge, edge)).save(path)
    return path


def of_a_tied_table(folder: Path) -> Iterator[Row]:
    """A model whose table lies in the decoder's file, and one for pages, where it does not."""
    checkpoint = folder / "checkpoint-tied"
    make_checkpoint(TIED, checkpoint)
    scene = small_scene(folder / "scene.png", TIED.vision["image_size"])
    asked, question = [Asked(WHAT, scene), Asked(WHAT)], Question("", WHAT, "")
    for shared in (True, False):
        artifact = folder / ("tied" if shared else "tied-apart")
        decoders = ("int4", "fp32") if shared else ("fp32",)
        options = ExportOptions(decoder_precisions=decoders, shared_tables=shared, overwrite=True)
        export(str(checkpoint), artifact, options)
        files = Artifact.open(artifact).manifest.files
        alone = [name for name in files if "embed_tokens" in name and name.endswith("_data")]
        label = f"tied table {'in the decoder file' if shared else 'in its own file'}"
        assert bool(alone) is not shared, f"{label}: {alone}"
        yield from by_the_client(artifact, asked, f"{label}, {decoders[0]}", as_blobs=shared)
        expected = in_one_run(artifact, asked[:1], STEPS, "fp32")
        yield from by_transformers_js(
            artifact, [(scene, question)], expected, f"{label}, fp32", "fp32", (not shared,)
        )


def by_the_client(
    artifact: Path,
    asked: Sequence[Asked],
    label: str,
    expected: Sequence[Sequence[int]] | None = None,
    precisions: dict[str, str] | None = None,
    as_blobs: bool = False,
) -> Iterator[Row]:
    """PocketVLM's own client, in both runtimes, which reads the files by itself in Node's and is
    given bytes in that of pages, and where ``as_blobs`` says so also what a cache gives."""
    expected = in_one_run(artifact, asked, STEPS) if expected is None else expected
    node, web = RUNTIMES
    for runtime, files in ((node, ""), (web, "bytes"), (web, "blobs"))[: 3 if as_blobs else 2]:
        client = f"clients/web in {runtime}{f' from {files}' if files else ''}, {label}"
        try:
            answers = answer_with_the_client(
                artifact, asked, HERE, runtime=runtime, files=files, precisions=precisions
            )
        except ClientError as error:
            yield Row(client, 0, len(asked), reason(error))
        else:
            yield compared(client, expected, [tokens[:STEPS] for tokens in answers])


def by_transformers_js(
    artifact: Path,
    pairs: Pairs,
    expected: Sequence[Sequence[int]],
    label: str,
    dtype: Dtype = None,
    pages: Sequence[bool] = (False,),
) -> Iterator[Row]:
    """transformers.js, in Node and where `pages` say so in a page."""
    ends = Artifact.open(artifact).manifest.decoder.eos_token_ids
    for page in pages:
        client = f"transformers.js in {'a page' if page else 'Node'}, {label}"
        try:
            answers = answer_with_transformers_js(artifact, pairs, HERE, page=page, dtype=dtype)
        except ClientError as error:
            yield Row(client, 0, len(pairs), reason(error))
        else:
            yield compared(client, expected, answers.tokens, ends)
            same = sum(map(eq, answers.prompts, prompts_of(artifact, pairs)))
            yield Row(f"its apply_chat_template, {label}", same, len(pairs))


def reason(error: ClientError) -> str:
    """The line of what Node printed that says what is wrong."""
    lines = [line for line in str(error).splitlines() if "rror" in line]
    return lines[0][:300] if lines else "no answer"


def prompts_of(artifact: Path, pairs: Pairs) -> list[str]:
    """What transformers makes of the questions by the template in the same folder."""
    tokenizer = AutoTokenizer.from_pretrained(artifact)
    return [prompt_of(question, tokenizer) for _, question in pairs]


def asked_about(pairs: Pairs) -> list[Asked]:
    """The questions; then the first of them with fewer tokens, and without a picture."""
    asked = [Asked(question.text, path) for path, question in pairs]
    return [*asked, asked[0]._replace(budget=SMALLER), Asked(pairs[0][1].text)]


def dtypes(vision: str, table: str, decoder: str) -> dict[str, str]:
    """Precisions as transformers.js names them."""
    graphs = {"vision_encoder": vision, "embed_tokens": table, "decoder_model_merged": decoder}
    return {graph: str(PRECISIONS[precision].js) for graph, precision in graphs.items()}


def compared(
    client: str,
    expected: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    ends: Sequence[int] = (),
) -> Row:
    """Count the answers that are as expected, up to a token that ends one, or up to a tie."""
    both = zip(expected, answers, strict=True)
    ties = {i for i, (a, b) in enumerate(both) if isinstance(a, Expected) and a.tied(b)}
    cut = [(_until(ends, a), _until(ends, b)) for a, b in zip(expected, answers, strict=True)]
    differing = [i for i, (a, b) in enumerate(cut) if a != b and i not in ties]
    note = f"{len(ties)} decided a tie otherwise" if ties else ""
    if differing:
        theirs, got = cut[differing[0]]
        note = f"answers {differing} differ, the first is {got} for {theirs}"
    return Row(client, len(cut) - len(differing), len(cut), note)


def _until(ends: Sequence[int], tokens: Sequence[int]) -> list[int]:
    """Tokens before the end token: clients differ in whether they return it."""
    at = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return list(tokens[:at])


if __name__ == "__main__":
    main()
