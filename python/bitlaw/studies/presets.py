"""The runs of the main study: sizes x budgets x schemes, by name.

Every size meets every budget, with about 15 tokens per parameter or more: below that the loss is
limited by the data and says nothing about N. Seeds and data order are shared by all schemes.

The presets of a GPU train larger models in bfloat16, seeds of a small one together; their text is
that of all installed packages.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from bitlaw.formats import Scheme
from bitlaw.models.count import n_params
from bitlaw.models.lm import ModelConfig
from bitlaw.studies import run
from bitlaw.train.data import CONTEXT

BATCH = 8
TOKENS_PER_PARAMETER = 14  # at least; a model of 36,864 meets 2^19 at 14.2

QUICK_SCHEMES = (
    "dense",
    "w=quest4/channel",
    "w=quest2/channel",
    "w=quest4/channel a=quest4/row",
    "s=0.5",
    "s=0.75",
)
CPU_SCHEMES = (
    "dense",
    *(f"w=quest{bits}/channel" for bits in (1, 2, 3, 4, 8)),
    *(f"w=quest{bits}/channel a=quest{bits}/row" for bits in (2, 4, 8)),
    *(f"s={level}" for level in (0.25, 0.5, 0.75)),
)
SPARSE_SCHEMES = (
    "dense",
    *(f"s={level}" for level in (0.25, 0.5, 0.75, 0.875)),
    *("s=2:4", "s=4:8", "s=1:4"),
    *("s=0.5/ste", "s=0.75/rigl", "s=0.75/global"),
    "w=quest4/channel s=2:4",
)
GPU_SCHEMES = (
    "dense",
    *("w=quest4/channel", "w=quest2/channel", "w=quest4/channel a=quest4/row"),
    "w=nvfp4 a=nvfp4",
    *("s=0.5", "s=0.75", "w=quest4/channel s=2:4"),
)
FORMAT_SCHEMES = (
    "dense",
    *("w=quest1/channel", "w=ternary/channel"),
    *(f"w=quest{bits}/channel" for bits in (2, 3, 4, 8)),
    *(f"w=quest{bits}/channel a=quest{bits}/row" for bits in (2, 3, 4, 8)),
    *("w=mxfp4 a=mxfp4", "w=nvfp4 a=nvfp4"),
)


@dataclass(frozen=True)
class Size:
    """A model of `12 * width^2 * depth` block weights, and how many seeds it is trained with.

    budgets, where there are any, take the place of the preset's.
    """

    width: int
    depth: int
    seeds: int = 1
    dense_seeds: int = 1
    heads: int = 1
    budgets: tuple[int, ...] = ()

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(self.width, self.depth, heads=self.heads, kv_heads=self.heads)


@dataclass(frozen=True)
class Preset:
    """Sizes x budgets x schemes; budgets with too few tokens per parameter are left out.

    With ensembles, the seeds of a size are trained together, but for pruned schemes.
    """

    sizes: tuple[Size, ...]
    budgets: tuple[int, ...]  # training tokens (bytes), ascending
    schemes: tuple[str, ...]
    batch: int = BATCH
    compute: str = "float32"
    device: str = "cpu"
    ensembles: bool = False
    data: str = "stdlib"

    def runs(self, schemes: Sequence[str] = ()) -> list[run.Run]:
        """Every run of the preset, with these schemes instead of its own if any are given."""
        return [
            one
            for scheme in schemes or self.schemes
            for size in self.sizes
            for one in self._runs(scheme, size)
        ]

    def _runs(self, scheme: str, size: Size) -> list[run.Run]:
        model = dataclasses.replace(size.model, compute=self.compute)
        seeds = size.dense_seeds if scheme == "dense" else size.seeds
        alone = not self.ensembles or Scheme.parse(scheme).s is not None
        return [
            dataclasses.replace(
                point(scheme, model, budget, seed, batch=self.batch),
                device=self.device,
                members=1 if alone else seeds,
            )
            for seed in range(seeds)
            for budget in size.budgets or self.budgets
            if budget >= TOKENS_PER_PARAMETER * n_params(model)
        ]


# Narrower intervals than the quick study's, in hours.
CPU_SIZES = (
    Size(16, 2, seeds=3, dense_seeds=3),
    Size(24, 2, seeds=3, dense_seeds=3),
    Size(32, 3),
    Size(48, 4),
)
CPU_BUDGETS = (2**20, 2**21, 2**22, 2**23)

# 20 tokens per parameter and up, 160 at 1M. 30M is dense alone: at 655M tokens every scheme there
# would take as long as all of its smaller models three times (docs/log.md).
GPU_BATCH = 128  # rows: 16,384 tokens
GPU_BUDGETS = tuple(1250 * GPU_BATCH * CONTEXT * 2**k for k in range(6))  # 20.5M to 655M
GPU_SIZES = (
    Size(128, 5, seeds=2, dense_seeds=2, heads=2, budgets=GPU_BUDGETS[:4]),
    Size(192, 4, heads=3, budgets=GPU_BUDGETS[1:4]),
    Size(256, 5, heads=4, budgets=GPU_BUDGETS[2:4]),
    Size(320, 6, heads=5, budgets=GPU_BUDGETS[3:4]),
    Size(640, 6, seeds=0, dense_seeds=1, heads=10, budgets=GPU_BUDGETS[5:]),
)

PRESETS = {
    # 12 runs, under a minute: does everything work here?
    "smoke": Preset(
        sizes=(Size(8, 1), Size(16, 1)),
        budgets=(2**16, 2**18),
        schemes=("dense", "w=quest4/channel", "s=0.5"),
    ),
    # 120 runs, about 7 minutes on 2 cores: first multipliers. Every scheme has every seed: one that
    # dense has alone is not paired, and its luck moved all multipliers by 7 % (docs/log.md).
    "quick": Preset(
        sizes=(
            Size(16, 2, seeds=2, dense_seeds=2),
            Size(24, 2, seeds=2, dense_seeds=2),
            Size(32, 3, seeds=2, dense_seeds=2),
            Size(40, 3),
        ),
        budgets=(2**19, 2**20, 2**21),
        schemes=QUICK_SCHEMES,
    ),
    # About 2 hours on 2 cores: twelve schemes.
    "cpu": Preset(CPU_SIZES, CPU_BUDGETS, CPU_SCHEMES),
    # About 3 hours: patterns and methods of sparsity.
    "cpu-sparse": Preset(CPU_SIZES, CPU_BUDGETS, SPARSE_SCHEMES),
    # About 2 hours: every width of weights and activations, MX and NV.
    "cpu-formats": Preset(CPU_SIZES, CPU_BUDGETS, FORMAT_SCHEMES),
    # 18 runs on a GPU: does everything work there?
    "gpu-smoke": Preset(
        sizes=(Size(32, 1, seeds=2, dense_seeds=2), Size(64, 1, heads=2)),
        budgets=(2**20, 2**21),
        schemes=("dense", "w=quest4/channel a=quest4/row", "s=0.5"),
        batch=32,
        compute="bfloat16",
        device="cuda",
        ensembles=True,
    ),
    # 1M to 30M weights, 8 schemes: meant for 25 minutes on an H200, and not measured yet.
    "gpu": Preset(
        GPU_SIZES,
        GPU_BUDGETS,
        GPU_SCHEMES,
        batch=GPU_BATCH,
        compute="bfloat16",
        device="cuda",
        ensembles=True,
        data="installed",
    ),
}


def learning_rate(width: int) -> float:
    """The peak learning rate for a width, the same for every scheme.

        0.01 * (16 / width)^(2/3)

    Within 5 % of the best found at widths 16, 24, 32 and 64: 1e-2, 8e-3, 6e-3 and 4e-3.
    """
    return 0.01 * (16 / width) ** (2 / 3)


def point(
    scheme: str,
    model: ModelConfig,
    d_tokens: int,
    seed: int,
    init: str = "",
    save: str = "",
    batch: int = BATCH,
) -> run.Run:
    """One run of the study: all else is the same, or follows from the width."""
    return run.Run(
        scheme=scheme,
        model=model,
        d_tokens=d_tokens,
        seed=seed,
        batch=batch,
        learning_rate=learning_rate(model.width),
        init=init,
        save=save,
    )
