"""What `--loss`, `--miner`, `--memory` and `--classification` make of embeddings."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metric
from jaxfaces.engine import config
from jaxfaces.tasks import embedding_losses
from jaxfaces.tasks.embedding_losses import EmbeddingLoss

CLASSES, KEY = 3, jax.random.key(0)


def batch(branches=("H",)):
    rng = np.random.default_rng(0)
    embeddings = {
        name: jnp.asarray(rng.standard_normal((6, 4)), jnp.float32) for name in branches
    }
    rows = {"label": jnp.arange(6) % CLASSES, "valid": jnp.arange(6) < 5}
    return embeddings, rows


def computed(objective, branches=("H",), logits=None):
    embeddings, rows = batch(branches)
    sizes = {name: 4 for name in embeddings}
    params = objective.init(KEY, CLASSES, sizes, logits is not None)
    found = objective(params, objective.remember(sizes), embeddings, rows, KEY, logits)
    return params, embeddings, rows, found


@pytest.mark.parametrize("name", sorted(embedding_losses._PAIRS))
def test_a_loss_over_pairs_is_that_of_the_metric_wing_at_its_defaults(name):
    _, embeddings, rows, (value, memory, metrics) = computed(EmbeddingLoss(loss=name))
    loss = getattr(metric, embedding_losses._PAIRS[name])
    how = {"kind": "semihard"} if name == "triplet" else {}
    wanted = loss(embeddings["H"], rows["label"], valid=rows["valid"], **how)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    assert memory == {} and list(metrics) == ["loss"]


@pytest.mark.parametrize("name", sorted(embedding_losses._CLASSES))
def test_a_loss_over_classes_brings_its_class_vectors(name):
    params, embeddings, rows, (value, _, _) = computed(EmbeddingLoss(loss=name))
    vectors = params["class_vectors"]["H"]
    chex.assert_shape(vectors, (CLASSES, 4))
    loss = getattr(metric, embedding_losses._CLASSES[name])
    wanted = loss(embeddings["H"], rows["label"], vectors, valid=rows["valid"])
    np.testing.assert_allclose(value, wanted, rtol=1e-6)


def test_the_settings_are_the_keywords_of_the_losses():
    objective = EmbeddingLoss()
    for name, function in (embedding_losses._PAIRS | embedding_losses._CLASSES).items():
        settings = {f.name for f in dataclasses.fields(getattr(objective, name))}
        known = getattr(metric, function).__kwdefaults__
        assert settings - {"simpler"} <= set(known), name


@pytest.mark.parametrize("miner", sorted(embedding_losses._MINERS))
def test_a_miner_chooses_the_pairs(miner):
    _, embeddings, rows, (value, _, _) = computed(
        EmbeddingLoss(loss="contrastive", miner=miner)
    )
    mine = getattr(metric, embedding_losses._MINERS[miner])
    first = (KEY,) if miner == "distance_weighted" else ()
    x, given = embeddings["H"], {"valid": rows["valid"]}
    pairs = mine(*first, x, rows["label"], **given)
    wanted = metric.contrastive_loss(x, rows["label"], pairs=pairs, **given)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)


def test_a_memory_compares_with_the_batches_before():
    objective = EmbeddingLoss(loss="contrastive", memory=12)
    embeddings, rows = batch()
    memory = objective.remember({"H": 4})
    first, memory, _ = objective({}, memory, embeddings, rows, KEY)
    x, valid = embeddings["H"], rows["valid"]
    alone = metric.contrastive_loss(x, rows["label"], valid=valid)
    np.testing.assert_allclose(first, alone, rtol=1e-6)
    others = {"H": -2 * x[::-1]}
    second, memory, _ = objective({}, memory, others, rows, KEY)
    both = jnp.concatenate([x[:5], others["H"][:5]])
    wanted = metric.contrastive_loss(
        others["H"][:5],
        rows["label"][:5],
        ref=both,
        ref_labels=jnp.tile(rows["label"][:5], 2),
        itself=5 + jnp.arange(5),
    )
    np.testing.assert_allclose(second, wanted, rtol=1e-6)
    assert int(memory["H"]["valid"].sum()) == 10


def test_classification_stands_beside_the_loss_and_counts_hits():
    objective = EmbeddingLoss(
        loss="none", classification="cross_entropy", classification_weight=2.0
    )
    params, embeddings, rows, (value, _, metrics) = computed(objective)
    classifier = params["classifier"]["H"]
    logits = embeddings["H"] @ classifier["kernel"].T + classifier["bias"][None]
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, rows["label"])
    np.testing.assert_allclose(value, 2 * nll[:5].mean(), rtol=1e-6)
    hits, number = metrics["accuracy"]
    assert number == 5
    assert hits == (logits.argmax(1) == rows["label"])[:5].sum()


@pytest.mark.parametrize("of", ["context_vectors", "logits"])
def test_attention_looks_at_the_classifier(of):
    objective = EmbeddingLoss(
        loss="osm_caa", classification="confidence_weighted", attention_of=of
    )
    params, embeddings, rows, (value, _, metrics) = computed(objective)
    classifier, x = params["classifier"]["H"], embeddings["H"]
    logits = x @ classifier["kernel"].T + classifier["bias"][None]
    look = {"context_vectors": classifier["kernel"], "logits": logits}[of]
    given = {"valid": rows["valid"]}
    pairs = metric.osm_caa_loss(x, rows["label"], **{of: look}, **given)
    classes = metric.confidence_weighted_cross_entropy(logits, rows["label"], **given)
    np.testing.assert_allclose(value, pairs + classes, rtol=1e-6)
    np.testing.assert_allclose(metrics["osm_caa"][0], pairs, rtol=1e-6)


def test_every_classifier_of_the_network_pays_and_the_last_is_looked_at():
    objective = EmbeddingLoss(
        loss="osm_caa", classification="confidence_weighted", attention_of="logits"
    )
    rng = np.random.default_rng(1)
    logits = tuple(
        jnp.asarray(rng.standard_normal((6, 3)), jnp.float32) for _ in range(3)
    )
    params, embeddings, rows, (value, _, _) = computed(objective, ("M",), logits)
    assert params == {}
    given = {"valid": rows["valid"]}
    wanted = metric.osm_caa_loss(
        embeddings["M"], rows["label"], logits=logits[-1], **given
    ) + sum(
        metric.confidence_weighted_cross_entropy(each, rows["label"], **given)
        for each in logits
    )
    np.testing.assert_allclose(value, wanted, rtol=1e-6)


def test_branches_add_up_and_are_logged_apart():
    objective = EmbeddingLoss(loss="multi_similarity")
    _, embeddings, rows, (value, _, metrics) = computed(objective, ("H", "L"))
    each = [
        metric.multi_similarity_loss(x, rows["label"], valid=rows["valid"])
        for x in embeddings.values()
    ]
    np.testing.assert_allclose(value, sum(each), rtol=1e-6)
    np.testing.assert_allclose(metrics["multi_similarity_L"][0], each[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": "none"}, "needs --classification"),
        ({"loss": "osm_caa"}, "needs --classification"),
        ({"loss": "arcface", "miner": "hard"}, "--miner chooses pairs"),
        ({"loss": "cosface", "memory": 8}, "--memory does not go with"),
        ({"loss": "semi"}, "none of"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        config.check(config.replace(EmbeddingLoss(), changes))


def test_a_supervised_network_wants_its_logits_used():
    with pytest.raises(ValueError, match="--classification"):
        EmbeddingLoss().check_supervised()
    objective = EmbeddingLoss(loss="osm_caa", classification="cross_entropy")
    with pytest.raises(ValueError, match="--attention_of=logits"):
        objective.check_supervised()
    # A loss that looks at no classifier is free of that.
    dataclasses.replace(objective, loss="contrastive").check_supervised()
