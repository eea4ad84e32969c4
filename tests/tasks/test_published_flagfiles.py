"""Flagfiles of published settings: what they say in steps, recomputed from epochs."""

from pathlib import Path

import pytest

from jaxfaces.engine import commandline
from jaxfaces.engine.options import Options

CONFIGS = Path(__file__).parents[2] / "configs"


def read(name):
    words = (f"--flagfile={CONFIGS / name}.cfg",)
    return commandline.parse(words, {"options": Options()})[1]


# Of the release: training images, batch, epochs, those of the warm-up, rate at its
# start and end, weight decay, pixels of cutout.
TRAININGS = {
    "cifar10": (50_000, 512, 200, 5, 0.1, 0.4, 2e-4, 16),
    "cifar10_wrn_28_10": (50_000, 512, 200, 5, 0.1, 0.4, 5e-4, 16),
    "cifar10_shake_shake": (50_000, 512, 1800, 5, 0.01, 0.04, 1e-3, 16),
    "cifar10_pyramidnet": (50_000, 64, 1800, 0, 0.05, 0.05, 5e-5, 16),
    "cifar100": (50_000, 512, 200, 5, 0.1, 0.4, 5e-4, 16),
    "cifar100_shake_shake": (50_000, 512, 1800, 5, 0.01, 0.04, 2.5e-3, 16),
    "cifar100_pyramidnet": (50_000, 64, 1800, 0, 0.025, 0.025, 5e-4, 16),
    "svhn": (73_257 + 531_131, 1024, 200, 5, 0.02, 0.08, 5e-4, 20),
    "imagenet": (1_281_167, 1024, 270, 3, 0.2, 0.4, 1e-4, 0),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_trainings(name):
    images, batch, epochs, warmup, start, peak, decay, pixels = TRAININGS[name]
    task = read(f"classification_{name}")
    epoch, optimizer = images // batch, task.optimizer
    assert task.batch_size == batch
    assert task.steps == epochs * epoch
    assert optimizer.weight_decay == decay
    assert (optimizer.momentum, optimizer.nesterov) == (0.9, True)
    assert optimizer.clip_norm == (0 if name == "imagenet" else 5)
    rate = optimizer.rate(task.steps)
    assert float(rate(0)) == pytest.approx(start)
    assert float(rate(warmup * epoch)) == pytest.approx(peak)
    if name == "imagenet":
        ends = [epoch * at - 1 for at in (90, 180, 240, 270)]
        rates = [float(rate(step)) for step in ends]
        assert rates == pytest.approx([0.4, 0.04, 4e-3, 4e-4], rel=1e-5)
    else:
        assert float(rate(task.steps)) == pytest.approx(0, abs=1e-7)
        assert task.augmentation.padding == 4
    side = task.augmentation.crop_size or 32
    assert round(task.augmentation.cutout * side) == pixels
    assert task.augmentation.flip
    assert not task.data.validation_fraction


# Of the release: images in half of the reduced set, batch, rate at the start and the
# end, weight decay; all of 20 epochs.
SEARCHES = {
    "cifar10": (2000, 128, 0.1, 0.001, 2e-4),
    "cifar100": (2000, 32, 0.1, 0.001, 5e-4),
    "svhn": (500, 32, 0.00125, 0.001, 1e-3),
    "imagenet": (3000, 32, 0.00125, 0.001, 1e-4),
}


@pytest.mark.parametrize("kind", ["policy_search_{}", "classification_{}_reduced"])
@pytest.mark.parametrize("name", SEARCHES)
def test_searches_and_trainings_on_the_same_images(kind, name):
    images, batch, first, last, decay = SEARCHES[name]
    task = read(kind.format(name))
    assert (task.batch_size, task.optimizer.weight_decay) == (batch, decay)
    assert task.steps == 20 * (images // batch)
    rate = task.optimizer.rate(task.steps)
    assert float(rate(0)) == pytest.approx(first)
    assert float(rate(task.steps)) == pytest.approx(last, rel=1e-4)
    assert task.data.validation_fraction == 0.5
    if name != "imagenet":
        assert task.data.train_images == 2 * images
    else:
        assert (task.data.train_images, len(task.data.only_classes)) == (50_000, 120)
    if kind.startswith("policy"):
        assert task.search.policy_lr == 0.005
        assert task.search.temperature_at(0, task.steps) == 0.5
        assert len(task.search.first_policy().logits) == 105
        side = task.framing.crop_size or 32
        assert round(task.framing.cutout * side) == 16
