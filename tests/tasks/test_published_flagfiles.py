"""Flagfiles of published settings: what they say in steps, recomputed from epochs."""

from pathlib import Path

import pytest

from jaxfaces.engine import commandline
from jaxfaces.engine.options import Options

CONFIGS = Path(__file__).parents[2] / "configs"


def read(name):
    words = (f"--flagfile={CONFIGS / name}.cfg",)
    return commandline.parse(words, {"options": Options()})[1]


# Of the release: network, data set, split to train on.
MODELS = {
    "cifar10": ("wrn_40_2", "cifar10", "train"),
    "cifar10_wrn_28_10": ("wrn_28_10", "cifar10", "train"),
    "cifar10_shake_shake": ("shake_shake_96", "cifar10", "train"),
    "cifar10_pyramidnet": ("pyramidnet_272_200", "cifar10", "train"),
    "cifar100": ("wrn_40_2", "cifar100", "train"),
    "cifar100_shake_shake": ("shake_shake_96", "cifar100", "train"),
    "cifar100_pyramidnet": ("pyramidnet_272_200", "cifar100", "train"),
    "svhn": ("wrn_28_10", "svhn_cropped", "train+extra"),
    "imagenet": ("resnet50", "imagenet2012", "train"),
}
# Of the reduced sets of the searches; SVHN's has no extra images.
REDUCED = MODELS | {"svhn": ("wrn_28_10", "svhn_cropped", "train")}
# idx120 of kakaobrain/fast-autoaugment and of the release, FastAutoAugment/data.py.
CLASSES = """
    16 23 52 57 76 93 95 96 99 121 122 128 148 172 181 189 202 210 232 238 257 258
    259 277 283 289 295 304 307 318 322 331 337 338 345 350 361 375 376 381 388 399
    401 408 424 431 432 440 447 462 464 472 483 497 506 512 530 541 553 554 557 564
    570 584 612 614 619 626 631 632 650 657 658 660 674 675 680 682 691 695 699 711
    734 736 741 754 757 764 769 770 780 781 787 797 799 811 822 829 830 835 837 842
    843 845 873 883 897 900 902 905 913 920 925 937 938 940 941 944 949 959
"""


def assert_framed_as_released(framing, dataset):
    """The release crops, flips and colours CIFAR and SVHN alike, ImageNet otherwise."""
    colours = framing.jitter, framing.lighting
    crop = framing.padding, framing.crop, framing.crop_size
    assert framing.flip
    if dataset == "imagenet2012":
        assert (colours, crop) == ((0.4, 0.1), (0, "resized", 224))
        assert framing.crop_area == 0.08
    else:
        assert (colours, crop) == ((0, 0), (4, "random", 0))


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
    side = task.augmentation.crop_size or 32
    assert round(task.augmentation.cutout * side) == pixels
    assert not task.data.validation_fraction
    network, dataset, split = MODELS[name]
    assert (task.network.network, task.data.dataset) == (network, dataset)
    assert task.data.train_split == split
    assert (task.augmentation.policy, task.mixup, task.cutmix) == ("dada", 0, 0)
    assert task.data.only_classes == ()
    assert_framed_as_released(task.augmentation, dataset)


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
        assert task.data.train_images == 50_000
    network, dataset, split = REDUCED[name]
    assert (task.network.network, task.data.dataset) == (network, dataset)
    assert task.data.train_split == split
    classes = tuple(map(int, CLASSES.split())) if name == "imagenet" else ()
    assert task.data.only_classes == classes
    if kind.startswith("policy"):
        assert task.search.policy_lr == 0.005
        assert task.search.temperature_at(0, task.steps) == 0.5
        assert len(task.search.first_policy().logits) == 105
        side = task.framing.crop_size or 32
        assert round(task.framing.cutout * side) == 16
        assert_framed_as_released(task.framing, dataset)
    else:
        assert task.augmentation.policy == "dada"
        assert_framed_as_released(task.augmentation, dataset)
