"""Gradients and values of one training step against closed forms and unrolled loops."""

import functools
import operator

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from augment.meta_gradients import (
    linear_step_value,
    one_step_meta_gradient,
    one_step_value,
)

ORDERS = ("forward", "reverse", "finite")
RATE, MOMENTUM, DECAY = 0.3, 0.9, 0.05


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


# A two-layer network without weight decay on biases; the shaping weighs the examples
# and shifts the inputs.
X, Y, X_VALID, Y_VALID = draw(6, 3), draw(6, 2), draw(5, 3), draw(5, 2)


def network(params, x):
    hidden = jnp.tanh(x @ params["first"] + params["bias"][None])
    return hidden @ params["second"], hidden.mean(0)


def train_with_aux(params, shaping):
    out, statistics = network(params, X + shaping["shift"][None])
    return jnp.mean(shaping["weights"][:, None] * (out - Y) ** 2), statistics


def valid_with_aux(params):
    out, statistics = network(params, X_VALID)
    return jnp.mean(jnp.abs(out - Y_VALID) ** 3), statistics


def train(params, shaping):
    return train_with_aux(params, shaping)[0]


def valid(params):
    return valid_with_aux(params)[0]


def decays(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def start():
    shapes = {"first": (3, 4), "bias": (4,), "second": (4, 2)}
    params = {name: jnp.asarray(draw(*shape)) for name, shape in shapes.items()}
    buffer = {name: jnp.asarray(draw(*shape, seed=1)) for name, shape in shapes.items()}
    shaping = {"shift": jnp.asarray(draw(3)), "weights": jnp.asarray(draw(6) ** 2)}
    return params, buffer, shaping


def stepped(params, buffer, shaping):
    """The validation loss after a step, leaf by leaf in NumPy."""
    slope = jax.grad(train)(params, shaping)
    moved = {}
    for name, w in params.items():
        change = MOMENTUM * np.asarray(buffer[name]) + np.asarray(slope[name])
        if name != "bias":
            change = change + DECAY * np.asarray(w)
        moved[name] = np.asarray(w) - RATE * change
    return moved


FULL = {"rate": RATE, "momentum": MOMENTUM, "weight_decay": DECAY}


@functools.partial(jax.jit, static_argnames="order")
def full(params, buffer, shaping, order="forward"):
    return one_step_meta_gradient(
        train,
        valid,
        params,
        shaping,
        buffer=buffer,
        decay_mask=decays,
        order=order,
        **FULL,
    )


def test_the_exact_orders_agree_and_the_finite_difference_nearly():
    params, buffer, shaping = start()
    forward, reverse, finite = (full(params, buffer, shaping, each) for each in ORDERS)
    chex.assert_trees_all_close(forward, reverse, rtol=1e-8, atol=1e-12)
    chex.assert_trees_all_close(
        forward.gradient, finite.gradient, rtol=1e-4, atol=1e-4 * RATE
    )
    assert jax.tree.leaves(forward.gradient)[0].dtype == jnp.float64


def test_momentum_decay_and_mask_are_inside_the_step():
    params, buffer, shaping = start()
    result = full(params, buffer, shaping)
    chex.assert_trees_all_close(
        result.params, stepped(params, buffer, shaping), rtol=1e-12
    )
    for name, leaf in shaping.items():
        for place in range(leaf.size):
            ends = [
                valid(
                    stepped(
                        params,
                        buffer,
                        {**shaping, name: leaf.at[place].add(side * 1e-5)},
                    )
                )
                for side in (1, -1)
            ]
            slope = float(ends[0] - ends[1]) / 2e-5
            np.testing.assert_allclose(
                result.gradient[name][place], slope, rtol=1e-6, atol=1e-9
            )


@pytest.mark.parametrize("order", ORDERS)
def test_what_was_computed_on_the_way_is_returned(order):
    params, buffer, shaping = start()
    result = full(params, buffer, shaping, order)
    loss, slope = jax.value_and_grad(train)(params, shaping)
    value, direction = jax.value_and_grad(valid)(result.params)
    chex.assert_trees_all_close(
        (
            result.train_loss,
            result.train_gradient,
            result.validation_loss,
            result.validation_gradient,
        ),
        (loss, slope, value, direction),
        rtol=1e-12,
    )
    assert result.train_aux is None and result.validation_aux is None


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("checkpoint", [False, True])
def test_statistics_come_from_the_first_pass_and_change_nothing(order, checkpoint):
    params, _, shaping = start()
    call = functools.partial(
        one_step_meta_gradient, params=params, shaping=shaping, rate=RATE, order=order
    )
    plain = call(train, valid)
    result = call(train_with_aux, valid_with_aux, has_aux=True, checkpoint=checkpoint)
    chex.assert_trees_all_close(result.gradient, plain.gradient, rtol=1e-12)
    np.testing.assert_allclose(
        result.train_aux, train_with_aux(params, shaping)[1], rtol=1e-12
    )
    np.testing.assert_allclose(
        result.validation_aux, valid_with_aux(plain.params)[1], rtol=1e-12
    )


def test_recomputing_activations_saves_memory_in_reverse():
    layers = [jnp.asarray(draw(32, 32, seed=n)) / 6 for n in range(12)]
    x = jnp.asarray(draw(512, 32))

    def out(layers, x):
        return functools.reduce(lambda x, kernel: jnp.tanh(x @ kernel), layers, x)

    def memory(order, checkpoint):
        def gradient(layers, shift):
            return one_step_meta_gradient(
                lambda layers, shift: jnp.mean((out(layers, x + shift) - 1) ** 2),
                lambda layers: jnp.mean((out(layers, x[::-1]) + 1) ** 2),
                layers,
                shift,
                rate=RATE,
                order=order,
                checkpoint=checkpoint,
            ).gradient

        compiled = jax.jit(gradient).lower(layers, jnp.zeros((1, 1))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory("reverse", True) < 0.85 * memory("reverse", False)
    assert memory("forward", True) <= memory("forward", False)


@jax.custom_vjp
def opaque(x):
    """tanh, without forward mode."""
    return jnp.tanh(x)


opaque.defvjp(
    lambda x: (jnp.tanh(x), x), lambda x, slope: (slope * (1 - jnp.tanh(x) ** 2),)
)


def test_without_forward_mode_reverse_is_the_exact_order():
    def loss(activation, weights, shift):
        return jnp.mean((activation((X + shift[None]) @ weights) - Y) ** 2)

    weights, shift = jnp.asarray(draw(3, 2)), jnp.asarray(draw(3))

    def gradient(activation, order):
        return one_step_meta_gradient(
            functools.partial(loss, activation),
            lambda weights: jnp.mean((X_VALID @ weights - Y_VALID) ** 2),
            weights,
            shift,
            rate=RATE,
            order=order,
        ).gradient

    exact = gradient(jnp.tanh, "forward")
    np.testing.assert_allclose(gradient(opaque, "reverse"), exact, rtol=1e-9)
    np.testing.assert_allclose(gradient(opaque, "finite"), exact, rtol=1e-3)
    with pytest.raises((TypeError, NotImplementedError)):
        gradient(opaque, "forward")


def mixing_problem(count=5):
    """Linear regression on mixed pairs: everything in closed form."""
    x, y, weights = draw(count, 3), draw(count, 2), draw(2, 3)
    partner = np.roll(np.arange(count), 2)
    partner[0] = 0  # a pair with itself
    shares = np.linspace(0.1, 0.8, count)

    def mixed(shares, a, b):
        return shares[:, None] * a + (1 - shares[:, None]) * b

    def train(weights, shares):
        error = mixed(shares, x, x[partner]) @ weights.T
        error = error - mixed(shares, y, y[partner])
        return jnp.mean(jnp.sum(error**2, 1)) / 2

    def valid(weights):
        return jnp.mean(jnp.sum(jnp.abs(X_VALID @ weights.T - Y_VALID) ** 3, 1))

    return train, valid, weights, shares, (x, y, partner)


def test_a_linear_model_on_mixed_pairs_has_its_closed_form():
    train, valid, weights, shares, (x, y, partner) = mixing_problem()
    for order in ("forward", "reverse"):
        result = one_step_meta_gradient(
            train, valid, weights, jnp.asarray(shares), rate=RATE, order=order
        )
        direction = np.asarray(jax.grad(valid)(result.params))
        for i, j in enumerate(partner):
            own = shares[i]
            mixed_x = own * x[i] + (1 - own) * x[j]
            mixed_y = own * y[i] + (1 - own) * y[j]
            apart_x, apart_y = x[i] - x[j], y[i] - y[j]
            slope = np.outer(weights @ apart_x - apart_y, mixed_x)
            slope += np.outer(weights @ mixed_x - mixed_y, apart_x)
            wanted = -RATE / len(x) * np.sum(direction * slope)
            np.testing.assert_allclose(
                result.gradient[i], wanted, rtol=1e-10, atol=1e-15
            )
        assert result.gradient[0] == 0


def test_swapping_the_members_of_pairs_flips_the_sign():
    _, valid, weights, shares, (x, y, partner) = mixing_problem()

    def train(weights, shares, first, second):
        own = shares[:, None]
        error = (own * x[first] + (1 - own) * x[second]) @ weights.T
        error = error - own * y[first] - (1 - own) * y[second]
        return jnp.mean(jnp.sum(error**2, 1))

    both = []
    rows = np.arange(len(x))
    for first, second, own in ((rows, partner, shares), (partner, rows, 1 - shares)):
        result = one_step_meta_gradient(
            functools.partial(train, first=first, second=second),
            valid,
            weights,
            jnp.asarray(own),
            rate=RATE,
        )
        both.append(result.gradient)
    np.testing.assert_allclose(both[0], -both[1], rtol=1e-10, atol=1e-15)


def test_the_value_of_a_step_and_its_linear_part():
    params, buffer, shaping = start()
    value = one_step_value(
        train,
        valid,
        params,
        shaping,
        buffer=buffer,
        decay_mask=decays,
        **FULL,
    )
    wanted = valid(stepped(params, buffer, shaping)) - valid(params)
    np.testing.assert_allclose(value, wanted, rtol=1e-12)
    # As the rate goes to zero, the step is worth what its linear part says.
    direction = jax.grad(valid)(params)
    linear = linear_step_value(train, params, shaping, direction, rate=1e-6)
    exact = one_step_value(train, valid, params, shaping, rate=1e-6)
    np.testing.assert_allclose(linear, exact, rtol=1e-4)
    with_aux = linear_step_value(
        train_with_aux, params, shaping, direction, rate=1e-6, has_aux=True
    )
    np.testing.assert_allclose(with_aux, linear, rtol=1e-12)
    known = one_step_value(
        train_with_aux,
        valid_with_aux,
        params,
        shaping,
        rate=1e-6,
        has_aux=True,
        reference=0,
    )
    np.testing.assert_allclose(known - valid(params), exact, rtol=1e-6)


def test_values_of_many_shapings_at_once():
    params, _, shaping = start()
    many = jax.tree.map(
        lambda leaf: leaf[None] * jnp.linspace(0.2, 1, 4)[:, None], shaping
    )
    value = functools.partial(one_step_value, train, valid, params, rate=RATE)
    gradient = functools.partial(
        one_step_meta_gradient, train, valid, params, rate=RATE
    )
    at_once = jax.jit(jax.vmap(value))(many)
    steps = jax.jit(jax.vmap(gradient))(many)
    for row in range(4):
        one, mine = jax.tree.map(operator.itemgetter(row), (many, steps))
        np.testing.assert_allclose(at_once[row], value(one), rtol=1e-12, atol=1e-15)
        chex.assert_trees_all_close(mine, gradient(one), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("order", ORDERS)
def test_one_compilation_serves_every_rate(order):
    params, buffer, shaping = start()
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, buffer, shaping, rate, momentum):
        return one_step_meta_gradient(
            train,
            valid,
            params,
            shaping,
            rate=rate,
            momentum=momentum,
            buffer=buffer,
            order=order,
        )

    for rate in (0.1, 0.2):
        result = step(params, buffer, shaping, rate, MOMENTUM)
        wanted = one_step_meta_gradient(
            train,
            valid,
            params,
            shaping,
            rate=rate,
            momentum=MOMENTUM,
            buffer=buffer,
            order=order,
        )
        chex.assert_trees_all_close(result, wanted, rtol=1e-8, atol=1e-13)


def test_examples_on_several_devices_make_no_difference():
    x, y, shares = draw(16, 3), draw(16, 2), np.linspace(0, 1, 16)
    weights = jnp.asarray(draw(3, 2))

    def step(x, y, shares):
        def train(weights, shares):
            return jnp.mean(shares[:, None] * (jnp.tanh(x @ weights) - y) ** 2)

        def valid(weights):
            return jnp.mean((x[::2] @ weights - y[::2]) ** 2)

        return one_step_meta_gradient(train, valid, weights, shares, rate=RATE)

    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    sharded = jax.jit(step)(*jax.device_put((x, y, shares), spread))
    chex.assert_trees_all_close(sharded, step(x, y, shares), rtol=1e-9, atol=1e-14)


def test_low_precision_stays_as_it_is():
    params, buffer, shaping = jax.tree.map(lambda leaf: leaf.astype("f4"), start())
    result = full(params, buffer, shaping)
    for tree, like in ((result.params, params), (result.gradient, shaping)):
        chex.assert_trees_all_equal_shapes_and_dtypes(tree, like)


def test_without_a_direction_there_is_no_gradient():
    params, _, shaping = start()
    for order in ORDERS:
        result = one_step_meta_gradient(
            train, lambda _: jnp.zeros(()), params, shaping, rate=RATE, order=order
        )
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(result.gradient))


def test_what_is_not_a_number_shows():
    params, _, shaping = start()
    shaping["weights"] = shaping["weights"].at[2].set(jnp.nan)
    result = one_step_meta_gradient(train, valid, params, shaping, rate=RATE)
    assert np.isnan(result.gradient["shift"]).all()


def test_bad_input_is_refused():
    params, _, shaping = start()
    with pytest.raises(ValueError, match="'forward', 'reverse' or 'finite', got 'up'"):
        one_step_meta_gradient(train, valid, params, shaping, rate=RATE, order="up")
    with pytest.raises(ValueError, match="momentum needs its buffer"):
        one_step_meta_gradient(train, valid, params, shaping, rate=RATE, momentum=0.9)
