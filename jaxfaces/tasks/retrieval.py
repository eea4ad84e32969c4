"""Embeddings for image retrieval, trained by a loss over the pairs of a batch."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

import metric
from jaxfaces.data import sources, streams
from jaxfaces.data.sources import Source
from jaxfaces.data.streams import Stream
from jaxfaces.engine.config import group, knob
from jaxfaces.engine.evaluation import collect
from jaxfaces.engine.optimizers import Optimizer
from jaxfaces.engine.steps import State, make_state, make_step
from jaxfaces.engine.task import Phase, Predicted
from jaxfaces.imaging import figures
from jaxfaces.models import branches
from jaxfaces.tasks import image_files, retrieval_classes
from jaxfaces.tasks import retrieval_files as files
from jaxfaces.tasks.embedding_losses import EmbeddingLoss
from jaxfaces.tasks.image_augmentation import ImageAugmentation, check_crop
from jaxfaces.tasks.image_data import ImageData
from jaxfaces.tasks.image_network import ImageNetwork
from jaxfaces.tasks.label_noise import LabelNoise

PLOT_POINTS, PLOT_CLASSES = 1000, 10  # drawn at most


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Learns embeddings in which images of one class lie near each other."""

    monitor: ClassVar[str] = "max:map_at_r"

    steps: int = knob(1000, "Length of the run in steps.", lower=1)
    data: ImageData = group(ImageData(), prefix="")
    rotated_classes: bool = knob(
        False, "Quarter turns of a class are training classes of their own."
    )
    augmentation: ImageAugmentation = group(ImageAugmentation(), prefix="")
    network: ImageNetwork = group(ImageNetwork(), prefix="")
    objective: EmbeddingLoss = group(EmbeddingLoss(), prefix="")
    noise: LabelNoise = group(LabelNoise(), prefix="")
    classes_per_batch: int = knob(30, "Classes in a batch (P).", lower=1, upper=65536)
    images_per_class: int = knob(4, "Images of each of them (K).", lower=1, upper=65536)
    min_images: int = knob(1, "Leave classes with fewer images out.", lower=1)
    optimizer: Optimizer = group(Optimizer(), prefix="")
    head_lr_multiplier: float = knob(
        1.0, "Of the last layer of each branch.", lower=0.0
    )
    classes_lr_multiplier: float = knob(
        1.0, "Of class vectors and classifiers.", lower=0.0
    )
    bias_lr_factor: float = knob(
        1.0, "Of the classifiers' biases, on top of it.", lower=0.0
    )
    eval_batch_size: int = knob(256, "Images embedded at once.", lower=1, upper=65536)
    recall_ks: tuple[int, ...] = knob((1, 2, 4, 8), "The k of Recall@k.", lower=1)
    clustering: bool = knob(True, "Cluster the embeddings for NMI and F1 too.")
    clustering_restarts: int = knob(
        1, "k-means runs, of which the best.", lower=1, upper=1000
    )

    def __post_init__(self) -> None:
        """Checks what one knob cannot."""
        if 1 not in self.recall_ks:
            raise ValueError(f"--recall_ks must contain 1, got {self.recall_ks}")
        size, crop = self.data.image_size, self.augmentation.crop_size
        check_crop(crop, size)
        if self.network.supervised:
            self.objective.check_supervised()
        if crop or size:
            self.network.backbone.check_side(crop or size)

    def streams(self, split: str, seed: int) -> Mapping[str, Stream]:
        """Class-balanced batches of "train"; every image once of the other splits.

        A split with roles has the streams "query" and "gallery", in this order.
        """
        source = self.data.split(split)
        if source is None:
            return {}
        if split == "train":
            return {"train": self._balanced(source, seed)}
        if source.roles is None:
            return {"images": self._ordered(source)}
        rows = {
            role: np.flatnonzero(source.roles == role) for role in ("query", "gallery")
        }
        return {
            role: self._ordered(sources.subset(source, which))
            for role, which in rows.items()
        }

    def _balanced(self, source: Source, seed: int) -> Stream:
        clean = sources.relabel(source)
        source = self.noise.applied(clean)  # may leave a class without an image
        read, labels, classes = source.read, source.labels, clean.classes
        if self.rotated_classes:
            read = functools.partial(_read_turned, source)
            labels = (labels[:, None] * 4 + np.arange(4)[None]).reshape(-1)
            classes *= 4
        plan = metric.class_balanced_plan(
            labels,
            classes_per_batch=self.classes_per_batch,
            images_per_class=self.images_per_class,
            seed=seed,
            min_images=self.min_images,
        )
        sweep = metric.epoch_batches(labels, self.classes_per_batch, self.min_images)
        counts = (len(labels), classes, sweep, source.skipped)
        return Stream(plan, read, *counts, source.in_memory)

    def _ordered(self, source: Source) -> Stream:
        size = self.eval_batch_size
        plan = streams.ordered_plan(len(source), size)
        sweep = streams.batches_to_cover(len(source), size)
        counts = (len(source), source.classes, sweep, source.skipped)
        return Stream(plan, source.read, *counts, source.in_memory)

    def _optimizer(self) -> Any:
        def multiplier(path: tuple) -> float:
            if path[0].key.startswith("class"):  # vectors, classifiers
                bias = path[-1].key == "bias"
                return self.classes_lr_multiplier * (self.bias_lr_factor if bias else 1)
            return self.head_lr_multiplier if branches.in_head(path) else 1.0

        return self.optimizer.make(self.steps, multiplier)

    def init(self, key: jax.Array, batch: Any, sizes: Any) -> State:
        """Parameters, statistics, optimiser state and, if asked for, averages."""
        images = self.augmentation.test(batch["train"]["image"][:1])
        _, classes = sizes["train"]
        params, rest = self.network.net(classes).init(key, images)
        widths = self.network.sizes
        params |= self.objective.init(
            jax.random.fold_in(key, 1), classes, widths, self.network.supervised
        )
        if self.objective.memory:
            rest["memory"] = self.objective.remember(widths)
        average = self.optimizer.average
        return make_state(params, rest, self._optimizer(), average=average)

    def phases(self, sizes: Any) -> list[Phase]:
        """One phase that minimises the loss."""
        _, classes = sizes["train"]
        network = self.network.net(classes)

        def loss(params: Any, rest: Any, batch: Any, key: jax.Array) -> Any:
            rows = batch["train"]
            images = self.augmentation.train(key, rows["image"])
            rest = dict(rest)
            memory = rest.pop("memory", {})
            outputs, rest = network.apply(params, rest, images, train=True)
            embeddings, logits = self.network.parts(outputs)
            value, memory, metrics = self.objective(
                params, memory, embeddings, rows, jax.random.fold_in(key, 1), logits
            )
            if memory:
                rest = {**rest, "memory": memory}
            return value, (rest, metrics)

        step = make_step(loss, self._optimizer(), average=self.optimizer.average)
        return [Phase("train", None, step)]

    def imported(self, fresh: Mapping[str, Any]) -> Any:
        """The backbone of `--pretrained`."""
        return self.network.backbone.imported(fresh)

    def inference(self, state: State) -> Any:
        """The averages where there are any, else the newest variables."""
        return state.variables

    def predict(self, variables: Any, batch: Mapping[str, Any]) -> jax.Array:
        """Raw embeddings (B, D) of the images of a batch, branches in order H, L, M."""
        images = self.augmentation.test(batch["image"])
        params, rest = variables["params"], variables["rest"]
        network = self.network.net(self.network.classes(params))
        outputs, _ = network.apply(params, rest, images, train=False)
        embeddings, _ = self.network.parts(outputs)
        return jnp.concatenate(list(embeddings.values()), axis=1)

    def evaluate(
        self, state: Any, predict: Callable, batches: Mapping, sizes: Any
    ) -> dict[str, float]:
        """Retrieval measures, and NMI and F1 of a clustering."""
        embedded = {name: collect(predict, sweep) for name, sweep in batches.items()}
        queries, columns = next(iter(embedded.values()))
        gallery, gallery_columns = embedded.get("gallery") or (None, {})
        found = metric.retrieval_measures(
            queries,
            columns["label"],
            gallery=gallery,
            gallery_labels=gallery_columns.get("label"),
            ks=self.recall_ks,
        )
        recalls = found.pop("recall_at_k")
        recalls = {f"recall_at_{k}": value for k, value in recalls.items()}
        # The main measures first: they are what a line on the terminal shows.
        main = {"recall_at_1": recalls["recall_at_1"], "map_at_r": found["map_at_r"]}
        if self.clustering:
            items = queries if gallery is None else np.concatenate([queries, gallery])
            labels = [each["label"] for _, each in embedded.values()]
            clusters = metric.clustering_measures(
                items,
                np.concatenate(labels),
                seed=0,
                restarts=self.clustering_restarts,
            )
            main |= {name: clusters[name] for name in ("nmi", "f1")}
        dropped = found.pop("num_dropped")
        return main | recalls | found | ({"num_dropped": dropped} if dropped else {})

    def classwise(
        self, state: Any, predict: Callable, batches: Mapping, sizes: Any
    ) -> dict[str, np.ndarray]:
        """R@1 and MAP@R over the queries of each class, in the order of the labels."""
        embedded = [collect(predict, sweep) for sweep in batches.values()]
        return retrieval_classes.measures(embedded)

    @property
    def examples_per_step(self) -> int:
        """Images that a step reads."""
        return self.classes_per_batch * self.images_per_class

    def figures(
        self, state: Any, predict: Callable, batches: Mapping
    ) -> dict[str, Any]:
        """A map of the embeddings, and queries with their nearest neighbours."""
        sweep = next(iter(batches.values()))
        embeddings, columns = collect(predict, sweep)
        labels, rows = columns["label"], columns["index"]
        shown = np.flatnonzero(labels <= np.unique(labels)[:PLOT_CLASSES][-1])
        shown = shown[:: -(-len(shown) // PLOT_POINTS)]
        queries = np.linspace(0, len(labels) - 1, files.SHEET_QUERIES).astype(int)
        nearest = files.nearest_others(embeddings, queries)
        cells = np.concatenate([queries[:, None], nearest], axis=1)
        images = sweep.read(rows[cells].reshape(-1))["image"]
        images = images.reshape(*cells.shape, *images.shape[1:])
        return {
            "embeddings": figures.embedding_plot(
                embeddings[shown], labels[shown], title="Embeddings, some classes"
            ),
            "neighbours": figures.contact_sheet(
                images[:, 0],
                images[:, 1:],
                labels[nearest] == labels[queries][:, None],
            ),
        }

    def read_files(self, paths: Sequence[Path], *, max_pixels: int) -> Stream:
        """A user's own images, fitted as in training."""
        return image_files.stream(self.data, paths, self.eval_batch_size, max_pixels)

    write = staticmethod(files.write)

    def read_outputs(self, path: Path) -> Predicted:
        """The embeddings that `write` wrote."""
        return files.load(path, self.data)

    def smoke(self) -> "Retrieval":
        """The same task on tiny made-up images, the network narrow."""
        crop = self.augmentation.crop_size
        data = self.data.smoke(image_size=36 if crop else 32)
        return dataclasses.replace(
            self,
            data=data,
            augmentation=dataclasses.replace(
                self.augmentation, crop_size=32 if crop else 0
            ),
            network=self.network.smoke(),
            classes_per_batch=4,
            eval_batch_size=16,
        )


def _read_turned(source: Source, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Reads row r as image r // 4 turned r % 4 times, its class numbered likewise."""
    image, turns = np.divmod(rows, 4)
    columns = source.read(image)
    turned = np.stack([np.rot90(x, k) for x, k in zip(columns["image"], turns)])
    return {"image": turned, "label": (columns["label"] * 4 + turns).astype(np.int32)}
