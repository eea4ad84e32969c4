"""One step of a search on a linear network: worth, gradients, estimators, memory."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import augment
from jaxfaces.tasks import search_state, search_step
from jaxfaces.tasks.search_settings import ESTIMATORS, SearchSettings

OPERATIONS = ("Rotate", "Invert", "Color")
RATE, MOMENTUM, DECAY = 0.3, 0.9, 0.05
DRAWS = 3


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


IMAGES, LABELS = numbers(DRAWS, 8, 2, 2, 1), np.arange(8) % 3
HELD, HELD_LABELS = numbers(5, 2, 2, 1), np.arange(5) % 3
WEIGHTS = {"kernel": numbers(4, 3), "bias": numbers(3)}
BUFFER = {"kernel": numbers(4, 3, seed=1), "bias": numbers(3, seed=1)}


def loss(params, images, labels):
    logits = images.reshape(len(images), 4) @ params["kernel"] + params["bias"][None]
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(nll), jnp.mean(logits)


def trial(rate=RATE):
    return search_step.Trial(
        train=lambda params, images: loss(params, images, LABELS),
        validation=lambda params: loss(params, HELD, HELD_LABELS),
        params=jax.tree.map(jnp.asarray, WEIGHTS),
        buffer=jax.tree.map(jnp.asarray, BUFFER),
        rate=jnp.asarray(rate),
        momentum=MOMENTUM,
        weight_decay=DECAY,
    )


def after_step(images):
    """V(w') by hand: momentum, decay of the kernel alone."""
    slope = jax.grad(lambda w: loss(w, images, LABELS)[0])(WEIGHTS)
    decayed = {"kernel": DECAY * WEIGHTS["kernel"], "bias": 0}
    moved = {
        name: WEIGHTS[name] - RATE * (MOMENTUM * BUFFER[name] + slope[name] + decay)
        for name, decay in decayed.items()
    }
    return loss(moved, HELD, HELD_LABELS)[0]


def before_step():
    return loss(WEIGHTS, HELD, HELD_LABELS)[0]


def judged(rate=RATE, **flags):
    settings = SearchSettings(operations=OPERATIONS, **flags)
    search = search_state.first_search(settings, jax.random.key(3), 4)
    search = search.replace(
        policy=jax.tree.map(lambda x: x.astype(float), search.policy)
    )
    policy, count = search.policy, settings.draws
    draws = augment.policy_draws(
        jax.random.key(4), policy["logits"], policy["probabilities"], count=count
    )
    images = jnp.asarray(IMAGES[:count])
    found = search_step.judge(settings, trial(rate), policy, draws, images, 0.5)
    return settings, search, draws, found


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_the_worth_of_a_draw_is_the_change_of_the_validation_loss(order):
    _, _, _, found = judged(draws=DRAWS, order=order)
    expected = [after_step(images) - before_step() for images in IMAGES]
    np.testing.assert_allclose(found.values, expected, rtol=1e-9)
    assert found.before == pytest.approx(float(before_step()))


@pytest.mark.parametrize("order", ["forward", "reverse", "finite"])
def test_the_gradient_in_levels_is_that_of_brighter_images(order):
    settings, search, draws, found = judged(draws=DRAWS, order=order)
    expected = np.zeros(search.policy["levels"].shape)
    for d, (row, applied) in enumerate(zip(draws.sub_policies, draws.applied)):
        up, down = (after_step(IMAGES[d] + sign * 1e-5) for sign in (1, -1))
        slope = (up - down) / 2e-5 / RATE
        expected[row] += np.where(applied, slope / DRAWS, 0)
    assert np.any(expected != 0)
    close = 1e-3 if order == "finite" else 1e-6
    np.testing.assert_allclose(
        found.gradient["levels"], expected, rtol=close, atol=close * 1e-2
    )


def smooth(number, levels):
    """Images that level i brightens by i + 1 a pixel, those of later draws by more."""
    slopes = jnp.asarray([[1.0, 2.0]]) * (1 + number)
    return jnp.asarray(IMAGES)[number] + jnp.sum(slopes * levels)


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_levels_have_the_derivatives_of_smooth_images(order):
    settings, search, draws, _ = judged(draws=DRAWS, order=order)
    found = search_step.judge(
        settings, trial(), search.policy, draws, jnp.asarray(IMAGES), 0.5, smooth
    )
    expected = np.zeros(search.policy["levels"].shape)
    for d, row in enumerate(draws.sub_policies):
        up, down = (after_step(IMAGES[d] + sign * 1e-5) for sign in (1, -1))
        slope = (up - down) / 2e-5 / RATE
        expected[row] += slope * np.array([1.0, 2.0]) * (1 + d) / DRAWS
    np.testing.assert_allclose(found.gradient["levels"], expected, rtol=1e-6)
    expected = [after_step(images) - before_step() for images in IMAGES]
    np.testing.assert_allclose(found.values, expected, rtol=1e-9)


@pytest.mark.parametrize("estimator", ["reinforce", "relax_linear", "gumbel"])
def test_draws_in_a_loop_are_worth_the_same(estimator, monkeypatch):
    unrolled = judged(estimator=estimator, draws=DRAWS)[3]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jaxpr = jax.make_jaxpr(lambda: judged(estimator=estimator, draws=DRAWS)[3])()
    assert "scan[" in str(jaxpr)
    looped = judged(estimator=estimator, draws=DRAWS)[3]
    chex.assert_trees_all_close(looped, unrolled, rtol=1e-9, atol=1e-12)


def test_the_training_gradient_is_that_of_the_first_draw():
    _, _, _, found = judged(draws=DRAWS)
    (value, aux), slope = jax.value_and_grad(loss, has_aux=True)(
        WEIGHTS, IMAGES[0], LABELS
    )
    del value
    jax.tree.map(np.testing.assert_allclose, found.train_gradient, slope)
    assert found.train_aux == pytest.approx(float(aux))


def test_to_first_order_worth_is_a_slope_at_the_weights():
    _, _, _, found = judged(estimator="relax_linear", draws=DRAWS)
    v = jax.grad(lambda w: loss(w, HELD, HELD_LABELS)[0])(WEIGHTS)
    for images, value in zip(IMAGES, found.values):
        slope = jax.grad(loss, has_aux=True)(WEIGHTS, images, LABELS)[0]
        products = jax.tree.map(lambda a, b: jnp.sum(a * b), slope, v)
        expected = -RATE * sum(jax.tree.leaves(products))
        assert value == pytest.approx(float(expected))


def test_official_takes_a_difference_without_the_learning_rate():
    _, _, draws, found = judged(estimator="official")
    exact = judged(order="forward")[3]
    v = jax.grad(after_step_at)(WEIGHTS)
    norm = optax.tree.norm(v)

    def at(side):
        moved = jax.tree.map(lambda w, d: w + side * 0.01 / norm * d, WEIGHTS, v)
        return loss(moved, IMAGES[0], LABELS)[0]

    expected = -(at(1) - at(-1)) / (2 * 0.01 / norm)
    assert found.values[0] == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_allclose(
        found.gradient["levels"], exact.gradient["levels"], rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_lower_learning_rate_leaves_the_gradients_as_long(estimator):
    # So low that the step is worth its linear part, which is the rate times a slope.
    one, half = (judged(rate, estimator=estimator, draws=2)[3] for rate in (1e-7, 5e-8))
    assert set(one.gradient) == (
        {"levels", "logits", "probabilities"} if estimator == "gumbel" else {"levels"}
    )
    for name, gradient in one.gradient.items():
        assert np.any(gradient != 0)
        np.testing.assert_allclose(
            half.gradient[name], gradient, rtol=1e-5, atol=1e-9, err_msg=name
        )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_at_a_learning_rate_of_zero_there_is_no_gradient(estimator):
    found = judged(0.0, estimator=estimator)[3]
    for gradient in jax.tree.leaves(found.gradient):
        np.testing.assert_array_equal(gradient, 0)


def after_step_at(weights):
    """V at w' + (weights - w), whose gradient at w is that of V at w'."""
    slope = jax.grad(lambda w: loss(w, IMAGES[0], LABELS)[0])(WEIGHTS)
    decayed = {"kernel": DECAY * WEIGHTS["kernel"], "bias": 0}
    moved = {
        name: weights[name] - RATE * (MOMENTUM * BUFFER[name] + slope[name] + decay)
        for name, decay in decayed.items()
    }
    return loss(moved, HELD, HELD_LABELS)[0]


class TestImprove:
    def improved(self, control=None, **flags):
        settings, search, draws, found = judged(**flags)
        if control is not None:
            search = search.replace(
                control=jax.tree.map(lambda x: x + control, search.control)
            )
        return search, *search_step.improve(settings, search, draws, found, 0.5)

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_every_estimator_moves_the_policy(self, estimator):
        before, after, moment = self.improved(estimator=estimator)
        assert np.all(np.isfinite(after.policy["logits"]))
        assert moment > 0
        # Adam's first step is the rate times the sign, and rows not drawn lie still.
        moved = np.abs(after.policy["levels"] - before.policy["levels"])
        assert np.all((moved == 0) | np.isclose(moved, 0.005))

    @pytest.mark.parametrize("estimator, differs", [("relax", 1), ("official", 0)])
    def test_the_control_variate_plays_no_part_in_official(self, estimator, differs):
        plain = self.improved(estimator=estimator)[2]
        other = self.improved(control=0.3, estimator=estimator)[2]
        assert (plain != other) == bool(differs)

    def test_an_unlearnt_control_variate_leaves_reinforce(self):
        relax = self.improved(estimator="relax", draws=1)[2]
        reinforce = self.improved(estimator="reinforce", draws=1)[2]
        assert relax == pytest.approx(float(reinforce))

    @pytest.mark.parametrize("estimator", ["relax", "reinforce", "relax_linear"])
    def test_draws_are_compared_with_each_other_as_far_as_batches_matter(
        self, estimator
    ):
        settings, search, draws, found = judged(estimator=estimator, draws=DRAWS)
        mean, own, shared = 0.2, 0.01, 0.03
        search = search.replace(
            mean=jnp.asarray(mean),
            own=jnp.asarray(own),
            square=jnp.asarray(own + shared),
        )
        moment = search_step.improve(settings, search, draws, found, 0.5)[1]
        share = shared / (shared + own / (DRAWS - 1))
        f = np.asarray(found.values)
        others = np.array([np.delete(f, d).mean() for d in range(DRAWS)])
        logits, chances = search.policy["logits"], search.policy["probabilities"]
        wanted = augment.reinforce_gradient(
            draws, f, logits, chances, baseline=mean + share * (others - mean)
        )
        squares = [jnp.sum(g**2) for g in (wanted.logits, wanted.probabilities)]
        assert moment == pytest.approx(float(sum(squares)) / 9)

    def test_a_lower_loss_after_a_draw_makes_it_likelier(self):
        settings, search, draws, found = judged(estimator="reinforce")
        found = dataclasses.replace(found, values=jnp.array([-1.0]))
        after, _ = search_step.improve(settings, search, draws, found, 0.5)
        assert jnp.argmax(after.policy["logits"]) == draws.sub_policies[0]
        row = after.policy["probabilities"][draws.sub_policies[0]]
        np.testing.assert_array_equal(row > 0.5, draws.applied[0])


class TestMemory:
    def filled(self, steps, snapshots, values):
        settings = SearchSettings(operations=OPERATIONS)
        search = search_state.first_search(settings, jax.random.key(0), snapshots)
        for step, value in enumerate(values):
            policy = search.policy | {"logits": jnp.full(3, 1.0 + step)}
            search = search_state.remembered(
                search.replace(policy=policy), jnp.array([value]), step, steps
            )
        return search

    def test_the_mean_is_plain_at_first_and_then_forgets(self):
        values = list(numbers(30))
        assert self.filled(30, 4, values[:7]).mean == pytest.approx(np.mean(values[:7]))
        expected = np.mean(values[:10])
        for value in values[10:]:
            expected = 0.9 * expected + 0.1 * value
        assert self.filled(30, 4, values).mean == pytest.approx(expected)

    def test_the_variance_between_draws_is_kept_apart_from_that_between_steps(self):
        settings = SearchSettings(operations=OPERATIONS, draws=2)
        search = search_state.first_search(settings, jax.random.key(0), 1)
        values = numbers(4000, 2) + 3 * numbers(4000, seed=1)[:, None]

        def step(search, given):
            number, f = given
            return search_state.remembered(search, f, number, 4000), search

        given = jnp.arange(4000), jnp.asarray(values)
        _, seen = jax.lax.scan(step, search, given)
        assert np.mean(seen.own[500:]) == pytest.approx(1, rel=0.1)
        assert np.mean(seen.square[500:]) == pytest.approx(10, rel=0.15)

    def test_one_draw_has_no_variance_between_draws(self):
        assert self.filled(8, 4, range(8)).own == 0

    def test_snapshots_are_equally_spaced(self):
        history = self.filled(8, 4, range(8)).history["logits"]
        np.testing.assert_array_equal(history[:, 0], [2, 4, 6, 8])

    def test_a_run_made_longer_goes_on_in_the_last(self):
        history = self.filled(4, 2, range(9)).history["logits"]
        np.testing.assert_array_equal(history[:, 0], [2, 9])


def test_the_temperature_goes_linearly_to_its_end():
    settings = SearchSettings(temperature=0.5, temperature_end=0.1)
    found = [float(settings.temperature_at(jnp.asarray(n), 5)) for n in (0, 2, 4, 9)]
    np.testing.assert_allclose(found, [0.5, 0.3, 0.1, 0.1])


def test_the_space_is_all_pairs():
    assert len(SearchSettings().first_policy().logits) == 105
    policy = SearchSettings(operations=OPERATIONS).first_policy()
    np.testing.assert_array_equal(policy.operations, [[0, 1], [0, 2], [1, 2]])
    assert [each.name for each in policy.table] == list(OPERATIONS)


def test_entropy_is_greatest_where_all_are_equal():
    assert search_state.entropy(jnp.zeros(8)) == pytest.approx(np.log(8))
    for sure in ([0.0, 1000.0], [0.0]):
        assert str(search_state.entropy(jnp.array(sure))) == "0.0"
