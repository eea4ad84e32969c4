"""A search for an augmentation policy beside the training of a network (DADA)."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

import augment
from jaxfaces.data.sources import Source
from jaxfaces.data.streams import Stream
from jaxfaces.engine.config import group, knob
from jaxfaces.engine.evaluation import collect
from jaxfaces.engine.optimizers import Optimizer
from jaxfaces.engine.steps import State, make_state, updated
from jaxfaces.engine.task import Phase
from jaxfaces.models import layers
from jaxfaces.tasks import (
    classification_loss,
    classification_measures,
    search_data,
    search_images,
    search_measures,
    search_state,
    search_step,
)
from jaxfaces.tasks.classified_images import ClassifiedImages, swept
from jaxfaces.tasks.classifier_network import ClassifierNetwork
from jaxfaces.tasks.image_framing import ImageFraming
from jaxfaces.tasks.search_settings import SearchSettings

SNAPSHOTS = 64  # of the policy, over a run
BEST = 25  # sub-policies that a search is read out as


class SearchState(State):
    """What is trained, and the search: see `search_state.Search`."""

    search: Any = None


@dataclasses.dataclass(frozen=True)
class PolicySearch:
    """Learns which operations, how likely and how strong, make validation easier."""

    monitor: ClassVar[str] = "max:accuracy"
    remedies: ClassVar[Mapping[str, str]] = {
        "policy_norm": "a lower --policy_lr (the weights are finite, the policy is not)"
    }

    steps: int = knob(300, "Length of the run in steps.", lower=1)
    data: ClassifiedImages = group(ClassifiedImages(validation_fraction=0.5), prefix="")
    rotate_validation: float = knob(
        0.0,
        "Turn the validation images by so many degrees: what a search should find.",
        lower=-180.0,
        upper=180.0,
    )
    inverted_classes: bool = knob(
        False,
        "Invert every other image of all splits, and call it a class of its own: "
        "Invert is what a search should avoid.",
    )
    framing: ImageFraming = group(ImageFraming(), prefix="")
    network: ClassifierNetwork = group(ClassifierNetwork(), prefix="")
    search: SearchSettings = group(SearchSettings(), prefix="")
    batch_size: int = knob(
        128, "Images in a batch, to train and to validate.", lower=1, upper=65536
    )
    eval_batch_size: int = knob(256, "Images told at once.", lower=1, upper=65536)
    optimizer: Optimizer = group(
        Optimizer(
            optimizer="sgd",
            lr=0.1,
            weight_decay=2e-4,
            schedule="cosine",
            lr_end=0.01,
            clip_norm=5.0,
        ),
        prefix="",
    )

    def __post_init__(self) -> None:
        """Checks what one knob cannot."""
        if self.optimizer.optimizer != "sgd" or self.optimizer.nesterov:
            raise ValueError(
                "--optimizer must be sgd and --nesterov false: a search looks one step "
                "of plain momentum ahead"
            )
        if not self.data.validation_fraction:
            raise ValueError(
                "--validation_fraction=0 leaves no images to judge policies by"
            )
        self.framing.check_stored(self.data.image_size)

    def streams(self, split: str, seed: int) -> Mapping[str, Stream]:
        """Shuffled whole batches of both halves to train; every image once else."""
        found = self._streams(split, seed)
        if not self.inverted_classes:
            return found
        return {name: search_data.of_both(stream) for name, stream in found.items()}

    def _streams(self, split: str, seed: int) -> Mapping[str, Stream]:
        source = self._source(split)
        if source is None or not len(source):
            return {}
        if split != "train":
            return {"images": self.data.sweep(source, self.eval_batch_size)}
        held = self._source("validation")
        assert held is not None
        if len(held) < self.batch_size:
            raise ValueError(
                f"--validation_fraction={self.data.validation_fraction} leaves "
                f"{len(held)} images, fewer than --batch_size={self.batch_size}"
            )
        judged = self.data.shuffled(held, self.batch_size, search_data.other(seed))
        if self.search.estimator == "official":
            judged = search_data.always_first(judged)
        return {
            "train": self.data.shuffled(source, self.batch_size, seed),
            "validation": judged,
        }

    def _source(self, split: str) -> Source | None:
        """The images of a split with what is planted in them."""
        source = self.data.split(split)
        if source is not None and split == "validation":
            source = search_data.turned(source, self.rotate_validation)
        if source is not None and self.inverted_classes:
            source = search_data.inverted(source, self.data.classes)
        return source

    def init(self, key: jax.Array, batch: Any, sizes: Any) -> SearchState:
        """Network, optimiser and averages, the first policy, an empty history."""
        images = batch["train"]["image"][:1]
        self.framing.check(images.shape[1:], policy=True)
        drawing, searching = jax.random.split(key)
        shown = self._standardised(self.framing.test(images))
        params, rest = self._net(sizes["train"][1]).init(drawing, shown)
        average = self.optimizer.average
        first = make_state(params, rest, self._tx, average=average)
        found = search_state.first_search(
            self.search, searching, min(SNAPSHOTS, self.steps)
        )
        return SearchState(
            first.step, first.params, first.rest, first.opt, first.average, found
        )

    @property
    def _tx(self) -> optax.GradientTransformation:
        return self.optimizer.make(self.steps)

    def _net(self, classes: int) -> Any:
        """The network for standardised images: cutout and levels act on those."""
        return dataclasses.replace(self.network, colours="none").net(classes)

    def _standardised(self, images: jax.Array) -> jax.Array:
        return layers.standardize(images, self.network.taken_colours)

    def phases(self, sizes: Any) -> list[Phase]:
        """One phase whose step improves the policy and then the weights."""
        step = functools.partial(self._step, self._net(sizes["train"][1]))
        return [Phase("train", None, step, streams=("train", "validation"))]

    def _step(
        self, network: Any, state: SearchState, batch: Any, key: jax.Array
    ) -> tuple[SearchState, Mapping]:
        settings, search = self.search, state.search
        drawing, changing, training, validating = jax.random.split(key, 4)
        policy = search.policy
        draws = augment.policy_draws(
            drawing, policy["logits"], policy["probabilities"], count=settings.draws
        )
        images, draw = self._drawn(changing, policy, draws, batch["train"]["image"])
        smooth = functools.partial(images.smooth, draw)
        temperature = settings.temperature_at(state.step, self.steps)
        verdict = search_step.judge(
            settings,
            self._trial(network, state, batch, training, validating),
            policy,
            draws,
            images.changed(draw),
            temperature,
            smooth if settings.level_gradient == "smooth" else None,
        )
        search, square = search_step.improve(
            settings, search, draws, verdict, temperature
        )
        search = search_state.remembered(search, verdict.values, state.step, self.steps)
        rest, metrics = verdict.train_aux
        gradient, average = verdict.train_gradient, self.optimizer.average
        after = updated(state, self._tx, gradient, rest, average=average)
        return after.replace(search=search), {
            "grad_norm": (optax.tree.norm(gradient), 1),
            "param_norm": (optax.tree.norm(after.params), 1),
            **metrics,
            "validation_loss": (verdict.before, 1),
            "step_value": (jnp.sum(verdict.values), settings.draws),
            "policy_grad_square": (square, 1),
            **search_measures.of_step(settings, policy, search.policy),
        }

    def _drawn(
        self, key: jax.Array, policy: Any, draws: augment.PolicyDraws, images: Any
    ) -> tuple[search_images.SearchImages, augment.Draw]:
        """The images as draws find them, and the draws as what acts on them."""
        draw = augment.make_draw(
            search_state.as_policy(self.search, policy),
            draws.sub_policies,
            draws.applied,
        )
        colours, count = self.network.taken_colours, len(draws.sub_policies)
        found = search_images.search_images(
            self.framing, colours, key, images, draws=count
        )
        return found, draw

    def _trial(
        self,
        network: Any,
        state: SearchState,
        batch: Any,
        training: jax.Array,
        validating: jax.Array,
    ) -> search_step.Trial:
        """The step that draws are tried on, with a key for either pass."""
        loss = functools.partial(classification_loss.of_network, network, state.rest)
        held, momentum = batch["validation"], self.optimizer.momentum
        judged = self._standardised(self.framing.test(held["image"]))
        return search_step.Trial(
            train=functools.partial(loss, training, batch["train"]),
            validation=lambda params: loss(validating, held, params, judged),
            params=state.params,
            buffer=optax.tree.get(state.opt, "trace") if momentum else None,
            rate=self.optimizer.rate(self.steps)(state.step),
            momentum=momentum,
            weight_decay=self.optimizer.weight_decay,
        )

    def inference(self, state: SearchState) -> Any:
        """The network's averages where there are any, else its newest variables."""
        return state.variables

    def predict(self, variables: Any, batch: Mapping[str, Any]) -> jax.Array:
        """Logits (B, C) of the images of a batch."""
        params, rest = variables["params"], variables["rest"]
        network = self._net(self.network.classes(params))
        images = self._standardised(self.framing.test(batch["image"]))
        return network.apply(params, rest, images, train=False)[0]

    def evaluate(
        self, state: Any, predict: Callable, batches: Mapping, sizes: Any
    ) -> dict[str, float]:
        """How well images are told, and what has become of the policy."""
        logits, columns = collect(predict, swept(batches))
        told = classification_measures.measures(logits, columns["label"])
        found = search_measures.measures(self.search, state.search.policy)
        return {name: told[name] for name in ("accuracy", "log_loss")} | found

    def remarks(self, state: SearchState) -> list[str]:
        """Words for a policy that has lost what it could choose or apply."""
        return search_measures.remarks(jax.device_get(state.search.policy))

    def texts(self, state: SearchState) -> dict[str, str]:
        """The whole distribution, its best sub-policies in words."""
        policy = search_state.as_policy(self.search, state.search.policy)
        return {"policy.json": augment.policy_text(policy, best=BEST)}

    def figures(
        self, state: SearchState, predict: Callable, batches: Mapping
    ) -> dict[str, Any]:
        """The policy over time, its operations, images as it changes them."""
        sweep, done = swept(batches), int(state.step)
        rows = np.linspace(
            0, sweep.examples - 1, min(search_measures.IMAGES, sweep.examples)
        )
        images = sweep.read(rows.astype(int))["image"]
        policy = search_state.as_policy(self.search, state.search.policy)
        return {
            **search_measures.charts(self.search, state.search, done, self.steps),
            "augmented": search_measures.samples(policy, images),
        }

    def smoke(self) -> "PolicySearch":
        """The same task on tiny made-up images, the network narrow."""
        crop = self.framing.crop_size
        return dataclasses.replace(
            self,
            data=dataclasses.replace(
                self.data.smoke(image_size=36 if crop else 32), validation_fraction=0.5
            ),
            framing=self.framing.smoke(),
            # Derivatives of second order of a deep one take minutes to compile.
            network=dataclasses.replace(self.network.smoke(), network="wrn_10_1"),
            batch_size=8,
            eval_batch_size=16,
        )
