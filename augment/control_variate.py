"""The network that RELAX subtracts: a number for relaxed values of a drawn pair.

Source: Li et al. 2020 (DADA), official code: 100 hidden units, tanh, inputs mapped to
[-1, 1].
Differs: it sees as many coins as a sub-policy has, not those of all sub-policies: the
drawn one's for the gradient in the probabilities, a mixture of all sub-policies' by the
relaxed choice for the one in the logits (see `augment.relax`). Its last layer starts at
zero, so that before it has learnt anything it changes nothing.
"""

from typing import TypeAlias

import chex
import jax
import jax.numpy as jnp

Params: TypeAlias = dict[str, dict[str, jax.Array]]


def init_control_variate(
    key: jax.Array, sub_policies: int, steps: int = 2, *, width: int = 100
) -> Params:
    """Parameters φ of the control variate.

    Args:
      key: PRNG key.
      sub_policies: S, number of sub-policies.
      steps: n, operations in each.
      width: hidden units.

    Returns:
      A pytree: a hidden layer uniform within ± 1 / √(S + n), an output layer of zeros.

    Raises:
      ValueError: a number is below 1.
    """
    if min(sub_policies, steps, width) < 1:
        raise ValueError(
            "a control variate needs sub-policies, operations and units, got "
            f"{sub_policies}, {steps} and {width}"
        )
    inputs = sub_policies + steps
    bound = inputs**-0.5
    rows = jax.random.uniform(
        key, (inputs + 1, width), float, minval=-bound, maxval=bound
    )
    return {
        "hidden": {"kernel": rows[1:], "bias": rows[0]},
        "output": {"kernel": jnp.zeros(width), "bias": jnp.zeros(())},
    }


def apply_control_variate(
    params: Params, coins: jax.Array, category: jax.Array
) -> jax.Array:
    """The control variate c_φ at one point.

    Args:
      params: φ.
      coins: (n,) relaxed coins, in [0, 1]: of the drawn sub-policy, or of all mixed.
      category: (S,) choice of the sub-policy, one-hot or relaxed.

    Returns:
      () value.
    """
    chex.assert_rank([coins, category], 1)
    hidden, output = params["hidden"], params["output"]
    inputs = 2 * jnp.concatenate([coins, category]) - 1
    units = jnp.tanh(inputs @ hidden["kernel"] + hidden["bias"])
    return units @ output["kernel"] + output["bias"]
