"""Which of a run's networks is the better recipe: step losses on new tracks of the part that choices are made on.

    recipes.py FOLDER --run speech-commands-happy-speaker baseline-stream another-baseline

Counts of false accepts where a few percent of keywords are missed hang on a handful of keywords. Here the
same few keywords lie in thousands of places, and every network hears the same: differences of losses are of
pairs. Errors are of what is drawn, not of who speaks; of other speakers they say nothing.
"""

import argparse
import json
from itertools import product

import numpy as np
import torch
from tqdm import tqdm

from kwslib import experiments, features, models, runs, streams, talk, tasks

TRACKS, BATCH, SEED = 3072, 64, 7
WAYS = ("window", "carried")
WHAT = ("loss", "missed")
RARE = 1e-3  # of the steps without the keyword: where keyword steps missed are counted


def heard(
    audio: streams.Streams, settings: list[str], count: int = TRACKS
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Setting -> step losses (batches, 2), of windows and carried, and the shares (batches, 2) of the keyword's
    steps that are under the threshold which `RARE` of all others' reach. count: tracks."""
    e, share = audio.experiment, tasks.Share()
    speech = talk.read(e.run.parameters.keyword, "validation", audio.plan.read_minutes)
    sources = audio.sources(e.chosen_on, speech)
    networks = {s: models.load(e.run.needed("checkpoints", s, "safetensors")) for s in settings}
    architecture = next(iter(networks.values())).architecture
    # All of the pool is made anew at every step, so that no two batches share a track.
    pool = tasks.Pool(sources, share, architecture, BATCH, renewed=BATCH, seed=SEED)
    draw = np.random.default_rng(SEED)
    state = dict.fromkeys(settings)  # of the GRU, which goes on from batch to batch
    losses, keyword, others = ({s: [] for s in settings} for _ in range(3))
    with torch.inference_mode():
        for step in tqdm(range(count // BATCH), "batches", disable=None):
            power, wanted = pool.draw(step, BATCH, draw)
            log_mels = features.log_mel(power, architecture.front_end)
            for setting, network in networks.items():
                carried, state[setting] = network.carried(log_mels, state[setting])
                said = network.windows(log_mels), carried
                losses[setting].append([float(tasks.step_loss(one, wanted, share.hardest)) for one in said])
                margins = np.stack([(one[..., 1] - one[..., 0]).numpy() for one in said], axis=-1)
                keyword[setting].append(margins[wanted == 1])
                others[setting].append(margins[wanted == 0])
    found = {}
    for setting in settings:
        threshold = np.quantile(np.concatenate(others[setting]), 1 - RARE, axis=0)
        missed = [(of_batch <= threshold).mean(0) for of_batch in keyword[setting]]
        found[setting] = np.array(losses[setting]), np.array(missed)
    return found


def mean(values: np.ndarray) -> tuple[float, float]:
    """Mean of (batches,) and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def said(values: np.ndarray, what: int, sign: str) -> str:
    """Mean of (batches,) and its standard error: losses, or shares in percent."""
    of, error = mean(values)
    return f"{100 * of:{sign}.1f} +- {100 * error:.1f} %" if what else f"{of:{sign}.4f} +- {error:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", help="a corpus name or folder")
    parser.add_argument("--run", required=True, help="a run of this corpus, speakers apart")
    parser.add_argument("settings", nargs="+", help="of the run; the others are compared with the first")
    options = parser.parse_args()
    held = json.loads((runs.Parameters(run=options.run).folder / "run.json").read_text())["parameters"]
    if held["split"] != "speaker":
        parser.error("speakers must be apart: otherwise what is chosen on was trained on")
    held["corpus"] = options.corpus
    audio = streams.Streams(experiments.open_experiment(**held, run=options.run))
    found = heard(audio, options.settings)
    print(
        f"{'':<24}"
        + "".join(f"{f'{way}: {what}':>18}{'over the first':>18}" for way in WAYS for what in WHAT)
    )
    for setting in options.settings:
        cells = []
        for way, what in product(range(len(WAYS)), range(len(WHAT))):
            mine, first = (found[one][what][:, way] for one in (setting, options.settings[0]))
            cells += [said(mine, what, ""), said(mine - first, what, "+")]
        print(f"{setting:<24}" + "".join(f"{cell:>18}" for cell in cells))


if __name__ == "__main__":
    main()
