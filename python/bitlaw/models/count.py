"""Counts of a model: parameters, as the laws mean them, and floating-point operations."""

import jax
import numpy as np

from bitlaw.models.lm import ModelConfig, is_compressed


def n_params(config: ModelConfig) -> int:
    """Weights of the block matrices: the N of the laws, what a scheme acts on."""
    return config.depth * sum(rows * cols for rows, cols in config.matrices.values())


def n_total(config: ModelConfig) -> int:
    """All parameters: the block matrices, the norms, the embedding and the head."""
    norms = (2 * config.depth + 1) * config.width
    return n_params(config) + norms + 2 * config.vocab * config.width


def n_nonzero(params) -> int:
    """Weights of the block matrices that are not zero."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return sum(int(np.count_nonzero(leaf)) for path, leaf in leaves if is_compressed(path, leaf))


def flops_per_token(config: ModelConfig) -> int:
    """Floating-point operations to train a dense model on one token, no credit for the mask.

        3 * (2 * n_params + 2 * V * D + depth * 4 * L * H * E)

    Forward one multiply and one add per weight of the blocks and the head, and the two products
    of the attention; backward twice that. Norms, softmax and quantizers are not counted.
    """
    head = 2 * config.vocab * config.width
    attention = config.depth * 4 * config.context * config.heads * config.head_dim
    return 3 * (2 * n_params(config) + head + attention)
