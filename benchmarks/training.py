"""Clips a second of training: ours against the study's way of doing the same, in one run.

The study's way: a dataset that opens a file and augments one clip at a time, two loader workers,
torchaudio's mel spectrogram on the batch. Both train the baseline network with the same optimizer on
the same corpus; the two take turns, and the medians of all turns are compared. Prints a table, writes
JSON.

    python benchmarks/training.py CORPUS [--json FILE] [--turns 5] [--steps 60]
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as nnf

from kwslib import data, models
from kwslib.architecture import ARCHITECTURES
from kwslib.features import ClipFeatures

BATCH = 128


class OneClipAtATime(torch.utils.data.Dataset):
    """The study's dataset: opens, pads, and augments one of four ways, clip by clip."""

    def __init__(self, corpus: data.Corpus, positions: np.ndarray, labels: np.ndarray):
        found = {
            path.relative_to(corpus.root).with_suffix("").as_posix(): path for path in corpus.root.glob("*/*")
        }
        self.paths = [found[clip] for clip in corpus.ids[positions]]
        self.labels = labels[positions]
        self.background = [torch.from_numpy(b.astype(np.float32) / 32768) for b in corpus.background.values()]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):
        import soundfile

        samples, _ = soundfile.read(self.paths[index], dtype="float32")
        clip = nnf.pad(torch.from_numpy(samples), (0, 16000 - len(samples)))
        kind = random.randrange(4)
        if kind == 1:
            clip = (clip + torch.distributions.Normal(0, 0.01).sample(clip.shape)).clamp(-1, 1)
        elif kind == 2:
            clip = clip * 0.25
        elif kind == 3 and self.background:
            recording = random.choice(self.background)
            start = random.randrange(len(recording) - 16000)
            scale = torch.linalg.norm(clip) / torch.linalg.norm(recording) * 10 ** (-1 / 20)
            clip = (clip + recording[start : start + 16000] * scale).clamp(-1, 1)
        return clip, self.labels[index]


def step(model, optimizer, log_mels, targets) -> None:
    loss = nnf.cross_entropy(model(log_mels), targets)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 5)
    optimizer.step()


def their_batches(corpus, positions, labels):
    """Endless (log-mels, targets) of the study's way."""
    import torchaudio

    dataset = OneClipAtATime(corpus, positions, labels)
    share = np.bincount(dataset.labels)
    weights = torch.from_numpy(1.0 / share[dataset.labels])
    sampler = torch.utils.data.WeightedRandomSampler(weights, 10**6)
    loader = torch.utils.data.DataLoader(dataset, BATCH, sampler=sampler, num_workers=2)
    to_mel = torchaudio.transforms.MelSpectrogram(16000, n_fft=400, hop_length=160, n_mels=40)
    masks = torch.nn.Sequential(
        torchaudio.transforms.FrequencyMasking(15), torchaudio.transforms.TimeMasking(35)
    )
    for clips, targets in loader:
        yield masks(to_mel(clips)).clamp(1e-9, 1e9).log(), targets


def our_batches(corpus, positions, labels, device):
    """Endless (log-mels, targets) of ours."""
    background = list(corpus.background.values())
    features = ClipFeatures(corpus.clips, background, ARCHITECTURES["baseline"].front_end, device)
    generator = torch.Generator(device).manual_seed(0)
    chosen = data.balanced_batches(labels[positions], BATCH, 10**6, np.random.default_rng(0))
    for batch in chosen:
        clips = positions[batch]
        yield features.augmented(clips, generator), torch.from_numpy(labels[clips]).to(device)


def clips_a_second(batches, model, optimizer, steps: int) -> float:
    begun = time.perf_counter()
    for _ in range(steps):
        step(model, optimizer, *next(batches))
    if next(model.parameters()).is_cuda:
        torch.cuda.synchronize()
    return steps * BATCH / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", help="a corpus name or folder")
    parser.add_argument("--keyword", default="happy")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="a turn")
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    corpus = data.load(options.corpus)
    labels = corpus.labels(options.keyword)
    positions = data.split(corpus, options.keyword, "speaker")["train"]

    def trained(device="cpu"):
        model = models.build(ARCHITECTURES["baseline"]).to(device).train()
        return model, torch.optim.Adam(model.parameters(), lr=3e-4, weight_decay=1e-5, fused=True)

    ways = {
        "the study's way, CPU": (their_batches(corpus, positions, labels), *trained()),
        "ours, CPU, first epochs": (our_batches(corpus, positions, labels, "cpu"), *trained()),
        "ours, CPU, later": (our_batches(corpus, positions, labels, "cpu"), *trained()),
    }
    if torch.cuda.is_available():
        ways["ours, GPU"] = (our_batches(corpus, positions, labels, "cuda"), *trained("cuda"))
    later = ways["ours, CPU, later"][0]  # 'later': after the epochs that fill the cache of plain clips
    for _ in range(6 * len(positions) // BATCH):
        next(later)
    found = {name: [] for name in ways}
    for turn in range(options.turns + 1):
        for name, way in ways.items():
            speed = clips_a_second(*way, options.steps)
            if turn:  # the first turn warms up
                found[name].append(speed)
    base = statistics.median(found["the study's way, CPU"])
    rows = [
        {
            "way": name,
            "clips_per_s": round(statistics.median(speeds)),
            "lowest": round(min(speeds)),
            "highest": round(max(speeds)),
            "times": round(statistics.median(speeds) / base, 2),
        }
        for name, speeds in found.items()
    ]
    print(f"{'way':<28}{'clips/s':>9}{'lowest':>9}{'highest':>9}{'times':>7}")
    for row in rows:
        print(
            f"{row['way']:<28}{row['clips_per_s']:>9,}{row['lowest']:>9,}{row['highest']:>9,}{row['times']:>7.2f}"
        )
    if options.json:
        options.json.write_text(
            json.dumps({"corpus": corpus.name, "batch": BATCH, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
