"""Policies on NumPy examples: alone, in grain, in threads."""

import concurrent.futures
import pickle

import grain
import jax
import numpy as np
import pytest

import augment

POLICY = augment.make_policy(
    [[("Invert", 1, 0)], [("Brightness", 1, 0.9)]],
    table=(augment.operation("Invert"), augment.operation("Brightness")),
)
IMAGES = np.random.default_rng(0).integers(2, 120, (20, 6, 6, 3), np.uint8)


def test_one_of_the_operations_happens_and_the_rest_of_the_example_stays():
    change = augment.HostPolicy(POLICY)
    seen = set()
    for seed in range(12):
        image = IMAGES[0]
        example = {"image": image, "label": 7}
        result = change(example, np.random.default_rng(seed))
        assert result["label"] == 7 and example["image"] is image
        assert isinstance(result["image"], np.ndarray)
        assert result["image"].dtype == np.uint8
        inverted = np.array_equal(result["image"], 255 - IMAGES[0])
        assert inverted or (result["image"] > IMAGES[0]).all()
        seen.add(inverted)
    assert seen == {True, False}


def test_the_generator_decides():
    change = augment.HostPolicy(POLICY, field="pixels")
    once, again = (
        change({"pixels": IMAGES}, np.random.default_rng(5))["pixels"] for _ in range(2)
    )
    assert once.shape == IMAGES.shape
    assert np.array_equal(once, again)


def test_a_grain_dataset_maps_it():
    data = grain.MapDataset.source([{"image": each} for each in IMAGES])
    mapped = data.seed(3).random_map(augment.HostPolicy(POLICY))
    first, second = ([e["image"] for e in mapped] for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, IMAGES)


def test_a_call_fetches_nothing_from_the_device_that_made_the_policy():
    other = jax.devices()[1]  # stands for an accelerator
    with jax.default_device(other):
        made = jax.device_put(POLICY, other)
        first = augment.HostPolicy(made)
        for change in (first, pickle.loads(pickle.dumps(first))):
            leaves = jax.tree.leaves(change.policy)
            assert all(isinstance(leaf, np.ndarray) for leaf in leaves)
            with jax.transfer_guard_device_to_device("disallow_explicit"):
                change({"image": IMAGES[0]}, np.random.default_rng(0))
    assert {leaf.device for leaf in jax.tree.leaves(made)} == {other}


def test_a_grain_dataset_maps_its_batches():
    data = grain.MapDataset.source([{"image": each} for each in IMAGES]).batch(5)
    mapped = data.seed(3).random_map(augment.HostPolicy(POLICY))
    assert [e["image"].shape for e in mapped] == 4 * [(5, 6, 6, 3)]


def test_threads_share_it():
    change = augment.HostPolicy(POLICY)

    def one(seed):
        return change({"image": IMAGES[seed]}, np.random.default_rng(seed))["image"]

    alone = [one(seed) for seed in range(20)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert np.array_equal(list(pool.map(one, range(20))), alone)


def test_bad_input_is_refused():
    change, rng = augment.HostPolicy(POLICY), np.random.default_rng(0)
    with pytest.raises(KeyError, match=r"no entry 'image' in an example with \['x'\]"):
        change({"x": IMAGES[0]}, rng)
    for wrong in ((IMAGES[0], rng), ({"image": IMAGES[0]}, 0)):
        with pytest.raises(TypeError, match="expected an example such as"):
            change(*wrong)
    with pytest.raises(ValueError, match="takes uint8 images, got float64"):
        change({"image": IMAGES[0] / 255}, rng)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        change({"image": IMAGES[0, ..., 0]}, rng)
