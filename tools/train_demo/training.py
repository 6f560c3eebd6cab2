"""Knows the stages: tower on captions and regions; decoder on the frozen tower; both; both with
patches left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import CLIPModel, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from train_demo.data import Packed, Packer, Scenes
from train_demo.model import clip_config, llava_config
from train_demo.objectives import Contrast, Eyes, Regions
from train_demo.scenes import KINDS, MAX_OBJECTS, Scene

Batch = TypeVar("Batch")
CAPTIONS_WEIGHT = 0.5  # of the captions' loss beside the regions'
TOWER_WEIGHT = 0.2  # of both beside the questions'


@dataclass(frozen=True)
class Stage:
    """Length and pace of one stage.

    ``cycle`` is the length of the one-cycle schedule, cut off after ``steps`` where it is longer.
    ``curriculum`` is (up to which step, objects at most) in order, without limit after the last.
    ``leave_out`` is the share of pictures that lack patches. Where there are any, every kind of
    question counts the same (else every token: descriptions, the longest, lead). ``places`` is the
    weight of a loss by which every patch must give its cell from its features. Once patches are
    left out, the number of a token no longer gives it.
    """

    name: str
    steps: int
    batch: int
    learning_rate: float
    cycle: int
    curriculum: tuple[tuple[int, int], ...] = ()
    leave_out: float = 0.0
    places: float = 0.0
    report_every: int = 100  # steps; a checkpoint is written there too
    save_every: int = 100  # and there


CONTRASTIVE = Stage("contrastive", steps=600, batch=192, learning_rate=1e-3, cycle=600)
REGIONS = Stage("regions", steps=450, batch=96, learning_rate=1e-3, cycle=450)
FROZEN = Stage(
    "frozen", steps=600, batch=64, learning_rate=1.5e-3, cycle=1200, curriculum=((60, 1), (180, 2))
)
TOGETHER = Stage("together", steps=1000, batch=32, learning_rate=8e-4, cycle=1000)
LEFT_OUT = Stage("left-out", steps=1400, batch=32, learning_rate=8e-4, cycle=2600, leave_out=0.5)
PLACED = Stage(
    "placed", steps=800, batch=32, learning_rate=8e-4, cycle=1800, leave_out=0.5, places=0.2
)
LAST = Stage(
    "last", steps=1000, batch=32, learning_rate=6e-4, cycle=1200, leave_out=0.5, places=1.0
)
THINNED = Stage("thinned", steps=900, batch=64, learning_rate=6e-4, cycle=900, leave_out=0.9)


class Pools(Protocol):
    """Scenes that batches are drawn from."""

    def with_at_most(self, count: int) -> np.ndarray:
        """Indices of the scenes of at most ``count`` objects."""


class Run:
    """One stage's optimizer, schedule and checkpoint; resumes where the file says it stopped.

    ``step`` and ``smooth`` say how far it is and what the loss has been of late. Parameters that
    are frozen are not part of the checkpoint.
    """

    def __init__(self, stage: Stage, modules: nn.Module, folder: Path, seed: int) -> None:
        self.stage, self.modules, self.path, self.seed = (
            stage,
            modules,
            folder / f"{stage.name}.pt",
            seed,
        )
        self.trained = [p for p in modules.parameters() if p.requires_grad]
        decayed = [p for p in self.trained if p.ndim > 1]
        others = [p for p in self.trained if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": 0.05},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=stage.learning_rate, betas=(0.9, 0.98))
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, stage.learning_rate, stage.cycle, pct_start=0.1, cycle_momentum=False
        )
        self.step, self.smooth = 0, 0.0
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            self._load(state["modules"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.step, self.smooth = state["step"], state.get("smooth", 0.0)

    def _frozen(self) -> set[str]:
        every = self.modules.named_parameters(remove_duplicate=False)  # tied ones by all names
        return {name for name, parameter in every if not parameter.requires_grad}

    def _state(self) -> dict[str, torch.Tensor]:
        frozen = self._frozen()
        return {n: value for n, value in self.modules.state_dict().items() if n not in frozen}

    def _load(self, state: dict[str, torch.Tensor]) -> None:
        missing, further = self.modules.load_state_dict(state, strict=False)
        if further or set(missing) - self._frozen():
            raise ValueError(f"{self.path} is of other modules: {further or missing}")

    def save(self) -> None:
        """Write the checkpoint beside its place, then rename: a kill leaves the last good one."""
        state = {
            "modules": self._state(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "smooth": self.smooth,
        }
        torch.save(state, partial := self.path.with_suffix(".partial"))
        partial.rename(self.path)

    def batches(self, scenes: Pools) -> Iterator[tuple[np.ndarray, np.random.Generator]]:
        """Scene indices and a random stream for every step left; both depend on the step alone."""
        pools = {most: scenes.with_at_most(most) for most in range(1, MAX_OBJECTS + 1)}
        for step in range(self.step, self.stage.steps):
            most = next(
                (most for until, most in self.stage.curriculum if step < until), MAX_OBJECTS
            )
            rng = np.random.default_rng([self.seed, step])
            yield rng.choice(pools[most], size=self.stage.batch, replace=False), rng

    def train(
        self,
        scenes: Pools,
        prepare: Callable[[np.ndarray, np.random.Generator], Batch],
        loss_of: Callable[[Batch], torch.Tensor],
        report: Callable[[], str],
    ) -> None:
        """Step through the stage.

        ``prepare(indices, rng)`` makes a batch, one ahead in a thread; ``loss_of(batch)`` gives its
        loss and ``report()`` a line of validation.
        """
        bar = tqdm(total=self.stage.steps, initial=self.step, desc=self.stage.name, disable=None)
        started = time.time()
        for batch in _one_ahead(prepare, self.batches(scenes)):
            loss = loss_of(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            value = loss.item()
            self.smooth = value if self.smooth == 0 else 0.95 * self.smooth + 0.05 * value
            bar.update()
            bar.set_postfix(loss=f"{self.smooth:.3f}")
            last = self.step == self.stage.steps
            if last or self.step % self.stage.report_every == 0:
                self.save()
                minutes = (time.time() - started) / 60
                tqdm.write(
                    f"{self.stage.name} {self.step}: {minutes:.1f} min, loss {self.smooth:.3f}, "
                    f"{report()}"
                )
            elif self.step % self.stage.save_every == 0:
                self.save()
        bar.close()


def train_tower(
    tokenizer: PreTrainedTokenizerFast, train: Scenes, validation: Scenes, folder: Path, seed: int
) -> CLIPModel:
    """Stage 1, as CLIP (arXiv 2103.00020): pictures against captions, so that [CLS] must look at
    what is there."""
    torch.manual_seed(seed)
    clip = CLIPModel(clip_config(tokenizer))
    run = Run(CONTRASTIVE, clip, folder, seed)
    see, contrast = torch.compile(Eyes(clip.vision_model)), Contrast(clip, tokenizer)

    def scores(scenes: Scenes, indices: np.ndarray) -> torch.Tensor:
        _, pooled = see(scenes.pixel_values(indices))
        return contrast([scenes.scenes[i] for i in indices], pooled)

    @torch.no_grad()
    def report() -> str:
        hits = scores(validation, np.arange(CONTRASTIVE.batch)).argmax(0) == torch.arange(
            CONTRASTIVE.batch
        )
        return f"retrieval of {len(hits)}: {hits.float().mean():.3f}"

    def prepare(indices: np.ndarray, _: np.random.Generator) -> tuple[torch.Tensor, list[Scene]]:
        return train.pixel_values(indices), [train.scenes[i] for i in indices]

    def loss_of(batch: tuple[torch.Tensor, list[Scene]]) -> torch.Tensor:
        _, pooled = see(batch[0])
        return contrast.loss(batch[1], pooled)

    run.train(train, prepare, loss_of, report)
    return clip


def train_regions(
    clip: CLIPModel,
    tokenizer: PreTrainedTokenizerFast,
    train: Scenes,
    validation: Scenes,
    folder: Path,
    seed: int,
) -> Regions:
    """Stage 2, as RegionCLIP (arXiv 2112.09106): parts of the picture against short phrases,
    captions continuing."""
    regions = Regions(clip, tokenizer)
    run = Run(REGIONS, nn.ModuleList([clip, regions]), folder, seed)
    see, contrast = torch.compile(Eyes(clip.vision_model)), Contrast(clip, tokenizer)

    def prepare(indices: np.ndarray, _: np.random.Generator) -> tuple[torch.Tensor, list[Scene]]:
        return train.pixel_values(indices), [train.scenes[i] for i in indices]

    def loss_of(batch: tuple[torch.Tensor, list[Scene]]) -> torch.Tensor:
        features, pooled = see(batch[0])
        return regions.loss(batch[1], features) + CAPTIONS_WEIGHT * contrast.loss(batch[1], pooled)

    @torch.no_grad()
    def report() -> str:
        indices = np.arange(REGIONS.batch)
        scenes = validation.scenes[: REGIONS.batch]
        features, pooled = see(validation.pixel_values(indices))
        hits = contrast(scenes, pooled).argmax(0) == torch.arange(len(scenes))
        right = (regions(features).argmax(-1) == regions.targets(scenes)).float()
        named = right[regions.targets(scenes) > 0].mean()
        return f"retrieval of {len(hits)}: {hits.float().mean():.3f}, objects named {named:.3f}"

    run.train(train, prepare, loss_of, report)
    return regions


def train_model(
    tokenizer: PreTrainedTokenizerFast,
    clip: CLIPModel,
    regions: Regions,
    train: Scenes,
    validation: Scenes,
    folder: Path,
    seed: int,
) -> LlavaForConditionalGeneration:
    """Stages 3 to 8: projector and decoder on the frozen tower's features, the tower as well, the
    decoder again."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(llava_config(tokenizer))
    model.model.vision_tower.load_state_dict(clip.vision_model.state_dict())
    learner = Learner(model, Packer(tokenizer, model.config.image_seq_length))
    train_decoder(FROZEN, learner, train, validation, folder, seed)
    modules = nn.ModuleList([model, Contrast(clip, tokenizer), regions])
    for number, stage in enumerate((TOGETHER, LEFT_OUT, PLACED, LAST), start=1):
        train_together(stage, learner, modules, train, validation, folder, seed + number)
    train_decoder(THINNED, learner, train, validation, folder, seed + 5)
    return model


def train_decoder(
    stage: Stage, learner: Learner, train: Scenes, validation: Scenes, folder: Path, seed: int
) -> None:
    """Stages 3 and 8: projector and decoder; the frozen tower's features are computed once."""
    parts = learner.model.model
    trained = nn.ModuleList(
        [parts.multi_modal_projector, parts.language_model, learner.model.lm_head]
    )
    run = Run(stage, trained, folder, seed)
    if run.step == stage.steps:
        return
    features, held_out = learner.features_of(train), learner.features_of(validation)

    def prepare(indices: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, Packed]:
        return features[indices], learner.pack(
            [train.scenes[i] for i in indices], rng, stage.leave_out
        )

    def loss_of(batch: tuple[torch.Tensor, Packed]) -> torch.Tensor:
        return learner.loss(*batch, kinds_alike=stage.leave_out > 0)

    run.train(train, prepare, loss_of, lambda: learner.report(held_out, validation))


def train_together(
    stage: Stage,
    learner: Learner,
    modules: nn.ModuleList,
    train: Scenes,
    validation: Scenes,
    folder: Path,
    seed: int,
) -> None:
    """Stages 4 to 7: everything on questions; captions and regions stay on, so that [CLS] keeps its
    meaning.

    ``modules`` are the model, Contrast and Regions. Where patches are left out the decoder learns
    to do without them; the tower learns from whole pictures alone, as a CLIP tower did.
    """
    run = Run(stage, modules, folder, seed)
    _, contrast, regions = modules

    def prepare(
        indices: np.ndarray, rng: np.random.Generator
    ) -> tuple[torch.Tensor, Packed, list[Scene]]:
        scenes = [train.scenes[i] for i in indices]
        return train.pixel_values(indices), learner.pack(scenes, rng, stage.leave_out), scenes

    def loss_of(batch: tuple[torch.Tensor, Packed, list[Scene]]) -> torch.Tensor:
        pixel_values, packed, scenes = batch
        features, pooled = learner.see(pixel_values)
        tower = regions.loss(scenes, features) + CAPTIONS_WEIGHT * contrast.loss(scenes, pooled)
        places = stage.places * regions.place_loss(features) if stage.places else 0
        features = torch.where(packed.whole[:, None, None], features, features.detach())
        return (
            learner.loss(features, packed, kinds_alike=stage.leave_out > 0)
            + TOWER_WEIGHT * tower
            + places
        )

    run.train(
        train, prepare, loss_of, lambda: learner.report(learner.features_of(validation), validation)
    )


class Learner:
    """The model as the questions see it: features in, losses and exact matches out."""

    def __init__(self, model: LlavaForConditionalGeneration, packer: Packer) -> None:
        self.model, self.packer = model, packer
        self.see = torch.compile(Eyes(model.model.vision_tower))
        self._decoder = torch.compile(model.model.language_model)

    def pack(self, scenes: list[Scene], rng: np.random.Generator, leave_out: float) -> Packed:
        """A batch of questions; with patches left out, the hard kinds are asked twice."""
        return self.packer.pack(scenes, rng, leave_out=leave_out, more=leave_out > 0)

    @torch.no_grad()
    def features_of(self, scenes: Scenes) -> torch.Tensor:
        """Features of all pictures, bfloat16 (n, 144, 128)."""
        chunks = np.split(np.arange(len(scenes.scenes)), range(256, len(scenes.scenes), 256))
        bar = tqdm(chunks, "features", disable=None)
        return torch.cat([self.see(scenes.pixel_values(chunk))[0].bfloat16() for chunk in bar])

    def logits(self, features: torch.Tensor, batch: Packed) -> torch.Tensor:
        """Next-token logits, float32 (batch, length, vocabulary)."""
        with torch.autocast("cpu", torch.bfloat16):
            embeds = self.model.get_input_embeddings()(batch.input_ids)
            image = self.model.model.multi_modal_projector(features).to(embeds.dtype)
            at = self.packer.image_positions
            embeds = torch.cat([embeds[:, : at.start], image, embeds[:, at.stop :]], dim=1)
            hidden = self._decoder(
                inputs_embeds=embeds,
                attention_mask=batch.mask,
                position_ids=batch.position_ids,
                use_cache=False,
            ).last_hidden_state
            return self.model.lm_head(hidden).float()

    def loss(
        self, features: torch.Tensor, batch: Packed, *, kinds_alike: bool = False
    ) -> torch.Tensor:
        """Cross-entropy over answer tokens, the end token included; of all tokens, or of the kinds'
        means."""
        logits, labels = self.logits(features, batch).flatten(0, 1), batch.labels.flatten()
        if not kinds_alike:
            return nn.functional.cross_entropy(logits, labels)
        losses, kinds = (
            nn.functional.cross_entropy(logits, labels, reduction="none"),
            batch.kinds.flatten(),
        )
        return torch.stack([losses[kinds == kind].mean() for kind in range(len(KINDS))]).mean()

    @torch.no_grad()
    def report(self, features: torch.Tensor, scenes: Scenes) -> str:
        """Exact match by kind: an answer whose every token is the most likely one is what greedy
        decoding writes."""
        right: dict[int, list[float]] = {kind: [] for kind in range(len(KINDS))}
        rng = np.random.default_rng(0)
        for chunk in np.split(np.arange(len(scenes.scenes)), len(scenes.scenes) // 64):
            batch = self.packer.pack([scenes.scenes[i] for i in chunk], rng)
            wrong = self.logits(features[chunk], batch).argmax(-1) != batch.labels
            for kind, exact in right.items():
                exact += (~(wrong & (batch.kinds == kind)).any(1)).float().tolist()
        shares = {KINDS[kind]: float(np.mean(exact)) for kind, exact in right.items()}
        return (
            f"exact {np.mean(list(shares.values())):.3f} ("
            + " ".join(f"{k} {v:.2f}" for k, v in shares.items())
            + ")"
        )


def _one_ahead(
    prepare: Callable[[np.ndarray, np.random.Generator], Batch],
    steps: Iterator[tuple[np.ndarray, np.random.Generator]],
) -> Iterator[Batch]:
    """Batches, the next one made in a thread while one is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for step in steps:
            ready, waiting = waiting, pool.submit(prepare, *step)
            if ready is not None:
                yield ready.result()
        if waiting is not None:
            yield waiting.result()
