"""The classification task: batches, steps, measures, pictures, files."""

import csv
import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import augment
import jaxfaces
from jaxfaces import evaluate, predict, train
from jaxfaces.engine import assembly, config
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.options import Options
from jaxfaces.tasks.classification import Classification

TINY = {
    "dataset": "made_up",
    "image_size": 16,
    "validation_fraction": 0.25,
    "test_fraction": 0.25,
    "network": "wrn_10_1",
    "width": 4,
    "batch_size": 16,
    "eval_batch_size": 16,
    "steps": 12,
    "lr": 0.1,
    "cpu_conv": "off",  # compiles in a third of the time
}


def tiny(**changes):
    return config.replace(Classification(), TINY | changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a few steps on made-up images."""
    folder = tmp_path_factory.mktemp("classification") / "run"
    flags = [f"--{name}={value}" for name, value in (TINY | {"steps": 40}).items()]
    flags += ["--eval_every=20", "--test", "--classwise", "--devices=1"]
    assert train.main(["--task=classification", f"--workdir={folder}", *flags]) == 0
    return folder


def test_it_learns_to_tell_made_up_classes_apart(run):
    summary = json.loads((run / "summary.json").read_text())
    first, last = (summary["measures"][f"test{each}"] for each in ("_initial", ""))
    assert first["accuracy"] < 0.3
    assert last["accuracy"] > 0.6
    assert last["error"] == pytest.approx(1 - last["accuracy"])
    assert last["top_5"] >= last["accuracy"]
    assert 0 <= last["ece"] <= 1
    assert summary["compilations"] == 1


@pytest.mark.parametrize(
    "name", ["confusion", "reliability", "augmented", "test_confusion", "curves"]
)
def test_pictures_are_drawn(run, name):
    with Image.open(run / "figures" / f"{name}.png") as picture:
        assert min(picture.size) > 90


def test_accuracy_by_class_averages_to_the_accuracy(run):
    by_class = np.load(run / "classwise.npz")["accuracy"]
    summary = json.loads((run / "summary.json").read_text())
    assert by_class.shape == (1, 16)  # classes are equally frequent
    assert by_class.mean() == pytest.approx(summary["measures"]["test"]["accuracy"])


def test_any_split_can_be_measured_afterwards(run, capsys):
    assert evaluate.main([f"--workdir={run}", "--split=train", "--figures"]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert (run / "evaluations" / "train_last" / "confusion.png").stat().st_size > 1000


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    source = tiny().data.split("test")
    for row in range(5):
        pixels = source.read(np.array([row]))["image"][0]
        Image.fromarray(pixels).save(folder / f"{row}.png")
    return folder


class TestPredict:
    @pytest.mark.parametrize("format", ["npz", "parquet"])
    def test_classes_come_with_names_and_probabilities(
        self, run, photos, tmp_path, format
    ):
        out = tmp_path / "out"
        flags = [f"--output={out}", f"--format={format}", "--neighbours=3"]
        assert predict.main([f"--workdir={run}", *flags, str(photos)]) == 0
        with (out / "classes.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 15
        assert {row["rank"] for row in rows} == {"1", "2", "3"}
        names = tiny().data.split("train").names
        assert {row["class"] for row in rows} <= set(names)
        if format == "npz":
            with np.load(out / "probabilities.npz", allow_pickle=False) as stored:
                probabilities = stored["probabilities"]
                assert tuple(stored["classes"]) == names
        else:
            from pyarrow import parquet

            table = parquet.read_table(out / "probabilities.parquet")
            assert table.column_names[1] == "0 class 0"
            columns = [table[name].to_numpy() for name in table.column_names[1:]]
            probabilities = np.stack(columns, axis=1)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        first = [row for row in rows if row["rank"] == "1"]
        assert [names[k] for k in probabilities.argmax(1)] == [
            r["class"] for r in first
        ]
        assert Image.open(out / "classes.png").size[0] > 100

    def test_a_gallery_is_refused(self, run, photos, tmp_path, capsys):
        flags = [f"--output={tmp_path / 'out'}", f"--gallery={photos}"]
        assert predict.main([f"--workdir={run}", *flags, str(photos)]) == 1
        assert "searches nothing; leave --gallery out" in capsys.readouterr().err

    def test_one_file_of_parameters_knows_the_names_too(self, run):
        trained = jaxfaces.load(run / "params.safetensors")
        assert trained.classes == tiny().data.split("train").names
        logits = trained.apply(
            trained.variables, {"image": jnp.zeros((2, 16, 16, 3), jnp.uint8)}
        )
        assert logits.shape == (2, 16)


def first_step(task):
    parts = assembly.assemble(task, Options(devices=1))
    batch = parts.first_batch()
    state = task.init(jax.random.key(0), batch, parts.sizes)
    (phase,) = task.phases(parts.sizes)
    return state, batch, jax.jit(phase.step)


def trained_logits(task, state, images):
    logits = jax.jit(task.network.net(16).apply, static_argnames="train")
    return logits(state.params, state.rest, images, train=True)[0]


def test_a_step_is_gradient_descent_on_the_cross_entropy():
    task = tiny(clip_norm=0.0, weight_decay=0.0, momentum=0.0, nesterov=False)
    state, batch, step = first_step(task)
    after, metrics = step(state, batch, jax.random.key(1))
    network = task.network.net(16)
    rows = batch["train"]

    def loss(params):
        images = rows["image"].astype(jnp.float32) / 255
        logits, _ = network.apply(params, state.rest, images, train=True)
        own = jnp.take_along_axis(logits, rows["label"][:, None], axis=1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - own)

    value, gradient = jax.jit(jax.value_and_grad(loss))(state.params)
    total, count = metrics["loss"]
    assert count == 16
    assert total / count == pytest.approx(float(value), rel=1e-5)
    rate = task.optimizer.rate(task.steps)(0)
    expected = jax.tree.map(lambda p, g: p - rate * g, state.params, gradient)
    for mine, theirs in zip(
        jax.tree.leaves(after.params), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=2e-6)


def test_label_smoothing_spreads_a_share_of_the_label():
    plain = first_step(tiny())
    smooth = first_step(tiny(label_smoothing=0.2))
    state, batch, _ = plain
    rows = batch["train"]
    images = rows["image"].astype(jnp.float32) / 255
    logits = trained_logits(tiny(), state, images)
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
    own = log_p[np.arange(16), rows["label"]]
    expected = -np.mean(0.8 * own + 0.2 * log_p.mean(axis=1))
    total, count = smooth[2](smooth[0], batch, jax.random.key(1))[1]["loss"]
    assert total / count == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("flag", ["mixup", "cutmix"])
def test_mixed_images_pay_for_mixed_targets(flag):
    task = tiny(**{flag: 1.0})
    state, batch, step = first_step(task)
    key = jax.random.key(1)
    total, count = step(state, batch, key)[1]["loss"]
    rows = batch["train"]
    mix = getattr(augment, flag)
    images, targets = mix(
        jax.random.split(key, 3)[1],
        rows["image"].astype(jnp.float32) / 255,
        jax.nn.one_hot(rows["label"], 16),
        alpha=1.0,
    )
    logits = trained_logits(task, state, images)
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
    expected = -(np.asarray(targets) * log_p).sum(axis=1).mean()
    assert total / count == pytest.approx(expected, rel=1e-5)
    assert np.abs(np.asarray(targets).max(axis=1) - 1).max() > 0.05  # they are mixed


def test_a_policy_file_may_not_change_during_a_run(tmp_path):
    path = tmp_path / "mine.json"
    augment.save_policy(augment.make_policy([[("Invert", 1.0, 0.5)]]), path)
    task = tiny(policy=str(path), steps=2)
    flags = {"devices": 1, "quiet": True}
    jaxfaces.run(task, tmp_path / "run", **flags)
    longer = dataclasses.replace(task, steps=3)
    augment.save_policy(augment.make_policy([[("Solarize", 1.0, 0.5)]]), path)
    with pytest.raises(RunError, match=r"--policy=.*mine.json changed since"):
        jaxfaces.run(longer, tmp_path / "run", **flags)
    path.unlink()
    with pytest.raises(ValueError, match=r"--policy=.*mine.json: .*No such file"):
        jaxfaces.run(longer, tmp_path / "run", **flags)
    jaxfaces.load(tmp_path / "run")  # to use a run takes no policy


def test_eight_devices_train_as_one(tmp_path):
    task = tiny(policy="trivialaugment", steps=3, flip=True, lr=0.01)
    for devices in (1, 8):
        jaxfaces.run(task, tmp_path / str(devices), devices=devices, quiet=True)
    one, eight = (
        jax.tree.leaves(jaxfaces.load(tmp_path / str(devices)).variables)
        for devices in (1, 8)
    )
    for mine, theirs in zip(one, eight, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5)


@pytest.mark.parametrize("microbatch", [0, pytest.param(8, marks=pytest.mark.slow)])
def test_no_image_leaves_its_device_to_be_augmented(microbatch):
    flags = {"policy": "randaugment", "padding": 2, "flip": True}
    task = tiny(**flags, microbatch=microbatch)
    parts = assembly.assemble(task, Options(devices=8))
    tree, phase = parts.template(), parts.timeline.phases[0]
    step = parts.program.lower(phase, tree, parts.first_batch()).compile()
    sent = re.findall(
        r"= (.*) (all-gather|all-to-all|all-reduce|collective-permute)\b",
        step.as_text(),
    )
    assert "all-reduce" in {kind for _, kind in sent}  # the gradient is
    assert not [what for what, _ in sent if "16,16,3]" in what]


def test_batches_are_whole_and_shuffled_anew_every_sweep():
    stream = tiny().streams("train", 3)["train"]
    sweeps = [
        np.concatenate([stream.plan(e * stream.sweep + n) for n in range(stream.sweep)])
        for e in range(2)
    ]
    for rows in sweeps:
        assert len(np.unique(rows)) == len(rows) == stream.sweep * 16
        assert rows.max() < stream.examples
    assert not np.array_equal(*sweeps)
    again = tiny().streams("train", 3)["train"]
    np.testing.assert_array_equal(stream.plan(5), again.plan(5))


class TestAugmentation:
    IMAGES = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)

    def changed(self, key=0, **flags):
        task = tiny(**flags)
        policy = task.augmentation.make_policy(task.data.dataset)
        change = task.augmentation.train
        return np.asarray(change(jax.random.key(key), self.IMAGES, policy, "cifar"))

    def test_none_leaves_images_alone_whatever_cutout_says(self):
        np.testing.assert_array_equal(
            self.changed(cutout=0.5), self.IMAGES.astype(np.float32) / 255
        )

    def test_cutout_covers_a_square_with_the_mean_colour(self):
        found = self.changed(policy="cutout", cutout=0.25)
        mean = np.array([0.4914, 0.4822, 0.4465], np.float32)
        covered = np.isclose(found, mean, atol=1e-6).all(axis=-1)
        counts = covered.sum(axis=(1, 2))
        assert counts.max() == 16  # a quarter of the width, squared
        assert counts.min() >= 4  # at the border less
        for image in covered:
            rows, columns = np.nonzero(image)
            extent = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            assert extent == image.sum()  # a rectangle, filled
        kept = self.IMAGES.astype(np.float32) / 255
        np.testing.assert_array_equal(found[~covered], kept[~covered])

    @pytest.mark.parametrize(
        "policy",
        ["autoaugment", "autoaugment:svhn", "dada:imagenet", "randaugment"]
        + ["trivialaugment", "trivialaugment:standard", "unsearched", "random:7"],
    )
    def test_policies_change_images_and_keep_their_range(self, policy):
        found = self.changed(policy=policy, cutout=0.0)
        assert found.dtype == np.float32
        assert found.min() >= 0
        assert found.max() <= 1
        assert not np.array_equal(found, self.IMAGES.astype(np.float32) / 255)
        # What a policy gives is uint8.
        np.testing.assert_allclose(found * 255, np.rint(found * 255), atol=1e-4)

    def test_a_policy_may_come_from_a_file(self, tmp_path):
        path = tmp_path / "mine.json"
        invert = augment.make_policy([[("Invert", 1.0, 0.5)]])
        augment.save_policy(invert, path)
        found = self.changed(policy=str(path), cutout=0.0)
        np.testing.assert_allclose(found, 1 - self.IMAGES / 255, atol=1e-6)

    def test_cutout_comes_after_the_policy(self, tmp_path):
        path = tmp_path / "mine.json"
        augment.save_policy(augment.make_policy([[("Invert", 1.0, 0.5)]]), path)
        found = self.changed(policy=str(path), cutout=0.25)
        mean = np.array([0.4914, 0.4822, 0.4465], np.float32)
        covered = np.isclose(found, mean, atol=1e-6).all(axis=-1)
        assert (covered.sum(axis=(1, 2)) >= 4).all()  # not inverted
        inverted = 1 - self.IMAGES / 255
        np.testing.assert_allclose(found[~covered], inverted[~covered], atol=1e-6)

    def test_policies_take_grey_images(self):
        augmentation = tiny(policy="autoaugment", grey=True).augmentation
        policy = augmentation.make_policy("made_up")
        grey = self.IMAGES[..., :1]
        found = augmentation.train(jax.random.key(0), grey, policy, "none")
        assert found.shape == grey.shape
        assert 0 <= found.min() <= found.max() <= 1

    def test_a_random_policy_is_that_of_its_seed(self):
        first, again, other = (
            tiny(policy=policy).augmentation.make_policy("cifar10")
            for policy in ("random:0", "random", "random:1")
        )
        np.testing.assert_array_equal(first.levels, again.levels)
        assert np.all(first.levels != other.levels)

    def test_of_a_searched_policy_dada_takes_the_best_25(self, tmp_path):
        path = tmp_path / "searched.json"
        rows = [[("Invert", n / 30, 0.5)] for n in range(30)]
        searched = augment.make_policy(rows, weights=range(1, 31))
        augment.save_policy(searched, path)
        found = tiny(policy=f"dada:{path}").augmentation.make_policy("cifar10")
        expected = np.arange(29, 4, -1)[:, None] / 30
        np.testing.assert_allclose(found.probabilities, expected, rtol=1e-6)
        # The engine asks for it inside a compiled program.
        inside = jax.jit(lambda: tiny(policy=f"dada:{path}")._policy)()
        np.testing.assert_array_equal(inside.probabilities, found.probabilities)
        whole = tiny(policy=str(path)).augmentation.make_policy("cifar10")
        np.testing.assert_array_equal(whole.logits, searched.logits)

    def test_crops_of_random_size_have_the_networks_size(self):
        flags = {"crop": "resized", "crop_size": 8, "jitter": 0.4, "lighting": 0.1}
        assert self.changed(**flags).shape == (6, 8, 8, 3)

    def test_shifted_images_are_the_same_pixels(self):
        found = np.rint(self.changed(padding=2) * 255).astype(np.uint8)
        for image, shifted in zip(self.IMAGES, found):
            wide = np.pad(image, ((2, 2), (2, 2), (0, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(wide, (16, 16, 3))
            assert (windows[..., 0, :, :, :] == shifted).all(axis=(-3, -2, -1)).any()

    @pytest.mark.parametrize(
        "dataset, policy, like",
        [
            ("cifar10", "dada", augment.dada("cifar10")),
            ("cifar100", "dada", augment.dada("cifar100")),
            ("cifar100", "autoaugment", augment.auto_augment("cifar10")),
            ("svhn_cropped", "dada", augment.dada("svhn")),
            ("imagenet2012", "autoaugment", augment.auto_augment("imagenet")),
        ],
    )
    def test_the_published_policy_is_that_of_the_data_set(self, dataset, policy, like):
        found = tiny(policy=policy).augmentation.make_policy(dataset)
        np.testing.assert_array_equal(found.operations, like.operations)
        np.testing.assert_array_equal(found.levels, like.levels)


class TestBadFlags:
    @pytest.mark.parametrize(
        "flags, words",
        [
            ({"policy": "autoagument"}, "--policy=autoagument is none of"),
            ({"network": "wrn_41_2"}, "--network=wrn_41_2"),
            ({"network": "vgg"}, "--network=vgg"),
            ({"mixup": 1.0, "cutmix": 1.0}, "--mixup and --cutmix exclude"),
            ({"policy": "randaugment:14"}, "--policy=randaugment:14; there is randaug"),
            ({"policy": "dada:mnist"}, "--policy=dada:mnist; there is dada:cifar10"),
            ({"policy": "trivialaugment:broad"}, "trivialaugment:standard"),
            ({"policy": "none:x"}, "--policy=none:x; there is none"),
            ({"policy": "random:one"}, "--policy=random:one; there is random:0"),
            ({"policy": "random:99999999999"}, "there is random:0"),
            ({"crop": "resized"}, "--crop=resized needs --crop_size"),
            ({"network": "shake_shake_32", "width": 5}, "--width=5 must be even"),
            ({"padding": 2, "crop_size": 8}, "--padding and --crop_size exclude"),
            ({"crop_size": 32}, "--crop_size=32 is larger than --image_size=16"),
        ],
    )
    def test_are_refused_before_data_are_read(self, flags, words):
        with pytest.raises(ValueError, match=words):
            tiny(**flags)

    @pytest.mark.parametrize(
        "flags, words",
        [
            ({"batch_size": 1000}, "--batch_size=1000 is more than .* images"),
            ({"crop_size": 17, "image_size": 0}, "--crop_size=17 is larger than"),
            ({"grey": True, "jitter": 0.4}, "take images in colour"),
            ({"policy": "missing.json"}, "--policy=missing.json: .*missing.json"),
            ({"policy": "dada:missing.json"}, "--policy=dada:missing.json: .*missing"),
            ({"only_classes": (3,)}, "leaves one class"),
            ({"only_classes": (3, 99)}, "no images of class 99"),
            ({"test_split": "dev"}, "--test_split=dev: --dataset=made_up is not div"),
            ({"train_split": "all"}, "--train_split=all: .* --test_fraction says"),
            ({"train_images": 1000}, "--train_images=1000 is more than"),
            ({"train_images": 15}, "--train_images=15: 15 and .* all 16 classes"),
            ({"validation_fraction": 0.01}, "--validation_fraction=0 holds none out"),
        ],
    )
    def test_are_refused_before_anything_is_compiled(self, flags, words):
        task = tiny(**flags)
        with pytest.raises(ValueError, match=words):
            parts = assembly.assemble(task, Options(devices=1))
            task.init(jax.random.key(0), parts.first_batch(), parts.sizes)

    def test_a_policy_of_another_version_names_flag_and_file(self, tmp_path):
        path = tmp_path / "old.json"
        augment.save_policy(augment.trivial_augment(), path)
        text = json.loads(path.read_text())
        path.write_text(json.dumps(text | {"version": 7}))
        augmentation = tiny(policy=str(path)).augmentation
        with pytest.raises(ValueError, match=r"--policy=.*old.json.*version 7"):
            augmentation.make_policy("cifar10")


def test_a_smoke_task_is_tiny():
    whole = dataclasses.replace(tiny(network="wrn_40_2"), batch_size=512)
    small = whole.smoke()
    assert small.data.dataset == "made_up"
    assert small.network.network == "wrn_10_1"
    assert small.batch_size <= 16
