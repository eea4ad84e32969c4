"""Re-identification in video: features of tracklets, by attention to their frames."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import metric
from jaxfaces.data import streams
from jaxfaces.data.streams import Stream
from jaxfaces.data.tracklets import Tracklets
from jaxfaces.engine import net
from jaxfaces.engine.config import group, knob
from jaxfaces.engine.optimizers import Optimizer
from jaxfaces.engine.steps import State, make_state, make_step
from jaxfaces.engine.task import Phase
from jaxfaces.imaging import figures
from jaxfaces.tasks.image_augmentation import ImageAugmentation, check_crop
from jaxfaces.tasks.tracklet_data import TrackletData
from jaxfaces.tasks.tracklet_means import Means, tracklet_means
from jaxfaces.tasks.video_losses import VideoLosses
from jaxfaces.tasks.video_network import SupervisedNetwork

SHEET_QUERIES, SHEET_RESULTS = 8, 8


@dataclasses.dataclass(frozen=True)
class VideoRetrieval:
    """Learns to find a person's tracklets again in the views of other cameras."""

    monitor: ClassVar[str] = "max:map"

    steps: int = knob(1000, "Length of the run in steps.", lower=1)
    data: TrackletData = group(TrackletData(), prefix="")
    augmentation: ImageAugmentation = group(ImageAugmentation(), prefix="")
    network: SupervisedNetwork = group(SupervisedNetwork(), prefix="")
    losses: VideoLosses = group(VideoLosses(), prefix="")
    identities_per_batch: int = knob(3, "People in a batch.", lower=1, upper=65536)
    tracklets_per_identity: int = knob(
        2, "Tracklets of each of them.", lower=1, upper=65536
    )
    frames_per_tracklet: int = knob(9, "Frames of each.", lower=1, upper=65536)
    min_tracklets: int = knob(1, "Leave people with fewer tracklets out.", lower=1)
    optimizer: Optimizer = group(Optimizer(), prefix="")
    bias_lr_multiplier: float = knob(2.0, "Of the classifiers' biases.", lower=0.0)
    eval_batch_size: int = knob(256, "Frames embedded at once.", lower=1, upper=65536)
    cmc_ks: tuple[int, ...] = knob((1, 5, 10, 20), "The k of CMC-k.", lower=1)
    ap: str = knob(
        "plain",
        "Average precision, or the area below a line as in the scripts of MARS.",
        choices=("plain", "trapezoid"),
    )
    junk: tuple[int, ...] = knob((-1,), "People who count for nothing.")
    distractors: tuple[int, ...] = knob((0,), "People whom nobody asks for.")

    def __post_init__(self) -> None:
        """Checks what one knob cannot."""
        size, crop = self.data.image_size, self.augmentation.crop_size
        check_crop(crop, size)
        if crop or size:
            self.network.backbone.check_side(crop or size)
        if both := set(self.junk) & set(self.distractors):
            raise ValueError(f"--junk and --distractors share {min(both)}")

    def streams(self, split: str, seed: int) -> Mapping[str, Stream]:
        """Tracklets of a few people of "train"; of other splits every frame once."""
        found = self.data.split(split)
        if found is None:
            return {}
        if split == "train":
            return {"train": self._balanced(found, seed)}
        frames, size = found.frames, self.eval_batch_size
        plan = streams.ordered_plan(len(frames), size)
        sweep = streams.batches_to_cover(len(frames), size)
        people = len(np.unique(found.people[frames.labels]))
        counts = (len(frames), people, sweep, frames.skipped)
        return {"frames": Stream(plan, found.read, *counts, frames.in_memory)}

    def _balanced(self, found: Tracklets, seed: int) -> Stream:
        frames = found.frames
        people, labels = np.unique(found.people[frames.labels], return_inverse=True)
        plan = metric.tracklet_plan(
            labels,
            frames.labels,
            identities_per_batch=self.identities_per_batch,
            tracklets_per_identity=self.tracklets_per_identity,
            frames_per_tracklet=self.frames_per_tracklet,
            seed=seed,
            min_tracklets=self.min_tracklets,
        )
        sweep = metric.tracklet_epoch_batches(
            labels, frames.labels, self.identities_per_batch, self.min_tracklets
        )
        read = functools.partial(_read, frames.pixels, labels.astype(np.int32))
        counts = (len(frames), len(people), sweep, frames.skipped)
        return Stream(plan, read, *counts, frames.in_memory)

    def _net(self, classes: int) -> net.Net:
        return net.from_linen(self.network.make(classes))

    def _optimizer(self) -> Any:
        def multiplier(path: tuple) -> float:
            layer, kind = path[-2].key, path[-1].key
            bias = "classifier" in layer and kind == "bias"
            return self.bias_lr_multiplier if bias else 1.0

        return self.optimizer.make(self.steps, multiplier)

    def init(self, key: jax.Array, batch: Any, sizes: Any) -> State:
        """Parameters, statistics, optimiser state and, if asked for, averages."""
        images = self.augmentation.test(batch["train"]["image"][:1])
        _, classes = sizes["train"]
        frame_key, tracklet_key = jax.random.split(key)
        params, rest = self._net(classes).init(frame_key, images)
        features = jnp.zeros((1, self.network.embedding_size))
        beside = _classifier(classes).init(tracklet_key, features)["params"]
        everything = {"frames": params, "tracklet_classifier": beside}
        average = self.optimizer.average
        return make_state(everything, rest, self._optimizer(), average=average)

    def phases(self, sizes: Any) -> list[Phase]:
        """One phase that minimises the sum of six losses."""
        _, classes = sizes["train"]
        network, over_tracklets = self._net(classes), _classifier(classes).apply

        def loss(params: Any, rest: Any, batch: Any, key: jax.Array) -> Any:
            rows = batch["train"]
            images = self.augmentation.train(key, rows["image"])
            frames, rest = network.apply(params["frames"], rest, images, train=True)
            classify: Callable[..., Any] = functools.partial(
                over_tracklets, {"params": params["tracklet_classifier"]}
            )
            terms = self.losses.of(
                frames,
                classify,
                rows["label"],
                rows["valid"],
                frames_per_tracklet=self.frames_per_tracklet,
            )
            value: Any = sum(terms.values())
            values = {"loss": value} | terms
            return value, (rest, {name: (each, 1) for name, each in values.items()})

        step = make_step(loss, self._optimizer(), average=self.optimizer.average)
        return [Phase("train", None, step)]

    def imported(self, fresh: Mapping[str, Any]) -> Any:
        """The backbone of `--pretrained`."""
        return self.network.backbone.imported(fresh)

    def inference(self, state: State) -> Any:
        """The averages where there are any, else the newest variables."""
        return state.variables

    def predict(self, variables: Any, batch: Mapping[str, Any]) -> jax.Array:
        """Raw embeddings (B, D) of the frames of a batch; no label is asked for."""
        images = self.augmentation.test(batch["image"])
        params, rest = variables["params"], variables["rest"]
        classes = params["tracklet_classifier"]["bias"].shape[0]
        found, _ = self._net(classes).apply(params["frames"], rest, images, train=False)
        return found.embedding

    def evaluate(
        self, state: Any, predict: Callable, batches: Mapping, sizes: Any
    ) -> dict[str, float]:
        """Match characteristic and mean average precision across cameras."""
        found = tracklet_means(predict, batches["frames"])
        queries = found.chosen(found.columns["query"])
        gallery = found.chosen(found.columns["gallery"])
        measures = metric.reid_measures(
            queries.features,
            queries.columns["label"],
            queries.columns["camera"],
            gallery.features,
            gallery.columns["label"],
            gallery.columns["camera"],
            ks=self.cmc_ks,
            junk=self.junk,
            distractors=self.distractors,
            ap=self.ap,  # type: ignore[arg-type]
        )
        dropped = measures.pop("num_dropped")
        cmc = {f"cmc_at_{k}": v for k, v in measures.pop("cmc_at_k").items()}
        return measures | cmc | ({"num_dropped": dropped} if dropped else {})

    def figures(
        self, state: Any, predict: Callable, batches: Mapping
    ) -> dict[str, Any]:
        """Tracklets that ask, and those nearest, each by its first frame."""
        sweep = batches["frames"]
        found = tracklet_means(predict, sweep)
        columns = found.columns
        known = ~np.isin(columns["label"], (*self.junk, *self.distractors))
        asks = np.flatnonzero(columns["query"] & known)
        if not len(asks):
            return {}
        asks = asks[np.linspace(0, len(asks) - 1, SHEET_QUERIES).astype(int)]
        nearest = _nearest(found, asks, self.junk)
        cells = np.concatenate([asks[:, None], nearest], axis=1)
        images = sweep.read(columns["index"][cells].reshape(-1))["image"]
        images = images.reshape(*cells.shape, *images.shape[1:])
        hits = columns["label"][nearest] == columns["label"][asks][:, None]
        return {"neighbours": figures.contact_sheet(images[:, 0], images[:, 1:], hits)}

    def smoke(self) -> "VideoRetrieval":
        """The same task on tiny made-up tracklets, the network narrow."""
        crop = 32 if self.augmentation.crop_size else 0
        return dataclasses.replace(
            self,
            data=self.data.smoke(),
            augmentation=dataclasses.replace(self.augmentation, crop_size=crop),
            network=self.network.smoke(),
            frames_per_tracklet=3,
            eval_batch_size=64,
        )


def _classifier(classes: int) -> nn.Module:
    """The tracklets' own linear classifier; the frames have three others."""
    return nn.Dense(classes, kernel_init=nn.initializers.xavier_uniform())


def _read(
    pixels: Callable[[np.ndarray], np.ndarray], labels: np.ndarray, rows: np.ndarray
) -> dict[str, np.ndarray]:
    return {"image": pixels(rows), "label": labels[rows]}


def _nearest(found: Means, asks: np.ndarray, junk: tuple[int, ...]) -> np.ndarray:
    """For each of the tracklets that ask the nearest that count, by the camera rule."""
    columns = found.columns
    unit = np.asarray(metric.normalize(jnp.asarray(found.features)))
    similarity = unit[asks] @ unit.T
    person, camera = columns["label"], columns["camera"]
    same = (person[asks][:, None] == person) & (camera[asks][:, None] == camera)
    hidden = same | ~columns["gallery"] | np.isin(person, junk)
    order = np.argsort(np.where(hidden, np.inf, -similarity), axis=1, kind="stable")
    return order[:, : min(SHEET_RESULTS, int(np.min(np.sum(~hidden, axis=1))))]
