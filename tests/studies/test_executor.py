"""The executor against a study of stubs: rows survive whatever happens to the processes."""

import csv
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import stub_study
from stub_study import Job, Run

from bitlaw.studies import rows
from bitlaw.studies.display import Plain
from bitlaw.studies.executor import Executor
from bitlaw.studies.process import available_cores
from bitlaw.studies.schedule import Task, choose
from bitlaw.studies.worker import Setup, environment


def table(out: Path) -> list[dict[str, str]]:
    """runs.csv without the one column that differs between runs."""
    with open(out / "runs.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def command(out: Path, seconds: float) -> subprocess.Popen:
    """The stub study as a user would start it: a process of its own."""
    # nohup and background shells have the tests ignore signals, which children inherit.
    heard = "for s in (1, 2): signal.signal(s, signal.default_int_handler)"
    run = f"stub_study.main({str(out)!r}, {seconds})"
    return subprocess.Popen(
        [sys.executable, "-c", f"import signal, stub_study\n{heard}\n{run}"],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def children(pid: int) -> list[int]:
    """The process ids of a process's children."""
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition, seconds: float = 10.0) -> None:
    """Returns as soon as the condition holds; fails when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def row_files(out: Path) -> list[Path]:
    return sorted((out / "rows").glob("*.json"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> list[dict[str, str]]:
    out = tmp_path_factory.mktemp("undisturbed")
    assert not stub_study.study(out, stub_study.jobs()).failures
    return table(out)


def test_runs_csv_has_every_run_sorted_with_the_agreed_columns_first(tmp_path, undisturbed):
    assert len(undisturbed) == 24
    assert [row["run_id"] for row in undisturbed] == sorted(row["run_id"] for row in undisturbed)
    assert tuple(undisturbed[0]) == tuple(c for c in (*rows.COLUMNS, "status") if c != "seconds")


def test_floats_in_runs_csv_read_back_bit_for_bit(tmp_path):
    losses = [0.1 + 0.2, 1 / 3, 5e-324, float("nan")]
    table_rows = [
        dict.fromkeys(rows.COLUMNS, 0) | {"run_id": str(i), "loss": loss}
        for i, loss in enumerate(losses)
    ]
    rows.write_runs(tmp_path, table_rows)
    assert [repr(float(row["loss"])) for row in table(tmp_path)] == [repr(x) for x in losses]


def test_one_worker_gives_the_same_table_as_two(tmp_path, undisturbed):
    stub_study.study(tmp_path, stub_study.jobs(), workers=1)
    assert table(tmp_path) == undisturbed


def test_a_rerun_computes_nothing(tmp_path, undisturbed, capfd):
    stub_study.study(tmp_path, stub_study.jobs())
    before = {path: path.stat().st_mtime_ns for path in row_files(tmp_path)}
    stub_study.study(tmp_path, stub_study.jobs())
    assert {path: path.stat().st_mtime_ns for path in row_files(tmp_path)} == before
    assert "24 of 24 runs were finished earlier" in capfd.readouterr().err


def test_a_missing_branch_is_done_again_and_its_siblings_are_not(tmp_path, undisturbed):
    stub_study.study(tmp_path, stub_study.jobs())
    files = row_files(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in files[1:]}
    files[0].unlink()
    stub_study.study(tmp_path, stub_study.jobs())
    assert {path: path.stat().st_mtime_ns for path in files[1:]} == before
    assert table(tmp_path) == undisturbed


def test_runs_csv_leaves_out_rows_of_other_studies(tmp_path, capfd):
    stub_study.study(tmp_path, stub_study.jobs())
    stub_study.study(tmp_path, stub_study.jobs()[:1])
    assert len(table(tmp_path)) == 3
    assert len(row_files(tmp_path)) == 24
    assert "21 rows of other studies, data or builds are left alone" in capfd.readouterr().err


def test_kill_9_of_the_study_at_random_moments_changes_nothing(tmp_path, undisturbed):
    moments = random.Random(0)
    for _ in range(5):
        process = command(tmp_path, 0.02)
        time.sleep(moments.uniform(0.15, 0.6))
        process.kill()
        process.communicate()
        for path in row_files(tmp_path):
            json.loads(path.read_text())  # whatever is there is whole
    process = command(tmp_path, 0.02)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert table(tmp_path) == undisturbed
    assert not list((tmp_path / "rows").glob("*.partial"))


def test_workers_in_the_middle_of_a_long_job_end_when_the_study_is_killed(tmp_path):
    process = command(tmp_path, 60.0)
    wait_for(lambda: len(children(process.pid)) == 2)
    workers = children(process.pid)
    time.sleep(0.5)  # until they are at their jobs
    assert all(Path(f"/proc/{pid}").exists() for pid in workers)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_the_next_study_names_what_a_kill_9_lost(tmp_path):
    process = command(tmp_path, 0.3)
    wait_for(lambda: row_files(tmp_path))
    process.kill()
    process.communicate()
    kept = len(row_files(tmp_path))
    process = command(tmp_path, 0.01)
    output, _ = process.communicate(timeout=30)
    assert "ended early; lost in flight: dense D=" in output
    assert f"{kept} of 24 runs were finished earlier" in output
    assert not (tmp_path / "in_flight.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_signal_names_the_runs_in_flight_and_keeps_the_rest(tmp_path, number):
    process = command(tmp_path, 0.3)
    wait_for(lambda: row_files(tmp_path))
    workers = children(process.pid)
    process.send_signal(number)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    last = output.strip().splitlines()[-1]
    assert last.startswith(
        f"stopped by {number.name}; {len(row_files(tmp_path))} of 24 runs are kept"
    )
    assert "lost in flight: dense D=" in last and "run the same command again" in last
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert not (tmp_path / "in_flight.json").exists()


def test_ctrl_c_of_the_whole_terminal_reaches_the_workers_only_through_the_study(tmp_path):
    process = command(tmp_path, 0.3)
    wait_for(lambda: row_files(tmp_path))
    for pid in children(process.pid):
        os.kill(pid, signal.SIGINT)
    wait_for(lambda: len(row_files(tmp_path)) >= 5)
    process.kill()
    output, _ = process.communicate()
    assert "failed" not in output


def test_kill_9_of_a_worker_is_reported_and_its_job_done_again(tmp_path, undisturbed):
    process = command(tmp_path, 0.1)
    wait_for(lambda: row_files(tmp_path))
    os.kill(children(process.pid)[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert (
        "failed (killed by SIGKILL, perhaps out of memory); once more in a fresh worker" in output
    )
    assert table(tmp_path) == undisturbed


@pytest.mark.parametrize("fault", ["raise", "kill", "segfault", "forget"])
def test_a_job_that_fails_once_is_tried_again(tmp_path, fault, capfd):
    job = Job((Run("dense", 10),), fault=fault, marker=str(tmp_path / "marker"))
    outcome = stub_study.study(tmp_path / "out", [job], workers=1)
    assert not outcome.failures
    assert len(outcome.rows) == 1
    assert capfd.readouterr().err.count("once more in a fresh worker: dense D=10 seed=0") == 1


@pytest.mark.parametrize("fault, why", [("raise", "as requested"), ("segfault", "SIGSEGV")])
def test_a_job_that_fails_twice_is_listed_and_the_study_goes_on(tmp_path, fault, why):
    bad = Job((Run("s=0.5", 10), Run("s=0.5", 20)), fault=fault)
    outcome = stub_study.study(tmp_path, [bad, *stub_study.jobs()])
    assert len(outcome.rows) == 24
    (failure,) = outcome.failures
    assert failure.startswith("s=0.5 D=10 seed=0; s=0.5 D=20 seed=0: ") and why in failure
    log = Path(failure.rpartition("see ")[2])
    assert ("as requested" if fault == "raise" else "Segmentation fault") in log.read_text()
    assert len(table(tmp_path)) == 24


def test_workers_that_cannot_start_end_the_study_with_the_reason(tmp_path):
    with pytest.raises(rows.StudyError, match="workers do not start: ValueError: corpus must be"):
        stub_study.study(tmp_path, stub_study.jobs(), corpus="unreadable")


@pytest.mark.parametrize(
    "changed, what",
    [({"sha256": "cd" * 32}, "data must not change"), ({"build": "b"}, "package must not change")],
)
def test_text_or_code_that_changes_under_a_study_ends_it(tmp_path, changed, what):
    with pytest.raises(rows.StudyError, match=f"{what} while a study runs"):
        stub_study.study(tmp_path, stub_study.jobs(), **changed)
    assert not row_files(tmp_path)


def test_a_second_study_in_the_same_folder_is_refused_by_name(tmp_path):
    process = command(tmp_path, 0.3)
    wait_for(lambda: row_files(tmp_path))
    with pytest.raises(rows.StudyError, match=f"in use, got .*where process {process.pid} is"):
        stub_study.study(tmp_path, stub_study.jobs())
    process.kill()
    process.communicate()
    stub_study.study(tmp_path, stub_study.jobs())  # the lock goes with its process


@pytest.mark.parametrize("damage", ["", '{"run_id": "', "[1]", '{"run_id": "other"}', "\xff"])
def test_a_corrupt_row_is_named_set_aside_and_done_again(tmp_path, undisturbed, capfd, damage):
    stub_study.study(tmp_path, stub_study.jobs())
    hurt, *whole = row_files(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in whole}
    hurt.write_bytes(damage.encode("latin-1"))
    capfd.readouterr()
    stub_study.study(tmp_path, stub_study.jobs())
    warnings = [x for x in capfd.readouterr().err.splitlines() if x.startswith("warning: ")]
    assert len(warnings) == 1 and f"{hurt} must be one finished row as JSON" in warnings[0]
    assert hurt.with_name(hurt.name + ".corrupt").read_bytes() == damage.encode("latin-1")
    assert {path: path.stat().st_mtime_ns for path in whole} == before
    assert table(tmp_path) == undisturbed


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"loss": "abc"}, "loss must be a finite positive number, got 'abc'"),
        ({"loss": -1.0}, "loss must be a finite positive number, got -1.0"),
        ({"loss": float("nan")}, "loss must be a finite positive number, got nan"),
        ({"loss": None}, "loss must be a finite positive number, got None"),
        ({"status": "diverged"}, "loss must be null when diverged"),
        ({"status": "fine"}, "status must be ok or diverged, got 'fine'"),
        ({"scheme": "s=0.25"}, "scheme must be "),
        ({"n_params": 101}, "n_params must be 100, got 101"),
        ({"d_tokens": 11}, "d_tokens must be "),
        ({"seed": 9}, "seed must be "),
        ({"status": ...}, "status missing"),
    ],
)
def test_a_row_that_says_something_else_than_its_run_is_done_again(
    tmp_path, capfd, change, complaint
):
    job = stub_study.jobs()[:1]
    stub_study.study(tmp_path, job)
    undisturbed, hurt = table(tmp_path), row_files(tmp_path)[0]
    altered = json.loads(hurt.read_text()) | change
    hurt.write_text(json.dumps({k: v for k, v in altered.items() if v is not ...}))
    capfd.readouterr()
    stub_study.study(tmp_path, job)
    (warning,) = [x for x in capfd.readouterr().err.splitlines() if x.startswith("warning: ")]
    assert complaint in warning and "the run is done again" in warning
    assert hurt.with_name(hurt.name + ".corrupt").exists()
    assert table(tmp_path) == undisturbed


def test_a_diverged_row_without_a_loss_is_finished(tmp_path):
    stub_study.study(tmp_path, stub_study.jobs()[:1])
    path = row_files(tmp_path)[0]
    row = json.loads(path.read_text()) | {"status": "diverged", "loss": None}
    path.write_text(json.dumps(row))
    run = {name: row[name] for name in ("scheme", "n_params", "d_tokens", "seed")}
    assert rows.read_finished(tmp_path, {path.stem: run}) == ({path.stem: row}, [])


def test_workers_are_pinned_when_the_affinity_mask_gave_their_number(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 1, 7})

    def cores(workers: int, device: str = "cpu") -> list:
        setup = Setup("", "", "", None, "", "", device)
        return Executor(None, setup, tmp_path, workers, Plain()).cores

    assert [cores(n) for n in (2, 3, 4)] == [[None] * 2, [1, 3, 7], [None] * 4]
    assert cores(3, "cuda") == [None] * 3


def test_a_folder_that_cannot_be_written_is_refused_at_the_door(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(rows.StudyError, match="out must be a folder that can be written, got "):
        stub_study.study(tmp_path / "file", stub_study.jobs())
    if os.geteuid():  # root writes anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(rows.StudyError, match="Permission denied"):
            stub_study.study(tmp_path / "locked", stub_study.jobs())


def test_a_disk_that_fills_up_ends_the_study_with_one_line_and_keeps_the_rows(
    tmp_path, monkeypatch
):
    synced, fsync = [], os.fsync

    def full_after_ten(fd: int) -> None:
        synced.append(fd)
        if len(synced) > 10:
            raise OSError(28, "No space left on device")
        fsync(fd)

    monkeypatch.setattr(rows.os, "fsync", full_after_ten)
    with pytest.raises(
        rows.StudyError, match=r"cannot write .*No space .* kept, make room and run"
    ):
        stub_study.study(tmp_path, stub_study.jobs())
    monkeypatch.undo()
    kept = row_files(tmp_path)
    assert kept and all(json.loads(path.read_text())["run_id"] == path.stem for path in kept)
    assert not list((tmp_path / "rows").glob("*.partial"))


def test_a_full_disk_is_refused_at_the_door(tmp_path):
    # A file size limit stands in for the full disk: the kernel refuses the write in the same place.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(rows.StudyError, match=r"cannot write .*probe: File too large"):
            stub_study.study(tmp_path, stub_study.jobs())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_folder_that_is_read_only_is_not_told_to_make_room(tmp_path, monkeypatch):
    def refuses(source, target):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(rows.os, "replace", refuses)
    with pytest.raises(rows.StudyError, match=r"Read-only .* kept, make the folder writable and"):
        rows.write_atomic(tmp_path / "row.json", "{}")


def test_a_reader_never_sees_half_a_file(tmp_path, monkeypatch):
    path = tmp_path / "row.json"
    rows.write_atomic(path, "old")

    def dies(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(rows.os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        rows.write_atomic(path, "new" * 1000)
    assert path.read_text() == "old"


def test_rows_do_not_depend_on_jax_settings_of_the_shell():
    clean = environment({"HOME": "/h", "JAX_ENABLE_X64": "1", "XLA_FLAGS": "--xla_foo"})
    assert clean["HOME"] == "/h"
    assert "JAX_ENABLE_X64" not in clean and "xla_foo" not in clean["XLA_FLAGS"]
    assert clean["NPROC"] == "1"
    shared = environment({"JAX_PLATFORMS": "cpu", "NPROC": "1", "XLA_FLAGS": "--xla_foo"}, "cuda")
    assert shared["JAX_PLATFORMS"] == "cuda" and not shared["XLA_FLAGS"]
    assert shared["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


def finish_times(tasks: list[Task], workers: int, compile_cost: float) -> tuple[float, int]:
    """(time to the end, compiles) when free workers take what `choose` says."""
    clocks, programs, compiles = [0.0] * workers, [set() for _ in range(workers)], 0
    pending = list(tasks)
    while pending:
        index = clocks.index(min(clocks))
        others = set().union(*(p for i, p in enumerate(programs) if i != index))
        task = choose(pending, programs[index], others, workers)
        pending.remove(task)
        compiles += task.program not in programs[index]
        clocks[index] += task.cost + compile_cost * (task.program not in programs[index])
        programs[index].add(task.program)
    return max(clocks), compiles


def test_jobs_of_one_program_stay_on_one_worker_and_the_end_is_balanced():
    """The shape of the quick preset: 3 sizes x 3 structures, costs 20 to 120 s, compiles of 6 s."""
    tasks = [
        Task(None, {}, size * length, (size, structure))
        for size in (1.0, 1.3, 1.9)
        for structure, lengths in {
            "w": [40, 40],
            "wa": [45],
            "": [30, 30, 60, 30, 15, 8, 8, 15, 30],
        }.items()
        for length in lengths
    ]
    total, compiles = finish_times(tasks, 2, 6.0)
    ideal = (sum(task.cost for task in tasks) + 9 * 6.0) / 2
    assert total < 1.05 * ideal
    assert compiles <= 12  # 9 programs; longest first alone compiles nearly all of them twice


def test_a_free_worker_takes_a_program_of_its_own_then_a_new_one_then_the_longest():
    own, new, other = Task(None, {}, 1.0, "a"), Task(None, {}, 2.0, "b"), Task(None, {}, 3.0, "c")
    fill = [Task(None, {}, 2.0, "c")] * 3
    assert choose([own, new, other, *fill], {"a"}, {"c"}, 2) is own
    assert choose([new, other, *fill], {"a"}, {"c"}, 2) is new
    assert choose([other, *fill], {"a"}, {"c"}, 2) is other


def test_a_task_that_would_make_everyone_wait_at_the_end_goes_first():
    own, long = Task(None, {}, 10.0, "a"), Task(None, {}, 100.0, "b")
    assert choose([own, own, long], {"a"}, {"b"}, 2) is long


def test_available_cores_are_those_of_the_affinity_mask():
    assert set(available_cores()) <= os.sched_getaffinity(0)
    assert available_cores()
