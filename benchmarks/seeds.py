"""How much the figures of networks trained on streams change when they are trained once more.

    seeds.py FOLDER --run speech-commands-happy --again 1 2

Networks of a finished run are trained on continuous tracks again, their teachers too: from the same networks
of clips, on other tracks, with other draws. Each is judged as the run's own are, by detectors chosen for it.
Resumable: what is trained is not trained again.
"""

import argparse
import json
from pathlib import Path

from kwslib import data, excerpts, experiments, judging, runs, streams
from kwslib.streaming import MODES
from kwslib.tasks import Share

NETWORKS = ("baseline", "student3")
TRACKS = 40  # of which plateaus are measured, as in notebook 2


def figures(audio: streams.Streams, network: str, again: int) -> list[dict]:
    """A judged network's rows of the result, one a mode."""
    setting = streams.streamed(network, again)
    clips = audio.experiment.against({setting: network}).loc[setting]
    ratio = [float(clips[name]) for name in ("ratio", "low", "high")]
    return [
        {
            "network": network,
            "again": again,
            "mode": mode,
            **_of_stream(judging.result(audio, setting, mode)),
            "clips": ratio,
        }
        for mode in MODES
    ]


def _of_stream(found: dict) -> dict:
    """What is kept of a network's result in one mode."""
    at_5 = found["speech"]["at_misses"]["0.05"]
    return {
        "speech_at_5_percent": at_5 and {n: at_5[n] for n in ("false_accepts", "false_accepts_per_h")},
        "speech_by_detector": {
            name: found["speech"]["chosen"][name] for name in ("miss_rate", "false_accepts_per_h")
        },
        "missed": {r: p and p["miss_rate"] for r, p in found["clips"]["at_rate"].items()},
        "more_than_offline": {r: p and p["more_than_offline"] for r, p in found["clips"]["at_rate"].items()},
        "plateau_s": found["plateau_s"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", help="a corpus name or folder; running speech beside it is used")
    parser.add_argument("--run", required=True, help="a finished run of this corpus; checkpoints go there")
    parser.add_argument("--again", type=int, nargs="+", default=[1], help="which times, from 1; default 1")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--train-only", action="store_true", help="leave the judging to another call")
    parser.add_argument("--json", type=Path, help="result file; other runs' and networks' are kept there")
    options = parser.parse_args()
    if min(options.again) < 1:
        parser.error("--again counts from 1; the run's own networks are judged by the run")
    held = json.loads((runs.Parameters(run=options.run).folder / "run.json").read_text())["parameters"]
    held["corpus"] = options.corpus
    experiment = experiments.open_experiment(**held, run=options.run)
    audio, plateaus = streams.Streams(experiment), {}
    for again in options.again:
        for network in options.networks:
            trained = audio.train(network, again=again)
            if not options.train_only:
                setting = streams.streamed(network, again)
                experiment.measure(setting, trained.model, trained.epoch)
                plateaus[setting] = excerpts.plateaus(experiment, setting, TRACKS)
    if options.train_only:
        return
    print("judging", flush=True)
    judging.judge(audio, judging.choose(audio, list(plateaus)), plateaus)
    rows = [
        row
        for network in options.networks
        for again in (0, *options.again)
        for row in figures(audio, network, again)
    ]
    for row in rows:
        at_5 = row["speech_at_5_percent"]
        rate = (
            "not reached" if at_5 is None else "{:.1f} [{:.1f}, {:.1f}]".format(*at_5["false_accepts_per_h"])
        )
        ratio = "{:.2f} [{:.2f}, {:.2f}]".format(*row["clips"])
        print(f"{row['network']:<10}{row['again']:<3}{row['mode']:<9}{rate:<24}clips {ratio}")
    if options.json:
        of_runs = json.loads(options.json.read_text()) if options.json.exists() else {}
        there = of_runs.get(options.run, {"rows": [], "tracks_weigh": {}})
        before, weights = there["rows"], there["tracks_weigh"]
        of_runs[options.run] = {
            "corpus": data.name_of(options.corpus),
            "keyword": held["keyword"],
            "split": held["split"],
            "speech": audio.speech[0],
            "speech_hours": len(audio.speech[1]) / 16000 / 3600,
            "tracks_weigh": weights | {n: streams.SHARES.get(n, Share()).weight for n in options.networks},
            "rows": [row for row in before if row["network"] not in options.networks] + rows,
        }
        options.json.write_text(json.dumps(of_runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
