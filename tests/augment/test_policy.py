"""Drawing from policies, applying draws, files."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pillow_ops import pillow

from augment import image_ops, policies, policy, policy_files, reference_ops
from augment.image_ops import Operation

NAMES = ("Rotate", "Contrast", "Invert", "Cutout", "ShearX", "Equalize")
PAIRS = policy.make_policy(
    [
        [("Rotate", 0.5, 0.7), ("Contrast", 1.0, 0.9)],
        [("Invert", 1.0, 0.0), ("Cutout", 0.25, 1.0)],
        [("ShearX", 0.0, 0.2), ("Equalize", 0.75, 0.3)],
    ],
    weights=[1, 2, 5],
    table=tuple(map(image_ops.operation, NAMES)),
)
KEY = jax.random.key(11)
APPLY_DRAW = jax.jit(policy.apply_draw, static_argnames="mode")


def noise(count, side=12, channels=3):
    shape = (count, side, side, channels)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_sub_policies_and_coins_come_as_often_as_the_policy_says():
    count = 40_000
    draw = jax.jit(policy.sample, static_argnums=2)(PAIRS, KEY, count)
    assert draw.operations.shape == draw.applied.shape == (count, 2)
    shares = np.bincount(draw.sub_policies, minlength=3) / count
    np.testing.assert_allclose(shares, [1 / 8, 2 / 8, 5 / 8], atol=0.01)
    for row in range(3):
        mine = np.asarray(draw.sub_policies) == row
        for ours, theirs in (
            (draw.operations, PAIRS.operations),
            (draw.levels, PAIRS.levels),
        ):
            assert (np.asarray(ours)[mine] == np.asarray(theirs)[row]).all()
        chances = np.asarray(draw.applied)[mine].mean(0)
        np.testing.assert_allclose(chances, PAIRS.probabilities[row], atol=0.025)


def test_a_draw_is_applied_as_pillow_would():
    images = noise(6)
    draw = policy.Draw(
        sub_policies=jnp.arange(3),
        operations=PAIRS.operations,
        levels=PAIRS.levels,
        applied=jnp.array([[True, True], [True, True], [False, True]]),
        table=PAIRS.table,
    )
    results = np.asarray(APPLY_DRAW(draw, images, KEY))
    keys = jax.random.split(KEY, (3, 2, 2))
    for place, image in enumerate(images):
        group, within = divmod(place, 2)
        for step in range(2):
            each = PAIRS.table[int(draw.operations[group, step])]
            flip, inner = image_ops.coin(keys[group, step, within])
            v = float(draw.levels[group, step]) * (each.high - each.low) + each.low
            if each.mirror == 0 and flip:
                v = -v
            centre = reference_ops.random_centre(inner, 12, 12)
            if draw.applied[group, step]:
                image = pillow(each.name, image, v, np.asarray(centre))
        assert np.array_equal(results[place], image), place


def test_apply_is_sample_then_apply_draw_and_a_key_repeats_it():
    images = noise(6)
    apply = jax.jit(functools.partial(policy.apply, grouping=3))
    drawing, applying = jax.random.split(KEY)
    draw = policy.sample(PAIRS, drawing, 6, grouping=3)
    once = apply(PAIRS, KEY, images)
    assert once.dtype == jnp.uint8
    assert np.array_equal(once, APPLY_DRAW(draw, images, applying))
    assert np.array_equal(once, apply(PAIRS, KEY, images))
    assert not np.array_equal(once, apply(PAIRS, jax.random.key(12), images))


def test_an_operation_that_was_not_drawn_is_not_computed():
    calls = []

    def counted(image, v, key):
        jax.debug.callback(lambda: calls.append(1))
        return image

    table = (*PAIRS.table, Operation("Counted", 0, 1, None, counted))
    both = policy.make_policy(
        [[("Invert", 1.0, 0.5)], [("Counted", 1.0, 0.5)]], table=table
    )
    draw = policy.sample(both, KEY, 8)
    APPLY_DRAW(draw, noise(8), KEY).block_until_ready()
    jax.effects_barrier()
    assert len(calls) == int(draw.sub_policies.sum()) > 0


def test_smooth_mode_has_a_gradient_for_the_levels_of_applied_operations():
    images = noise(3) / np.float32(255)
    draw = policy.sample(PAIRS, KEY, 3)

    def total(levels):
        changed = dataclasses.replace(draw, levels=levels)
        return jnp.sum(APPLY_DRAW(changed, images, KEY, mode="smooth") ** 2)

    slopes = np.asarray(jax.grad(total)(draw.levels))
    assert np.isfinite(slopes).all()
    names = np.array([each.name for each in PAIRS.table])[np.asarray(draw.operations)]
    moved = np.isin(names, ["Rotate", "Contrast"]) & np.asarray(draw.applied)
    assert (slopes[moved] != 0).all()
    assert (slopes[~np.asarray(draw.applied)] == 0).all()


@pytest.mark.parametrize(
    ("made", "shape", "size"),
    [
        (policies.auto_augment("cifar10"), (25, 2), 13),
        (policies.auto_augment("svhn"), (25, 2), 10),
        (policies.auto_augment("imagenet"), (25, 2), 10),
        (policies.dada("cifar10"), (25, 2), 15),
        (policies.dada("cifar100"), (25, 2), 15),
        (policies.dada("svhn"), (25, 2), 15),
        (policies.dada("imagenet"), (25, 2), 15),
        (policies.rand_augment(), (196, 2), 14),
        (policies.rand_augment(count=1, magnitude=30), (14, 1), 14),
        (policies.trivial_augment(), (434, 1), 14),
        (policies.trivial_augment(wide=False), (434, 1), 14),
        (policies.unsearched_policy(), (105, 2), 15),
        (policies.random_policy(KEY), (25, 2), 15),
    ],
)
def test_policies_by_name_are_saved_and_read_back(made, shape, size, tmp_path):
    assert made.levels.shape == made.operations.shape == shape
    assert len(made.table) == size
    assert (np.asarray(made.levels) >= 0).all() and (np.asarray(made.levels) <= 1).all()
    path = tmp_path / "policy.json"
    policy_files.save_policy(made, path)
    again = policy_files.load_policy(path)
    assert again.table == made.table
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(made)):
        assert np.array_equal(ours, theirs) and ours.dtype == theirs.dtype


def test_an_unsearched_policy_has_all_pairs_alike():
    made = policies.unsearched_policy(level=0.9)
    pairs = {tuple(row) for row in np.sort(made.operations, axis=1).tolist()}
    assert pairs == set(itertools.combinations(range(15), 2))
    assert np.all(made.probabilities == 0.5) and np.all(made.logits == 0)
    assert np.all(made.levels == np.float32(0.9))
    two = policies.unsearched_policy(table=made.table[:2])
    assert two.operations.tolist() == [[0, 1]]
    with pytest.raises(ValueError, match="at least one sub-policy"):
        policies.unsearched_policy(table=made.table[:1])


class TestRandomPolicy:
    def test_all_of_it_is_uniform(self):
        many = jax.vmap(lambda key: policies.random_policy(key, count=10))(
            jax.random.split(KEY, 2000)
        )
        used = np.bincount(np.asarray(many.operations).ravel(), minlength=15)
        np.testing.assert_allclose(used / used.sum(), 1 / 15, atol=0.005)
        for values in (many.probabilities, many.levels):
            share = np.histogram(np.asarray(values), 10, (0, 1))[0] / values.size
            np.testing.assert_allclose(share, 0.1, atol=0.01)

    def test_its_pairs_differ_and_it_is_that_of_its_key(self):
        made = policies.random_policy(KEY, count=105)
        assert len({tuple(row) for row in made.operations.tolist()}) == 105
        assert np.array_equal(
            made.levels, policies.random_policy(KEY, count=105).levels
        )
        other = policies.random_policy(jax.random.key(99), count=105)
        assert not np.any(made.levels == other.levels)

    @pytest.mark.parametrize("count", [0, 106])
    def test_there_are_1_to_105_pairs(self, count):
        with pytest.raises(ValueError, match=f"1 … 105, got {count}"):
            policies.random_policy(KEY, count=count)


def strengths(made, name):
    """The values of an operation that a policy has, sorted."""
    row = [each.name for each in made.table].index(name)
    each = made.table[row]
    levels = np.asarray(made.levels)[np.asarray(made.operations) == row]
    return np.unique(np.round(each.low + levels * (each.high - each.low), 4))


def test_strengths_of_trivial_augment_are_those_of_its_official_code():
    wide, standard = policies.trivial_augment(), policies.trivial_augment(wide=False)
    assert strengths(wide, "Rotate").tolist() == [m * 135 // 30 for m in range(31)]
    assert strengths(standard, "TranslateX").tolist() == list(range(11))
    assert set(np.floor(strengths(wide, "Posterize"))) == set(range(2, 9))
    assert set(np.floor(strengths(standard, "Posterize"))) == set(range(4, 9))
    assert strengths(wide, "Solarize")[[0, 1, -1]].tolist() == [0, 9, 256]
    np.testing.assert_allclose(strengths(wide, "Color")[[0, -1]], [0.01, 2])


def test_strengths_of_rand_augment_are_those_of_its_magnitude():
    made = policies.rand_augment(count=2, magnitude=9)
    assert strengths(made, "Rotate").tolist() == [9]
    np.testing.assert_allclose(strengths(made, "ShearX"), [0.09])
    assert np.floor(strengths(made, "Posterize")).tolist() == [7]
    np.testing.assert_allclose(strengths(made, "Color"), [1.27])


def test_blends_of_rand_augment_go_either_way():
    table = policies.rand_augment().table
    [brighter] = [each for each in table if each.name == "Brightness"]
    run = jax.jit(jax.vmap(brighter.function("reference"), (None, None, 0)))
    image = np.full((4, 4, 1), 100, np.uint8)
    results = run(image, jnp.float32(0.5), jax.random.split(KEY, 40))
    assert np.unique(results).tolist() == [55, 145]


def test_numbers_beyond_their_range_are_saved_as_they_act(tmp_path):
    odd = dataclasses.replace(PAIRS, levels=PAIRS.levels + 0.9)
    policy_files.save_policy(odd, tmp_path / "policy.json")
    again = policy_files.load_policy(tmp_path / "policy.json")
    assert np.array_equal(again.levels, np.clip(odd.levels, 0, 1))
    nan = dataclasses.replace(PAIRS, logits=PAIRS.logits * jnp.nan)
    with pytest.raises(ValueError, match="not finite"):
        policy_files.save_policy(nan, tmp_path / "policy.json")


def test_an_operation_of_ones_own_is_read_back_where_it_is_passed(tmp_path):
    own = Operation("Mine", 0, 2, None, lambda image, v, key: image)
    made = policy.make_policy([[("Mine", 1, 0.5)]], table=(own,))
    policy_files.save_policy(made, tmp_path / "policy.json")
    again = policy_files.load_policy(tmp_path / "policy.json", operations=[own])
    assert again.table == (own,)
    with pytest.raises(ValueError, match="unknown operation 'Mine'; there are ShearX"):
        policy_files.load_policy(tmp_path / "policy.json")


def test_an_operation_of_ones_own_by_the_name_of_another_one_is_not_saved(tmp_path):
    own = Operation("Rotate", 0, 2, None, lambda image, v, key: image)
    made = policy.make_policy([[("Rotate", 1, 0.5)]], table=(own,))
    with pytest.raises(ValueError, match="'Rotate' is not the one of this package"):
        policy_files.save_policy(made, tmp_path / "policy.json")
    assert not (tmp_path / "policy.json").exists()


def test_keys_of_the_older_kind_are_taken():
    images, old = noise(4), jax.random.PRNGKey(3)
    expected = policy.apply(PAIRS, jax.random.wrap_key_data(old), images)
    np.testing.assert_array_equal(policy.apply(PAIRS, old, images), expected)


@pytest.mark.parametrize(
    "function, made",
    [
        (lambda image, v, key: image / 2, r"float32\[12, 12, 3\]"),
        (lambda image, v, key: image[1:], r"uint8\[11, 12, 3\]"),
    ],
)
def test_an_operation_of_ones_own_returns_what_it_gets(function, made):
    table = (*image_ops.OPERATIONS, Operation("Mine", 0, 2, None, function))
    mine = policy.make_policy([[("Mine", 1, 0.5)]], table=table)
    with pytest.raises(ValueError, match=f"'Mine' must return .* it made {made}"):
        policy.apply(mine, KEY, noise(2))


def spoilt(change):
    def make(path):
        policy_files.save_policy(PAIRS, path)
        text = json.loads(path.read_text())
        change(text)
        path.write_text(json.dumps(text))

    return make


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda path: path.write_text("{"), "is not JSON"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "is not JSON"),
        (lambda path: path.write_text("[]"), "is not a policy"),
        (spoilt(lambda t: t.update(version=2)), "version 2, this package reads 1: use"),
        (spoilt(lambda t: t.pop("sub_policies")), "lacks or garbles an entry"),
        (spoilt(lambda t: t.update(sub_policies=[])), "at least one sub-policy"),
        (
            spoilt(lambda t: t["sub_policies"][1]["steps"][0].update(level=1.5)),
            r"level of Invert in sub-policy 1 must lie in \[0, 1\], got 1.5",
        ),
        (
            spoilt(lambda t: t["sub_policies"][0]["steps"][0].update(operation="No")),
            "unknown operation 'No' in sub-policy 0",
        ),
        (
            spoilt(lambda t: t["operations"]["Invert"].update(function="No")),
            "unknown operation 'No'",
        ),
        (
            spoilt(lambda t: t["operations"]["Rotate"].update(low=float("inf"))),
            "range of Rotate must be finite",
        ),
        (
            spoilt(lambda t: t["operations"]["Rotate"].update(high=1e6)),
            "range of Rotate must be finite .* below 32768",
        ),
        (
            spoilt(lambda t: t["sub_policies"][1]["steps"][0].update(level=True)),
            r"1 must be a list of \(operation, probability, level\), has .*True",
        ),
        (
            spoilt(lambda t: t["sub_policies"][0].update(logit=float("nan"))),
            "logits must be finite",
        ),
    ],
)
def test_a_spoilt_file_is_refused_by_name(tmp_path, spoil, complaint):
    path = tmp_path / "policy.json"
    spoil(path)
    with pytest.raises(ValueError, match=complaint) as caught:
        policy_files.load_policy(path)
    assert "policy.json" in str(caught.value)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: policy.make_policy([]), "at least one sub-policy"),
        (lambda: policy.make_policy([[]]), "at least one sub-policy"),
        (
            lambda: policy.make_policy([[("Invert", 1, 0)], [("Invert", 1, 0)] * 2]),
            r"equally long, got lengths \[1, 2\]",
        ),
        (lambda: policy.make_policy([("Invert", 1, 0)]), "0 must be a list of"),
        (lambda: policy.make_policy([[("Invert", 1, "0")]]), "0 must be a list of"),
        (lambda: policy.make_policy([[("Invert", 1, True)]]), "0 must be a list of"),
        (lambda: policy.make_policy([[("Invert", False, 0)]]), "0 must be a list of"),
        (lambda: policy.make_policy([[("Swirl", 1, 0)]]), "unknown operation 'Swirl'"),
        (lambda: policy.make_policy([[("Invert", 2, 0)]]), "probability of Invert"),
        (lambda: policy.make_policy([[("Invert", 1, -1)]]), "level of Invert"),
        (
            lambda: policy.make_policy([[("Invert", 1, 0)]], weights=[0]),
            "1 finite numbers > 0, got",
        ),
        (
            lambda: policy.make_policy(
                [[("Invert", 1, 0)]] * 2, weights=[1, float("inf")]
            ),
            r"2 finite numbers > 0, got \[1, inf\]",
        ),
        (
            lambda: policy.make_policy(
                [[("Invert", 1, 0)]] * 2, weights=[float("nan"), 1]
            ),
            r"2 finite numbers > 0, got \[nan, 1\]",
        ),
        (lambda: policy.apply(PAIRS, KEY, noise(2).tolist()), "an array .* got list"),
        (
            lambda: policy.make_policy(
                [[("Invert", 1, 0)]], table=image_ops.OPERATIONS * 2
            ),
            "share a name",
        ),
        (lambda: policy.sample(PAIRS, KEY, 0), "batch_size must be at least 1"),
        (lambda: policy.sample(PAIRS, KEY, 6, grouping=4), "do not make 4 equal"),
        (lambda: policy.apply(PAIRS, KEY, noise(2)[0]), r"\(B, H, W, C\)"),
        (lambda: policy.apply(PAIRS, KEY, noise(2) / 255), "takes uint8 images"),
        (
            lambda: policy.apply_draw(policy.sample(PAIRS, KEY, 2), noise(3), KEY),
            "3 images do not divide into the 2 draws",
        ),
        (lambda: policies.auto_augment("mnist"), "'mnist'; there are cifar10, svhn"),
        (lambda: policies.dada("mnist"), "no policy for dataset 'mnist'"),
        (lambda: policies.rand_augment(count=0), "count must be at least 1"),
        (lambda: policies.rand_augment(magnitude=31), "must lie in 0 … 30, got 31"),
    ],
)
def test_bad_input_is_refused(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()


def test_accelerators_draw_for_groups(monkeypatch):
    assert policy.default_grouping(128) == 128
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [policy.default_grouping(n) for n in (128, 100, 7, 17)] == [16, 10, 7, 1]
