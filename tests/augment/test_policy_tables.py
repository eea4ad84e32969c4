"""Published policies against their sources, and the range of every operation."""

import numpy as np
import pytest

from augment import image_ops, policies

OPERATIONS = (
    *("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "AutoContrast"),
    *("Invert", "Equalize", "Solarize", "Posterize", "Contrast", "Color"),
    *("Brightness", "Sharpness", "Cutout"),
)
# `operation:probability:level`, operations by their place above, levels one of ten and
# 0 where they play no part: as in torchvision 0.11, AutoAugment._get_policies.
AUTO_AUGMENT = {
    "cifar10": """
        6:0.1:0 10:0.2:6; 4:0.7:2 2:0.3:9; 13:0.8:1 13:0.9:3; 1:0.5:8 3:0.7:9; 5:0.5:0
        7:0.9:0; 1:0.2:7 9:0.3:7; 11:0.4:3 12:0.6:7; 13:0.3:9 12:0.7:9; 7:0.6:0 7:0.5:0;
        10:0.6:7 13:0.6:5; 11:0.7:7 2:0.5:8; 7:0.3:0 5:0.4:0; 3:0.4:3 13:0.2:6; 12:0.9:6
        11:0.2:8; 8:0.5:2 6:0.0:0; 7:0.2:0 5:0.6:0; 7:0.2:0 7:0.6:0; 11:0.9:9 7:0.6:0;
        5:0.8:0 8:0.2:8; 12:0.1:3 11:0.7:0; 8:0.4:5 5:0.9:0; 3:0.9:9 3:0.7:9; 5:0.9:0
        8:0.8:3; 7:0.8:0 6:0.1:0; 3:0.7:9 5:0.9:0
    """,
    "svhn": """
        0:0.9:4 6:0.2:0; 1:0.9:8 6:0.7:0; 7:0.6:0 8:0.6:6; 6:0.9:0 7:0.6:0; 7:0.6:0
        4:0.9:3; 0:0.9:4 5:0.8:0; 1:0.9:8 6:0.4:0; 1:0.9:5 8:0.2:6; 6:0.9:0 5:0.8:0;
        7:0.6:0 4:0.9:3; 0:0.9:4 8:0.3:3; 1:0.8:8 6:0.7:0; 7:0.9:0 3:0.6:6; 6:0.9:0
        7:0.6:0; 10:0.3:3 4:0.8:4; 6:0.8:0 3:0.0:2; 1:0.7:6 8:0.4:8; 6:0.6:0 4:0.8:4;
        1:0.3:7 2:0.9:3; 0:0.1:6 6:0.6:0; 8:0.7:2 3:0.6:7; 1:0.8:4 6:0.8:0; 0:0.7:9
        3:0.8:3; 1:0.8:5 5:0.7:0; 0:0.7:2 6:0.1:0
    """,
    "imagenet": """
        9:0.4:8 4:0.6:9; 8:0.6:5 5:0.6:0; 7:0.8:0 7:0.6:0; 9:0.6:7 9:0.6:6; 7:0.4:0
        8:0.2:4; 7:0.4:0 4:0.8:8; 8:0.6:3 7:0.6:0; 9:0.8:5 7:1.0:0; 4:0.2:3 8:0.6:8;
        7:0.6:0 9:0.4:6; 4:0.8:8 11:0.4:0; 4:0.4:9 7:0.6:0; 7:0.0:0 7:0.8:0; 6:0.6:0
        7:1.0:0; 11:0.6:4 10:1.0:8; 4:0.8:8 11:1.0:2; 11:0.8:8 8:0.8:7; 13:0.4:7
        6:0.6:0; 0:0.6:5 7:1.0:0; 11:0.4:0 7:0.6:0; 7:0.4:0 8:0.2:4; 8:0.6:5 5:0.6:0;
        6:0.6:0 7:1.0:0; 11:0.6:4 10:1.0:8; 7:0.8:0 7:0.6:0
    """,
}
# The same with levels in [0, 1]: README of the release, VDIGPKU/DADA.
DADA = {
    "cifar10": """
        2:0.52:0.58 4:0.57:0.53; 0:0.50:0.46 13:0.50:0.54; 12:0.56:0.56 13:0.52:0.47;
        1:0.62:0.48 12:0.47:0.46; 0:0.44:0.58 3:0.40:0.51; 4:0.40:0.52 7:0.38:0.36;
        5:0.44:0.48 14:0.49:0.50; 5:0.56:0.48 11:0.45:0.61; 4:0.42:0.64 5:0.60:0.58;
        6:0.40:0.50 11:0.50:0.44; 9:0.56:0.50 12:0.53:0.48; 3:0.42:0.51 5:0.38:0.57;
        0:0.38:0.50 10:0.49:0.52; 1:0.54:0.60 4:0.31:0.56; 9:0.42:0.50 11:0.45:0.56;
        2:0.41:0.45 3:0.36:0.48; 2:0.57:0.50 12:0.54:0.48; 2:0.53:0.51 14:0.69:0.49;
        0:0.46:0.44 6:0.42:0.40; 4:0.50:0.42 10:0.49:0.42; 4:0.43:0.47 8:0.50:0.42;
        3:0.74:0.51 11:0.39:0.57; 7:0.42:0.53 13:0.40:0.43; 8:0.73:0.42 14:0.51:0.46;
        0:0.58:0.56 2:0.48:0.49
    """,
    "cifar100": """
        1:0.56:0.28 13:0.49:0.22; 4:0.36:0.19 10:0.56:0.31; 3:0.00:0.41 12:0.47:0.52;
        5:0.80:0.44 11:0.44:0.37; 11:0.94:0.25 12:0.68:0.45; 3:0.63:0.40 7:0.82:0.30;
        7:0.46:0.71 9:0.50:0.72; 11:0.52:0.48 13:0.19:0.40; 13:0.42:0.38 14:0.55:0.24;
        0:0.74:0.56 2:0.48:0.67; 6:0.36:0.59 12:0.50:0.23; 2:0.36:0.36 9:0.80:0.32;
        2:0.48:0.36 14:0.64:0.67; 9:0.31:0.04 10:1.00:0.08; 10:0.42:0.26 14:0.00:0.44;
        7:0.16:0.69 12:0.73:0.18; 10:0.45:0.34 13:0.59:0.28; 2:0.13:0.54 6:0.33:0.48;
        4:0.50:0.58 9:1.00:0.74; 2:0.51:0.43 4:0.46:0.48; 0:0.58:0.46 3:0.33:0.31;
        4:1.00:0.00 7:0.51:0.37; 5:0.26:0.57 14:0.34:0.35; 0:0.56:0.55 11:0.50:0.50;
        1:0.46:0.09 9:0.55:0.34
    """,
    "svhn": """
        8:0.61:0.53 12:0.64:0.50; 1:0.56:0.54 13:0.67:0.50; 5:0.64:0.50 9:0.49:0.42;
        6:0.43:0.62 7:0.30:0.53; 10:0.49:0.55 11:0.51:0.58; 0:0.58:0.50 12:0.56:0.54;
        4:0.43:0.50 10:0.47:0.42; 12:0.51:0.57 14:0.48:0.50; 3:0.65:0.46 4:0.43:0.46;
        1:0.41:0.43 10:0.48:0.49; 1:0.52:0.37 12:0.43:0.37; 1:0.26:0.49 9:0.52:0.56;
        2:0.67:0.38 3:0.45:0.42; 9:0.64:0.43 13:0.63:0.54; 4:0.47:0.50 13:0.40:0.45;
        0:0.47:0.46 14:0.58:0.50; 4:0.58:0.53 8:0.41:0.43; 11:0.37:0.44 12:0.52:0.41;
        2:0.49:0.47 9:0.49:0.52; 3:0.50:0.49 8:0.50:0.42; 3:0.27:0.50 6:0.56:0.29;
        1:0.64:0.57 4:0.49:0.57; 6:0.49:0.55 10:0.41:0.50; 0:0.57:0.49 11:0.60:0.50;
        4:0.54:0.53 7:0.52:0.50
    """,
    "imagenet": """
        3:0.85:0.64 10:0.70:0.47; 0:0.69:0.64 12:0.58:0.46; 8:0.33:0.53 10:0.36:0.40;
        1:0.54:0.81 11:0.65:0.67; 4:0.52:0.28 6:0.55:0.46; 1:0.76:0.55 5:0.64:0.46;
        2:0.32:0.67 13:0.45:0.61; 12:0.28:0.54 14:0.29:0.53; 3:0.26:0.39 12:0.30:0.57;
        0:0.46:0.62 4:0.51:0.59; 3:0.63:0.38 6:0.40:0.33; 3:0.49:0.32 7:0.43:0.26;
        2:0.31:0.46 5:0.40:0.00; 1:0.57:0.35 7:0.45:0.16; 8:0.78:0.61 12:0.57:0.80;
        11:0.75:0.40 14:0.54:0.47; 0:0.51:0.67 14:0.37:0.45; 2:0.68:0.39 4:0.47:0.16;
        4:0.64:0.55 13:0.66:0.80; 3:0.47:0.75 13:0.64:0.52; 5:0.29:0.54 9:0.35:0.70;
        6:0.55:0.49 7:0.44:0.76; 2:0.86:0.29 10:0.41:0.60; 6:0.28:0.45 9:0.42:0.34;
        9:0.15:0.33 11:0.50:0.59
    """,
}


def steps(policy):
    """Names, probabilities and levels, (S, n) each."""
    names = np.array([each.name for each in policy.table])[policy.operations]
    return names, np.asarray(policy.probabilities), np.asarray(policy.levels)


def listed(text):
    rows = [[step.split(":") for step in row.split()] for row in text.split(";")]
    places, probabilities, levels = np.moveaxis(np.array(rows), -1, 0)
    names = np.array(OPERATIONS)[places.astype(int)]
    return names, probabilities.astype(float), levels.astype(float)


@pytest.mark.parametrize(
    ("found", "text", "most"),
    [
        *(
            (policies.auto_augment(name), AUTO_AUGMENT[name], 9)
            for name in AUTO_AUGMENT
        ),
        *((policies.dada(name), DADA[name], 1) for name in DADA),
    ],
    ids=[
        *(f"autoaugment {name}" for name in AUTO_AUGMENT),
        *(f"dada {n}" for n in DADA),
    ],
)
def test_published_policies_are_those_of_their_sources(found, text, most):
    names, probabilities, levels = steps(found)
    wanted, chances, strengths = listed(text)
    assert wanted.shape == (25, 2)
    np.testing.assert_array_equal(names, wanted)
    np.testing.assert_allclose(probabilities, chances, rtol=1e-6)
    np.testing.assert_allclose(levels, strengths / most, rtol=1e-6)
    assert np.ptp(found.logits) == 0


def by_name(shear, shift, turn, solarize, posterize, blend):
    """(low, high, mirror) of every operation that has a strength."""
    return {
        **dict.fromkeys(("ShearX", "ShearY"), shear),
        **dict.fromkeys(("TranslateX", "TranslateY"), shift),
        "Rotate": turn,
        "Solarize": solarize,
        "Posterize": posterize,
        **dict.fromkeys(("Contrast", "Color", "Brightness", "Sharpness"), blend),
    }


# Mirrored about 0 a value has a random sign; about 1 a blend goes either way.
# torchvision 0.11, _augmentation_space of AutoAugment and of RandAugment; bits, which
# are 8 - round(4 l), as the whole part of 8.5 - 4 l.
SHARES = by_name(
    shear=(0, 0.3, 0),
    shift=(0, 150 / 331, 0),
    turn=(0, 30, 0),
    solarize=(255, 0, None),
    posterize=(8.5, 4.5, None),
    blend=(1, 1.9, 1),
)
# automl/trivialaugment, aug_lib.py, set_augmentation_space: `wide` and `fix`.
WIDE = by_name(
    shear=(0, 0.99, 0),
    shift=(0, 32, 0),
    turn=(0, 135, 0),
    solarize=(256, 0, None),
    posterize=(8.5, 2.5, None),
    blend=(0.01, 2, None),
)
STANDARD = by_name(
    shear=(0, 0.3, 0),
    shift=(0, 10, 0),
    turn=(0, 30, 0),
    solarize=(256, 0, None),
    posterize=(8.5, 4.5, None),
    blend=(0.1, 1.9, None),
)
# VDIGPKU/DADA, augmentations.py, augment_list; signs are drawn as it draws them.
SEARCHED = by_name(
    shear=(-0.3, 0.3, 0),
    shift=(-0.45, 0.45, 0),
    turn=(-30, 30, 0),
    solarize=(0, 256, None),
    posterize=(4, 8, None),
    blend=(0.1, 1.9, None),
) | {"Cutout": (0, 0.2, None)}
WITHOUT_STRENGTH = {"AutoContrast", "Invert", "Equalize", "Identity"}
FOURTEEN = {*OPERATIONS, "Identity"} - {"Invert", "Cutout"}
FOUND = {
    "autoaugment cifar10": (
        policies.auto_augment("cifar10"),
        SHARES,
        set(OPERATIONS) - {"ShearX", "Cutout"},
    ),
    "autoaugment svhn": (
        policies.auto_augment("svhn"),
        SHARES,
        {*OPERATIONS[:9], "Contrast"},
    ),
    "autoaugment imagenet": (
        policies.auto_augment("imagenet"),
        SHARES,
        {"ShearX", *OPERATIONS[4:12], "Sharpness"},
    ),
    "randaugment": (policies.rand_augment(count=1), SHARES, FOURTEEN),
    "trivialaugment wide": (policies.trivial_augment(), WIDE, FOURTEEN),
    "trivialaugment standard": (
        policies.trivial_augment(wide=False),
        STANDARD,
        FOURTEEN,
    ),
    "dada": (policies.dada("cifar10"), SEARCHED, set(OPERATIONS)),
}


@pytest.mark.parametrize("name", FOUND)
def test_ranges_and_signs_of_all_operations_are_those_of_the_source(name):
    found, ranges, names = FOUND[name]
    assert {each.name for each in found.table} == names
    for each in found.table:
        if each.name in WITHOUT_STRENGTH:
            assert each.mirror is None
            continue
        assert (each.low, each.high, each.mirror) == ranges[each.name], each.name


def test_ranges_of_the_operations_outside_the_search_space():
    found = {each.name: each for each in image_ops.EXTRA_OPERATIONS}
    ranges = {
        "CutoutAbs": (0, 20, None),
        "Posterize2": (0, 4, None),
        "TranslateXAbs": (0, 10, 0),
        "TranslateYAbs": (0, 10, 0),
    }
    assert set(found) == {*ranges, "Identity"}
    for name, ends in ranges.items():
        assert (found[name].low, found[name].high, found[name].mirror) == ends, name


@pytest.mark.parametrize("name", FOUND)
def test_shifts_are_in_pixels_where_their_range_is(name):
    for each in FOUND[name][0].table:
        pixels = name.startswith("trivial") and each.name.startswith("Translate")
        acts_as = image_ops.operation(f"{each.name}Abs" if pixels else each.name)
        assert each.reference is acts_as.reference and each.smooth is acts_as.smooth


def strengths(policy, name):
    """The values of an operation that a policy has, rising."""
    [each] = [each for each in policy.table if each.name == name]
    names, _, levels = steps(policy)
    mine = levels[names == name].astype(float)
    return np.sort(each.low + mine * (each.high - each.low))


# Value of strength m of 0 … 30 in aug_lib.py: int_parameter and float_parameter.
TRIVIAL = {
    "ShearX": lambda m, wide: m * (0.99 if wide else 0.3) / 30,
    "ShearY": lambda m, wide: m * (0.99 if wide else 0.3) / 30,
    "TranslateX": lambda m, wide: int(m * (32 if wide else 10) / 30),
    "TranslateY": lambda m, wide: int(m * (32 if wide else 10) / 30),
    "Rotate": lambda m, wide: int(m * (135 if wide else 30) / 30),
    "Solarize": lambda m, wide: 256 - int(m * 256 / 30),
    "Posterize": lambda m, wide: 8 - int(m * (6 if wide else 4) / 30),
} | dict.fromkeys(
    ("Contrast", "Color", "Brightness", "Sharpness"),
    lambda m, wide: m * 1.99 / 30 + 0.01 if wide else m * 1.8 / 30 + 0.1,
)


@pytest.mark.parametrize("wide", [True, False])
def test_trivial_augment_draws_each_of_its_codes_31_strengths_alike(wide):
    found = policies.trivial_augment(wide=wide)
    assert np.all(found.probabilities == 1) and np.ptp(found.logits) == 0
    for name, value in TRIVIAL.items():
        wanted = sorted(value(m, wide) for m in range(31))
        mine = strengths(found, name)
        mine = np.floor(mine) if name == "Posterize" else mine
        np.testing.assert_allclose(mine, wanted, rtol=1e-6, atol=1e-6, err_msg=name)
    for name in ("Identity", "AutoContrast", "Equalize"):
        assert len(strengths(found, name)) == 31


@pytest.mark.parametrize("magnitude", [0, 4, 9, 17, 30])
def test_rand_augment_has_one_strength_of_31(magnitude):
    found = policies.rand_augment(count=1, magnitude=magnitude)
    assert np.all(found.probabilities == 1) and np.ptp(found.logits) == 0
    for name, (low, high, _) in SHARES.items():
        [mine] = strengths(found, name)
        if name == "Posterize":
            assert np.floor(mine) == 8 - round(magnitude / 7.5)
        else:
            wanted = low + (high - low) * magnitude / 30
            np.testing.assert_allclose(mine, wanted, rtol=1e-6, atol=1e-6, err_msg=name)


def test_auto_augment_keeps_its_bits_of_ten_levels():
    found = policies.auto_augment("imagenet")
    bits = np.floor(strengths(found, "Posterize"))
    assert bits.tolist() == sorted(8 - round(m / 2.25) for m in (8, 7, 6, 5, 6))
