"""The search for policies as a task: runs, resuming, devices, bad flags."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import augment
import jaxfaces
from jaxfaces.engine import assembly, config, logs
from jaxfaces.engine.errors import Interrupted, RunError
from jaxfaces.engine.options import Options
from jaxfaces.tasks.policy_search import PolicySearch
from jaxfaces.tasks.search_settings import ESTIMATORS

TINY = {
    "dataset": "made_up",
    "image_size": 16,
    "test_fraction": 0.25,
    "network": "wrn_10_1",
    "width": 4,
    "batch_size": 16,
    "eval_batch_size": 16,
    "steps": 4,
    "lr": 0.01,
    "cpu_conv": "off",  # compiles in a third of the time
    "operations": ("Rotate", "Brightness", "Invert"),
    "initial_level": 0.8,
}


def tiny(**changes):
    return config.replace(PolicySearch(), TINY | changes)


def run(task, folder, **changes):
    flags = {"devices": 1, "quiet": True, "log_every": 1, "eval_every": 2}
    return jaxfaces.run(task, folder, **(flags | changes))


def last_state(folder):
    return jax.device_get(assembly.restore(folder)[1])


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search by RELAX of four steps."""
    folder = tmp_path_factory.mktemp("search") / "run"
    assert run(tiny(), folder, test=True)["compilations"] == 1
    return folder


# One with two draws by default; `test_search_step` has the gradients of all.
@pytest.mark.parametrize(
    "estimator, draws",
    [("reinforce", 2)]
    + [pytest.param(each, 1, marks=pytest.mark.slow) for each in ESTIMATORS[1:]],
)
def test_every_estimator_trains_and_compiles_once(estimator, draws, tmp_path):
    task = tiny(estimator=estimator, draws=draws, steps=2)
    assert run(task, tmp_path)["compilations"] == 1
    assert all(
        np.isfinite(record["value"]) for record in logs.read(tmp_path / "metrics.jsonl")
    )
    found, first = last_state(tmp_path).search, task.search.first_policy()
    assert np.any(found.policy["logits"] != first.logits)
    assert np.any(found.policy["probabilities"] != first.probabilities)
    learns = estimator.startswith("relax")
    assert np.any(found.control["output"]["kernel"] != 0) == learns


def test_what_is_judged_is_the_step_that_is_taken():
    task = tiny(clip_norm=0.0, weight_decay=0.1, rotate_validation=30.0)
    streams = task.streams("train", 0)
    batches = [
        {name: stream.read(stream.plan(n)) for name, stream in streams.items()}
        for n in range(3)
    ]
    for batch in batches:
        for rows in batch.values():
            rows["valid"] = np.ones(task.batch_size, bool)
    sizes = {name: (each.examples, each.classes) for name, each in streams.items()}
    state = jax.jit(lambda key: task.init(key, batches[0], sizes))(jax.random.key(1))
    network = task._net(sizes["train"][1])

    @jax.jit
    def judged(params, rest, held):
        images = task._standardised(task.framing.test(held["image"]))
        logits, _ = network.apply(params, rest, images, train=True)
        losses = jax.nn.log_softmax(logits)[np.arange(len(images)), held["label"]]
        return -losses.mean()

    step = jax.jit(task.phases(sizes)[0].step)
    for n, batch in enumerate(batches):
        after, metrics = step(state, batch, jax.random.key(n))
        before, change = (
            metrics[name][0] for name in ("validation_loss", "step_value")
        )
        held = batch["validation"]
        # By batch statistics: the running ones play no part in training mode.
        assert before == pytest.approx(float(judged(state.params, state.rest, held)))
        taken = judged(after.params, state.rest, held)
        assert before + change == pytest.approx(float(taken), abs=2e-6)
        state = after


def test_a_search_that_is_cut_ends_with_the_same_bits(searched, tmp_path, stopping):
    with stopping(3), pytest.raises(Interrupted, match="step 3 of 4"):
        run(tiny(), tmp_path, test=True)
    run(tiny(), tmp_path, test=True)
    jax.tree.map(
        np.testing.assert_array_equal, last_state(tmp_path), last_state(searched)
    )


def test_eight_devices_search_as_one(searched, tmp_path):
    run(tiny(), tmp_path, devices=8, test=True)
    one, eight = last_state(searched), last_state(tmp_path)
    for mine, theirs in (
        (one.params, eight.params),
        (one.search.control, eight.search.control),
        (one.search.policy, eight.search.policy),
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), mine, theirs
        )


def test_another_set_of_operations_is_another_search(searched):
    with pytest.raises(RunError, match="--operations was Rotate,Brightness,Invert, is"):
        run(tiny(operations=("Rotate", "Invert")), searched, test=True)


def test_its_network_starts_another(searched, tmp_path):
    file = searched / "params.safetensors"
    summary = run(tiny(), tmp_path, test=True, init_from=str(file))
    assert summary["init_from"]["task"] == "policy_search"
    first, last = (
        json.loads((folder / "summary.json").read_text())["measures"][name]["log_loss"]
        for folder, name in ((tmp_path, "validation_initial"), (searched, "validation"))
    )
    assert first == pytest.approx(last)


def test_a_policy_that_is_not_finite_stops_the_search(tmp_path):
    words = r"train/policy_norm is not finite\..* Try a lower --policy_lr \(.*policy"
    with pytest.raises(RunError, match=words):
        run(tiny(policy_lr=3e38, steps=2), tmp_path, eval_every=0)


def test_a_policy_that_has_no_choice_left_is_remarked_upon(searched):
    state = last_state(searched)
    assert tiny().remarks(state) == []
    sure = state.search.policy | {"logits": np.array([0.0, 90.0, 0.0])}
    state = state.replace(search=state.search.replace(policy=sure))
    assert "the search has collapsed" in tiny().remarks(state)[0]


class TestStreams:
    def test_both_halves_have_an_order_of_their_own(self):
        streams = tiny().streams("train", 5)
        assert set(streams) == {"train", "validation"}
        train, held = streams.values()
        assert train.examples == held.examples == 48
        for stream in (train, held):
            assert (stream.plan(0) < 48).all()
        assert not np.array_equal(train.plan(0), held.plan(0))
        assert not np.array_equal(held.plan(0), held.plan(stream.sweep))

    def test_official_judges_by_the_first_batch_alone(self):
        held = tiny(estimator="official").streams("train", 5)["validation"]
        np.testing.assert_array_equal(held.plan(0), held.plan(9))

    def test_what_judges_is_what_is_measured(self):
        task = tiny(rotate_validation=90.0)
        judged = task.streams("train", 0)["validation"].read(np.arange(5))
        swept = task.streams("validation", 0)["images"].read(np.arange(5))
        plain = task.data.split("validation").read(np.arange(5))
        np.testing.assert_array_equal(judged["image"], swept["image"])
        turned = np.rot90(plain["image"], axes=(1, 2))
        np.testing.assert_array_equal(judged["image"], turned)
        trained = task.streams("train", 0)["train"].read(np.arange(5))
        same = task.data.split("train").read(np.arange(5))
        np.testing.assert_array_equal(trained["image"], same["image"])

    def test_every_other_image_of_every_split_is_a_class_of_its_own(self):
        task, plain = tiny(inverted_classes=True), tiny()
        rows = np.arange(9)
        for split, name in (
            ("train", "train"),
            ("train", "validation"),
            ("validation", "images"),
            ("test", "images"),
        ):
            stream, before = (each.streams(split, 0)[name] for each in (task, plain))
            found, own = stream.read(rows), before.read(rows)
            odd = rows % 2 == 1
            np.testing.assert_array_equal(found["image"][~odd], own["image"][~odd])
            np.testing.assert_array_equal(found["image"][odd], 255 - own["image"][odd])
            np.testing.assert_array_equal(found["label"], own["label"] + 16 * odd)
            assert (stream.classes, before.classes) == (32, 16)
            assert stream.names[3:20:16] == ("class 3", "class 3, inverted")
            np.testing.assert_array_equal(stream.plan(1), before.plan(1))


def test_what_cutout_covers_is_zero_where_levels_act():
    task = tiny(cutout=0.25)
    images = np.random.default_rng(0).integers(1, 255, (6, 16, 16, 3), np.uint8)
    keys = jax.random.split(jax.random.key(0))
    shown = task._standardised(task.framing.after(*keys, images, "cifar"))
    covered = (np.abs(shown) < 1e-6).all(axis=-1)
    assert covered.any(axis=(1, 2)).all()
    assert (covered.sum(axis=(1, 2)) <= 16).all()


def test_the_policy_is_written_and_reads_back(searched):
    found = augment.load_policy(searched / "policy.json")
    policy = last_state(searched).search.policy
    np.testing.assert_array_equal(found.logits, policy["logits"])
    np.testing.assert_array_equal(found.levels, np.clip(policy["levels"], 0, 1))
    text = json.loads((searched / "policy.json").read_text())
    assert len(text["best"]) == 3
    assert "Rotate 0.5" in " ".join(text["best"])


@pytest.mark.parametrize("name", ["policy", "operations", "augmented", "curves"])
def test_pictures_are_drawn(searched, name):
    with Image.open(searched / "figures" / f"{name}.png") as picture:
        assert min(picture.size) > 90


def test_a_search_measures_its_network_and_its_policy(searched):
    measures = json.loads((searched / "summary.json").read_text())["measures"]
    for split in ("validation", "test"):
        found = measures[split]
        assert found["entropy"] == pytest.approx(np.log(3), abs=1e-3)
        # Of three pairs two have Rotate, whose coin is nearly fair.
        assert found["rotate_share"] == pytest.approx(1 / 3, abs=0.03)
        assert 0 <= found["accuracy"] <= 1


class TestBadFlags:
    @pytest.mark.parametrize(
        "flags, words",
        [
            ({"temperature": 0.0}, "--temperature=0.0 is not positive"),
            ({"temperature_end": -1.0}, "--temperature_end=-1.0 is not positive"),
            ({"operations": ()}, "--operations= makes no pair"),
            ({"operations": ("Rotate",)}, "--operations=Rotate makes no pair"),
            ({"operations": ("Rotate", "Rotate")}, "--operations=.* repeats one"),
            ({"operations": ("Rotate", "Turn")}, "--operations: .*'Turn'"),
            ({"estimator": "rebar"}, "--estimator='rebar' is none of"),
            ({"draws": 0}, "--draws=0"),
            (
                {"estimator": "official", "order": "reverse"},
                "--order=reverse says nothing to --estimator=official",
            ),
            (
                {"estimator": "relax_linear", "order": "finite"},
                "--order=finite says nothing to --estimator=relax_linear",
            ),
            ({"optimizer": "adam"}, "--optimizer must be sgd"),
            ({"nesterov": True}, "--nesterov false"),
            ({"validation_fraction": 0.0}, "--validation_fraction=0 leaves no"),
            ({"crop_size": 32}, "--crop_size=32 is larger than --image_size=16"),
        ],
    )
    def test_are_refused_before_data_are_read(self, flags, words):
        with pytest.raises(ValueError, match=words):
            tiny(**flags)

    @pytest.mark.parametrize(
        "flags, words",
        [
            ({"batch_size": 60}, "--validation_fraction=0.5 leaves 48 .*batch_size=60"),
            (
                {"batch_size": 40, "validation_fraction": 0.8},
                "--batch_size=40 is more than 19 images",
            ),
            ({"grey": True, "lighting": 0.1}, "take images in colour"),
        ],
    )
    def test_are_refused_before_anything_is_compiled(self, flags, words):
        task = tiny(**flags)
        with pytest.raises(ValueError, match=words):
            parts = assembly.assemble(task, Options())
            task.init(jax.random.key(0), parts.first_batch(), parts.sizes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "plant, measure, change",
    [
        ({"rotate_validation": 30.0}, "rotate_share", 0.05),
        ({"inverted_classes": True}, "invert_share", -0.1),
    ],
)
def test_what_is_planted_is_found(plant, measure, change, tmp_path):
    flags = {
        "dataset": "digits",
        "grey": True,
        "initial_level": 0.9,
        "operations": ("Rotate", "Invert", "TranslateX", "Brightness"),
        "network": "wrn_10_1",
        "batch_size": 64,
        "cutout": 0.0,
        "steps": 100,
        "draws": 2,
        "policy_lr": 0.02,
    }
    task = config.replace(PolicySearch(), flags | plant)
    measures = run(task, tmp_path, log_every=10, eval_every=50)["measures"]
    first = measures["validation_initial"][measure]
    last = measures["validation"][measure]
    assert first == pytest.approx(0.25)
    assert np.sign(change) * (last - first) > abs(change)
