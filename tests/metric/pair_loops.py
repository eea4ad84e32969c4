"""The losses on pairs and triplets as plain loops, for the tests of several modules."""

import functools

import jax
import numpy as np

import metric

BETAS = np.array([1.1, 1.25, 1.4])
CASES = {
    "triplet": {},
    "triplet semihard": {"kind": "semihard", "margin": 0.4},
    "triplet hard": {"kind": "hard"},
    "margin": {},
    "margin by class": {"beta": BETAS},
    "n_pair": {"l2": 0.1},
    "lifted_structure": {"pos_margin": 0.1},
    "multi_similarity": {},
    "supcon": {},
}


class Loops:
    """Oracles in plain loops, which also take complex rows.

    The derivative of such a function f is the imaginary part of f(x + 1e-30 i) / 1e-30,
    to the last digit.
    """

    def __init__(self, x, refs, positive, negative, weights, own, labels, unit):
        def rows(every):
            return [r / np.sqrt(np.sum(r * r)) if unit else r for r in every]

        self.x, self.refs, self.labels = rows(x), rows(refs), labels
        self.w, self.own = weights, own
        self.n, self.g = len(x), len(refs)
        self.p = [[j for j in range(self.g) if m[j]] for m in positive & (weights > 0)]
        self.k = [[j for j in range(self.g) if m[j]] for m in negative & (weights > 0)]

    def d(self, i, j):
        return np.sqrt(np.sum((self.x[i] - self.refs[j]) ** 2))

    def s(self, i, j):
        return np.sum(self.x[i] * self.refs[j])

    def triplet(self, *, margin=0.2, kind="all"):
        paid, number = 0.0, 0.0
        for i in range(self.n):
            near, far = self.p[i], self.k[i]
            if kind == "hard" and near and far:
                near = [max(near, key=lambda j, i=i: self.d(i, j).real)]
                far = [min(far, key=lambda j, i=i: self.d(i, j).real)]
            for j, k in ((j, k) for j in near for k in far):
                hinge = self.d(i, j) - self.d(i, k) + margin
                beyond = self.d(i, k).real > self.d(i, j).real
                if hinge.real > 0 and (kind != "semihard" or beyond):
                    paid += self.w[i, j] * self.w[i, k] * hinge
                    number += self.w[i, j] * self.w[i, k]
        return paid / number if number else 0.0

    def margin(self, *, beta=1.2, margin=0.2):
        paid, number = 0.0, 0.0
        for i in range(self.n):
            b = beta[self.labels[i]] if np.ndim(beta) else beta
            hinges = [(j, self.d(i, j) - b + margin) for j in self.p[i]]
            hinges += [(j, b - self.d(i, j) + margin) for j in self.k[i]]
            for j, hinge in hinges:
                if hinge.real > 0:
                    paid, number = paid + self.w[i, j] * hinge, number + self.w[i, j]
        return paid / number if number else 0.0

    def n_pair(self, *, l2=0.0):
        paid, number = 0.0, 0.0
        for i in range(self.n):
            for j in self.p[i]:
                crowd = [
                    self.w[i, k] * np.exp(self.s(i, k) - self.s(i, j))
                    for k in self.k[i]
                ]
                squares = np.sum(self.x[i] ** 2) + np.sum(self.refs[j] ** 2)
                paid += self.w[i, j] * (np.log(1 + sum(crowd)) + l2 / 2 * squares)
                number += self.w[i, j]
        return paid / number if number else 0.0

    def lifted_structure(self, *, neg_margin=1.0, pos_margin=0.0):
        paid, number = 0.0, 0.0
        for i in range(self.n):
            for j in self.p[i]:
                touching = [(i, k) for k in self.k[i]]
                if self.own:
                    touching += [(j, k) for k in self.k[j]]
                else:
                    touching += [(k, j) for k in range(self.n) if j in self.k[k]]
                crowd = sum(
                    self.w[pair] * np.exp(neg_margin - self.d(*pair))
                    for pair in touching
                )
                number += self.w[i, j]
                if crowd != 0:
                    hinge = np.log(crowd) + self.d(i, j) - pos_margin
                    paid += self.w[i, j] * hinge**2 / 2 if hinge.real > 0 else 0
        return paid / number if number else 0.0

    def multi_similarity(self, *, alpha=2.0, beta=50.0, base=0.5):
        value = 0.0
        for i in range(self.n):
            for t, those in ((-alpha, self.p[i]), (beta, self.k[i])):
                crowd = [
                    self.w[i, j] * np.exp(t * (self.s(i, j) - base)) for j in those
                ]
                value += np.log(1 + sum(crowd)) / abs(t)
        return value / self.n

    def supcon(self, *, temperature=0.1):
        paid = []
        for i in range(self.n):
            if not (self.p[i] and self.k[i]):
                continue
            crowd = sum(
                self.w[i, j] * np.exp(self.s(i, j) / temperature)
                for j in self.p[i] + self.k[i]
            )
            logs = [
                self.w[i, j] * np.log(np.exp(self.s(i, j) / temperature) / crowd)
                for j in self.p[i]
            ]
            paid.append(-sum(logs) / sum(self.w[i, j] for j in self.p[i]))
        return sum(paid) / len(paid) if paid else 0.0


def loss(case, **more):
    f = getattr(metric, case.split()[0] + "_loss")
    return functools.partial(f, **CASES[case], **more)


@functools.cache
def compiled(case):
    """The loss with the values that add up to it, and its gradient."""

    def f(x, labels, **given):
        each = loss(case, reduction="none")(x, labels, **given)
        return loss(case)(x, labels, **given), each

    static = ("block_rows",)
    return jax.jit(jax.value_and_grad(f, has_aux=True), static_argnames=static)


def oracle(case, x, labels, *, ref=None, same=None, pairs=None, weights=None):
    """Value and gradient; of `ref` the loops know no gradient."""
    refs = x if ref is None else ref
    if pairs is None:
        pairs = (same, ~same)
    if ref is None:
        pairs = [mask & ~np.eye(len(x), dtype=bool) for mask in pairs]
    weights = np.ones(pairs[0].shape) if weights is None else weights
    name = case.split()[0]

    def value(x):
        refs_ = x if ref is None else refs
        unit = name != "n_pair"
        loops = Loops(x, refs_, *pairs, weights, ref is None, labels, unit)
        return getattr(loops, name)(**CASES[case])

    slope = np.zeros(x.shape)
    for i in np.ndindex(*x.shape):
        moved = x.astype(complex)
        moved[i] += 1e-30j
        slope[i] = np.imag(value(moved)) / 1e-30
    return float(np.real(value(x))), slope


def batch(seed, n=10, width=4):
    """Three classes, one of them with a single item."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, width)), np.r_[2, np.arange(1, n) % 2]
