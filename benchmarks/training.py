"""What a training step costs, and whether augmenting mel power instead of waveforms costs quality.

    python benchmarks/training.py CORPUS --keyword happy [--folds 1]

Prints a table of processor time a step (128 clips, one thread), medians over alternating turns: the
augmentation on mel power (ours) and on waveforms (the study), and the passes of each network. With
`--folds N` it trains the baseline in the first N folds both ways, at full size, and states the
ratio of missed keywords. Writes training.json and training.md beside itself.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from kwslib import data, files, metrics, models, training, windows
from kwslib.architecture import ARCHITECTURES, Setting
from kwslib.features import log_mel, mel_power, to_waveforms

TURNS, STEPS = 15, 8


class WaveformPool(windows.ClipPool):
    """The study's augmentation: noise and background are added to waveforms, so that half of the
    spectrograms are computed anew at every step. Clips are not shifted."""

    def __init__(self, corpus, architecture):
        noises = list(corpus.background.values())
        super().__init__(corpus.clips, noises, architecture)
        self.recordings = [to_waveforms(noise) for noise in noises]

    def augmented(self, positions, generator, is_masked):
        power = self.front_end_power(positions)
        kinds = generator.integers(4, size=len(positions))
        power[torch.from_numpy(kinds == windows.QUIET)] *= windows.GAIN**2
        for kind in (windows.NOISE, windows.BACKGROUND):
            rows = np.flatnonzero(kinds == kind)
            waveforms = to_waveforms(self.clips[positions[rows]])
            if kind == windows.NOISE:
                noise = torch.from_numpy(generator.standard_normal(waveforms.shape, np.float32))
                waveforms += noise * windows.NOISE_DEVIATION
            else:
                waveforms += self.background(waveforms, generator)
            changed = mel_power(waveforms.clamp_(-1, 1), self.front_end)
            power[torch.from_numpy(rows)] = changed
        if is_masked:
            windows.mask(power, generator)
        return log_mel(power, self.front_end)

    def front_end_power(self, positions):
        log_mels = self.log_mels(positions) * self.front_end.spread + self.front_end.centre
        return log_mels.exp_()

    def background(self, waveforms, generator):
        samples, under = waveforms.shape[1], torch.empty_like(waveforms)
        for row in under:
            recording = self.recordings[generator.integers(len(self.recordings))]
            start = generator.integers(len(recording) - samples)
            row[:] = recording[start : start + samples] / recording.norm()
        scale = 10 ** (windows.BACKGROUND_DB / 20)
        return under * waveforms.norm(dim=1, keepdim=True) * scale


def milliseconds(action) -> float:
    """Processor time of one call, the mean of STEPS calls."""
    begun = time.process_time()
    for step in range(STEPS):
        action(step)
    return 1000 * (time.process_time() - begun) / STEPS


def step_costs(pools: dict, labels, train) -> dict[str, float]:
    """Name of a part of a step -> milliseconds, medians over alternating turns."""
    recipe = training.recipe_of(Setting("baseline"), "full")
    batches = {n: training.Batches(pool, labels, train, recipe) for n, pool in pools.items()}
    log_mels, wanted = batches["mel power"].draw(0, 0)
    actions = {
        f"augmentation on {n}": lambda step, b=b: b.draw(step, 0) for n, b in batches.items()
    }
    for name, architecture in ARCHITECTURES.items():
        model = models.build(architecture, 0).train()
        optimizer = torch.optim.Adam(model.parameters(), fused=True)

        def learn(step, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(log_mels), wanted).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()

        actions[f"{name}, forward and backward"] = learn
    teacher = models.build(ARCHITECTURES["baseline"], 0).eval()
    actions["teacher, forward"] = torch.inference_mode()(lambda step: teacher(log_mels))
    found = {name: [] for name in actions}
    for _ in range(TURNS):
        for name, action in actions.items():
            found[name].append(milliseconds(action))
    return {name: statistics.median(values) for name, values in found.items()}


def quality(pools: dict, corpus, labels, folds: list) -> dict:
    """Missed keywords of baselines trained both ways, and their paired ratio."""
    recipe, scores = training.recipe_of(Setting("baseline"), "full"), {}
    for name, pool in pools.items():
        scores[name] = []
        for number, fold in enumerate(folds):
            model = models.build(ARCHITECTURES["baseline"], number)
            batches = training.Batches(pool, labels, fold.train, recipe)
            resume = Path(tempfile.gettempdir()) / f"kws-{name.replace(' ', '-')}-{number}"
            say = lambda row, n=name: print(n, row["epoch"], f"{row['loss']:.4f}", flush=True)  # noqa: E731
            training.train(model, batches, recipe, number, resume, {"pool": name}, None, say)
            scores[name].append(training.probabilities(model, pool, fold.test))
    tested = np.concatenate([fold.test for fold in folds])
    ours, theirs = (np.concatenate(scores[name]) for name in ("mel power", "waveforms"))
    of_clips = labels[tested], corpus.speakers[tested]
    ratio = metrics.ratio(metrics.missed, of_clips[0], ours, theirs, of_clips[1])
    missed = {n: float(metrics.missed(of_clips[0], np.concatenate(s))) for n, s in scores.items()}
    return {"folds": len(folds), "missed": missed, "ratio": list(ratio)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus")
    parser.add_argument("--keyword", default="happy")
    parser.add_argument("--folds", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    corpus = data.load(given.corpus)
    labels, folds = corpus.labels(given.keyword), data.split(corpus, given.keyword, "folds", 0)
    architecture = ARCHITECTURES["baseline"]
    ours = windows.ClipPool(corpus.clips, list(corpus.background.values()), architecture)
    pools = {"mel power": ours, "waveforms": WaveformPool(corpus, architecture)}
    found = {"ms": step_costs(pools, labels, folds[0].train)}
    ms = found["ms"]
    found["times_faster"] = {}
    for name in ARCHITECTURES:
        work = ms[f"{name}, forward and backward"]
        work += 0 if name == "baseline" else ms["teacher, forward"]
        slow, fast = (ms[f"augmentation on {n}"] + work for n in ("waveforms", "mel power"))
        found["times_faster"][name] = slow / fast
    if given.folds:
        found["quality"] = quality(pools, corpus, labels, folds[: given.folds])
    lines = ["| part of a step of 128 clips | ms |", "|---|--:|"]
    lines += [f"| {name} | {value:.1f} |" for name, value in ms.items()]
    lines += [
        "",
        "| a step's clips a second, over augmentation on waveforms | times |",
        "|---|--:|",
    ]
    lines += [f"| {name} | {value:.2f} |" for name, value in found["times_faster"].items()]
    if "quality" in found:
        q = found["quality"]
        times, low, high = q["ratio"]
        lines += ["", f"Missed in {q['folds']} folds: {q['missed']['mel power']:.2%} on mel power, "
                  f"{q['missed']['waveforms']:.2%} on waveforms: {times:.2f} times "
                  f"({low:.2f} to {high:.2f})."]  # fmt: skip
    text = "\n".join(
        ["# What a training step costs", "", "`benchmarks/training.py`", "", *lines, ""]
    )
    files.write_json(Path(__file__).with_suffix(".json"), found)
    files.write_atomic(Path(__file__).with_suffix(".md"), text.encode())
    print(text)


if __name__ == "__main__":
    main()
