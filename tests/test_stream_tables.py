from kwslib import stream_tables


def result(name, at_rate=None, at_misses=None, **others):
    clips, speech = {"at_rate": at_rate}, {"at_misses": at_misses, **others.pop("speech", {})}
    return {"setting": name, "mode": "window", "clips": clips, "speech": speech, **others}


def test_an_end_that_is_not_reached_is_a_dash():
    reached = {"false_accepts": 2, "false_accepts_per_h": [4.0, 1.0, 9.0], "over_speakers": [2.0, None]}
    table = stream_tables.speech_table([result("a", at_misses={"0.05": reached, "0.1": None})])
    assert dict(table.loc["a, window"]) == {
        "5 % missed": "4.0 [1.0, 9.0]\n2 counted",
        "over speakers": "[2.0, -]",
        "10 % missed": "not reached",
    }


def test_misses_and_latency():
    point = {
        "miss_rate": [0.15, 0.1, 0.2],
        "miss_rate_of_each": [0.1, 0.2],
        "miss_rate_over_speakers": [0.08, 0.25],
        "latency_s": [-0.04, 0.3],
    }
    late = result("a", {"0.5": None, "1.0": point})
    none_hit = result("b", {"0.5": point, "1.0": point | {"latency_s": []}})
    table = stream_tables.clips_table([late, none_hit, result("c", {"0.5": None, "1.0": None})])
    words = "15.0 [10.0, 20.0]\n[8.0, 25.0]\n10.0 to 20.0"
    assert table.loc["a, window"].tolist() == ["not reached", words, "-0.04, 0.30"]
    assert table.loc["b, window"].tolist() == [words, words, ""]
    assert table.loc["c, window"].tolist() == ["not reached", "not reached", ""]
    assert "white-space: pre" in stream_tables.on_lines(table).to_html()


def test_misses_against_offline_scoring():
    point = {
        "more_than_offline": [0.025, -0.015, 0.06],
        "miss_rate_of_each": [0.1, 0.2],
        "offline_miss_rate": 0.125,
        "offline_miss_rate_of_each": [0.12, 0.13],
    }
    row = stream_tables.against_offline_table([result("a", {"1.0": point, "0.5": None})]).loc["a, window"]
    assert dict(row) == {
        "1 an hour": "+2.5 (offline 12.5)\n[-1.5, +6.0]\n-2.0 to +7.0",
        "0.5 an hour": "not reached",
    }


def test_what_the_chosen_detector_does():
    clips = {"miss_rate": [0.1, 0.05, 0.2], "false_accepts_per_h": [2.0, 1.5, 3.0], "again": 3}
    speech = {"miss_rate": [0.05, 0.02, 0.1], "false_accepts_per_h": [4.0, 1.0, 9.0]}
    one = {"setting": "a", "mode": "window", "clips": {"chosen": clips}, "speech": {"chosen": speech}}
    row = stream_tables.detector_table([one]).loc["a, window"]
    assert dict(row) == {
        ("hours of clips", "missed %"): "10.0 [5.0, 20.0]",
        ("hours of clips", "false accepts an hour"): "2.0 [1.5, 3.0]",
        ("hours of clips", "a word again"): "3",
        ("between two words", "missed %"): "5.0 [2.0, 10.0]",
        ("running speech", "false accepts an hour"): "4.0 [1.0, 9.0]",
    }


def test_what_is_missed_in_speech():
    mixed = {"20": {"miss_rate": [0.254, 0.2, 0.3]}, "5": {"miss_rate": []}}
    row = stream_tables.mixed_table([result("a", mixed=mixed)]).loc["a, window"]
    assert dict(row) == {"20 dB above the speech": "25.4 [20.0, 30.0]", "5 dB above the speech": ""}
