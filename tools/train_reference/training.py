"""Knows the stages: the projector on words; projector and adapters of the decoder on questions,
first with pooled patches, then with all of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import save
from torch import nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

from pocketvlm.files import replace_file
from train_demo.data import Form, Packed, Packer
from train_demo.training import Run, Stage
from train_reference.features import Encoded
from train_reference.scenes import KINDS, questions
from train_reference.words import Words, draw_patches

_RANK = 8
_ADAPTED = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_MARK = "\N{OBJECT REPLACEMENT CHARACTER}"
CURVE = "curve.jsonl"  # in the folder of the stages
REPORTED = 96  # held-out pictures of a point of the curve


@dataclass(frozen=True)
class Plan:
    """How long each stage is: ``pooled`` reads an average of 2 x 2 patches, ``whole`` all."""

    words: Stage
    pooled: Stage
    whole: Stage


# Of 8 pictures with all their questions, 4 s a step on two cores with bfloat16 where pooled, twice
# that where whole: some 80 minutes. The learning rate of `pooled` is still high at its end.
FULL = Plan(
    Stage("words", 800, 64, 2e-3, 800, report_every=100),
    Stage("pooled", 520, 8, 8e-4, 1000, ((100, 1), (250, 2)), report_every=80, save_every=10),
    Stage("whole", 112, 8, 4e-4, 112, report_every=28, save_every=5),
)


class Curve:
    """The learning curve: a JSON object a line, appended; a resumed run writes some points again,
    and the last one counts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, run: Run, started: float, figures: dict[str, float]) -> str:
        """Write a point; returns it for people."""
        point = {
            "stage": run.stage.name,
            "step": run.step,
            "pictures": run.step * run.stage.batch,
            "cpu_seconds": round(time.process_time() - started, 1),
            "loss": round(run.smooth, 4),
            **figures,
        }
        with self.path.open("a") as file:
            file.write(json.dumps(point) + "\n")
        return json.dumps(figures)


def form_of(processor: LlavaProcessor) -> Form:
    """How the chat template writes a question about one picture."""
    content = [{"type": "image"}, {"type": "text", "text": _MARK}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    prefix, tail = text.split(_MARK)
    return Form(prefix, tail)


def adapt(model: LlavaForConditionalGeneration) -> None:
    """Freeze all but the projector, and put low-rank adapters (arXiv 2106.09685) into the
    decoder."""
    model.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(True)
    config = LoraConfig(r=_RANK, lora_alpha=2 * _RANK, target_modules=_ADAPTED)
    model.model.language_model = get_peft_model(model.model.language_model, config)


def merge(model: LlavaForConditionalGeneration) -> None:
    """Add the adapters to the weights they adapt: the checkpoint is a plain LLaVA again."""
    model.model.language_model = model.model.language_model.merge_and_unload()


def standardise(projector: nn.Module, features: torch.Tensor) -> None:
    """Let the first layer read features of mean 0 and deviation 1: folded into its weights, so that
    the checkpoint has no further layer. Some of DINOv2's dimensions are a hundred times others."""
    mean, deviation = features.mean(0), features.std(0).clamp(min=1e-3)
    with torch.no_grad():
        first = projector.linear_1
        nn.init.normal_(first.weight, std=first.in_features**-0.5)
        first.weight /= deviation
        first.bias.copy_(-first.weight @ mean)


class Reader(nn.Module):
    """The model from features to answers; the tower is not run."""

    def __init__(self, model: LlavaForConditionalGeneration, packer: Packer, side: int) -> None:
        super().__init__()
        self.model, self.packer, self.side = model, packer, side

    def forward(self, features: torch.Tensor, batch: Packed) -> torch.Tensor:
        """Next-token logits where an answer's token is due, float32 (answers' tokens,
        vocabulary)."""
        parts = self.model.model
        with torch.autocast("cpu", torch.bfloat16):
            embeds = self.model.get_input_embeddings()(batch.input_ids)
            image = parts.multi_modal_projector(features).to(embeds.dtype)
            at = self.packer.image_positions
            embeds = torch.cat([embeds[:, : at.start], image, embeds[:, at.stop :]], dim=1)
            hidden = parts.language_model(
                inputs_embeds=embeds,
                attention_mask=batch.mask,
                position_ids=batch.position_ids,
                use_cache=False,
            ).last_hidden_state
            return self.model.lm_head(hidden[batch.labels >= 0]).float()

    def loss(self, features: torch.Tensor, batch: Packed) -> torch.Tensor:
        """Cross-entropy over the answers' tokens, the end token included."""
        return nn.functional.cross_entropy(self(features, batch), batch.labels[batch.labels >= 0])

    @torch.no_grad()
    def exact(self, encoded: Encoded) -> dict[str, float]:
        """Share of questions by kind whose every token is the likeliest one, which is what greedy
        decoding writes."""
        right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
        rng = np.random.default_rng(0)
        for indices in np.array_split(
            np.arange(len(encoded.scenes)), -(-len(encoded.scenes) // 16)
        ):
            batch = self.pack(encoded, indices, rng)
            due = batch.labels >= 0
            wrong = self(encoded.pooled(indices, self.side), batch).argmax(-1) != batch.labels[due]
            rows = torch.arange(len(indices))[:, None].expand_as(due)[due]
            asked = torch.stack([rows, batch.segments[due]], 1)
            every, question = asked.unique(dim=0, return_inverse=True)
            failed = torch.zeros(len(every)).index_add_(0, question, wrong.float()) > 0
            kinds = torch.zeros(len(every), dtype=torch.long)
            kinds[question] = batch.kinds[due]
            for kind, miss in zip(kinds.tolist(), failed.tolist(), strict=True):
                right[KINDS[kind]].append(not miss)
        shares = {kind: float(np.mean(values)) for kind, values in right.items() if values}
        every_kind = {"exact": float(np.mean(list(shares.values()))), **shares}
        return {name: round(value, 4) for name, value in every_kind.items()}

    def pack(self, encoded: Encoded, indices: np.ndarray, rng: np.random.Generator) -> Packed:
        """All questions about these scenes, in fresh wording."""
        return self.packer.arrange([list(questions(encoded.scenes[i], rng)) for i in indices])


def train_words(
    stage: Stage,
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    train: Encoded,
    held_out: Encoded,
    folder: Path,
    seed: int,
) -> None:
    """Stage 1, without the decoder."""
    projector = model.model.multi_modal_projector
    rng = np.random.default_rng(seed)
    some = rng.choice(len(train.scenes), min(256, len(train.scenes)), replace=False)
    standardise(projector, draw_patches(train, some, rng)[0])
    words = Words(projector, model.get_input_embeddings().weight.detach(), tokenizer)
    run, curve = Run(stage, words, folder, seed), Curve(folder / CURVE)
    started = time.process_time()
    check = draw_patches(held_out, np.arange(len(held_out.scenes)), np.random.default_rng(0))
    run.train(
        train,
        lambda indices, rng: draw_patches(train, indices, rng),
        lambda batch: words.loss(*batch),
        lambda: curve.add(run, started, words.right(*check)),
    )


def train_questions(
    stage: Stage, reader: Reader, train: Encoded, held_out: Encoded, folder: Path, seed: int
) -> None:
    """Stages 2 and 3: projector and adapters."""
    run, curve = Run(stage, reader, folder, seed), Curve(folder / CURVE)
    started = time.process_time()
    held_out = Encoded(held_out.scenes[:REPORTED], held_out.features[:REPORTED])

    def prepare(indices: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, Packed]:
        return train.pooled(indices, reader.side), reader.pack(train, indices, rng)

    run.train(
        train,
        prepare,
        lambda batch: reader.loss(*batch),
        lambda: curve.add(run, started, reader.exact(held_out)),
    )


def train_all(
    plan: Plan,
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    train: Encoded,
    held_out: Encoded,
    folder: Path,
    seed: int,
    echo: Callable[[str], None],
) -> None:
    """Every stage that is not finished yet; the model is a plain LLaVA at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tokenizer, form = processor.tokenizer, form_of(processor)
    model.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(True)
    train_words(plan.words, model, tokenizer, train, held_out, folder, seed)
    adapt(model)
    side = int(train.features.shape[1] ** 0.5)
    for number, (stage, grid) in enumerate(((plan.pooled, side // 2), (plan.whole, side)), 1):
        echo(f"{stage.name}: {grid * grid} tokens a picture")
        packer = Packer(tokenizer, grid * grid, form=form, kinds=KINDS, length=None)
        reader = Reader(model, packer, grid)
        train_questions(stage, reader, train, held_out, folder, seed + number)
    merge(model)


@dataclass(frozen=True)
class Trained:
    """What training changed: projector and adapters by their names in an adapted model, with the
    stage and the step that they are of."""

    weights: Mapping[str, torch.Tensor]
    stage: str
    step: int

    @classmethod
    def last(cls, plan: Plan, folder: Path) -> Trained:
        """Of the last stage in ``folder`` that has begun to ask questions."""
        for stage in (plan.whole, plan.pooled):
            path = folder / f"{stage.name}.pt"
            if path.exists():
                state = torch.load(path, weights_only=True)
                modules = state["modules"]  # of a `Reader`
                weights = {name.removeprefix("model."): value for name, value in modules.items()}
                return cls(weights, stage.name, int(state["step"]))
        raise FileNotFoundError(f"{folder} has no stage that asked questions; train first")

    @classmethod
    def read(cls, path: Path) -> Trained:
        """A file that `write` wrote."""
        with safe_open(path, "pt") as file:
            about = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return cls(weights, about["stage"], int(about["step"]))

    def write(self, path: Path) -> None:
        """As safetensors in half precision, which is what a checkpoint is written in."""
        halves = {name: value.half().contiguous() for name, value in self.weights.items()}
        about = {"stage": self.stage, "step": str(self.step)}
        replace_file(path, save(halves, about))

    def put_into(self, model: LlavaForConditionalGeneration) -> None:
        """Give an untrained model these weights; it is a plain LLaVA afterwards."""
        adapt(model)
        _, further = model.load_state_dict(self.weights, strict=False)
        if further:
            raise ValueError(f"weights of another model: {further}")
        merge(model)
