import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from kwslib import data, endpoints, features, models, tasks, tracks, training
from kwslib.architecture import Architecture
from kwslib.features import ClipFeatures
from kwslib.tasks import distillation_loss, step_loss
from kwslib.training import Recipe

SMALL = Architecture(channels=2, hidden=4)
SHORT = Recipe(epochs=2, epoch_steps=3, batch_size=8)
FEW = tasks.Share(clips=8, tracks=3, seconds=2.0)


def pool(sources, share=FEW, count=12, renewed=0, seed=0):
    return tasks.Pool(sources, share, SMALL, count, renewed, seed)


@pytest.fixture
def clips(corpus):
    background = list(corpus.background.values())
    features = ClipFeatures(corpus.clips, background, SMALL.front_end, digest=corpus.digest)
    return tasks.Clips(features, corpus.labels("sheila"), data.split(corpus, "sheila"))


@pytest.fixture
def sources(corpus, clips):
    train = clips.parts["train"]
    labels = clips.labels[train]
    talk = np.random.default_rng(0).normal(0, 2000, 80000).astype(np.int16)
    spans = endpoints.spans(corpus.clips)
    background = list(corpus.background.values())
    return tracks.Sources(corpus.clips, spans, train[labels == 1], train[labels == 0], background, talk)


def digest_of(task):
    digest = hashlib.sha256()
    task.add_to(digest)
    return digest.hexdigest()


@pytest.mark.parametrize("temperature", [1.0, 10.0, 30.0])
def test_distillation_loss_is_the_formula(temperature):
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(0, 3, (7, 2)), generator.normal(0, 3, (7, 2))

    def softened(logits):
        powers = np.exp(logits / temperature)
        return powers / powers.sum(1, keepdims=True)

    p, q = softened(teacher), softened(student)
    wanted = temperature**2 * np.sum(p * np.log(p / q)) / 7  # a mean over clips, not over classes too
    ours = distillation_loss(torch.tensor(student), torch.tensor(teacher), temperature)
    assert ours.item() == pytest.approx(wanted, rel=1e-10)  # float64; logs of numbers near 1 cancel


def test_distillation_loss_of_equals_is_zero():
    logits = torch.tensor([[1.0, -2.0], [0.5, 0.5]])
    assert distillation_loss(logits, logits, 5.0).item() == 0
    assert distillation_loss(logits + 3, logits, 5.0).item() == pytest.approx(0, abs=1e-5)  # 25 x 1e-7
    assert distillation_loss(logits.flip(1), logits, 5.0).item() > 0.1


# Tracks


def test_tracks_train_repeatably_and_the_network_changes(clips, sources, tmp_path):
    def weights(name):
        task = tasks.Tracks(clips, pool(sources), FEW)
        result = training.train(models.build(SMALL, 0), task, SHORT, 0, tmp_path / name, keep="last")
        assert all(np.isfinite(row["loss"]) for row in result.history)
        return torch.cat([value.flatten() for value in result.model.state_dict().values()])

    first = weights("a")
    assert torch.equal(first, weights("b"))
    untrained = models.build(SMALL, 0)
    training.fold_input(untrained)
    assert not torch.equal(first, torch.cat([v.flatten() for v in untrained.state_dict().values()]))


def test_the_state_goes_on_from_batch_to_batch(clips, sources):
    """What the network is given as the GRU's state is what it left behind a batch before."""
    network, given, left = training.Centred(models.build(SMALL, 0)), [], []
    carried = network.carried

    def noted(log_mels, state=None):
        given.append(state)
        logits, after = carried(log_mels, state)
        left.append(after.detach().clone())
        return logits, after

    network.carried = noted
    task = tasks.Tracks(clips, pool(sources), FEW)
    for loss in task.losses(network, SHORT, 0, np.random.default_rng(0), torch.Generator().manual_seed(0)):
        assert loss.requires_grad
    assert given[0] is None
    assert all(torch.equal(one, two) for one, two in zip(given[1:], left[:-1], strict=True))
    assert not any(state.requires_grad for state in given[1:])  # no gradient through all of time
    assert left[0].abs().max() > 0


def test_the_weight_is_that_of_the_tracks(clips, sources):
    network = models.build(SMALL, 0).eval()

    def loss(weight):
        task = tasks.Tracks(clips, pool(sources), replace(FEW, weight=weight))
        draw, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
        return float(next(iter(task.losses(network, SHORT, 0, draw, generator))).detach())

    assert loss(0.25) == pytest.approx(0.25 * loss(1.0) + 0.75 * loss(0.0), rel=1e-5)
    positions = next(clips.batches(SHORT, FEW.clips, np.random.default_rng(0)))
    of_clips = clips.loss(network, SHORT, 0, positions, torch.Generator().manual_seed(0))
    assert loss(0.0) == pytest.approx(float(of_clips.detach()), rel=1e-5) != loss(1.0)


def test_the_loss_of_tracks_by_hand(clips, sources):
    """Windows cut out one by one, at the steps at which the carried outputs stand."""
    network, teacher = models.build(SMALL, 0).eval(), models.build(SMALL, 1).eval()
    share = replace(FEW, window_every=3, agreement=0.7, temperature=3.0)
    task = tasks.Tracks(clips, pool(sources), share, teacher)
    loss, _ = task._loss(network, None, 0, np.random.default_rng(5))
    draw = np.random.default_rng(5)
    log_mels, wanted = task._batch(0, draw)
    first, a = int(draw.integers(3)), SMALL
    frames = (a.steps - 1) * a.stride[1] + a.kernel[1]
    starts = range(a.stride[1] * first, log_mels.shape[2] - frames + 1, 3 * a.stride[1])
    seconds = torch.stack([log_mels[:, :, n : n + frames] for n in starts], 1)
    windows, said = (n(seconds.flatten(0, 1)).unflatten(0, seconds.shape[:2]) for n in (network, teacher))
    carried = network.carried(log_mels)[0]
    beside, asked = carried[:, first::3], wanted[:, first::3]
    labels = (step_loss(carried, wanted, 0.1) + step_loss(windows, asked, 0.1)) / 2
    beside, windows, said = (x.flatten(0, 1) for x in (beside, windows, said))
    taught = (distillation_loss(beside, said, 3.0) + distillation_loss(windows, said, 3.0)) / 2
    agreed = distillation_loss(beside, windows, 1.0)
    assert agreed > 1e-5
    assert loss.item() == pytest.approx(((labels + taught) / 2 + 0.7 * agreed).item(), rel=1e-4)
    alone = tasks.Tracks(clips, pool(sources), share)
    alone, _ = alone._loss(network, None, 0, np.random.default_rng(5))
    assert alone.item() == pytest.approx((labels + 0.7 * agreed).item(), rel=1e-4)


def test_windows_are_not_asked_to_say_what_carried_says(clips, sources):
    """Agreement moves the carried outputs only: where these are given, it moves nothing."""
    network = models.build(SMALL, 0).eval()
    given = torch.tensor([0.0, 1.0], requires_grad=True)
    network.carried = lambda log_mels, state=None: (
        network.windows(log_mels).detach() + given,
        torch.zeros(1),
    )
    shares = [replace(FEW, agreement=agreement) for agreement in (0.0, 1e3)]
    grads = []
    for share in shares:
        network.zero_grad()
        task = tasks.Tracks(clips, pool(sources), share)
        loss, _ = task._loss(network, None, 0, np.random.default_rng(5))
        loss.backward()
        grads.append(network.classifier.weight.grad.clone())
    assert torch.equal(*grads)


def test_what_tracks_are_made_of_is_in_their_digest(clips, sources):
    def digest(share=FEW, teacher=None, sources=sources, **of_pool):
        return digest_of(tasks.Tracks(clips, pool(sources, share, **of_pool), share, teacher))

    base = digest()
    assert digest() == base != digest_of(clips)
    others = [
        digest(replace(FEW, hardest=0.2)),
        digest(replace(FEW, mix=tracks.Mix(talk=0.1))),
        digest(teacher=models.build(SMALL, 0)),
        digest(teacher=models.build(SMALL, 1)),
        digest(sources=replace(sources, talk=sources.talk[:-1])),
        digest(count=13),
        digest(renewed=1),
        digest(seed=1),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_a_pool_holds_the_tracks_of_its_seed_and_what_to_say_on_them(sources):
    made = pool(sources, count=3)
    power, wanted = made.draw(7, 40, np.random.default_rng(0))
    rows = [which(track, wanted[n], sources) for n, track in enumerate(power)]
    assert set(rows) == {0, 1, 2} and min(rows.count(n) for n in range(3)) > 3  # a third each
    assert torch.equal(power, pool(sources, count=3).draw(0, 40, np.random.default_rng(0))[0])
    assert not torch.equal(power, pool(sources, count=3, seed=1).draw(0, 40, np.random.default_rng(0))[0])


def test_some_of_a_pool_are_made_anew_at_every_step(sources, monkeypatch):
    made, track = [], tracks.training_track
    monkeypatch.setattr(tracks, "training_track", lambda *of: made.append(1) or track(*of))
    held = pool(sources, count=5, renewed=2)

    def drawn(held, step):
        power, wanted = held.draw(step, 60, np.random.default_rng(0))
        return {which(*drawn, sources) for drawn in zip(power, wanted, strict=True)}

    for step in range(4):
        before = len(made)
        held.draw(step, 60, np.random.default_rng(0))
        assert len(made) - before == (2 if step else 5)
        assert drawn(held, step) == set(range(2 * step, 2 * step + 5))
    assert drawn(held, 0) == set(range(5))  # another network begins
    late = pool(sources, count=5, renewed=2)
    for ours, theirs in zip(
        held.draw(3, 9, np.random.default_rng(1)), late.draw(3, 9, np.random.default_rng(1)), strict=True
    ):
        assert torch.equal(ours, theirs)  # whatever was held before: what a stopped run goes on with


def which(power, wanted, sources):
    """The number of a track (mels, frames) of seed 0, on which `wanted` is asked."""
    for number in range(12):
        track, words, parts = tracks.training_track(
            sources, FEW.mix, 32000, np.random.default_rng([0, 29, number])
        )
        there = features.mel_power(torch.from_numpy(track)[None], SMALL.front_end)[0]
        if torch.equal(power, there):
            assert wanted.tolist() == tracks.targets(words, SMALL, 32000, parts)[SMALL.steps - 1 :].tolist()
            return number
    raise AssertionError("no track of this seed")


def test_a_track_drawn_again_is_heard_through_another_microphone(clips, sources):
    def differences(share):
        task = tasks.Tracks(clips, pool(sources, share, count=1), share)
        log_mels, wanted = task._batch(0, np.random.default_rng(0))
        assert torch.equal(wanted[0], wanted[1])
        return log_mels[0] - log_mels[1]

    through = differences(FEW)  # the same at every frame, to rounding
    torch.testing.assert_close(through, through[:, :1].expand_as(through), atol=1e-4, rtol=0)
    assert through[0, 0].abs() > 0.01 and not torch.allclose(through[0], through[-1])
    assert not differences(replace(FEW, mix=tracks.Mix(varied=False))).any()


def test_step_loss_by_hand():
    """Three steps of the keyword, four of others, one not asked: cross entropies by hand."""
    logits = torch.zeros(1, 8, 2)
    logits[0, :, 1] = torch.tensor([2.0, 0.0, 1.0, -3.0, 4.0, -1.0, 0.0, 9.0])
    labels = torch.tensor([[1, 1, 1, 0, 0, 0, 0, -1]])
    softplus = torch.nn.functional.softplus
    keyword = softplus(-torch.tensor([2.0, 0.0, 1.0])).mean()
    others = softplus(torch.tensor([-3.0, 4.0, -1.0, 0.0]))
    assert step_loss(logits, labels, 0.0).item() == pytest.approx(
        ((keyword + others.mean()) / 2).item(), rel=1e-6
    )
    with_worst = (others.mean() + others[1]) / 2  # the hardest quarter of four is one
    assert step_loss(logits, labels, 0.25).item() == pytest.approx(
        ((keyword + with_worst) / 2).item(), rel=1e-6
    )
    alone = step_loss(logits, torch.where(labels == 1, -1, labels), 0.0)
    assert alone.item() == pytest.approx((others.mean() / 2).item(), rel=1e-6)


def test_step_loss_of_steps_of_one_kind_or_none():
    logits = torch.tensor([[[0.0, 1.0], [0.0, -2.0]]], requires_grad=True)
    softplus = torch.nn.functional.softplus
    keyword = step_loss(logits, torch.tensor([[1, 1]]), 0.1)
    assert keyword.item() == pytest.approx(softplus(torch.tensor([-1.0, 2.0])).mean().item() / 2, rel=1e-6)
    nothing = step_loss(logits, torch.tensor([[-1, -1]]), 0.1)
    nothing.backward()
    assert nothing.item() == 0 and not logits.grad.any()
