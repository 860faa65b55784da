"""Markdown tables of what `benchmarks/` measured, from the result files in reports/."""

from .committed import benchmark, on_stream
from .stream_tables import NOT_REACHED, interval, percent


def ablation() -> str:
    """Markdown table: what each measure against false accepts on running speech brings."""
    found = benchmark("ablation")
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
        f"{found['epochs']} epochs of training; the released networks have more, and so have those that teach the last row; the "
        f"tracks of the released baselines weigh less. "
        f"*mean of 3*: three steps smoothed; released networks smooth as many as was chosen. Rows are of one seed, and their "
        f"intervals of the hours alone. *Loss*, *steps missed*: on new tracks of the validation part, made as for the last rows; missed are those of the "
        f"keyword where {100 * found['rare']:.1f} % of the others are taken for it. Both tell more than counts do (`benchmarks/recipes.py`), "
        f"the loss also of how sure a network is. "
        f"How each measure was chosen: `data/README.md`.\n"
    )


def held_out() -> str:
    """Markdown table: what learning tracks costs single clips, a row a recipe."""
    found = benchmark("held-out")
    lines = [
        "| trained on tracks | 1 - AUC of clips over that before | in noise | steps missed %, window | carried |",
        "|---|--:|--:|--:|--:|",
    ]
    trainings = {}
    for row in found["rows"]:
        trainings.setdefault(row["recipe"], []).append(row)
    for recipe, rows in trainings.items():
        cells = [recipe]
        for kind in ("plain", "noisy"):
            cells.append(", ".join(f"{row['clips'][kind] / row['clips_before'][kind]:.2f}" for row in rows))
        for way in ("window", "carried"):
            cells.append(", ".join(f"{100 * row['missed'][way]:.0f}" for row in rows))
        lines.append("| " + " | ".join(cells) + " |")
    parts = {row["part"]: row["keywords"] for row in found["rows"]}
    return "\n".join(lines) + (
        f"\n\nBaselines trained for {found['epochs']} epochs on tracks, on labels alone, from clips that neither run reports; "
        f"measured on speakers held out of them, {' and '.join(str(parts[part]) for part in sorted(parts))} keywords in "
        f"{len(parts)} parts. Figures of a row are of one training each, by the part held out; some recipes have fewer. *Steps missed*: "
        f"as in the table before. *As the student*: tracks weigh "
        f"as much in the loss as for the student; *tracks weigh less*: as for the released baselines.\n"
    )


def trained_again(run: str) -> str:
    """Markdown table: a run's networks trained on streams once more, a row a training and mode."""
    lines = [
        "| network | mode | training | running speech: false accepts an hour at 5 % missed | chosen detector: missed % "
        "| false accepts an hour | missed % at 1 false accept an hour | more than offline | single clips |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    found = benchmark("seeds")[run]
    is_released = all(
        row["missed"]["1.0"]
        == on_stream(run, f"{row['network']}-stream", row["mode"])["clips"]["at_rate"]["1.0"]["miss_rate"]
        for row in found["rows"]
        if not row["again"]
    )
    whose = (
        "Training 0 is the run's own"
        if is_released
        else "Networks by an earlier recipe, not the released ones"
    )
    weights = ", ".join(f"{weight:g} for {network}" for network, weight in found["tracks_weigh"].items())
    for row in found["rows"]:
        at_5, own = row["speech_at_5_percent"], row["speech_by_detector"]
        cells = [
            f"{row['network']}-stream",
            row["mode"],
            str(row["again"]),
            interval(at_5["false_accepts_per_h"]) if at_5 else NOT_REACHED,
            percent(own),
            interval(own["false_accepts_per_h"]),
            interval(row["missed"]["1.0"], 100),
            interval(row["more_than_offline"]["1.0"], 100),
            interval(row["clips"], places=2),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + (
        f"\n\n{whose}: tracks' share of the loss was {weights}. "
        f"Speakers shared, {60 * found['speech_hours']:.0f} minutes of {found['speech']} running speech. Each training "
        f"begins with the same networks of clips and draws other tracks and other batches, teachers too; detectors are "
        f"chosen for each. Columns as above. Differences between two recipes that are "
        f"no larger than those between trainings of one may be chance.\n"
    )


# At most this was asked: of pymicro-wakeword's CPU, by network; of `kws stream`.
ASKED = {"baseline": 0.5, "student3": 0.25, "memory_mb": 80, "start_s": 0.5}


def engines() -> str:
    """Markdown table: what streaming costs."""
    found = benchmark("engines")
    rows = [_engine(row) | _parts(found["parts"], row["engine"]) for row in found["rows"]]
    lines = ["| " + " | ".join(rows[0]) + " |", "|---|" + "--:|" * (len(rows[0]) - 1)]
    lines += ["| " + " | ".join(map(_cell, row.values())) + " |" for row in rows]
    command = "".join(
        f"- `kws stream` on {what}: {_told(one['memory_mb'], ASKED['memory_mb'], 0)} MB at most (asked: "
        f"{ASKED['memory_mb']}), first detection ready after {_told(one['start_s'], ASKED['start_s'], 2)} s "
        f"(asked: {ASKED['start_s']}).\n"
        for what, one in found["command"].items()
    )
    return (
        "\n".join(lines)
        + f"\n\nMedians of {found['turns']} turns, fewer of slow engines, and of {found['starts']} starts, in {found['runs']} whole "
        f"runs one after another; *times pymicro's*: the median ratio to pymicro's turn beside each, by the median run, in "
        f"brackets the lowest and the highest run; in bold what is as asked. *log-mel*, *network*: milliseconds of a second of audio in both parts of our "
        f"engine, measured apart afterwards. "
        f"Versions: {', '.join(f'{name} {version}' for name, version in found['versions'].items())}.\n\n{command}"
    )


def _engine(row: dict) -> dict:
    """A row of engines with what was asked of it."""
    if "times pymicro's, 80 ms" not in row:  # pymicro-wakeword was not installed
        return row
    whose, *of = row["engine"].split(", ")
    asked = ASKED[of[0]] if whose == "ours" else None
    ratio, ends = row["times pymicro's, 80 ms"], row["times pymicro's, by run"]
    told = f"{ratio:.3f}" if asked is None else _told(ratio, asked, 3)
    cells = {}
    for name, value in row.items():
        if name == "times pymicro's, 80 ms":
            cells[name] = f"{told} [{ends[0]:.3f}, {ends[1]:.3f}]"
            cells["asked"] = "" if asked is None else f"{asked}"
        elif name != "times pymicro's, by run":
            cells[name] = value
    return cells


def _told(value: float, asked: float, places: int) -> str:
    """A value, in bold if it is at most what was asked."""
    return f"**{value:.{places}f}**" if value <= asked else f"{value:.{places}f}"


def _cell(value) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def equality() -> str:
    """Markdown table: how far streams are from offline scoring, a row a released network."""
    found = benchmark("equality")
    modes = list(dict.fromkeys(row["mode"] for row in found["rows"]))
    heads = [f"{mode}, {what}" for mode in modes for what in ("steps over", "largest difference")]
    lines = [f"| network | {' | '.join(heads)} |", "|---|" + "--:|" * len(heads)]
    networks = {}
    for row in found["rows"]:
        networks.setdefault(row["network"], []).extend([f"{row['over']:,}", f"{row['largest']:.1e}"])
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in networks.items()]
    over, steps = (sum(row[what] for row in found["rows"]) for what in ("over", "steps"))
    return "\n".join(lines) + (
        f"\n\n{found['minutes']} minutes of recorded speech, a minute at a time. Asked was a difference of at most {found['exact']:g} in "
        f"probability in every step; of {steps:,} steps in all **{over:,}** differ by more, by at most "
        f"{max(row['largest'] for row in found['rows']):.1e}. Both sides compute log-mels in float32, each in its own order, and "
        f"where low bands are loud, quiet high ones hold little but its rounding. However a stream is cut, its results are the same to the "
        f"last bit (`tests/test_streaming.py`).\n"
    )


def long_run() -> str:
    """Markdown table: a day of streaming, and how long what was heard matters; a row a network and mode."""
    rows = benchmark("long-run")
    lines = [
        "| network | mode | times real time | memory MB, first hour | last hour | seconds until an engine started with the last "
        "hour agrees to 1e-5 | largest difference then | seconds until one started within the hour agrees to 1e-3, median "
        "| longest |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        starts = row["fresh_within_1e-3_after_s"]
        cells = [
            row["network"],
            row["mode"],
            f"{row['times_real_time']:,}",
            *(f"{row['memory_mb'][hour]:.1f}" for hour in (0, -1)),
            f"{row['fresh_within_1e-5_after_s']:.1f}",
            f"{row['difference_from_then']:.0e}",
            *(f"{starts[which]:.1f}" for which in ("median", "longest")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    one = rows[0]
    return "\n".join(lines) + (
        f"\n\n{one['hours']} hours, one of read speech again and again; {one['audio_mb']:.0f} MB of the memory are that hour. A "
        f"fresh engine begins with the last hour, {one['starts']} others with minutes within the hour: what was heard before "
        f"changes no probability by more than 1e-5 or 1e-3 after the time stated. So long a gap or a broken sample "
        f"matters, too.\n"
    )


def _parts(parts: dict, engine: str) -> dict[str, str]:
    """Our engine's milliseconds by part; nothing of the others."""
    whose, *of = engine.split(", ")
    spent = parts[of[0]][of[1]] if whose == "ours" else {}
    return {part: f"{spent[part]:.2f}" if spent else "" for part in ("log-mel", "network")}
