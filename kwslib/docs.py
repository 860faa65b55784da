"""The result tables of README.md and reports/README.md, written from the committed runs.

`make docs` writes them; a test checks that they are what the metric files say.
"""

import json
import re
from pathlib import Path

from . import metrics, published, runs
from .stream_tables import NOT_REACHED, ends, interval

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


def on_streams() -> str:
    """Markdown table: a row a setting and mode, both committed runs."""
    lines = [
        "| setting | mode | missed % at 1 false accept an hour, speakers shared | offline | running speech: "
        "false accepts an hour at 5 % missed | missed %, speakers apart | offline | running speech | "
        "plateau s, median, longest | single clips, times the errors before |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    paid = {
        setting: ", ".join(_paid(name, setting) for name in (SHARED, APART))
        if setting.endswith("-stream")
        else ""
        for setting in STREAMED
    }
    for setting in STREAMED:
        for mode in ("window", "carried"):
            cells = [setting, mode]
            for name in (SHARED, APART):
                result = _result(name, setting, mode)
                point, speech = result["clips"]["at_rate"]["1.0"], result["speech"]["at_misses"]["0.05"]
                cells += [
                    interval(point["miss_rate"], 100),
                    f"{100 * point['offline_miss_rate']:.1f}",
                    _with_speakers(speech) if speech else NOT_REACHED,
                ]
            plateau = _result(SHARED, setting, mode)["plateau_s"]
            cells.append(f"{plateau['median']:.2f}, {plateau['longest']:.2f}" if mode == "carried" else "0")
            cells.append(paid[setting])
            lines.append("| " + " | ".join(cells) + " |")
    one = _result(SHARED, STREAMED[0], "window")
    hours, words = (one["clips"]["at_rate"]["1.0"][name] for name in ("hours", "words"))
    minutes = 60 * one["speech"]["chosen"]["hours"]
    return "\n".join(lines) + (
        f"\n\nStreams of {one['clips']['streams']} seeds, {hours:.0f} hours and {words:,} keywords a run; "
        f"{minutes:.0f} minutes of recorded running speech; exact 95 % intervals. "
        f"*Running speech* has a second interval behind the semicolon: the same rate over the keywords' speakers, "
        f"resampled; -: 5 % not reached. *offline*: the same clips cut out "
        f"where they lie. *plateau*: how much later than offline the probability falls after a word. "
        f"*Single clips*: 1 - AUC over that of the network before it met streams, speakers shared, apart, with the interval over resampled speakers. A stream "
        f"has each clip many times, and few clips make most errors: single ones weigh heavily.\n"
    )


def _with_speakers(point: dict) -> str:
    return f"{interval(point['false_accepts_per_h'])}; {ends(point['over_speakers'])}"


def ablation() -> str:
    """Markdown table: what each measure against false accepts on running speech brings."""
    found = json.loads((ROOT / "reports" / "ablation.json").read_text())
    ways = [name for name in found["rows"][0] if name not in ("network", "variant", "one_minus_auc")]
    heads = [f"{way.split(', ')[0]}, mean of {way.split(', ')[1]}" for way in ways]
    lines = [f"| network | trained on | 1 - AUC of clips | {' | '.join(heads)} |"]
    lines.append("|---|---|--:|" + "--:|" * len(ways))
    for row in found["rows"]:
        rates = [interval(row[way]) if row[way] else NOT_REACHED for way in ways]
        variant = row["variant"] if row["variant"] == "clips alone" else f"+ {row['variant']}"
        lines.append(f"| {row['network']} | {variant} | {row['one_minus_auc']:.2e} | {' | '.join(rates)} |")
    return "\n".join(lines) + (
        f"\n\nFalse accepts an hour of {60 * found['speech_hours']:.0f} minutes of recorded running speech where 5 % of "
        f"{found['keywords']} keywords are missed, speakers apart; each row has what the rows above it have, and "
        f"{found['epochs']} epochs of training (the released networks have more, and so have the teachers). The baseline's dropout is that of training on tracks in all rows but the first. *mean of 3*: three steps smoothed.\n"
    )


def engines() -> str:
    """Markdown tables: what streaming costs, and a day of it."""
    rows = json.loads((ROOT / "reports" / "engines.json").read_text())["rows"]
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
    return "\n".join(lines) + "\n\n" + "\n".join(f"- {line}." for line in of_days) + "\n"


def _errors(row) -> str:
    return f"{row['errors']:.2f} [{row['errors_low']:.2f}, {row['errors_high']:.2f}]"


def rendered() -> dict[Path, str]:
    """Path -> text of the two files with their tables as the metric files say."""
    readme = ROOT / "README.md"
    table = results() + explanation()
    tables = {"results": table, "streams": on_streams()}
    page = f"""# Reports

`kws report` writes its runs here. Two are committed; open `index.html` of the first in a browser.

- [`{SHARED}/`]({SHARED}/): real speech, split as in the study (speakers shared), with pages, figures,
  scores and checkpoints.
- [`{APART}/`]({APART}/): the same with speakers kept apart; metrics and scores.

## Clips

{table}
![1 - AUC of every setting over how many times cheaper and smaller than the baseline it is]({SHARED}/figures/07_summary/frontier.png)

![Waveform of half a minute with the keyword in the middle, and its probability over time]({SHARED}/figures/02_streaming/demo.png)

## Streams

{tables["streams"]}
![Share of keywords missed over false accepts an hour]({SHARED}/figures/02_streaming/det.png)

![False accepts an hour of running speech over share of keywords missed]({SHARED}/figures/02_streaming/speech.png)

### What each measure against false accepts brought

`benchmarks/running_speech.py`:

{ablation()}
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
