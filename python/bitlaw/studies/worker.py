"""The worker process of a study: waits for jobs on a pipe, sends rows back.

    python -P -m bitlaw.studies.worker FD CORE

The executor starts one per core, or a few that share a GPU, and keeps them for the whole study, so
each program compiles once.
Everything that could make a row depend on the shell it was started from (threads, JAX_* settings)
is fixed by the environment the executor hands over, before jax is imported.

Messages from the executor: first one `Setup`, then `(job, skip)` pairs. Messages to it, each a
tuple:

    ("ready",)                    modules and corpus are loaded
    ("progress", Progress)        a few times a second
    ("row", run_id, text)         a finished run, as JSON text
    ("done",)                     the job is finished
    ("error", summary)            the job or the set-up raised (details in the log); the worker ends

A worker holds no state worth saving: it may be killed at any time.
"""

import importlib
import json
import os
import pickle
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

PROGRESS_SECONDS = 0.25


@dataclass(frozen=True)
class Setup:
    """What a worker needs before its first job; functions are named as "module:function"."""

    execute: str
    load: str
    identify: str  # names the build
    corpus: Any  # the argument of load
    data_sha256: str
    build: str
    device: str = "cpu"


def resolve(name: str) -> Callable[..., Any]:
    """The function that "module:function" names."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def environment(inherited: dict[str, str], device: str = "cpu") -> dict[str, str]:
    """The environment of a worker: one thread, its device, no JAX settings of the user's shell.

    Rows must not depend on the number of cores or on shell variables, so XLA's pool is one thread
    wide (NPROC) and its loops are not split (XLA_FLAGS). Huge pages in malloc and a traceback on
    SIGSEGV are conveniences: neither changes a number. PYTHONPATH makes both processes import the
    same modules.

    On a GPU, XLA compiles on all cores and takes memory as it needs it, since workers share the
    device. Rows may differ there in their last digits from one time to the next: XLA chooses
    products by timing them, and adds up an embedding's gradients in no fixed order. Products of
    float32 are of TF32 there, XLA's default.
    """
    kept = {name: value for name, value in inherited.items() if not name.startswith("JAX_")}
    alone = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    if device == "cuda":
        xla = {"XLA_FLAGS": "", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        return kept | alone | xla | {"JAX_PLATFORMS": "cuda"}
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    return kept | alone | {"JAX_PLATFORMS": "cpu", "NPROC": "1", "XLA_FLAGS": flags}


def listen(connection: Connection, inbox: queue.SimpleQueue) -> None:
    """Moves messages into the inbox; ends the process when the executor is gone."""
    while True:
        try:
            inbox.put(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)


def serve(connection: Connection, inbox: queue.SimpleQueue) -> None:
    """Executes jobs until the executor hangs up (`listen` then ends the process)."""
    setup: Setup = pickle.loads(inbox.get())
    execute, load = resolve(setup.execute), resolve(setup.load)
    if (build := resolve(setup.identify)()) != setup.build:
        raise ValueError(
            f"the installed package must not change while a study runs, got {build} "
            f"instead of {setup.build}"
        )
    corpus = load(setup.corpus)
    if corpus.sha256 != setup.data_sha256:
        raise ValueError(
            f"data must not change while a study runs, got sha256 {corpus.sha256} "
            f"instead of {setup.data_sha256}"
        )
    connection.send(("ready",))

    last = 0.0

    def on_progress(progress: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS:
            last = now
            connection.send(("progress", progress))

    def on_row(row: dict[str, Any]) -> None:
        connection.send(("row", row["run_id"], json.dumps(row)))

    while True:
        job, skip = pickle.loads(inbox.get())
        execute(job, corpus, build=setup.build, on_progress=on_progress, on_row=on_row, skip=skip)
        connection.send(("done",))


def main() -> None:
    """Serves the pipe FD from the core CORE ("any" leaves the choice to the kernel)."""
    fd, core = sys.argv[1:]
    if core != "any":
        os.sched_setaffinity(0, {int(core)})
    connection = Connection(int(fd))
    inbox: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=listen, args=(connection, inbox), daemon=True).start()
    try:
        serve(connection, inbox)
    except Exception as error:
        traceback.print_exc()  # into the worker's log
        connection.send(("error", f"{type(error).__name__}: {error}"))


if __name__ == "__main__":
    main()
