"""BN-Inception and ResNets in torch, layers named as in the released weight files."""

import torch
from torch import nn

# 1x1; 3x3 reduced, 3x3; double 3x3 reduced, a, b; pooling, projection.
TABLE = {
    "3a": (64, 64, 64, 64, 96, 96, "avg", 32),
    "3b": (64, 64, 96, 64, 96, 96, "avg", 64),
    "3c": (0, 128, 160, 64, 96, 96, "max", 0),
    "4a": (224, 64, 96, 96, 128, 128, "avg", 128),
    "4b": (192, 96, 128, 96, 128, 128, "avg", 128),
    "4c": (160, 128, 160, 128, 160, 160, "avg", 96),
    "4d": (96, 128, 192, 160, 192, 192, "avg", 96),
    "4e": (0, 128, 192, 192, 256, 256, "max", 0),
    "5a": (352, 192, 320, 160, 224, 224, "avg", 128),
    "5b": (352, 192, 320, 192, 224, 224, "max", 128),
}


def randomize(network, seed=0):
    """Random weights and statistics, of a size that keeps activations near 1."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like, low, high):
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.ndim > 1:
                reach = (3 / value[0].numel()) ** 0.5 * 1.4
                value.copy_(draw(value, -reach, reach))
            elif "num_batches" not in name:
                spread = name.endswith(("bias", "running_mean"))
                value.copy_(draw(value, *((-0.5, 0.5) if spread else (0.5, 1.5))))
    return network


class Inception(nn.Module):
    """BN-Inception, its convolutions with a bias as in `pretrainedmodels`."""

    def __init__(self, part=1, projection=96, bias=True):
        super().__init__()
        self.rows = {
            name: [each // part if isinstance(each, int) else each for each in row]
            for name, row in TABLE.items()
        }
        for name in ("4c", "4d"):
            self.rows[name][-1] = projection // part
        self.bias = bias
        self.add("conv1_7x7_s2", 3, 64 // part, 7, 2)
        self.add("conv2_3x3_reduce", 64 // part, 64 // part, 1)
        self.add("conv2_3x3", 64 // part, 192 // part, 3)
        width = 192 // part
        for name, (one, r3, three, rd, a, b, _, proj) in self.rows.items():
            at, stride = f"inception_{name}", 1 if one else 2
            if one:
                self.add(f"{at}_1x1", width, one, 1)
            self.add(f"{at}_3x3_reduce", width, r3, 1)
            self.add(f"{at}_3x3", r3, three, 3, stride)
            self.add(f"{at}_double_3x3_reduce", width, rd, 1)
            self.add(f"{at}_double_3x3_1", rd, a, 3)
            self.add(f"{at}_double_3x3_2", a, b, 3, stride)
            if proj:
                self.add(f"{at}_pool_proj", width, proj, 1)
            width = one + three + b + (proj or width)
        self.last_linear = nn.Linear(width, 5)

    def add(self, name, inputs, outputs, size, stride=1):
        conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=self.bias)
        self.add_module(name, conv)
        self.add_module(f"{name}_bn", nn.BatchNorm2d(outputs))

    def unit(self, name, x):
        return torch.relu(getattr(self, f"{name}_bn")(getattr(self, name)(x)))

    def maps(self, x):
        shrink = nn.MaxPool2d(3, 2, ceil_mode=True)
        x = shrink(self.unit("conv1_7x7_s2", x))
        x = shrink(self.unit("conv2_3x3", self.unit("conv2_3x3_reduce", x)))
        found = []
        for name, (one, *_, kind, proj) in self.rows.items():
            at = f"inception_{name}"
            paths = [self.unit(f"{at}_1x1", x)] if one else []
            y = self.unit(f"{at}_3x3_reduce", x)
            paths.append(self.unit(f"{at}_3x3", y))
            y = self.unit(f"{at}_double_3x3_reduce", x)
            y = self.unit(f"{at}_double_3x3_1", y)
            paths.append(self.unit(f"{at}_double_3x3_2", y))
            if kind == "avg":
                pool = nn.AvgPool2d(3, 1, 1, ceil_mode=True, count_include_pad=True)
            elif one:
                pool = nn.MaxPool2d(3, 1, 1, ceil_mode=True)
            else:
                pool = shrink
            y = pool(x)
            paths.append(self.unit(f"{at}_pool_proj", y) if proj else y)
            x = torch.cat(paths, 1)
            if name in ("3c", "4e", "5b"):
                found.append(x)
        return found

    def forward(self, x):
        return nn.AvgPool2d(7, 1)(self.maps(x)[-1]).flatten(1)


class Block(nn.Module):
    """A block of a ResNet, with torchvision's names."""

    def __init__(self, inputs, width, stride, deep):
        super().__init__()
        outputs = 4 * width if deep else width
        shapes = (
            [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
            if deep
            else [(inputs, width, 3, stride), (width, width, 3, 1)]
        )
        self.depth = len(shapes)
        for n, (i, o, size, step) in enumerate(shapes, 1):
            conv = nn.Conv2d(i, o, size, step, size // 2, bias=False)
            self.add_module(f"conv{n}", conv)
            self.add_module(f"bn{n}", nn.BatchNorm2d(o))
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )
        self.outputs = outputs

    def forward(self, x):
        y = x
        for n in range(1, self.depth + 1):
            y = getattr(self, f"bn{n}")(getattr(self, f"conv{n}")(y))
            y = torch.relu(y) if n < self.depth else y
        return torch.relu(y + (self.downsample(x) if self.downsample else x))


class ResNet(nn.Module):
    """A ResNet with torchvision's names."""

    def __init__(self, stages=(3, 4, 6, 3), width=64, deep=True):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage, count in enumerate(stages):
            blocks = []
            for index in range(count):
                stride = 2 if stage and not index else 1
                blocks.append(Block(inputs, width << stage, stride, deep))
                inputs = blocks[-1].outputs
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.stages = len(stages)
        self.fc = nn.Linear(inputs, 5)

    def forward(self, x):
        x = nn.MaxPool2d(3, 2, 1)(torch.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return x.mean((2, 3))
