import os
import subprocess
import sys
import time

import psutil
import pytest
import torch

from diffwave_sde.cli import cores
from diffwave_sde.cli.cores import Reading, free


@pytest.fixture
def threads(monkeypatch):
    """The threads as they were, whatever a test does; OMP_NUM_THREADS not set."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cores, "_began", None)
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("others", "own", "cores", "expected"),
    [
        (0.0, 2.0, 2, 2),  # what this program does itself takes nothing away
        (0.3, 2.0, 2, 2),
        (2.1, 1.9, 2, 1),
        (3.9, 0.1, 2, 1),  # at least one
        (-0.1, 2.0, 4, 4),  # counters that were read at two moments
        (6.0, 2.0, 16, 13),
    ],
)
def test_free_cores_are_those_that_others_do_not_use(others, own, cores, expected):
    before = Reading(10.0, 500.0, 3.0)
    assert free(before, Reading(12.0, 500.0 + others + own, 3.0 + own), cores) == expected


def test_too_short_a_time_tells_nothing():
    assert free(Reading(10.0, 0.0, 0.0), Reading(10.4, 9.0, 0.0), 2) is None


def test_threads_are_as_many_as_cores_are_free(threads, monkeypatch, capsys):
    readings = iter([Reading(0.0, 0.0, 0.0), Reading(2.0, 8.0, 2.0)])
    monkeypatch.setattr(cores, "read", lambda: next(readings))
    monkeypatch.setattr(psutil, "cpu_count", lambda: 4)
    cores.limit_threads()
    assert torch.get_num_threads() == 4  # nobody watched
    cores.start_monitor()
    cores.limit_threads()
    assert torch.get_num_threads() == 1
    assert capsys.readouterr().err == "other programs leave 1 of 4 cores free; threads: 1 (OMP_NUM_THREADS=n for n)\n"
    torch.set_num_threads(4)
    cores.limit_threads()
    assert torch.get_num_threads() == 4  # it is settled once


def test_a_number_that_was_asked_for_stays(threads, monkeypatch):
    monkeypatch.setattr(cores, "read", lambda: Reading(2.0, 100.0, 0.0))
    monkeypatch.setattr(cores, "_began", Reading(0.0, 0.0, 0.0))
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    cores.limit_threads()
    assert torch.get_num_threads() == 4


def test_on_a_machine_that_is_busy_one_thread_is_left(threads):
    busy = "import time\nend = time.monotonic() + 20\nwhile time.monotonic() < end: pass"
    others = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        time.sleep(0.5)
        cores.start_monitor()
        time.sleep(1.0)
        cores.limit_threads()
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert torch.get_num_threads() == 1


def test_a_trainings_threads_sleep_while_they_wait_unless_the_user_says_otherwise(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    cores.set_wait_policy("sample")
    assert "OMP_WAIT_POLICY" not in os.environ
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    cores.set_wait_policy("fit")
    assert "OMP_WAIT_POLICY" not in os.environ
    monkeypatch.delenv("GOMP_SPINCOUNT")
    cores.set_wait_policy("fit")
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_the_policy_is_set_before_torch_is_loaded():
    code = "import sys, diffwave_sde.cli; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
