"""The result tables of README.md and reports/README.md, written from the committed runs.

`make docs` writes them; a test checks that they are what the metric files say.
"""

import json
import re
from pathlib import Path

from . import metrics, published, runs
from .stream_tables import NOT_REACHED, ends, interval, percent
from .streaming import MODES

ROOT = Path(__file__).parent.parent
SHARED, APART = "speech-commands-happy", "speech-commands-happy-speaker"  # the two committed runs
_MARKS = re.compile(r"(<!-- (results|streams) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)


def open_committed(name: str) -> runs.Run:
    """A committed run, opened with the parameters that it holds."""
    held = json.loads((ROOT / "reports" / name / "run.json").read_text())["parameters"]
    return runs.Run(runs.Parameters(**held, run=str(ROOT / "reports" / name)))


def results() -> str:
    """Markdown table: a row a setting, both splits beside each other, the study's figures last."""
    shared = open_committed(SHARED).table(list(runs.SETTINGS))
    apart = open_committed(APART).table(list(runs.SETTINGS))
    study = published.study()
    study_errors = study["au_fa_fr"] / study.loc["baseline", "au_fa_fr"]
    lines = [
        "| setting | file bytes | times smaller | times fewer MACs | 1 - AUC, speakers shared | errors "
        "| 1 - AUC, speakers apart | errors | the study: errors | smaller | fewer |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for setting in runs.SETTINGS:
        one, two = shared.loc[setting], apart.loc[setting]
        theirs = ["", "", ""]
        if setting in study.index:
            row = study.loc[setting]
            theirs = [f"{study_errors[setting]:.2f}", f"{row['file']:.1f}", f"{row['speed']:.1f}"]
        cells = [
            setting,
            f"{one['file_bytes']:,.0f}",
            f"{one['file']:.1f}",
            f"{one['speed']:.1f}",
            f"{one['one_minus_auc']:.2e}",
            _errors(one),
            f"{two['one_minus_auc']:.2e}",
            _errors(two),
            *theirs,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def explanation() -> str:
    """What the table's figures are of."""
    one = open_committed(SHARED).metrics("baseline")["quality"]
    two = open_committed(APART).metrics("baseline")["quality"]
    return (
        f"\nKeyword `happy`. Speakers shared: {one['clips']:,} clips, {one['positives']:,} of the keyword, last "
        f"epoch. Speakers apart: {two['clips']:,} test clips, {two['positives']:,} of the keyword, epoch chosen on "
        f"validation. *errors*: au_fa_fr over the baseline's, in brackets the 95 % interval of resampled speakers; "
        f"one seed. The task's bar is a 1 - AUC of {published.bar()['one_minus_auc']:.1e}. The study's figures are of "
        f"another keyword and corpus, at the epoch best on the clips that it reported.\n"
    )


STREAMED = ("baseline", "baseline-stream", "student3", "student3-stream")


def _result(name: str, setting: str, mode: str) -> dict:
    return json.loads((ROOT / "reports" / name / "streams" / f"{setting}-{mode}.json").read_text())


def _paid(name: str, setting: str) -> str:
    """1 - AUC on clips of a setting over that of the network it was trained from, with the 95 % interval
    over resampled speakers."""
    run = open_committed(name)
    mine, before = run.scores(setting), run.scores(setting.removesuffix("-stream"))

    def times(labels, scores, scores_before) -> float:
        return metrics.one_minus_auc(labels, scores) / metrics.one_minus_auc(labels, scores_before)

    labels, scores = mine["labels"], [each["probabilities"] for each in (mine, before)]
    speakers = [Path(clip).name.split("_nohash_")[0] for clip in mine["ids"]]
    return interval(
        (times(labels, *scores), *metrics.bootstrap(times, labels, *scores, groups=speakers)), places=2
    )


def streams_in_short() -> str:
    """Markdown table: a row a setting and mode, both committed runs."""
    of = ("missed % at 1 false accept an hour", "running speech: false accepts an hour at 5 % missed")
    heads = [f"{what}, speakers {how}" for how in ("shared", "apart") for what in of]
    lines = [f"| setting | mode | {' | '.join(heads)} |", "|---|---|--:|--:|--:|--:|"]
    for setting in STREAMED:
        for mode in MODES:
            cells = [setting, mode]
            for name in (SHARED, APART):
                result = _result(name, setting, mode)
                speech = result["speech"]["at_misses"]["0.05"]
                cells.append(interval(result["clips"]["at_rate"]["1.0"]["miss_rate"], 100))
                cells.append(interval(speech["false_accepts_per_h"]) if speech else NOT_REACHED)
            lines.append("| " + " | ".join(cells) + " |")
    result = _result(SHARED, STREAMED[0], "window")
    return "\n".join(lines) + (
        f"\n\n{result['clips']['det']['hours']:.0f} hours made of clips and "
        f"{60 * result['speech']['chosen']['hours']:.0f} minutes of recorded running speech, the keyword said between "
        f"two words; exact 95 % intervals. Each clip occurs many times in a stream and a few clips cause most errors, so "
        f"single clips weigh heavily. What offline scoring misses, intervals over speakers, the detectors chosen "
        f"beforehand, plateaus and single clips: [`reports/`](reports/README.md#streams).\n"
    )


def on_streams() -> str:
    """Markdown tables of both committed runs: a row a setting and mode; and what single words and clips say."""
    one = _result(SHARED, STREAMED[0], "window")
    hours, words = (one["clips"]["at_rate"]["1.0"][name] for name in ("hours", "words"))
    minutes = 60 * one["speech"]["chosen"]["hours"]
    return (
        f"Speakers shared:\n\n{_streams_of(SHARED)}\nSpeakers apart:\n\n{_streams_of(APART)}\n"
        f"Streams of {one['clips']['streams']} seeds, {hours:.0f} hours and {words:,} keywords a run; {minutes:.0f} "
        f"minutes of recorded running speech; exact 95 % intervals. *Over speakers*: the interval where those "
        f"who say the keywords are resampled, each with all that they say. *More than offline*: by how many points the stream "
        f"misses more than offline scoring of the same clips does at the same rate, over speakers too. *At 5 % missed*: at the "
        f"threshold that misses 5 % of the reported keywords, said between two words; -: 5 % not reached. *Chosen detector*: what the "
        f"detector does that was chosen beforehand on other audio; `*-stream` checkpoints hold theirs.\n\n{_words_and_clips()}\n"
        f"*Plateau*: by how much the probability falls later than offline after a word, median and longest of "
        f"{one['plateau_s']['tracks']}. *Single clips*: 1 - AUC over that of the network before it met streams, with "
        f"the interval over resampled speakers.\n"
    )


def _streams_of(name: str) -> str:
    lines = [
        "| setting | mode | missed % at 1 false accept an hour | over speakers | more than offline | running speech: "
        "false accepts an hour at 5 % missed | over speakers | chosen detector: missed % | false accepts an hour |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for setting in STREAMED:
        for mode in MODES:
            result = _result(name, setting, mode)
            point, speech = result["clips"]["at_rate"]["1.0"], result["speech"]["at_misses"]["0.05"]
            own = result["speech"]["chosen"]
            cells = [
                setting,
                mode,
                interval(point["miss_rate"], 100),
                ends([100 * share for share in point["miss_rate_over_speakers"]]),
                interval(point["more_than_offline"], 100),
                interval(speech["false_accepts_per_h"]) if speech else NOT_REACHED,
                ends(speech["over_speakers"]) if speech else "",
                percent(own),
                interval(own["false_accepts_per_h"]),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _words_and_clips() -> str:
    heads = [
        f"{what}, speakers {how}" for what in ("plateau s", "single clips") for how in ("shared", "apart")
    ]
    lines = [f"| setting | {' | '.join(heads)} |", "|---|--:|--:|--:|--:|"]
    for setting in STREAMED:
        plateaus = [_result(name, setting, "carried")["plateau_s"] for name in (SHARED, APART)]
        is_streamed = setting.endswith("-stream")
        cells = [setting, *(f"{one['median']:.2f}, {one['longest']:.2f}" for one in plateaus)]
        cells += [_paid(name, setting) if is_streamed else "" for name in (SHARED, APART)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def ablation() -> str:
    """Markdown table: what each measure against false accepts on running speech brings."""
    found = json.loads((ROOT / "reports" / "ablation.json").read_text())
    aside = ("network", "variant", "one_minus_auc", "loss", "missed")
    ways = [name for name in found["rows"][0] if name not in aside]
    heads = [f"{way.split(', ')[0]}, mean of {way.split(', ')[1]}" for way in ways]
    on_tracks = [f"{what}, {way}" for way in found["rows"][0]["loss"] for what in ("loss", "steps missed %")]
    lines = [f"| network | trained on | 1 - AUC of clips | {' | '.join(on_tracks + heads)} |"]
    lines.append("|---|---|--:|" + "--:|" * len(on_tracks + heads))
    for row in found["rows"]:
        rates = [interval(row[way]) if row[way] else NOT_REACHED for way in ways]
        cells = [f"{row['one_minus_auc']:.2e}"]
        for way, loss in row["loss"].items():
            cells += [f"{loss:.3f}", f"{100 * row['missed'][way]:.0f}"]
        cells += rates
        variant = row["variant"] if row["variant"] == "clips alone" else f"+ {row['variant']}"
        lines.append(f"| {row['network']} | {variant} | {' | '.join(cells)} |")
    return "\n".join(lines) + (
        f"\n\nFalse accepts an hour of {60 * found['speech_hours']:.0f} minutes of recorded running speech where 5 % of "
        f"{found['keywords']} keywords are missed, speakers apart; each row has what the rows above it have, and "
        f"{found['epochs']} epochs of training; the released networks have more, and so have those that teach the last row. "
        f"*mean of 3*: three steps smoothed; released networks smooth as many as was chosen. Rows are of one seed, and their "
        f"intervals of the hours alone. *Loss*, *steps missed*: on new tracks of the validation part, made as for the last rows; missed are those of the "
        f"keyword where {100 * found['rare']:.1f} % of the others are taken for it. Both tell more than counts do (`benchmarks/recipes.py`), "
        f"the loss also of how sure a network is. "
        f"How each measure was chosen: `data/README.md`.\n"
    )


def trained_again() -> str:
    """Markdown table: the same networks trained on streams once more, a row a training and mode."""
    lines = [
        "| network | mode | training | running speech: false accepts an hour at 5 % missed | chosen detector: missed % "
        "| false accepts an hour | missed % at 1 false accept an hour | more than offline | single clips |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    found = json.loads((ROOT / "reports" / "seeds.json").read_text())[SHARED]
    for row in found["rows"]:
        at_5, own = row["speech_at_5_percent"], row["speech_by_detector"]
        cells = [
            f"{row['network']}-stream",
            row["mode"],
            "released" if row["again"] == 0 else str(row["again"]),
            interval(at_5["false_accepts_per_h"]) if at_5 else NOT_REACHED,
            percent(own),
            interval(own["false_accepts_per_h"]),
            interval(row["missed"]["1.0"], 100),
            interval(row["more_than_offline"]["1.0"], 100),
            interval(row["clips"], places=2),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + (
        f"\n\nSpeakers shared, {60 * found['speech_hours']:.0f} minutes of {found['speech']} running speech. Each training "
        f"begins with the same networks of clips and draws other tracks and other batches, teachers too; detectors are "
        f"chosen for each. Columns as above. So much of a figure is chance: a smaller "
        f"difference between two recipes says nothing.\n"
    )


def engines() -> str:
    """Markdown tables: what streaming costs, and a day of it."""
    found = json.loads((ROOT / "reports" / "engines.json").read_text())
    rows = [{**row, **_parts(found["parts"], row["engine"])} for row in found["rows"]]
    lines = ["| " + " | ".join(rows[0]) + " |", "|---|" + "--:|" * (len(rows[0]) - 1)]
    lines += [
        "| " + " | ".join(f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()) + " |"
        for row in rows
    ]
    days = json.loads((ROOT / "reports" / "long-run.json").read_text())
    of_days = [
        f"{row['mode']}: {row['hours']} hours fed at {row['times_real_time']:,} times real time, memory "
        f"{row['memory_mb'][0]} MB after the first hour and {row['memory_mb'][-1]} MB after the last, {row['audio_mb']} MB of "
        f"it the hour of audio that is fed; the last hour is a "
        f"fresh engine's to {row['largest_difference_after_30_s']:.0e} after 30 s"
        for row in days
    ]
    command = "".join(
        f"- `kws stream` on {what}: {one['memory_mb']:.0f} MB at most, first detection ready after {one['start_s']:.2f} s.\n"
        for what, one in found["command"].items()
    )
    return (
        "\n".join(lines)
        + "\n\n*log-mel*, *network*: milliseconds of a second of audio in both parts of our engine, measured apart. "
        + f"Versions: {', '.join(f'{name} {version}' for name, version in found['versions'].items())}.\n\n"
        + command
        + "\n".join(f"- {line}." for line in of_days)
        + "\n"
    )


def _parts(parts: dict, engine: str) -> dict[str, str]:
    """Our engine's milliseconds by part; nothing of the others."""
    whose, *of = engine.split(", ")
    spent = parts[of[0]][of[1]] if whose == "ours" else {}
    return {part: f"{spent[part]:.2f}" if spent else "" for part in ("log-mel", "network")}


def _errors(row) -> str:
    return f"{row['errors']:.2f} [{row['errors_low']:.2f}, {row['errors_high']:.2f}]"


def _figures_of(name: str, how: str) -> str:
    folder = f"{name}/figures/02_streaming"
    return (
        f"Speakers {how}, on streams made of clips and on running speech:\n\n"
        f"![Share of keywords missed over false accepts an hour, speakers {how}]({folder}/det.png)\n\n"
        f"![Share of keywords missed over false accepts an hour of running speech, speakers {how}]({folder}/speech.png)\n"
    )


def rendered() -> dict[Path, str]:
    """Path -> text of the two files with their tables as the metric files say."""
    readme = ROOT / "README.md"
    table = results() + explanation()
    tables = {"results": table, "streams": streams_in_short()}
    page = f"""# Reports

`kws report` writes its runs here. Two are committed; open `index.html` of the first in a browser.

- [`{SHARED}/`]({SHARED}/): real speech, split as in the study (speakers shared), with pages, figures,
  scores and checkpoints.
- [`{APART}/`]({APART}/): the same with speakers kept apart; metrics, scores, streams and two figures.

## Clips

{table}
![1 - AUC of every setting over how many times cheaper and smaller than the baseline it is]({SHARED}/figures/07_summary/frontier.png)

![Waveform of half a minute with the keyword in the middle, and its probability over time]({SHARED}/figures/02_streaming/demo.png)

## Streams

{on_streams()}
{_figures_of(SHARED, "shared")}
{_figures_of(APART, "apart")}
### What each measure against false accepts brought

`benchmarks/running_speech.py`:

{ablation()}
### Trained once more

`benchmarks/seeds.py`:

{trained_again()}
### What it costs

`benchmarks/streaming.py`, one thread, medians of one run; memory and start-up of a process that only streams:

{engines()}"""
    return {
        readme: _MARKS.sub(lambda found: found[1] + tables[found[2]] + found[3], readme.read_text()),
        ROOT / "reports" / "README.md": page,
    }


def main() -> None:
    for path, text in rendered().items():
        path.write_text(text)
        print(path)


if __name__ == "__main__":
    main()
