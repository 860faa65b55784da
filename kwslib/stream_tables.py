"""Tables of what networks do on streams, a row a setting and mode, of results as `judging.result` reads them."""

from collections.abc import Callable

import numpy as np
import pandas

from .events import PLATEAU_S

NOT_REACHED = "not reached"
# At most this was asked of networks trained on streams, before any was: false accepts an hour of running speech at
# 5 % missed, points that a stream misses more than offline scoring, seconds, times the errors on single clips.
ASKED = {"speech": 10.0, "offline": 1.0, "plateau_s": PLATEAU_S, "clips": 1.1}


def clips_table(results: list[dict]) -> pandas.DataFrame:
    """Misses on streams made of clips, in percent, at each rate of false accepts, and latency; below, the
    interval over speakers, and from the best stream to the worst."""

    def misses(point: dict) -> str:
        each = [100 * share for share in point["miss_rate_of_each"]]
        over = ends([100 * share for share in point["miss_rate_over_speakers"]])
        return f"{interval(point['miss_rate'], 100)}\n{over}\n{min(each):.1f} to {max(each):.1f}"

    def row(one: dict) -> dict:
        latency = (one["clips"]["at_rate"]["1.0"] or {}).get("latency_s")
        return _at_rates(one, misses) | {"latency s": "{:.2f}, {:.2f}".format(*latency) if latency else ""}

    return _table(results, row)


def against_offline_table(results: list[dict]) -> pandas.DataFrame:
    """How many more of a hundred keywords streams miss than offline scoring of the same clips does at the
    same rate of false accepts, and what offline misses; below, the interval over speakers, and from the best
    stream to the worst."""

    def more(point: dict) -> str:
        value, low, high = (100 * share for share in point["more_than_offline"])
        each = 100 * np.subtract(point["miss_rate_of_each"], point["offline_miss_rate_of_each"])
        return (
            f"{value:+.1f} (offline {100 * point['offline_miss_rate']:.1f})\n"
            f"[{low:+.1f}, {high:+.1f}]\n{min(each):+.1f} to {max(each):+.1f}"
        )

    return _table(results, lambda one: _at_rates(one, more))


def modes_table(results: list[dict]) -> pandas.DataFrame:
    """Of the keywords on streams made of clips, in percent, those that both modes hit, one alone and neither, each
    at one false accept an hour; a row a setting. results: of one mode, where two were judged."""
    rows = {}
    for one in results:
        ((other, counts),) = one["clips"]["beside"].items()
        heads = {
            "both": "both",
            "alone": f"{one['mode']} alone",
            "other": f"{other} alone",
            "neither": "neither",
        }
        rows[one["setting"]] = {
            head: f"{100 * counts[part] / one['clips']['det']['words']:.1f}" if counts else NOT_REACHED
            for part, head in heads.items()
        }
    return pandas.DataFrame.from_dict(rows, orient="index")


def taken_table(results: list[dict], rate: float = 5.0, most: int = 6) -> pandas.DataFrame:
    """The words most often taken for the keyword on streams made of clips, and how often, at a rate of false
    accepts an hour; last the others together."""

    def row(one: dict) -> dict:
        point = one["clips"]["at_rate"][str(rate)]
        if not point:
            return {"taken": NOT_REACHED}
        words = list(point["taken"].items())
        others = sum(count for _, count in words[most:])
        told = [f"{word} {count}" for word, count in words[:most]] + [f"others {others}"] * (others > 0)
        return {"taken": ", ".join(told) or "none"}

    return _table(results, row)


def speech_table(results: list[dict]) -> pandas.DataFrame:
    """False accepts an hour of running speech at each share of misses; below, how many were counted; at 5 %
    over speakers too."""

    def row(one: dict) -> dict:
        cells = {}
        for share, point in one["speech"]["at_misses"].items():
            count = f"\n{point['false_accepts']} counted" if point else ""
            cells[f"{100 * float(share):g} % missed"] = speech_rate(one, share) + count
            if share == "0.05":
                cells["over speakers"] = ends(point["over_speakers"]) if point else NOT_REACHED
        return cells

    return _table(results, row)


def detector_table(results: list[dict]) -> pandas.DataFrame:
    """Of the detector chosen beforehand: misses in percent and false accepts an hour, of which some are a word
    detected once more, on streams made of clips; misses of the keyword between two words; false accepts an
    hour of running speech."""

    def row(one: dict) -> dict:
        clips, speech = one["clips"]["chosen"], one["speech"]["chosen"]
        return {
            ("hours of clips", "missed %"): percent(clips),
            ("hours of clips", "false accepts an hour"): interval(clips["false_accepts_per_h"]),
            ("hours of clips", "a word again"): str(clips["again"]),
            ("between two words", "missed %"): percent(speech),
            ("running speech", "false accepts an hour"): interval(speech["false_accepts_per_h"]),
        }

    table = _table(results, row)
    return table.set_axis(pandas.MultiIndex.from_tuples(table.columns), axis=1)


def mixed_table(results: list[dict]) -> pandas.DataFrame:
    """Misses, in percent, of keywords mixed into running speech, by the detector chosen beforehand."""

    def row(one: dict) -> dict:
        return {f"{over_db} dB above the speech": percent(of) for over_db, of in one["mixed"].items()}

    return _table(results, row)


def percent(outcome: dict) -> str:
    """Keywords missed, in percent, with interval; nothing where none is said."""
    return interval(outcome["miss_rate"], 100) if outcome["miss_rate"] else ""


def speech_rate(one: dict, share: str) -> str:
    """False accepts an hour of running speech where this share of keywords is missed, with interval."""
    point = one["speech"]["at_misses"][share]
    return interval(point["false_accepts_per_h"]) if point else NOT_REACHED


def interval(values, times: float = 1, places: int = 1) -> str:
    """A value with the ends of its interval, (3,): '7.9 [2.1, 20.2]'."""
    value, low, high = (f"{times * v:.{places}f}" for v in values)
    return f"{value} [{low}, {high}]"


def ends(low_high: list[float | None]) -> str:
    """The ends of an interval: '[2.0, -]', '-' where a share of misses is not reached."""
    return f"[{', '.join('-' if rate is None else f'{rate:.1f}' for rate in low_high)}]"


def on_lines(table: pandas.DataFrame):
    """A table whose cells have lines, as people should see it."""
    return table.style.set_properties(**{"white-space": "pre"})


def _table(results: list[dict], row: Callable[[dict], dict]) -> pandas.DataFrame:
    rows = {f"{one['setting']}, {one['mode']}": row(one) for one in results}
    return pandas.DataFrame.from_dict(rows, orient="index")


def _at_rates(one: dict, cell: Callable[[dict], str]) -> dict[str, str]:
    """A cell for each rate of false accepts on streams made of clips."""
    return {
        f"{float(rate):g} an hour": cell(point) if point else NOT_REACHED
        for rate, point in one["clips"]["at_rate"].items()
    }
