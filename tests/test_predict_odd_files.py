"""A thousand damaged and odd files through predict: each is accounted for."""

import csv
import io
import os
import struct
import warnings
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

import jaxfaces
from jaxfaces import predict
from jaxfaces.data import images

FORMS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")


def encoded(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def png(width, height, depth, lines):
    """An RGB PNG whose header says what it is told to."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    content = chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + content


SIDE = 60_000
DOT = Image.new("RGB", (1, 1), "red")
BMP_HEADER = (154, 0, 54, 40, SIDE, SIDE, 1, 24, 0, 0, 0, 0, 0, 0)
BOMBS = {
    "png": png(SIDE, SIDE, 8, bytes(999)),
    "gif": b"GIF89a" + struct.pack("<HH", SIDE, SIDE) + encoded(DOT, "GIF")[10:],
    "bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", *BMP_HEADER) + bytes(99),
    "ppm": b"P6 60000 60000 255\n" + bytes(99),
}


def picture(rng, mode="RGB"):
    height, width = rng.integers(1, 40, 2)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def good_ones(rng):
    """Images that must be read, by file name."""
    for n in range(100):
        form = FORMS[n % 5]
        # The content counts, not the suffix.
        suffix = FORMS[n % 7 % 5].lower()
        yield f"good {n}.{suffix}", encoded(picture(rng), form)
    modes = {"PNG": ("1", "L", "P", "LA", "RGBA"), "JPEG": ("L", "CMYK")}
    for form, each in modes.items():
        for mode in each:
            yield f"mode {mode}.{form}", encoded(picture(rng, mode), form)
    wide = rng.integers(0, 65536, (9, 7), np.uint16)
    yield "sixteen.png", encoded(Image.fromarray(wide), "PNG")
    lines = b"".join(b"\0" + rng.bytes(4 * 3 * 2) for _ in range(5))
    yield "sixteen rgb.png", png(4, 5, 16, lines)
    yield "one.png", encoded(DOT, "PNG")
    yield "thin.png", encoded(Image.new("L", (5000, 1)), "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "turned.jpg", encoded(picture(rng), "JPEG", exif=exif)
    clear = picture(rng).quantize(8)
    yield "clear.png", encoded(clear, "PNG", transparency=0)
    for form in ("GIF", "WEBP", "PNG"):
        frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
        options = {"save_all": True, "append_images": frames[1:]}
        yield f"animated.{form.lower()}", encoded(frames[0], form, **options)


def bad_ones(rng):
    """Files that must be left out, by file name."""
    for suffix, data in BOMBS.items():
        yield f"bomb.{suffix}", data
    yield "empty.png", b""
    yield "float.ppm", b"Pf\n1 1\n-1.0\n" + struct.pack("<f", 0.5)
    yield "page.png", b"<html><body>404</body></html>"
    yield "photo.png", encoded(picture(rng), "TIFF")
    for n in range(100):
        yield f"noise {n}.{FORMS[n % 5].lower()}", rng.bytes(rng.integers(1, 400))
    for n in range(150):
        pixels = rng.integers(0, 256, (30, 30, 3), np.uint8)
        data = encoded(Image.fromarray(pixels), FORMS[n % 5])
        cut = int(len(data) * rng.uniform(0, 0.9))
        yield f"cut {n}.{FORMS[n % 5].lower()}", data[:cut]


def flipped_ones(rng):
    """Files that may or may not be read any more, by file name."""
    for n in range(620):
        data = bytearray(encoded(picture(rng), FORMS[n % 5]))
        for place in rng.integers(0, len(data), rng.integers(1, 9)):
            data[place] ^= 1 << rng.integers(8)
        yield f"flipped {n}.{FORMS[n % 5].lower()}", bytes(data)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """The folder, what its files hold, and the names by kind."""
    folder = tmp_path_factory.mktemp("odd") / "files"
    folder.mkdir()
    rng = np.random.default_rng(0)
    kinds = {
        "good": dict(good_ones(rng)),
        "bad": dict(bad_ones(rng)),
        "open": dict(flipped_ones(rng)),
    }
    for content in kinds.values():
        for name, data in content.items():
            (folder / name).write_bytes(data)
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "dangling.png").symlink_to("gone.png")
    (folder / "up").symlink_to(folder)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(kinds["good"]["one.png"])
    extra = "folder.png pipe.jpg loop.png dangling.png up notes.txt .hidden.png"
    kinds["bad"] |= dict.fromkeys(extra.split(), b"")
    return folder, kinds


@pytest.fixture(scope="module")
def predicted(odd, tiny_run):
    """The rows of files.csv by name, and the embeddings by name."""
    folder, _ = odd
    output = folder.parent / "out"
    words = [f"--workdir={tiny_run}", f"--output={output}", "--batch_size=64"]
    assert predict.main([*words, str(folder)]) == 0
    with open(output / "files.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["file"] for row in rows}) == len(rows)
    with np.load(output / "embeddings.npz", allow_pickle=False) as columns:
        vectors = dict(zip(columns["files"].tolist(), columns["embeddings"]))
    return {os.path.basename(row["file"]): row for row in rows}, {
        os.path.basename(name): vector for name, vector in vectors.items()
    }


def test_there_are_a_thousand_and_each_is_accounted_for(odd, predicted):
    folder, kinds = odd
    rows, vectors = predicted
    assert len(rows) >= 1000
    assert set(rows) == set(os.listdir(folder))
    assert set(rows) == {name for content in kinds.values() for name in content}
    assert {name for name, row in rows.items() if row["status"] == "ok"} == set(vectors)
    for name, row in rows.items():
        assert (row["status"] == "ok") == (row["reason"] == ""), name
        assert row["status"] in ("ok", "skipped")
        assert "\n" not in row["reason"]
        assert "Errno" not in row["reason"]


def test_good_files_are_read_and_bad_ones_are_not(odd, predicted):
    _, kinds = odd
    rows, _ = predicted
    assert [name for name in kinds["good"] if rows[name]["reason"]] == []
    assert [name for name in kinds["bad"] if not rows[name]["reason"]] == []
    survivors = [name for name in kinds["open"] if not rows[name]["reason"]]
    assert 0 < len(survivors) < len(kinds["open"])


def test_reasons_say_what_is_wrong(predicted):
    rows, _ = predicted
    for name, reason in {
        "bomb.png": "far more than the 50000000 pixels allowed",
        "bomb.gif": "far more than the 50000000 pixels allowed",
        "bomb.bmp": "far more than the 50000000 pixels allowed",
        "bomb.ppm": "far more than the 50000000 pixels allowed",
        "empty.png": "not an image in",
        "float.ppm": "floating-point",
        "page.png": "not an image in",
        "photo.png": "not an image in",
        "folder.png": "an empty folder",
        "pipe.jpg": "neither a file nor a folder",
        "loop.png": "symbolic links",
        "dangling.png": "no such file",
        "up": "the same folder as",
        "notes.txt": "not an image by its suffix",
        ".hidden.png": "hidden",
    }.items():
        assert reason in rows[name]["reason"], rows[name]


def test_those_that_are_read_are_embedded_as_by_the_trained_function(
    odd, predicted, tiny_run
):
    folder, _ = odd
    _, vectors = predicted
    names = sorted(vectors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixels = np.stack([images.load(folder / name, size=32) for name in names])
    trained = jaxfaces.load(tiny_run)
    raw = np.asarray(jax.jit(trained.apply)(trained.variables, {"image": pixels}))
    raw = raw.astype(np.float64)
    wanted = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose([vectors[name] for name in names], wanted, atol=1e-5)


def test_every_file_that_can_be_read_is_read(odd, predicted):
    folder, kinds = odd
    rows, _ = predicted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in kinds["open"]:
            try:
                images.load(folder / name, size=32)
            except images.ImageError as error:
                assert rows[name]["reason"] == str(error)
            else:
                assert rows[name]["status"] == "ok"


def test_the_first_bad_file_stops_a_strict_run(odd, tiny_run, capsys, tmp_path):
    folder, _ = odd
    output = tmp_path / "out"
    words = [f"--workdir={tiny_run}", f"--output={output}", "--on_bad_example=error"]
    assert predict.main([*words, str(folder)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert str(folder) in line
    assert not output.exists()


def known_ones():
    """Files of 32 x 32 pixels and what they show, worked out by hand."""
    rng = np.random.default_rng(1)
    colours = rng.integers(0, 256, (32, 32, 3), np.uint8)
    left = np.arange(32)[None, :, None] < 16

    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter turn to the left
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(colours)))
    yield "turned.png", encoded(turned, "PNG", exif=exif), colours

    # Whole blocks of full ink: JPEG keeps them.
    ink = np.where(left, [255, 0, 0, 0], [0, 0, 0, 255]) + np.zeros((32, 1, 1), int)
    cmyk = Image.fromarray(ink.astype(np.uint8), "CMYK")
    shown = np.where(left, [0, 255, 255], 0) + np.zeros((32, 1, 1), int)
    yield "cmyk.jpg", encoded(cmyk, "JPEG", quality=100), shown

    halves = np.where(left, [255, 0, 0], [0, 0, 255]) + np.zeros((32, 1, 1), int)
    frames = [Image.fromarray(x.astype(np.uint8)) for x in (halves, 255 - halves)]
    for form in ("GIF", "PNG"):
        options = {"save_all": True, "append_images": frames[1:]}
        yield f"animated.{form.lower()}", encoded(frames[0], form, **options), halves

    wide = rng.integers(0, 65536, (32, 32))
    grey = np.rint(wide / 257)[..., None].repeat(3, axis=2)
    data = encoded(Image.fromarray(wide.astype(np.uint16)), "PNG")
    yield "sixteen.png", data, grey

    deep = rng.integers(0, 65536, (32, 32, 3))
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    yield "sixteen rgb.png", png(32, 32, 16, lines), deep >> 8

    clear = np.dstack([colours, np.where(left, 255, 0)[..., 0].repeat(32, axis=0)])
    data = encoded(Image.fromarray(clear.astype(np.uint8)), "PNG")
    yield "clear.png", data, np.where(left, colours, 255)


def test_pixels_are_those_that_a_viewer_shows(tmp_path, tiny_run):
    given = list(known_ones())
    for name, data, _ in given:
        (tmp_path / name).write_bytes(data)
    names = [str(tmp_path / name) for name, _, _ in given]
    words = [f"--workdir={tiny_run}", f"--output={tmp_path / 'out'}"]
    assert predict.main([*words, *names]) == 0
    with np.load(tmp_path / "out" / "embeddings.npz") as columns:
        found = columns["embeddings"]
        assert columns["files"].tolist() == names
    pixels = np.stack([shown for _, _, shown in given]).astype(np.uint8)
    trained = jaxfaces.load(tiny_run)
    raw = np.asarray(jax.jit(trained.apply)(trained.variables, {"image": pixels}))
    wanted = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    for (name, _, _), ours, theirs in zip(given, found, wanted):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=name)
    # Another turn, or the other frame, would have been noticed.
    others = np.stack([np.rot90(pixels[0]), 255 - pixels[2]])
    raw = np.asarray(jax.jit(trained.apply)(trained.variables, {"image": others}))
    other = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    assert (np.abs(other - wanted[[0, 2]]).max(axis=1) > 1e-3).all()
