"""`bitlaw plan`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bitlaw.commands import quantity
from bitlaw.commands.door import check_schemes, checked


@dataclass
class Plan:
    """Which compression to train, at which size and on how many tokens, within budgets.

    The law of a fit says the loss of every scheme at every size and budget; this finds the best of
    them, its runner-ups, and how much more those would need. Loss falls with size and with tokens,
    so the budgets must bound both: training FLOPs do; or tokens, with memory or inference FLOPs.

      bitlaw plan --budget-flops 1e13 --memory 20kB
      bitlaw plan --fit t5.json --budget-flops 1e21 --memory 1GB --out plan
      bitlaw plan --fit study/fit.json --memory 8GB --tokens 20B --schemes "w=quest3/channel s=0.5"

    FLOPs are counted as 6 N D for training and 2 N per generated token, of pruned models for the
    non-zeros at each step of the ramp; quantization saves memory and no FLOPs. What is assumed is
    printed with the plan.
    """

    fit: Path = Path("study/fit.json")
    """The record of a fit, as `bitlaw reproduce` and `bitlaw fit --out` write it."""

    budget_flops: str = ""
    """Training FLOPs: 1e21."""

    memory: str = ""
    """Memory of the weights at inference: 8GB (1e9 bytes), 8GiB (2^30)."""

    tokens: str = ""
    """Training tokens at hand: 20B, 3.5e9."""

    inference_flops: str = ""
    """FLOPs per generated token: 1e10."""

    embedding_memory: str = ""
    """The part of --memory that embeddings and head take; the law counts neither."""

    schemes: tuple[str, ...] = ()
    """Schemes to consider besides those of the fit; what was never trained is predicted from its
    error on normal numbers and from its parts, and marked so."""

    zeros: Literal["skipped", "computed"] = "skipped"
    """Whether the hardware skips zeros in training and inference."""

    extrapolate: bool = False
    """Also answer more than 100 times outside the runs of the fit."""

    out: Path | None = None
    """Folder for plan.html, plan.json, its figures and its tables."""

    def run(self) -> int:
        from bitlaw.laws.plan import Budget
        from bitlaw.studies import plan, report

        with checked():
            check_schemes("schemes", self.schemes)
            fit = report.read_fit(self.fit)
            budget = Budget(
                flops=_given("budget-flops", self.budget_flops, "FLOPs"),
                memory=quantity.memory("memory", self.memory) if self.memory else None,
                inference=_given("inference-flops", self.inference_flops, "FLOPs"),
                tokens=_given("tokens", self.tokens, "tokens"),
                embedding=quantity.memory("embedding-memory", self.embedding_memory)
                if self.embedding_memory
                else 0.0,
            )
            made = plan.make(fit, budget, self.schemes, self.zeros, self.extrapolate)
        print(plan.text(made))
        if self.out:
            written = plan.write(made, self.out)
            print(f"\nplan     {written[0]}")
        return 0


def _given(argument: str, text: str, unit: str) -> float | None:
    return quantity.count(argument, text, unit) if text else None
