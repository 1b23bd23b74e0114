"""A worker process (worker.py), as the executor sees it."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Hashable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from bitlaw.studies.rows import StudyError
from bitlaw.studies.schedule import Task
from bitlaw.studies.worker import Setup, environment

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Worker:
    """A worker process, as seen from here."""

    index: int
    process: subprocess.Popen
    connection: Connection
    log: Path
    ready: bool = False
    task: Task | None = None
    error: str = ""  # what it said before it ended, if it did
    programs: set[Hashable] = field(default_factory=set)

    def tell(self, message: Any) -> None:
        """Sends a message. A worker that has just died is noticed when its pipe is read."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send_bytes(pickle.dumps(message))

    def stop(self) -> None:
        """Ends the process at once; it has nothing to save."""
        self.process.kill()
        self.process.wait()
        self.connection.close()

    def ending(self) -> str:
        """Why the process ended, in words."""
        if self.error:
            return self.error
        try:  # its pipe closes a moment before its exit code is there
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "its pipe closed"
        if code >= 0:
            return f"exit code {code}"
        hint = ", perhaps out of memory" if code == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{hint}"


def start(index: int, core: int | None, setup: Setup, log: Path) -> Worker:
    """A new worker process, deaf to the signals that a terminal sends to everyone.

    Args:
        core: the core to stay on; None leaves the choice to the kernel.
        log: gets what the process prints, after what is there.
    Raises:
        StudyError: the system refuses to start a process.
    """
    here, there = Pipe()
    # The mask is inherited: the worker ends when the executor says so, or is gone.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        with open(log, "ab") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "bitlaw.studies.worker"),
                    *(str(there.fileno()), "any" if core is None else str(core)),
                ],
                env=environment(dict(os.environ), setup.device),
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
    except OSError as error:
        raise StudyError(f"cannot start worker {index}: {error}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        there.close()
    worker = Worker(index, process, here, log)
    worker.tell(setup)
    return worker


def available_cores() -> list[int]:
    """The cores this process may use, as many as its container's CPU quota pays for."""
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = cores[: max(1, round(int(quota) / int(period)))]  # without a quota: int("max")
    return cores


def check_device(device: str, what: str) -> None:
    """Asks JAX, in a process of its own so that this one takes none of a GPU's memory.

    Raises:
        ValueError: the device is "cuda" and JAX finds none.
    """
    if device == "cpu":
        return
    code = "import jax; print(*sorted({d.platform for d in jax.devices()}))"
    env = environment(dict(os.environ), device) | {"JAX_PLATFORMS": ""}
    asked = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    found = (asked.stdout.split("\n")[-2:] or [""])[0] or "an error"
    if found != "gpu":
        raise ValueError(f"{what} needs a CUDA device, found: {found}")
