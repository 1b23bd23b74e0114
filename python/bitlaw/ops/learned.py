"""Gradients of quantizers whose scale is learned: LSQ, LSQ+ and PACT.

The forward map is `fake_quantize_scaled` with the learned scale as its operand.
"""

from __future__ import annotations

import numpy as np

from bitlaw.ops.bits import magnitude_bits
from bitlaw.ops.op import Shape, op

ESTIMATORS = ("lsq", "lsq_plus", "pact")
FLT_MAX = np.finfo(np.float32).max


def _learned_out(g, x, scale, zero, grid, *, block, estimator, pruned):
    del pruned
    if x.ndim not in (2, 3) or str(x.dtype) not in ("float32", "bfloat16"):
        raise ValueError(
            "x must be f32 or bf16 [items, rows, cols] or [items, cols], "
            f"got {x.dtype}{list(x.shape)}"
        )
    if tuple(g.shape) != tuple(x.shape) or g.dtype != x.dtype:
        raise ValueError(
            f"g must be like x, {x.dtype}{list(x.shape)}, got {g.dtype}{list(g.shape)}"
        )
    if block < 1 or x.shape[-1] % block:
        raise ValueError(f"block must divide the last axis of x, got {block} and {x.shape}")
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
    items, groups = x.shape[0], x.shape[-1] // block
    for name, array, widths in [
        ("scale", scale, [groups]),
        ("zero", zero, [0, groups]),
        ("grid", grid, [max(grid.shape[-1], 3) if grid.ndim else 3]),
    ]:
        wanted = [(items, n) for n in widths]
        if tuple(array.shape) not in wanted or str(array.dtype) != "float32":
            expected = " or ".join(f"f32{list(shape)}" for shape in wanted)
            raise ValueError(f"{name} must be {expected}, got {array.dtype}{list(array.shape)}")
    sums = 2 if estimator == "lsq_plus" else 1
    return Shape(x.shape, x.dtype), Shape((items, sums, groups), np.float32)


def _learned_examples(rng):
    import ml_dtypes

    grids = [(-7, 7, 0, 7, 1), (0, 15, 0, 15, 1), (-2, 1, 0.5, 1, 1)]
    for i, (shape, block) in enumerate(
        [
            ((0, 1, 32), 32), ((2, 0, 8), 4), ((3, 1, 1), 1), ((1, 7), 7), ((5, 96), 32),
            ((2, 33, 20), 1), ((2, 5, 12), 4), ((3, 4, 9), 9), ((40, 1024), 1024),
            ((12, 4096), 32), ((1, 300, 200), 1), ((1, 70001), 70001), ((2, 256, 258), 129),
        ]
    ):  # fmt: skip
        x = rng.normal(size=shape).astype(np.float32)
        g = rng.normal(size=shape).astype(np.float32)
        scale = rng.lognormal(-1, size=(shape[0], shape[-1] // block)).astype(np.float32)
        zero = rng.integers(0, 9, scale.shape).astype(np.float32)
        if x.size > 100:
            x[rng.random(shape) < 0.1] = 0
            x.ravel()[[3, 7]] = np.inf, 3e38
            scale.ravel()[0] = 1e-41
        if x.size > 50000:
            x.ravel()[-5] = np.nan
        grid = np.asarray([grids[(i + k) % 3] for k in range(shape[0])], np.float32).reshape(-1, 5)
        for k, estimator in enumerate(ESTIMATORS):
            kept = zero if estimator == "lsq_plus" else zero[:, :0]
            arrays = (g, x) if (i + k) % 2 else (a.astype(ml_dtypes.bfloat16) for a in (g, x))
            pruned = (i + k) % 3 == 0
            attributes = {"block": block, "estimator": estimator, "pruned": pruned}
            yield (*arrays, scale, kept, grid), attributes


def _terms(g, x, scale, zero, grid, *, estimator, pruned):
    """dx, and the terms of the two sums: f32[items, rows, groups, block] each."""
    xp = x.__array_namespace__()
    low, high, offset = (grid[:, k, None, None, None] for k in range(3))
    if zero.shape[1]:
        low, high = low - zero[:, None, :, None], high - zero[:, None, :, None]
    step, nothing = scale[:, None, :, None], np.float32(0)
    if estimator == "pact":
        above, below = x >= (high + offset) * step, x < (low + offset) * step
        dx = xp.where((x >= (low + offset) * step) & ~above, g, nothing)
        end = xp.where(above, high, xp.where(below, low, nothing)) + offset
        terms, zeros = xp.where(above | below, g * end, nothing), xp.zeros_like(g)
    else:
        inv = np.float32(1) / step
        inv = xp.where(inv > FLT_MAX, FLT_MAX, inv)
        v = x * inv - offset
        rounded = xp.rint(xp.clip(v, low - np.float32(1), high + np.float32(1)))
        code = xp.clip(rounded, low, high)
        inside = rounded == code
        dx = xp.where(inside, g, nothing)
        terms = g * xp.where(inside, code - v, code + offset)
        zeros = xp.where(inside, nothing, g)
    if pruned:
        there = magnitude_bits(x) != 0
        terms, zeros = xp.where(there, terms, nothing), xp.where(there, zeros, nothing)
    return dx, terms, zeros


def _grouped(x, block: int):
    items, cols, rows = x.shape[0], x.shape[-1], x.shape[1] if x.ndim == 3 else 1
    return x.astype(np.float32).reshape(items, rows, cols // block, block)


def _learned_given(g, x, scale, zero, grid, *, block, estimator, pruned):
    def outs(sums):
        dx, _, _ = _terms(
            *(_grouped(a, block) for a in (g, x)), scale, zero, grid,
            estimator=estimator, pruned=pruned,
        )  # fmt: skip
        return dx.reshape(x.shape).astype(x.dtype), sums

    return 1, outs


@op(out=_learned_out, examples=_learned_examples, given=_learned_given, alias=(0, 0))
def learned_gradient(g, x, scale, zero, grid, *, block: int, estimator: str, pruned: bool):
    """Gradients of a quantizer with respect to its input, its scale and its zero point.

        v = x inv - offset,  low = qmin - zero,  high = qmax - zero,  code = clamp(round(v))
        lsq:       dx = g            ds = sum g (code - v)                         inside the range
                   dx = 0            ds = sum g (code + offset)     outside: code is low or high
        lsq_plus:  as lsq, and       dzero = -scale sum g                                  outside
        pact:      dx = g            inside  (low + offset) scale <= x < (high + offset) scale
                   dx = 0            ds = sum g (end + offset)      outside: end is low or high

    Inside is low <= round_half_even(v) <= high, and inv = min(1 / scale, FLT_MAX): both as
    `fake_quantize_scaled` has them with the estimator clip_rounded. At NaN dx = 0.

    LSQ (Esser et al., arXiv:1902.08153, equation 3) multiplies ds by 1 / sqrt(n qmax), n elements
    that share a scale; so does LSQ+ (Bhalgat et al., arXiv:2004.09576, equations 5 and 6, whose
    offset is beta = -zero scale). PACT (Choi et al., arXiv:1805.06085, equation 3) learns
    alpha = qmax scale with qmin = 0: d alpha = sum of g where x >= alpha = ds / qmax. Factors are
    the caller's: n of a tensor whose rows are sharded is not known here, and its sums are the sums
    over items of what is returned.

    Args:
        g, x: f32 or bf16 [items, rows, cols], or [items, cols] for items of one row; g is the
            gradient with respect to the quantized x.
        scale: f32[items, cols / block]
        zero: as scale, whole numbers; or f32[items, 0] for none
        grid: f32[items, 3 or more]: qmin, qmax, offset; more is not used
        block: columns that share a scale; must divide cols.
        estimator: "lsq", "lsq_plus" or "pact".
        pruned: exact zeros are pruned weights and take no part in the sums.

    Returns:
        dx: like x; sums: f32[items, 1 (lsq_plus: 2), cols / block], ds and then dzero. They are
        added in double precision and in one order on the kernels.
    """
    xp = x.__array_namespace__()
    dx, terms, zeros = _terms(
        *(_grouped(a, block) for a in (g, x)), scale, zero, grid, estimator=estimator, pruned=pruned
    )
    # JAX has no doubles by default; there the order of the sum is XLA's.
    wide = np.float64 if xp is np else np.float32
    add = lambda t: t.sum(axis=(1, 3), dtype=wide).astype(np.float32) + np.float32(0)
    sums = [add(terms)]
    if estimator == "lsq_plus":
        sums.append(np.float32(0) - scale * add(zeros))
    return dx.reshape(x.shape).astype(x.dtype), xp.stack(sums, axis=1)
