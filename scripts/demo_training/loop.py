"""The training loop: stages one after the other, with checkpoints to go on from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from tempo_fast.checkpoint.config import read_config
from tempo_fast.compression.prompt import SegmentPrompt
from tempo_fast.demo.questions import KINDS
from tempo_fast.engine.ops import set_kernels
from tempo_fast.models.tempo import TempoModel
from tempo_fast.tokenizer import PromptTokenizer

from .batches import Batch, Batches
from .network import Losses, initialise
from .recipe import Stage, tempo_config

WARM_UP = 100  # steps of a stage until its full learning rate
LOG_EVERY, SAVE_EVERY = 25, 100


class Training:
    """Everything that changes while a Tempo learns, and a folder where it is kept."""

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerFast,
        *,
        seed: int,
        device: str = "cpu",
        compile_vision: bool = False,
    ) -> None:
        self.folder, self.tokenizer, self.seed = folder, tokenizer, seed
        self.device = torch.device(device)
        set_kernels("torch")  # the kernels have no backward
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        config = read_config(*tempo_config(tokenizer))
        model = TempoModel(config, device=self.device, dtype=torch.float32)
        initialise(model, generator)
        # Two rows of the base that stay as they are: the direction in which relevance is read.
        self.router = torch.randn(2, config.compressor.width, generator=generator)
        self.router *= config.compressor.width**-0.5
        model.set_router(self.router)
        prompt = SegmentPrompt(PromptTokenizer(tokenizer), "video")
        self.losses = Losses(model, prompt).to(self.device)
        self.optimizer = torch.optim.AdamW(_groups(self.losses), betas=(0.9, 0.98), fused=True)
        self.done = 0
        self._stages: list[dict] = []
        folder.mkdir(parents=True, exist_ok=True)
        self._restore()
        if compile_vision:
            model.vision.forward = torch.compile(model.vision.forward)

    def run(self, stages: tuple[Stage, ...]) -> None:
        """Go through what is left of the stages: those that it was begun with, and any further."""
        asked = [asdict(stage) for stage in stages]
        if asked[: len(self._stages)] != self._stages:
            raise SystemExit(
                f"{self._checkpoint} was begun with other stages (--smoke, or another recipe): "
                "choose another --work folder"
            )
        self._stages = asked
        total = sum(stage.steps for stage in stages)
        first = 0
        with tqdm(total=total, initial=self.done, unit="step", smoothing=0.02) as bar:
            for number, stage in enumerate(stages):
                if self.done < first + stage.steps:
                    self._stage(number, stage, first, bar)
                first += stage.steps
        self._save()

    def _stage(self, number: int, stage: Stage, first: int, bar: tqdm) -> None:
        data = Batches(self.tokenizer, stage, self.seed * 1000 + number, self.done - first)
        batches: Iterator[Batch] = iter(DataLoader(data, batch_size=None, num_workers=1))
        tally = _Tally()
        while self.done < first + stage.steps:
            began = perf_counter()
            batch = next(batches)
            waited = perf_counter() - began
            step = self.done - first
            rate = _learning_rate(stage, step)
            tally.add(batch, self._learn(batch, stage, rate), perf_counter() - began, waited)
            self.done += 1
            bar.update()
            if self.done % LOG_EVERY == 0 or self.done == first + stage.steps:
                record = {"step": self.done, "stage": stage.name, "rate": rate, **tally.means()}
                with (self.folder / "log.jsonl").open("a") as log:
                    log.write(json.dumps(record) + "\n")
                shown = ("cells", "answer", "right")
                bar.set_postfix({name: f"{record[name]:.3f}" for name in shown if name in record})
                tally = _Tally()
            if self.done % SAVE_EVERY == 0:
                self._save()

    def _learn(self, batch: Batch, stage: Stage, rate: float) -> dict[str, Tensor]:
        """One step."""
        batch = {name: values.to(self.device) for name, values in batch.items()}
        with torch.autocast(self.device.type, torch.bfloat16):
            found = self.losses(batch, stage.learns)
            loss = found["cells"] if stage.learns == "vision" else found["answer"]
            if stage.learns == "all":
                loss = loss + 0.5 * found["relevance"]
                hints = found["cells"] + found["told"] + found.get("details", 0.0)
                loss = loss + stage.hints * hints
            if stage.counting:
                loss = loss + stage.counting * found["numbers"]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.losses.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return found

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "training.pt"

    def _save(self) -> None:
        part = self._checkpoint.with_suffix(".part")
        state = {
            "losses": self.losses.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "done": self.done,
            "seed": self.seed,
            "stages": self._stages,
        }
        torch.save(state, part)
        part.replace(self._checkpoint)

    def _restore(self) -> None:
        if not self._checkpoint.is_file():
            return
        state = torch.load(self._checkpoint, map_location=self.device, weights_only=True)
        if state["seed"] != self.seed:
            raise SystemExit(
                f"{self._checkpoint} was begun with seed {state['seed']}: go on with that one or "
                "choose another --work folder"
            )
        self.losses.load_state_dict(state["losses"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = state["done"]
        self._stages = state["stages"]


class _Tally:
    """Means over the steps since the last line of the log."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, batch: Batch, found: dict[str, Tensor], seconds: float, waited: float) -> None:
        numbers = {name: value.item() for name, value in found.items() if value.ndim == 0}
        numbers |= {"seconds": seconds, "waited": waited}
        for name, number in numbers.items():
            self.values.setdefault(name, []).append(number)
        if "right" not in found:
            return
        right = found["right"].float()
        self.values.setdefault("right", []).extend(right.tolist())
        for kind, value in zip(batch["kinds"].tolist(), right.tolist(), strict=True):
            self.values.setdefault(f"right {KINDS[kind]}", []).append(value)
        sure = (found["scores"].cpu() > 0) == (batch["relevant"] > 0)
        self.values.setdefault("relevance right", []).append(sure.float().mean().item())

    def means(self) -> dict[str, float]:
        return {name: round(sum(v) / len(v), 4) for name, v in self.values.items()}


def _learning_rate(stage: Stage, step: int) -> float:
    start, end = stage.learning_rate
    rate = end + (start - end) * 0.5 * (1 + math.cos(math.pi * step / stage.steps))
    return rate * min(1.0, (step + 1) / WARM_UP)


def _groups(losses: Losses) -> list[dict]:
    """Matrices decay; norms, biases and embeddings don't."""
    decayed = [p for p in losses.parameters() if p.requires_grad and p.ndim > 1]
    kept = [p for p in losses.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": decayed, "weight_decay": 0.05}, {"params": kept, "weight_decay": 0.0}]
