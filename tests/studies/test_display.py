"""What a running study shows, on a terminal and elsewhere."""

import os
import subprocess
import sys
import time

import pytest
import stub_study

from bitlaw.studies import display
from bitlaw.studies.display import Board, Plain, Running, clock


def progress(done: int, total: int = 100) -> stub_study.Progress:
    return stub_study.Progress("s=0.5", 6144, 3, 17, 512, 2.345, 97_000.0, done, total)


@pytest.mark.parametrize(
    "seconds, text", [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_the_share_done_counts_running_jobs_by_their_tokens():
    board = Board(runs=10, finished=4, cost=100.0, workers=2, cost_done=40.0)
    board.running = {0: Running("a", 20.0, progress(50)), 1: Running("s=0.5 N=100", 20.0)}
    assert board.fraction() == pytest.approx(0.5)


def test_the_time_left_follows_the_measured_speed():
    """200 s of work took 400 s; 100 s are left for two workers: 100 s at that speed."""
    board = Board(runs=9, finished=6, cost=300.0, workers=2, cost_done=200.0, busy=400.0)
    assert board.remaining() == pytest.approx(50 * (400 + 30) / (200 + 30))


def test_the_time_left_is_never_less_than_the_longest_running_job():
    now = time.monotonic()
    board = Board(runs=2, finished=1, cost=100.0, workers=2)
    board.running = {0: Running("a", 100.0, progress(0), started=now)}
    assert board.remaining() == pytest.approx(100.0, rel=0.01)


def test_a_study_of_nothing_is_done():
    board = Board(runs=0, finished=0, cost=0.0, workers=1)
    assert board.fraction() == 1.0
    assert board.remaining() == 0.0


def test_plain_lines_say_what_every_worker_does(capsys, monkeypatch):
    plain = Plain()
    board = Board(runs=10, finished=4, cost=100.0, workers=2, cost_done=40.0)
    board.running = {0: Running("a", 20.0, progress(50)), 1: Running("s=0.5 N=100", 20.0)}
    plain.refresh(board)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(display, "PLAIN_SECONDS", 0.0)
    plain.refresh(board)
    line = capsys.readouterr().err
    assert line.startswith("4/10 runs, 50 %, about ") and line.count("\n") == 1
    assert "worker 0: s=0.5 N 6,144 seed 3 step 17/512 loss 2.345 97,000 tokens/s" in line
    assert "worker 1: s=0.5 N=100, compiling" in line


def test_a_terminal_shows_a_line_per_worker_and_an_overall_bar(tmp_path):
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", f"import stub_study; stub_study.main({str(tmp_path)!r}, 0.05)"],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), TERM="xterm", COLUMNS="120"),
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert process.wait() == 0
    text = shown.decode()
    assert "tokens/s" in text and "w=quest4/channel" in text and "10,000" in text
    assert "elapsed" in text and "left" in text and "24/24" in text
    assert "\x1b[?25h" in text, "the cursor must come back"
