"""Images in an .npz file: what is read, and how everything else is refused."""

import io
import zipfile

import numpy as np
import pytest

from jaxfaces.data import npz, sources
from jaxfaces.data.errors import DataError

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (6, 5, 4, 3), np.uint8)
GOOD = {
    "image": IMAGE,
    "label": np.array([0, 2, 1, 1, 0, 2], np.int16),
    "class_names": np.array(["ash", "birch", "cedar"]),
    "split": np.array(["train", "test", "train", "test", "train", "train"]),
}


@pytest.fixture
def write(tmp_path):
    def write(save=np.savez, **changes):
        arrays = {k: v for k, v in (GOOD | changes).items() if v is not None}
        save(tmp_path / "x.npz", **arrays)
        return tmp_path / "x.npz"

    return write


def load(path, split="all", **options):
    return sources.load(f"npz:{path}", split, **options)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("limit", [1 << 20, 1000], ids=["in-memory", "batchwise"])
def test_all_rows_are_read_as_they_are(write, save, limit):
    source = load(write(save), memory_limit=limit)
    np.testing.assert_array_equal(source.read(np.arange(6))["image"], IMAGE)
    assert source.labels.tolist() == GOOD["label"].tolist()
    assert source.labels.dtype == np.int32
    assert source.names == ("ash", "birch", "cedar")


def test_a_split_is_the_rows_that_name_it(write):
    train, test = (load(write(), split) for split in ("train", "test"))
    np.testing.assert_array_equal(train.pixels(np.arange(4)), IMAGE[[0, 2, 4, 5]])
    assert test.labels.tolist() == [2, 1]
    with pytest.raises(DataError, match="no split 'val', only test, train"):
        load(write(), "val")
    with pytest.raises(DataError, match="no array 'split'.*'all'"):
        load(write(split=None), "train")


def test_a_file_says_whether_it_is_divided(write, tmp_path):
    assert npz.is_divided(write(), 1 << 20)
    assert not npz.is_divided(write(split=None), 1 << 20)
    assert not npz.is_divided(tmp_path / "nothing.npz", 1 << 20)


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5, 4, 1), (6, 5, 4, 3), (6, 5, 4, 4)])
@pytest.mark.parametrize("grey", [False, True])
def test_grey_colour_and_opacity_give_the_channels_asked_for(write, shape, grey):
    image = RNG.integers(0, 256, shape, np.uint8)
    pixels = load(write(image=image), grey=grey).read(np.arange(6))["image"]
    assert pixels.shape == (6, 5, 4, 1 if grey else 3)
    if grey and len(shape) == 3:
        np.testing.assert_array_equal(pixels[..., 0], image)


def test_names_may_be_left_out(write):
    source = load(write(class_names=None))
    assert source.names is None
    assert source.classes == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": None}, "no array 'image', only class_names, label, split"),
        ({"label": None}, "no array 'label'"),
        ({"image": IMAGE.astype(float)}, "'image' is .* float64, must be .* uint8"),
        ({"image": IMAGE[..., :2]}, r"'image' is \(6, 5, 4, 2\)"),
        ({"image": IMAGE[0, 0]}, r"'image' is \(4, 3\)"),
        ({"image": np.uint8(3)}, r"'image' is \(\)"),
        ({"image": IMAGE[:, :0]}, r"'image' is \(6, 0, 4, 3\)"),
        ({"image": IMAGE[:0], "label": GOOD["label"][:0]}, "no images|'split'"),
        ({"image": IMAGE[:4]}, r"'label' is \(6,\) int16, must be \(4,\)"),
        ({"label": GOOD["label"] * 1.0}, "'label' is .* float64"),
        ({"label": np.array(list("abcdef"))}, "'label' is .* must be .* integers"),
        ({"class_names": np.arange(3)}, "'class_names' is .* must be .* text"),
        ({"class_names": np.array("ash")}, r"'class_names' is \(\)"),
    ],
)
def test_other_arrays_are_refused_by_name(write, changes, words):
    path = write(**changes)
    for mode in sources.ON_BAD_EXAMPLE:
        with pytest.raises(DataError, match=rf"{path}.*({words})"):
            load(path, on_bad_example=mode)


@pytest.mark.parametrize("split", [np.arange(6), np.array(["train"])])
def test_a_division_of_another_form_is_refused(write, split):
    with pytest.raises(DataError, match="'split' is"):
        load(write(split=split), "train")


@pytest.mark.parametrize("limit", [1 << 20, 1000], ids=["in-memory", "batchwise"])
@pytest.mark.parametrize("bad", [-1, 3, 2**31, -(2**63)])
def test_a_label_out_of_range_is_named_by_its_row_or_left_out(write, bad, limit):
    label = GOOD["label"].astype(np.int64)
    label[4] = bad
    path = write(label=label)
    with pytest.raises(
        DataError, match=f"row 4 of {path}: the label {bad} is not in 0"
    ):
        load(path, memory_limit=limit)
    source = load(path, memory_limit=limit, on_bad_example="skip")
    assert (len(source), source.skipped) == (5, 1)
    np.testing.assert_array_equal(source.pixels(np.arange(5)), IMAGE[[0, 1, 2, 3, 5]])


@pytest.mark.parametrize("keep", [0, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_named(write, keep):
    path = write()
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match=f"{path}: "):
        load(path)


def test_flipped_bytes_raise_nothing_but_data_errors(write):
    path = write()
    whole = path.read_bytes()
    outcomes = set()
    for _ in range(200):
        data = bytearray(whole)
        for place in RNG.integers(0, len(data), 3):
            data[place] ^= 0xFF
        path.write_bytes(bytes(data))
        try:
            load(path)
            outcomes.add("good")
        except DataError as error:
            assert str(path) in str(error)
            outcomes.add("bad")
    assert "bad" in outcomes


def test_missing_files_and_folders_are_named(tmp_path):
    for path in (tmp_path / "x.npz", tmp_path):
        with pytest.raises(DataError, match=f"there is no file {path}"):
            load(path)


def test_what_is_read_is_what_was_looked_at(write):
    """numpy gives a member without suffix before the one that has it."""
    path = write()
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("image", member((1 << 40, 1, 1), data=bytes(100)))
    np.testing.assert_array_equal(load(path).pixels(np.arange(6)), IMAGE)


def member(shape, descr="|u1", data=b""):
    stream = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + data


@pytest.mark.parametrize(
    "shape", [(1 << 20, 1 << 10, 1 << 10, 3), (1 << 62, 1 << 62, 3), (1 << 40, 0, 3)]
)
def test_a_bomb_is_refused_by_its_header(tmp_path, shape):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("image.npy", member(shape, data=bytes(1 << 20)))
        file.writestr("label.npy", member((1,)))
    with pytest.raises(DataError, match="bytes of arrays, at most"):
        load(path)
