"""A network from images to embeddings by flag, and the weights it starts from."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxfaces.engine import variables
from jaxfaces.engine.config import knob
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.starting import named
from jaxfaces.models import bn_inception, branches, embedder, layers, torch_weights


@dataclasses.dataclass(frozen=True)
class ImageNetwork:
    """A backbone with heads; a task nests it to get its flags."""

    backbone: str = knob("small", "Network.", choices=tuple(embedder.BACKBONES))
    branches: tuple[str, ...] = knob(
        ("H",),
        "Heads on the high, the middle and the low level, a loss for each; their "
        "embeddings are put side by side.",
        choices=branches.ORDER,
    )
    width: int = knob(
        0, "Features of its first stage; 0 is its own.", lower=0, upper=4096
    )
    pool: str = knob(
        "average",
        "Average its last map, or flatten it to keep positions.",
        choices=("average", "flatten"),
    )
    embedding_size: int = knob(
        128, "Dimensions of the embedding of each branch.", lower=1, upper=65536
    )
    colours: str = knob(
        "own",
        "How it takes images: its own way; red, green, blue by ImageNet's mean and "
        "deviation; or blue, green, red from 0 to 255 less Caffe's mean.",
        choices=("own", *layers.COLOURS),
    )
    pretrained: str = knob(
        "", "FILE.safetensors with torch's weights of the backbone to start from."
    )
    dtype: str = knob(
        "float32", "Type that the network computes in.", choices=("float32", "bfloat16")
    )
    cpu_conv: str = knob(
        "auto",
        "On a CPU, our own convolutions where they are faster, always, or never.",
        choices=("auto", "on", "off"),
    )

    def __post_init__(self) -> None:
        """Checks what one knob cannot."""
        if not self.branches or len(set(self.branches)) < len(self.branches):
            raise ValueError(
                f"--branches are some of {','.join(branches.ORDER)}, each once, "
                f"got {','.join(self.branches) or 'none'}"
            )

    def check_side(self, side: int) -> None:
        """Raises ValueError for images of a size that the backbone cannot take."""
        if self.backbone.startswith("bn_inception"):
            bn_inception.check_sides((side,))

    def make(self) -> embedder.Embedder:
        """The module."""
        return embedder.make(
            self.backbone,
            size=self.embedding_size,
            width=self.width,
            pool=self.pool,
            dtype=self.dtype,
            cpu_conv=self.cpu_conv,
            levels=self.branches,
            colours=self.colours,
        )

    def imported(self, fresh: Mapping[str, Any]) -> tuple[Path, dict[str, Any]] | None:
        """What `--pretrained` names, and the variables of the backbone from it.

        Args:
          fresh: shapes of all variables by path, such as "params/backbone/...".

        Raises:
          RunError: the file is not safetensors, damaged, a run's own, or of another
            network.
        """
        if not self.pretrained:
            return None
        path = Path(self.pretrained)
        if path.suffix != ".safetensors":
            raise RunError(
                f"--pretrained={path} is not a .safetensors file; "
                "docs/pretrained.md shows how to write one of a .pth file"
            )
        loaded, metadata = variables.load(path)
        if "task" in metadata:
            raise RunError(f"{path} was written by a run; start with --init_from of it")
        # params/backbone/X/kernel and rest/batch_stats/backbone/X_bn/mean, by what is
        # behind "backbone".
        names = {
            name.partition("/backbone/")[2]: name
            for name in fresh
            if "/backbone/" in name
        }
        shapes = {inner: fresh[name] for inner, name in names.items()}
        try:
            found = torch_weights.convert(named(loaded), self.make().backbone, shapes)
        except ValueError as error:
            hint = ""
            if self.backbone == "bn_inception" and "_4c_pool_proj" in str(error):
                hint = (
                    ". Of weights ported to torch it is --backbone=bn_inception_torch"
                )
            raise RunError(
                f"--pretrained={path} does not fit --backbone={self.backbone}: "
                f"{error}{hint}"
            ) from error
        return path, {names[inner]: value for inner, value in found.items()}

    def smoke(self) -> "ImageNetwork":
        """The same network, narrow, not pretrained, and quick to compile."""
        return dataclasses.replace(
            self, width=8, embedding_size=16, pretrained="", cpu_conv="off"
        )
