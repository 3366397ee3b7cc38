"""Jobs in processes: nothing finished is lost, whatever ends the session, and the cause is clear."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from laboratory import Laboratory

from normlab import experiments, records
from normlab.jobs import lacks_memory, side_by_side


@pytest.fixture
def lab(tmp_path):
    return Laboratory(tmp_path / "lab")


def session(lab, *options, group=False):
    """Start the command in a process of its own, with its progress bar."""
    command = [sys.executable, lab.start, "--folder", lab.results, *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NORMLAB_PROGRESS": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=group, **streams)


def wait_for(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_side_by_side_gives_every_result_from_other_processes():
    jobs = [3, 4, 5]
    found = dict(side_by_side(math.factorial, jobs, processes=2))
    assert found == {3: 6, 4: 24, 5: 120} == dict(side_by_side(math.factorial, jobs, processes=1))


def test_a_job_that_fails_does_not_take_finished_ones_with_it():
    found = []
    with pytest.raises(ValueError, match="non-negative"):
        for job, _ in side_by_side(time.sleep, [0, 0.2, -1, 0.5, 0.6], processes=2):
            found.append(job)
            time.sleep(5 if len(found) == 1 else 0)  # the others are finished meanwhile
    assert sorted(found) == [0, 0.2, 0.5, 0.6]


@pytest.mark.parametrize(("processes", "group"), [("1", False), ("2", True)])
def test_control_c_loses_no_finished_run_and_the_bar_counts_them(lab, processes, group):
    options = ("--scale", "full", "--processes", processes)
    lab.wish(sleep=0.1, long={"5": 300, "6": 300, "7": 300})  # so the first session cannot end
    first = session(lab, *options, group=group)
    wait_for(lambda: {seed for seed, _ in lab.log("end")} == set(range(5)), first)
    time.sleep(0.2)  # what was finished this long before the signal must be kept
    before = time.monotonic()
    (os.killpg if group else os.kill)(first.pid, signal.SIGINT)
    output, _ = first.communicate(timeout=60)
    assert time.monotonic() - before < 20, "the runs under way were waited for"
    assert first.returncode not in (0, None)
    assert "Interrupted. 5 of 8 runs are kept; the same command goes on" in output
    assert sorted(lab.kept()) == [0, 1, 2, 3, 4]

    lab.wish(sleep=0.1)
    second = session(lab, *options)
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 0, output
    assert "5 runs of an interrupted session are kept" in output
    assert sorted(seed for seed, _ in lab.log("end")) == list(range(8)), "each run once"
    record = records.read("toy", lab.results)
    assert [run["metrics"]["square"] for run in record["runs"]] == [s**2 for s in range(8)]
    shown = re.findall(r"(\d)/8 \[(\S+)<([^,\]]+)", output)
    assert shown[0][0] == "5"  # the bar starts at the finished runs
    assert any(re.fullmatch(r"\d\d:\d\d", left) for _, _, left in shown), "no estimate"


def test_an_interruption_twice_with_a_line_cut_off_loses_nothing(lab, monkeypatch):
    lab.open_to(monkeypatch)
    lab.results.mkdir()
    source = records.source_hash(lab.folder / "toy.py")
    entries = [{"config": {"seed": s}, "metrics": {"square": -1}, "seconds": 1} for s in (0, 1)]
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    partial = lab.results / f".toy.quick.{source}.jsonl"
    partial.write_text(text + '{"config": {"seed": 2}, "met')
    lab.wish(memory=4)
    for expected in ([0, 1, 2, 3], [0, 1, 2, 3]):
        with pytest.raises(SystemExit):
            experiments.main("toy.py", ["--scale", "quick", "--folder", str(lab.results)])
        assert lab.kept() == expected
    lab.wish()
    experiments.main("toy.py", ["--scale", "quick", "--folder", str(lab.results)])
    squares = [run["metrics"]["square"] for run in records.read("toy", lab.results)["runs"]]
    assert squares == [-1, -1, 4, 9, 16, 25, 36, 49]


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ("memory", 'memory ran out in {"seed": 5} (no room)'),
        ("kill", "a process was killed from outside, most likely because memory ran out"),
    ],
)
def test_too_little_memory_ends_with_one_clear_message(lab, wish, says):
    lab.wish(sleep=0.1, long={"6": 300, "7": 300}, **{wish: 5})
    process = session(lab, "--scale", "full", "--processes", "2")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in output
    assert says in output
    assert '{"seed": 5}' in output
    assert "fewer processes (--processes 1) or a smaller --scale. 5 of 8 runs are kept" in output
    assert sorted(lab.kept()) == [0, 1, 2, 3, 4]


def allocate():
    torch.empty(1 << 60, dtype=torch.uint8)


def test_errors_that_mean_too_little_memory_are_known_and_others_are_not():
    with pytest.raises(RuntimeError) as cpu:
        allocate()
    assert lacks_memory(cpu.value)
    assert lacks_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert lacks_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to ..."))
    assert lacks_memory(MemoryError())
    assert not lacks_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not lacks_memory(ValueError("out of memory"))


def test_an_error_that_is_not_about_memory_keeps_its_traceback(lab, monkeypatch):
    lab.open_to(monkeypatch)
    (lab.folder / "wishes.json").write_text("{}")
    with pytest.raises(KeyError, match="sleep"):
        experiments.run("toy", "quick")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--processes", "0"], "--processes expected 1 or more, got 0"),
        (["--processes", "2", "--scheduler", "tcp://x:1"], "not allowed with"),
    ],
)
def test_options_that_make_no_sense_are_refused(lab, monkeypatch, capsys, options, says):
    lab.open_to(monkeypatch)
    with pytest.raises(SystemExit) as ended:
        experiments.main("toy.py", options)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
