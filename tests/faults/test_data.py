"""Damaged data: named by file and number, or left out and counted."""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxfaces import train
from jaxfaces.data import builders, layouts, sources
from jaxfaces.data.errors import DataError
from jaxfaces.engine import reader
from jaxfaces.engine.options import Options
from jaxfaces.tasks.image_data import ImageData
from jaxfaces.tasks.retrieval import Retrieval

CLASSES, EACH, SHARDS = 4, 10, 4
TINY = [
    "--task=retrieval",
    "--image_size=16",
    "--steps=2",
    "--devices=1",
    "--width=4",
    "--embedding_size=8",
    "--classes_per_batch=2",
    "--images_per_class=2",
    "--eval_every=2",
    "--noclustering",
    "--validation_fraction=0.25",
]


def png(seed, shape=(16, 16, 3)):
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def store(root, labels, feature="class", image=png):
    """Writes the TFDS set `marks` in four shards of each split."""
    import tensorflow_datasets as tfds

    features = {
        "class": lambda: tfds.features.ClassLabel(names=list("abcd")),
        "int": lambda: tfds.features.Scalar(dtype=np.int64),
        "float": lambda: tfds.features.Scalar(dtype=np.float32),
        "text": lambda: tfds.features.Text(),
        "vector": lambda: tfds.features.Tensor(shape=(2,), dtype=np.int64),
    }

    class Marks(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Noise."""

        name = "marks"
        VERSION = tfds.core.Version("1.0.0")
        url_infos = None

        def _info(self):
            table = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": features[feature](),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description="Noise.",
                features=tfds.features.FeaturesDict(table),
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples() for split in ("train", "test")}

        def _generate_examples(self):
            for i, label in enumerate(labels):
                yield i, {"image": image(i), "label": label}

    builder = Marks(data_dir=str(root), file_format="array_record")
    config = tfds.download.DownloadConfig(num_shards=SHARDS)
    builder.download_and_prepare(download_config=config)
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    labels = [i % CLASSES for i in range(CLASSES * EACH)]
    return store(tmp_path_factory.mktemp("whole"), labels)


@pytest.fixture
def marks(whole, tmp_path):
    """A copy of a whole set to damage: its version's folder."""
    shutil.copytree(whole / "marks", tmp_path / "data" / "marks")
    return tmp_path / "data" / "marks" / "1.0.0"


def load(folder, split="train", **options):
    root = str(folder.parent.parent)
    return sources.load("marks", split, data_dir=root, image_size=8, **options)


def shard(folder, i=1):
    return sorted(folder.glob("*-train.*"))[i]


def cut(path, keep):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


SHARD_DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "short": lambda path: cut(path, 0.1),
    "half": lambda path: cut(path, 0.5),
    "nearly whole": lambda path: cut(path, 0.99),
    "foreign": lambda path: path.write_bytes(png(0, (200, 200, 3))),
    "text": lambda path: path.write_text("hello"),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("limit", [0, 1 << 30], ids=["batchwise", "in-memory"])
@pytest.mark.parametrize("damage", SHARD_DAMAGE)
def test_a_bad_shard_is_named_or_its_records_left_out(marks, damage, limit):
    path = shard(marks)
    SHARD_DAMAGE[damage](path)
    with pytest.raises(
        DataError, match=rf"record 10 of marks/1.0.0 train.*{path.name}"
    ):
        load(marks, memory_limit=limit)
    source = load(marks, memory_limit=limit, on_bad_example="skip")
    assert (len(source), source.skipped) == (30, 10)
    assert len(source.read(np.arange(30))["image"]) == 30


@pytest.mark.parametrize("limit", [0, 1 << 30], ids=["batchwise", "in-memory"])
def test_a_damaged_record_is_named_by_number_and_shard_or_left_out(marks, limit):
    path = shard(marks, 2)
    data = bytearray(path.read_bytes())
    place = data.index(b"\x89PNG", data.index(b"\x89PNG") + 4) + 60
    data[place : place + 40] = bytes(40)  # the second record of the shard
    path.write_bytes(bytes(data))
    message = rf"record 21 of marks/1.0.0 train \({path.name}, record 1\): cannot"
    with pytest.raises(DataError, match=message):
        load(marks, memory_limit=limit)
    source = load(marks, memory_limit=limit, on_bad_example="skip")
    assert (len(source), source.skipped) == (39, 1)


def test_flipped_bytes_anywhere_in_a_shard_raise_nothing_but_data_errors(marks):
    path = shard(marks)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(25):
        data = bytearray(good)
        for place in rng.integers(0, len(data), 30):
            data[place] ^= 0xFF
        path.write_bytes(bytes(data))
        try:
            source = load(marks, on_bad_example="skip")
            assert len(source) + source.skipped == 40
        except DataError as error:
            assert path.name in str(error)


def test_a_slice_names_the_record_as_the_shard_numbers_it(marks):
    shard(marks, 1).unlink()
    assert len(load(marks, "train[:10]")) == 10
    with pytest.raises(
        DataError, match=r"record 0 .*train\[15:\] \(.*-00001-.*record 5"
    ):
        load(marks, "train[15:]")


JSON_DAMAGE = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "binary": lambda data: bytes(range(256)),
    "list": lambda data: b"[]",
    "null": lambda data: b"null",
    "number": lambda data: b"3",
    "deep": lambda data: b"[" * 100_000,
}


@pytest.mark.parametrize("damage", JSON_DAMAGE)
@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_damaged_descriptions_are_one_error_that_names_the_folder(marks, file, damage):
    path = marks / file
    path.write_bytes(JSON_DAMAGE[damage](path.read_bytes()))
    for mode in sources.ON_BAD_EXAMPLE:
        with pytest.raises(DataError, match=r"marks/1\.0\.0"):
            load(marks, on_bad_example=mode)


@pytest.mark.parametrize("claimed", ["9", "11", "-10", "100000000000"])
def test_shard_lengths_that_are_not_true_are_refused(marks, claimed):
    path = marks / "dataset_info.json"
    path.write_text(path.read_text().replace('"10"', f'"{claimed}"', 1))
    for mode in sources.ON_BAD_EXAMPLE:
        with pytest.raises(DataError, match="holds 10 records.*says|lengths.*damaged"):
            load(marks, on_bad_example=mode)


KNOWN = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"
EVIL = "evil_feature.ClassLabel"
WAYS = {
    "newer": lambda text: text.replace(KNOWN, EVIL),
    "as the protocol spells it": lambda text: text.replace(KNOWN, EVIL).replace(
        "pythonClassName", "python_class_name"
    ),
    "older, which TFDS prefers": lambda text: json.dumps(
        {"type": EVIL, "content": {}} | json.loads(text)
    ),
    "older, as text": lambda text: json.dumps(
        {
            "type": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
            "proto_cls": "tensorflow_datasets.FeaturesDict",
            "content": json.dumps(
                json.loads(text.replace(KNOWN, EVIL))["featuresDict"]
            ),
        }
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_feature_that_is_not_of_tfds_is_refused_and_not_imported(
    marks, tmp_path, monkeypatch, way
):
    (tmp_path / "evil_feature.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    path = marks / "features.json"
    assert KNOWN in path.read_text()
    path.write_text(WAYS[way](path.read_text()))
    with pytest.raises(DataError, match="evil_feature.ClassLabel, no feature of TFDS"):
        load(marks)


@pytest.mark.parametrize(
    ("feature", "bad", "words"),
    [
        ("class", 4, "the label 4 is not in 0 … 3"),
        ("class", -1, "the label -1 is not in 0 … 3"),
        ("int", -1, "the label -1 is not in 0 … 2147483647"),
        ("int", 2**31, "the label 2147483648 is not in"),
        ("int", -(2**63), "is not in"),
    ],
)
def test_a_label_out_of_range_is_named_or_left_out(tmp_path, feature, bad, words):
    labels = [0, 1, 2, 3] * 2
    import tensorflow_datasets as tfds

    # A ClassLabel checks what is written: written as a number, then described anew.
    store(tmp_path, [*labels, bad], "int")
    folder = tmp_path / "marks" / "1.0.0"
    if feature == "class":
        table = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=list("abcd")),
            }
        )
        table.save_config(str(folder))
    for limit in (0, 1 << 30):
        with pytest.raises(DataError, match=rf"record \d of marks.*{words}.*skip"):
            load(folder, memory_limit=limit)
        source = load(folder, on_bad_example="skip", memory_limit=limit)
        assert (len(source), source.skipped) == (8, 1)
        assert sorted(source.labels) == sorted(labels)


@pytest.mark.parametrize(
    ("feature", "labels"),
    [
        ("float", [float("nan"), 1.5] * 2),
        ("text", ["one", "two"] * 2),
        ("vector", [[1, 2], [3, 4]] * 2),
    ],
)
def test_labels_that_are_no_whole_numbers_are_refused(tmp_path, feature, labels):
    store(tmp_path, labels, feature)
    folder = tmp_path / "marks" / "1.0.0"
    with pytest.raises(DataError, match="the label .* is no whole number"):
        load(folder)
    with pytest.raises(DataError, match="none of the 4.*is no whole number"):
        load(folder, on_bad_example="skip")


# An image folder of eight classes of eight images.


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "folder"
    for c in range(8):
        (root / f"c{c}").mkdir(parents=True)
        for i in range(8):
            (root / f"c{c}" / f"{i}.png").write_bytes(png(8 * c + i))
    return root


def command(*words):
    """Runs the command, and checks that an error is one line and no traceback."""
    return train.main([*TINY, *map(str, words)])


def one_line(capsys, *parts):
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1, captured.err
    for part in parts:
        assert part in captured.err


BAD_FILES = {
    "cut": lambda path: cut(path, 0.5),
    "flipped": lambda path: path.write_bytes(
        path.read_bytes()[:60] + bytes(300) + path.read_bytes()[360:]
    ),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "postscript": lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n"),
    "tiff": lambda path: Image.new("RGB", (16, 16)).save(path, "TIFF"),
    "icon": lambda path: Image.new("RGB", (16, 16)).save(path, "ICO"),
    "pdf": lambda path: Image.new("RGB", (16, 16)).save(path, "PDF"),
    "photoshop": lambda path: path.write_bytes(b"8BPS\0\1" + bytes(100)),
    "huge": lambda path: path.write_bytes(header(60_000, 60_000)),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "dangling": lambda path: (path.unlink(), path.symlink_to("nowhere")),
}


def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def header(width, height, *chunks):
    """A PNG of a few bytes that claims to be of any size."""
    start = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", start) + b"".join(chunks) + body


@pytest.mark.parametrize("damage", BAD_FILES)
def test_a_bad_image_file_stops_the_command_with_one_line(
    folder, tmp_path, capsys, damage
):
    path = folder / "c0" / "3.png"
    BAD_FILES[damage](path)
    code = command(f"--dataset=folder:{folder}", f"--workdir={tmp_path / 'run'}")
    assert code == 1
    one_line(capsys, str(path), "--on_bad_example=skip")


def test_skipped_examples_are_counted_by_stream_in_greeting_closing_and_summary(
    folder, tmp_path, capsys
):
    # By class: c0 … c2 train, c3 validation, c4 … c7 test.
    places = ["c0/0", "c1/7", "c2/0", "c3/0", "c7/7", "c4/0"]
    for place, damage in zip(places, BAD_FILES):
        BAD_FILES[damage](folder / f"{place}.png")
    run = tmp_path / "run"
    words = [f"--dataset=folder:{folder}", f"--workdir={run}", "--test"]
    assert command(*words, "--on_bad_example=skip") == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["skipped_examples"] == {"train": 3, "validation": 1, "test": 2}
    out = capsys.readouterr().out
    assert "train: 21 examples of 3 classes (3 bad left out)" in out
    assert "3 bad examples left out" in out


def test_an_unharmed_run_counts_nothing(folder, tmp_path):
    run = tmp_path / "run"
    assert command(f"--dataset=folder:{folder}", f"--workdir={run}") == 0
    assert json.loads((run / "summary.json").read_text())["skipped_examples"] == {}


def test_if_all_are_bad_there_is_one_line(folder, tmp_path, capsys):
    for path in folder.glob("*/*.png"):
        path.write_text("text")
    words = [f"--dataset=folder:{folder}", f"--workdir={tmp_path / 'run'}"]
    assert command(*words, "--on_bad_example=skip") == 1
    one_line(capsys, "none of the 64 images can be decoded", "c7/7.png")


@pytest.mark.parametrize("empty", ["nothing", "classes", "foreign files"])
def test_a_folder_without_images_is_one_line(tmp_path, capsys, empty):
    root = tmp_path / "empty"
    root.mkdir()
    if empty != "nothing":
        (root / "a").mkdir()
    if empty == "foreign files":
        (root / "a" / "x.txt").write_text("x")
    code = command(f"--dataset=folder:{root}", f"--workdir={tmp_path / 'run'}")
    assert code == 1
    one_line(capsys, "there are no images in", str(root))


def test_an_image_of_another_size_is_named_in_both_modes(folder, tmp_path):
    (folder / "c2" / "5.png").write_bytes(png(0, (16, 17, 3)))
    for mode in sources.ON_BAD_EXAMPLE:
        with pytest.raises(DataError, match="c2/5.png is .*--image_size"):
            sources.load(f"folder:{folder}", "all", on_bad_example=mode)
    with pytest.raises(DataError, match="c2/5.png is .*--image_size"):
        sources.load(f"folder:{folder}", "all", on_bad_example="skip", memory_limit=0)


def test_a_sixteen_bit_image_is_good(folder):
    deep = np.full((16, 16), 128 * 257, np.uint16)
    Image.fromarray(deep).save(folder / "c0" / "0.png")
    source = sources.load(f"folder:{folder}", "all")
    assert (source.read(np.array([0]))["image"] == 128).all()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("mode", sources.ON_BAD_EXAMPLE)
def test_what_goes_bad_while_the_run_reads_on_demand_is_named(folder, mode, workers):
    """Beyond the memory limit; `skip` cannot leave out what was good at the start."""
    source = sources.load(
        f"folder:{folder}", "all", on_bad_example=mode, memory_limit=0
    )
    stream = Retrieval(data=ImageData(), eval_batch_size=8)._ordered(source)
    (folder / "c3" / "2.png").write_text("text")
    sweep = reader.Sweep(stream, Options(workers=workers))
    advice = "skip leaves" if mode == "error" else "was good when the data set was"
    with pytest.raises(Exception, match=f"c3/2.png: not an image.*{advice}") as caught:
        list(sweep)
    assert isinstance(caught.value, ValueError | RuntimeError)


def test_subsets_share_the_count_without_loss(folder):
    for place in ("c0/0", "c0/1", "c4/3", "c7/7"):
        (folder / f"{place}.png").write_text("text")
    source = sources.load(f"folder:{folder}", "all", on_bad_example="skip")
    assert source.skipped == 4
    first = sources.subset(source, np.flatnonzero(source.labels < 4))
    rest = sources.subset(source, np.flatnonzero(source.labels >= 4))
    assert (first.skipped, rest.skipped) == (2, 2)
    halves = [sources.subset(source, np.arange(i, 60, 2)) for i in (0, 1)]
    assert sum(half.skipped for half in halves) == 4
    assert sources.relabel(rest).skipped == 2


def test_losses_are_counted_where_their_neighbours_went(folder):
    """Of seven images that are left of a class the first and the last are held out."""

    def skipped(place):
        bad = [path / place for path in folder.iterdir()]
        whole = bad[0].read_bytes()
        for path in bad:
            path.write_text("text")
        data = ImageData(
            dataset=f"folder:{folder}",
            validation_by="image",
            validation_fraction=0.25,
            on_bad_example="skip",
            image_size=8 + int(place[0]),  # another set for the cache
        )
        counts = [data.split(name).skipped for name in ("train", "validation")]
        for path in bad:
            path.write_bytes(whole)
        return counts

    # Four of the eight classes are to train on.
    assert skipped("3.png") == [4, 0]
    assert skipped("0.png") == [0, 4]
    assert skipped("7.png") == [0, 4]


def test_one_wild_label_costs_no_memory(folder, tmp_path):
    entries = [
        layouts.Entry("train", "c0/0.png", 2**31 - 1, "far"),
        layouts.Entry("train", "c0/1.png", 3, "near"),
        layouts.Entry("test", "c0/2.png", 4, "other"),
    ]
    builders.write(entries, folder, name="wild", data_dir=tmp_path)
    source = sources.load("wild", "train", data_dir=str(tmp_path), image_size=8)
    assert source.names == {2**31 - 1: "far", 3: "near"}
    assert sources.relabel(source).names == ("near", "far")


def test_a_class_that_is_bad_altogether_is_still_counted(folder):
    for path in (folder / "c0").glob("*.png"):
        path.write_text("text")
    source = sources.load(f"folder:{folder}", "all", on_bad_example="skip")
    assert source.skipped == 8
    assert set(source.labels) == set(range(1, 8))


# Bombs, decoded by a process of their own whose memory and time are limited.


def bombs():
    packer, row = zlib.compressobj(), bytes(3 * 10_000 + 1)
    rows = b"".join(packer.compress(row) for _ in range(10_000)) + packer.flush()
    start = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    yield (
        "png",
        (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", start)
            + chunk(b"IDAT", rows)
            + chunk(b"IEND", b"")
        ),
    )
    yield "png header", header(2**31 - 1, 2**31 - 1)
    yield "png thin", header(2**31 - 1, 1)
    text = b"Comment\0\0" + zlib.compress(bytes(100_000_000))
    yield "png text", header(16, 16, chunk(b"zTXt", text))
    yield (
        "png texts",
        header(
            16, 16, *[chunk(b"zTXt", b"C\0\0" + zlib.compress(bytes(900_000)))] * 200
        ),
    )
    yield "png profile", header(16, 16, chunk(b"iCCP", text))
    yield "gif", b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b";"
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02L\x01\0"
    small = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0x80, 0, 0) + bytes(6)
    yield "gif frame", small + frame + b";"
    many = (
        b"," + struct.pack("<HHHHB", 0, 0, 4, 4, 0) + b"\x02\x05\x84\x8f\xa9\xcb\x5d\0"
    )
    yield "gif frames", small + many * 300_000 + b";"
    yield (
        "bmp",
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack(
            "<IiiHHIIiiII", 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0
        ),
    )
    yield "ppm", b"P6 99999999 99999999 255\n" + bytes(100)
    yield "ppm digits", b"P6 " + b"9" * 1_000_000 + b" 9 255\n"
    frames = [Image.new("RGB", (8, 8), (i % 256, 0, i // 256)) for i in range(2000)]
    stream = io.BytesIO()
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])
    yield "webp frames", stream.getvalue()
    canvas = bytearray(stream.getvalue())
    canvas[24:30] = (16382).to_bytes(3, "little") * 2
    yield "webp canvas", bytes(canvas)
    stream = io.BytesIO()
    Image.new("L", (16, 16)).save(stream, "JPEG")
    jpeg = bytearray(stream.getvalue())
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = b"\xff\xff\xff\xff"
    yield "jpeg", bytes(jpeg)
    stream = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(stream, "JPEG", progressive=True)
    whole = stream.getvalue()
    last = whole[whole.rindex(b"\xff\xda") : -2]
    yield "jpeg scans", whole[:-2] + last * 20_000 + whole[-2:]


DECODE = """
import resource, sys, time
from pathlib import Path
from jaxfaces.data import images
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
for path in sorted(Path(sys.argv[1]).iterdir()):
    begun = time.process_time()
    try:
        outcome = str(images.decode(path).size)
    except images.ImageError as error:
        outcome = str(error)
    spent = time.process_time() - begun
    peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    print(path.stem, round(spent, 2), peak, outcome[:300], sep="|")
"""


def test_bombs_cost_neither_memory_nor_time(tmp_path):
    for name, data in bombs():
        (tmp_path / f"{name}.png").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", DECODE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = [line.split("|") for line in done.stdout.splitlines()]
    assert {each[0] for each in found} == {path.stem for path in tmp_path.iterdir()}
    for name, seconds, peak, outcome in found:
        assert float(seconds) < 5, (name, seconds)
        assert int(peak) < 400 << 10, (name, peak)  # kilobytes
        refused = name not in ("gif frames", "webp frames")
        assert outcome.startswith("(") != refused, (name, outcome)
