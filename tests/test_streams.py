"""Audio laid end to end and what trains on it, on untrained networks. What trained networks do is in the
committed runs."""

import numpy as np
import pytest
import torch

from kwslib import endpoints, experiments, models, runs, streaming, streams, tasks


def test_streams_are_made_of_the_reported_part_and_others_of_their_own(audio):
    e = audio.experiment
    test, train = audio.sources("test"), audio.sources("train")
    assert set(test.keyword) | set(test.others) == set(e.parts["test"].tolist())
    assert not set(test.keyword) & set(train.keyword) and not set(test.others) & set(train.others)
    assert len(test.talk) == 0
    assert audio.speech[0] == "read"


def test_the_engine_s_rows_are_heard_in_every_setting_and_mode(audio):
    samples = audio.stream(0).samples[:80000]
    heard = audio.hear(["student3", "student3-stream"], samples)
    assert len(heard) == 4
    for (setting, mode), (times, probabilities) in heard.items():
        alone = streaming.Stream.load(audio.experiment.run.checkpoint(setting), mode).hear(samples).T
        assert np.array_equal(times, alone[0]) and np.array_equal(probabilities, alone[1])


def test_clips_go_from_the_noisiest_to_the_cleanest_evenly(audio):
    train = audio.sources("train").keyword
    clear = sorted(endpoints.over_noise(audio.experiment.corpus.clips[clip]).max() for clip in train)
    shown = audio.experiment.corpus.clips[audio.from_noisiest(4)]
    ranks = [0, (len(train) - 1) // 3, 2 * (len(train) - 1) // 3, len(train) - 1]
    assert [endpoints.over_noise(clip).max() for clip in shown] == [clear[rank] for rank in ranks]


def test_a_first_teacher_teaches_the_baseline_and_this_all_others(audio, monkeypatch):
    """The first is trained once; whoever asks again gets what was kept. Without a teacher, tracks have
    labels alone, and clips are taught by the network that met no streams."""
    asked, fit = [], experiments.Experiment.fit

    def seen(self, name, network, task, recipe, seed, keep):
        asked.append((name, seed, task.teacher, task.clips.teacher))
        return fit(self, name, network, task, recipe, seed, keep)

    def weights(network):
        return network.classifier.weight.detach()

    monkeypatch.setattr(experiments.Experiment, "fit", seen)
    fresh = streams.Streams(audio.experiment)
    fresh.train("baseline")
    fresh.train("student3", name="taught")
    fresh.train("student3", name="alone", taught=False)
    first, baseline, taught, alone = asked
    assert [(name, seed) for name, seed, *_ in asked] == [
        ("teacher-stream", 1), ("baseline-stream", 0), ("taught", 0), ("alone", 0),
    ]  # fmt: skip
    assert first[2] is None is alone[2]
    for _, _, teacher, of_clips in (baseline, taught):
        assert teacher is of_clips
    load = audio.experiment.load
    for clips_teacher, setting in (
        (first[3], "baseline"),
        (alone[3], "baseline"),
        (taught[3], "baseline-stream"),
    ):
        assert torch.equal(weights(clips_teacher), weights(load(setting)))
    monkeypatch.setattr(tasks.Tracks, "losses", None)  # nothing can be trained any more
    again = streams.Streams(audio.experiment).first_teacher()
    assert torch.equal(weights(again), weights(baseline[2]))
    assert not torch.equal(weights(again), weights(load("baseline-stream")))


def test_what_is_trained_again_has_other_draws_other_tracks_and_teachers_of_its_own(audio, monkeypatch):
    asked, fit = {}, experiments.Experiment.fit

    def seen(self, name, network, task, recipe, seed, keep):
        asked[name] = seed, task.pool.seed, task.teacher
        return fit(self, name, network, task, recipe, seed, keep)

    monkeypatch.setattr(experiments.Experiment, "fit", seen)
    fresh, load = streams.Streams(audio.experiment), audio.experiment.load
    fresh.train("baseline")
    fresh.train("baseline", again=1)
    fresh.train("student3", again=1)
    names = "teacher-stream", "baseline-stream", "teacher-again-1-stream", "baseline-again-1-stream"
    assert [asked[name][:2] for name in names] == [(1, 0), (0, 0), (1001, 1000), (1000, 1000)]
    *_, teacher = asked["student3-again-1-stream"]
    own, released = load("baseline-again-1-stream"), load("baseline-stream")
    assert torch.equal(teacher.classifier.weight, own.classifier.weight)
    assert not torch.equal(own.classifier.weight, released.classifier.weight)


def test_a_step_of_the_baseline_and_its_teacher_is_more_of_clips_than_the_student_s(audio, monkeypatch):
    shares = {}

    def seen(self, name, network, task, recipe, seed, keep):
        shares[name] = task.share
        models.save(self.run.checkpoint(name), network)
        return experiments.Trained(network, recipe.epochs, None)

    monkeypatch.setattr(experiments.Experiment, "fit", seen)
    fresh = streams.Streams(audio.experiment)
    fresh.train("baseline")
    fresh.train("student3", name="taught")
    own = tasks.Share(weight=0.1, clips=8, tracks=2)
    fresh.train("baseline", own, name="another", taught=False)
    weights = {name: share.weight for name, share in shares.items()}
    assert weights["teacher-stream"] == weights["baseline-stream"] == streams.SHARES["baseline"].weight
    assert weights["baseline-stream"] < weights["taught"] == tasks.Share().weight
    assert shares["another"] == own


def test_a_student_needs_a_baseline_trained_on_streams(audio, tmp_path):
    audio.train("baseline")
    there = audio.experiment.run.checkpoint("baseline-stream")
    away = there.rename(tmp_path / "away.safetensors")
    try:
        with pytest.raises(runs.MissingStageError, match="checkpoints of baseline-stream"):
            audio.train("student3", name="taught")
    finally:
        away.rename(there)


def test_tracks_are_of_the_training_part(audio):
    pool = audio._pool(tasks.Share())
    assert pool.count == audio.plan.tracks
    assert set(pool.sources.keyword) == set(audio.sources("train").keyword) and len(pool.sources.talk)


def test_a_network_that_is_not_there_says_what_to_run(audio, tmp_path):
    there = audio.experiment.run.checkpoint("student3")
    away = there.rename(tmp_path / "student3.safetensors")
    try:
        with pytest.raises(runs.MissingStageError, match="checkpoints of student3"):
            audio.train("student3")
    finally:
        away.rename(there)
