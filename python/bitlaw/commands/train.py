"""`bitlaw train`."""

import dataclasses
import json
from dataclasses import dataclass

from bitlaw.commands.door import check_schemes, checked, source


@dataclass
class Train:
    """Train one model and print its row as JSON: the same numbers, to the bit, as inside a study.

    bitlaw train --scheme w=quest4/channel --width 32 --depth 3 --tokens 1048576
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

    def run(self) -> int:
        from bitlaw.studies import reproduce

        with checked():
            check_schemes("scheme", [self.scheme])
            size = reproduce.Size(self.width, self.depth)
            model = dataclasses.replace(size.model, experts=self.experts)
            point = reproduce.point(self.scheme, model, self.tokens, self.seed)
            plan = reproduce.plan_runs([point], source(self.data))
        print(json.dumps(reproduce.train(plan), indent=2))
        return 0
