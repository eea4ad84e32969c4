"""Embeddings of files, written and read: no network, no images needed."""

import csv
import io
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxfaces.data import images, sources
from jaxfaces.data.errors import DataError
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.task import Predicted
from jaxfaces.tasks import image_files, retrieval_files
from jaxfaces.tasks.image_data import ImageData

DATA = ImageData(image_size=8)


class TestGallery:
    """What `load` makes of files that anybody may have written."""

    GOOD = {"embeddings": np.eye(2), "files": np.array(["a.png", "b.png"])}

    def test_its_images_are_found_from_another_folder(self, tmp_path, monkeypatch):
        (tmp_path / "here").mkdir()
        (tmp_path / "there").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        pixels = np.full((8, 8, 3), 90, np.uint8)
        Image.fromarray(pixels).save("a.png")
        Image.fromarray(pixels).save(tmp_path / "b.png")
        names = ["a.png", str(tmp_path / "b.png")]
        for format in ("npz", "parquet"):
            folder = tmp_path / format
            folder.mkdir()
            retrieval_files.write(predicted(np.eye(2), names), folder, format=format)
        monkeypatch.chdir(tmp_path / "there")
        for format in ("npz", "parquet"):
            found = retrieval_files.load(tmp_path / format, DATA)
            assert found.names == names
            for row in (0, 1):
                batch = found.read(np.array([row]))
                np.testing.assert_array_equal(batch["image"], pixels[None])

    @pytest.mark.parametrize("name", ["a.csv", "a", "a.npy", "a.NPZ"])
    def test_other_files_are_refused(self, tmp_path, name):
        np.savez(tmp_path / "a.npz", **self.GOOD)
        (tmp_path / "a.npz").rename(tmp_path / name)
        with pytest.raises(DataError, match=r"file in \.npz or \.parquet"):
            retrieval_files.load(tmp_path / name, DATA)

    def test_a_bomb_is_refused_by_its_header(self, tmp_path):
        stream = io.BytesIO()
        header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 512)}
        np.lib.format.write_array_header_1_0(stream, header)
        np.savez(tmp_path / "a.npz", files=self.GOOD["files"])
        with zipfile.ZipFile(tmp_path / "a.npz", "a") as file:
            file.writestr("embeddings.npy", stream.getvalue())
        with pytest.raises(DataError, match="bytes of arrays, at most"):
            retrieval_files.load(tmp_path / "a.npz", DATA)

    def test_a_table_too_large_is_refused_by_its_description(
        self, tmp_path, monkeypatch
    ):
        retrieval_files.write(predicted(np.eye(2)), tmp_path, format="parquet")
        monkeypatch.setattr(sources, "MEMORY_LIMIT", 40)
        with pytest.raises(DataError, match="bytes, at most 40 are read"):
            retrieval_files.load(tmp_path, DATA)

    @pytest.mark.parametrize(
        "changes",
        [
            {"files": np.arange(2)},
            {"files": np.array([["a", "b"]])},
            {"files": np.array("a")},
            {"files": np.array([b"a", b"b"])},
            {"embeddings": np.ones(2)},
            {"embeddings": np.array([["x"], ["y"]])},
            {"embeddings": np.ones((0, 2)), "files": np.array([], np.str_)},
        ],
    )
    def test_other_arrays_are_refused(self, tmp_path, changes):
        np.savez(tmp_path / "a.npz", **{**self.GOOD, **changes})
        with pytest.raises(DataError, match="a.npz cannot be read"):
            retrieval_files.load(tmp_path / "a.npz", DATA)


def gone(rows):
    raise DataError("no such file")


def predicted(outputs, names=None, read=gone, model="m"):
    outputs = np.asarray(outputs, np.float32)
    names = names or [f"{n}.png" for n in range(len(outputs))]
    return Predicted(names, outputs, read, model)


@pytest.mark.parametrize("format", ["npz", "parquet"])
def test_what_is_written_is_read_again_at_unit_length(tmp_path, format):
    names = ["a,b", 'c "d"', "e\nf\rg", "ü" * 99, "caf\\xe9"]
    outputs = np.random.default_rng(0).normal(size=(5, 3))
    retrieval_files.write(predicted(outputs, names), tmp_path, format=format)
    for place in (tmp_path, tmp_path / f"embeddings.{format}"):
        found = retrieval_files.load(place, DATA)
        assert (found.names, found.model) == (names, "m")
        assert found.outputs.dtype == np.float32
        unit = outputs / np.linalg.norm(outputs, axis=1, keepdims=True)
        np.testing.assert_allclose(found.outputs, unit, atol=1e-6)


def test_a_table_survives_any_name(tmp_path):
    names = ["a,b", 'c "d"', "e\nf\rg", "ü", " "]
    retrieval_files.write(predicted(np.eye(5), names), tmp_path, neighbours=4)
    with open(tmp_path / "neighbours.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert [row[0] for row in rows] == list(np.repeat(names, 4))
    for n, name in enumerate(names):
        # All are equally near: the first in order come first.
        assert [row[2] for row in rows[4 * n : 4 * n + 4]] == [
            other for other in names if other != name
        ]


def test_neighbours_by_hand(tmp_path):
    # Angles of 0, 30 and 90 degrees.
    points = [[2, 0], [3**0.5, 1], [0, 7]]
    retrieval_files.write(predicted(points), tmp_path, neighbours=1)
    assert (tmp_path / "neighbours.csv").read_text().splitlines() == [
        "query,rank,neighbour,similarity",
        "0.png,1,1.png,0.866025",
        "1.png,1,0.png,0.866025",
        "2.png,1,1.png,0.500000",
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_that_diverged_is_named(tmp_path, value):
    with pytest.raises(RunError, match=r"1\.png is not finite .*1 in 2.*diverged"):
        retrieval_files.write(predicted([[1, 0], [value, 0]]), tmp_path)
    assert not os.listdir(tmp_path)


def test_a_picture_is_white_where_a_file_is_gone(tmp_path):
    def read(rows):
        if rows[0] == 1:
            raise DataError("no such file")
        return {"image": np.zeros((1, 8, 8, 3), np.uint8)}

    retrieval_files.write(predicted(np.eye(3), read=read), tmp_path, neighbours=2)
    with Image.open(tmp_path / "neighbours.png") as sheet:
        pixels = np.asarray(sheet.convert("L"))
    cell = 96 * 96
    assert 6 * cell <= (pixels == 0).sum() < 7 * cell
    # None left at all: still a picture.
    retrieval_files.write(predicted(np.eye(3)), tmp_path, neighbours=2)
    with Image.open(tmp_path / "neighbours.png") as sheet:
        assert (np.asarray(sheet.convert("L")) == 0).sum() == 0


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    paths = [tmp_path / "pipe.png"]
    stream = image_files.stream(DATA, paths, 4, images.MAX_PIXELS)
    with pytest.raises(DataError, match="no such file"):
        stream.read(np.array([0]))


def test_images_are_fitted_as_the_flags_say(tmp_path):
    image = Image.new("RGB", (30, 10), "white")
    image.paste((200, 0, 0), (0, 0, 15, 10))
    image.save(tmp_path / "a.png")
    paths = [tmp_path / "a.png"]
    for data in (DATA, ImageData(image_size=8, fit="pad", grey=True, trim_white=True)):
        stream = image_files.stream(data, paths, 4, images.MAX_PIXELS)
        wanted = images.load(
            paths[0], size=8, how=data.fit, trim=data.trim_white, grey=data.grey
        )
        np.testing.assert_array_equal(stream.read(np.array([0]))["image"], [wanted])
    stream = image_files.stream(DATA, paths, 4, 299)
    with pytest.raises(DataError, match="30 x 10 pixels"):
        stream.read(np.array([0]))
