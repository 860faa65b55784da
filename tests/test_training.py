from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kwslib import data, models, training, windows
from kwslib.architecture import ARCHITECTURES, SETTINGS, Architecture
from kwslib.training import Batches, Recipe, distillation_loss

SMALL = Architecture(channels=2, hidden=4)
SHORT = Recipe(epochs=3, epoch_steps=3, batch_size=16)
DISTILLED = replace(SHORT, temperature=4.0)
TEACHER = models.build(Architecture(channels=2, hidden=6), seed=9).eval()
TRAINED = [setting for setting in SETTINGS if not setting.int8]
STARTS = {"baseline-stream": "baseline", "student3-stream": "student3"}
TEACHERS = {f"student{n}": "baseline" for n in (1, 2, 3)} | {"student3-stream": "baseline-stream"}


class KilledError(Exception):
    """Ends a training from inside."""


@pytest.fixture(scope="module")
def batches_of(corpus):
    """batches_of(recipe, pool of tracks) on the tiny corpus."""
    clips = windows.ClipPool(corpus.clips, list(corpus.background.values()), SMALL)
    labels, train = corpus.labels("sheila"), data.split(corpus, "sheila")[0].train
    return lambda recipe=SHORT, pool=None: Batches(clips, labels, train, recipe, pool)


@pytest.fixture
def fit(batches_of, tmp_path):
    """Trains a small network, as one process after another would: only the resume file of a name
    stays. Returns weights, history without seconds, and the steps that were made."""

    def fit(recipe=SHORT, seed=0, name="a", fail_at=None, model=None, inputs=(), **options):
        model, batches, steps = model or models.build(SMALL, seed), batches_of(recipe), []

        def draw(step, seed):
            if step == fail_at:
                raise KilledError
            return steps.append(step) or batches.draw(step, seed)

        counted, resume = SimpleNamespace(draw=draw), tmp_path / f"{name}.safetensors"
        history = training.train(model, counted, recipe, seed, resume, dict(inputs), **options)
        assert not model.training and all(row.pop("seconds") > 0 for row in history)
        return torch.cat([w.flatten() for w in model.state_dict().values()]), history, steps

    return fit


def kill(fit, step, **options):
    with pytest.raises(KilledError):
        fit(fail_at=step, **options)


def same(one, two):
    return torch.equal(one[0], two[0]) and one[1] == two[1]


def test_a_training_repeats_and_leaves_the_global_generator_alone(fit):
    before, lines = torch.random.get_rng_state(), []
    first, again, another = fit(say=lines.append), fit(name="b"), fit(seed=1, name="c")
    rows = first[1]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same(first, again) and not torch.equal(first[0], another[0])
    assert len(lines) == 3 and [row["steps"] for row in rows] == [3, 6, 9]
    assert [row["rate"] for row in rows] == [SHORT.rate_at(step) for step in (2, 5, 8)]


@pytest.mark.parametrize("step", [0, 1, 4, 8])
@pytest.mark.parametrize("options", [{}, {"recipe": DISTILLED, "teacher": TEACHER}])
def test_a_training_killed_at_any_step_ends_as_if_left_alone(fit, options, step):
    kill(fit, step, **options)
    resumed, whole = fit(**options), fit(name="b", **options)
    assert resumed[2] == list(range(step // 3 * 3, 9))  # from the last whole epoch
    assert same(resumed, whole) and not same(resumed, fit(seed=1, name="c", **options))
    assert fit(fail_at=0, **options)[2] == []  # it is finished


def test_an_unfinished_training_of_other_inputs_is_not_gone_on_with(fit):
    taught = {"recipe": DISTILLED, "teacher": TEACHER}
    others = [{"inputs": {"corpus": "another"}}, {"recipe": replace(SHORT, rate=1e-3)}, {"seed": 1}]
    for number, other in enumerate([{}, *others, taught]):
        kill(fit, 6, name=str(number))
        first_step = fit(name=str(number), **other)[2][0]
        assert first_step == (0 if number else 6)


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:999], lambda b: b"no" + b[2:]])
def test_a_damaged_resume_file_starts_afresh(fit, tmp_path, damage):
    kill(fit, 6)
    path = tmp_path / "a.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert same(fit(), fit(name="b"))


def test_a_step_is_adam_s_by_hand(fit, batches_of):
    """It moves a weight by rate * g / (|g| + 1e-8); g: gradient, cut, plus decay times weight."""
    recipe = Recipe(1, 1, batch_size=16, rate=1.0, weight_decay=0.1, clip_norm=0.01)
    model, expected = (models.build(replace(SMALL, dropout=0.0), 0) for _ in range(2))
    fit(recipe, model=model)
    log_mels, labels = batches_of(recipe).draw(0, 0)
    torch.nn.functional.cross_entropy(expected(log_mels), labels).backward()
    norm = torch.cat([p.grad.flatten() for p in expected.parameters()]).norm()
    for after, before in zip(model.parameters(), expected.parameters(), strict=True):
        g = before.grad * 0.01 / norm + 0.1 * before.detach()
        wanted = before.detach() - recipe.rate_at(0) * g / (g.abs() + 1e-8)
        torch.testing.assert_close(after.detach(), wanted, rtol=0, atol=1e-5)  # of a step of 0.04


def test_training_learns_and_scores_do_not_depend_on_the_batch(fit, batches_of, corpus):
    recipe = Recipe(epochs=2, epoch_steps=40, batch_size=32, rate=1e-2)
    model, labels = models.build(ARCHITECTURES["student2"], 1), corpus.labels("sheila")
    fit(recipe, model=model)
    pool, clips = batches_of().clips, np.arange(120)
    many, *one = (training.probabilities(model, pool, some) for some in (clips, *clips[:, None]))
    np.testing.assert_allclose(np.concatenate(one), many, atol=1e-6)  # another order of sums
    assert many[labels == 1].mean() > many[labels == 0].mean() + 0.3


def test_equal_seed_and_step_give_equal_batches(batches_of):
    batches = batches_of()
    one, again = batches.draw(3, seed=0), batches_of().draw(3, seed=0)
    assert all(torch.equal(*pair) for pair in zip(one, again, strict=True))
    assert not any(torch.equal(one[0], batches.draw(*other)[0]) for other in ((4, 0), (3, 1)))


def test_windows_stand_behind_the_clips_of_a_batch(batches_of):
    ones = torch.ones(8, 40, 101), torch.ones(8, dtype=torch.int64)
    pool = SimpleNamespace(draw=lambda count, generator: ones if count == 8 else None)
    batches = batches_of(replace(SHORT, windows=8), pool)
    (log_mels, labels), (alone, of_clips) = batches.draw(0, 0), batches_of().draw(0, 0)
    assert torch.equal(log_mels, torch.cat([alone, ones[0]]))
    assert labels.tolist() == of_clips.tolist() + [1] * 8


def test_the_last_steps_are_not_masked():
    masked = [replace(SHORT, unmasked=0.3).is_masked(step) for step in range(9)]
    assert masked == [True] * 7 + [False] * 2  # 30 % are 2.7 steps


@pytest.mark.parametrize("temperature", [1.0, 10.0, 30.0])
def test_distillation_loss_by_hand(temperature):
    student, teacher = np.random.default_rng(0).normal(0, 3, (2, 7, 2))
    softened = [np.exp(logits / temperature) for logits in (teacher, student)]
    p, q = (powers / powers.sum(1, keepdims=True) for powers in softened)
    wanted = temperature**2 * np.sum(p * np.log(p / q)) / 7  # mean over clips, not over classes too
    found = distillation_loss(torch.tensor(student), torch.tensor(teacher), temperature)
    assert found.item() == pytest.approx(wanted, rel=1e-10)  # float64; logs near 1 cancel


def test_the_loss_is_shared_between_labels_and_the_teacher():
    log_mels, labels = torch.randn(6, 40, 101), torch.tensor([0, 1] * 3)
    model, recipe = models.build(SMALL, 0).eval(), replace(DISTILLED, label_share=0.25)
    entropy = torch.nn.functional.cross_entropy(model(log_mels), labels)
    divergence = distillation_loss(model(log_mels), TEACHER(log_mels), 4.0)
    loss = training.batch_loss(model, log_mels, labels, recipe, TEACHER)
    torch.testing.assert_close(loss, 0.25 * entropy + 0.75 * divergence)
    assert training.batch_loss(model, log_mels, labels, SHORT, None) == entropy
    loss.backward()
    assert all(parameter.grad is None for parameter in TEACHER.parameters())


def test_a_teacher_and_a_temperature_go_together(fit):
    for recipe, teacher in ((SHORT, TEACHER), (DISTILLED, None)):
        with pytest.raises(ValueError, match="together"):
            fit(recipe, teacher=teacher)


def test_the_rate_rises_and_falls_by_half_a_cosine():
    """Of 100 steps 30 rise from rate / 25, the others fall to rate / 250,000."""
    recipe = Recipe(epochs=10, epoch_steps=10, rate=0.02)
    rates = [recipe.rate_at(step) for step in (0, 15, 30, 65, 100)]
    assert rates == pytest.approx([0.02 / 25, 0.0104, 0.02, 0.01000004, 8e-8])
    assert recipe.rate_at(10) == pytest.approx(0.0008 + 0.0192 * 0.25)  # (1 - cos 60 degrees) / 2


@pytest.mark.parametrize("profile", ("smoke", "quick", "full"))
def test_recipes_follow_the_study(profile):
    recipes = {str(setting): training.recipe_of(setting, profile) for setting in TRAINED}
    assert [recipes[f"student{n}"].temperature for n in (1, 2, 3)] == [1, 10, 30]
    for setting, recipe in zip(TRAINED, recipes.values(), strict=True):
        is_alone = training.teacher_of(setting) is None
        assert is_alone == (recipe.temperature is None)
        assert (recipe.windows > 0) == (recipe.tracks > 0) == setting.is_stream
        if setting.is_control:
            taught = replace(recipes[setting.network], temperature=None)
            assert is_alone and recipe == taught  # nothing else differs
    if profile == "full":
        assert (recipes["baseline"].epoch_steps, recipes["baseline"].batch_size) == (405, 128)


def test_who_teaches_and_where_a_training_starts():
    for of, wanted in ((training.start_of, STARTS), (training.teacher_of, TEACHERS)):
        assert {str(each): str(of(each)) for each in TRAINED if of(each)} == wanted
