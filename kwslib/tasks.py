"""What a network is trained on: single clips, or continuous tracks as well. Batches in, losses out."""

import functools
import sys
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch.nn import functional as nnf

from . import data, features, tracks, training
from .architecture import Architecture
from .features import ClipFeatures
from .tracks import Mix


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the batch (Hinton et al.,
    arXiv 1503.02531; the factor keeps gradients comparable between temperatures).

    Shape: (batch, classes) logits, both -> ()
    """
    log_student = torch.log_softmax(student / temperature, dim=1)
    log_teacher = torch.log_softmax(teacher / temperature, dim=1)
    divergence = nnf.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


class Clips:
    """Balanced batches of single clips, augmented; on labels, or on a teacher's outputs too.

    features: of all clips; labels: (clips,); parts: positions of 'train' and 'validation'.
    """

    def __init__(
        self,
        features: ClipFeatures,
        labels: np.ndarray,
        parts: dict[str, np.ndarray],
        teacher: torch.nn.Module | None = None,
    ):
        self.features, self.labels, self.parts = features, labels, parts
        self.teacher = teacher if teacher is None else teacher.to(features.device).eval()

    def losses(self, network, recipe, first_step: int, draw: np.random.Generator, generator):
        """The loss of each optimizer step of an epoch, which begins with step `first_step`."""
        for step, positions in enumerate(self.batches(recipe, recipe.batch_size, draw), first_step):
            yield self.loss(network, recipe, step, positions, generator)

    def batches(self, recipe, batch_size: int, draw: np.random.Generator):
        """Positions of training clips, (batch,) at a time."""
        train = self.parts["train"]
        for batch in data.balanced_batches(self.labels[train], batch_size, recipe.epoch_steps, draw):
            yield train[batch]

    def loss(self, network, recipe, step: int, positions: np.ndarray, generator) -> torch.Tensor:
        if (self.teacher is None) != (recipe.temperature is None):
            raise ValueError("a teacher and a temperature go together")
        log_mels = self.features.augmented(positions, generator, masked=recipe.masked_at(step))
        labels = torch.from_numpy(self.labels[positions]).to(log_mels.device)
        logits = network(log_mels)
        if self.teacher is None:
            return nnf.cross_entropy(logits, labels)
        with torch.no_grad():
            wanted = self.teacher(log_mels)
        loss = distillation_loss(logits, wanted, recipe.temperature)
        if recipe.label_share:
            share = recipe.label_share
            loss = (1 - share) * loss + share * nnf.cross_entropy(logits, labels)
        return loss

    def add_to(self, digest) -> None:
        """Adds all that a training result depends on to a digest, the code of this task included."""
        digest.update(self._code().encode())
        if self.teacher is not None:
            training.add_weights(digest, self.teacher)
        for part, positions in sorted(self.parts.items()):
            digest.update(part.encode() + positions.astype(np.int64).tobytes())
        digest.update(self.labels.astype(np.int64).tobytes())
        digest.update(self.features.digest.encode())

    @staticmethod
    @functools.cache
    def _code() -> str:
        return training.code_digest(Clips) + training.code_digest(distillation_loss)


@dataclass(frozen=True)
class Share:
    """How much of a step is what."""

    weight: float = 0.6  # of the tracks' loss; the clips' has the rest
    clips: int = 64
    tracks: int = 32
    seconds: float = 4.0
    window_every: int = 4  # steps between the windows that are scored from rest
    hardest: float = 0.1  # of the steps without the keyword: so many, the worst, make half their loss
    agreement: float = 0.5  # weight of the divergence of carried outputs from windows of the same steps
    temperature: float = 2.0  # of a teacher's windows; half of the tracks' loss, where there is a teacher
    mix: Mix = field(default_factory=Mix)


class Pool:
    """Training tracks to draw from, a few of them made anew at every step: much cheaper than new ones for
    each step, while none is drawn so often that it is learned by heart.

    share: its mix and seconds; architecture: any with the front end, kernel and stride of the networks to be
    trained; count: tracks, 64 KB each of 4 s; renewed: how many are made anew at every step, with 0
    none ever; the same seed gives the same tracks.

    Track n is made from (seed, n) alone, and at step s the pool holds `count` tracks from number s * renewed
    on, so that training that goes on after a stop draws what it would have drawn. What is held is not made
    again: the first step takes long, as does one far from the last.
    """

    def __init__(
        self,
        sources: tracks.Sources,
        share: Share,
        architecture: Architecture,
        count: int,
        renewed: int = 0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        self.sources, self.mix, self.seconds = sources, share.mix, share.seconds
        self.architecture = architecture
        self.count, self.renewed, self.seed, self.device = count, renewed, seed, device
        self._held = np.full(count, -1)  # which track is in which row

    def draw(self, step: int, count: int, draw: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Mel power (count, mels, frames) of tracks drawn at random among those of a step, and what to say at
        each of their windows (count, windows)."""
        self._hold(step * self.renewed)
        rows = torch.from_numpy(draw.integers(self.count, size=count)).to(self.device)
        power, wanted = self._rows
        return power[rows], wanted[rows]

    def _hold(self, first: int) -> None:
        """Makes those of the `count` tracks from `first` on that are not held, in place of others."""
        numbers = first + (np.arange(self.count) - first) % self.count
        missing = np.flatnonzero(self._held != numbers)
        for made, row in enumerate(missing, 1):
            power, wanted = self._make(numbers[row])
            self._rows[0][row], self._rows[1][row] = power, torch.from_numpy(wanted)
            self._held[row] = numbers[row]
            if made % 4096 == 0:
                print(f"{made:,} of {len(missing):,} training tracks", file=sys.stderr, flush=True)

    def _make(self, number: int) -> tuple[torch.Tensor, np.ndarray]:
        """Mel power (mels, frames) of a track, and what to say (windows,)."""
        a, samples = self.architecture, self._samples
        generator = np.random.default_rng([self.seed, 29, number])
        track, words, parts = tracks.training_track(self.sources, self.mix, samples, generator)
        audio = torch.from_numpy(track)[None].to(self.device)
        power = features.mel_power(audio, a.front_end)[0]
        return power, tracks.targets(words, a, samples, parts)[a.steps - 1 :]

    @property
    def _samples(self) -> int:
        return round(self.seconds * tracks.RATE_HZ)

    @functools.cached_property
    def _rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Where mel power (count, mels, frames) and what to say (count, windows) are held."""
        a = self.architecture
        frames = self._samples // a.front_end.hop_samples + 1
        windows = len(tracks.targets(np.zeros((0, 2)), a, self._samples)) - a.steps + 1
        power = torch.empty(self.count, a.front_end.mels, frames, device=self.device)
        return power, torch.empty(self.count, windows, dtype=torch.int64, device=self.device)

    def add_to(self, digest) -> None:
        """Adds all that the tracks depend on to a digest, but for clips and recordings, which the digest of the
        features names, and the code that makes them."""
        made = (asdict(self.mix), self.seconds, self.count, self.renewed, self.seed)
        digest.update(repr(made).encode())
        digest.update(self.architecture.to_json().encode())
        for name in ("spans", "keyword", "others", "talk"):
            digest.update(np.ascontiguousarray(getattr(self.sources, name)).tobytes())


class Tracks:
    """Clips as before, and continuous tracks with the keyword at any place: scored as `carried`, with
    a GRU state that goes on from one batch's tracks to the next one's, and every few steps as a `window`,
    so that what is trained is what runs. `carried` is asked to say what `window` says, so that it lets go
    of a word when a window does; with a teacher both are asked to say what its windows say.

    A track that is drawn again is heard through another microphone.

    clips: the task of single clips; pool: of tracks of the share's mix and seconds.
    """

    def __init__(
        self,
        clips: Clips,
        pool: Pool,
        share: Share | None = None,
        teacher: torch.nn.Module | None = None,
    ):
        self.clips, self.pool, self.share = clips, pool, share or Share()
        self.features, self.labels, self.parts = clips.features, clips.labels, clips.parts
        self.teacher = teacher if teacher is None else teacher.to(clips.features.device).eval()

    def losses(self, network, recipe, first_step: int, draw: np.random.Generator, generator):
        state = None
        for step, positions in enumerate(self.clips.batches(recipe, self.share.clips, draw), first_step):
            of_clips = self.clips.loss(network, recipe, step, positions, generator)
            of_tracks, state = self._loss(network, state, step, draw)
            yield self.share.weight * of_tracks + (1 - self.share.weight) * of_clips

    def _loss(self, network, state, step, draw) -> tuple[torch.Tensor, torch.Tensor]:
        share, every = self.share, self.share.window_every
        log_mels, wanted = self._batch(step, draw)
        carried, state = network.carried(log_mels, state)
        first = int(draw.integers(every))
        later = log_mels[:, :, first * network.architecture.stride[1] :]
        windows = network.windows(later, every)
        loss = step_loss(carried, wanted, share.hardest) / 2
        loss = loss + step_loss(windows, wanted[:, first::every], share.hardest) / 2
        carried, windows = carried[:, first::every].flatten(0, 1), windows.flatten(0, 1)
        if self.teacher is not None:
            with torch.no_grad():
                said = self.teacher.windows(later, every).flatten(0, 1)
            of_teacher = sum(distillation_loss(mine, said, share.temperature) for mine in (carried, windows))
            loss = (loss + of_teacher / 2) / 2
        loss = loss + share.agreement * distillation_loss(carried, windows.detach(), 1.0)
        return loss, state.detach()

    def _batch(self, step, draw) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-mels (tracks, mels, frames), and what to say at each of their windows (tracks, windows)."""
        mix, front_end = self.share.mix, self.pool.architecture.front_end
        power, wanted = self.pool.draw(step, self.share.tracks, draw)
        heard = [tracks.microphone(front_end.mels, mix, draw) for _ in range(len(power))]
        power *= torch.from_numpy(np.exp(heard))[..., None].to(power.device)
        return features.log_mel(power, front_end), wanted

    def add_to(self, digest) -> None:
        self.clips.add_to(digest)
        digest.update(self._code().encode())
        digest.update(repr(asdict(self.share)).encode())
        if self.teacher is not None:
            training.add_weights(digest, self.teacher)
        self.pool.add_to(digest)

    @staticmethod
    @functools.cache
    def _code() -> str:
        return "".join(map(training.code_digest, (tracks, Pool, Tracks, step_loss)))


def step_loss(logits: torch.Tensor, labels: torch.Tensor, hardest: float) -> torch.Tensor:
    """Cross entropy of (batch, steps, 2) logits where labels (batch, steps) are 0 or 1, not -1: half of
    it the mean over the keyword's steps, half over the others', of which the `hardest` share count
    once more for themselves. Where there is no step of a kind, its half is 0."""
    losses = nnf.cross_entropy(logits.flatten(0, 1), labels.flatten().clamp_min(0), reduction="none")
    labels = labels.flatten()
    of_keyword, of_others = losses[labels == 1], losses[labels == 0]
    loss = 0 * losses.sum()
    if len(of_keyword):
        loss = of_keyword.mean() / 2
    if len(of_others):
        mean = of_others.mean()
        if hardest:
            worst = of_others.topk(max(1, round(hardest * len(of_others)))).values
            mean = (mean + worst.mean()) / 2
        loss = loss + mean / 2
    return loss
