"""Markdown tables of what the networks of the committed runs do on streams."""

from collections.abc import Callable

from . import events
from .committed import APART, SHARED, on_stream, run
from .stream_tables import ASKED, NOT_REACHED, ends, interval, modes_table, percent, taken_table
from .streaming import MODES

STREAMED = ("baseline", "baseline-stream", "student3", "student3-stream")


def _times_before(name: str, setting: str) -> tuple[float, float, float]:
    """1 - AUC on clips of a setting over that of the network it was trained from, with its interval."""
    return run(name).error_ratio(setting, setting.removesuffix("-stream"))


def in_short() -> str:
    """Markdown table: a row a setting and mode, both committed runs."""
    of = ("missed % at 1 false accept an hour", "running speech: false accepts an hour at 5 % missed")
    heads = [f"{what}, speakers {how}" for how in ("shared", "apart") for what in of]
    lines = [f"| setting | mode | {' | '.join(heads)} |", "|---|---|--:|--:|--:|--:|"]
    for setting in STREAMED:
        for mode in MODES:
            cells = [setting, mode]
            for name in (SHARED, APART):
                result = on_stream(name, setting, mode)
                speech = result["speech"]["at_misses"]["0.05"]
                point = result["clips"]["at_rate"]["1.0"]
                cells.append(interval(point["miss_rate"], 100) if point else NOT_REACHED)
                cells.append(interval(speech["false_accepts_per_h"]) if speech else NOT_REACHED)
            lines.append("| " + " | ".join(cells) + " |")
    result, words = on_stream(SHARED, STREAMED[0], "window"), _times_said()
    return "\n".join(lines) + (
        f"\n\n{result['clips']['det']['hours']:.0f} hours made of clips and "
        f"{60 * result['speech']['chosen']['hours']:.0f} minutes of recorded running speech, the keyword said between "
        f"two words; exact 95 % intervals. In these hours a clip of the keyword occurs {words[0]} times on average with "
        f"speakers shared, {words[1]} with speakers apart, and a few clips cause most errors: single clips weigh heavily. What offline scoring misses, intervals over speakers, the detectors chosen "
        f"beforehand, plateaus and single clips: [`reports/`](reports/README.md#streams).\n"
    )


def _times_said() -> list[str]:
    """How often a clip of the keyword occurs in the streams of each run, on average."""
    found = []
    for name in (SHARED, APART):
        said = on_stream(name, STREAMED[0], MODES[0])["clips"]["det"]["words"]
        found.append(f"{said / run(name).metrics('baseline')['quality']['positives']:.0f}")
    return found


RATES = [str(rate) for rate in events.RATES_PER_H]


def targets() -> str:
    """Markdown table: what was asked of networks trained on streams, and what they reach: a row a target."""
    networks = [s for s in STREAMED if s.endswith("-stream")]
    heads = [f"{setting}, {how}" for how in ("shared", "apart") for setting in networks]
    lines = [
        f"| target | at most | {' | '.join(heads)} |",
        "|---|--:|" + "--:|" * len(heads),
    ]
    rows = [
        (
            "running speech: false accepts an hour at 5 % missed",
            "speech",
            lambda one: _first(one["speech"]["at_misses"]["0.05"], "false_accepts_per_h"),
        )
    ]
    rows += [
        (
            f"missed more than offline at {float(rate):g} an hour, points",
            "offline",
            lambda one, rate=rate: _first(one["clips"]["at_rate"][rate], "more_than_offline", 100),
        )
        for rate in RATES
    ]
    rows.append(("longest plateau, s", "plateau_s", lambda one: one["plateau_s"]["longest"]))
    for target, asked, of in rows:
        cells = [
            " / ".join(_told(of(on_stream(name, setting, mode)), ASKED[asked]) for mode in MODES)
            for name in (SHARED, APART)
            for setting in networks
        ]
        lines.append(f"| {target} | {ASKED[asked]:g} | {' | '.join(cells)} |")
    cells = [
        _told(_times_before(name, setting)[0], ASKED["clips"], 2)
        for name in (SHARED, APART)
        for setting in networks
    ]
    lines.append(
        f"| single clips: 1 - AUC over that before streams | {ASKED['clips']:g} | {' | '.join(cells)} |"
    )
    again = sum(
        on_stream(name, setting, mode)["clips"]["chosen"]["again"]
        for name in (SHARED, APART)
        for setting in networks
        for mode in MODES
    )
    return "\n".join(lines) + (
        f"\n\n{MODES[0]} / {MODES[1]}; in bold what is reached by the figure alone; its interval, in the tables below, often "
        f"reaches past what was asked. "
        f"Detections of a word that was detected before, until {events.AGAIN_S:g} s after its end, by the detectors "
        f"that were chosen, of all of these together: {again}.\n"
    )


def _first(point: dict | None, name: str, times: float = 1) -> float | None:
    return point and times * point[name][0]


def _told(value: float | None, asked: float, places: int = 1) -> str:
    if value is None:
        return NOT_REACHED
    return f"**{value:.{places}f}**" if value <= asked else f"{value:.{places}f}"


def at_all_rates() -> str:
    """Markdown tables: misses on streams made of clips at each rate, and latency; how many more than offline; misses in
    running speech; a row a run, setting and mode."""

    def of_clips(result: dict) -> list[str]:
        points = [result["clips"]["at_rate"][rate] for rate in RATES]
        latency = (points[RATES.index("1.0")] or {}).get("latency_s") or []
        cells = [interval(point["miss_rate"], 100) if point else NOT_REACHED for point in points]
        return [*cells, ", ".join(f"{each:.2f}" for each in latency)]

    def more(result: dict) -> list[str]:
        points = [result["clips"]["at_rate"][rate] for rate in RATES]
        return [interval(point["more_than_offline"], 100) if point else NOT_REACHED for point in points]

    def of_speech(result: dict) -> list[str]:
        points = [result["speech"]["at_rate"][rate] for rate in RATES] + list(result["mixed"].values())
        return [interval(point["miss_rate"], 100) if point else NOT_REACHED for point in points]

    at = [f"missed % at {float(rate):g} an hour" for rate in RATES]
    mixed = [f"missed % {db} dB over speech" for db in on_stream(SHARED, STREAMED[0], MODES[0])["mixed"]]
    one = on_stream(SHARED, STREAMED[0], MODES[0])["speech"]["det"]
    return (
        f"Streams made of clips; *latency*: from the word's end, median and 95 %, at 1 an hour:\n\n"
        f"{_by_network([*at, 'latency s'], of_clips)}\n"
        f"How many points more a stream misses than offline scoring of the same clips at the same rate, intervals over "
        f"speakers:\n\n{_by_network([f'at {float(rate):g} an hour' for rate in RATES], more)}\n"
        f"Running speech, {60 * one['hours']:.0f} minutes, so that half a false accept an hour and one are none; the keyword between two "
        f"words; and laid over speech, so many dB louder, heard by the detectors that were chosen:\n\n"
        f"{_by_network(at + mixed, of_speech)}"
    )


def modes(name: str) -> str:
    """Markdown table: where the modes differ on a run's streams made of clips, and what is taken for the keyword; a row
    a setting."""
    results = [on_stream(name, setting, mode) for setting in STREAMED for mode in MODES]
    beside = modes_table([one for one in results if one["mode"] == MODES[0]])
    taken = taken_table(results)["taken"]
    heads = [f"{head} %" for head in beside.columns] + [f"taken for the keyword, {mode}" for mode in MODES]
    lines = [
        f"| setting | {' | '.join(heads)} |",
        "|---|" + "--:|" * len(beside.columns) + "---|" * len(MODES),
    ]
    for setting in STREAMED:
        cells = [*beside.loc[setting], *(taken[f"{setting}, {mode}"] for mode in MODES)]
        lines.append(f"| {setting} | {' | '.join(cells)} |")
    return "\n".join(lines) + (
        "\n\nKeywords that both modes hit, one alone or neither, each at one false accept an hour. *Taken for the "
        "keyword*: what was said at false accepts, at five an hour: the word whose clip begins nearest to one second "
        "before. The keyword's own name stands for a detection that came too late, or a second one; when that comes just "
        "after it, the next word may be named instead.\n"
    )


def _by_network(heads: list[str], cells: Callable[[dict], list[str]]) -> str:
    """Markdown table, a row a run, setting and mode; cells: of a result."""
    lines = [f"| speakers | setting | mode | {' | '.join(heads)} |", "|---|---|---|" + "--:|" * len(heads)]
    lines += [
        "| " + " | ".join([how, setting, mode, *cells(on_stream(name, setting, mode))]) + " |"
        for how, name in (("shared", SHARED), ("apart", APART))
        for setting in STREAMED
        for mode in MODES
    ]
    return "\n".join(lines) + "\n"


def on_streams() -> str:
    """Markdown tables of both committed runs: a row a setting and mode; and what single words and clips say."""
    one = on_stream(SHARED, STREAMED[0], "window")
    hours, words = (one["clips"]["at_rate"]["1.0"][name] for name in ("hours", "words"))
    minutes = 60 * one["speech"]["chosen"]["hours"]
    return (
        f"Speakers shared:\n\n{_streams_of(SHARED)}\nSpeakers apart:\n\n{_streams_of(APART)}\n"
        f"Streams of {one['clips']['streams']} seeds, {hours:.0f} hours and {words:,} keywords a run; {minutes:.0f} "
        f"minutes of recorded running speech; exact 95 % intervals. *Over speakers*: the interval where those "
        f"who say the keywords are resampled, each with all that they say. *More than offline*: by how many points the stream "
        f"misses more than offline scoring of the same clips does at the same rate, over speakers too. *At 5 % missed*: at the "
        f"threshold that misses 5 % of the reported keywords, said between two words; -: 5 % not reached. *Chosen detector*: what the "
        f"detector does that was chosen beforehand, on talk by espeak-ng and on clips of the validation part, or, where speakers are "
        f"shared and nothing else is left, on training clips; `*-stream` checkpoints hold theirs.\n\n{_words_and_clips()}\n"
        f"*Plateau*: how much later than offline the probability falls after a word, in `carried`, median and longest of "
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
            result = on_stream(name, setting, mode)
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
        plateaus = [on_stream(name, setting, "carried")["plateau_s"] for name in (SHARED, APART)]
        is_streamed = setting.endswith("-stream")
        cells = [setting, *(f"{one['median']:.2f}, {one['longest']:.2f}" for one in plateaus)]
        cells += [
            interval(_times_before(name, setting), places=2) if is_streamed else ""
            for name in (SHARED, APART)
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
