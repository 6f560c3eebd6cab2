"""Knows the three stages: tower against captions, decoder on a frozen tower, then everything together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import CLIPModel, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from train_demo.data import Packed, Packer, Scenes, caption_ids
from train_demo.model import clip_config, llava_config
from train_demo.scenes import KINDS


@dataclass(frozen=True)
class Stage:
    """Length and pace of one stage; ``curriculum`` is (share of the steps, objects at most) in order."""

    name: str
    steps: int
    batch: int
    learning_rate: float
    warmup: float = 0.1
    curriculum: tuple[tuple[float, int], ...] = ((1.0, 3),)


CONTRASTIVE = Stage("contrastive", steps=600, batch=192, learning_rate=1e-3)
FROZEN = Stage("frozen", 1500, 64, 1.5e-3, curriculum=((0.08, 1), (0.25, 2), (1.0, 3)))
TOGETHER = Stage("together", 900, 64, 5e-4)


class Run:
    """One stage's optimizer, schedule and checkpoint; resumes where the file says it stopped."""

    def __init__(self, stage: Stage, modules: nn.Module, folder: Path, seed: int) -> None:
        self.stage, self.modules, self.path, self.seed = stage, modules, folder / f"{stage.name}.pt", seed
        self.trained = [p for p in modules.parameters() if p.requires_grad]
        decayed = [p for p in self.trained if p.ndim > 1]
        others = [p for p in self.trained if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=stage.learning_rate, betas=(0.9, 0.98))
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, stage.learning_rate, stage.steps, pct_start=stage.warmup, cycle_momentum=False
        )
        self.step = 0
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            modules.load_state_dict(state["modules"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.step = state["step"]

    def save(self) -> None:
        """Write the checkpoint beside its place, then rename: a kill leaves the last good one."""
        state = {
            "modules": self.modules.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
        }
        torch.save(state, partial := self.path.with_suffix(".partial"))
        partial.rename(self.path)

    def batches(self, scenes: Scenes) -> Iterator[tuple[np.ndarray, np.random.Generator]]:
        """Scene indices and a random stream for every step left; both depend on the step alone."""
        pools = {most: scenes.with_at_most(most) for _, most in self.stage.curriculum}
        for step in range(self.step, self.stage.steps):
            most = next(m for share, m in self.stage.curriculum if step < share * self.stage.steps)
            rng = np.random.default_rng([self.seed, step])
            yield rng.choice(pools[most], size=self.stage.batch, replace=False), rng

    def train(self, scenes: Scenes, loss_of: Callable[..., torch.Tensor], report: Callable[[], str]) -> None:
        """Step through the stage; ``loss_of(indices, rng)`` gives the loss, ``report()`` a line of validation."""
        bar = tqdm(total=self.stage.steps, initial=self.step, desc=self.stage.name, disable=None)
        started, smooth = time.time(), 0.0
        for indices, rng in self.batches(scenes):
            loss = loss_of(indices, rng)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            smooth = loss.item() if smooth == 0 else 0.95 * smooth + 0.05 * loss.item()
            bar.update()
            bar.set_postfix(loss=f"{smooth:.3f}")
            if self.step % 100 == 0 or self.step == self.stage.steps:
                self.save()
                minutes = (time.time() - started) / 60
                tqdm.write(f"{self.stage.name} {self.step}: {minutes:.1f} min, loss {smooth:.3f}, {report()}")
        bar.close()


def train_tower(
    tokenizer: PreTrainedTokenizerFast, train: Scenes, validation: Scenes, folder: Path, seed: int
) -> CLIPModel:
    """Stage 1, as CLIP (arXiv 2103.00020): pictures against captions, so that [CLS] must look at what is there."""
    torch.manual_seed(seed)
    clip = CLIPModel(clip_config(tokenizer))
    run = Run(CONTRASTIVE, clip, folder, seed)
    tower = torch.compile(clip.vision_model)

    def logits(scenes: Scenes, indices: np.ndarray) -> torch.Tensor:
        ids = caption_ids([scenes.scenes[i] for i in indices], tokenizer)
        with torch.autocast("cpu", torch.bfloat16):
            image = clip.visual_projection(tower(pixel_values=scenes.pixel_values(indices)).pooler_output)
            text_mask = ids != tokenizer.pad_token_id
            text = clip.text_projection(clip.text_model(input_ids=ids, attention_mask=text_mask).pooler_output)
        image, text = (nn.functional.normalize(x.float(), dim=-1) for x in (image, text))
        return clip.logit_scale.exp().clamp(max=100) * text @ image.T

    def loss_of(indices: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        scores, target = logits(train, indices), torch.arange(len(indices))
        return (nn.functional.cross_entropy(scores, target) + nn.functional.cross_entropy(scores.T, target)) / 2

    @torch.no_grad()
    def report() -> str:
        scores = logits(validation, np.arange(CONTRASTIVE.batch))
        found = (scores.argmax(0) == torch.arange(len(scores))).float().mean()
        return f"retrieval of {len(scores)}: {found:.3f}"

    run.train(train, loss_of, report)
    return clip


def train_model(
    tokenizer: PreTrainedTokenizerFast, clip: CLIPModel, train: Scenes, validation: Scenes, folder: Path, seed: int
) -> LlavaForConditionalGeneration:
    """Stages 2 and 3: projector and decoder on the frozen tower's features, then the tower as well."""
    torch.manual_seed(seed + 1)
    model = LlavaForConditionalGeneration(llava_config(tokenizer))
    tower = model.model.vision_tower
    tower.load_state_dict(clip.vision_model.state_dict())
    learner = Learner(model, Packer(tokenizer, model.config.image_seq_length))

    tower.requires_grad_(False)
    run = Run(FROZEN, nn.ModuleList([model.model.multi_modal_projector, model.model.language_model, model.lm_head]), folder, seed + 2)
    if run.step < FROZEN.steps:
        features, held_out = (learner.features_of(scenes) for scenes in (train, validation))
        run.train(
            train,
            lambda indices, rng: learner.loss(features[indices], train, indices, rng),
            lambda: learner.report(held_out, validation),
        )
        del features

    tower.requires_grad_(True)
    run = Run(TOGETHER, model, folder, seed + 3)
    run.train(
        train,
        lambda indices, rng: learner.loss(learner.encode(train.pixel_values(indices)), train, indices, rng),
        lambda: learner.report(learner.features_of(validation), validation),
    )
    return model


class Learner:
    """The model as the questions see it: features in, losses and exact matches out."""

    def __init__(self, model: LlavaForConditionalGeneration, packer: Packer) -> None:
        self.model, self.packer = model, packer
        self._tower = torch.compile(model.model.vision_tower)
        self._decoder = torch.compile(model.model.language_model)

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Patch features of the layer LLaVA reads, (batch, 144, 128)."""
        with torch.autocast("cpu", torch.bfloat16):
            return self._tower(pixel_values=pixel_values, output_hidden_states=True).hidden_states[-2][:, 1:]

    @torch.no_grad()
    def features_of(self, scenes: Scenes) -> torch.Tensor:
        """Features of all pictures, bfloat16 (n, 144, 128)."""
        chunks = np.array_split(np.arange(len(scenes.scenes)), max(1, len(scenes.scenes) // 256))
        return torch.cat([self.encode(scenes.pixel_values(c)).bfloat16() for c in tqdm(chunks, "features", disable=None)])

    def logits(self, features: torch.Tensor, batch: Packed) -> torch.Tensor:
        """Next-token logits, float32 (batch, length, vocabulary)."""
        with torch.autocast("cpu", torch.bfloat16):
            embeds = self.model.get_input_embeddings()(batch.input_ids)
            image = self.model.model.multi_modal_projector(features).to(embeds.dtype)
            at = self.packer.image_positions
            embeds = torch.cat([embeds[:, : at.start], image, embeds[:, at.stop :]], dim=1)
            hidden = self._decoder(
                inputs_embeds=embeds, attention_mask=batch.mask, position_ids=batch.position_ids, use_cache=False
            ).last_hidden_state
            return self.model.lm_head(hidden).float()

    def loss(self, features: torch.Tensor, scenes: Scenes, indices: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """Cross-entropy over answer tokens, the end token included."""
        batch = self.packer.pack([scenes.scenes[i] for i in indices], rng)
        return nn.functional.cross_entropy(self.logits(features, batch).flatten(0, 1), batch.labels.flatten())

    @torch.no_grad()
    def report(self, features: torch.Tensor, scenes: Scenes) -> str:
        """Exact match by kind: an answer whose every token is the most likely one is what greedy decoding writes."""
        right: dict[int, list[float]] = {kind: [] for kind in range(len(KINDS))}
        rng = np.random.default_rng(0)
        for chunk in np.split(np.arange(len(scenes.scenes)), len(scenes.scenes) // 64):
            batch = self.packer.pack([scenes.scenes[i] for i in chunk], rng)
            wrong = self.logits(features[chunk], batch).argmax(-1) != batch.labels
            for kind, found in right.items():
                found += (~(wrong & (batch.kinds == kind)).any(1)).float().tolist()
        shares = {KINDS[kind]: float(np.mean(found)) for kind, found in right.items()}
        return f"exact {np.mean(list(shares.values())):.3f} (" + " ".join(f"{k} {v:.2f}" for k, v in shares.items()) + ")"
