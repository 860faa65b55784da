"""One training loop, for all networks: seeded, resumable, a history row an epoch.

An *epoch* is a fixed number of steps. What is drawn comes from (seed, step), dropout from (seed,
epoch): a training that is killed goes on from its last whole epoch and ends with the same weights
as one left alone, on the same machine. Nothing is chosen on the way: the last epoch counts.
"""

import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as nnf

from . import files, models
from .architecture import Setting
from .windows import ClipPool, TrackPool, balanced

# Raise one with every change that trains other networks from the same inputs.
RECIPE_VERSIONS = {"clips": 1, "stream": 2}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    epochs: int
    epoch_steps: int = 405  # the study's epoch
    batch_size: int = 128  # clips
    rate: float = 3e-3  # the highest of the schedule
    weight_decay: float = 1e-5
    clip_norm: float = 5.0
    temperature: float | None = None  # of the softened outputs, None without a teacher
    label_share: float = 0.5  # of a student's loss; the rest is distillation
    unmasked: float = 0.3  # share of the steps, the last ones, whose clips are not masked
    windows: int = 0  # of tracks, beside the clips of a batch
    tracks: int = 0  # that are made to cut windows from

    @property
    def steps(self) -> int:
        return self.epochs * self.epoch_steps

    def is_masked(self, step: int) -> bool:
        """Whether the clips of a step, from 0, are masked."""
        return step < self.steps * (1 - self.unmasked)

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, from 0. One-cycle (arXiv 1708.07120): half a cosine from
        rate / 25 up to `rate` over the first 30 % of all steps, another down to rate / 250,000."""
        rise = 0.3 * self.steps
        fallen = (step - rise) / (self.steps - rise)
        low, place = (25, step / rise) if step < rise else (25e4, 1 - fallen)
        start = self.rate / low
        return start + (self.rate - start) * (1 - math.cos(math.pi * place)) / 2


# Students keep the study's temperatures; the smaller one, the more steps. reports/how-chosen.md
# says what was tried and on which data.
_STREAM = {"batch_size": 64, "windows": 128, "tracks": 5120, "unmasked": 1.0}
_FULL = {
    Setting("baseline"): Recipe(epochs=15, rate=1e-3),
    Setting("student1"): Recipe(epochs=15, rate=2e-3, temperature=1.0),
    Setting("student2"): Recipe(epochs=18, temperature=10.0),
    Setting("student3"): Recipe(epochs=24, temperature=30.0),
    Setting("baseline", "stream"): Recipe(epochs=20, rate=1e-3, **_STREAM),
    Setting("student3", "stream"): Recipe(epochs=30, rate=4e-3, temperature=2.0, **_STREAM),
}


def recipe_of(setting: Setting, profile: str) -> Recipe:
    """The recipe of a trained setting at a profile ('smoke', 'quick', 'full')."""
    full = _FULL[Setting(setting.network) if setting.is_control else setting]
    if setting.is_control:
        full = replace(full, temperature=None)
    if profile == "smoke":
        small = {"windows": min(full.windows, 32), "tracks": min(full.tracks, 24)}
        return replace(full, epochs=2, epoch_steps=4, batch_size=32, **small)
    if profile == "quick":
        full = replace(full, rate=3e-3) if not full.windows else full
        return replace(full, epochs=6, epoch_steps=200, tracks=min(full.tracks, 1024))
    return full


def version_of(setting: Setting) -> int:
    """The recipe version of a setting's networks; int8 ones have that of their float setting."""
    return RECIPE_VERSIONS["stream" if setting.is_stream else "clips"]


def start_of(setting: Setting) -> Setting | None:
    """The setting whose weights a training starts from, None for random ones."""
    return Setting(setting.network) if setting.is_stream else None


def teacher_of(setting: Setting) -> Setting | None:
    """The setting that teaches a setting, None for one trained on labels alone."""
    is_alone = setting.network == "baseline" or setting.is_control
    return None if is_alone else Setting("baseline", setting.variant)


def distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float
) -> torch.Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) of (batch, 2) logits, mean over the
    batch (Hinton et al., arXiv 1503.02531; T^2 keeps gradients comparable)."""
    log_student = torch.log_softmax(student / temperature, dim=1)
    log_teacher = torch.log_softmax(teacher / temperature, dim=1)
    divergence = nnf.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


@dataclass(frozen=True)
class Batches:
    """What a network is trained on: balanced batches of augmented clips, and windows of tracks."""

    clips: ClipPool
    labels: np.ndarray  # (clips,) of all clips
    train: np.ndarray  # positions of those that train
    recipe: Recipe
    tracks: TrackPool | None = None  # None where the recipe has no windows

    def draw(self, step: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-mels (batch, mels, frames) and labels (batch,) of a step, the clips first."""
        generator = np.random.default_rng([seed, step])
        drawn = balanced(self.labels[self.train], self.recipe.batch_size, generator)
        positions = self.train[drawn]
        log_mels = self.clips.augmented(positions, generator, self.recipe.is_masked(step))
        labels = torch.from_numpy(self.labels[positions])
        if self.tracks is None:
            return log_mels, labels.to(log_mels.device)
        more, more_labels = self.tracks.draw(self.recipe.windows, generator)
        log_mels = torch.cat([log_mels, more.to(log_mels.device)])
        return log_mels, torch.cat([labels, more_labels]).to(log_mels.device)


def batch_loss(
    model: models.CRNN, log_mels: torch.Tensor, labels: torch.Tensor, recipe: Recipe, teacher
) -> torch.Tensor:
    """Cross entropy, and where there is a teacher, distillation. With windows of tracks the keyword
    has half of the cross entropy, the hardest tenth of the others a quarter (arXiv 1604.03540)."""
    logits = model(log_mels)
    loss = nnf.cross_entropy(logits, labels)
    if recipe.windows:
        losses = nnf.cross_entropy(logits, labels, reduction="none")
        keyword, others = losses[labels == 1], losses[labels == 0]
        hardest = others.topk(max(1, len(others) // 10)).values
        loss = keyword.mean() / 2 + (others.mean() + hardest.mean()) / 4
    if teacher is None:
        return loss
    with torch.no_grad():
        wanted = teacher(log_mels)
    distilled = distillation_loss(logits, wanted, recipe.temperature)
    return recipe.label_share * loss + (1 - recipe.label_share) * distilled


def train(
    model: models.CRNN,
    batches: Batches,
    recipe: Recipe,
    seed: int,
    resume: Path,
    inputs: dict,
    teacher: torch.nn.Module | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict]:
    """Trains a network in place; returns a history row for every epoch. resume: a file of
    unfinished training, which is gone on with if it is of these inputs. say: told of each epoch."""
    if (teacher is None) != (recipe.temperature is None):
        raise ValueError("a teacher and a temperature go together")
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=recipe.weight_decay, fused=True)
    key = json.dumps([inputs, asdict(recipe), seed], sort_keys=True)
    history = _restore(resume, key, model, optimizer)
    for epoch in range(len(history) + 1, recipe.epochs + 1):
        begun = time.perf_counter()
        total = torch.zeros((), device=device)
        with torch.random.fork_rng():
            torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
            model.train()
            for step in range((epoch - 1) * recipe.epoch_steps, epoch * recipe.epoch_steps):
                optimizer.param_groups[0]["lr"] = recipe.rate_at(step)
                loss = batch_loss(model, *batches.draw(step, seed), recipe, teacher)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
                optimizer.step()
                total += loss.detach()
        loss, seconds = float(total) / recipe.epoch_steps, round(time.perf_counter() - begun, 2)
        row = {"epoch": epoch, "steps": step + 1, "rate": recipe.rate_at(step)}
        history.append(row | {"loss": loss, "seconds": seconds})
        _save(resume, key, model, optimizer, history)
        say(f"epoch {epoch}, loss {loss:.4f}, {seconds:.0f} s")
    model.eval()
    return history


def probabilities(model: torch.nn.Module, pool: ClipPool, positions: np.ndarray) -> np.ndarray:
    """(clips,) float64 probability of the keyword of each clip, as it is."""
    model.eval()
    scores = [np.zeros(0)]
    with torch.inference_mode():
        for start in range(0, len(positions), 512):
            logits = model(pool.log_mels(positions[start : start + 512]))
            scores.append(torch.softmax(logits.double(), dim=1)[:, 1].cpu().numpy())
    return np.concatenate(scores)


def _save(path: Path, key: str, model, optimizer, history: list[dict]) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state | {"key": key, "history": history}, buffer := io.BytesIO())
    files.write_atomic(path, buffer.getvalue())


def _restore(path: Path, key: str, model, optimizer) -> list[dict]:
    """The history of an unfinished training with this key, whose state is set back, or []."""
    try:
        held = torch.load(path, weights_only=True)
        if held["key"] != key:
            return []
        model.load_state_dict(held["model"])
        optimizer.load_state_dict(held["optimizer"])
        return held["history"]
    except Exception:  # torch has no error of its own for a damaged file
        return []
