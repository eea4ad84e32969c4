"""Decoding of untrusted images and fitting them to a square."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxfaces.data.errors import ExampleError

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM")
SUFFIXES = frozenset(".png .jpg .jpeg .gif .bmp .webp .ppm .pgm .pbm .pnm".split())
MAX_PIXELS = 50_000_000
# Each costs a pass over all pixels, however few bytes it has; cameras make about ten.
MAX_SCANS = 500
FITS = ("warp", "pad", "crop")

# Trimming of white margins as in the released code of Ranked List Loss.
WHITE = 250
MARGIN = 15

# Pillow warns on stderr of what is refused or repaired here anyway.
warnings.filterwarnings("ignore", module=r"PIL\b")

_SCAN = b"\xff\xda"
_BLOCK = 1 << 16

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ExampleError):
    """One image cannot be decoded; the message says why, not which image."""


def check(data: bytes | Path | np.ndarray, *, max_pixels: int = MAX_PIXELS) -> None:
    """Reads an image's header only: quick, and blind to damage further on.

    Args:
      data: an encoded image, the path of one, or (H, W[, C]) uint8 pixels.
      max_pixels: largest width times height allowed.

    Raises:
      ImageError: not an image of a permitted format and size.
    """
    with _opened(data, max_pixels):
        pass


def decode(
    data: bytes | Path | np.ndarray,
    *,
    grey: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Decodes an untrusted image to 8-bit grey or RGB, the right way up.

    EXIF orientation is applied, transparency is laid on white, 16-bit grey is divided
    by 257, and of an animation the first frame is taken.

    Args:
      data: an encoded image in one of `FORMATS`, the path of one, or (H, W[, C])
        uint8 pixels, C one of 1, 2, 3, 4 (grey, RGB, with alpha).
      grey: give one channel (ITU-R 601 luma) and not three.
      max_pixels: largest width times height allowed, checked before decoding.

    Returns:
      The image in mode "L" or "RGB".

    Raises:
      ImageError: the image is of another format, too large, truncated, damaged, or a
        JPEG of more than `MAX_SCANS` scans.
    """
    with _opened(data, max_pixels) as image:
        if image.format in ("JPEG", "MPO") and not isinstance(data, np.ndarray):
            _check_scans(data)
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        flat = _flat(image).convert("L" if grey else "RGB")
        return flat if turn is None else flat.transpose(turn)


@contextlib.contextmanager
def _opened(data: bytes | Path | np.ndarray, max_pixels: int) -> Iterator[Image.Image]:
    """Opens an image and turns whatever goes wrong meanwhile into `ImageError`."""
    try:
        with _open(data) as image:
            if not 0 < image.width * image.height <= max_pixels:
                raise ImageError(
                    f"{image.width} x {image.height} pixels, allowed are 1 to "
                    f"{max_pixels} in all"
                )
            yield image
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError("no such file") from error
    except (PermissionError, IsADirectoryError) as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"far more than the {max_pixels} pixels allowed") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"not an image in {', '.join(FORMATS)} format") from error
    # Parsers of untrusted bytes raise nearly anything: OSError, SyntaxError,
    # struct.error, IndexError, DecompressionBombError …
    except Exception as error:
        raise ImageError(f"damaged image ({error})") from error


def _open(data: bytes | Path | np.ndarray) -> Image.Image:
    if isinstance(data, np.ndarray):
        return Image.fromarray(data[..., 0] if data.shape[2:] == (1,) else data)
    if isinstance(data, bytes):
        return Image.open(io.BytesIO(data), formats=FORMATS)
    if data.exists() and not data.is_file():
        raise ImageError("not a file")  # reading a pipe would wait for ever
    return Image.open(data, formats=FORMATS)


def _check_scans(data: bytes | Path) -> None:
    """Raises where a JPEG has scan upon scan, to keep its reader busy."""
    found, last = 0, b""
    with io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as file:
        while block := file.read(_BLOCK):
            # Within compressed pixels this mark cannot occur.
            found += (last + block).count(_SCAN)
            last = block[-1:]
    if found > MAX_SCANS:
        raise ImageError(f"a JPEG of {found} scans, allowed are {MAX_SCANS}")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none or the EXIF block is damaged."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # the pixels are good whatever the EXIF parser makes of its block
        return 1


def _flat(image: Image.Image) -> Image.Image:
    """An image whose mode converts to 8-bit grey or RGB without surprise."""
    if image.mode == "F":
        raise ImageError("floating-point images are not supported")
    if image.mode.startswith("I"):
        return Image.fromarray(_narrow(np.asarray(image)))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image).convert("RGB")
    return image


def _narrow(wide: np.ndarray) -> np.ndarray:
    """16-bit values divided by 257 and rounded, in blocks that cost no memory."""
    narrow = np.empty(wide.size, np.uint8)
    flat = wide.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        block = np.clip(flat[start : start + _BLOCK], 0, 65535).astype(np.uint32)
        narrow[start : start + _BLOCK] = (block + 128) // 257
    return narrow.reshape(wide.shape)


def trim_white(image: Image.Image) -> Image.Image:
    """Cuts white margins: the box of pixels with grey < 250, grown by 15 pixels.

    An image without such pixels is left as it is.

    Source: released code of Ranked List Loss (Wang et al. 2019).
    """
    box = image.convert("L").point(lambda value: 255 * (value < WHITE)).getbbox()
    if box is None:
        return image
    left, top, right, bottom = box
    return image.crop(
        (
            max(left - MARGIN, 0),
            max(top - MARGIN, 0),
            min(right + MARGIN, image.width),
            min(bottom + MARGIN, image.height),
        )
    )


def fit(image: Image.Image, size: int, how: str = "warp") -> Image.Image:
    """Fits an image to a square with a triangle filter, antialiased on reduction.

    Args:
      image: mode "L" or "RGB".
      size: side of the square in pixels.
      how: "warp" loses the aspect, "pad" brings the longer side to `size` and centres
        the image on white, "crop" brings the shorter side to `size` and keeps the
        centre.

    Returns:
      The `size` x `size` image.

    Raises:
      ValueError: `how` is none of these.
    """
    width, height = image.size
    bilinear = Image.Resampling.BILINEAR
    if how == "warp":
        return image.resize((size, size), bilinear)
    if how == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        return image.resize((size, size), bilinear, box=box)
    if how == "pad":
        scale = size / max(width, height)
        inner = max(round(width * scale), 1), max(round(height * scale), 1)
        square = Image.new(image.mode, (size, size), "white")
        corner = ((size - inner[0]) // 2, (size - inner[1]) // 2)
        square.paste(image.resize(inner, bilinear), corner)
        return square
    raise ValueError(f"--fit must be one of {', '.join(FITS)}, got {how!r}")


def load(
    data: bytes | Path | np.ndarray,
    *,
    size: int = 0,
    how: str = "warp",
    trim: bool = False,
    grey: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decodes an untrusted image and fits it to a square.

    Args:
      data: see `decode`.
      size: side of the square in pixels, 0 to keep the image's own size.
      how: see `fit`.
      trim: cut white margins first, see `trim_white`.
      grey: one channel and not three.
      max_pixels: largest width times height allowed, checked before decoding.

    Returns:
      (H, W, C) uint8 pixels, C = 1 if `grey` else 3.

    Raises:
      ImageError: the image cannot be decoded.
    """
    image = decode(data, grey=grey, max_pixels=max_pixels)
    if trim:
        image = trim_white(image)
    if size and image.size != (size, size):
        image = fit(image, size, how)
    pixels = np.asarray(image)
    return pixels[..., None] if grey else pixels
