"""README.md and reports/README.md state what the committed run's files hold.

`python tests/test_readme.py` prints the parts that are to stand there.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kwslib.architecture import SETTINGS, Setting
from kwslib.runs import Parameters, Run

ROOT = Path(__file__).parent.parent
README, REPORTS = ((ROOT / name).read_text() for name in ("README.md", "reports/README.md"))
SMALL, LISTENS = Setting("student3", "int8-static"), Setting("student3", "stream")
VERDICTS = {"better": "fewer", "worse": "more"}
VERDICTS["cannot tell"] = "our test is too small to say whether that is more"


def committed() -> Run:
    parts = ("speech_commands", "happy", "talk", "full", "folds", 0, f"{ROOT}/reports/happy")
    return Run(Parameters(*parts))


def percents(shares) -> str:
    """A share and its interval."""
    return "{:.1f} % [{:.1f}, {:.1f}]".format(*(100 * share for share in shares))


def headline(run) -> str:
    """The first sentences, from the result files."""
    big, small = (row for _, row in run.table([Setting("baseline"), SMALL]).iterrows())
    heard, bytes_ = run.streams(LISTENS), run.metrics(LISTENS)["cost"]["file_bytes"]
    accepts = heard["false_accepts"]["read speech"]["per_hour"]
    missed, *ours = heard["missed"]["between words"]["share"], big["missed"], small["missed"]
    shares = [f"**{100 * share:.1f} %**" for share in (*ours, missed)]
    return (
        f"A network hears one word, “happy”. We make its file **{small['smaller']:.0f} times "
        f"smaller**: from {big['file_bytes'] / 1000:.0f} kB to **{small['file_bytes'] / 1000:.1f} "
        f"kB**. The network alone needs {small['fewer_network']:.1f} times fewer multiplications. "
        f"Counting the spectrogram, which costs both the same, **{small['fewer_path']:.1f} times "
        f"fewer**.\n\n"
        f"Both are set to react wrongly to 1 in 1,000 other words. Then the big network misses "
        f"{shares[0]} of the keywords, said by people that it never heard. The small one misses "
        f"{shares[1]}: {VERDICTS[small['verdict']]}.\n\n"
        f"Another version, of {bytes_ / 1000:.0f} kB, was trained to listen all day. It makes "
        f"**{accepts:.1f} false accepts an hour** of read speech, and misses {shares[2]} of the "
        f"keywords between other words: not good enough yet."
    )


def results(run) -> str:
    """The table of README.md: a row a setting, without controls and networks that listen."""
    shown = [each for each in SETTINGS if not (each.is_control or each.is_stream)]
    lines = ["| setting | kB | missed | against the baseline | fewer MACs, network | whole path |"]
    lines.append("|---|--:|--:|---|--:|--:|")
    for name, row in run.table(shown).iterrows():
        missed = percents(row[["missed", "missed_low", "missed_high"]])
        verdict = "–" if name == "baseline" else row["verdict"]
        lines.append(
            f"| {name} | {row['file_bytes'] / 1000:.1f} | {missed} | {verdict} "
            f"| {row['fewer_network']:.1f} | {row['fewer_path']:.1f} |"
        )
    return "\n".join(lines)


def listening(run) -> str:
    """The table of reports/README.md: false accepts and misses of the networks that listen."""
    lines = ["| network | kB | false accepts an hour of read speech | missed between words "
             "| missed 10 dB over speech | missed between words, in hindsight |",
             "|---|--:|--:|--:|--:|--:|"]  # fmt: skip
    for setting in [each for each in SETTINGS if each.is_stream]:
        found, cost = run.streams(setting), run.metrics(setting)["cost"]
        accepts = found["false_accepts"]["read speech"]
        cells = [str(setting), f"{cost['file_bytes'] / 1000:.1f}"]
        cells.append("{per_hour:.1f} [{low:.1f}, {high:.1f}]".format(**accepts))
        for missed in (found["missed"][where] for where in ("between words", "10 dB over speech")):
            cells.append(percents(missed[part] for part in ("share", "low", "high")))
        lines.append(f"| {' | '.join(cells)} | {100 * at_three(found):.1f} % |")
    return "\n".join(lines)


def at_three(found: dict) -> float:
    """Share missed between words by the lowest threshold with at most 3 false accepts an hour."""
    curve = found["curve"]
    pairs = zip(curve["missed"], curve["false_accepts_per_hour"], strict=True)
    return min(missed for missed, accepts in pairs if accepts <= 3)


def open_point(run) -> str:
    """What is not good enough yet, from the result files."""
    share = run.streams(LISTENS)["missed"]["10 dB over speech"]["share"]
    return f"the network that listens misses {100 * share:.0f} % of the keywords"


def teacher(run) -> str:
    """The verdicts that notebook 7 renders."""
    page = (run.folder / "notebooks" / "07_summary.ipynb").read_text("utf-8")
    return re.search(r"student1: [^.<]*; student2: [^.<]*; student3: [^.<]*\.", page)[0]


def integers(run) -> str:
    """The verdict that notebook 6 renders."""
    page = (run.folder / "notebooks" / "06_quantization.ipynb").read_text("utf-8")
    return re.search(r"Worse than its float network for certain: [^<]*\.", page)[0]


def clips(run) -> str:
    """The finding of reports/README.md on clips."""
    row = run.table([SMALL]).iloc[0]
    return (
        "The smallest network is {smaller:.0f} times smaller and misses {missed_ratio:.2f} "
        "({missed_ratio_low:.2f} to {missed_ratio_high:.2f}) times as many keywords as the "
        "baseline: {verdict}."
    ).format(**row)


PAGES = {headline: README, results: README, open_point: README, listening: REPORTS, clips: REPORTS}
PAGES |= {teacher: REPORTS, integers: REPORTS}


@pytest.mark.parametrize("render", PAGES)
def test_a_readme_states_what_the_run_found(render):
    assert render(committed()) in PAGES[render]


def test_the_sample_gives_what_readme_prints():
    checkpoint = ROOT / f"reports/happy/checkpoints/{LISTENS}.safetensors"
    command = [sys.executable, "-m", "kwslib.cli", "stream", checkpoint, ROOT / "data/sample.flac"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.count("\n") >= 1 and f"```\n{printed}```" in README


def test_every_link_leads_to_a_file():
    for page, folder in ((README, ROOT), (REPORTS, ROOT / "reports")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page):
            assert (folder / target).exists(), target


def test_readme_has_short_sentences_and_narrow_tables():
    prose = re.sub(r"```.*?```|\|.*\||<!--.*?-->", "", README, flags=re.DOTALL)
    sentences = re.split(r"(?<=[.:?!])\s|\n\n|\n- ", prose)
    assert max(len(sentence.split()) for sentence in sentences) <= 30
    assert max(line.count("|") - 1 for line in README.splitlines()) <= 6
    assert len(REPORTS.splitlines()) <= 80


if __name__ == "__main__":
    print("\n\n".join(render(committed()) for render in (headline, results, listening)))
