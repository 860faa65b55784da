"""`kws`: the command line. Each verb calls one function and imports what it needs when it runs.

Exit codes: 0 done, 1 the work failed, 2 wrong usage (one line, no traceback), 130 interrupted.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Small keyword spotting: train, stream, distil, quantize, report.",
    epilog="Start with: kws report",
)

CorpusOption = Annotated[
    str,
    typer.Option(
        help="embedded, speech_commands_v0.01, speech_commands_v0.02, or a folder WORD/SPEAKER_nohash_N.wav"
    ),
]
# Docstrings say what arguments are: click from 8.5 on loses the help that typer is given for them.
KeywordOption = Annotated[str, typer.Option(help="The word to spot; the corpus must have clips of it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command()
def report(
    corpus: CorpusOption = "embedded",
    keyword: KeywordOption = "sheila",
    profile: Annotated[
        str,
        typer.Option(
            help="smoke (seconds, means nothing), quick (minutes), full (the study's steps or more)"
        ),
    ] = "quick",
    split: Annotated[
        str, typer.Option(help="speaker (kept apart) or utterance (the study's: shared)")
    ] = "speaker",
    seed: Annotated[int, typer.Option(help="Of initial weights, batches, augmentation.")] = 0,
    run: Annotated[str | None, typer.Option(help="Name under reports/, or the path of a folder.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A stage by name or number; repeat for several.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Run again, and train anew, what is up to date.")] = False,
    no_audio: Annotated[
        bool, typer.Option("--no-audio", help="Pages without recordings, to be given away.")
    ] = False,
) -> None:
    """Run the notebooks in order and write the HTML report.

    What is up to date is skipped; after a failure or an interruption the same command goes on where
    it stopped.

    Example: kws report --corpus ~/speech_commands --keyword happy --profile full
    """
    from . import report as chain
    from .runs import Parameters

    parameters = Parameters(corpus, keyword, profile, split, seed, run)
    index = chain.run_chain(parameters, only, force, not no_audio, say=lambda line: print(line, flush=True))
    print(f"The report: {index}")


@app.command("corpus")
def corpus_(
    corpus: str,
    keyword: KeywordOption = "sheila",
    as_json: JsonOption = False,
) -> None:
    """Make, download or index a corpus; print what it holds and what was rejected.

    CORPUS: embedded, speech_commands_v0.01, speech_commands_v0.02, or a folder
    WORD/SPEAKER_nohash_N.wav.
    """
    from . import data

    loaded = data.load(corpus)
    counts = loaded.word_counts()
    parts = {}
    for how in data.SPLITS:
        try:
            split, labels = data.split(loaded, keyword, how), loaded.labels(keyword)
        except data.CorpusError as error:
            parts[how] = str(error)
            continue
        parts[how] = {
            part: {
                "clips": len(clips),
                "keyword": int(labels[clips].sum()),
                "speakers": len(set(loaded.speakers[clips].tolist())),
            }
            for part, clips in split.items()
        }
    found = {
        "corpus": loaded.name,
        "digest": loaded.digest,
        "clips": len(loaded),
        "hours": round(loaded.hours, 3),
        "speakers": len(set(loaded.speakers.tolist())),
        "words": counts,
        "background": sorted(loaded.background),
        "splits": parts,
        "rejected": [{"file": path, "reason": reason} for path, reason in loaded.rejected],
    }
    if as_json:
        print(json.dumps(found))
        return
    print(f"{found['corpus']}: {found['clips']:,} clips, {found['hours']:.2f} hours, {found['speakers']:,} speakers, "
          f"{len(counts)} words, {len(found['background'])} background recordings")  # fmt: skip
    print("words: " + ", ".join(f"{word} {count:,}" for word, count in counts.items()))
    for how, split in parts.items():
        if isinstance(split, str):
            print(f"split {how}: {split}")
            continue
        print(f"split {how}: " + "; ".join(
            f"{part} {n['clips']:,} clips ({n['keyword']:,} {keyword}), {n['speakers']:,} speakers"
            for part, n in split.items()))  # fmt: skip
    print(f"rejected: {len(loaded.rejected)}")
    for path, reason in loaded.rejected[:20]:
        print(f"  {path}: {reason}")
    if len(loaded.rejected) > 20:
        print(f"  and {len(loaded.rejected) - 20} more; --json lists all")


@app.command()
def evaluate(
    checkpoint: Path,
    corpus: str,
    keyword: Annotated[
        str | None, typer.Option(help="The word to spot. Default: the run's, or sheila.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="speaker, utterance, or all: every clip. Default: the run's, or speaker."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the utterance split. Default: the run's, or 0.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Quality of any checkpoint on any corpus: the test part, or with --split all every clip.

    CHECKPOINT: a .safetensors file of a run's checkpoints/. The run's keyword
    is the default and, on the run's corpus, so are split and seed: with
    others it would be judged on clips that it was trained on.

    CORPUS: embedded, speech_commands_v0.01, speech_commands_v0.02, or a folder
    WORD/SPEAKER_nohash_N.wav.
    """
    from . import data, experiments, runs

    if split not in (None, *data.SPLITS, "all"):  # before a corpus is made
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(data.SPLITS)}, all")
    used, (trained, digest) = {"keyword": "sheila", "split": "speaker", "seed": 0}, runs.beside(checkpoint)
    same = bool(trained) and data.load(corpus).digest == digest
    used |= {name: trained[name] for name in (used if same else ["keyword"]) if name in trained}
    given = {"keyword": keyword, "split": split, "seed": seed}
    used |= {name: value for name, value in given.items() if value is not None}
    found = experiments.evaluate(checkpoint, corpus, **used)
    by_seed = ["seed"] if used["split"] == "utterance" else []
    if same and any(used[name] != trained[name] for name in ("split", *by_seed)):
        print(f"{checkpoint} was trained by split {trained['split']}, seed {trained['seed']}: some of these clips "
              "trained it", file=sys.stderr)  # fmt: skip
    if as_json:
        print(json.dumps(used | found))
        return
    low, high = found["interval"]["one_minus_auc"]
    how = f"{found['part']}, split {used['split']}" if used["split"] != "all" else "all"
    print(f"{found['clips']:,} clips ({how}), {found['positives']:,} of {used['keyword']}")
    print(f"1 - AUC              {found['one_minus_auc']:.3e}   95 % interval {low:.1e} to {high:.1e}")
    print(f"au_fa_fr             {found['au_fa_fr']:.3e}   (compares within one corpus only)")
    print(f"missed at FA 1e-3    {found['miss_at_fa_1e-3']:.2%}")


@app.command()
def cost(checkpoint: Path, as_json: JsonOption = False) -> None:
    """Size and multiply-accumulates of a checkpoint, by part.

    CHECKPOINT: a .safetensors file of a run's checkpoints/.
    """
    from . import cost as costs

    total, rows = costs.of_checkpoint(checkpoint), costs.by_part(checkpoint)
    if as_json:
        print(json.dumps({**total, "parts": rows}))
        return
    print(f"{'part':<12}{'parameters':>12}{'bytes':>10}{'MACs a clip':>13}")
    for row in rows:
        print(f"{row['part']:<12}{row['parameters']:>12,}{row['bytes']:>10,}{row['macs']:>13,}")
    print(
        f"{'network':<12}{total['parameters']:>12,}{total['parameter_bytes']:>10,}{total['macs_per_clip']:>13,}"
    )
    print(f"file {total['file_bytes']:,} bytes; ptflops counts {total['macs_ptflops']:,} MACs")


@app.command()
def stream(
    checkpoint: Path,
    source: Annotated[str, typer.Argument()] = "-",
    mode: Annotated[
        str | None,
        typer.Option(help="window (scores every last second as offline) or carried (one GRU runs on)."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Mean probability from which the keyword counts.")
    ] = None,
    smoothing: Annotated[
        int | None, typer.Option(min=1, help="Steps of 80 ms that the mean is over.")
    ] = None,
    release: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Share of the threshold under which it listens again."),
    ] = None,
    refractory: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds after a detection without another.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Listen and print detections as they happen.

    CHECKPOINT: a .safetensors file of a run's checkpoints/.

    SOURCE: an audio file of any rate and channels; - for raw 16 kHz mono PCM16
    on standard input; mic for the microphone (needs sounddevice, the extra
    microphone), where times are of the audio that was heard.

    What is not given comes from the checkpoint, where it was chosen for few
    false accepts on audio that no result is measured on, or is a default.
    A higher threshold gives fewer false accepts and more misses. On a terminal
    a meter shows the probability.

    Example: arecord -q -f S16_LE -r 16000 -t raw | kws stream CHECKPOINT -
    """
    from . import checkpoints, data, events, inputs, streaming

    spotter, detector = streaming.ready(
        checkpoint, mode, threshold=threshold, smoothing=smoothing, release=release, refractory_s=refractory
    )
    hears_hz = spotter.architecture.front_end.sample_rate_hz
    if hears_hz != data.SAMPLE_RATE_HZ:
        raise ValueError(
            f"{checkpoint} is for audio of {hears_hz:,} Hz; this gives {data.SAMPLE_RATE_HZ:,} Hz"
        )
    listener, found, code = events.Listener(detector), 0, 0
    meter = _Meter(detector.threshold) if sys.stderr and sys.stderr.isatty() else None

    def say(line: str) -> None:
        if meter:
            meter.clear()
        if sys.stderr:
            print(line, file=sys.stderr, flush=True)

    _, metadata = checkpoints.read(checkpoint)
    if threshold is None and spotter.mode not in checkpoints.detectors_of(metadata, checkpoint):
        say(
            f"{checkpoint} holds no detector for {spotter.mode}; threshold {detector.threshold}, "
            "choose yours with --threshold"
        )
    if source == "-":
        pieces = inputs.from_pcm(sys.stdin and sys.stdin.buffer)
    else:
        pieces = inputs.from_microphone(say) if source == "mic" else inputs.from_file(Path(source), say)
    try:
        for time_s, probability in events.detections(spotter, pieces, listener, meter):
            found += 1
            if meter:
                meter.clear()
            if as_json:
                line = json.dumps({"time_s": round(time_s, 3), "probability": round(probability, 6)})
            else:
                line = f"{time_s:9.2f} s   probability {probability:.3f}"
            print(line, flush=True)
    except KeyboardInterrupt:
        code = 0 if source == "mic" else 130  # a microphone is left like this, a recording is not done
    finally:
        if meter:
            meter.clear()
    if listener.time_s < 0:
        say(f"{spotter.position_s:.2f} s of audio, shorter than a second: nothing was scored")
    if not as_json:
        say(f"{found} detections in {spotter.position_s:.1f} s")
    raise typer.Exit(code)


class _Meter:
    """A line on standard error that shows where the stream is and how probable the keyword."""

    WIDTH = 40

    def __init__(self, threshold: float):
        self.mark = min(self.WIDTH - 1, int(threshold * self.WIDTH))

    def __call__(self, time_s: float, mean: float) -> None:
        bar = ["#" if n < mean * self.WIDTH else " " for n in range(self.WIDTH)]
        bar[self.mark] = "|"
        print(f"\r{time_s:9.1f} s [{''.join(bar)}] {mean:.2f}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        print("\r" + " " * (self.WIDTH + 24) + "\r", end="", file=sys.stderr, flush=True)


def main() -> None:
    """The console script: errors of use are one line and exit code 2, failed work is 1."""
    try:
        code, message = app(prog_name="kws", standalone_mode=False) or 0, ""
    except ValueError as error:  # CorpusError, ParameterError, CheckpointError
        code, message = 2, error
    except (RuntimeError, OSError) as error:  # StageError, MissingStageError; disk full, no permission
        code, message = 1, error
    except (KeyboardInterrupt, typer.Abort):
        code, message = 130, "interrupted"
        if sys.argv[1:2] == ["report"]:
            message += "; the same command goes on where this stopped"
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's errors of usage have it
            raise
        code, message = 2, error.format_message()
    if message and sys.stderr:
        print(f"kws: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
