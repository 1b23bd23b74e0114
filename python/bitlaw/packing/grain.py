"""Packing as a step of a grain pipeline (the `grain` extra).

dataset = grain.MapDataset.source(documents).shuffle(0).to_iter_dataset()
rows = packing.grain.PackIterDataset(dataset, 2048).batch(8)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bitlaw.packing.stream import Stream

try:
    import grain
except ImportError as error:
    raise ImportError("bitlaw.packing.grain needs grain: pip install 'bitlaw[grain]'") from error


class PackIterDataset(grain.IterDataset):
    """Rows of a dataset of arrays, or of mappings with an array under `name`.

    Like grain's own FirstFitPackIterDataset, but only the fullest row is given when no open one has
    room, rather than all. Its iterator's state holds the tokens of the open rows.
    """

    def __init__(
        self,
        parent: grain.IterDataset,
        capacity: int,
        bins: int = 64,
        *,
        name: str = "tokens",
        chunk: int = 4096,
        **options: Any,
    ):
        """
        Args:
            parent: the dataset that is packed.
            capacity, bins, options: of `packing.Stream`.
            name, chunk: of `packing.Stream.pack`.
        """
        super().__init__(parent)
        Stream(capacity, bins, **options)  # errors now
        self._source, self._stream = parent, (capacity, bins, options)
        self._reading = {"name": name, "chunk": chunk}

    def __iter__(self) -> grain.DatasetIterator:
        capacity, bins, options = self._stream
        return _Iterator(iter(self._source), Stream(capacity, bins, **options), self._reading)


class _Iterator(grain.DatasetIterator):
    def __init__(self, source: grain.DatasetIterator, stream: Stream, reading: dict[str, Any]):
        super().__init__(source)
        self._packed = stream.pack(source, **reading)

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._packed)

    def get_state(self) -> dict[str, Any]:
        return self._packed.state_dict()

    def set_state(self, state: dict[str, Any]) -> None:
        self._packed.load_state_dict(state)
