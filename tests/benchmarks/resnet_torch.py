"""The ResNets of jaxfaces.models in torch, with our weights (for resnet_step.py)."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import torch
    from torch import nn
except ImportError:
    torch = nn = None  # ours are then timed alone

LEARNING_RATE, MOMENTUM = 1e-3, 0.9
STAGES = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def block(channels: int, features: int, stride: int, *, bottleneck: bool) -> Any:
    """A residual block, its layers in the order in which flax numbers ours."""
    wide = 4 * features if bottleneck else features
    shapes = (
        [(channels, features, 1, 1), (features, features, 3, stride)]
        if bottleneck
        else [(channels, features, 3, stride)]
    )
    shapes.append((features, wide, 1 if bottleneck else 3, 1))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(
                nn.Conv2d(c, f, k, s, k // 2, bias=False) for c, f, k, s in shapes
            )
            self.norms = nn.ModuleList(nn.BatchNorm2d(f) for _, f, _, _ in shapes)
            self.shortcut = None
            if stride != 1 or channels != wide:
                self.shortcut = nn.Conv2d(channels, wide, 1, stride, bias=False)
                self.shortcut_norm = nn.BatchNorm2d(wide)

        def forward(self, x: Any) -> Any:
            y = x
            for index, (conv, norm) in enumerate(zip(self.convs, self.norms)):
                y = norm(conv(y))
                if index + 1 < len(self.convs):
                    y = torch.relu_(y)
            if self.shortcut is not None:
                x = self.shortcut_norm(self.shortcut(x))
            return torch.relu_(y + x)

    return Block(), wide


def network(name: str, classes: int) -> Any:
    """Images (B, 3, H, W) in [0, 1] to logits."""
    bottleneck = name == "resnet50"

    class ResNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.tensor(MEAN)[None, :, None, None])
            self.register_buffer("std", torch.tensor(STD)[None, :, None, None])
            self.stem = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
            self.norm = nn.BatchNorm2d(64)
            blocks, channels = [], 64
            for stage, count in enumerate(STAGES[name]):
                for index in range(count):
                    stride = 2 if stage > 0 and index == 0 else 1
                    features = 64 << stage
                    made, channels = block(
                        channels, features, stride, bottleneck=bottleneck
                    )
                    blocks.append(made)
            self.blocks = nn.ModuleList(blocks)
            self.head = nn.Linear(channels, classes, bias=False)

        def forward(self, x: Any) -> Any:
            x = torch.relu_(self.norm(self.stem((x - self.mean) / self.std)))
            x = nn.functional.max_pool2d(x, 3, 2, 1)
            for made in self.blocks:
                x = made(x)
            return self.head(x.mean((2, 3)))

    return ResNet()


def copy_weights(module: Any, variables: Any, name: str) -> None:
    """Copies our variables into the peer, layer by layer."""
    params, stats = variables["params"], variables["batch_stats"]
    params, stats, head = params["backbone"], stats["backbone"], params["head"]

    def conv(into: Any, ours: Any) -> None:
        into.weight.copy_(torch.tensor(ours["kernel"]).permute(3, 2, 0, 1))

    def norm(into: Any, ours: Any, running: Any) -> None:
        into.weight.copy_(torch.tensor(ours["scale"]))
        into.bias.copy_(torch.tensor(ours["bias"]))
        into.running_mean.copy_(torch.tensor(running["mean"]))
        into.running_var.copy_(torch.tensor(running["var"]))

    kind = "BottleneckBlock" if name == "resnet50" else "BasicBlock"
    with torch.no_grad():
        conv(module.stem, params["Conv_0"])
        norm(module.norm, params["BatchNorm_0"], stats["BatchNorm_0"])
        for index, made in enumerate(module.blocks):
            ours, running = params[f"{kind}_{index}"], stats[f"{kind}_{index}"]
            for i, (c, n) in enumerate(zip(made.convs, made.norms)):
                conv(c, ours[f"Conv_{i}"])
                norm(n, ours[f"BatchNorm_{i}"], running[f"BatchNorm_{i}"])
            if made.shortcut is not None:
                conv(made.shortcut, ours["shortcut"])
                norm(
                    made.shortcut_norm, ours["shortcut_norm"], running["shortcut_norm"]
                )
        module.head.weight.copy_(torch.tensor(head["kernel"]).T)


def losses(name: str) -> Any:
    """A loss of (outputs, labels) by the name that resnet_step.py gives it."""
    if name == "softmax":
        return nn.functional.cross_entropy
    from pytorch_metric_learning.losses import RankedListLoss

    return RankedListLoss(margin=0.4, Tn=10, alpha=1.2, imbalance=0.5)


class Peer:
    """The peer's step: channels last; compiled where there is a GPU."""

    def __init__(
        self,
        name: str,
        dtype: str,
        variables: Any,
        images: np.ndarray,
        labels: np.ndarray,
        loss: str,
    ) -> None:
        self.loss = losses(loss)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.type = getattr(torch, dtype)
        # As XLA does, which computes float32 products in TF32 on a GPU.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        module = network(name, variables["params"]["head"]["kernel"].shape[1])
        copy_weights(module, variables, name)
        self.module = module.to(self.device, memory_format=torch.channels_last)
        x = torch.tensor(images).permute(0, 3, 1, 2)
        self.images = x.to(self.device, memory_format=torch.channels_last)
        self.labels = torch.tensor(labels, device=self.device)
        self.optimizer = torch.optim.SGD(
            self.module.parameters(), LEARNING_RATE, momentum=MOMENTUM
        )
        self.run = self.module
        if self.device == "cuda":
            self.run = torch.compile(self.module, mode="max-autotune")

    def logits(self, *, train: bool) -> np.ndarray:
        """Of the initial variables, whose running statistics are put back."""
        kept = {k: v.clone() for k, v in self.module.state_dict().items()}
        self.module.train(train)
        with torch.no_grad(), self._cast():
            logits = self.module(self.images).float().cpu().numpy()
        self.module.load_state_dict(kept)
        self.module.train()
        return logits

    def _cast(self) -> Any:
        return torch.autocast(
            self.device, self.type, enabled=self.type != torch.float32
        )

    def step(self, threads: int = 0) -> float:
        """One step; waits for its loss."""
        if threads:
            torch.set_num_threads(threads)
        self.optimizer.zero_grad(set_to_none=True)
        with self._cast():
            loss = self.loss(self.run(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def runs(self) -> dict[str, Callable[[], float]]:
        """By name: thread settings on a CPU, the compiled step on a GPU."""
        if self.device == "cuda":
            return {"torch_compile": self.step}
        return {f"torch_{n}_threads": functools.partial(self.step, n) for n in (1, 2)}


def products(
    x: Any, w: Any, dy: Any, stride: int, edge: int
) -> dict[str, Callable[[], Any]]:
    """The three products of one convolution, channels last, on two threads."""
    torch.set_num_threads(2)
    last = {"memory_format": torch.channels_last}
    x, dy = (torch.tensor(np.asarray(a)).permute(0, 3, 1, 2) for a in (x, dy))
    w = torch.tensor(np.asarray(w)).permute(3, 2, 0, 1).contiguous(**last)
    where = [stride] * 2, [edge] * 2, [1, 1], False, [0, 0], 1

    def backward(*mask: bool) -> Any:
        return torch.ops.aten.convolution_backward(dy, x, w, None, *where, list(mask))

    return {
        "forward torch": lambda: nn.functional.conv2d(x, w, None, stride, edge),
        "inputs torch": lambda: backward(True, False, False),
        "weights torch": lambda: backward(False, True, False),
    }
