"""The operations in Pillow, an image at a time, as automatic augmentation uses them."""

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

FILL = {"RGB": (125, 123, 114), "L": 123}
MATRICES = {
    "ShearX": lambda v, w, h: (1, v, 0, 0, 1, 0),
    "ShearY": lambda v, w, h: (1, 0, 0, v, 1, 0),
    "TranslateX": lambda v, w, h: (1, 0, v * w, 0, 1, 0),
    "TranslateY": lambda v, w, h: (1, 0, 0, 0, 1, v * h),
    "TranslateXAbs": lambda v, w, h: (1, 0, v, 0, 1, 0),
    "TranslateYAbs": lambda v, w, h: (1, 0, 0, 0, 1, v),
}
CHANGES = {
    "Rotate": lambda picture, v: picture.rotate(v),
    "AutoContrast": lambda picture, v: ImageOps.autocontrast(picture),
    "Invert": lambda picture, v: ImageOps.invert(picture),
    "Equalize": lambda picture, v: ImageOps.equalize(picture),
    "Solarize": lambda picture, v: ImageOps.solarize(picture, v),
    "Posterize": lambda picture, v: posterize(picture, int(v)),
    "Posterize2": lambda picture, v: posterize(picture, int(v)),
    "Contrast": lambda picture, v: ImageEnhance.Contrast(picture).enhance(v),
    "Color": lambda picture, v: ImageEnhance.Color(picture).enhance(v),
    "Brightness": lambda picture, v: ImageEnhance.Brightness(picture).enhance(v),
    "Sharpness": lambda picture, v: ImageEnhance.Sharpness(picture).enhance(v),
    "Identity": lambda picture, v: picture,
}


def pillow(name, image, v, centre=(0.0, 0.0)):
    """The (H, W, C) uint8 image changed with the value v, in float64 as given."""
    picture = Image.fromarray(image if image.shape[-1] == 3 else image[..., 0])
    width, height = picture.size
    if name in MATRICES:
        matrix = MATRICES[name](v, width, height)
        changed = picture.transform(picture.size, Image.Transform.AFFINE, matrix)
    elif name in ("Cutout", "CutoutAbs"):
        changed = cut(picture, v * width if name == "Cutout" else v, centre)
    else:
        changed = CHANGES[name](picture, v)
    return np.asarray(changed).reshape(image.shape)


def posterize(picture, bits):
    """No bits at all are black, which Pillow 13 refuses and earlier versions made."""
    if bits == 0:
        return picture.point(lambda i: 0)
    return ImageOps.posterize(picture, bits)


def cut(picture, size, centre):
    """A filled square about a centre, rectangles covering their last pixel."""
    if size <= 0:
        return picture
    x, y = (int(max(0.0, float(at) - size / 2)) for at in centre)
    corner = min(picture.size[0], x + size), min(picture.size[1], y + size)
    picture = picture.copy()
    ImageDraw.Draw(picture).rectangle((x, y, *corner), FILL[picture.mode])
    return picture
