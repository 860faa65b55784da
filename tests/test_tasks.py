import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from kwslib import data, endpoints, models, tasks, tracks, training
from kwslib.architecture import Architecture
from kwslib.features import ClipFeatures
from kwslib.tasks import distillation_loss, step_loss
from kwslib.training import Recipe

SMALL = Architecture(channels=2, hidden=4)
SHORT = Recipe(epochs=2, epoch_steps=3, batch_size=8)
FEW = tasks.Share(clips=8, tracks=3, seconds=2.0)


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


def test_an_ensemble_says_the_mean_of_logarithms_of_probability():
    networks = [models.build(SMALL, seed).eval() for seed in (0, 1, 2)]
    teacher, log_mels = (
        tasks.Ensemble(networks),
        torch.randn(2, 40, 300, generator=torch.Generator().manual_seed(0)),
    )
    for said, each in (
        (teacher(log_mels[:, :, :101]), [n(log_mels[:, :, :101]) for n in networks]),
        (teacher.windows(log_mels, 3), [n.windows(log_mels, 3) for n in networks]),
    ):
        wanted = sum(torch.log_softmax(logits, -1) for logits in each) / 3
        torch.testing.assert_close(said, wanted)
        assert not torch.allclose(said, torch.log_softmax(each[0], -1), atol=1e-3)
    alone = tasks.Ensemble(networks[:1])(log_mels[:, :, :101])
    torch.testing.assert_close(torch.softmax(alone, 1), torch.softmax(networks[0](log_mels[:, :, :101]), 1))


# Tracks


def test_tracks_train_repeatably_and_the_network_changes(clips, sources, tmp_path):
    def weights(name):
        task = tasks.Tracks(clips, sources, FEW)
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
    task = tasks.Tracks(clips, sources, FEW)
    for loss in task.losses(network, SHORT, 0, np.random.default_rng(0), torch.Generator().manual_seed(0)):
        assert loss.requires_grad
    assert given[0] is None
    assert all(torch.equal(one, two) for one, two in zip(given[1:], left[:-1], strict=True))
    assert not any(state.requires_grad for state in given[1:])  # no gradient through all of time
    assert left[0].abs().max() > 0


def test_the_weight_is_that_of_the_tracks(clips, sources):
    network = models.build(SMALL, 0).eval()

    def loss(weight):
        task = tasks.Tracks(clips, sources, replace(FEW, weight=weight))
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
    task = tasks.Tracks(clips, sources, share, teacher)
    loss, _ = task._loss(network, None, np.random.default_rng(5))
    draw = np.random.default_rng(5)
    log_mels, wanted = task._batch(SMALL, draw)
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
    alone, _ = tasks.Tracks(clips, sources, share)._loss(network, None, np.random.default_rng(5))
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
        loss, _ = tasks.Tracks(clips, sources, share)._loss(network, None, np.random.default_rng(5))
        loss.backward()
        grads.append(network.classifier.weight.grad.clone())
    assert torch.equal(*grads)


def test_what_tracks_are_made_of_is_in_their_digest(clips, sources):
    base = digest_of(tasks.Tracks(clips, sources, FEW))
    assert digest_of(tasks.Tracks(clips, sources, FEW)) == base
    assert digest_of(clips) != base
    assert digest_of(tasks.Tracks(clips, sources, replace(FEW, hardest=0.2))) != base
    assert digest_of(tasks.Tracks(clips, sources, replace(FEW, mix=tracks.Mix(talk=0.1)))) != base
    teachers = [tasks.Tracks(clips, sources, FEW, models.build(SMALL, seed)) for seed in (0, 1)]
    assert len({base, *map(digest_of, teachers)}) == 3
    assert digest_of(tasks.Tracks(clips, replace(sources, talk=sources.talk[:-1]), FEW)) != base


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
