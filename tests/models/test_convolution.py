"""Convolutions as matrix products and pooling by maxima equal XLA's own."""

import functools
import itertools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxfaces.models import convolution, embedder, pooling, resnet
from jaxfaces.models.convolution import Geometry, Plan

PLANS = [
    *(Plan(form, form, form) for form in convolution.FORMS),
    Plan("native", "columns", "columns"),
    Plan("native", "columns", "taps"),
]
# (height, width), kernel, stride, padding: those of the networks, odd and even sizes,
# maps smaller than the kernel, one-sided padding, pixels that no window reaches.
CASES = [
    ((9, 8), 7, 2, ((3, 3), (3, 3))),
    ((7, 6), 5, 2, ((2, 2), (2, 2))),
    ((6, 5), 3, 1, ((1, 1), (1, 1))),
    ((5, 6), 3, 2, ((1, 1), (1, 1))),
    ((2, 2), 3, 2, ((1, 1), (1, 1))),
    ((1, 1), 3, 1, ((1, 1), (1, 1))),
    ((1, 3), 5, 1, ((2, 2), (2, 2))),
    ((5, 4), 1, 2, ((0, 0), (0, 0))),
    ((4, 4), 1, 1, ((0, 0), (0, 0))),
    ((8, 8), 3, 3, ((0, 1), (2, 0))),
    ((5, 5), 2, 1, ((0, 0), (0, 1))),
]


@pytest.fixture(autouse=True)
def _several_pieces(monkeypatch):
    monkeypatch.setattr(convolution, "PIECE", 3)  # of batches of 4: 3 and 1


def operands(case, dtype=jnp.float32, batch=4):
    (height, width), kernel, stride, padding = case
    keys = jax.random.split(jax.random.key(kernel + height), 2)
    x = jax.random.normal(keys[0], (batch, height, width, 3), dtype)
    w = jax.random.normal(keys[1], (kernel, kernel, 3, 5), dtype) / kernel
    return x, w, Geometry((stride, stride), padding)


def by_loops(x, w, geometry):
    """The definition, a window at a time."""
    (s, t), edges = geometry.strides, geometry.padding
    x = np.pad(np.asarray(x, np.float64), ((0, 0), *edges, (0, 0)))
    k, m = w.shape[:2]
    rows, cols = (x.shape[1] - k) // s + 1, (x.shape[2] - m) // t + 1
    y = np.zeros((x.shape[0], rows, cols, w.shape[-1]))
    for i, j in itertools.product(range(rows), range(cols)):
        window = x[:, i * s : i * s + k, j * t : j * t + m]
        y[:, i, j] = np.tensordot(window, np.asarray(w, np.float64), 3)
    return y


def close(ours, theirs, tolerance=1e-5):
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        scale = max(np.abs(other).max(initial=0), 1e-30)
        np.testing.assert_allclose(one / scale, other / scale, atol=tolerance)


@pytest.mark.parametrize("form", list(convolution.FORMS))
@pytest.mark.parametrize("case", CASES)
def test_every_form_is_the_convolution_by_its_definition(form, case):
    x, w, geometry = operands(case)
    y = jax.jit(convolution.FORMS[form], static_argnums=2)(x, w, geometry)
    np.testing.assert_allclose(y, by_loops(x, w, geometry), rtol=1e-5, atol=1e-5)


def test_the_smallest_case_by_hand():
    # One pixel of 2 and a 3x3 kernel: only its centre, 5, meets the image.
    x = jnp.full((1, 1, 1, 1), 2.0)
    w = jnp.arange(1.0, 10).reshape(3, 3, 1, 1)
    geometry = Geometry((1, 1), ((1, 1), (1, 1)))
    assert convolution.taps(x, w, geometry).item() == 10
    assert convolution.columns(x, w, geometry).item() == 10


def derivatives(f, x, w):
    """Value, gradient, tangent, grad of jvp and grad of grad."""

    def value(x, w):
        return jnp.sum(jnp.sin(f(x, w)))

    dx, dw = jnp.cos(x), jnp.sin(3 * w)

    def slope(x, w):
        return jax.jvp(value, (x, w), (dx, dw))[1]

    def norm(x, w):
        gx, gw = jax.grad(value, (0, 1))(x, w)
        return jnp.sum(gx * dx) + jnp.sum(jnp.square(gw))

    grad = functools.partial(jax.grad, argnums=(0, 1))
    return {
        "value": f(x, w),
        "grad": grad(value)(x, w),
        "jvp": slope(x, w),
        "grad of jvp": grad(slope)(x, w),
        "grad of grad": grad(norm)(x, w),
    }


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: "-".join(vars(plan).values()))
@pytest.mark.parametrize("case", [CASES[0], CASES[3], CASES[5]])
def test_derivatives_of_every_order_and_direction_equal_the_native(plan, case):
    x, w, geometry = operands(case)
    ours = jax.jit(
        functools.partial(
            derivatives, lambda x, w: convolution.planned(x, w, geometry, plan)
        )
    )(x, w)
    theirs = jax.jit(
        functools.partial(derivatives, lambda x, w: convolution.native(x, w, geometry))
    )(x, w)
    close(ours, theirs)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("bfloat16", 2e-2), ("float32", 1e-5), ("float64", 1e-12)]
)
@pytest.mark.parametrize("plan", PLANS[1:3], ids=["columns", "taps"])
def test_types_are_kept_and_gradients_are_as_good_as_the_type(plan, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        x, w, geometry = operands(CASES[3], jnp.dtype(dtype))

        def value(f, x, w):
            return jnp.sum(jnp.square(f(x, w).astype(jnp.promote_types(dtype, "f4"))))

        def run(f):
            return f(x, w), jax.grad(value, (1, 2))(f, x, w)

        close(
            run(lambda x, w: convolution.planned(x, w, geometry, plan)),
            run(lambda x, w: convolution.native(x, w, geometry)),
            tolerance,
        )


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: "-".join(vars(plan).values()))
def test_gradients_in_control_flow_and_mapped_over_seeds_equal_the_native(plan):
    x, w, geometry = operands(CASES[2])
    ws = jnp.stack([w, -2 * w])

    def value(f, x, w):
        return jnp.sum(jnp.sin(f(x, w)))

    def both(f):
        grad = jax.grad(functools.partial(value, f), (0, 1))
        in_cond = jax.jit(
            lambda x, w: jax.lax.cond(
                w[0, 0, 0, 0] > 9, lambda: (x, w), lambda: grad(x, w)
            )
        )(x, w)
        in_scan = jax.lax.scan(lambda c, w: (c, grad(x, w)), 0, ws)[1]
        mapped = jax.jit(jax.vmap(grad, (None, 0)))(x, ws)
        return in_cond, in_scan, mapped

    close(
        both(lambda x, w: convolution.planned(x, w, geometry, plan)),
        both(lambda x, w: convolution.native(x, w, geometry)),
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("shape", "size", "stride", "padding"),
    [((2, 8, 8, 3), 3, 2, 1), ((2, 7, 5, 2), 3, 2, 1), ((1, 6, 7, 2), 2, 2, 0)],
)
def test_max_pooling_and_its_gradient_equal_the_native_with_ties(
    seed, shape, size, stride, padding
):
    # Whole numbers of a few values: most windows hold their maximum more than once.
    key = jax.random.key(seed)
    x = jax.random.randint(key, shape, -2, 2).astype(jnp.float32)

    def native(x):
        edges = ((padding, padding),) * 2
        return nn.max_pool(x, (size, size), (stride, stride), padding=edges)

    def ours(x):
        return pooling.max_pool(x, size=size, stride=stride, padding=padding)

    y, pull = jax.vjp(ours, x)
    wanted, native_pull = jax.vjp(native, x)
    np.testing.assert_array_equal(y, wanted)
    g = jnp.arange(1.0, 1 + y.size).reshape(y.shape)
    np.testing.assert_array_equal(pull(g)[0], native_pull(g)[0])
    _, moved = jax.jvp(ours, (x,), (jnp.cos(x),))
    np.testing.assert_array_equal(moved, jnp.cos(y))


def test_max_pooling_lets_nan_through():
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan)
    y = pooling.max_pool(x, size=3, stride=2, padding=1)
    assert bool(jnp.isnan(y).all())


def network(cpu_conv, **changes):
    return resnet.ResNet((1, 1), width=4, cpu_conv=cpu_conv, **changes)


def loss(module, variables, params, images):
    variables = {**variables, "params": params}
    features, _ = module.apply(variables, images, train=True, mutable=["batch_stats"])
    return jnp.sum(jnp.sin(3 * features))


@pytest.mark.parametrize("stem", list(resnet.STEMS))
@pytest.mark.parametrize("cpu_conv", ["auto", "on"])
def test_a_network_has_the_native_gradients_alone_and_on_eight_devices(cpu_conv, stem):
    images = jax.random.uniform(jax.random.key(0), (16, 18, 18, 3))
    module, plain = network(cpu_conv, stem=stem), network("off", stem=stem)
    variables = plain.init(jax.random.key(1), images, train=False)
    # The last scale of a block begins at zero, which would hide its gradients.
    params = jax.tree.map(lambda p: p + 0.1, variables["params"])
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))

    def grads(module, images):
        return jax.jit(jax.grad(loss, 2), static_argnums=0)(
            module, variables, params, images
        )

    theirs = grads(plain, images)
    close(grads(module, images), theirs, 5e-5)
    close(grads(module, jax.device_put(images, rows)), theirs, 5e-5)


@pytest.mark.parametrize("cpu_conv", ["auto", "on", "off"])
def test_a_network_really_takes_the_planned_forms_unless_told_not_to(cpu_conv):
    module, images = network(cpu_conv), jnp.zeros((2, 18, 18, 3))
    variables = module.init(jax.random.key(1), images, train=False)
    apply = functools.partial(module.apply, train=False)
    program = str(jax.make_jaxpr(apply)(variables, images))
    assert ("name=planned" in program) == (cpu_conv != "off")


def test_pieces_of_a_batch_give_a_network_its_gradients(monkeypatch):
    images = jax.random.uniform(jax.random.key(0), (37, 40, 40, 3))
    module, plain = network("auto"), network("off")
    variables = plain.init(jax.random.key(1), images, train=False)
    params = jax.tree.map(lambda p: p + 0.1, variables["params"])
    # Eight simulated devices would keep a batch in one piece.
    monkeypatch.setattr(jax, "device_count", lambda: 1)

    def grads(module):
        gradient = jax.jit(jax.grad(loss, 2), static_argnums=0)
        return gradient.lower(module, variables, params, images).compile()

    ours, theirs = grads(module), grads(plain)
    convolutions = [each.as_text().count(" convolution(") for each in (ours, theirs)]
    assert convolutions[0] > 2 * convolutions[1]
    close(ours(variables, params, images), theirs(variables, params, images), 5e-5)


def test_nothing_is_computed_for_images_that_are_not_differentiated():
    geometry = Geometry((1, 1), ((1, 1), (1, 1)))
    x, w = jnp.ones((2, 12, 12, 3)), jnp.ones((3, 3, 3, 4))
    plan = Plan("native", "columns", "native")

    def value(w):
        return convolution.planned(x, w, geometry, plan).sum()

    # The change of the images alone would need matrix products.
    assert "dot_general" not in str(jax.make_jaxpr(jax.grad(value))(w))


@pytest.mark.parametrize("cpu_conv", ["auto", "on"])
def test_a_network_is_exported_for_any_batch(cpu_conv):
    module = network(cpu_conv)
    images = jax.random.uniform(jax.random.key(0), (3, 18, 18, 3))
    variables = module.init(jax.random.key(1), images, train=False)

    def predict(images):
        return module.apply(variables, images, train=False)

    (batch,) = export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((batch, 18, 18, 3), jnp.float32)
    exported = export.export(jax.jit(predict), platforms=("cpu", "cuda", "tpu"))(shape)
    np.testing.assert_allclose(exported.call(images), predict(images), atol=1e-6)


def test_auto_takes_products_on_small_maps_and_leaves_unmeasured_types_alone():
    geometry = Geometry((1, 1), ((1, 1), (1, 1)))
    w = jnp.zeros((3, 3, 8, 8))
    small, large = jnp.zeros((4, 3, 3, 8)), jnp.zeros((4, 20, 20, 8))
    assert convolution.by_shape(small, w, geometry) == Plan("taps", "taps", "taps")
    assert convolution.by_shape(large, w, geometry) is None  # eight devices
    assert convolution.by_shape(small.astype(jnp.bfloat16), w, geometry) is None


def test_auto_cuts_large_batches_on_one_device_only(monkeypatch):
    geometry = Geometry((1, 1), ((1, 1), (1, 1)))
    w, x = jnp.zeros((3, 3, 8, 8)), jnp.zeros((4, 20, 20, 8))
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    plan = Plan("pieces", "pieces", "pieces")
    assert convolution.by_shape(x, w, geometry) == plan
    assert convolution.by_shape(x[:3], w, geometry) is None


def test_grouped_and_dilated_convolutions_stay_native():
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 4))
    for options in ({"feature_group_count": 2}, {"kernel_dilation": 2}):
        outs = []
        for inject in (None, convolution.injected("on")):
            conv = nn.Conv(4, (3, 3), conv_general_dilated=inject, **options)
            variables = conv.init(jax.random.key(1), x)
            outs.append(conv.apply(variables, x))
        np.testing.assert_array_equal(*outs)


def test_an_unknown_setting_is_refused():
    module = embedder.make("small", size=4, width=4, dtype="float32", cpu_conv="fast")
    with pytest.raises(ValueError, match="auto, on or off"):
        module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
