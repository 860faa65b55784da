import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from kwslib import data, metrics, models, tasks, training
from kwslib.architecture import ARCHITECTURES, Architecture
from kwslib.features import ClipFeatures
from kwslib.training import Recipe, train

SMALL = Architecture(channels=2, hidden=4)
SHORT = Recipe(epochs=3, epoch_steps=3, batch_size=16)
DISTILLED = replace(SHORT, temperature=4.0)


class KilledError(Exception):
    """Ends a training run from inside."""


class Trainer:
    """Trains the small network on the tiny corpus as one process after another would: each call
    builds features and network anew, only the resume file stays."""

    def __init__(self, corpus, folder):
        self.corpus, self.resume = corpus, folder / "resume.safetensors"
        self.labels, self.parts = corpus.labels("sheila"), data.split(corpus, "sheila")
        self.epochs, self.masked, self.batches, self.fail_at_batch = [], [], 0, None

    def features(self):
        background = list(self.corpus.background.values())
        found = ClipFeatures(self.corpus.clips, background, SMALL.front_end, digest=self.corpus.digest)
        augmented = found.augmented

        def counted(positions, generator, masked=True):
            if self.batches == self.fail_at_batch:
                raise KilledError
            self.batches += 1
            self.masked.append(masked)
            return augmented(positions, generator, masked)

        found.augmented = counted
        return found

    def __call__(self, recipe=SHORT, seed=0, labels=None, progress=None, fail_at_batch=None, **options):
        self.epochs, self.masked, self.batches, self.fail_at_batch = [], [], 0, fail_at_batch

        def note(row):
            self.epochs.append(row["epoch"])
            if progress:
                progress(row)

        labels = self.labels if labels is None else labels
        model = options.pop("model", None) or models.build(SMALL, seed)
        task = tasks.Clips(self.features(), labels, self.parts, options.pop("teacher", None))
        return train(model, task, recipe, seed, self.resume, progress=note, **options)


@pytest.fixture
def trainer(corpus, tmp_path):
    return Trainer(corpus, tmp_path)


@pytest.fixture
def elsewhere(corpus, tmp_path_factory):
    """A second trainer with a resume file of its own."""
    return Trainer(corpus, tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture
def teacher():
    return models.build(SMALL.with_sizes(hidden=6), seed=9).eval()


def weights(result):
    return {name: value.numpy().copy() for name, value in result.model.state_dict().items()}


def same_weights(one, two):
    return all(np.array_equal(value, weights(two)[name]) for name, value in weights(one).items())


def without_seconds(result):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in result.history]


def kill_after(epoch):
    def progress(row):
        if row["epoch"] == epoch:
            raise KilledError

    return progress


# The loop


def test_a_run_repeats_and_another_seed_differs(trainer, elsewhere):
    first, again = trainer(), elsewhere()
    assert same_weights(first, again)
    assert without_seconds(first) == without_seconds(again)
    assert not same_weights(first, elsewhere(seed=1))


def test_history_has_a_row_an_epoch(trainer):
    result = trainer()
    assert [row["epoch"] for row in result.history] == trainer.epochs == [1, 2, 3]
    assert [row["steps"] for row in result.history] == [3, 6, 9]
    assert result.history[-1]["rate"] == SHORT.rate_at(8)
    assert all(row["seconds"] > 0 and np.isfinite(row["loss"]) for row in result.history)
    assert not result.model.training


def test_training_leaves_the_global_generator_alone(trainer):
    before = torch.random.get_rng_state()
    trainer()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_training_learns(trainer):
    """A rising tone against falling and flat ones, under noise and masks, in 120 steps."""
    recipe = Recipe(epochs=4, epoch_steps=30, batch_size=32, rate=1e-2)
    result = trainer(recipe, model=models.build(ARCHITECTURES["student2"], 1), seed=1)
    losses = [row["loss"] for row in result.history]
    assert losses[-1] < 0.95 * losses[0]
    assert result.history[-1]["one_minus_auc"] < 0.1  # half is chance; three seeds gave 0


def test_weights_are_those_of_adam_by_hand(trainer):
    """One step of the loop, written out: log-mels centred, then that folded into the convolution."""
    recipe = Recipe(epochs=1, epoch_steps=1, batch_size=16, rate=0.01, schedule="constant", clip_norm=0.1)
    ours, model = trainer(recipe), models.build(SMALL, 0)
    torch.manual_seed(training._seed(0, 1, 1))
    train_clips = trainer.parts["train"]
    random = np.random.default_rng(training._seed(0, 1, 2))
    batch = train_clips[next(data.balanced_batches(trainer.labels[train_clips], 16, 1, random))]
    generator = torch.Generator().manual_seed(training._seed(0, 1, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-5)
    logits = model((trainer.features().augmented(batch, generator) + 7) / 5)
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(trainer.labels[batch])).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    training.fold_input(model)
    for name, value in model.state_dict().items():
        # the fused optimizer rounds otherwise; a step is 0.01
        torch.testing.assert_close(ours.model.state_dict()[name], value, rtol=0, atol=1e-5)


def test_folding_moves_centring_into_the_convolution():
    network = models.build(SMALL, 3).eval()
    log_mels = 5 * torch.randn(4, 40, 101, generator=torch.Generator().manual_seed(0)) - 7
    wanted, unfolded = training.Centred(network)(log_mels), network(log_mels)
    training.fold_input(network)
    # sums of 100 products of size 10 in float32, in another order
    torch.testing.assert_close(network(log_mels), wanted, rtol=0, atol=1e-4)
    assert (unfolded - wanted).abs().max() > 1e-2  # the control: it does something


def test_unfolding_undoes_folding():
    network, before = models.build(SMALL, 3), models.build(SMALL, 3)
    training.fold_input(network)
    assert not torch.allclose(network.convolution.bias, before.convolution.bias)  # the control
    training.unfold_input(network)
    for name, value in before.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=0, atol=1e-6)  # rounding twice


def test_history_is_of_the_network_that_is_returned(trainer):
    result = trainer(keep="last")
    clips = trainer.parts["validation"]
    scores = training.probabilities(result.model, trainer.features(), clips)
    measured = metrics.one_minus_auc(trainer.labels[clips], scores)
    # folding rounds the scores; a pair of 4 x 16 may change places
    assert measured == pytest.approx(result.history[-1]["one_minus_auc"], abs=1 / 64)


# Resuming


@pytest.mark.parametrize("recipe", [SHORT, DISTILLED])
def test_a_run_killed_after_an_epoch_ends_as_if_left_alone(trainer, elsewhere, teacher, recipe):
    options = {"recipe": recipe, "teacher": teacher if recipe.temperature else None}
    with pytest.raises(KilledError):
        trainer(progress=kill_after(1), **options)
    resumed, whole = trainer(**options), elsewhere(**options)
    assert trainer.epochs == [2, 3]
    assert same_weights(resumed, whole)
    assert without_seconds(resumed) == without_seconds(whole)
    assert resumed.epoch == whole.epoch


def test_a_run_goes_on_from_its_last_epoch_and_not_from_its_best(trainer, elsewhere, monkeypatch):
    worse = itertools.count(1)  # so the first epoch is best
    monkeypatch.setattr(training.metrics, "au_fa_fr", lambda *_: next(worse) / 10)
    with pytest.raises(KilledError):
        trainer(progress=kill_after(2))
    assert same_weights(trainer(keep="last"), elsewhere(keep="last"))
    assert trainer(keep="best").epoch == 1


@pytest.mark.parametrize("batch", [0, 1, 4, 8])
def test_a_run_killed_inside_an_epoch_ends_as_if_left_alone(trainer, elsewhere, batch):
    with pytest.raises(KilledError):
        trainer(fail_at_batch=batch)
    resumed, whole = trainer(), elsewhere()
    assert trainer.batches == 9 - batch // 3 * 3
    assert same_weights(resumed, whole)
    assert without_seconds(resumed) == without_seconds(whole)


def test_a_finished_run_returns_without_a_step(trainer):
    first = trainer()
    again = trainer(fail_at_batch=0)
    assert trainer.batches == 0 and trainer.epochs == []
    assert same_weights(first, again)
    assert again.history == first.history
    assert again.epoch == first.epoch


def test_a_change_of_any_input_trains_anew(trainer, teacher, corpus):
    def trains_anew(**inputs):
        try:
            trainer(fail_at_batch=0, **inputs)
        except KilledError:
            return True
        return False

    trainer()
    assert not trains_anew()  # the control
    assert trains_anew(recipe=replace(SHORT, rate=1e-3))
    assert trains_anew(recipe=replace(SHORT, epochs=2))
    assert trains_anew(labels=corpus.labels("cat"))
    assert trains_anew(model=models.build(SMALL, 1))
    assert trains_anew(model=models.build(SMALL, 0), seed=1)
    assert trains_anew(recipe=DISTILLED, teacher=teacher)
    trainer(DISTILLED, teacher=teacher)
    assert not trains_anew(recipe=DISTILLED, teacher=teacher)
    assert trains_anew(recipe=DISTILLED, teacher=models.build(SMALL, 7).eval())


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"no" + b[2:]])
def test_a_damaged_resume_file_starts_afresh(trainer, elsewhere, damage):
    with pytest.raises(KilledError):
        trainer(progress=kill_after(1))
    trainer.resume.write_bytes(damage(trainer.resume.read_bytes()))
    again = trainer()
    assert trainer.epochs == [1, 2, 3]
    assert same_weights(again, elsewhere())


# Which epoch is kept


@pytest.mark.parametrize("keep, epoch", [("best", 2), ("last", 3)])
def test_the_kept_weights_are_those_of_the_epoch(trainer, monkeypatch, keep, epoch):
    measured = iter([0.3, 0.1, 0.1])  # of two equal epochs the first is best
    monkeypatch.setattr(training.metrics, "au_fa_fr", lambda *_: next(measured))
    model, after = models.build(SMALL), {}

    def note(row):
        after[row["epoch"]] = {name: value.clone() for name, value in model.state_dict().items()}

    result, kept = trainer(model=model, keep=keep, progress=note), models.build(SMALL)
    assert result.epoch == epoch
    kept.load_state_dict(after[epoch])
    training.fold_input(kept)
    for name, value in result.model.state_dict().items():
        assert torch.equal(value, kept.state_dict()[name])
    assert not torch.equal(after[2]["classifier.weight"], after[3]["classifier.weight"])


def test_other_ways_to_keep_are_refused(trainer):
    with pytest.raises(ValueError, match=r"'first'.*best or last"):
        trainer(keep="first")


# Distillation


def test_a_teacher_and_a_temperature_go_together(trainer, teacher):
    with pytest.raises(ValueError, match="together"):
        trainer(teacher=teacher)
    with pytest.raises(ValueError, match="together"):
        trainer(DISTILLED)


def test_training_leaves_the_teacher_as_it_was(trainer, teacher):
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    trainer(DISTILLED, teacher=teacher)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_student_comes_closer_to_its_teacher(trainer, teacher):
    teacher.classifier.bias.data += torch.tensor([-1.0, 1.0])  # far from where a student begins
    recipe = Recipe(epochs=2, epoch_steps=20, batch_size=16, rate=1e-2, schedule="constant", temperature=2.0)
    result = trainer(recipe, teacher=teacher)
    assert result.history[1]["loss"] < 0.5 * result.history[0]["loss"]


def test_label_share_one_is_training_on_labels(trainer, elsewhere, teacher):
    on_labels, shared = trainer(), elsewhere(replace(DISTILLED, label_share=1.0), teacher=teacher)
    assert same_weights(on_labels, shared)
    assert not same_weights(on_labels, elsewhere(replace(DISTILLED, label_share=0.5), teacher=teacher))


# Recipes


def test_one_cycle_is_torch_s():
    recipe = Recipe(epochs=10, epoch_steps=10, rate=0.02)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    # torch reaches its peak and its end one step early: 101 steps and a rise of 31 make up for it
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.02, total_steps=101, pct_start=31 / 101, cycle_momentum=False
    )
    for step in range(100):
        assert recipe.rate_at(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        theirs.step()


def test_one_cycle_peaks_at_30_percent_and_ends_low():
    recipe = Recipe(epochs=10, epoch_steps=10, rate=0.02)
    rates = [recipe.rate_at(step) for step in range(recipe.steps)]
    assert rates[0] == pytest.approx(0.02 / 25)
    assert max(rates) == rates[30] == 0.02
    assert rates[:31] == sorted(rates[:31]) and rates[30:] == sorted(rates[30:], reverse=True)
    assert rates[-1] < 0.02 / 1000


def test_a_constant_rate_is_constant():
    recipe = Recipe(epochs=2, epoch_steps=5, rate=3e-4, schedule="constant")
    assert {recipe.rate_at(step) for step in range(10)} == {3e-4}
    with pytest.raises(ValueError, match=r"'linear'.*one-cycle or constant"):
        replace(recipe, schedule="linear").rate_at(0)


def test_the_last_steps_are_not_masked(trainer):
    trainer(replace(SHORT, unmasked=0.3))  # 9 steps, the last 2.7
    assert trainer.masked == [True] * 7 + [False] * 2
    trainer(SHORT)
    assert all(trainer.masked)


def test_recipes_follow_the_study():
    temperatures = [training.recipe(f"student{n}", "full").temperature for n in (1, 2, 3)]
    assert temperatures == [1, 10, 30]
    baseline = training.recipe("baseline", "full")
    assert (baseline.epoch_steps, baseline.batch_size, baseline.weight_decay, baseline.clip_norm) == (405, 128, 1e-5, 5)  # fmt: skip
    assert baseline.steps >= 20 * 405
    assert baseline.temperature is None
    assert training.recipe("student2", "smoke").steps < 20
    assert training.recipe("student2", "quick").steps < training.recipe("student2", "full").steps


def test_unknown_settings_and_profiles_are_refused():
    with pytest.raises(ValueError, match=r"'student9'.*baseline, student1"):
        training.recipe("student9", "full")
    with pytest.raises(ValueError, match=r"'slow'.*smoke, quick, full"):
        training.recipe("baseline", "slow")


def test_code_digest_overlooks_comments_and_sees_code():
    def one():
        """Adds."""
        return 1 + 1

    plain = training.code_digest(one)

    def one():
        # another comment
        return 1 + 1

    assert training.code_digest(one) == plain

    def one():
        return 1 + 2

    assert training.code_digest(one) != plain


def test_probabilities_do_not_depend_on_the_batch(trainer):
    model, features = models.build(SMALL).eval(), trainer.features()
    clips = trainer.parts["validation"]
    one, many = (training.probabilities(model, features, clips, size) for size in (1, 512))
    assert one.shape == many.shape == (len(clips),)
    assert many.dtype == np.float64
    np.testing.assert_allclose(one, many, atol=1e-6)  # float32 sums in another order
