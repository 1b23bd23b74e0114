"""Experts in the place of a block's MLP: each token passes through a few of many.

    y[n] = sum over the k experts e that token n chose of gate[n, e] * mlp_e(x[n])

With a capacity, every expert has as many slots as every other, and a token that finds its expert
full gets nothing from it (the residual stream carries it on). Without, tokens are sorted by expert
and multiplied as ragged groups: no token is dropped, and packing changes nothing but rounding.
A block holds

    router     f32[D, X]     but for hash; never compressed
    up, gate   f32[X, D, F]
    down       f32[X, F, D]

Letters as in `routers`, and D, F as in `layers`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bitlaw.formats.padding import quantized
from bitlaw.formats.spec import exact
from bitlaw.models import layers, routers
from bitlaw.models.layers import Grids, Structure
from bitlaw.packing import dispatch

BALANCE = 0.01  # weight of the load-balance loss (arXiv:2101.03961, section 2.2)
PRIORITIES = ("token", "choice", "gate")
ROOM = 2  # times the slots of training when measured, as in ST-MoE (arXiv:2202.08906: 1.25 and 2)


@dataclass(frozen=True)
class Experts:
    """How many experts there are, and how tokens find them: `8/top2`, `16/sbase/capacity1.25/gate`.

        experts := X "/" router ("/" mod)*
        router  := topK | hash | sbase             see `routers`
        mod     := mixtral                         gates that sum to 1; K of at least 2
                 | capacityF                       ceil(F * tokens * K / X) slots per expert
                 | token | choice | gate           who gets them first: see `dispatch.plan`

    Without a capacity nothing is dropped; outside of training slots are twice as many. Under
    `choice` and `gate` a later token may take the slot of an earlier one. The canonical string
    omits `token`.

    Attributes:
        count: X. k: experts per token. router: "top", "hash" or "sbase".
        normalize: "vmoe" or "mixtral". capacity: the factor F, or None. priority: of the slots.
    Raises:
        ValueError: a field is out of range, named with its value.
    """

    count: int
    router: str = "top"
    k: int = 1
    normalize: str = "vmoe"
    capacity: float | None = None
    priority: str = "token"

    def __post_init__(self):
        if self.count < 1:
            raise ValueError(f"experts must be at least 1, got {self.count}")
        if not 1 <= self.k <= self.count:
            raise ValueError(f"k must be in 1..{self.count} experts, got {self.k}")
        if self.normalize == "mixtral" and self.k == 1:
            raise ValueError(
                "mixtral must have k of at least 2: alone a gate is 1, and learns nothing"
            )
        if self.capacity is not None and not 0 < self.capacity < math.inf:
            raise ValueError(f"capacity must be above 0, got {self.capacity:g}")

    @classmethod
    def parse(cls, text: str) -> Experts:
        """The experts a string names.

        Raises:
            ValueError: a word is unknown or given twice; a number is out of range.
        """
        count, _, rest = text.partition("/")
        router, *mods = rest.split("/")
        match = re.fullmatch(r"(hash|sbase)|top(\d+)", router)
        if not re.fullmatch(r"\d+", count) or not match:
            raise ValueError(
                f"experts must be a number and a router (8/top2, 8/hash, 8/sbase), got {text!r}"
            )
        found: dict = {"router": match[1] or "top", "k": int(match[2] or 1)}
        for mod in mods:
            name, value = cls._mod(mod, text, found["router"])
            if name in found:
                raise ValueError(f"experts must say {name} once, got {text!r}")
            found[name] = value
        if "priority" in found and "capacity" not in found:
            raise ValueError(f"experts must have a capacity for a priority, got {text!r}")
        return cls(int(count), **found)

    @staticmethod
    def _mod(mod: str, text: str, router: str) -> tuple[str, str | float]:
        if mod == "mixtral" and router == "top":
            return "normalize", mod
        if mod in PRIORITIES:
            return "priority", mod
        if re.fullmatch(r"capacity\d+(\.\d+)?(e[+-]?\d+)?", mod):
            return "capacity", float(mod.removeprefix("capacity"))
        raise ValueError(
            f"experts must have mods of mixtral (with topK), capacityF, {', '.join(PRIORITIES)}, "
            f"got {mod!r} in {text!r}"
        )

    def __str__(self) -> str:
        router = f"top{self.k}" if self.router == "top" else self.router
        mixtral = "/mixtral" * (self.normalize == "mixtral")
        capacity = "" if self.capacity is None else f"/capacity{exact(self.capacity)}"
        priority = "" if self.priority == "token" else f"/{self.priority}"
        return f"{self.count}/{router}{mixtral}{capacity}{priority}"


def route(x_NxD, block, experts: Experts, ids_N, real_N, train: bool) -> routers.Routing:
    """The routing of some tokens.

    S-BASE balances in training; elsewhere each token takes its best expert, so that no token's
    output depends on later ones.
    """
    if experts.router == "hash":
        return routers.hashed(ids_N, experts.count)
    logits_NxX = x_NxD @ block["router"]
    if experts.router == "sbase" and train:
        return routers.sinkhorn_top_1(logits_NxX, real_N)
    return routers.top_k(logits_NxX, experts.k, experts.normalize)


def mlp(x_NxD, block, experts: Experts, kind: str, structure: Structure, grids: Grids, **tokens):
    """The experts' outputs, and the load-balance loss of a learned router (0 for a hash).

    Args:
        x_NxD: f32[N, D], normalised.
        kind: of the MLPs, as in `layers.mlp`.
        tokens: ids_N i32[N], what a hash looks at; real_N bool[N], false for padding, which asks
            for no slot; train, whether S-BASE balances.
    Returns:
        f32[N, D], f32[]
    """
    real_N = tokens["real_N"]
    routing = route(x_NxD, block, experts, **tokens)
    expert = jnp.where(real_N[:, None], routing.experts, -1).astype(jnp.int32)
    if experts.capacity is None:
        plan = dispatch.dropless(expert, experts=experts.count)
        y = _ragged(dispatch.gather(x_NxD, plan), plan, block, kind, structure, grids)
    else:
        factor = experts.capacity * (1 if tokens["train"] else ROOM)
        slots = dispatch.capacity(len(x_NxD), experts.k, experts.count, factor)
        how = {"experts": experts.count, "capacity": slots, "priority": experts.priority}
        plan = dispatch.plan(expert, routing.gates, **how)
        y = _on_slots(dispatch.gather(x_NxD, plan), block, kind, structure, grids)
    y_NxD = dispatch.combine(y, routing.gates, plan)
    if experts.router == "hash":
        return y_NxD, jnp.float32(0)
    # What is balanced are the best experts: S-BASE's too, which are those it is measured with.
    best = routing._replace(experts=jax.lax.top_k(routing.probabilities, experts.k)[1])
    return y_NxD, BALANCE * routers.load_balance(best, real_N)


def _on_slots(x_XxCxD, block, kind: str, structure: Structure, grids: Grids):
    """Each expert's MLP on its own slots, empty ones zero: a batch of equal products."""

    def product(x_XxCxI, w_XxIxO):
        return jax.vmap(lambda x, w: layers.linear(x, w, structure, grids))(x_XxCxI, w_XxIxO)

    return layers.mlp(x_XxCxD, block, kind, product)


def _ragged(x, plan: dispatch.Dispatch, block, kind: str, structure: Structure, grids: Grids):
    """Each expert's MLP on its group of the sorted tokens: `jax.lax.ragged_dot`."""

    def product(x, w_XxIxO):
        if structure.w is not None:
            w_XxIxO = jax.vmap(lambda w: quantized(w, structure.w, grids["w"], structure.pruned))(
                w_XxIxO
            )
        if structure.a is not None:
            x = quantized(x, structure.a, grids["a"])
        return jax.lax.ragged_dot(x, w_XxIxO, plan.count)

    return layers.mlp(x, block, kind, product)


# --- For encoders: these two look at all tokens of a group at once -------------------------------


def expert_choice_mlp(x_NxD, block, capacity: int, kind: str, structure, grids, real_N):
    """The sum over the experts that took a token of gate * mlp(token); see `expert_choice`.

    Args:
        x_NxD: f32[N, D], one group of tokens. capacity: tokens that each expert takes.
    Returns:
        f32[N, D], 0 for a token that no expert took
    """
    tokens_XxC, gates_XxC = routers.expert_choice(x_NxD @ block["router"], capacity, real_N)
    y_XxCxD = _on_slots(x_NxD[tokens_XxC], block, kind, structure, grids)
    return jnp.zeros_like(x_NxD).at[tokens_XxC].add(gates_XxC[..., None] * y_XxCxD)


def soft_mlp(x_NxD, block, kind: str, structure: Structure, grids: Grids, real_N):
    """Soft MoE: slots are means of tokens, tokens means of the slots' outputs; see `routers.soft`.

    Args:
        x_NxD: f32[N, D], one group of tokens.
        block: "phi" f32[D, S] and "scale" f32[] in the place of "router"; X divides S.
    Returns:
        f32[N, D]
    """
    dispatch_NxS, combine_NxS = routers.soft(x_NxD, block["phi"], block["scale"], real_N)
    experts, D = len(block["up"]), x_NxD.shape[1]
    if block["phi"].shape[1] % experts:
        raise ValueError(f"experts must divide slots, got {experts} and {block['phi'].shape[1]}")
    slots_XxCxD = (dispatch_NxS.T @ x_NxD).reshape(experts, -1, D)
    y_XxCxD = _on_slots(slots_XxCxD, block, kind, structure, grids)
    return combine_NxS @ y_XxCxD.reshape(-1, D)
