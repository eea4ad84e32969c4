import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxfaces.data import array_records, builders, sources
from jaxfaces.data.errors import DataError
from jaxfaces.data.layouts import Entry
from jaxfaces.data.made_up import made_up

COLOURS = {"ash": (250, 0, 0), "birch": (0, 250, 0), "cedar": (0, 0, 250)}


@pytest.fixture
def folder(tmp_path):
    """Three classes of three flat images each, of several sizes."""
    root = tmp_path / "trees"
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (20 + i, 30), colour).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def written(folder, tmp_path):
    """The same images as a TFDS data set called trees: ash trains, the others test."""
    entries = [
        Entry(
            "train" if name == "ash" else "test",
            f"{name}/{i}.png",
            label,
            name,
            "" if name == "ash" else ("query" if i == 0 else "gallery"),
        )
        for label, name in enumerate(COLOURS)
        for i in range(3)
    ]
    builders.write(entries, folder, name="trees", data_dir=tmp_path)
    return tmp_path


def load_folder(folder, **options):
    return sources.load(f"folder:{folder}", "all", image_size=8, **options)


def test_a_folder_gives_sorted_classes_and_their_images(folder):
    source = load_folder(folder)
    assert source.names == tuple(COLOURS)
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert source.labels.dtype == np.int32
    assert source.classes == 3
    assert len(source) == 9
    batch = source.read(np.array([7, 0]))
    assert batch["image"].shape == (2, 8, 8, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].tolist() == [2, 0]
    assert batch["label"].dtype == np.int32
    assert (batch["image"][0] == COLOURS["cedar"]).all()


def test_folders_of_splits_number_classes_alike(folder, tmp_path):
    for split, names in (("train", ["ash", "cedar"]), ("test", ["birch"])):
        (tmp_path / "split" / split).mkdir(parents=True)
        for name in names:
            (folder / name).rename(tmp_path / "split" / split / name)
    name = f"folder:{tmp_path / 'split'}"
    train = sources.load(name, "train", image_size=8)
    test = sources.load(name, "test", image_size=8)
    assert set(train.labels) == {0, 2}
    assert set(test.labels) == {1}
    assert train.names == test.names == tuple(COLOURS)


def test_hidden_and_foreign_files_of_a_folder_are_left_out(folder):
    (folder / "ash" / ".hidden.png").write_bytes(b"x")
    (folder / "ash" / "Thumbs.db").write_bytes(b"x")
    (folder / ".git").mkdir()
    (folder / "README.png").write_bytes(b"x")
    assert len(load_folder(folder)) == 9


@pytest.mark.parametrize("memory_limit", [0, 1 << 30], ids=["batchwise", "in-memory"])
class TestDamage:
    def test_a_damaged_image_is_named(self, folder, memory_limit):
        (folder / "birch" / "1.png").write_text("text")
        with pytest.raises(DataError, match="birch/1.png: not an image.*skip"):
            load_folder(folder, memory_limit=memory_limit).read(np.arange(9))

    def test_skip_leaves_it_out_and_counts_it(self, folder, memory_limit):
        (folder / "birch" / "1.png").write_text("text")
        (folder / "ash" / "0.png").write_bytes(b"")
        source = load_folder(folder, memory_limit=memory_limit, on_bad_example="skip")
        assert source.skipped == 2
        assert source.labels.tolist() == [0, 0, 1, 1, 2, 2, 2]
        pixels = source.read(np.arange(7))["image"]
        wanted = np.array(list(COLOURS.values()))[source.labels]
        np.testing.assert_array_equal(pixels[:, 4, 4], wanted)

    def test_a_set_without_a_good_image_is_refused(self, folder, memory_limit):
        for path in folder.glob("*/*.png"):
            path.write_text("text")
        with pytest.raises(DataError, match="none of the 9 images"):
            load_folder(folder, memory_limit=memory_limit, on_bad_example="skip")


def test_an_unharmed_set_has_nothing_skipped(folder):
    assert load_folder(folder, on_bad_example="skip").skipped == 0


def test_decoding_by_batch_equals_decoding_at_once(folder):
    rows = np.array([8, 0, 4, 4])
    at_once = load_folder(folder)
    by_batch = load_folder(folder, memory_limit=0)
    for name, column in at_once.read(rows).items():
        np.testing.assert_array_equal(column, by_batch.read(rows)[name])
    # Batchwise means that a file is looked at when it is read.
    (folder / "ash" / "0.png").unlink()
    at_once.read(rows)
    with pytest.raises(DataError, match="ash/0.png: no such file"):
        by_batch.read(rows)


def test_images_of_several_sizes_need_an_image_size(folder):
    with pytest.raises(DataError, match="ash/1.png is .*--image_size"):
        sources.load(f"folder:{folder}", "all")


def test_images_of_one_size_keep_it(folder):
    for path in folder.glob("*/[12].png"):
        path.unlink()
    source = sources.load(f"folder:{folder}", "all", grey=True)
    assert source.read(np.arange(3))["image"].shape == (3, 30, 20, 1)


@pytest.mark.parametrize("memory_limit", [0, 1 << 30], ids=["batchwise", "in-memory"])
def test_a_written_set_reads_back(written, memory_limit):
    options = {"data_dir": str(written), "image_size": 8, "memory_limit": memory_limit}
    train = sources.load("trees", "train", **options)
    test = sources.load("trees", "test", **options)
    assert set(train.labels) == {0}
    assert set(test.labels) == {1, 2}
    assert test.names == {1: "birch", 2: "cedar"}
    batch = test.read(np.arange(6))
    wanted = np.array(list(COLOURS.values()))[batch["label"]]
    np.testing.assert_array_equal(batch["image"][:, 4, 4], wanted)


def test_roles_are_kept_where_there_are_any(written):
    assert sources.load(
        "trees", "train", data_dir=str(written), image_size=8
    ).roles is (None)
    test = sources.load("trees", "test", data_dir=str(written), image_size=8)
    assert sorted(test.roles) == ["gallery"] * 4 + ["query"] * 2
    rows = np.flatnonzero(test.roles == "query")
    query = sources.subset(test, rows)
    assert query.roles.tolist() == ["query", "query"]
    assert sorted(query.labels) == [1, 2]


def test_the_environment_names_the_data_directory(written, monkeypatch):
    monkeypatch.setenv("JAXFACES_DATA", str(written))
    assert len(sources.load("trees", "train", image_size=8)) == 3


def test_sets_in_the_sub_folder_tfds_are_found(written, monkeypatch):
    (written / "tfds").mkdir()
    (written / "trees" / "1.0.0").rename(written / "moved")
    (written / "tfds" / "trees").mkdir()
    (written / "moved").rename(written / "tfds" / "trees" / "1.0.0")
    assert len(sources.load("trees", "train", data_dir=str(written), image_size=8)) == 3


def test_the_newest_complete_version_is_found(tmp_path):
    for version in ("1.0.0", "9.2.0", "10.0.1", "11.0.0", "12.0.0.incompleteX1"):
        (tmp_path / "x" / version).mkdir(parents=True)
        if version != "11.0.0":
            (tmp_path / "x" / version / "dataset_info.json").write_text("{}")
    assert array_records.find("x", str(tmp_path)).name == "10.0.1"


def test_a_missing_set_is_told_how_to_obtain(tmp_path, monkeypatch):
    with pytest.raises(DataError) as caught:
        sources.load("cub200", "train", data_dir=str(tmp_path))
    assert str(tmp_path / "cub200") in str(caught.value)
    assert "CUB_200_2011.tgz" in str(caught.value)
    assert (
        "python -m jaxfaces.data.prepare --dataset=cub200 --source=DIR --data_dir=DIR"
        in str(caught.value)
    )
    with pytest.raises(DataError, match="tfds build mnist --file_format=array_record"):
        sources.load("mnist", "train", data_dir=str(tmp_path))
    monkeypatch.delenv("JAXFACES_DATA", raising=False)
    with pytest.raises(DataError, match="--data_dir=DIR or set JAXFACES_DATA"):
        sources.load("mnist", "train")


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_a_folder_that_is_missing_or_empty_is_named(tmp_path, path):
    with pytest.raises(DataError, match="there (is|are) no .*" + str(tmp_path)):
        sources.load(f"folder:{tmp_path / path}", "all")


def test_an_unknown_split_names_those_there_are(written):
    with pytest.raises(DataError, match=r"'val'.*train.*test"):
        sources.load("trees", "val", data_dir=str(written))
    with pytest.raises(DataError, match="'all'"):
        sources.load("digits", "train")


def test_a_set_without_labels_is_refused(written):
    path = written / "trees" / "1.0.0" / "features.json"
    features = json.loads(path.read_text())
    table = features["featuresDict"]["features"]
    table["coarse"] = table.pop("label")
    path.write_text(json.dumps(features))
    with pytest.raises(DataError, match="no feature 'label'.*coarse"):
        sources.load("trees", "train", data_dir=str(written))


def test_another_file_format_is_refused_with_advice(written):
    path = written / "trees" / "1.0.0" / "dataset_info.json"
    path.write_text(path.read_text().replace('array_record"', 'tfrecord"'))
    with pytest.raises(DataError, match="array_record"):
        sources.load("trees", "train", data_dir=str(written))


@pytest.mark.parametrize(
    "damage", ["halved", "emptied", "scribbled", "removed", "json"]
)
def test_a_damaged_data_set_is_named(written, damage):
    folder = written / "trees" / "1.0.0"
    shard = next(folder.glob("*train*"))
    data = shard.read_bytes()
    if damage == "halved":
        shard.write_bytes(data[: len(data) // 2])
    elif damage == "emptied":
        shard.write_bytes(b"")
    elif damage == "scribbled":
        shard.write_bytes(data[:100] + bytes(400) + data[500:])
    elif damage == "removed":
        shard.unlink()
    else:
        (folder / "features.json").write_text("{")
    with pytest.raises(DataError, match=r"trees/1\.0\.0"):
        sources.load("trees", "train", data_dir=str(written), image_size=8)


@pytest.mark.parametrize("option", ["fit", "on_bad_example"])
def test_unknown_choices_are_refused(option):
    with pytest.raises(ValueError, match=f"--{option}"):
        sources.load("digits", "all", **{option: "maybe"})


def test_digits_come_with_the_library():
    source = sources.load("digits", "all", grey=True)
    assert len(source) == 1797
    assert source.classes == 10
    batch = source.read(np.arange(1797))
    assert batch["image"].shape == (1797, 8, 8, 1)
    assert batch["image"].min() == 0
    assert batch["image"].max() == 255
    from sklearn.datasets import load_digits

    bunch = load_digits()
    np.testing.assert_array_equal(batch["label"], bunch.target)
    difference = batch["image"][..., 0] / 255 - bunch.images / 16
    assert np.abs(difference).max() <= 0.5 / 255 + 1e-9


def test_subset_takes_rows_in_order_and_keeps_labels():
    source = made_up(classes=4, images_per_class=3, image_size=8, channels=1, seed=0)
    rows = np.array([11, 2, 5])
    part = sources.subset(source, rows)
    assert part.labels.tolist() == [3, 0, 1]
    np.testing.assert_array_equal(part.pixels(np.array([1])), source.pixels(rows[1:2]))
    again = sources.subset(part, np.array([2]))
    np.testing.assert_array_equal(again.pixels(np.array([0])), source.pixels(rows[2:]))


def test_relabel_numbers_the_classes_that_occur():
    source = made_up(classes=5, images_per_class=2, image_size=8, channels=1, seed=0)
    part = sources.relabel(sources.subset(source, np.array([8, 2, 9, 3])))
    assert part.labels.tolist() == [1, 0, 1, 0]
    assert part.labels.dtype == np.int32
    assert part.names == ("class 1", "class 4")
    assert part.read(np.array([0]))["label"].tolist() == [1]
    np.testing.assert_array_equal(part.pixels(np.array([1])), source.pixels([2]))


@pytest.mark.parametrize("memory_limit", [0, 1 << 30], ids=["batchwise", "in-memory"])
def test_a_source_can_be_sent_to_another_process(written, memory_limit):
    source = sources.load(
        "trees", "test", data_dir=str(written), image_size=8, memory_limit=memory_limit
    )
    source = sources.relabel(sources.subset(source, np.array([4, 1])))
    assert source.in_memory == (memory_limit > 0)
    copy = pickle.loads(pickle.dumps(source))
    rows = np.array([1, 0])
    np.testing.assert_array_equal(copy.pixels(rows), source.pixels(rows))


@pytest.mark.parametrize("channels", [1, 3])
def test_made_up_classes_can_be_seen(channels):
    source = made_up(6, 10, 16, channels, seed=1)
    batch = source.read(np.arange(60))
    assert batch["image"].shape == (60, 16, 16, channels)
    pixels = batch["image"].reshape(60, -1) / 255
    distances = ((pixels[:, None] - pixels[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(distances, np.inf)
    nearest = batch["label"][distances.argmin(axis=1)]
    assert (nearest == batch["label"]).mean() > 0.9


def test_made_up_images_depend_on_the_seed_alone():
    first, same, other = (
        made_up(2, 2, 8, 1, seed).pixels([0, 3]) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    assert (first[0] != first[1]).any()


def test_neither_jax_nor_tensorflow_nor_tfds_is_imported():
    code = (
        "import sys; from jaxfaces.data import builders, encoded, images, layouts, "
        "made_up, miniature, prepare, sources, streams; "
        "print([m for m in ('jax', 'tensorflow', 'tensorflow_datasets', 'sklearn') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


needs_data = pytest.mark.skipif(
    not (Path(os.environ.get("JAXFACES_DATA", "")) / "omniglot_retrieval").is_dir(),
    reason="JAXFACES_DATA is unset or has no omniglot_retrieval",
)


@needs_data
def test_omniglot_is_class_disjoint_ink_on_paper():
    train = sources.load("omniglot_retrieval", "train[:5%]", image_size=28, grey=True)
    test = sources.load("omniglot_retrieval", "test[:5%]", image_size=28, grey=True)
    assert (len(train), len(test)) == (964, 659)
    assert train.labels.max() < 964 <= test.labels.min()
    assert test.labels.max() < 1623
    pixels = train.read(np.arange(100))["image"]
    assert pixels.shape == (100, 28, 28, 1)
    assert 0.7 < (pixels > 200).mean() < 1  # paper is white
    assert pixels.min() < 100
