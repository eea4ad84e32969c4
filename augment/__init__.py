"""Augmentation of image batches as pure, jittable and differentiable functions.

The names below load on first use (PEP 562), so that importing this package does not
import JAX.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from augment.agreement import kendall_w as kendall_w
    from augment.agreement import permutation_p as permutation_p
    from augment.colour import colour_jitter as colour_jitter
    from augment.colour import lighting as lighting
    from augment.control_variate import apply_control_variate as apply_control_variate
    from augment.control_variate import init_control_variate as init_control_variate
    from augment.geometric import affine as affine
    from augment.geometric import affine_matrices as affine_matrices
    from augment.geometric import centre_crop as centre_crop
    from augment.geometric import random_affine as random_affine
    from augment.geometric import random_crop as random_crop
    from augment.geometric import random_flip as random_flip
    from augment.geometric import random_resized_crop as random_resized_crop
    from augment.geometric import resized_crop as resized_crop
    from augment.gumbel import gumbel_surrogate as gumbel_surrogate
    from augment.gumbel import gumbel_weights as gumbel_weights
    from augment.host import HostPolicy as HostPolicy
    from augment.image_ops import EXTRA_OPERATIONS as EXTRA_OPERATIONS
    from augment.image_ops import OPERATIONS as OPERATIONS
    from augment.image_ops import Operation as Operation
    from augment.image_ops import operation as operation
    from augment.level_gradients import straight_through as straight_through
    from augment.level_gradients import with_derivatives_of as with_derivatives_of
    from augment.meta_gradients import MetaStep as MetaStep
    from augment.meta_gradients import linear_step_value as linear_step_value
    from augment.meta_gradients import one_step_meta_gradient as one_step_meta_gradient
    from augment.meta_gradients import one_step_value as one_step_value
    from augment.mixing import blend_pairs as blend_pairs
    from augment.mixing import cutmix as cutmix
    from augment.mixing import mixup as mixup
    from augment.mixing import padded_crop as padded_crop
    from augment.mixing import random_cutout as random_cutout
    from augment.policies import auto_augment as auto_augment
    from augment.policies import dada as dada
    from augment.policies import rand_augment as rand_augment
    from augment.policies import random_policy as random_policy
    from augment.policies import trivial_augment as trivial_augment
    from augment.policies import unsearched_policy as unsearched_policy
    from augment.policy import Draw as Draw
    from augment.policy import Policy as Policy
    from augment.policy import apply as apply
    from augment.policy import apply_draw as apply_draw
    from augment.policy import make_draw as make_draw
    from augment.policy import make_policy as make_policy
    from augment.policy import sample as sample
    from augment.policy_files import best_sub_policies as best_sub_policies
    from augment.policy_files import load_policy as load_policy
    from augment.policy_files import policy_text as policy_text
    from augment.policy_files import save_policy as save_policy
    from augment.policy_gradients import PolicyDraws as PolicyDraws
    from augment.policy_gradients import PolicyGradient as PolicyGradient
    from augment.policy_gradients import (
        leave_one_out_gradient as leave_one_out_gradient,
    )
    from augment.policy_gradients import official_gradient as official_gradient
    from augment.policy_gradients import policy_draws as policy_draws
    from augment.policy_gradients import reinforce_gradient as reinforce_gradient
    from augment.policy_gradients import step_baseline as step_baseline
    from augment.relax import RelaxGradient as RelaxGradient
    from augment.relax import relax_gradient as relax_gradient
    from augment.relaxations import gumbel_softmax as gumbel_softmax
    from augment.relaxations import relaxed_bernoulli as relaxed_bernoulli

_MODULES = {
    "Draw": "policy",
    "EXTRA_OPERATIONS": "image_ops",
    "HostPolicy": "host",
    "MetaStep": "meta_gradients",
    "OPERATIONS": "image_ops",
    "Operation": "image_ops",
    "Policy": "policy",
    "PolicyDraws": "policy_gradients",
    "PolicyGradient": "policy_gradients",
    "RelaxGradient": "relax",
    "affine": "geometric",
    "affine_matrices": "geometric",
    "apply": "policy",
    "apply_control_variate": "control_variate",
    "apply_draw": "policy",
    "auto_augment": "policies",
    "best_sub_policies": "policy_files",
    "blend_pairs": "mixing",
    "centre_crop": "geometric",
    "colour_jitter": "colour",
    "cutmix": "mixing",
    "dada": "policies",
    "gumbel_softmax": "relaxations",
    "gumbel_surrogate": "gumbel",
    "gumbel_weights": "gumbel",
    "init_control_variate": "control_variate",
    "kendall_w": "agreement",
    "leave_one_out_gradient": "policy_gradients",
    "lighting": "colour",
    "linear_step_value": "meta_gradients",
    "load_policy": "policy_files",
    "make_draw": "policy",
    "make_policy": "policy",
    "mixup": "mixing",
    "official_gradient": "policy_gradients",
    "one_step_meta_gradient": "meta_gradients",
    "one_step_value": "meta_gradients",
    "operation": "image_ops",
    "padded_crop": "mixing",
    "permutation_p": "agreement",
    "policy_draws": "policy_gradients",
    "policy_text": "policy_files",
    "rand_augment": "policies",
    "random_affine": "geometric",
    "random_crop": "geometric",
    "random_cutout": "mixing",
    "random_flip": "geometric",
    "random_policy": "policies",
    "random_resized_crop": "geometric",
    "reinforce_gradient": "policy_gradients",
    "relax_gradient": "relax",
    "relaxed_bernoulli": "relaxations",
    "resized_crop": "geometric",
    "sample": "policy",
    "save_policy": "policy_files",
    "step_baseline": "policy_gradients",
    "straight_through": "level_gradients",
    "trivial_augment": "policies",
    "unsearched_policy": "policies",
    "with_derivatives_of": "level_gradients",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
