import io
import re
import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxfaces.data import images


def encoded(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def gradient(height=12, width=20):
    """An RGB image without symmetry."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([10 * x, 15 * y, 5 * (x + y)], axis=-1) % 256
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("form", ["PNG", "BMP", "PPM", "WEBP"])
def test_lossless_formats_come_back_exactly(form):
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(gradient(), form, **options)
    np.testing.assert_array_equal(images.decode(data), gradient())


@pytest.mark.parametrize("form", ["JPEG", "GIF"])
def test_lossy_formats_come_back_nearly(form):
    flat = Image.new("RGB", (16, 16), (200, 100, 50))
    pixels = np.asarray(images.decode(encoded(flat, form)), int)
    assert np.abs(pixels - [200, 100, 50]).max() <= 3


@pytest.mark.parametrize("form", ["TIFF", "ICO", "PDF", "TGA"])
def test_formats_off_the_list_are_refused(form):
    with pytest.raises(images.ImageError, match="not an image in PNG"):
        images.decode(encoded(gradient(32, 32), form))


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_every_mode_gives_the_channels_asked_for(mode, grey):
    image = gradient().convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image, np.uint16) * 257)
    pixels = images.load(encoded(image), grey=grey)
    assert pixels.shape == (12, 20, 1 if grey else 3)
    assert pixels.dtype == np.uint8


def test_sixteen_bit_grey_keeps_its_range():
    wide = np.array([[0, 257, 200 * 257, 65535]], np.uint16)
    pixels = images.load(encoded(Image.fromarray(wide)), grey=True)
    assert pixels[0, :, 0].tolist() == [0, 1, 200, 255]


def test_every_sixteen_bit_value_is_rounded():
    wide = np.arange(65536, dtype=np.uint16).reshape(128, 512)
    pixels = images.load(encoded(Image.fromarray(wide)), grey=True)[..., 0]
    np.testing.assert_array_equal(pixels, np.rint(wide / 257))


def test_narrowing_takes_a_byte_a_pixel():
    wide = np.full((2000, 2000), 65535, np.uint16)
    tracemalloc.start()
    images._narrow(wide)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * wide.size


def test_sixteen_bit_pgm_keeps_its_range():
    samples = np.array([0, 257, 65535], ">u2").tobytes()
    pixels = images.load(b"P5 3 1 65535\n" + samples, grey=True)
    assert pixels[0, :, 0].tolist() == [0, 1, 255]


def test_floating_point_images_are_refused():
    data = b"Pf\n1 1\n-1.0\n" + struct.pack("<f", 0.5)
    with pytest.raises(images.ImageError, match="floating"):
        images.decode(data)


def test_cmyk_becomes_the_colour_it_prints():
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    red, green, blue = np.asarray(images.decode(encoded(cyan, "JPEG")), int)[4, 4]
    assert red < 30
    assert min(green, blue) > 200


def test_transparency_is_laid_on_white():
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = [0, 128, 255]
    values = images.load(encoded(Image.fromarray(pixels)))[0, :, 0]
    np.testing.assert_allclose(values, [255, 127, 0], atol=1)


def test_transparent_palette_entries_become_white():
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 200, 10, 20])
    image.putdata([0, 1])
    pixels = images.load(encoded(image, transparency=0))
    assert pixels[0].tolist() == [[255, 255, 255], [200, 10, 20]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_image_upright(orientation):
    # The stored image is made by undoing what each orientation asks for.
    upright = np.asarray(gradient())
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(images.decode(data), upright)


@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\0\0", b"Exif\0\0junk", b"Exif\0\0"])
def test_a_damaged_exif_block_spoils_nothing(exif):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = encoded(gradient(), "JPEG", exif=exif)
        assert images.decode(data).size == (20, 12)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    pixels = np.asarray(images.decode(data), int)
    assert np.abs(pixels - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_truncated_images_are_damaged(form, keep):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    data = encoded(Image.fromarray(noise), form)
    with pytest.raises(images.ImageError):
        images.decode(data[: int(len(data) * keep)])


def test_bytes_flipped_at_random_raise_nothing_but_image_errors():
    rng = np.random.default_rng(0)
    whole = {form: encoded(gradient(), form) for form in ("PNG", "JPEG", "GIF", "WEBP")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for trial in range(200):
            data = bytearray(whole[list(whole)[trial % 4]])
            for place in rng.integers(0, len(data), 4):
                data[place] = rng.integers(256)
            try:
                assert images.decode(bytes(data)).mode == "RGB"
            except images.ImageError:
                pass


@pytest.mark.parametrize("as_file", [False, True])
def test_a_jpeg_may_have_many_scans_but_not_any_number(tmp_path, as_file):
    whole = encoded(gradient(), "JPEG", progressive=True)
    usual = whole.count(b"\xff\xda")
    # The scan of the last bits of the mean of each block, which may come again.
    header = rb"\xff\xda\x00\x0c\x03.{6}\x00\x00\x10"
    [again] = re.findall(header + rb"(?:[^\xff]|\xff\x00)*", whole, re.DOTALL)

    def decode(scans):
        data = whole.replace(again, again * (scans - usual + 1))
        assert data.count(b"\xff\xda") == scans
        (tmp_path / "a.jpg").write_bytes(data)
        return images.decode(tmp_path / "a.jpg" if as_file else data)

    np.testing.assert_array_equal(decode(images.MAX_SCANS), images.decode(whole))
    with pytest.raises(images.ImageError, match="a JPEG of 501 scans, allowed are 500"):
        decode(images.MAX_SCANS + 1)


def test_a_text_file_named_png_is_no_image(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("not an image")
    with pytest.raises(images.ImageError, match="not an image"):
        images.decode(path)


def test_an_empty_and_a_missing_file_are_refused(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(images.ImageError, match="not an image"):
        images.decode(tmp_path / "empty.png")
    with pytest.raises(images.ImageError, match="no such file"):
        images.decode(tmp_path / "gone.png")


def test_what_the_system_does_not_let_read_is_not_called_damaged(tmp_path):
    with pytest.raises(images.ImageError, match="not a file"):
        images.decode(tmp_path)


def bomb(width, height):
    """A PNG of a few bytes that claims to be of any size."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8_000, 12_000, 60_000])
def test_decompression_bombs_are_refused_by_their_header(side):
    for read in (images.check, images.decode):
        with pytest.raises(images.ImageError, match="pixels"):
            read(bomb(side, side))


def test_the_pixel_limit_is_inclusive():
    data = encoded(gradient(12, 20))
    assert images.decode(data, max_pixels=240).size == (20, 12)
    with pytest.raises(images.ImageError, match="20 x 12 pixels"):
        images.decode(data, max_pixels=239)
    with pytest.raises(images.ImageError, match="20 x 12 pixels"):
        images.load(data, max_pixels=239)


def test_check_reads_the_header_alone():
    data = encoded(gradient(100, 100))
    images.check(data[:100])
    with pytest.raises(images.ImageError):
        images.decode(data[:100])


@pytest.mark.parametrize("how", images.FITS)
@pytest.mark.parametrize("height,width", [(10, 30), (30, 10), (16, 16), (1, 500)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_fit_gives_a_square_of_the_size_asked_for(how, height, width, mode):
    image = Image.new(mode, (width, height), "black")
    square = images.fit(image, 16, how)
    assert square.size == (16, 16)
    assert square.mode == mode


def bands():
    """10 high, 30 wide: red, green and blue squares from left to right."""
    image = Image.new("RGB", (30, 10), "red")
    image.paste((0, 255, 0), (10, 0, 20, 10))
    image.paste((0, 0, 255), (20, 0, 30, 10))
    return image


def test_warp_keeps_everything_and_loses_the_aspect():
    square = np.asarray(images.fit(bands(), 30, "warp"))
    for place, channel in ((5, 0), (15, 1), (25, 2)):
        assert (square[:, place].argmax(axis=1) == channel).all()


def test_crop_keeps_the_middle():
    square = np.asarray(images.fit(bands(), 10, "crop"))
    assert (square == [0, 255, 0]).all()


def test_pad_centres_on_white_and_keeps_the_aspect():
    square = np.asarray(images.fit(bands(), 30, "pad"))
    np.testing.assert_array_equal(square[10:20], np.asarray(bands()))
    assert (square[:10] == 255).all()
    assert (square[20:] == 255).all()


def test_reduction_averages_instead_of_picking():
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    image = Image.fromarray(checks.astype(np.uint8))
    small = np.asarray(images.fit(image, 8), int)
    assert np.abs(small - 127.5).max() < 8


def test_an_unknown_fit_is_refused():
    with pytest.raises(ValueError, match="warp, pad, crop"):
        images.fit(gradient(), 8, "stretch")


def test_white_margins_are_cut_to_fifteen_pixels():
    image = Image.new("RGB", (200, 100), "white")
    image.paste((0, 0, 0), (80, 40, 100, 50))
    assert images.trim_white(image).size == (20 + 30, 10 + 30)


def test_trimming_stops_at_the_border_and_at_grey_250():
    image = Image.new("L", (60, 60), 250)
    assert images.trim_white(image).size == (60, 60)
    image.putpixel((3, 30), 249)
    assert images.trim_white(image).size == (3 + 1 + 15, 15 + 1 + 15)


def test_load_trims_before_it_fits():
    image = Image.new("L", (300, 300), 255)
    image.paste(0, (0, 0, 50, 50))
    data = encoded(image)
    dark = [
        (images.load(data, size=65, trim=t, grey=True) < 128).mean() for t in (0, 1)
    ]
    assert dark[0] < 0.05
    assert dark[1] == pytest.approx((50 / 65) ** 2, abs=0.02)
