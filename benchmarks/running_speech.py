"""What each measure against false accepts on running speech brings: an ablation.

Networks of a finished run are trained further on continuous tracks, with one measure more each time,
and judged on running speech: false accepts an hour where 5 % of the keywords are missed. Beside it, what
they lose and miss on new tracks of the validation part (`recipes.py`). Resumable: a variant that is
trained is not trained again.
"""

import argparse
import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import recipes

from kwslib import data, experiments, judging, runs, streams, training
from kwslib.events import Detector
from kwslib.streaming import MODES
from kwslib.tasks import Share
from kwslib.tracks import Mix

TAUGHT = "a teacher"  # as released networks have
CLIPS = {"weight": 0.35, "clips": 128, "tracks": 16}  # a step that is mostly clips
PLAIN = {"hardest": 0.0, "agreement": 0.0} | CLIPS  # of the loss
BARE = {"talk": 0.0, "cut": 0.0, "noise": 0.0}  # words alone
DRY = {"room": 0.0}  # no rooms
SAME = {"varied": False, "fragment": 0.0} | DRY  # no other pace or microphone, whole keywords
SOME, ALL = 0.3, 1.0  # of the steps whose clips are not masked
VARIANTS = {  # name -> what is added to the one before
    "words": (Share(**PLAIN, mix=Mix(**BARE | SAME)), SOME),
    "cut words, noise": (Share(**PLAIN, mix=Mix(talk=0.0, **SAME)), SOME),
    "talk": (Share(**PLAIN, mix=Mix(**SAME)), SOME),
    "hardest steps": (Share(agreement=0.0, **CLIPS, mix=Mix(**SAME)), SOME),
    "pace, microphone": (Share(agreement=0.0, **CLIPS, mix=Mix(fragment=0.0, **DRY)), SOME),
    "parts of keywords": (Share(agreement=0.0, **CLIPS, mix=Mix(**DRY)), SOME),
    "carried as windows": (Share(**CLIPS, mix=Mix(**DRY)), SOME),
    "rooms": (Share(**CLIPS), SOME),
    "clips never masked": (Share(**CLIPS), ALL),
    "more tracks, fewer clips": (Share(), ALL),
    TAUGHT: (Share(), ALL),
}
SHARE = "0.05"  # of the keywords missed
LOSS_OF = 1024  # tracks
HELD = 4096  # tracks, of which some are made anew at every step: for few epochs enough, and sooner made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", help="a corpus name or folder; running speech beside it is used")
    parser.add_argument("--run", required=True, help="a finished run of this corpus; checkpoints go there")
    parser.add_argument("--epochs", type=int, default=2, help="of every variant, default 2")
    parser.add_argument("--networks", nargs="+", default=["baseline", "student3"])
    parser.add_argument("--train-only", action="store_true", help="leave the judging to another call")
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    held = json.loads((runs.Parameters(run=options.run).folder / "run.json").read_text())["parameters"]
    held["corpus"] = options.corpus
    experiment = experiments.open_experiment(**held, run=options.run)
    audio, settings = streams.Streams(experiment), {}
    if "baseline" in options.networks:
        audio.first_teacher()  # the run's own, before fewer tracks are held
    audio.plan = replace(audio.plan, tracks=min(HELD, audio.plan.tracks))
    for network in options.networks:
        settings[network, "clips alone"] = network
        full = training.recipe(network + streams.STREAMED, experiment.run.parameters.profile)
        for variant, (share, unmasked) in VARIANTS.items():
            name = f"{network}-ablation-{variant.replace(', ', '-').replace(' ', '-')}"
            recipe = replace(full, epochs=options.epochs, unmasked=unmasked)
            audio.train(network, share, name, recipe, taught=variant == TAUGHT)
            settings[network, variant] = name
    if options.train_only:
        return
    print("judging", flush=True)
    kind, speech = audio.speech
    names = list(settings.values())
    of_speech, of_keywords = audio.hear(names, speech), audio.hear(names, audio.keywords.samples)
    on_tracks = recipes.heard(audio, names, LOSS_OF)
    rows = []
    for (network, variant), name in settings.items():
        quality = experiment.evaluate_clips(experiment.load(name))
        row = {"network": network, "variant": variant, "one_minus_auc": quality["one_minus_auc"]}
        losses, missed = on_tracks[name]
        row["loss"] = dict(zip(recipes.WAYS, losses.mean(0).tolist(), strict=True))
        row["missed"] = dict(zip(recipes.WAYS, missed.mean(0).tolist(), strict=True))
        for mode, smoothing in product(MODES, (1, 3)):
            key = (name, mode)
            detector = Detector(smoothing=smoothing)
            found = judging.on_speech(audio, detector, of_speech[key], of_keywords[key])
            point = found["at_misses"][SHARE]
            row[f"{mode}, {smoothing}"] = point["false_accepts_per_h"] if point else None
        rows.append(row)
        rates = ", ".join(
            f"{k} {v[0]:.1f} [{v[1]:.1f}, {v[2]:.1f}]" for k, v in row.items() if isinstance(v, list)
        )
        loss = ", ".join(f"{way} {value:.4f}" for way, value in row["loss"].items())
        print(
            f"{network:<10}{variant:<27}1-AUC {row['one_minus_auc']:.2e}  loss: {loss}  "
            f"false accepts an hour: {rates}"
        )
    if options.json:
        result = {
            "corpus": data.name_of(options.corpus),
            "keyword": held["keyword"],
            "split": held["split"],
            "epochs": options.epochs,
            "speech": kind,
            "speech_hours": len(speech) / 16000 / 3600,
            "keywords": len(audio.keywords.words),
            "rare": recipes.RARE,
            "rows": rows,
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
