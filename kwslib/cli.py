"""`kws`: the command line. Each verb calls one function and imports what it needs when it runs.

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
    from .runs import Parameters

    parameters = Parameters(corpus, keyword, talk, profile, split, seed, run)
    from . import report as chain

    say = functools.partial(print, flush=True)
    workers = workers or getattr(os, "process_cpu_count", os.cpu_count)() or 1
    index = chain.run_chain(parameters, only, force, workers, scheduler, say)
    say(f"The report: {index}")


@app.command("corpus")
def corpus_(
    corpus: str,
    clips: option(Path | None, "A list, as a run's clips.txt.gz: what is missing?") = None,
    as_json: JSON = False,
) -> None:
    """Make, download or index a corpus; print what it holds and what was rejected.

    CORPUS: embedded, speech_commands_v0.01 or v0.02, or a folder of
    WORD/SPEAKER_nohash_N.wav. With --clips the exit code is 1 if a clip
    of the list is missing.
    """
    from . import data

    listed = _clip_names(clips) if clips else set()  # before a corpus is made
    loaded = data.load(corpus)
    here, rejected = set(loaded.ids.tolist()), [f"{path}: {why}" for path, why in loaded.rejected]
    print(f"{loaded.name}: {len(loaded):,} clips, digest {loaded.digest}")
    print(f"speakers: {len(set(loaded.speakers.tolist())):,}")
    print("words:", ", ".join(f"{word} {n:,}" for word, n in loaded.word_counts().items()))
    print("background:", ", ".join(sorted(loaded.background)))
    print(f"rejected: {len(rejected):,}", *rejected, sep="\n  ")
    if clips:
        print(f"missing: {len(listed - here):,}", *sorted(listed - here), sep="\n  ")
        print(f"not listed: {len(here - listed):,}")
    raise typer.Exit(1 if listed - here else 0)


def _clip_names(path: Path) -> set[str]:
    """Names of clips WORD/SPEAKER_nohash_N, one a line, plain or packed by gzip."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        lines = map(str.strip, content.decode("utf-8-sig").splitlines())
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as a list of clips ({error})") from None
    names = {Path(line).with_suffix("").as_posix() for line in lines if line}
    if not names or any(name.count("/") != 1 for name in names):
        raise ValueError(f"{path} is no list of clips: WORD/SPEAKER_nohash_N, one a line")
    return names


@app.command()
def evaluate(
    checkpoint: Path,
    corpus: str,
    keyword: option(str | None, "The word to spot. Default: the trained one.") = None,
    every: option(bool, "Judge on all clips, also on those that trained it.", "--all") = False,
    as_json: JSON = False,
) -> None:
    """Quality of any checkpoint on any corpus.

    CHECKPOINT: a .safetensors file of a run's checkpoints/. It records how it
    was trained, and is judged on clips that it never heard: the test part of
    its split and fold.

    CORPUS: embedded, speech_commands_v0.01 or v0.02, or a folder
    WORD/SPEAKER_nohash_N.wav.
    """
    from . import data, files

    trained = _trained(files.read_checkpoint(checkpoint)[1])
    is_same = data.load(corpus).digest == trained.get("corpus")
    used = {"keyword": "sheila", "split": "all", "seed": 0, "fold": 0}
    used |= {name: trained[name] for name in used if name in trained}
    used["keyword"] = keyword or used["keyword"]
    if every or (used["split"] == "utterance" and not is_same):  # that one hangs on other clips
        used["split"] = "all"
    if is_same and used["split"] == "all":
        print(f"{checkpoint}: some of these clips trained it", file=sys.stderr)
    from . import experiment

    found = used | experiment.evaluate(checkpoint, corpus, **used)
    lines = (
        "{clips:,} clips (split {split}, fold {fold}), {positives:,} of {keyword}".format(**found),
        f"missed at 1 in 1,000   {_estimate(found['missed'], '.2%')}",
        f"1 - AUC                {_estimate(found['one_minus_auc'], '.2e')}",
        f"au_fa_fr               {found['au_fa_fr']:.2e}   (compares within one corpus only)",
    )
    print(json.dumps(found) if as_json else "\n".join(lines))


def _trained(metadata: dict[str, str]) -> dict:
    """What a checkpoint records of its training, as far as it can be read."""
    try:
        inputs = dict(json.loads(metadata.get("inputs", "{}")))
    except (ValueError, TypeError, RecursionError):
        return {}
    kinds = {"keyword": str, "split": str, "corpus": str, "seed": int, "fold": int}
    return {name: inputs[name] for name in kinds if type(inputs.get(name)) is kinds[name]}


def _estimate(estimate, form: str) -> str:
    value, low, high = estimate
    if low is None or high is None:
        return f"{value:{form}}   no interval: too few speakers"
    return f"{value:{form}}   95 % interval {low:{form}} to {high:{form}}"


@app.command()
def cost(checkpoint: Path, as_json: JSON = False) -> None:
    """Size and multiply-accumulates of a checkpoint, by part, front end included.

    CHECKPOINT: a .safetensors file of a run's checkpoints/.
    """
    from . import cost as costs

    total, rows = costs.of_checkpoint(checkpoint), costs.by_part(checkpoint)
    lines = [f"{'part':<14}{'parameters':>12}{'bytes':>10}{'MACs a window':>15}"]
    lines += ["{part:<14}{parameters:>12,}{bytes:>10,}{macs:>15,}".format(**row) for row in rows]
    lines += ["file {file_bytes:,} bytes, weights {parameter_bytes:,}".format(**total)]
    lines += ["network {network_macs:,} MACs".format(**total)]
    lines += ["with front end {path_macs:,} MACs".format(**total)]
    print(json.dumps(total | {"parts": rows}) if as_json else "\n".join(lines))


@app.command()
def stream(
    checkpoint: Path,
    source: Annotated[str, typer.Argument()] = "-",
    threshold: option(
        float | None, "Higher: more misses, fewer false accepts.", min=0, max=1
    ) = None,
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

    --threshold and --smoothing override the values in the checkpoint.

    Example: arecord -q -f S16_LE -r 16000 -t raw | kws stream CHECKPOINT -
    """
    from . import audio, events, files, streaming

    spotter, detector = streaming.ready(checkpoint, threshold, smoothing)
    if (rate_hz := spotter.architecture.front_end.sample_rate_hz) != audio.SAMPLE_RATE_HZ:
        raise ValueError(f"{checkpoint} hears audio of {rate_hz:,} Hz; this is of 16,000 Hz")
    meter, listener = Meter(detector.threshold), events.Listener(detector)
    if threshold is None and "detector" not in files.read_checkpoint(checkpoint)[1]:
        meter.say(f"{checkpoint} holds no detector: the threshold is {detector.threshold}")
    count, code, pieces = 0, 0, _pieces(source, device, meter.say)
    try:
        for time_s, mean in events.detections(spotter, pieces, listener, meter):
            count += 1
            meter.print_detection(time_s, mean, as_json)
    except KeyboardInterrupt:
        code = 0 if source == "mic" else 130  # a microphone is left so, a recording is not done
    except audio.AudioError as error:
        broke_off = source == "mic" or spotter.position_s  # else it is wrong usage
        raise RuntimeError(str(error)) if broke_off else error from None
    finally:
        meter.bar.clear()
    if listener.time_s < 0:
        meter.say(f"{spotter.position_s:.2f} s of audio, shorter than a second: nothing was scored")
    elif not as_json:
        meter.say(f"{count} detection{'s' * (count != 1)} in {spotter.position_s:.1f} s")
    raise typer.Exit(code)


def _pieces(source: str, device: str | None, say):
    from . import audio

    if source == "-":
        return audio.from_pcm(sys.stdin and sys.stdin.buffer)
    return audio.from_microphone(say, device) if source == "mic" else audio.blocks(source, say)


class Meter:
    """Remarks on standard error, and on a terminal a bar of how probable the keyword is."""

    def __init__(self, threshold: float):
        from tqdm import tqdm

        form = "{desc} |{bar:40}| {n:.2f}, threshold " + f"{threshold:.2f}"
        is_off = None if sys.stderr else True  # None: shown on terminals only
        self.bar = tqdm(total=1, leave=False, bar_format=form, disable=is_off)

    def __call__(self, time_s: float, mean: float) -> None:
        self.bar.n = mean
        self.bar.set_description_str(f"{time_s:9.1f} s")

    def print_detection(self, time_s: float, mean: float, as_json: bool) -> None:
        self.bar.clear()
        values = {"time_s": round(time_s, 3), "probability": round(mean, 6)}
        line = f"{time_s:9.2f} s   probability {mean:.3f}"
        print(json.dumps(values) if as_json else line, flush=True)

    def say(self, line: str) -> None:
        self.bar.clear()
        if sys.stderr:
            print(line, file=sys.stderr, flush=True)


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
    if message and sys.stderr:
        print(f"kws: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
