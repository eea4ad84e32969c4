"""Losses on pairs and miners beside those of pytorch-metric-learning, in float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metric

pytest.importorskip("pytorch_metric_learning")
torch = pytest.importorskip("torch")
from pytorch_metric_learning import distances, losses, miners  # noqa: E402

RAW = distances.DotProductSimilarity(normalize_embeddings=False)


def _batch(seed, width=8):
    """Classes of 2, 3, 4 and 5 items and one item alone, near their centres."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(5), [2, 3, 4, 5, 1]))
    x = rng.standard_normal((5, width))[labels] + rng.standard_normal((15, width))
    return x.astype("f"), labels


def _peer(loss, miner, x, labels, **given):
    rows, names = torch.tensor(x, requires_grad=True), torch.tensor(labels)
    mined = miner(rows, names) if miner else None
    value = loss(rows, names, mined, **given)
    value.backward()
    return value.item(), rows.grad.numpy()


def _agrees(f, theirs, x, *args):
    value, slope = jax.jit(jax.value_and_grad(f))(jnp.asarray(x), *args)
    np.testing.assert_allclose(value, theirs[0], rtol=1e-5)
    np.testing.assert_allclose(slope, theirs[1], atol=2e-5 * np.abs(slope).max())
    assert value > 0.01


PAIRS = {
    "triplet": (metric.triplet_loss, losses.TripletMarginLoss(0.2), None),
    "triplet semihard": (
        functools.partial(metric.triplet_loss, kind="semihard", margin=0.3),
        losses.TripletMarginLoss(0.3),
        miners.TripletMarginMiner(0.3, "semihard"),
    ),
    "triplet hard": (
        functools.partial(metric.triplet_loss, kind="hard"),
        losses.TripletMarginLoss(0.2),
        miners.BatchHardMiner(),
    ),
    "lifted structure": (
        metric.lifted_structure_loss, losses.LiftedStructureLoss(), None,
    ),
    "multi-similarity": (
        metric.multi_similarity_loss, losses.MultiSimilarityLoss(), None,
    ),
    "supcon": (metric.supcon_loss, losses.SupConLoss(0.1), None),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_loss_and_gradient_agree(name):
    f, peer, miner = PAIRS[name]
    for seed in range(2):
        x, labels = _batch(seed)
        _agrees(f, _peer(peer, miner, x, labels), x, labels)


@pytest.mark.parametrize("name", ["triplet", "lifted structure", "supcon"])
def test_duplicates_count_alike(name):
    x, labels = _batch(2)
    other = np.flatnonzero(labels != labels[0])[0]
    x[other] = x[0]
    f, peer, miner = PAIRS[name]
    value, _ = _peer(peer, miner, x, labels)
    np.testing.assert_allclose(f(x, labels), value, rtol=1e-5)


@pytest.mark.parametrize("name", ["triplet", "lifted structure", "multi-similarity"])
def test_loss_on_mined_pairs_agrees(name):
    x, labels = _batch(3)
    f, peer, _ = PAIRS[name]
    theirs = _peer(peer, miners.MultiSimilarityMiner(), x, labels)

    def mined(x, labels):
        return f(x, labels, pairs=metric.multi_similarity_pairs(x, labels))

    _agrees(mined, theirs, x, labels)


def test_margin_loss_agrees_once_pairs_are_weighed_by_their_triplets():
    """The peer sees triplets, in which a pair occurs once for every third item."""
    x, labels = _batch(4)
    same = labels[:, None] == labels
    positives, negatives = same.sum(1, keepdims=True) - 1, (~same).sum(1, keepdims=True)
    weights = np.where(same, negatives, positives).astype("f")
    theirs = _peer(losses.MarginLoss(0.2, beta=1.1), None, x, labels)
    f = functools.partial(metric.margin_loss, beta=1.1, weights=weights)
    _agrees(f, theirs, x, labels)


def test_n_pair_loss_agrees_on_the_pair_that_the_peer_takes_of_each_class():
    x, labels = _batch(5)
    where = [np.flatnonzero(labels == c)[:2] for c in range(4)]  # its first two
    anchors, positives = np.array(where).T
    theirs = _peer(losses.NPairsLoss(distance=RAW), None, x, labels)
    classes = np.arange(4)

    def f(x):
        given = {"ref": x[positives], "ref_labels": classes}
        return metric.n_pair_loss(x[anchors], classes, **given)

    _agrees(f, theirs, x)


def test_the_peer_lifts_references_by_the_wrong_rows():
    """It takes a reference's number for that of a row of the batch; order matters."""
    (x, labels), (ref, names) = _batch(6), _batch(7)
    order = np.random.default_rng(8).permutation(15)
    theirs, ours = [], []
    for rows in (np.arange(15), order):
        given = {"ref_emb": torch.tensor(ref[rows])}
        given["ref_labels"] = torch.tensor(names[rows])
        theirs.append(_peer(losses.LiftedStructureLoss(), None, x, labels, **given)[0])
        given = {"ref": ref[rows], "ref_labels": names[rows]}
        ours.append(metric.lifted_structure_loss(x, labels, **given))
    assert abs(theirs[0] - theirs[1]) > 1e-3
    np.testing.assert_allclose(ours[0], ours[1], rtol=1e-6)


def _mask(rows, columns):
    mask = np.zeros((15, 15), bool)
    mask[rows.numpy(), columns.numpy()] = True
    return mask


MINERS = {
    "multi-similarity": (metric.multi_similarity_pairs, miners.MultiSimilarityMiner()),
    "hard": (metric.hard_pairs, miners.BatchHardMiner()),
    "semi-hard": (
        metric.semi_hard_pairs, miners.TripletMarginMiner(0.2, "semihard"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MINERS)
def test_mined_pairs_agree(name):
    f, miner = MINERS[name]
    x, labels = _batch(9)
    mined = miner(torch.tensor(x), torch.tensor(labels))
    rows = (mined[0], mined[2] if len(mined) == 4 else mined[0])
    wanted = _mask(rows[0], mined[1]), _mask(rows[1], mined[-1])
    np.testing.assert_array_equal(f(x, labels), wanted)


def test_distance_weighted_negatives_have_the_frequencies_of_the_peer():
    x, labels = _batch(10)
    torch.manual_seed(0)
    theirs, miner = np.zeros((15, 15)), miners.DistanceWeightedMiner()
    for _ in range(600):
        rows, _, columns = miner(torch.tensor(x), torch.tensor(labels))
        np.add.at(theirs, (rows.numpy(), columns.numpy()), 1)
    keys = jax.random.split(jax.random.key(0), 2000)
    first = np.zeros((15, 15), bool)  # one positive each: one draw each
    for i in range(15):
        first[i, np.flatnonzero((labels == labels[i]) & (np.arange(15) != i))[:1]] = 1
    pairs = first, labels[:, None] != labels

    def draw(key):
        return metric.distance_weighted_pairs(key, x, pairs=pairs)[1]

    ours = np.mean(jax.jit(jax.vmap(draw))(keys), axis=0)
    rows = theirs.sum(axis=1) > 0
    theirs = theirs[rows] / theirs[rows].sum(axis=1, keepdims=True)
    assert rows.sum() == 14
    np.testing.assert_allclose(ours[rows], theirs, atol=0.08)


def test_the_peer_loses_all_negatives_where_one_pair_is_far():
    """It scales chances by the largest, which a pair out of reach may have."""
    x = np.random.default_rng(11).standard_normal((8, 512)) + 10 * np.eye(512)[0]
    x[7] = 0.3 * x[7] - x[0]
    x, labels = x.astype("f"), np.arange(8) // 2
    theirs = miners.DistanceWeightedMiner()(torch.tensor(x), torch.tensor(labels))
    assert len(theirs[0]) == 0
    _, negative = metric.distance_weighted_pairs(jax.random.key(0), x, labels)
    assert (negative[:6].sum(axis=1) == 1).all()
