"""What learning tracks costs single clips, by recipe, on speakers that no run reports.

    held_out.py FOLDER --run speech-commands-happy-speaker --json reports/held-out.json

The validation part has few speakers, and its keywords are easy. So the clips that neither split reports are
dealt into parts by speaker, and one part is held out in turn: a baseline is trained on the clips of the others,
then on tracks of them by each recipe, with labels alone. On what is held out are measured 1 - AUC of the clips,
plain and in noise, over that of the baseline before tracks, and what is missed on new tracks (`recipes.py`).
Resumable: what is trained is not trained again.
"""

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import recipes
import torch

from kwslib import data, experiments, metrics, models, runs, streams, training
from kwslib.tasks import Share

PARTS = 3
NEVER, FIRST = 1.0, 0.3  # share of the steps whose clips are not masked: all, or the last ones
MOSTLY_CLIPS = 0.35  # weight of the tracks' loss
RECIPES = {
    "as the student": (Share(), NEVER),
    "clips masked": (Share(), FIRST),
    "twice the clips": (Share(clips=128), NEVER),
    "tracks weigh less": (Share(weight=MOSTLY_CLIPS), NEVER),
    "tracks weigh less, twice the clips, masked": (Share(weight=MOSTLY_CLIPS, clips=128), FIRST),
}
DRAWS = 8  # of noise over the clips


def deal(experiment: experiments.Experiment, part: int) -> None:
    """Makes an experiment train on the clips that neither split reports, but for a third of their speakers, and
    report those."""
    e, p = experiment, experiment.run.parameters
    reported = [
        data.split(e.corpus, p.keyword, split, p.seed)[of]
        for split, of in (("speaker", "test"), ("utterance", "validation"))
    ]
    clips = np.setdiff1d(np.arange(len(e.corpus)), np.concatenate(reported))
    speakers = e.corpus.speakers[clips].tolist()
    held = np.array([int(hashlib.sha256(name.encode()).hexdigest(), 16) % PARTS == part for name in speakers])
    e.parts = {"train": clips[~held], "validation": clips[held]}
    e.part = e.chosen_on = "validation"


def clip_errors(experiment: experiments.Experiment, model: models.CRNN) -> dict[str, float]:
    """1 - AUC of the held-out clips, as they are and with the changes of training but for masks."""
    e, clips = experiment, experiment.reported
    labels = e.labels[clips]
    noisy = []
    for draw in range(DRAWS):
        generator, scores = torch.Generator().manual_seed(100 + draw), []
        with torch.inference_mode():
            for some in np.split(clips, range(256, len(clips), 256)):
                logits = model.eval()(e.features.augmented(some, generator, masked=False))
                scores.append(torch.softmax(logits.double(), dim=1)[:, 1].numpy())
        noisy.append(metrics.one_minus_auc(labels, np.concatenate(scores)))
    plain = metrics.one_minus_auc(labels, training.probabilities(model, e.features, clips))
    return {"plain": plain, "noisy": float(np.mean(noisy))}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", help="a corpus name or folder")
    parser.add_argument("--run", required=True, help="a run of this corpus; what is trained goes beside it")
    parser.add_argument("--parts", type=int, nargs="+", choices=range(PARTS), default=[0, 1], help="held out")
    parser.add_argument("--again", type=int, nargs="+", default=[0], help="which trainings; default 0")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="RECIPE")
    parser.add_argument("--epochs", type=int, default=8, help="of every recipe on tracks, default 8")
    parser.add_argument("--json", type=Path, help="result file; other rows of as many epochs are kept there")
    options = parser.parse_args()
    held = json.loads((runs.Parameters(run=options.run).folder / "run.json").read_text())["parameters"]
    held["corpus"] = options.corpus
    rows = []
    for part in options.parts:
        experiment = experiments.open_experiment(**held, run=f"{options.run}-held-out-{part}")
        deal(experiment, part)
        audio = streams.Streams(experiment)
        before = clip_errors(experiment, experiment.train("baseline").model)
        of_part = []
        for recipe in options.recipes:
            share, unmasked = RECIPES[recipe]
            for again in options.again:
                setting = f"{recipe.replace(', ', '-').replace(' ', '-')}-{again}"
                how = replace(
                    training.recipe("teacher" + streams.STREAMED, held["profile"]),
                    epochs=options.epochs,
                    unmasked=unmasked,
                )
                trained = audio.train("baseline", share, setting, how, taught=False, again=again)
                errors = clip_errors(experiment, trained.model)
                row = {"recipe": recipe, "part": part, "again": again, "clips": errors}
                of_part.append(row | {"setting": setting})
        on_tracks = recipes.heard(audio, [row["setting"] for row in of_part])
        for row in of_part:
            losses, missed = on_tracks[row.pop("setting")]
            for what, values in zip(recipes.WHAT, (losses, missed), strict=True):
                row[what] = dict(zip(recipes.WAYS, values.mean(0).tolist(), strict=True))
            row["clips_before"] = before
            times = ", ".join(f"{kind} {row['clips'][kind] / before[kind]:.2f}" for kind in before)
            missed = ", ".join(f"{way} {share:.1%}" for way, share in row["missed"].items())
            print(
                f"{part} {row['again']} {row['recipe']:<44}clips: {times}; steps missed: {missed}", flush=True
            )
        keywords = int(experiment.labels[experiment.reported].sum())
        rows += [row | {"keywords": keywords} for row in of_part]
    if options.json:
        held_there = json.loads(options.json.read_text()) if options.json.exists() else {}
        before = held_there["rows"] if held_there.get("epochs") == options.epochs else []
        made = [_training(row) for row in rows]
        result = {
            "corpus": data.name_of(options.corpus),
            "keyword": held["keyword"],
            "epochs": options.epochs,
            "rare": recipes.RARE,
            "rows": sorted([row for row in before if _training(row) not in made] + rows, key=_training),
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def _training(row: dict) -> tuple:
    return list(RECIPES).index(row["recipe"]), row["part"], row["again"]


if __name__ == "__main__":
    main()
