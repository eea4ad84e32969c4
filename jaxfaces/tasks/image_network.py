"""A network from images to embeddings by flag, and the weights it starts from."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax

from jaxfaces.engine import net, variables
from jaxfaces.engine.config import group, knob
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.starting import named
from jaxfaces.models import bn_inception, branches, embedder, torch_weights
from jaxfaces.tasks.network_options import NetworkOptions


@dataclasses.dataclass(frozen=True)
class Backbone(NetworkOptions):
    """A network without its heads; the networks of tasks nest it to get its flags."""

    backbone: str = knob("small", "Network.", choices=tuple(embedder.BACKBONES))
    pretrained: str = knob(
        "", "FILE.safetensors with torch's weights of the backbone to start from."
    )

    def make(self) -> Any:
        """The module."""
        return embedder.make_backbone(self.backbone, **self.arguments())

    def check_side(self, side: int) -> None:
        """Raises ValueError for images of a size that it cannot take."""
        if self.backbone.startswith("bn_inception"):
            bn_inception.check_sides((side,))

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
            found = torch_weights.convert(named(loaded), self.make(), shapes)
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

    def smoke(self) -> Self:
        """The same network, narrow, not pretrained, and quick to compile."""
        return dataclasses.replace(super().smoke(), pretrained="")


@dataclasses.dataclass(frozen=True)
class ImageNetwork:
    """A backbone with embedding heads; a task nests it to get its flags."""

    backbone: Backbone = group(Backbone(), prefix="")
    branches: tuple[str, ...] = knob(
        ("H",),
        "Heads on the high, the middle and the low level, a loss for each; their "
        "embeddings are put side by side.",
        choices=branches.ORDER,
    )
    supervised: bool = knob(
        False,
        "A classifier on each of three levels, the middle one's features being the "
        "embedding, in place of heads: as OSM+CAA was published.",
    )
    embedding_size: int = knob(
        128, "Dimensions of the embedding of each branch.", lower=1, upper=65536
    )

    def __post_init__(self) -> None:
        """Checks what one knob cannot."""
        if not self.branches or len(set(self.branches)) < len(self.branches):
            raise ValueError(
                f"--branches are some of {','.join(branches.ORDER)}, each once, "
                f"got {','.join(self.branches) or 'none'}"
            )

    @property
    def sizes(self) -> dict[str, int]:
        """Dimensions of the embedding by branch."""
        levels = ("M",) if self.supervised else embedder.in_order(self.branches)
        return dict.fromkeys(levels, self.embedding_size)

    def net(self, classes: int) -> net.Net:
        """The pure functions, for so many classes to train on."""
        size = self.embedding_size
        if self.supervised:
            module = branches.DeeplySupervised(
                self.backbone.make(), classes, hidden=size
            )
            return net.from_linen(module)
        name, how = self.backbone.backbone, self.backbone.arguments()
        return net.from_linen(
            embedder.make(name, size=size, levels=self.branches, **how)
        )

    def classes(self, params: Mapping[str, Any]) -> int:
        """How many classes trained parameters tell apart, 0 without classifiers."""
        return len(params["classifier3"]["bias"]) if self.supervised else 0

    def parts(self, outputs: Any) -> tuple[dict[str, jax.Array], tuple | None]:
        """Embeddings by branch of what the network gives, and its logits, if any."""
        if self.supervised:
            return {"M": outputs.embedding}, outputs.logits
        return embedder.split(outputs, self.branches), None

    def smoke(self) -> "ImageNetwork":
        """The same network, narrow and not pretrained."""
        return dataclasses.replace(
            self, backbone=self.backbone.smoke(), embedding_size=16
        )
