"""`bitlaw reproduce`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bitlaw.commands.door import check_schemes, checked, source
from bitlaw.studies.rows import StudyError


@dataclass
class Reproduce:
    """Train small models dense, quantized and sparse; fit the law; report every multiplier.

    The multiplier eff(C) of a compression C is the share of the parameters that is left in effect:
    loss = a / (N * eff(C))^b + c / D^d + e, and eff = 1 for dense.

    Stop it at any time (Ctrl-C, even kill -9): the same command goes on where it was.

      bitlaw reproduce --preset quick --out study
      bitlaw reproduce --schemes s=0.5 "w=quest4/channel a=quest4/row" w=my_module:my_quantizer
      bitlaw reproduce --data my_texts/ more.jsonl --jobs 4
    """

    preset: Literal["smoke", "quick", "cpu", "cpu-sparse", "cpu-formats", "gpu-smoke", "gpu"] = (
        "quick"
    )
    """smoke: under a minute. quick: about 7 minutes on 2 cores. cpu (12 schemes) and cpu-formats (1
    to 8 bits, mxfp4, nvfp4): about 2 hours. cpu-sparse (patterns and methods): about 3. gpu: models
    of 1M to 30M weights in bfloat16, 8 schemes, meant for 25 minutes on an H200 (not measured).
    gpu-smoke: whether everything works there."""

    out: Path = Path("study")
    """Folder for the rows, the fit and the report. Finished runs of the same build and data found
    there are kept."""

    jobs: int = 0
    """Worker processes, each of one thread; 0 is one per core that this process may use, or fewer
    if its container's CPU quota is less. On a GPU, 4 share it."""

    schemes: tuple[str, ...] = ()
    """Compressions to measure instead of the preset's; dense is always added."""

    data: tuple[str, ...] = ()
    """stdlib (this interpreter's Python sources), installed (those of all packages too), or .txt
    and .jsonl files and folders of them; nothing: installed for gpu, else stdlib."""

    device: Literal["", "cpu", "cuda"] = ""
    """Where to train, instead of where the preset says."""

    def run(self) -> int:
        from bitlaw.studies import reproduce

        with checked():
            if self.jobs < 0:
                raise ValueError(f"jobs must be at least 0, got {self.jobs}")
            check_schemes("schemes", self.schemes)
            plan = reproduce.plan_preset(self.preset, self.schemes, source(self.data), self.device)
        outcome = reproduce.reproduce(plan, self.out, self.jobs)
        if outcome.failures:
            raise StudyError(
                f"{len(outcome.failures)} jobs failed twice and are not in the table; run the same "
                f"command again to try only those; {self.out / 'logs'} says why they failed"
            )
        return 0
