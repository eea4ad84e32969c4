"""Re-identification in video: batches, losses, pooling of frames, measures, smoke."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxfaces
import metric
from jaxfaces import train
from jaxfaces.engine import assembly, config
from jaxfaces.engine.options import Options
from jaxfaces.models.branches import Supervised
from jaxfaces.tasks.loss_settings import SoftMining
from jaxfaces.tasks.tracklet_means import COLUMNS, tracklet_means
from jaxfaces.tasks.video_losses import VideoLosses
from jaxfaces.tasks.video_retrieval import VideoRetrieval

TINY = {
    "image_size": 16,
    "validation_fraction": 0.25,
    "width": 4,
    "embedding_size": 8,
    "frames_per_tracklet": 4,
    "eval_batch_size": 50,
    "steps": 2,
    "lr": 0.01,
    "cpu_conv": "off",  # compiles in a third of the time
}


def tiny(**changes):
    return config.replace(VideoRetrieval(), TINY | changes)


def test_people_of_train_validation_and_test_are_disjoint():
    data = tiny().data
    people = {}
    for split in ("train", "validation", "test"):
        found = data.split(split)
        people[split] = set(found.people[np.unique(found.frames.labels)])
    assert [len(each) for each in people.values()] == [6, 2, 10]
    assert len(set.union(*people.values())) == 18  # with junk and distractors


def test_batches_hold_tracklets_of_a_few_people():
    task = tiny()
    found, stream = task.data.split("train"), task.streams("train", 3)["train"]
    assert stream.classes == 6 and stream.examples == len(found.frames)
    for n in (0, 1, 9):
        rows = stream.plan(n)
        labels = stream.read(rows)["label"].reshape(3, 8)
        assert (labels == labels[:, :1]).all() and len(set(labels[:, 0])) == 3
        walks = found.frames.labels[rows].reshape(3, 2, 4)
        assert (walks == walks[:, :, :1]).all()
        people = found.people[walks[:, 0, 0]]
        np.testing.assert_array_equal(labels[:, 0], people - 1)  # from 0 on


def test_the_streams_can_be_sent_to_worker_processes():
    import cloudpickle

    task = tiny()
    for split, name in (("train", "train"), ("test", "frames")):
        stream = task.streams(split, 0)[name]
        copy = cloudpickle.loads(cloudpickle.dumps(stream))
        rows = stream.plan(0)
        for column, values in stream.read(rows).items():
            np.testing.assert_array_equal(copy.read(rows)[column], values)


# The losses, written out once more.

B, F, D, C = 12, 3, 5, 6
LABELS = np.repeat([4, 4, 0, 0], F).astype(np.int32)


def outputs(seed=0):
    rng = np.random.default_rng(seed)
    logits = [rng.normal(size=(B, C)) for _ in range(3)]
    return Supervised(rng.normal(size=(B, D)), tuple(logits)), rng.normal(size=(D, C))


def softmax(logits, labels):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (e / e.sum(axis=1, keepdims=True))[np.arange(len(labels)), labels]


def confident(p):
    w = np.exp(-((p - 0.5) ** 2) / (2 * 0.18**2))
    return np.sum(w / w.sum() * -np.log(p))


def pair_loss(x, labels, p, sigma=1.0, alpha=1.2):
    a = np.exp(-((p - 1) ** 2) / (2 * 0.68**2))
    f = x / np.linalg.norm(x, axis=1, keepdims=True)
    sums = np.zeros((2, 2))
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            d = np.linalg.norm(f[i] - f[j])
            trust = min(a[i], a[j])
            near = max(0, alpha - d)
            if labels[i] == labels[j]:
                w, paid, row = np.exp(-(d**2) / (2 * sigma**2)) * trust, d**2, 0
            else:
                w, paid, row = near * trust, near**2, 1
            sums[row] += [w * paid, w]
    return 0.25 * sum(total / weight for total, weight in sums)


def oracle(frames, kernel, labels):
    p = softmax(frames.logits[2], labels)
    a = np.exp(-((p - 1) ** 2) / (2 * 0.68**2)).reshape(-1, F)
    x = frames.embedding.reshape(-1, F, D)
    tracklets = np.einsum("tf,tfd->td", a / a.sum(axis=1, keepdims=True), x)
    people = labels[::F]
    q = softmax(tracklets @ kernel, people)
    return {
        "classify_low": confident(softmax(frames.logits[0], labels)),
        "classify_middle": confident(softmax(frames.logits[1], labels)),
        "classify_high": confident(p),
        "classify_tracklets": confident(q),
        "tracklets": pair_loss(tracklets, people, q),
        "frames": pair_loss(frames.embedding, labels, p),
    }


@functools.partial(jax.jit, static_argnames="settings")
def jitted(frames, kernel, labels, valid, settings):
    return settings.of(
        frames, lambda x: x @ kernel, labels, valid, frames_per_tracklet=F
    )


def losses(frames, kernel, labels=LABELS, valid=None, settings=None):
    valid = np.ones(len(labels), bool) if valid is None else valid
    return jitted(frames, kernel, labels, valid, settings or VideoLosses())


def test_the_losses_are_those_of_the_release():
    frames, kernel = outputs()
    with jax.enable_x64(True):
        found = losses(jax.tree.map(jnp.asarray, frames), kernel)
    expected = oracle(frames, kernel, LABELS)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10, err_msg=name)


def test_attention_is_a_constant_and_class_vectors_learn_from_classification_alone():
    frames, kernel = outputs()
    frames = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), frames)

    def pairs(logits, kernel):
        found = losses(frames._replace(logits=logits), kernel)
        return found["tracklets"] + found["frames"]

    for gradient in jax.tree.leaves(jax.grad(pairs, (0, 1))(frames.logits, kernel)):
        np.testing.assert_array_equal(gradient, 0)
    # The tracklets' classifier sends its gradient to frames, by their attention.
    gradient = jax.grad(
        lambda x: losses(frames._replace(embedding=x), kernel)["classify_tracklets"]
    )(frames.embedding)
    assert np.all(np.any(gradient != 0, axis=1))


def test_padding_tracklets_change_nothing():
    frames, kernel = outputs()
    frames = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), frames)
    plain = losses(frames, kernel)
    padded = jax.tree.map(
        lambda x: jnp.concatenate([x, jnp.full((F, x.shape[1]), jnp.nan)]), frames
    )
    labels = np.append(LABELS, np.zeros(F, np.int32))
    valid = np.arange(B + F) < B

    def total(frames):
        return sum(losses(frames, kernel, labels, valid).values())

    for name, value in losses(padded, kernel, labels, valid).items():
        np.testing.assert_allclose(value, plain[name], rtol=1e-5, err_msg=name)
    for gradient in jax.tree.leaves(jax.grad(total)(padded)):
        assert np.isfinite(gradient).all() and not gradient[B:].any()


@pytest.mark.parametrize("attention", ["none", "prob"])
def test_frames_may_weigh_the_same_or_by_probability(attention):
    frames, kernel = outputs()
    p = softmax(frames.logits[2], LABELS)
    a = np.ones(B) if attention == "none" else p
    means = metric.attention_pool(
        frames.embedding.astype(np.float32),
        a.astype(np.float32),
        np.arange(B) // F,
        number=4,
    )
    settings = VideoLosses(frame_attention=attention)
    found = losses(jax.tree.map(jnp.asarray, frames), kernel, settings=settings)
    expected = metric.confidence_weighted_cross_entropy(means @ kernel, LABELS[::F])
    np.testing.assert_allclose(found["classify_tracklets"], expected, rtol=1e-5)


def test_settings_reach_the_loss_over_pairs():
    frames, kernel = outputs()
    settings = VideoLosses(SoftMining(sigma=0.6, mining="none", attention="none"))
    frames = jax.tree.map(jnp.asarray, frames)
    found = losses(frames, kernel, settings=settings)
    expected = metric.osm_caa_loss(
        frames.embedding, LABELS, sigma=0.6, mining="none", attention="none"
    )
    np.testing.assert_allclose(found["frames"], expected, rtol=1e-6)


# Means, steps, measures.


@pytest.mark.parametrize("size", [4, 7, 100])
def test_tracklets_are_means_of_all_their_frames_whatever_the_batches(size):
    rng = np.random.default_rng(0)
    numbers = np.repeat([0, 1, 3, 4], [5, 1, 9, 4])  # 2 lost all of its frames
    features = rng.normal(size=(len(numbers), 3)).astype(np.float32)
    columns = {name: 10 * numbers + 1 for name in COLUMNS}
    columns["index"] = np.arange(len(numbers))

    def batches():
        for start in range(0, len(numbers), size):
            rows = np.arange(start, start + size)
            inside = np.minimum(rows, len(numbers) - 1)
            batch = {name: column[inside] for name, column in columns.items()}
            yield batch | {"tracklet": numbers[inside], "valid": rows < len(numbers)}

    found = tracklet_means(lambda batch: features[batch["index"]], batches())
    expected = [features[numbers == n].mean(axis=0) for n in (0, 1, 3, 4)]
    np.testing.assert_allclose(found.features, expected, rtol=1e-5)
    np.testing.assert_array_equal(found.columns["label"], [1, 11, 31, 41])
    np.testing.assert_array_equal(found.columns["index"], [0, 5, 6, 15])


@functools.lru_cache
def first_step(devices=1, **changes):
    """The state before and after one step, and that step's metrics."""
    parts = assembly.assemble(tiny(**changes), Options(devices=devices))
    tree, batch = parts.start(), parts.first_batch()
    phase = parts.timeline.phases[0]
    state, metrics = jax.jit(phase.step)(tree["state"], batch, jax.random.key(0))
    return jax.device_get((tree["state"], state, metrics))


def test_a_step_pays_the_sum_of_six_losses_and_moves_all_classifiers():
    before, after, metrics = first_step(optimizer="sgd", momentum=0.0)
    terms = [metrics[name][0] for name in oracle(*outputs(), LABELS)]
    np.testing.assert_allclose(metrics["loss"][0], sum(terms), rtol=1e-6)
    for path in (
        ("tracklet_classifier",),
        *(("frames", f"classifier{i}") for i in (1, 2, 3)),
    ):
        old, new = before.params, after.params
        for name in path:
            old, new = old[name], new[name]
        assert np.any(old["kernel"] != new["kernel"])


def test_biases_of_classifiers_learn_at_a_rate_of_their_own():
    before, _, _ = first_step(optimizer="sgd", momentum=0.0)
    tx = tiny(optimizer="sgd", momentum=0.0, lr=1.0)._optimizer()
    ones = jax.tree.map(np.ones_like, before.params)
    updates, _ = tx.update(ones, tx.init(ones), ones)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        name = jax.tree_util.keystr(path)
        twice = "classifier" in name and name.endswith("['bias']")
        np.testing.assert_array_equal(update, -2 if twice else -1, err_msg=name)


def test_eight_devices_take_the_step_of_one():
    _, one, metrics = first_step(optimizer="sgd", momentum=0.0)
    _, many, again = first_step(8, optimizer="sgd", momentum=0.0)
    for name, value in metrics.items():
        np.testing.assert_allclose(again[name][0], value[0], rtol=1e-4)
    for a, b in zip(*map(jax.tree.leaves, (one.params, many.params))):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def test_measures_follow_the_camera_rule_over_means_of_frames():
    task = tiny(junk=(-1,), distractors=(0,), cmc_ks=(1, 3), ap="trapezoid")
    stream = task.streams("test", 0)["frames"]
    rows = np.arange(stream.examples)
    columns = stream.read(rows) | {"valid": rows >= 0, "index": rows}
    noise = np.random.default_rng(0).normal(size=(len(rows), 16))

    def rough(batch):
        centres = np.eye(16)[batch["label"] % 16]
        return (centres + 0.9 * noise[batch["index"]]).astype(np.float32)

    found = task.evaluate(None, rough, {"frames": [columns]}, {})
    tracklets = task.data.split("test")
    numbers = tracklets.frames.labels
    features = rough(columns)
    means = np.stack([features[numbers == n].mean(0) for n in np.unique(numbers)])
    asks = tracklets.query
    expected = metric.reid_measures(
        means[asks], tracklets.people[asks], tracklets.cameras[asks],
        means, tracklets.people, tracklets.cameras,
        ks=(1, 3), junk=(-1,), distractors=(0,), ap="trapezoid",
    )  # fmt: skip
    assert 0.2 < expected["map"] < 1
    assert found["map"] == pytest.approx(expected["map"], abs=1e-6)
    assert found["cmc_at_3"] == pytest.approx(expected["cmc_at_k"][3])
    assert found.get("num_dropped", 0) == expected["num_dropped"]


def test_a_run_learns_made_up_people_and_draws_them(tmp_path):
    task = tiny(
        steps=120, lr=0.003, width=8, embedding_size=32, validation_fraction=0.0
    )
    summary = jaxfaces.run(
        task, tmp_path / "run", eval_every=0, test=True, quiet=True, devices=1
    )
    test, start = (summary["measures"][name] for name in ("test", "test_initial"))
    assert test["map"] > start["map"] + 0.2
    assert summary["compilations"] == 1
    with Image.open(tmp_path / "run/figures/test_neighbours.png") as picture:
        assert min(picture.size) > 100


@pytest.mark.parametrize("name", ["mars", "lpw"])
def test_flagfiles_carry_the_released_settings(name, tmp_path, capsys):
    words = [f"--flagfile=configs/video_{name}.cfg", f"--workdir={tmp_path / 'run'}"]
    assert train.main([*words, f"--data_dir={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert f"there is no folder {tmp_path / name}; extract {name} there" in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"crop_size": 20}, "--crop_size=20 is larger than --image_size=16"),
        ({"junk": (0, -1)}, "--junk and --distractors share 0"),
        ({"dataset": "marks"}, "--dataset"),
        ({"backbone": "bn_inception", "image_size": 72}, "72 pixels"),
    ],
)
def test_settings_that_do_not_fit_are_named(flags, message):
    with pytest.raises(ValueError, match=message):
        tiny(**flags)


def test_smoke_takes_the_folders_of_the_collection():
    task = config.replace(VideoRetrieval(), {"dataset": "lpw"}).smoke()
    assert task.data.dataset == "lpw" and task.data.data_dir
    assert set(task.streams("test", 0)) == {"frames"}
    assert dataclasses.replace(task).streams("train", 0)["train"].classes == 6
