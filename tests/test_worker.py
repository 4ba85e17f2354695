"""A worker process: results come back, and every way to fail has its own name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from trtforge.errors import BuildError, ExitCode
from trtforge.worker import Cause, Job, Worker, WorkerFailure
from trtforge.worker_samples import Samples, oom_kills

SOON = 10.0  # seconds; generous, because two cores run everything


def job(name: str, **limits: object) -> Job:
    return Job(f"worker_jobs:{name}", {"n": 1}, "the test job", **limits)


def gone(pid: int) -> bool:
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


class Reports:
    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []

    def update(self, label: str, done: int, total: int) -> None:
        self.seen.append((label, done, total))


def test_a_job_gets_its_payload_and_environment_and_its_prints_go_to_the_log(tmp_path):
    log = tmp_path / "logs" / "job.log"
    with Worker(environment={"SET_FOR_THE_WORKER": "yes"}) as worker:
        result = worker.call(job("echo", log=log))
    assert result["n"] == 1
    assert result["variable"] == "yes"
    assert result["pid"] != os.getpid()
    assert log.read_text() == "said to stdout\nsaid to stderr\n"


def test_one_process_serves_several_jobs_and_ends_with_the_worker():
    with Worker(imports=["json", "no_such_module"]) as worker:
        worker.start()
        pid = worker.pid
        assert [worker.call(job("echo"))["pid"] for _ in range(2)] == [pid, pid]
    assert gone(pid)


def test_progress_is_streamed_while_the_job_runs():
    reports = Reports()
    with Worker() as worker:
        worker.call(job("count"), reports)
    assert reports.seen == [("counting", 1, 3), ("counting", 2, 3), ("counting", 3, 3)]


@pytest.mark.parametrize(
    ("name", "cause", "text"),
    [
        ("abort", Cause.CRASHED, "died from SIGABRT: terminate called without an active exception"),
        ("segfault", Cause.CRASHED, "died from SIGSEGV"),
        ("leave", Cause.CRASHED, "left with status 7"),
        ("leave_orphan", Cause.CRASHED, "left with status 3"),
        ("raise_value_error", Cause.RAISED, "failed: ValueError: the moon is full"),
        ("answer_with_a_set", Cause.RAISED, "not JSON serializable"),
        ("no_such_function", Cause.RAISED, "has no attribute 'no_such_function'"),
    ],
)
def test_each_way_to_fail_has_a_name_and_the_worker_can_be_used_again(tmp_path, name, cause, text):
    with Worker() as worker:
        with pytest.raises(WorkerFailure) as raised:
            worker.call(job(name, log=tmp_path / "log"))
        assert raised.value.cause is cause
        assert text in str(raised.value)
        assert str(tmp_path / "log") in raised.value.remedy
        assert "Traceback" not in str(raised.value)
        assert raised.value.exit_code is ExitCode.STEP_FAILED
        assert worker.call(job("echo"))["n"] == 1


@pytest.mark.parametrize(
    ("for_memory", "cause", "text"),
    [
        (True, Cause.OUT_OF_MEMORY, "most likely by the kernel because the machine ran out of mem"),
        (False, Cause.KILLED, "by another process, not for memory: it had used "),
    ],
)
def test_who_killed_the_process_is_told_from_its_memory(monkeypatch, for_memory, cause, text):
    monkeypatch.setattr(Samples, "speak_of_memory", lambda *_: for_memory)
    with Worker() as worker:
        with pytest.raises(WorkerFailure) as raised:
            worker.call(job("kill_self"))
        assert raised.value.cause is cause
        assert text in raised.value.what
        assert worker.call(job("echo"))["n"] == 1


GIB = 2**30


@pytest.mark.parametrize(
    ("peak", "free", "kills", "for_memory"),
    [
        (6 * GIB, 4 * GIB, (0, 0), True),  # it had most of the memory itself
        (GIB, GIB // 4, (0, 0), True),  # others had it, and nearly nothing was left
        (GIB, 8 * GIB, (2, 3), True),  # the kernel counted a kill
        (GIB, 8 * GIB, (2, 2), False),
        (GIB, 8 * GIB, (None, None), False),  # a system that does not count
        (0, None, (None, None), True),  # it ended before anything was seen
    ],
)
def test_what_speaks_for_a_kill_by_the_kernel(peak, free, kills, for_memory):
    before, now = kills
    samples = Samples(peak=peak, least_free=free, kills_before=before)
    assert samples.speak_of_memory(10 * GIB, now) is for_memory


def test_kills_for_memory_are_read_from_the_control_group(tmp_path):
    group = tmp_path / "sys" / "fs" / "cgroup" / "job"
    group.mkdir(parents=True)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/job\n")
    assert oom_kills(tmp_path) is None
    (group / "memory.events").write_text("low 0\noom 4\noom_kill 3\n")
    assert oom_kills(tmp_path) == 3


def test_samples_hold_the_most_memory_and_the_time_of_the_processor():
    samples = Samples()
    samples.take(os.getpid())
    assert samples.peak > 2**20
    assert samples.processor > 0
    seen = samples.peak, samples.least_free
    samples.take(2**22 + 1)  # no process has this number: Linux gives none above 2**22
    assert (samples.peak, samples.least_free) == seen
    assert "of memory when" in str(samples)


def test_a_crash_leaves_the_python_stack_in_the_log(tmp_path):
    with Worker() as worker, pytest.raises(WorkerFailure):
        worker.call(job("segfault", log=tmp_path / "log"))
    assert "in segfault" in (tmp_path / "log").read_text()


def test_words_of_an_earlier_job_are_not_given_as_the_cause_of_a_later_crash(tmp_path):
    (tmp_path / "log").write_text("terminate called by an earlier run\n")
    with Worker() as worker, pytest.raises(WorkerFailure, match="said nothing"):
        worker.call(job("segfault", log=tmp_path / "log"))


def test_errors_of_ours_cross_the_process_boundary_whole():
    with Worker() as worker, pytest.raises(BuildError) as raised:
        worker.call(job("raise_build_error"))
    assert str(raised.value) == "node 'conv1': no such layer\n  To do: drop it"


def test_a_hang_ends_at_its_time_limit_with_everything_it_started():
    reports = Reports()
    started = time.monotonic()
    with Worker() as worker, pytest.raises(WorkerFailure, match="did not end within 1 ") as raised:
        worker.call(job("hang", time_limit=1.0), reports)
    assert raised.value.cause is Cause.TIMED_OUT
    assert time.monotonic() - started < SOON
    assert all(gone(int(pid)) for pid in reports.seen[0][0].split())


def test_a_job_that_passes_its_memory_limit_is_stopped():
    big = Job("worker_jobs:grow", {"mebibytes": 300}, "the test job", memory_limit=200 * 2**20)
    with Worker() as worker, pytest.raises(WorkerFailure, match="its limit is 200MiB") as raised:
        worker.call(big)
    assert raised.value.cause is Cause.OUT_OF_MEMORY


def test_a_job_below_its_memory_limit_goes_on():
    with Worker() as worker:
        worker.call(job("count", memory_limit=500 * 2**20))


def test_an_interrupt_kills_the_job():
    reports = Reports()
    with Worker() as worker:
        timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            worker.call(job("hang"), reports)
    assert all(gone(int(pid)) for pid in reports.seen[0][0].split())


@pytest.mark.parametrize("working", [True, False], ids=["working", "waiting"])
def test_a_killed_parent_leaves_no_process(tmp_path, working):
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from trtforge.worker import Job, Worker

class Tell:
    def update(self, label, done, total):
        print(label, flush=True)

worker = Worker()
worker.start()
print(worker.pid, flush=True)
if {working}:
    worker.call(Job("worker_jobs:hang", {{}}, "the test job"), Tell())
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    if working:
        assert parent.stdout.readline().split()[0] == str(pid)
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.wait()
    assert gone(pid)


def test_a_forgotten_worker_ends_with_its_object():
    worker = Worker()
    worker.start()
    pid = worker.pid
    del worker
    assert gone(pid)


def test_a_module_in_the_current_folder_is_not_imported_by_accident(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    with Worker() as worker:
        assert worker.call(job("echo"))["n"] == 1
