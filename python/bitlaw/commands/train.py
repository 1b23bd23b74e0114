"""`bitlaw train`."""

import dataclasses
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from bitlaw.commands.door import check_schemes, checked, source


@dataclass
class Train:
    """Train one model and print its row as JSON: the same numbers, to the bit, as inside a study.

    bitlaw train --scheme w=quest4/channel --width 32 --depth 3 --tokens 1048576

    Pruning a trained model, and the same total compute from scratch:

      bitlaw train --tokens 524288 --save out/dense
      bitlaw train --tokens 524288 --init out/dense --scheme s=0.75
      bitlaw train --tokens 1048576 --scheme s=0.75
    """

    scheme: str = "dense"
    """What is compressed, and how."""

    width: int = 16
    """Width of the model; it has 12 * width^2 * depth block weights."""

    depth: int = 2
    """Number of blocks."""

    experts: str = ""
    """Experts in the place of every MLP: 8/top2/capacity1.25, 8/hash, 8/sbase. Empty: none."""

    tokens: int = 2**19
    """Training tokens (bytes), a multiple of 1024."""

    seed: int = 0
    """Decides the first weights and the order of the data."""

    data: tuple[str, ...] = ("stdlib",)
    """stdlib (this interpreter's Python sources), or .txt and .jsonl files and folders of them."""

    init: Path | None = None
    """Start from this checkpoint, of a model of the same size, instead of fresh weights; flops and
    avg_params then count its training too."""

    save: Path | None = None
    """Write the trained weights to this folder, which must not exist yet."""

    def run(self) -> int:
        from bitlaw.studies import presets, reproduce

        with checked():
            check_schemes("scheme", [self.scheme])
            size = presets.Size(self.width, self.depth)
            model = dataclasses.replace(size.model, experts=self.experts)
            folders = [str(path.absolute()) if path else "" for path in (self.init, self.save)]
            self._check_folders(model)
            point = presets.point(self.scheme, model, self.tokens, self.seed, *folders)
            plan = reproduce.plan_runs([point], source(self.data))
        print(json.dumps(reproduce.train(plan), indent=2))
        return 0

    def _check_folders(self, model) -> None:
        """Raises ValueError if there is no checkpoint of this model, or something in its place."""
        from bitlaw.studies import run
        from bitlaw.train import checkpoint

        if self.save and self.save.exists():
            raise ValueError(f"save must be a folder that does not exist yet, got {self.save}")
        if self.init:
            theirs = checkpoint.read_meta(self.init).get("model")
            if theirs != asdict(model):
                raise ValueError(f"init must be a checkpoint of {asdict(model)}, got {theirs}")
            run.row_of(self.init)
            checkpoint.read_digest(self.init)
