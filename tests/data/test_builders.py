import collections

import numpy as np
import pytest
import scipy.io
from PIL import Image

from jaxfaces.data import array_records, builders, layouts, miniature, sources
from jaxfaces.data.errors import DataError


def paint(path, colour=(90, 20, 200), size=(12, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def small(dataset, root):
    miniature.write(dataset, root, classes=4, images_per_class=2)


def cub200(root):
    small("cub200", root)
    return {"train": {98, 99}, "test": {100, 101}}, 8


def cars196(root):
    small("cars196", root)
    return {"train": {96, 97}, "test": {98, 99}}, 8


def cars196_devkit(root):
    (root / "devkit").mkdir()
    names = np.array([f"Car {number}" for number in range(1, 197)], object)
    scipy.io.savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})
    for folder, path in (
        ("cars_train", "devkit/cars_train_annos.mat"),
        ("cars_test", "cars_test_annos_withlabels.mat"),
    ):
        rows = [(f"{i:05d}.jpg", number) for i, number in enumerate((1, 98, 99, 196))]
        for file, _ in rows:
            paint(root / folder / file)
        table = np.array([rows], [("fname", object), ("class", object)])
        scipy.io.savemat(root / path, {"annotations": table})
    return {"train": {0, 97}, "test": {98, 195}}, 8


def cars196_folders(root):
    for number in range(100):
        for split in ("train", "test"):
            paint(root / split / f"Car {number:03d}" / f"{split}.jpg", size=(2, 2))
    return {"train": set(range(98)), "test": {98, 99}}, 200


def sop(root):
    small("sop", root)
    return {"train": {0, 1}, "test": {2, 3}}, 8


def inshop(root):
    small("inshop", root)
    return {"train": {0, 1}, "test": {2, 3}}, 8


def omniglot_retrieval(root):
    for top, alphabet in (("background", "Greek"), ("evaluation", "Runes")):
        for character in ("character01", "character02"):
            for drawer in range(2):
                folder = root / f"images_{top}" / alphabet / character
                paint(folder / f"{alphabet}{drawer}.png")
    return {"train": {0, 1}, "test": {2, 3}}, 8


def caltech101_retrieval(root):
    for name in (
        "Faces",
        "ant",
        "BACKGROUND_Google",
        "Faces_easy",
        "Motorbikes",
        "emu",
    ):
        for i in range(2):
            file = f"{i}.jpg"
            paint(root / "101_ObjectCategories" / name / file, size=(200, 160))
    return {"train": {0, 1}, "test": {2, 3}}, 8


def folder(root):
    for name in "abcd":
        for i in range(2):
            paint(root / name / f"{i}.png")
    return {"train": {0, 1}, "test": {2, 3}}, 8


MAKERS = [
    cub200,
    cars196,
    cars196_devkit,
    cars196_folders,
    sop,
    inshop,
    omniglot_retrieval,
    caltech101_retrieval,
    folder,
]


def layout_of(maker):
    return "cars196" if maker.__name__.startswith("cars196") else maker.__name__


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "extracted"
    path.mkdir()
    return path


def labels_by_split(entries):
    found = collections.defaultdict(set)
    for entry in entries:
        found[entry.split].add(entry.label)
    return dict(found)


def test_every_layout_is_tried_here():
    assert {layout_of(maker) for maker in MAKERS} == set(layouts.LAYOUTS)


@pytest.mark.parametrize("maker", MAKERS)
def test_a_layout_gives_the_published_class_disjoint_split(maker, root):
    wanted, images = maker(root)
    entries = layouts.read(layout_of(maker), root)
    assert labels_by_split(entries) == wanted
    assert len(entries) == images
    assert all((root / entry.file).is_file() for entry in entries)
    names = {entry.label: entry.class_name for entry in entries}
    assert len(set(names.values())) == len(names)
    assert all(names[entry.label] == entry.class_name for entry in entries)


@pytest.mark.parametrize("maker", MAKERS)
def test_a_layout_written_reads_back(maker, root, tmp_path):
    wanted, images = maker(root)
    entries = layouts.read(layout_of(maker), root)
    counts = builders.write(entries, root, name="made", data_dir=tmp_path)
    assert sum(counts.values()) == images
    for split, labels in wanted.items():
        source = sources.load("made", split, data_dir=str(tmp_path), image_size=4)
        assert len(source) == counts[split]
        assert set(source.labels) == labels
        assert source.skipped == 0
        chosen = [entry for entry in entries if entry.split == split]
        tally = collections.Counter(entry.label for entry in chosen)
        assert collections.Counter(source.labels.tolist()) == tally
        assert all(source.names[e.label] == e.class_name for e in chosen)


def test_the_stored_bytes_are_those_of_the_file(root, tmp_path):
    folder(root)
    paint(root / "a" / "0.png", colour=(1, 2, 3))
    builders.write(layouts.folder(root), root, name="made", data_dir=tmp_path)
    stored = array_records.from_tfds(array_records.find("made", str(tmp_path)), "train")
    by_file = {
        example.where.rpartition(", ")[2]: example.image
        for example in stored.fetch(np.arange(stored.examples))
    }
    assert sorted(by_file) == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]
    for file, data in by_file.items():
        assert data == (root / file).read_bytes()


def test_the_birds_class_is_the_one_listed_for_its_image(root):
    cub200(root)
    for entry in layouts.cub200(root):
        assert entry.class_name == f"{entry.label + 1:03d}.Bird_{entry.label + 1}"


def test_a_cars_name_is_that_of_its_class_number(root):
    cars196(root)
    entries = layouts.cars196(root)
    assert all(e.class_name == f"Car {e.label + 1}" for e in entries)


def test_in_shop_test_images_carry_their_role(root, tmp_path):
    inshop(root)
    entries = layouts.inshop(root)
    assert [e.role for e in entries] == [""] * 4 + ["query", "gallery"] * 2
    builders.write(entries, root, name="made", data_dir=tmp_path)
    train, test = (
        sources.load("made", split, data_dir=str(tmp_path), image_size=4)
        for split in ("train", "test")
    )
    assert train.roles is None
    assert sorted(test.roles) == ["gallery"] * 2 + ["query"] * 2
    assert sorted(test.labels[test.roles == "query"]) == [2, 3]


def test_the_shorter_side_is_reduced_and_the_aspect_kept(root, tmp_path):
    caltech101_retrieval(root)
    paint(root / "101_ObjectCategories" / "ant" / "0.jpg", size=(40, 30))
    entries = layouts.caltech101_retrieval(root)
    builders.write(entries, root, name="made", data_dir=tmp_path, shorter_side=80)
    stored = array_records.from_tfds(array_records.find("made", str(tmp_path)), "train")
    arrays = [sources.images.load(e.image) for e in stored.fetch(np.arange(4))]
    shapes = sorted(array.shape for array in arrays)
    assert shapes == [(30, 40, 3)] + [(80, 100, 3)] * 3


@pytest.mark.parametrize(
    "options,test",
    [
        ({}, "cd"),
        ({"test_fraction": 0.25}, "d"),
        ({"test_fraction": 0.3}, "cd"),
        ({"test_classes": ["a", "d"]}, "ad"),
    ],
)
def test_a_folders_test_classes_can_be_chosen(root, options, test):
    folder(root)
    entries = layouts.folder(root, **options)
    assert {e.class_name for e in entries if e.split == "test"} == set(test)
    assert {e.class_name for e in entries if e.split == "train"} == set("abcd") - set(
        test
    )


def test_a_test_class_that_does_not_exist_is_refused(root):
    folder(root)
    with pytest.raises(DataError, match="'z', which is no folder"):
        layouts.folder(root, test_classes=["a", "z"])


@pytest.mark.parametrize(
    "maker,file",
    [
        (cub200, "images.txt"),
        (cub200, "image_class_labels.txt"),
        (cars196_devkit, "devkit/cars_meta.mat"),
        (cars196_devkit, "devkit/cars_train_annos.mat"),
        (cars196_devkit, "cars_test_annos_withlabels.mat"),
        (sop, "Ebay_train.txt"),
        (sop, "Ebay_test.txt"),
        (inshop, "Eval/list_eval_partition.txt"),
    ],
)
class TestLists:
    def test_a_missing_list_is_named(self, maker, file, root):
        maker(root)
        (root / file).unlink()
        with pytest.raises(DataError, match=file.split("/")[-1]):
            layouts.read(layout_of(maker), root)

    def test_a_garbled_list_is_refused(self, maker, file, root):
        maker(root)
        (root / file).write_bytes(b"\xff\x00 some\nthing else entirely\n\n1 2 3 4 5\n")
        with pytest.raises(DataError):
            layouts.read(layout_of(maker), root)


def test_words_in_place_of_numbers_are_refused(root):
    cub200(root)
    path = root / "image_class_labels.txt"
    path.write_text(path.read_text().replace("3 100", "3 hundred"))
    with pytest.raises(DataError, match="not those of cub200.*hundred"):
        layouts.read("cub200", root)


def test_an_image_without_a_label_is_named(root):
    cub200(root)
    path = root / "image_class_labels.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="lacks image 8"):
        layouts.cub200(root)


@pytest.mark.parametrize("dataset", sorted(layouts.LAYOUTS))
def test_an_empty_folder_is_refused_by_every_layout(dataset, root, tmp_path):
    with pytest.raises(DataError, match=str(root)):
        entries = layouts.read(dataset, root)
        builders.write(entries, root, name="made", data_dir=tmp_path)


def leftovers(path):
    """What is in a data directory beside the extracted collection."""
    return sorted(each.name for each in path.iterdir() if each.name != "extracted")


def test_a_missing_image_is_named_before_anything_is_written(root, tmp_path):
    folder(root)
    entries = layouts.folder(root)
    (root / "b" / "1.png").unlink()
    (root / "c" / "0.png").unlink()
    with pytest.raises(DataError, match=r"no file .*b/1.png \(2 of 8 images"):
        builders.write(entries, root, name="made", data_dir=tmp_path)
    assert leftovers(tmp_path) == []


def test_a_file_that_is_no_image_leaves_nothing_that_looks_whole(root, tmp_path):
    folder(root)
    (root / "d" / "1.png").write_text("text")
    with pytest.raises(DataError, match="d/1.png: not an image"):
        builders.write(layouts.folder(root), root, name="made", data_dir=tmp_path)
    assert leftovers(tmp_path) == []


def test_an_interruption_leaves_nothing_that_looks_whole(root, tmp_path, monkeypatch):
    folder(root)
    real, calls = builders._encode, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(builders, "_encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        builders.write(layouts.folder(root), root, name="made", data_dir=tmp_path)
    assert leftovers(tmp_path) == []


def test_a_failed_overwrite_keeps_what_was_there(root, tmp_path):
    folder(root)
    entries = layouts.folder(root)
    builders.write(entries, root, name="made", data_dir=tmp_path)
    with pytest.raises(DataError, match="--overwrite replaces it"):
        builders.write(entries, root, name="made", data_dir=tmp_path)
    (root / "a" / "0.png").write_text("text")
    with pytest.raises(DataError, match="a/0.png"):
        builders.write(entries, root, name="made", data_dir=tmp_path, overwrite=True)
    source = sources.load("made", "train", data_dir=str(tmp_path), image_size=4)
    assert len(source) == 4
    assert leftovers(tmp_path) == ["made"]


def test_overwriting_replaces_what_was_there(root, tmp_path):
    folder(root)
    builders.write(layouts.folder(root), root, name="made", data_dir=tmp_path)
    entries = layouts.folder(root, test_fraction=0.25)
    builders.write(entries, root, name="made", data_dir=tmp_path, overwrite=True)
    source = sources.load("made", "train", data_dir=str(tmp_path), image_size=4)
    assert len(source) == 6
    assert leftovers(tmp_path) == ["made"]


def test_a_class_on_both_sides_is_refused(root, tmp_path):
    folder(root)
    entries = layouts.folder(root)
    entries[0] = entries[0]._replace(split="test")
    with pytest.raises(DataError, match="class 'a' is in both"):
        builders.write(entries, root, name="made", data_dir=tmp_path)


def test_a_file_listed_twice_is_refused(root, tmp_path):
    folder(root)
    entries = layouts.folder(root)
    with pytest.raises(DataError, match="a/0.png is listed 2 times"):
        builders.write([*entries, entries[0]], root, name="made", data_dir=tmp_path)
