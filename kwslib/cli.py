"""`kws`: the command line. Each verb calls one function and imports what it needs when it runs.

Exit codes: 0 done, 1 the work failed, 2 wrong usage (one line, no traceback), 130 interrupted.
"""

import functools
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Small keyword spotting: train, stream, distil, quantize, report.",
    epilog="Start with: kws report. KWS_DATA names another folder than data/ for corpora and "
    "indexes, KWS_REPORTS another one than reports/ for runs.",
)


def option(kind, text: str, *names: str, **more):
    """An option. (Docstrings say what arguments are: click from 8.5 on loses help for these.)"""
    return Annotated[kind, typer.Option(*names, help=text, **more)]


CORPUS = "embedded, speech_commands_v0.01 or v0.02, or a folder WORD/SPEAKER_nohash_N.wav"
JSON = option(bool, "Print JSON instead of text.", "--json")
SHOWN = 20  # rejected or missing clips that are printed


@app.command()
def report(
    corpus: option(str, CORPUS) = "embedded",
    keyword: option(str, "The word to spot; the corpus must have clips of it.") = "sheila",
    talk: option(str | None, "Talk to learn from. Default: talk beside the corpus.") = None,
    profile: option(str, "smoke (means nothing), quick (minutes), full (hours)") = "quick",
    split: option(str, "speaker, folds (five networks) or utterance (the study's)") = "speaker",
    seed: option(int, "Of initial weights, batches, augmentation.") = 0,
    run: option(str | None, "Name under reports/, or the path of a folder.") = None,
    only: option(list[str] | None, "A stage by name or number; repeat for several.") = None,
    force: option(bool, "Run again, and train anew, what is up to date.", "--force") = False,
    workers: option(int | None, "Trainings side by side. Default: one a core.", min=1) = None,
    scheduler: option(str | None, "tcp://... of a Dask cluster that sees these folders.") = None,
) -> None:
    """Train, run the notebooks in order, and write the HTML report.

    What is up to date is skipped; after a failure or an interruption the same
    command goes on where it stopped.

    Example: kws report --corpus ~/speech_commands --keyword happy --profile full
    """
    from . import report as chain
    from .runs import Parameters

    say = functools.partial(print, flush=True)
    workers = workers or getattr(os, "process_cpu_count", os.cpu_count)() or 1
    parameters = Parameters(corpus, keyword, talk, profile, split, seed, run)
    index = chain.run_chain(parameters, only, force, workers, scheduler, say)
    say(f"The report: {index}")


@app.command("corpus")
def corpus_(
    corpus: str,
    clips: option(Path | None, "A list, as a run's clips.txt.gz: what is missing?") = None,
    as_json: JSON = False,
) -> None:
    """Make, download or index a corpus; print what it holds and what was rejected.

    CORPUS: embedded, speech_commands_v0.01, speech_commands_v0.02, or a folder
    WORD/SPEAKER_nohash_N.wav.

    With --clips the exit code is 1 if a clip of the list is missing.
    """
    from . import data
    from . import report as chain

    listed = None if clips is None else chain.clip_names(clips)  # before a corpus is made
    loaded = data.load(corpus)
    found = {"corpus": loaded.name, "digest": loaded.digest, "clips": len(loaded)}
    found |= {"hours": round(loaded.hours, 3), "speakers": len(set(loaded.speakers.tolist()))}
    found |= {"words": loaded.word_counts(), "background": sorted(loaded.background)}
    found["rejected"] = [f"{path}: {reason}" for path, reason in loaded.rejected]
    if listed is not None:
        here = set(loaded.ids.tolist())
        found |= {"listed": len(listed), "missing": sorted(listed - here)}
        found |= {"not listed": len(here - listed)}
    for name, value in {} if as_json else found.items():
        if isinstance(value, list):
            print(f"{name}: {len(value):,}", *value[:SHOWN], sep="\n  ")
            if len(value) > SHOWN:
                print(f"  and {len(value) - SHOWN:,} more; --json lists all")
        elif isinstance(value, dict):
            print(f"{name}: " + ", ".join(f"{word} {count:,}" for word, count in value.items()))
        else:
            print(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}")
    if as_json:
        print(json.dumps(found))
    raise typer.Exit(1 if found.get("missing") else 0)


@app.command()
def evaluate(
    checkpoint: Path,
    corpus: str,
    keyword: option(str | None, "The word to spot. Default: the trained one.") = None,
    split: option(str | None, "speaker, folds, utterance, or all. Default: as trained.") = None,
    seed: option(int | None, "Of the utterance split. Default: as trained.") = None,
    fold: option(int | None, "Of the folds split. Default: as trained.") = None,
    as_json: JSON = False,
) -> None:
    """Quality of any checkpoint on any corpus.

    CHECKPOINT: a .safetensors file of a run's checkpoints/. It records how it
    was trained, and is judged on clips that it never heard: the test part of
    its split and fold. --split all judges it on every clip.

    CORPUS: embedded, speech_commands_v0.01, speech_commands_v0.02, or a folder
    WORD/SPEAKER_nohash_N.wav.
    """
    from . import data, files

    if split not in (None, *data.SPLITS, "all"):  # before a corpus is made
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(data.SPLITS)}, all")
    trained = _inputs(files.read_checkpoint(checkpoint)[1])
    is_same = bool(trained) and data.load(corpus).digest == trained.get("corpus")
    used = {"keyword": "sheila", "split": "all", "seed": 0, "fold": 0}
    used |= {name: trained[name] for name in used if name in trained}
    if used["split"] == "utterance" and not is_same:  # that one depends on the other clips
        used["split"] = "all"
    given = {"keyword": keyword, "split": split, "seed": seed, "fold": fold}
    used |= {name: value for name, value in given.items() if value is not None}
    if is_same and any(used[name] != trained.get(name) for name in ("split", "seed", "fold")):
        how = ", ".join(f"{name} {trained.get(name)}" for name in ("split", "seed", "fold"))
        print(f"{checkpoint} was trained by {how}: some of these clips trained it", file=sys.stderr)
    from . import experiment

    found = experiment.evaluate(checkpoint, corpus, **used)
    if as_json:
        print(json.dumps(used | found))
        return
    how = "all" if used["split"] == "all" else f"{used['split']}, fold {used['fold']}"
    print(f"{found['clips']:,} clips ({how}), {found['positives']:,} of {used['keyword']}")
    print(f"missed at 1 in 1,000   {_estimate(found['missed'], '{:.2%}')}")
    print(f"1 - AUC                {_estimate(found['one_minus_auc'], '{:.2e}')}")
    print(f"au_fa_fr               {found['au_fa_fr']:.2e}   (compares within one corpus only)")


def _inputs(metadata: dict[str, str]) -> dict:
    """What a checkpoint records of its training, as far as it can be read."""
    try:
        inputs = dict(json.loads(metadata.get("inputs", "{}")))
    except (ValueError, TypeError, RecursionError):
        return {}
    wanted = {"keyword": str, "split": str, "corpus": str, "seed": int, "fold": int}
    return {name: inputs[name] for name in wanted if type(inputs.get(name)) is wanted[name]}


def _estimate(estimate, form: str) -> str:
    value, low, high = estimate
    if low is None or high is None:
        return f"{form.format(value)}   no interval: too few speakers"
    return f"{form.format(value)}   95 % interval {form.format(low)} to {form.format(high)}"


@app.command()
def cost(checkpoint: Path, as_json: JSON = False) -> None:
    """Size and multiply-accumulates of a checkpoint, by part, front end included.

    CHECKPOINT: a .safetensors file of a run's checkpoints/.
    """
    from . import cost as costs

    total, rows = costs.of_checkpoint(checkpoint), costs.by_part(checkpoint)
    if as_json:
        print(json.dumps({**total, "parts": rows}))
        return
    print(f"{'part':<14}{'parameters':>12}{'bytes':>10}{'MACs a window':>15}")
    for row in rows:
        print(f"{row['part']:<14}{row['parameters']:>12,}{row['bytes']:>10,}{row['macs']:>15,}")
    print(f"file {total['file_bytes']:,} bytes, weights {total['parameter_bytes']:,}")
    print(f"network {total['network_macs']:,} MACs (ptflops: {total['ptflops_macs']:,}), "
          f"with front end {total['path_macs']:,}")  # fmt: skip


@app.command()
def stream(
    checkpoint: Path,
    source: Annotated[str, typer.Argument()] = "-",
    threshold: option(float | None, "Mean probability that is the keyword.", min=0, max=1) = None,
    smoothing: option(int | None, "Steps of 80 ms that the mean is over.", min=1) = None,
    device: option(str | None, "The microphone: its number, or part of its name.") = None,
    as_json: JSON = False,
) -> None:
    """Listen and print detections as they happen.

    CHECKPOINT: a .safetensors file of a run's checkpoints/.

    SOURCE: an audio file of any rate and channels; - for raw 16 kHz mono PCM16
    on standard input; mic for the microphone (needs sounddevice, the extra
    microphone). If the machine cannot keep up, lost audio is reported, and
    times count only audio that arrived.

    --threshold and --smoothing override the values in the checkpoint. A higher
    threshold gives fewer false accepts and more misses. On a terminal a meter
    shows the probability.

    Example: arecord -q -f S16_LE -r 16000 -t raw | kws stream CHECKPOINT -
    """
    from . import audio, events, files, streaming

    spotter, detector = streaming.ready(checkpoint, threshold, smoothing)
    if (rate_hz := spotter.architecture.front_end.sample_rate_hz) != audio.SAMPLE_RATE_HZ:
        raise ValueError(f"{checkpoint} hears audio of {rate_hz:,} Hz; this is of 16,000 Hz")
    meter = Meter(detector.threshold)
    _, metadata = files.read_checkpoint(checkpoint)
    if threshold is None and files.detector_of(metadata, checkpoint) is None:
        meter.say(f"{checkpoint} holds no detector; the threshold is {detector.threshold}, "
                  "--threshold sets another")  # fmt: skip
    pieces = (
        audio.from_pcm(sys.stdin and sys.stdin.buffer) if source == "-"
        else audio.from_microphone(meter.say, device) if source == "mic"
        else audio.blocks(Path(source), meter.say)
    )  # fmt: skip
    listener, found, code = events.Listener(detector), 0, 0
    try:
        for time_s, probability in events.detections(spotter, pieces, listener, meter):
            found += 1
            meter.bar.clear()
            values = {"time_s": round(time_s, 3), "probability": round(probability, 6)}
            line = f"{time_s:9.2f} s   probability {probability:.3f}"
            print(json.dumps(values) if as_json else line, flush=True)
    except KeyboardInterrupt:
        code = 0 if source == "mic" else 130  # a microphone is left so, a recording is not done
    except audio.AudioError as error:
        if source == "mic" or spotter.position_s:  # it was used rightly, and broke off
            raise RuntimeError(str(error)) from None
        raise
    finally:
        meter.bar.clear()
    if listener.time_s < 0:
        meter.say(f"{spotter.position_s:.2f} s of audio, shorter than a second: nothing was scored")
    if not as_json:
        meter.say(f"{found} detection{'s' * (found != 1)} in {spotter.position_s:.1f} s")
    raise typer.Exit(code)


class Meter:
    """Lines on standard error, and on a terminal a bar of how probable the keyword is."""

    def __init__(self, threshold: float):
        from tqdm import tqdm

        form = "{desc} |{bar:40}| {n:.2f}, threshold " + f"{threshold:.2f}"
        is_off = None if sys.stderr else True  # None: shown on terminals only
        self.bar = tqdm(total=1, leave=False, bar_format=form, disable=is_off)

    def __call__(self, time_s: float, mean: float) -> None:
        self.bar.n = mean
        self.bar.set_description_str(f"{time_s:9.1f} s")

    def say(self, line: str) -> None:
        self.bar.clear()
        if sys.stderr:
            print(line, file=sys.stderr, flush=True)


def main() -> None:
    """The console script: errors of use are one line and exit code 2, failed work is 1."""
    for stream_ in filter(None, (sys.stdout, sys.stderr)):  # a locale may lack letters
        stream_.reconfigure(errors="backslashreplace")
    try:
        code, message = app(prog_name="kws", standalone_mode=False) or 0, ""
    except ValueError as error:  # CorpusError, ParameterError, FileError, AudioError
        code, message = 2, error
    except (RuntimeError, OSError) as error:  # StageError, MissingStageError; disk full
        code, message = 1, error
    except (KeyboardInterrupt, typer.Abort):
        code, message = 130, ""
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's errors of usage have it
            raise
        code, message = 2, error.format_message()
    if code == 130:  # typer makes an exit of Ctrl-C
        is_kept = sys.argv[1:2] == ["report"]
        message = "interrupted" + "; the same command goes on where this stopped" * is_kept
    if message and sys.stderr:
        print(f"kws: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
