"""Audio laid end to end and what trains on it, on untrained networks. What trained networks do is in the
committed runs."""

import numpy as np
import pytest
import torch

from kwslib import endpoints, models, runs, streaming, streams, tasks, tracks, training
from kwslib.architecture import ARCHITECTURES


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


def test_the_teacher_is_the_mean_of_baselines_from_other_seeds(audio, monkeypatch):
    """Trained once; whoever asks again gets what was kept."""
    seeds, train = [], training.train

    def seen(model, task, recipe, seed, *rest, **options):
        baseline = audio.experiment.load("baseline").architecture
        assert model.architecture == baseline.with_sizes(dropout=streams.DROPOUT["baseline"])
        assert model.gru.dropout == 0.3 != baseline.dropout
        seeds.append(seed)
        return train(model, task, recipe, seed, *rest, **options)

    monkeypatch.setattr(training, "train", seen)
    first = audio.teacher
    assert seeds == list(range(1, streams.TEACHERS + 1)) and len(first.networks) == len(seeds) >= 2
    monkeypatch.setattr(tasks.Tracks, "losses", None)  # nothing can be trained any more
    again = streams.Streams(audio.experiment).teacher
    weights = [[n.classifier.weight.detach() for n in teacher.networks] for teacher in (first, again)]
    assert all(map(torch.equal, *weights)) and not torch.equal(*weights[0][:2])


def test_a_network_is_taught_unless_it_is_asked_not_to_be(audio, monkeypatch):
    teacher, asked = audio.teacher, []

    def train(model, task, recipe, seed, resume, **_):
        asked.append((task.teacher, task.clips.teacher, seed, task.pool))
        return training.Result(models.build(ARCHITECTURES["student3"]).eval(), 1, [{"epoch": 1}])

    monkeypatch.setattr(training, "train", train)
    audio.train("student3", name="taught")
    audio.train("student3", name="alone", taught=False)
    (windows, clips, seed, pool), (none, baseline, same, again) = asked
    assert pool is again is audio.pool(tasks.Share())  # tracks are made once a run
    assert windows is clips is teacher and none is None and seed == same == 0
    wanted = audio.experiment.load("baseline").state_dict()
    assert all(torch.equal(wanted[name], value) for name, value in baseline.state_dict().items())


def test_a_taught_baseline_hears_whole_tracks_with_the_dropout_of_clips(audio, monkeypatch):
    assert audio.teacher.networks
    seen = []

    def train(model, task, recipe, seed, resume, **_):
        seen.append((task.share.mix.masked, task.pool.mix.masked, model.gru.dropout))
        return training.Result(models.build(ARCHITECTURES["student3"]).eval(), 1, [{"epoch": 1}])

    monkeypatch.setattr(training, "train", train)
    for network, taught in (("baseline", True), ("baseline", False), ("student3", True), ("student3", False)):
        audio.train(network, name="seen", taught=taught)
    own = [audio.experiment.load(network).architecture.dropout for network in ("baseline", "student3")]
    assert seen == [
        (False, False, own[0]),
        (True, True, streams.DROPOUT["baseline"]),
        (True, True, own[1]),
        (True, True, own[1]),
    ]


def test_tracks_are_of_the_training_part_and_made_again_for_another_mix_alone(audio):
    first = audio.pool(tasks.Share())
    assert audio.pool(tasks.Share(agreement=0.0)) is first
    assert first.count == audio.plan.tracks
    assert set(first.sources.keyword) == set(audio.sources("train").keyword) and len(first.sources.talk)
    assert audio.pool(tasks.Share(mix=tracks.Mix(room=0.0))) is not first


def test_no_teacher_is_trained_for_a_network_that_is_not_there(audio, tmp_path):
    there = audio.experiment.run.checkpoint("student3")
    away = there.rename(tmp_path / "student3.safetensors")
    fresh = streams.Streams(audio.experiment)
    try:
        with pytest.raises(runs.MissingStageError, match="checkpoints of student3"):
            fresh.train("student3")
    finally:
        away.rename(there)
    assert "teacher" not in vars(fresh)
