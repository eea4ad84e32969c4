"""The retrieval task: data, batches, steps, measures, pictures."""

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
from jaxfaces.tasks import retrieval_files
from jaxfaces.tasks.image_data import ImageData
from jaxfaces.tasks.retrieval import Retrieval

TINY = {
    "dataset": "made_up",
    "image_size": 16,
    "validation_fraction": 0.25,
    "width": 4,
    "pool": "flatten",
    "embedding_size": 8,
    "classes_per_batch": 4,
    "images_per_class": 4,
    "eval_batch_size": 12,
    "steps": 20,
    "lr": 0.01,
    "rotation": 5.0,
    "cpu_conv": "off",  # compiles in a third of the time
}


def tiny(**changes):
    return config.replace(Retrieval(), TINY | changes)


def test_classes_of_train_validation_and_test_are_disjoint():
    data = tiny().data
    names = {
        split: {source.names[label] for label in np.unique(source.labels)}
        for split in ("train", "validation", "test")
        for source in [data.split(split)]
    }
    assert len(names["train"]) == 6
    assert len(names["validation"]) == 2
    assert len(names["test"]) == 8
    assert len(set.union(*names.values())) == 16


def test_images_of_every_class_can_be_held_out_instead():
    data = ImageData(dataset="digits", grey=True, validation_by="image")
    train_part, held = data.split("train"), data.split("validation")
    assert set(np.unique(held.labels)) == set(range(5))
    whole = len(train_part) + len(held)
    assert len(held) == pytest.approx(0.1 * whole, abs=5)
    pixels = [
        s.read(np.arange(len(s)))["image"].reshape(len(s), -1)
        for s in (train_part, held)
    ]
    both = np.concatenate(pixels)
    assert len(np.unique(both, axis=0)) > 0.99 * whole  # nothing is on both sides


def test_training_labels_count_from_zero():
    source = tiny(dataset="digits", grey=True, image_size=0).data.split("train")
    assert set(np.unique(source.labels)) == set(range(source.classes))


def test_batches_hold_p_classes_with_k_images():
    stream = tiny().streams("train", 3)["train"]
    for n in (0, 1, 7):
        labels = stream.read(stream.plan(n))["label"].reshape(4, 4)
        assert np.all(labels == labels[:, :1])
        assert len(np.unique(labels[:, 0])) == 4


def test_quarter_turns_are_classes_of_their_own():
    plain, turned = tiny(), tiny(rotated_classes=True)
    a = plain.streams("train", 0)["train"]
    b = turned.streams("train", 0)["train"]
    assert (b.examples, b.classes) == (4 * a.examples, 4 * a.classes)
    rows = np.array([0, 5, 17])
    original = a.read(rows)
    for turns in range(4):
        found = b.read(rows * 4 + turns)
        np.testing.assert_array_equal(found["label"], original["label"] * 4 + turns)
        expected = np.rot90(original["image"], turns, axes=(1, 2))
        np.testing.assert_array_equal(found["image"], expected)


@functools.lru_cache
def first_step(**changes):
    """The state after one step, and that step's metrics."""
    parts = assembly.assemble(tiny(**changes), Options(devices=1))
    tree, batch = parts.start(), parts.first_batch()
    phase = parts.timeline.phases[0]
    key = jax.random.fold_in(parts.program.roots, 0)
    state, metrics = jax.jit(phase.step)(tree["state"], batch, key)
    return tree["state"], batch, key, state, metrics


@pytest.mark.parametrize("loss", ["ranked_list", "contrastive"])
def test_the_logged_loss_is_the_loss_of_the_embeddings(loss):
    task = tiny(loss=loss, rotation=0.0, ranked_list_temperature=5.0)
    parts = assembly.assemble(task, Options(devices=1))
    state, batch = parts.start()["state"], parts.first_batch()
    step = jax.jit(parts.timeline.phases[0].step)
    metrics = step(state, batch, jax.random.key(0))[1]
    images = jnp.asarray(batch["train"]["image"]).astype(jnp.float32) / 255
    network = task.network.net(6)
    embed = jax.jit(network.apply, static_argnames="train")
    embeddings, _ = embed(state.params, state.rest, images, train=True)
    labels = batch["train"]["label"]
    if loss == "ranked_list":
        expected = metric.ranked_list_loss(embeddings, labels, temperature=5.0)
    else:
        expected = metric.contrastive_loss(embeddings, labels)
    np.testing.assert_allclose(metrics["loss"][0], expected, rtol=1e-5)


def test_the_simpler_form_and_the_head_multiplier_reach_the_step():
    _, _, _, plain, _ = first_step()
    _, _, _, simpler, _ = first_step(ranked_list_simpler=True, ranked_list_margin=0.8)
    before, _, _, still, _ = first_step(head_lr_multiplier=0.0)
    head = plain.params["head"]["kernel"]
    assert np.any(head != simpler.params["head"]["kernel"])
    # The simpler form is the full one with alpha = 1 + margin / 2.
    _, _, _, full, _ = first_step(ranked_list_alpha=1.4, ranked_list_margin=0.8)
    np.testing.assert_allclose(
        simpler.params["head"]["kernel"], full.params["head"]["kernel"], rtol=1e-6
    )
    for flag in ({"ranked_list_gradient": "full"}, {"ranked_list_pos_weight": 0.1}):
        _, _, _, other, _ = first_step(**flag)
        assert np.any(head != other.params["head"]["kernel"])
    np.testing.assert_array_equal(
        still.params["head"]["kernel"], before.params["head"]["kernel"]
    )
    trunk = jax.tree.leaves(still.params["backbone"])
    start = jax.tree.leaves(before.params["backbone"])
    assert any(np.any(a != b) for a, b in zip(trunk, start))


def test_a_run_learns_made_up_classes_and_draws_them(tmp_path):
    summary = jaxfaces.run(
        tiny(steps=60), tmp_path, eval_every=30, test=True, quiet=True, devices=1
    )
    measures = summary["measures"]
    assert measures["test"]["map_at_r"] > measures["test_initial"]["map_at_r"] + 0.05
    assert set(measures["test"]) >= {
        "recall_at_1",
        "recall_at_8",
        "map_at_r",
        "nmi",
        "f1",
    }
    assert summary["compilations"] == 1
    names = {path.name for path in (tmp_path / "figures").glob("*.png")}
    expected = {"embeddings.png", "neighbours.png", "test_embeddings.png", "curves.png"}
    assert names >= expected
    for name in names:
        with Image.open(tmp_path / "figures" / name) as picture:
            assert min(picture.size) > 100

    loaded = jaxfaces.load(tmp_path)
    source = loaded.task.data.split("test")
    batch = source.read(np.arange(len(source)))
    embeddings = loaded.apply(loaded.variables, {"image": jnp.asarray(batch["image"])})
    again = metric.retrieval_measures(np.asarray(embeddings), batch["label"])
    assert again["map_at_r"] == pytest.approx(measures["test"]["map_at_r"], abs=1e-6)


def test_a_split_with_roles_is_measured_query_against_gallery(monkeypatch):
    split = ImageData.split

    def with_roles(self, name):
        source = split(self, name)
        roles = np.where(np.arange(len(source)) % 3 == 0, "query", "gallery")
        return dataclasses.replace(source, roles=roles)

    monkeypatch.setattr(ImageData, "split", with_roles)
    task = tiny()
    streams = task.streams("validation", 0)
    assert set(streams) == {"query", "gallery"}
    batches = {
        name: [stream.read(np.arange(stream.examples)) for _ in range(1)]
        for name, stream in streams.items()
    }
    for parts in batches.values():
        parts[0]["valid"] = np.ones(len(parts[0]["label"]), bool)

    def rough(batch):
        noise = np.random.default_rng(len(batch["label"])).normal(
            size=(len(batch["label"]), 16)
        )
        return (np.eye(16)[batch["label"]] + 0.4 * noise).astype(np.float32)

    measures = task.evaluate(None, rough, batches, {})
    query, gallery = batches["query"][0], batches["gallery"][0]
    expected = metric.retrieval_measures(
        rough(query),
        query["label"],
        gallery=rough(gallery),
        gallery_labels=gallery["label"],
    )
    assert 0 < expected["map_at_r"] < 1
    assert measures["map_at_r"] == expected["map_at_r"]
    assert measures["mrr"] == expected["mrr"]


def test_the_streams_can_be_sent_to_worker_processes():
    import cloudpickle

    for changes in ({}, {"rotated_classes": True}):
        stream = tiny(**changes).streams("train", 0)["train"]
        copy = cloudpickle.loads(cloudpickle.dumps(stream))
        np.testing.assert_array_equal(copy.plan(5), stream.plan(5))
        rows = stream.plan(5)
        np.testing.assert_array_equal(
            copy.read(rows)["image"], stream.read(rows)["image"]
        )


def test_a_contact_sheet_never_shows_the_query_as_its_own_neighbour():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(30, 4)).astype(np.float32)
    embeddings[3] = embeddings[17]  # a duplicate before the query in the ranking
    queries = np.array([0, 17, 29])
    nearest = retrieval_files.nearest_others(embeddings, queries)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for row, query in zip(nearest, queries):
        order = np.argsort(-(unit @ unit[query]), kind="stable")
        np.testing.assert_array_equal(row, order[order != query][: len(row)])


@pytest.mark.parametrize(
    "flags",
    [
        {"loss": "multi_similarity", "miner": "distance_weighted", "memory": 32},
        {"loss": "proxy_anchor", "branches": ("H", "M"), "label_noise": 0.3},
        {
            "loss": "osm_caa",
            "classification": "confidence_weighted",
            "attention_of": "logits",
            "supervised": True,
            "bias_lr_factor": 2.0,
        },
    ],
)
def test_every_kind_of_loss_trains_and_its_run_is_loaded(flags, tmp_path):
    task = tiny(steps=2, pool="average", **flags)
    summary = jaxfaces.run(task, tmp_path, eval_every=2, quiet=True, devices=1)
    assert np.isfinite(summary["measures"]["validation"]["map_at_r"])
    loaded = jaxfaces.load(tmp_path)
    image = jnp.zeros((2, 16, 16, 3), jnp.uint8)
    embeddings = loaded.apply(loaded.variables, {"image": image})
    assert embeddings.shape == (2, 8 * len(flags.get("branches", "H")))


def test_rates_of_class_vectors_and_of_biases_are_multiplied():
    flags = {"loss": "none", "classification": "cross_entropy", "optimizer": "sgd"}
    before, _, _, plain, _ = first_step(**flags)
    _, _, _, faster, _ = first_step(
        classes_lr_multiplier=3.0, bias_lr_factor=2.0, **flags
    )
    for name, factor in (("kernel", 3), ("bias", 6)):
        start, one, other = (
            state.params["classifier"]["H"][name] for state in (before, plain, faster)
        )
        np.testing.assert_allclose(other - start, factor * (one - start), rtol=1e-3)
    np.testing.assert_array_equal(
        plain.params["head"]["kernel"], faster.params["head"]["kernel"]
    )


def test_noise_moves_the_stated_share_of_training_labels_and_no_other():
    clean = tiny().streams("train", 0)["train"].read
    noisy = tiny(label_noise=0.25).streams("train", 0)["train"].read
    rows = np.arange(len(tiny().data.split("train")))
    changed = clean(rows)["label"] != noisy(rows)["label"]
    assert changed.sum() == round(0.25 * len(rows))
    held, same = (
        task.streams("validation", 0)["images"].read(np.arange(12))["label"]
        for task in (tiny(), tiny(label_noise=0.25))
    )
    np.testing.assert_array_equal(held, same)


def test_noise_that_empties_a_class_leaves_its_place(monkeypatch):
    def first_is_gone(seed, labels, rate):
        return np.where(labels == 0, 1, labels), labels == 0

    monkeypatch.setattr(metric, "symmetric_noise", first_is_gone)
    for rotated in (False, True):
        clean, noisy = (
            tiny(label_noise=rate, rotated_classes=rotated).streams("train", 0)["train"]
            for rate in (0, 0.25)
        )
        assert noisy.classes == clean.classes
        labels = noisy.read(np.arange(noisy.examples))["label"]
        assert labels.min() > 0 and labels.max() == noisy.classes - 1


def test_bfloat16_trains(tmp_path):
    summary = jaxfaces.run(
        tiny(dtype="bfloat16", steps=4), tmp_path, eval_every=4, quiet=True, devices=1
    )
    assert np.isfinite(summary["measures"]["validation"]["map_at_r"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"recall_ks": (2, 4)}, "--recall_ks must contain 1"),
        ({"crop_size": 20}, "--crop_size=20 is larger than --image_size=16"),
        ({"loss": "triple"}, "--loss"),
        ({"supervised": True}, "--supervised needs"),
    ],
)
def test_settings_that_do_not_fit_are_named(flags, message):
    with pytest.raises(ValueError, match=message):
        tiny(**flags)


def test_too_many_classes_for_the_data_is_one_clear_line(tmp_path, capsys):
    words = ["--task=retrieval", "--dataset=digits", "--grey", f"--workdir={tmp_path}"]
    assert train.main([*words, "--classes_per_batch=30"]) == 1
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert "30" in error


def test_a_missing_data_set_gives_the_command_that_obtains_it(tmp_path, capsys):
    words = ["--flagfile=configs/retrieval_cub200.cfg", f"--workdir={tmp_path / 'run'}"]
    assert train.main([*words, f"--data_dir={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert "python -m jaxfaces.data.prepare --dataset=cub200" in error
    assert not (tmp_path / "run" / "checkpoints" / "0").exists()


def test_omniglot_is_read_as_published(data_dir):
    task = config.replace(
        Retrieval(),
        {
            "dataset": "omniglot_retrieval",
            "data_dir": str(data_dir),
            "grey": True,
            "image_size": 32,
            "validation_fraction": 0.149,
        },
    )
    sizes = {split: task.data.split(split) for split in ("train", "validation", "test")}
    assert [s.classes for s in sizes.values()] == [820, 144, 659]
    assert sum(len(s) for s in sizes.values()) == 19_280 + 13_180
