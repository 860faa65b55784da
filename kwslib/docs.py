"""The result tables of README.md and reports/README.md, written from the committed runs.

`make docs` writes them; a test checks that they are what the metric files say.
"""

import re
from pathlib import Path

from . import benchmark_tables, published, runs, stream_docs
from .committed import APART, ROOT, SHARED, run

_MARKS = re.compile(r"(<!-- (results|streams) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)


def results() -> str:
    """Markdown table: a row a setting, both splits beside each other, the study's figures last."""
    shared = run(SHARED).table(list(runs.SETTINGS))
    apart = run(APART).table(list(runs.SETTINGS))
    study = published.study()
    study_errors = study["au_fa_fr"] / study.loc["baseline", "au_fa_fr"]
    lines = [
        "| setting | file bytes | times smaller | times fewer MACs | 1 - AUC, speakers shared | errors, shared "
        "| 1 - AUC, speakers apart | errors, apart | the study: errors | smaller | fewer |",
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
    one = run(SHARED).metrics("baseline")["quality"]
    two = run(APART).metrics("baseline")["quality"]
    return (
        f"\nKeyword `happy`. Speakers shared: {one['clips']:,} clips, {one['positives']:,} of the keyword, last "
        f"epoch. Speakers apart: {two['clips']:,} test clips, {two['positives']:,} of the keyword, epoch chosen on "
        f"validation. *errors*: au_fa_fr over the baseline's, in brackets the 95 % interval of resampled speakers; "
        f"one seed. The task's bar is a 1 - AUC of {published.bar()['one_minus_auc']:.1e}. The study's figures are of "
        f"another keyword and corpus, at the epoch best on the clips that it reported.\n"
    )


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
    tables = {"results": table, "streams": stream_docs.in_short()}
    page = f"""# Reports

`kws report` writes its runs here. Two are committed; open `index.html` of the first in a browser.

- [`{SHARED}/`]({SHARED}/): real speech, split as in the study (speakers shared), with pages, figures,
  scores and checkpoints (`*-stream`: trained on streams; `teacher-stream` taught `baseline-stream`).
- [`{APART}/`]({APART}/): the same with speakers kept apart; metrics, scores, streams and two figures.

## Clips

{table}
![1 - AUC of every setting over how many times cheaper and smaller than the baseline it is]({SHARED}/figures/07_summary/frontier.png)

![Waveform of half a minute with the keyword in the middle, and its probability over time]({SHARED}/figures/02_streaming/demo.png)

## Streams

What was asked, and what is reached; the cost is [below](#what-it-costs):

{stream_docs.targets()}
{stream_docs.on_streams()}
At every rate:

{stream_docs.at_all_rates()}
Where the modes differ, speakers shared:

{stream_docs.modes(SHARED)}
Speakers apart:

{stream_docs.modes(APART)}
{_figures_of(SHARED, "shared")}
{_figures_of(APART, "apart")}
### How far streams are from offline scoring

`benchmarks/equality.py`:

{benchmark_tables.equality()}
### What each measure against false accepts brought

`benchmarks/running_speech.py`:

{benchmark_tables.ablation()}
### What learning tracks costs single clips

`benchmarks/held_out.py`:

{benchmark_tables.held_out()}
### Trained once more

`benchmarks/seeds.py`:

{benchmark_tables.trained_again(SHARED)}
### What it costs

`benchmarks/streaming.py --runs 3`, one thread; memory and start-up of a process that only streams:

{benchmark_tables.engines()}
### A day of it

`benchmarks/streaming.py --hours 24`:

{benchmark_tables.long_run()}"""
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
