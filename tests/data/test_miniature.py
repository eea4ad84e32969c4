from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxfaces.data import images, layouts, miniature, sources
from jaxfaces.data.errors import DataError

FITS = {"cub200": "crop", "cars196": "warp", "sop": "pad", "inshop": "pad"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    for dataset in miniature.DATASETS:
        miniature.prepare(dataset, path)
    return str(path)


def load(dataset, split, data_dir, fit=None):
    return sources.load(
        dataset,
        split,
        data_dir=data_dir,
        image_size=24,
        fit=fit or FITS[dataset],
        trim_white=dataset == "sop",
    )


@pytest.mark.parametrize("dataset", miniature.DATASETS)
class TestEveryMiniature:
    def test_train_and_test_classes_are_disjoint_and_enough(self, dataset, data_dir):
        train, test = (load(dataset, split, data_dir) for split in ("train", "test"))
        assert not set(train.labels) & set(test.labels)
        for source in (train, test):
            _, counts = np.unique(source.labels, return_counts=True)
            assert counts.tolist() == [6] * 8
            names = {source.names[label] for label in source.labels}
            assert len(names - {""}) == 8

    def test_pixels_decode_and_tell_classes_apart(self, dataset, data_dir):
        for split in ("train", "test"):
            source = load(dataset, split, data_dir, fit="warp")
            pixels = source.pixels(np.arange(len(source)))
            assert pixels.shape == (48, 24, 24, 3)
            flat = pixels.reshape(48, -1) / 255
            distances = ((flat[:, None] - flat[None]) ** 2).sum(axis=-1)
            np.fill_diagonal(distances, np.inf)
            nearest = source.labels[distances.argmin(axis=1)]
            assert (nearest == source.labels).mean() > 0.8

    def test_only_in_shop_has_roles(self, dataset, data_dir):
        assert load(dataset, "train", data_dir).roles is None
        test = load(dataset, "test", data_dir)
        if dataset != "inshop":
            assert test.roles is None
            return
        for label in np.unique(test.labels):
            roles = test.roles[test.labels == label]
            assert sorted(roles) == ["gallery"] * 3 + ["query"] * 3

    def test_images_are_rgb_jpeg_of_many_sizes(self, dataset, tmp_path):
        folder = miniature.write(dataset, tmp_path / "extracted")
        assert folder == tmp_path / "extracted"
        white = 2 * miniature.BORDER if dataset == "sop" else 0
        sizes = set()
        for entry in layouts.read(dataset, folder):
            with Image.open(folder / entry.file) as image:
                assert (image.format, image.mode) == ("JPEG", "RGB")
                assert all(40 <= side - white <= 60 for side in image.size)
                trimmed = images.trim_white(image)
                for before, after in zip(image.size, trimmed.size):
                    assert (before - after >= 16) == (dataset == "sop")
                sizes.add(image.size)
        assert len(sizes) > 48

    def test_files_depend_on_the_seed_alone(self, dataset, tmp_path):
        seen = []
        for i, seed in enumerate((5, 5, 6)):
            small = {"classes": 2, "images_per_class": 2, "seed": seed}
            folder = miniature.write(dataset, tmp_path / str(i), **small)
            entries = layouts.read(dataset, folder)
            seen.append({e.file: (folder / e.file).read_bytes() for e in entries})
        assert seen[0] == seen[1]
        assert seen[0].keys() == seen[2].keys()
        assert all(seen[0][file] != seen[2][file] for file in seen[0])

    def test_what_was_prepared_is_not_replaced(self, dataset, data_dir):
        with pytest.raises(DataError, match=f"{dataset}/1.0.0 exists"):
            miniature.prepare(dataset, Path(data_dir))


@pytest.mark.parametrize(
    "dataset,options,message",
    [
        ("cub201", {}, "'cub201'"),
        ("cub200", {"classes": 1}, "classes must be 2 to 196, got 1"),
        ("cars196", {"classes": 197}, "got 197"),
        ("sop", {"images_per_class": 1}, "images_per_class must be 2 or more, got 1"),
    ],
)
def test_what_cannot_be_written_is_refused(dataset, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        miniature.write(dataset, tmp_path, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dataset", miniature.DATASETS)
def test_the_most_classes_can_be_written(dataset, tmp_path):
    most = miniature.MOST_CLASSES
    miniature.write(dataset, tmp_path, classes=most, images_per_class=2)
    entries = layouts.read(dataset, tmp_path)
    assert len({entry.label for entry in entries}) == most
    assert sum(entry.split == "train" for entry in entries) == most


def test_nothing_is_printed(tmp_path, capfd):
    miniature.prepare("sop", tmp_path, classes=2, images_per_class=2)
    assert capfd.readouterr() == ("", "")
