"""How far the streaming engine is from offline scoring, for every checkpoint of a run, on recorded speech.

    equality.py FOLDER --run speech-commands-happy --json reports/equality.json

Offline: the network in torch with the checkpoint's weights as floats, on a minute at a time: every second by
itself (`window`), or the minute at once (`carried`). The engine hears the same minute in pieces of 80 ms.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from kwslib import checkpoints, data, excerpts, models, runs, talk
from kwslib.streaming import MODES, Stream

EXACT = 1e-5  # in probability
MINUTE = 60 * data.SAMPLE_RATE_HZ


def differences(path: Path, mode: str, minutes: list[np.ndarray]) -> np.ndarray:
    """(steps,) by which the engine's probabilities differ from offline's on samples (samples,) int16 of each."""
    arrays, metadata = checkpoints.read(path)
    network = models.CRNN(checkpoints.architecture_of(metadata, path, arrays)).eval()
    weights = checkpoints.float_weights(arrays, path)
    network.load_state_dict({name: torch.from_numpy(weights[name].copy()) for name in network.state_dict()})
    stream, found = Stream.load(path, mode), []
    for samples in minutes:
        _, offline = excerpts.offline_track(network, samples.astype(np.float32) / 32768, mode)
        found.append(np.abs(stream.hear(samples)[:, 1] - offline))
    return np.concatenate(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", help="a corpus folder; the running speech beside it is heard")
    parser.add_argument("--run", required=True, help="a finished run; its checkpoints are compared")
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = runs.Parameters(run=options.run).folder
    keyword = json.loads((folder / "run.json").read_text())["parameters"]["keyword"]
    recorded = talk.recorded(Path(options.corpus).resolve(), keyword)
    if not recorded:
        parser.error(f"no continuous_speech/SPEAKER/ beside {options.corpus}")
    speech = np.concatenate(list(recorded.values()))
    minutes = [speech[start : start + MINUTE] for start in range(0, len(speech) - MINUTE + 1, MINUTE)]
    rows = []
    for path in sorted(folder.glob("checkpoints/*.safetensors")):
        if "-again-" in path.stem:
            continue
        for mode in MODES:
            apart = differences(path, mode, minutes)
            rows.append(
                {
                    "network": path.stem,
                    "mode": mode,
                    "weights": checkpoints.digest(path),
                    "steps": len(apart),
                    "over": int(np.sum(apart > EXACT)),
                    "largest": float(apart.max()),
                }
            )
            print(
                "{network:<24}{mode:<9}{over:>5} of {steps:,} steps over, largest {largest:.1e}".format(
                    **rows[-1]
                )
            )
    if options.json:
        result = {"exact": EXACT, "minutes": len(minutes), "rows": rows}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
