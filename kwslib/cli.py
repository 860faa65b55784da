"""Small keyword spotting: train, stream, distil, quantize, report. Start with: kws report.

KWS_DATA names another folder than data/ for corpora, KWS_REPORTS another than reports/ for runs.

Exit codes: 0 done, 1 the work failed, 2 wrong usage (one line, no traceback), 130 interrupted.
"""

import functools
import gzip
import json
import os
import sys
import zlib
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
say = functools.partial(typer.echo, err=True)  # remarks; nothing where there is no standard error


def option(kind, text: str, *names: str, **more):
    """An option. (Docstrings say what arguments are: click from 8.5 on loses help for these.)"""
    return Annotated[kind, typer.Option(*names, help=text, **more)]


JSON = option(bool, "Print JSON instead of text.", "--json")


@app.command()
def report(
    corpus: option(str, "A name or a folder, see kws corpus --help.") = "embedded",
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

    What is up to date is skipped: after an interruption the same command goes on.
    Example: kws report --corpus ~/speech_commands --keyword happy --profile full
    """
    from .report import run_chain
    from .runs import Parameters

    parameters = Parameters(corpus, keyword, talk, profile, split, seed, run)
    index = run_chain(parameters, only, force, workers or os.cpu_count(), scheduler, typer.echo)
    print(f"The report: {index}")


@app.command("corpus")
def corpus_(
    corpus: str,
    clips: option(Path | None, "A run's clips.txt.gz: what is missing? Exit code 1 if any.") = None,
    talk: option(Path | None, "Recorded talk, cut into clips of other words first.") = None,
) -> None:
    """Make, download or index a corpus; print what it holds and what was rejected.

    CORPUS: embedded, speech_commands_v0.01 or v0.02, or a folder WORD/SPEAKER_nohash_N.wav.
    """
    from . import data
    from . import talk as recorded

    if talk:
        print(f"{recorded.cut(talk, Path(corpus)):,} seconds of talk are in {Path(corpus, 'talk')}")
    try:  # before a corpus is made
        listed = gzip.decompress(clips.read_bytes()).decode().splitlines() if clips else ()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{clips} cannot be read as a list of clips ({error})") from None
    loaded = data.load(corpus)
    missing = sorted(set(listed).difference(loaded.ids))
    print(f"{loaded.name}: {len(loaded):,} clips, digest {loaded.digest}")
    print(f"speakers: {len(set(loaded.speakers.tolist())):,}")
    print("words:", ", ".join(f"{word} {n:,}" for word, n in loaded.word_counts().items()))
    print(f"rejected: {len(loaded.rejected):,}", *map(": ".join, loaded.rejected), sep="\n  ")
    if clips:
        print(f"missing: {len(missing):,}", *missing, sep="\n  ")
    raise typer.Exit(1 if missing else 0)


@app.command()
def evaluate(checkpoint: Path, corpus: str, as_json: JSON = False) -> None:
    """Quality of a checkpoint on clips of a corpus that it never heard.

    CHECKPOINT: a .safetensors file of a run's checkpoints/. The test part of
    its split and fold is judged on. CORPUS: as for kws corpus.
    """
    from . import experiment, files

    metadata = files.read_checkpoint(checkpoint)[1]
    try:
        inputs = json.loads(metadata["inputs"])
        kinds = {"keyword": str, "split": str, "seed": int, "fold": int}
        found = {name: kind(inputs[name]) for name, kind in kinds.items()}
    except (LookupError, TypeError, ValueError):
        raise ValueError(f"{checkpoint} does not record how it was trained") from None
    found |= experiment.evaluate(checkpoint, corpus, **found)
    lines = ["{clips:,} clips (split {split}, fold {fold}), {positives:,} of {keyword}"]
    for name in ("missed", "one_minus_auc"):
        value, low, high = found[name]
        known = "no interval: few speakers" if low is None else f"95 %: {low:.2g} to {high:.2g}"
        lines.append(f"{name:<14} {value:.2g}   {known}")
    print(json.dumps(found) if as_json else "\n".join(lines).format(**found))


@app.command()
def stream(
    checkpoint: Path,
    source: Annotated[str, typer.Argument()] = "-",
    threshold: option(float | None, "Higher: fewer false accepts.", min=0, max=1) = None,
    smoothing: option(int | None, "Steps of 80 ms that the mean is over.", min=1) = None,
    as_json: JSON = False,
) -> None:
    """Listen and print detections as they happen.

    CHECKPOINT: a .safetensors file of a run's checkpoints/.
    SOURCE: an audio file, or - for raw 16 kHz mono PCM16 on standard input.
    A microphone on Linux, then on macOS:

    arecord -q -f S16_LE -r 16000 -t raw | kws stream CHECKPOINT -
    ffmpeg -f avfoundation -i :0 -f s16le -ar 16000 -ac 1 - | kws stream CHECKPOINT -
    """
    from . import audio, events, files, streaming

    spotter, detector = streaming.ready(checkpoint, threshold, smoothing)
    if threshold is None and "detector" not in files.read_checkpoint(checkpoint)[1]:
        say(f"{checkpoint} holds no detector: the threshold is {detector.threshold}")
    heard, count = sys.stdin and sys.stdin.buffer, 0
    pieces = audio.from_pcm(heard) if source == "-" else audio.blocks(source, say)
    try:
        for time_s, mean in events.detections(spotter, pieces, detector):
            count += 1
            values = {"time_s": round(time_s, 3), "probability": round(mean, 6)}
            line = f"{time_s:9.2f} s   probability {mean:.3f}"
            typer.echo(json.dumps(values) if as_json else line)
    except audio.AudioError as error:  # of wrong usage, unless something was heard
        raise RuntimeError(str(error)) if spotter.position_s else error from None
    if spotter.position_s < 0.99:
        say(f"{spotter.position_s:.2f} s of audio, shorter than a second: nothing was scored")
    elif not as_json:
        say(f"{count} detection{'s' * (count != 1)} in {spotter.position_s:.1f} s")


def main() -> None:
    """The console script: errors of use are one line and exit code 2, failed work is 1."""
    for output in filter(None, (sys.stdout, sys.stderr)):  # a locale may lack letters
        output.reconfigure(errors="backslashreplace")
    try:
        code, message = app(prog_name="kws", standalone_mode=False) or 0, ""
    except (KeyboardInterrupt, typer.Abort):
        code, message = 130, ""
    except (RuntimeError, OSError) as error:  # StageError; disk full
        code, message = 1, error
    except Exception as error:  # CorpusError, ParameterError, FileError, AudioError; typer's own
        if not isinstance(error, ValueError) and not hasattr(error, "format_message"):
            raise
        code, message = 2, error.format_message() if hasattr(error, "format_message") else error
    if code == 130:  # typer makes an exit of Ctrl-C
        is_kept = sys.argv[1:2] == ["report"]
        message = "interrupted" + "; the same command goes on where this stopped" * is_kept
    if message:
        say(f"kws: {' '.join(str(message).split())}")
    sys.exit(code)


if __name__ == "__main__":
    main()
