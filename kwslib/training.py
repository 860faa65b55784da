"""One training loop, for plain and distilled runs: seeded, resumable, a row an epoch.

An *epoch* is a fixed number of optimizer steps on balanced batches drawn with replacement, so that
corpora of different sizes train alike. All randomness of an epoch comes from (seed, epoch): a run
killed at any moment goes on from its last whole epoch and ends with the same weights as one left
alone, on the same machine.
"""

import ast
import functools
import hashlib
import inspect
import json
import math
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from . import architecture, checkpoints, data, metrics, models
from . import features as _features
from .features import ClipFeatures
from .runs import PROFILES

# Mean and deviation of log-mels of speech, about. Networks train on centred and scaled log-mels, which
# halves a small one's error for the same steps; `fold_input` then moves both into the convolution, so
# that the trained network is the study's, on the study's features.
CENTRE, SPREAD = -7.0, 5.0


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. `temperature` None: on labels alone; else on a teacher's outputs,
    with `label_share` of the loss still cross entropy on the labels."""

    epochs: int
    epoch_steps: int = 405  # the reference's epoch
    batch_size: int = 128
    rate: float = 3e-3  # the highest of the one-cycle schedule
    schedule: str = "one-cycle"  # or 'constant'
    weight_decay: float = 1e-5
    clip_norm: float = 5.0
    temperature: float | None = None
    label_share: float = 0.0
    unmasked: float = 0.0  # share of all steps, the last ones, whose log-mels are not masked

    @property
    def steps(self) -> int:
        return self.epochs * self.epoch_steps

    def masked_at(self, step: int) -> bool:
        """Whether a step's log-mels are masked, from 0."""
        return step < self.steps * (1 - self.unmasked)

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, from 0. One-cycle (arXiv 1708.07120): half a cosine from
        rate / 25 up to `rate` over the first 30 % of all steps, another down to rate / 250,000."""
        if self.schedule == "constant":
            return self.rate
        if self.schedule != "one-cycle":
            raise ValueError(f"schedule is {self.schedule!r}; it must be one-cycle or constant")
        rise = 0.3 * self.steps
        low, place = (25, step / rise) if step < rise else (25e4, 1 - (step - rise) / (self.steps - rise))
        start = self.rate / low
        return start + (self.rate - start) * (1 - math.cos(math.pi * place)) / 2


# Highest rates, schedule, the labels' share and the unmasked steps were chosen on a fifth of the training
# part, held out for that; for recipes that end in '-stream' see data/README.md. Students keep the study's
# temperatures and get the more steps the smaller they are.
_FULL = {
    "baseline": Recipe(epochs=20, rate=1e-3),
    "student1": Recipe(epochs=20, rate=2e-3, temperature=1.0, label_share=0.5, unmasked=0.3),
    "student2": Recipe(epochs=28, temperature=10.0, label_share=0.5, unmasked=0.3),
    "student3": Recipe(epochs=36, temperature=30.0, label_share=0.5, unmasked=0.3),
    # Clips with a teacher, so that what was learned on them is not lost (Li and Hoiem: Learning without
    # forgetting, arXiv 1606.09282): for the first teacher the baseline, for others what teaches them tracks.
    "teacher-stream": Recipe(epochs=12, rate=1e-3, temperature=2.0, label_share=0.5, unmasked=1.0),
    "baseline-stream": Recipe(epochs=24, rate=1e-3, temperature=2.0, label_share=0.5, unmasked=1.0),
    "student3-stream": Recipe(epochs=60, rate=6e-3, temperature=10.0, label_share=0.5, unmasked=1.0),
}


def recipe(setting: str, profile: str) -> Recipe:
    """The recipe of a setting ('baseline', 'student1' ..) at a profile; of those that end in '-stream', that
    by which the trained network then learns to meet continuous audio."""
    if setting not in _FULL:
        raise ValueError(f"setting is {setting!r}; it must be one of {', '.join(_FULL)}")
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}; it must be one of {', '.join(PROFILES)}")
    full = _FULL[setting]
    if profile == "smoke":
        return replace(full, epochs=2, epoch_steps=3, batch_size=32)
    if profile == "quick" and setting.endswith("-stream"):
        return replace(full, epochs=3, epoch_steps=300)
    if profile == "quick":
        return replace(full, epochs=10, epoch_steps=200, rate=3e-3)
    return full


def on_labels(recipe: Recipe) -> Recipe:
    """The recipe without a teacher, all else alike."""
    return replace(recipe, temperature=None, label_share=0.0)


@dataclass(frozen=True)
class Result:
    """A trained network (in evaluation mode), its epoch, and a history row for every epoch."""

    model: models.CRNN
    epoch: int
    history: list[dict]


class Centred(torch.nn.Module):
    """A network in training: log-mels (batch, mels, frames), centred and scaled, then the network."""

    def __init__(self, network: models.CRNN):
        super().__init__()
        self.network = network

    @property
    def architecture(self) -> architecture.Architecture:
        return self.network.architecture

    def forward(self, log_mels: torch.Tensor) -> torch.Tensor:
        return self.network((log_mels - CENTRE) / SPREAD)

    def windows(self, log_mels: torch.Tensor, every: int = 1) -> torch.Tensor:
        return self.network.windows((log_mels - CENTRE) / SPREAD, every)

    def carried(self, log_mels: torch.Tensor, state=None) -> tuple[torch.Tensor, torch.Tensor]:
        return self.network.carried((log_mels - CENTRE) / SPREAD, state)


def fold_input(network: models.CRNN) -> None:
    """Moves centring and scaling into the convolution, in place: afterwards network(log_mels) is what
    Centred(network)(log_mels) was before, to rounding.

        w' = w / spread,  b' = b - centre / spread * sum(w)
    """
    convolution = network.convolution
    with torch.no_grad():
        convolution.weight /= SPREAD
        convolution.bias -= CENTRE * convolution.weight.sum(dim=(1, 2, 3))


def unfold_input(network: models.CRNN) -> None:
    """The inverse of `fold_input`: a trained network made ready to be trained further."""
    convolution = network.convolution
    with torch.no_grad():
        convolution.bias += CENTRE * convolution.weight.sum(dim=(1, 2, 3))
        convolution.weight *= SPREAD


def probabilities(
    model: torch.nn.Module, features: ClipFeatures, positions: np.ndarray, batch_size: int = 512
) -> np.ndarray:
    """(clips,) float64 probability of the keyword of each clip, without augmentation."""
    model.eval()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))  # int8 has none
    scores = []
    with torch.inference_mode():
        for start in range(0, len(positions), batch_size):
            logits = model(features.plain(positions[start : start + batch_size]).to(device))
            scores.append(torch.softmax(logits.double(), dim=1)[:, 1].cpu().numpy())
    return np.concatenate(scores)


def print_epoch(name: str, row: dict, epochs: int) -> None:
    """A line of progress on standard error."""
    print(
        f"{name}: epoch {row['epoch']}/{epochs}  loss {row['loss']:.4f}  "
        f"validation 1-AUC {row['one_minus_auc']:.2e}  {row['seconds']:.0f} s",
        file=sys.stderr,
        flush=True,
    )


def train(
    model: models.CRNN,
    task,
    recipe: Recipe,
    seed: int,
    resume: Path,
    keep: str = "best",
    progress: Callable[[dict], None] | None = None,
) -> Result:
    """Trains on what a task (`tasks.Clips`, `tasks.Tracks`) sets, measures every epoch on its
    validation clips.

    keep: 'best' returns the epoch of lowest validation au_fa_fr, 'last' the final one. resume: a
    file; a run with the same inputs goes on from what it holds, or returns at once if it is finished.
    """
    if keep not in ("best", "last"):
        raise ValueError(f"keep is {keep!r}; it must be best or last")
    features, labels, validation = task.features, task.labels, task.parts["validation"]
    device = features.device
    model = model.to(device)
    centred = Centred(model)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay, fused=True
    )
    key = _key(model, task, recipe, seed)
    history, best = [], None
    if resume.is_file():
        history, best = _restore(resume, key, model, optimizer)
    for epoch in range(len(history) + 1, recipe.epochs + 1):
        begun = time.perf_counter()
        with torch.random.fork_rng():
            torch.manual_seed(_seed(seed, epoch, 1))
            draw = np.random.default_rng(_seed(seed, epoch, 2))
            generator = torch.Generator(device).manual_seed(_seed(seed, epoch, 3))
            centred.train()
            total = torch.zeros((), device=device)
            first = (epoch - 1) * recipe.epoch_steps
            for step, loss in enumerate(task.losses(centred, recipe, first, draw, generator), first):
                rate = recipe.rate_at(step)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
                optimizer.step()
                total += loss.detach()
        scores = probabilities(centred, features, validation)
        row = {
            "epoch": epoch,
            "steps": epoch * recipe.epoch_steps,
            "rate": rate,
            "loss": float(total) / recipe.epoch_steps,
            "au_fa_fr": metrics.au_fa_fr(labels[validation], scores),
            "one_minus_auc": metrics.one_minus_auc(labels[validation], scores),
            "seconds": time.perf_counter() - begun,
        }
        history.append(row)
        if best is None or row["au_fa_fr"] < min(r["au_fa_fr"] for r in history[:-1]):
            best = {key_: value.clone() for key_, value in model.state_dict().items()}
        _save(resume, key, model, optimizer, history, best)
        if progress:
            progress(row)
    epoch = recipe.epochs
    if keep == "best":
        model.load_state_dict(best)
        epoch = min(history, key=lambda row: row["au_fa_fr"])["epoch"]
    fold_input(model)
    return Result(model.cpu().eval(), epoch, history)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def inputs_digest(model: models.CRNN, task, recipe: Recipe, seed: int) -> str:
    """Digest of what the trained weights depend on, the code that makes them included: after a change
    there, an old result is trained anew rather than taken for the new one's. Another minor version of Python
    reads code another way (`ast.dump`), and has other digests."""
    digest = hashlib.sha256()
    digest.update(json.dumps([CENTRE, SPREAD]).encode())
    digest.update(_training_code().encode())
    digest.update(json.dumps([asdict(recipe), model.architecture.to_json(), seed]).encode())
    add_weights(digest, model)
    task.add_to(digest)
    return digest.hexdigest()


_key = inputs_digest  # `train` calls it so; another name there would be other code, and all be trained anew


def weights_digest(network: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    add_weights(digest, network)
    return digest.hexdigest()


def add_weights(digest, network: torch.nn.Module) -> None:
    """Adds names and values of a network's weights to a digest."""
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().numpy().tobytes())


@functools.cache  # once a process: its code stays what it was when files change meanwhile
def _training_code() -> str:
    """Digests of all code that any trained weights depend on; a task adds its own."""
    return "".join(
        map(
            code_digest,
            (
                *(_features, architecture, models.CRNN, models.build, data.balanced_batches),
                *(train, probabilities, Centred, fold_input, unfold_input, Recipe, _seed),
            ),
        )
    )


def code_digest(thing) -> str:
    """Digest of a module's, class's or function's code; comments, docstrings and layout left out."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            del body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _save(path, key, model, optimizer, history, best) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": value for name, value in state.items()}
    arrays = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
    checkpoints.write(path, arrays, {"key": key, "history": json.dumps(history)})


def _restore(path, key, model, optimizer) -> tuple[list[dict], dict | None]:
    """History and best weights of an unfinished or finished run with this key; the model and the
    optimizer are set to where it stood. A file of another run, or a damaged one, starts afresh."""
    try:
        arrays, metadata = checkpoints.read(path)
    except checkpoints.CheckpointError:
        return [], None
    if metadata.get("key") != key:
        return [], None
    under = {"model": {}, "best": {}, "adam": {}}
    for name, value in arrays.items():
        head, rest = name.split(".", 1)
        under[head][rest] = torch.from_numpy(value)
    model.load_state_dict(under["model"])
    state = {}
    for name, value in under["adam"].items():
        index, what = name.split(".", 1)
        state.setdefault(int(index), {})[what] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return json.loads(metadata["history"]), under["best"]
