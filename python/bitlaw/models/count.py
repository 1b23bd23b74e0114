"""Counts of a model: parameters, as the laws mean them, and floating-point operations."""

import dataclasses
import math

import jax
import numpy as np

from bitlaw.models.lm import ModelConfig, is_compressed


def n_params(config: ModelConfig) -> int:
    """Weights of the block matrices, of all experts: the N of the laws, what a scheme acts on."""
    return config.depth * sum(map(math.prod, config.matrices.values()))


def n_dense(config: ModelConfig) -> int:
    """Weights of the block matrices with one MLP in the place of all experts."""
    return n_params(dataclasses.replace(config, experts=""))


def n_active(config: ModelConfig) -> int:
    """Weights of the block matrices that one token meets: of its k experts only."""
    mlp = config.depth * sum(math.prod(config.matrices[name][-2:]) for name in config.mlp_names)
    return n_dense(config) + (config.moe.k - 1 if config.moe else 0) * mlp


def n_total(config: ModelConfig) -> int:
    """All parameters: block matrices, norms, routers of experts, embedding and head."""
    norms = (2 * config.depth + 1) * config.width
    return n_params(config) + norms + n_routers(config) + 2 * config.vocab * config.width


def n_routers(config: ModelConfig) -> int:
    """Weights of the routers of experts."""
    return config.depth * config.width * config.moe.count if config.learned_router else 0


def n_nonzero(params) -> int:
    """Weights of the block matrices that are not zero."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return sum(int(np.count_nonzero(leaf)) for path, leaf in leaves if is_compressed(path, leaf))


def flops_per_token(config: ModelConfig) -> int:
    """Floating-point operations to train a dense model on one token, no credit for the mask.

        3 * (2 * (n_active + n_routers) + 2 * V * D + depth * 4 * L * H * E)

    Forward one multiply and one add per weight of the blocks and the head, and the two products
    of the attention; backward twice that. Norms, softmax and quantizers, and slots of
    experts that stay empty, are not counted.
    """
    head = 2 * config.vocab * config.width
    attention = config.depth * 4 * config.context * config.heads * config.head_dim
    return 3 * (2 * (n_active(config) + n_routers(config)) + head + attention)
