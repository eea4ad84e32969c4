"""Whether searches agree: Kendall's W of the weights that they gave.

python -m augment.agreement runs/search_0/policy.json runs/search_1/policy.json ...

Prints W of the operations and of the sub-policies, each with the p of no agreement at
all, and how often each operation is applied, times an image, mean over the files and
range.
"""

import argparse
from collections.abc import Sequence

import jax
import numpy as np
from scipy import stats

from augment.policy import Policy
from augment.policy_files import load_policy

PERMUTATIONS = 10_000


def kendall_w(weights: np.ndarray) -> float:
    """Kendall's coefficient of concordance W, corrected for ties.

    With r_ij the rank of item i with rater j, equal weights sharing their mean rank,
    R_i = Σ_j r_ij and t the sizes of groups of equal weights,

        W = 12 Σ_i (R_i - mean R)² / (m² (n³ - n) - m Σ_j Σ (t³ - t))

    Args:
      weights: (m, n) of n items by m raters, such as seeds of a search; m, n >= 2.

    Returns:
      W in [0, 1]: 1 where all rank alike, 0 where rank sums are equal; NaN where all
      weights of every rater are equal.

    Raises:
      ValueError: there are not two raters and two items, or a weight is not finite.

    Source: Kendall and Gibbons 1990 (Rank correlation methods), chapter 6.
    """
    ranks = _ranks(weights)
    return float(_concordance(ranks.sum(0), ranks))


def permutation_p(
    weights: np.ndarray, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> float:
    """The p of W where each rater's ranks are a random order, one-sided.

    Args:
      weights: (m, n), as in `kendall_w`.
      permutations: how many, each of every rater on its own; >= 1.
      seed: of the permutations.

    Returns:
      (1 + number of permutations with a W as large) / (1 + permutations); NaN where W
      is.

    Raises:
      ValueError: as in `kendall_w`, or `permutations` is below 1.
    """
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    ranks = _ranks(weights)
    rng = np.random.default_rng(seed)
    sums = np.stack([rng.permuted(ranks, axis=1).sum(0) for _ in range(permutations)])
    own, found = _concordance(ranks.sum(0), ranks), _concordance(sums, ranks)
    if np.isnan(own):
        return float("nan")
    # Sums of half ranks are exact, their mean is not.
    as_large = found >= own - 1e-12
    return float((1 + as_large.sum()) / (1 + permutations))


def applied(policy: Policy) -> np.ndarray:
    """(O,) how often each operation of the table is applied, times an image."""
    weights = np.asarray(jax.nn.softmax(policy.logits), np.float64)
    chances = weights[:, None] * np.clip(policy.probabilities, 0, 1)
    found = np.zeros(len(policy.table))
    np.add.at(found, np.asarray(policy.operations), chances)
    return found


def report(policies: Sequence[Policy]) -> str:
    """What the command prints.

    Raises:
      ValueError: there are not two policies of the same sub-policies.
    """
    if len(policies) < 2:
        raise ValueError("agreement needs two policies or more")
    first = policies[0]
    for each in policies[1:]:
        same = np.array_equal(each.operations, first.operations)
        if not same or [o.name for o in each.table] != [o.name for o in first.table]:
            raise ValueError("the policies are not of the same sub-policies")
    operations = np.stack([applied(each) for each in policies])
    pairs = np.stack([np.asarray(each.logits) for each in policies])
    lines = [
        f"{what:<12} {_agreement(weights)}  "
        f"({len(weights)} policies, {weights.shape[1]} {what})"
        for what, weights in (("operations", operations), ("sub-policies", pairs))
    ]
    lines += [
        "",
        f"{'applied, times an image':<24}{'mean':>7}{'lowest':>9}{'highest':>9}",
    ]
    for row in np.argsort(-operations.mean(0), kind="stable"):
        own = operations[:, row]
        name = first.table[row].name
        lines.append(f"{name:<24}{own.mean():>7.4f}{own.min():>9.4f}{own.max():>9.4f}")
    return "\n".join(lines)


def _agreement(weights: np.ndarray) -> str:
    if np.isnan(kendall_w(weights)):
        return "W is of no use: every policy has all of them equally often"
    return f"W = {kendall_w(weights):.3f}  p = {permutation_p(weights):.4f}"


def main(arguments: list[str] | None = None) -> int:
    """Prints the agreement of policy files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", help="policy.json of searches, two or more")
    options = parser.parse_args(arguments)
    try:
        text = report([load_policy(each) for each in options.files])
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(text)
    return 0


def _ranks(weights: np.ndarray) -> np.ndarray:
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 2 or min(weights.shape) < 2:
        raise ValueError(
            f"weights must be those of two items or more by two raters or more, got "
            f"shape {weights.shape}"
        )
    if not np.isfinite(weights).all():
        raise ValueError("weights must be finite")
    return stats.rankdata(weights, axis=1)


def _concordance(sums: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """W of rank sums (..., n), with the ties of (m, n) ranks."""
    raters, items = ranks.shape
    groups = [np.unique(row, return_counts=True)[1] for row in ranks]
    ties = sum(np.sum(sizes**3 - sizes) for sizes in groups)
    squares = np.square(sums - sums.mean(-1, keepdims=True)).sum(-1)
    whole = raters**2 * (items**3 - items) - raters * ties
    with np.errstate(invalid="ignore"):
        return 12 * squares / np.float64(whole)


if __name__ == "__main__":
    raise SystemExit(main())
