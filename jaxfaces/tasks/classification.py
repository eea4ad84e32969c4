"""Images told apart by class: networks, schedules and augmentation of the searches."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

import augment
from jaxfaces.data.streams import Stream
from jaxfaces.engine.config import group, knob
from jaxfaces.engine.evaluation import collect
from jaxfaces.engine.optimizers import Optimizer
from jaxfaces.engine.steps import State, make_state, make_step
from jaxfaces.engine.task import Phase
from jaxfaces.imaging import class_figures, figures
from jaxfaces.tasks import classification_files as files
from jaxfaces.tasks import classification_loss, classification_measures, image_files
from jaxfaces.tasks.classification_augmentation import ClassificationAugmentation
from jaxfaces.tasks.classified_images import ClassifiedImages, swept
from jaxfaces.tasks.classifier_network import ClassifierNetwork

SHEET_IMAGES = 48  # on a contact sheet


@dataclasses.dataclass(frozen=True)
class Classification:
    """Learns to tell the classes of images apart."""

    monitor: ClassVar[str] = "max:accuracy"

    steps: int = knob(1000, "Length of the run in steps.", lower=1)
    data: ClassifiedImages = group(ClassifiedImages(), prefix="")
    augmentation: ClassificationAugmentation = group(
        ClassificationAugmentation(), prefix=""
    )
    network: ClassifierNetwork = group(ClassifierNetwork(), prefix="")
    batch_size: int = knob(128, "Images in a batch.", lower=1, upper=65536)
    microbatch: int = knob(0, "Images in memory at once; 0 is the batch.", lower=0)
    eval_batch_size: int = knob(256, "Images told at once.", lower=1, upper=65536)
    label_smoothing: float = knob(
        0.0, "Share of a label spread over all classes.", lower=0.0, upper=1.0
    )
    mixup: float = knob(0.0, "Blend pairs, λ ~ Beta(α, α); 0 is none.", lower=0.0)
    cutmix: float = knob(
        0.0,
        "Paste boxes of others, their area 1 - λ, λ ~ Beta(α, α); 0 is none.",
        lower=0.0,
    )
    optimizer: Optimizer = group(
        Optimizer(
            optimizer="sgd",
            lr=0.1,
            nesterov=True,
            weight_decay=5e-4,
            schedule="cosine",
            clip_norm=5.0,
        ),
        prefix="",
    )

    def __post_init__(self) -> None:
        """Checks what one knob cannot."""
        if self.mixup and self.cutmix:
            raise ValueError("--mixup and --cutmix exclude each other; give one")
        self.augmentation.check_stored(self.data.image_size)

    def streams(self, split: str, seed: int) -> Mapping[str, Stream]:
        """Shuffled whole batches of "train"; every image once of the other splits."""
        source = self.data.split(split)
        if source is None or not len(source):
            return {}
        if split != "train":
            return {"images": self.data.sweep(source, self.eval_batch_size)}
        return {"train": self.data.shuffled(source, self.batch_size, seed)}

    def init(self, key: jax.Array, batch: Any, sizes: Any) -> State:
        """Parameters, statistics, optimiser state and, if asked for, averages."""
        images = batch["train"]["image"][:1]
        self.augmentation.check(images.shape[1:], self._policy is not None)
        _, classes = sizes["train"]
        images = self.augmentation.test(images)
        params, rest = self.network.net(classes).init(key, images)
        tx, average = self.optimizer.make(self.steps), self.optimizer.average
        return make_state(params, rest, tx, average=average)

    def inputs(self) -> Mapping[str, Path]:
        """The file of the policy, where it has one."""
        path = self.augmentation.policy_file
        return {} if path is None else {"policy": path}

    @property
    def _policy(self) -> Any:
        return self.augmentation.make_policy(self.data.dataset)

    def phases(self, sizes: Any) -> list[Phase]:
        """One phase that minimises the cross-entropy."""
        _, classes = sizes["train"]
        network, colours = self.network.net(classes), self.network.taken_colours
        policy = self._policy

        def loss(params: Any, rest: Any, batch: Any, key: jax.Array) -> Any:
            rows = batch["train"]
            changing, mixing, drawing = jax.random.split(key, 3)
            images = self.augmentation.train(changing, rows["image"], policy, colours)
            targets = optax.smooth_labels(
                jax.nn.one_hot(rows["label"], classes), self.label_smoothing
            )
            images, targets = self._mixed(mixing, images, targets)
            logits, rest = network.apply(params, rest, images, train=True, key=drawing)
            nll = optax.softmax_cross_entropy(logits, targets)
            mean, metrics = classification_loss.over_valid(nll, logits, rows)
            return mean, (rest, metrics)

        tx, average = self.optimizer.make(self.steps), self.optimizer.average
        step = make_step(loss, tx, average=average, microbatch=self.microbatch)
        return [Phase("train", None, step)]

    def _mixed(
        self, key: jax.Array, images: jax.Array, targets: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        if self.mixup:
            return augment.mixup(key, images, targets, alpha=self.mixup)
        if self.cutmix:
            return augment.cutmix(key, images, targets, alpha=self.cutmix)
        return images, targets

    def inference(self, state: State) -> Any:
        """The averages where there are any, else the newest variables."""
        return state.variables

    def predict(self, variables: Any, batch: Mapping[str, Any]) -> jax.Array:
        """Logits (B, C) of the images of a batch."""
        params, rest = variables["params"], variables["rest"]
        network = self.network.net(self.network.classes(params))
        images = self.augmentation.test(batch["image"])
        return network.apply(params, rest, images, train=False)[0]

    def evaluate(
        self, state: Any, predict: Callable, batches: Mapping, sizes: Any
    ) -> dict[str, float]:
        """Accuracy, error, log-loss, calibration error and, of many classes, top 5."""
        logits, columns = collect(predict, swept(batches))
        return classification_measures.measures(logits, columns["label"])

    def classwise(
        self, state: Any, predict: Callable, batches: Mapping, sizes: Any
    ) -> dict[str, np.ndarray]:
        """The accuracy of each class of the split, in the order of the labels."""
        logits, columns = collect(predict, swept(batches))
        counts = classification_measures.confusion(logits, columns["label"])
        present = counts.sum(axis=1) > 0
        return {"accuracy": (counts.diagonal() / np.maximum(counts.sum(1), 1))[present]}

    def figures(
        self, state: Any, predict: Callable, batches: Mapping
    ) -> dict[str, Any]:
        """Confusion matrix, reliability, the surest mistakes, augmented images."""
        sweep = swept(batches)
        logits, columns = collect(predict, sweep)
        labels, names = columns["label"], sweep.names
        probabilities = np.asarray(jax.nn.softmax(logits))
        counts = classification_measures.confusion(logits, labels)
        shown = files.surest_mistakes(probabilities, labels, SHEET_IMAGES)
        bins = classification_measures.calibration(probabilities, labels)
        found: dict[str, Any] = {
            "confusion": class_figures.confusion_matrix(
                counts, title="Predictions by class, in percent", names=names
            ),
            "reliability": class_figures.reliability_diagram(
                *bins, title="Reliability"
            ),
            "augmented": self._augmented(sweep),
        }
        if len(shown):
            found["mistakes"] = figures.picture_grid(
                sweep.read(columns["index"][shown])["image"],
                [
                    f"{files.named(names, labels[row])}: "
                    f"{files.told(names, probabilities[row])}"
                    for row in shown
                ],
            )
        return found

    def _augmented(self, sweep: Any) -> Any:
        """Images of a split as training would see them, each beside itself."""
        rows = np.linspace(0, sweep.examples - 1, min(8, sweep.examples)).astype(int)
        images = sweep.read(rows)["image"]
        colours, policy = self.network.taken_colours, self._policy
        changed = [
            np.clip(_changed(self.augmentation, colours, policy, key, images), 0, 1)
            for key in jax.random.split(jax.random.key(0), 5)
        ]
        own = np.asarray(self.augmentation.test(jnp.asarray(images)))
        cells = np.stack([own, *changed], axis=1)
        captions = ["image", *["augmented"] * 5] * len(rows)
        flat = cells.reshape(-1, *cells.shape[2:])
        return figures.picture_grid(flat, captions, columns=6)

    def read_files(self, paths: Sequence[Path], *, max_pixels: int) -> Stream:
        """A user's own images, fitted as in training."""
        return image_files.stream(self.data, paths, self.eval_batch_size, max_pixels)

    write = staticmethod(files.write)

    def smoke(self) -> "Classification":
        """The same task on tiny made-up images, the network narrow."""
        crop = self.augmentation.crop_size
        return dataclasses.replace(
            self,
            data=self.data.smoke(image_size=36 if crop else 32),
            augmentation=self.augmentation.smoke(),
            network=self.network.smoke(),
            batch_size=8,
            microbatch=4 if self.microbatch else 0,
            eval_batch_size=16,
        )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _changed(
    augmentation: ClassificationAugmentation,
    colours: str,
    policy: Any,
    key: jax.Array,
    images: jax.Array,
) -> jax.Array:
    """Images as training sees them, compiled once for all pictures of a run."""
    return augmentation.train(key, images, policy, colours)
