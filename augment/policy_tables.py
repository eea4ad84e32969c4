"""Published policies: `operation probability level`, steps apart by a comma."""

# Cubuk et al. 2019; the level is one of ten, 0 to 9, and 0 where it plays no part.
AUTO_AUGMENT = {
    "cifar10": """
        Invert 0.1 0, Contrast 0.2 6
        Rotate 0.7 2, TranslateX 0.3 9
        Sharpness 0.8 1, Sharpness 0.9 3
        ShearY 0.5 8, TranslateY 0.7 9
        AutoContrast 0.5 0, Equalize 0.9 0
        ShearY 0.2 7, Posterize 0.3 7
        Color 0.4 3, Brightness 0.6 7
        Sharpness 0.3 9, Brightness 0.7 9
        Equalize 0.6 0, Equalize 0.5 0
        Contrast 0.6 7, Sharpness 0.6 5
        Color 0.7 7, TranslateX 0.5 8
        Equalize 0.3 0, AutoContrast 0.4 0
        TranslateY 0.4 3, Sharpness 0.2 6
        Brightness 0.9 6, Color 0.2 8
        Solarize 0.5 2, Invert 0.0 0
        Equalize 0.2 0, AutoContrast 0.6 0
        Equalize 0.2 0, Equalize 0.6 0
        Color 0.9 9, Equalize 0.6 0
        AutoContrast 0.8 0, Solarize 0.2 8
        Brightness 0.1 3, Color 0.7 0
        Solarize 0.4 5, AutoContrast 0.9 0
        TranslateY 0.9 9, TranslateY 0.7 9
        AutoContrast 0.9 0, Solarize 0.8 3
        Equalize 0.8 0, Invert 0.1 0
        TranslateY 0.7 9, AutoContrast 0.9 0
    """,
    "svhn": """
        ShearX 0.9 4, Invert 0.2 0
        ShearY 0.9 8, Invert 0.7 0
        Equalize 0.6 0, Solarize 0.6 6
        Invert 0.9 0, Equalize 0.6 0
        Equalize 0.6 0, Rotate 0.9 3
        ShearX 0.9 4, AutoContrast 0.8 0
        ShearY 0.9 8, Invert 0.4 0
        ShearY 0.9 5, Solarize 0.2 6
        Invert 0.9 0, AutoContrast 0.8 0
        Equalize 0.6 0, Rotate 0.9 3
        ShearX 0.9 4, Solarize 0.3 3
        ShearY 0.8 8, Invert 0.7 0
        Equalize 0.9 0, TranslateY 0.6 6
        Invert 0.9 0, Equalize 0.6 0
        Contrast 0.3 3, Rotate 0.8 4
        Invert 0.8 0, TranslateY 0.0 2
        ShearY 0.7 6, Solarize 0.4 8
        Invert 0.6 0, Rotate 0.8 4
        ShearY 0.3 7, TranslateX 0.9 3
        ShearX 0.1 6, Invert 0.6 0
        Solarize 0.7 2, TranslateY 0.6 7
        ShearY 0.8 4, Invert 0.8 0
        ShearX 0.7 9, TranslateY 0.8 3
        ShearY 0.8 5, AutoContrast 0.7 0
        ShearX 0.7 2, Invert 0.1 0
    """,
    "imagenet": """
        Posterize 0.4 8, Rotate 0.6 9
        Solarize 0.6 5, AutoContrast 0.6 0
        Equalize 0.8 0, Equalize 0.6 0
        Posterize 0.6 7, Posterize 0.6 6
        Equalize 0.4 0, Solarize 0.2 4
        Equalize 0.4 0, Rotate 0.8 8
        Solarize 0.6 3, Equalize 0.6 0
        Posterize 0.8 5, Equalize 1 0
        Rotate 0.2 3, Solarize 0.6 8
        Equalize 0.6 0, Posterize 0.4 6
        Rotate 0.8 8, Color 0.4 0
        Rotate 0.4 9, Equalize 0.6 0
        Equalize 0.0 0, Equalize 0.8 0
        Invert 0.6 0, Equalize 1 0
        Color 0.6 4, Contrast 1 8
        Rotate 0.8 8, Color 1 2
        Color 0.8 8, Solarize 0.8 7
        Sharpness 0.4 7, Invert 0.6 0
        ShearX 0.6 5, Equalize 1 0
        Color 0.4 0, Equalize 0.6 0
        Equalize 0.4 0, Solarize 0.2 4
        Solarize 0.6 5, AutoContrast 0.6 0
        Invert 0.6 0, Equalize 1 0
        Color 0.6 4, Contrast 1 8
        Equalize 0.8 0, Equalize 0.6 0
    """,
}
# Li et al. 2020, as published by its authors with two decimals.
DADA = {
    "cifar10": """
        TranslateX 0.52 0.58, Rotate 0.57 0.53
        ShearX 0.50 0.46, Sharpness 0.50 0.54
        Brightness 0.56 0.56, Sharpness 0.52 0.47
        ShearY 0.62 0.48, Brightness 0.47 0.46
        ShearX 0.44 0.58, TranslateY 0.40 0.51
        Rotate 0.40 0.52, Equalize 0.38 0.36
        AutoContrast 0.44 0.48, Cutout 0.49 0.50
        AutoContrast 0.56 0.48, Color 0.45 0.61
        Rotate 0.42 0.64, AutoContrast 0.60 0.58
        Invert 0.40 0.50, Color 0.50 0.44
        Posterize 0.56 0.50, Brightness 0.53 0.48
        TranslateY 0.42 0.51, AutoContrast 0.38 0.57
        ShearX 0.38 0.50, Contrast 0.49 0.52
        ShearY 0.54 0.60, Rotate 0.31 0.56
        Posterize 0.42 0.50, Color 0.45 0.56
        TranslateX 0.41 0.45, TranslateY 0.36 0.48
        TranslateX 0.57 0.50, Brightness 0.54 0.48
        TranslateX 0.53 0.51, Cutout 0.69 0.49
        ShearX 0.46 0.44, Invert 0.42 0.40
        Rotate 0.50 0.42, Contrast 0.49 0.42
        Rotate 0.43 0.47, Solarize 0.50 0.42
        TranslateY 0.74 0.51, Color 0.39 0.57
        Equalize 0.42 0.53, Sharpness 0.40 0.43
        Solarize 0.73 0.42, Cutout 0.51 0.46
        ShearX 0.58 0.56, TranslateX 0.48 0.49
    """,
    "cifar100": """
        ShearY 0.56 0.28, Sharpness 0.49 0.22
        Rotate 0.36 0.19, Contrast 0.56 0.31
        TranslateY 0.00 0.41, Brightness 0.47 0.52
        AutoContrast 0.80 0.44, Color 0.44 0.37
        Color 0.94 0.25, Brightness 0.68 0.45
        TranslateY 0.63 0.40, Equalize 0.82 0.30
        Equalize 0.46 0.71, Posterize 0.50 0.72
        Color 0.52 0.48, Sharpness 0.19 0.40
        Sharpness 0.42 0.38, Cutout 0.55 0.24
        ShearX 0.74 0.56, TranslateX 0.48 0.67
        Invert 0.36 0.59, Brightness 0.50 0.23
        TranslateX 0.36 0.36, Posterize 0.80 0.32
        TranslateX 0.48 0.36, Cutout 0.64 0.67
        Posterize 0.31 0.04, Contrast 1.00 0.08
        Contrast 0.42 0.26, Cutout 0.00 0.44
        Equalize 0.16 0.69, Brightness 0.73 0.18
        Contrast 0.45 0.34, Sharpness 0.59 0.28
        TranslateX 0.13 0.54, Invert 0.33 0.48
        Rotate 0.50 0.58, Posterize 1.00 0.74
        TranslateX 0.51 0.43, Rotate 0.46 0.48
        ShearX 0.58 0.46, TranslateY 0.33 0.31
        Rotate 1.00 0.00, Equalize 0.51 0.37
        AutoContrast 0.26 0.57, Cutout 0.34 0.35
        ShearX 0.56 0.55, Color 0.50 0.50
        ShearY 0.46 0.09, Posterize 0.55 0.34
    """,
    "svhn": """
        Solarize 0.61 0.53, Brightness 0.64 0.50
        ShearY 0.56 0.54, Sharpness 0.67 0.50
        AutoContrast 0.64 0.50, Posterize 0.49 0.42
        Invert 0.43 0.62, Equalize 0.30 0.53
        Contrast 0.49 0.55, Color 0.51 0.58
        ShearX 0.58 0.50, Brightness 0.56 0.54
        Rotate 0.43 0.50, Contrast 0.47 0.42
        Brightness 0.51 0.57, Cutout 0.48 0.50
        TranslateY 0.65 0.46, Rotate 0.43 0.46
        ShearY 0.41 0.43, Contrast 0.48 0.49
        ShearY 0.52 0.37, Brightness 0.43 0.37
        ShearY 0.26 0.49, Posterize 0.52 0.56
        TranslateX 0.67 0.38, TranslateY 0.45 0.42
        Posterize 0.64 0.43, Sharpness 0.63 0.54
        Rotate 0.47 0.50, Sharpness 0.40 0.45
        ShearX 0.47 0.46, Cutout 0.58 0.50
        Rotate 0.58 0.53, Solarize 0.41 0.43
        Color 0.37 0.44, Brightness 0.52 0.41
        TranslateX 0.49 0.47, Posterize 0.49 0.52
        TranslateY 0.50 0.49, Solarize 0.50 0.42
        TranslateY 0.27 0.50, Invert 0.56 0.29
        ShearY 0.64 0.57, Rotate 0.49 0.57
        Invert 0.49 0.55, Contrast 0.41 0.50
        ShearX 0.57 0.49, Color 0.60 0.50
        Rotate 0.54 0.53, Equalize 0.52 0.50
    """,
    "imagenet": """
        TranslateY 0.85 0.64, Contrast 0.70 0.47
        ShearX 0.69 0.64, Brightness 0.58 0.46
        Solarize 0.33 0.53, Contrast 0.36 0.40
        ShearY 0.54 0.81, Color 0.65 0.67
        Rotate 0.52 0.28, Invert 0.55 0.46
        ShearY 0.76 0.55, AutoContrast 0.64 0.46
        TranslateX 0.32 0.67, Sharpness 0.45 0.61
        Brightness 0.28 0.54, Cutout 0.29 0.53
        TranslateY 0.26 0.39, Brightness 0.30 0.57
        ShearX 0.46 0.62, Rotate 0.51 0.59
        TranslateY 0.63 0.38, Invert 0.40 0.33
        TranslateY 0.49 0.32, Equalize 0.43 0.26
        TranslateX 0.31 0.46, AutoContrast 0.40 0.00
        ShearY 0.57 0.35, Equalize 0.45 0.16
        Solarize 0.78 0.61, Brightness 0.57 0.80
        Color 0.75 0.40, Cutout 0.54 0.47
        ShearX 0.51 0.67, Cutout 0.37 0.45
        TranslateX 0.68 0.39, Rotate 0.47 0.16
        Rotate 0.64 0.55, Sharpness 0.66 0.80
        TranslateY 0.47 0.75, Sharpness 0.64 0.52
        AutoContrast 0.29 0.54, Posterize 0.35 0.70
        Invert 0.55 0.49, Equalize 0.44 0.76
        TranslateX 0.86 0.29, Contrast 0.41 0.60
        Invert 0.28 0.45, Posterize 0.42 0.34
        Posterize 0.15 0.33, Color 0.50 0.59
    """,
}
