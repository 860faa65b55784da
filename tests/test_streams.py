"""Audio laid end to end and what trains on it, on untrained networks. What trained networks do is in the
committed runs."""

import numpy as np
import torch

from kwslib import endpoints, models, streaming, streams, tasks, training
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


def test_clips_go_from_the_noisiest_to_the_cleanest(audio):
    shown, train = audio.from_noisiest(5), audio.sources("train").keyword
    clear = {clip: endpoints.over_noise(audio.experiment.corpus.clips[clip]).max() for clip in train}
    found = [clear[clip] for clip in shown]
    assert found == sorted(found) and found[0] == min(clear.values()) and found[-1] == max(clear.values())


def test_the_teacher_is_the_mean_of_baselines_from_other_seeds(audio):
    """Trained once, from the baseline, and gone on from what is kept by whoever asks again."""
    first, again = audio.teacher, streams.Streams(audio.experiment).teacher
    assert len(first.networks) == streams.TEACHERS >= 2
    weights = [[n.classifier.weight.detach() for n in teacher.networks] for teacher in (first, again)]
    assert all(map(torch.equal, *weights)) and not torch.equal(*weights[0][:2])
    assert first.networks[0].architecture == audio.experiment.load("baseline").architecture


def test_a_network_is_taught_unless_it_is_asked_not_to_be(audio, monkeypatch):
    asked = []

    def train(model, task, recipe, seed, resume, **_):
        asked.append((task.teacher, task.clips.teacher, seed))
        return training.Result(models.build(ARCHITECTURES["student3"]).eval(), 1, [{"epoch": 1}])

    monkeypatch.setattr(training, "train", train)
    teacher = audio.teacher
    audio.train("student3", name="taught")
    audio.train("student3", name="alone", taught=False)
    assert isinstance(teacher, tasks.Ensemble)
    (windows, clips, seed), (none, baseline, same) = asked
    assert windows is clips is teacher and none is None and seed == same == 0
    assert torch.equal(baseline.classifier.weight, audio.experiment.load("baseline").classifier.weight)
