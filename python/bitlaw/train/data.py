"""The training text: documents -> split by name -> packed rows.

The default corpus is the standard library of the running interpreter: real text that every machine
has, with no network. Documents are bytes, the vocabulary is 256. A GPU's budgets ask for more: the
sources of all installed packages.
"""

import functools
import hashlib
import json
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitlaw import packing

CONTEXT = 128
VALIDATION_SHARE = 10  # one document in 10, by the hash of its name
VALIDATION_BYTES = 2**18  # what the loss of a run is measured on
EPOCHS_FREE = 4  # up to 4 epochs are about as good as fresh text, past 16 little is left:
EPOCHS_MOST = 16  # arXiv:2305.16264, section 6

# Not every distribution of Python ships its tests; installed packages are not the library.
NOT_STDLIB = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}

FUNCTION = re.compile(rb"(?m)^(?=[ \t]*(?:async )?(?:def|class) )")

Rows = dict[str, np.ndarray]


@dataclass(frozen=True)
class Corpus:
    """Packed text. Rows hold context + 1 bytes: inputs and targets are the row shifted by one.

    Attributes:
        train, validation: "tokens" u8, "tokens_segment_ids" and "tokens_positions" u16,
            [rows, context + 1] each.
        context: positions per row.
        sha256: of the names and bytes of all documents, by name.
    """

    train: Rows
    validation: Rows
    context: int
    sha256: str

    @property
    def n_train_tokens(self) -> int:
        """Positions in one epoch."""
        return len(self.train["tokens"]) * self.context

    def check_budget(self, d_tokens: int) -> None:
        """Warns when a budget takes more than 4 epochs of this corpus.

        Raises:
            ValueError: it takes more than 16.
        """
        epochs = d_tokens / self.n_train_tokens
        if epochs > EPOCHS_MOST:
            raise ValueError(
                f"d_tokens must be at most {EPOCHS_MOST} epochs of the data "
                f"({EPOCHS_MOST * self.n_train_tokens}), got {d_tokens}"
            )
        if epochs > EPOCHS_FREE:
            warnings.warn(
                f"d_tokens {d_tokens} takes {epochs:.1f} epochs of the data: past {EPOCHS_FREE}, "
                "repeated text is worth less than fresh text",
                stacklevel=2,
            )

    def train_batches(self, seed: int, batch: int, begin: int, end: int, *, salt: int) -> Rows:
        """`packing.shift` of the rows of steps begin..end-1: arrays [steps, batch, context].

        Every epoch is a permutation of the rows, seeded by (seed, salt, epoch): the order of the
        data is the same however the steps are asked for.

        Args:
            salt: the model's n_dense. Schemes of one size see one order, so they are compared in
                pairs; another size sees another, so its error is independent.
        """
        rows = len(self.train["tokens"])
        places = np.arange(begin * batch, end * batch)
        chosen = np.empty_like(places)
        for epoch in range(places[0] // rows, places[-1] // rows + 1):
            inside = places // rows == epoch
            chosen[inside] = _permutation(rows, seed, salt, epoch)[places[inside] % rows]
        return _shifted(self.train, chosen, batch)

    def validation_batches(self, batch: int) -> Rows:
        """The fixed part of the validation rows on which every run is measured, as `train_batches`.

        Up to VALIDATION_BYTES, drawn from all documents, in whole batches.
        """
        rows = len(self.validation["tokens"])
        n = min(rows, VALIDATION_BYTES // self.context)
        n = max(n // batch, 1) * batch
        # One order for every run; np.resize repeats rows where they do not fill one batch.
        chosen = np.resize(np.random.default_rng(0).permutation(rows), n)
        return _shifted(self.validation, chosen, batch)


@functools.lru_cache(maxsize=4)
def _permutation(rows: int, seed: int, salt: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, salt, epoch)).permutation(rows)


def _shifted(rows: Rows, chosen: np.ndarray, batch: int) -> Rows:
    shifted = packing.shift({name: array[chosen] for name, array in rows.items()})
    return {name: array.reshape(-1, batch, array.shape[-1]) for name, array in shifted.items()}


def load(
    source: str | Sequence[str | os.PathLike] = "stdlib",
    *,
    context: int = CONTEXT,
    validation_bytes: int = VALIDATION_BYTES,
) -> Corpus:
    """The corpus of a source: "stdlib", "installed", or .txt and .jsonl files and folders of them.

    Of documents with the same bytes only the first by name is kept: a copy must not be trained on
    when the other is held out.

    Args:
        source: a .txt file is one document; each line of .jsonl is an object whose "text" is one.
        context: positions per row.
        validation_bytes: the least validation text to accept.
    Raises:
        ValueError: a path cannot be read or holds no text; too little validation or training text.
    """
    known = isinstance(source, str) and source in SOURCES
    named = SOURCES[source]() if known else _files(source)
    first: dict[bytes, str] = {}
    for name, text in sorted(named):
        first.setdefault(text, name)
    documents = [(name, text) for text, name in first.items() if text]
    digest = hashlib.sha256()
    parts: dict[bool, list[bytes]] = {True: [], False: []}
    for name, text in documents:
        digest.update(f"{name}\0{len(text)}\0".encode())
        digest.update(text)
        parts[_is_validation(name)].append(text)
    n_train, n_validation = (sum(map(len, parts[part])) for part in (False, True))
    if n_validation < validation_bytes or n_train <= n_validation:
        raise ValueError(
            f"data must give at least {validation_bytes} bytes of validation text (one document in "
            f"{VALIDATION_SHARE}, by name) and more than that to train on, got {n_validation} "
            f"and {n_train} bytes in {len(documents)} documents"
        )
    return Corpus(
        _packed(parts[False], context), _packed(parts[True], context), context, digest.hexdigest()
    )


def _is_validation(name: str) -> bool:
    """Whether a document is held out: decided by its name, so that new documents move no other."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % VALIDATION_SHARE == 0


def _packed(documents: list[bytes], context: int) -> Rows:
    plan = packing.plan([len(text) for text in documents], context + 1, overflow="split")
    rows = packing.materialize(plan, np.frombuffer(b"".join(documents), np.uint8))
    return {
        name: array.astype(np.uint8 if name == "tokens" else np.uint16)
        for name, array in rows.items()
    }


def functions(longest: int) -> tuple[list[bytes], list[bytes]]:
    """The functions and classes of the standard library's sources, to train on and held out.

    A file is cut before each line that begins one, so that a class and its first method are two
    documents. Those of more than `longest` bytes are left out, of equal ones all but the first;
    held out are those of the files that `load` holds out.
    """
    parts: dict[bool, dict[bytes, None]] = {True: {}, False: {}}
    for name, text in stdlib():
        pieces = FUNCTION.split(text)
        parts[_is_validation(name)] |= {p: None for p in pieces if 2 <= len(p) <= longest}
    return list(parts[False]), [p for p in parts[True] if p not in parts[False]]


def stdlib() -> Iterator[tuple[str, bytes]]:
    """The Python sources of the standard library, sorted by path, those that can be read."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if NOT_STDLIB.isdisjoint(name.parts):
            try:
                yield name.as_posix(), path.read_bytes()
            except OSError:  # a broken link in some distributions
                continue


def installed() -> Iterator[tuple[str, bytes]]:
    """The standard library, its tests too, and every installed package but this one: .py files.

    Named by their path below the standard library or a folder of packages.
    """
    library, packages = Path(sysconfig.get_path("stdlib")), {"site-packages", "dist-packages"}
    folders = [path.resolve() for path in map(Path, sys.path) if path.name in packages]
    for root in dict.fromkeys([library, *folders]):
        for path in sorted(root.rglob("*.py")):
            name = path.relative_to(root)
            twice = root == library and not packages.isdisjoint(name.parts)
            if not twice and name.parts[0] != "bitlaw":
                try:
                    yield name.as_posix(), path.read_bytes()
                except OSError:
                    continue


SOURCES = {"stdlib": stdlib, "installed": installed}  # named, of this machine


def _files(source: Sequence[str | os.PathLike]) -> Iterator[tuple[str, bytes]]:
    """The documents of files and folders, in the order given; inside a folder sorted by path."""
    if isinstance(source, str):
        source = [source]
    if not SOURCES.keys().isdisjoint(source):
        raise ValueError(
            f"data must be {' or '.join(SOURCES)} alone, or files and folders, "
            f"got {' '.join(map(str, source))}"
        )
    for given in map(Path, source):
        if not given.exists():
            raise ValueError(f"data must exist, got {given}")
        paths = [given]
        if given.is_dir():
            paths = sorted(p for p in given.rglob("*") if p.suffix in (".txt", ".jsonl"))
        if not paths or any(path.suffix not in (".txt", ".jsonl") for path in paths):
            raise ValueError(f"data must be .txt or .jsonl files or folders of them, got {given}")
        for path in paths:
            name = path.relative_to(given).as_posix() if given.is_dir() else path.name
            try:
                content = path.read_bytes()
            except OSError as error:
                raise ValueError(f"data must be readable, got {path}: {error.strerror}") from None
            yield from _lines(name, path, content) if path.suffix == ".jsonl" else [(name, content)]


def _lines(name: str, path: Path, content: bytes) -> Iterator[tuple[str, bytes]]:
    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip():
            try:
                yield f"{name}:{number}", json.loads(line)["text"].encode()
            except (ValueError, KeyError, TypeError, AttributeError):
                raise ValueError(
                    f'data must hold an object with a "text" string per line, got {path}:{number}: '
                    f"{line[:40]!r}"
                ) from None
