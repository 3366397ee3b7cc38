"""Jobs on a Dask cluster of this computer: two workers, which are killed, unlike or not there."""

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch
from laboratory import Laboratory

from normlab import experiments, jobs
from normlab.jobs import ClusterError, ShortOfMemory

ROOT = Path(__file__).parents[1]
ANSWERS = [{"square": seed**2} for seed in range(8)]


class Cluster:
    """A scheduler in this process, and workers in processes of their own."""

    def __init__(self):
        from distributed import LocalCluster

        options = {"processes": True, "dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
        self.local, self.workers = LocalCluster(n_workers=0, **options), []
        self.address = self.local.scheduler_address

    def add(self, lab, threads=1):
        module = [sys.executable, "-m", "dask", "worker", self.address, "--no-nanny"]
        options = ["--no-dashboard", "--nthreads", str(threads), "--preload", lab.start]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        where = {"cwd": lab.folder, "env": environment}
        self.workers.append(subprocess.Popen([*module, *options], **where, **streams))

    def close(self):
        for worker in self.workers:
            worker.kill()
            worker.wait()
        self.local.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Laboratory(tmp_path_factory.mktemp("cluster") / "lab")


@pytest.fixture(scope="module")
def cluster(lab):
    """The cluster of all tests below; the tests are in the order of what happens to it."""
    made = Cluster()
    made.add(lab)
    made.add(lab)
    yield made
    made.close()


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """A cluster whose worker has another torch, another experiment and two threads."""
    lab = Laboratory(tmp_path_factory.mktemp("strange") / "lab")
    with (lab.folder / "toy.py").open("a") as file:
        file.write("# changed\n")
    lab.start.write_text("import torch\n\ntorch.__version__ = '1.0'\n" + lab.start.read_text())
    made = Cluster()
    made.add(lab, threads=2)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def open_lab(lab, monkeypatch):
    lab.open_to(monkeypatch)
    experiments._versions.cache_clear()
    (lab.folder / "log").unlink(missing_ok=True)


def metrics(record):
    assert [run["config"]["seed"] for run in record["runs"]] == list(range(8))
    return [run["metrics"] for run in record["runs"]]


def without_seconds(record):
    assert all(run["seconds"] >= 0 for run in record["runs"])
    runs = [{**run, "seconds": None} for run in record["runs"]]
    return {**record, "runs": runs}


def test_the_command_waits_for_the_first_worker(cluster, strange, lab, capsys):
    lab.wish()
    assert metrics(experiments.run("toy", scheduler=cluster.address)) == ANSWERS
    assert "has no workers yet: waiting" in capsys.readouterr().out


def test_a_worker_killed_in_the_middle_loses_and_doubles_nothing(cluster, lab):
    from distributed import Client

    with Client(cluster.address) as client:
        client.wait_for_workers(2, timeout=30)
    lab.wish(sleep=0.3)
    kept, killed = [], []

    def keep(entry):
        kept.append(entry["config"]["seed"])
        if len(kept) == 3:
            ended = lab.log("end")
            seed, process = next(pair for pair in lab.log("start") if pair not in ended)
            os.kill(process, signal.SIGKILL)
            killed.append((seed, process))

    record = experiments.run("toy", "quick", keep=keep, scheduler=cluster.address)
    ((seed, process),) = killed
    assert process in {worker.pid for worker in cluster.workers}
    assert [s for s, _ in lab.log("start")].count(seed) == 2, "the killed run was made again"
    assert sorted(kept) == list(range(8))
    assert len({p for _, p in lab.log("end")}) == 2, "both workers had worked"
    cluster.add(lab)  # for the tests below
    lab.wish()
    assert without_seconds(record) == without_seconds(experiments.run("toy", "quick"))


def test_an_interrupted_run_goes_on_from_the_finished_ones(cluster, lab):
    lab.wish(sleep=0.1)
    kept = []

    def keep(entry):
        kept.append(entry)
        if len(kept) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiments.run("toy", keep=keep, scheduler=cluster.address)
    first = {entry["config"]["seed"] for entry in kept}
    (lab.folder / "log").unlink()
    assert metrics(experiments.run("toy", done=kept, scheduler=cluster.address)) == ANSWERS
    again = {seed for seed, _ in lab.log("end")}
    assert len(first) == 3 and again == set(range(8)) - first


def test_a_run_with_too_little_memory_is_named_and_the_finished_ones_are_kept(cluster, lab):
    lab.wish(memory=3)
    kept = []

    def keep(entry):
        kept.append(entry["config"]["seed"])
        time.sleep(1 if len(kept) == 1 else 0)  # the others are finished meanwhile

    with pytest.raises(ShortOfMemory, match=r'memory ran out in {"seed": 3} \(no room\)'):
        experiments.run("toy", keep=keep, scheduler=cluster.address)
    assert sorted(kept) == [0, 1, 2, 4, 5, 6, 7]


def test_unlike_workers_are_refused_with_what_was_expected_and_got(strange, monkeypatch):
    def problems():
        with pytest.raises(ClusterError) as raised:
            experiments.run("toy", scheduler=strange.address)
        return str(raised.value)

    def check(text):
        assert f"expected torch {torch.__version__}, got 1.0" in text
        assert "expected toy.py " in text and "expected normlab" not in text
        assert "expected threads per worker 1, got 2" in text
        assert "Install the same requirements.txt and the same commit" in text

    check(problems())
    monkeypatch.setattr(jobs, "_check_workers", lambda *_: None)  # as if it had joined later
    check(problems())


def test_no_scheduler_says_the_address_and_what_to_do(lab, monkeypatch):
    monkeypatch.setattr(jobs, "TIMEOUT", 1)
    with pytest.raises(SystemExit) as ended:
        experiments.main(
            "toy.py", ["--scheduler", "tcp://127.0.0.1:1", "--folder", str(lab.results)]
        )
    text = str(ended.value)
    assert "toy: expected a Dask scheduler at tcp://127.0.0.1:1, got no answer within 1 s" in text
    assert "start one with `dask scheduler`" in text
    assert text.endswith("0 of 8 runs are kept; the same command goes on from there.")


def test_without_distributed_the_message_says_how_to_install_it(lab, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SystemExit, match=f'pip install "distributed=={jobs.DISTRIBUTED}"'):
        experiments.main("toy.py", ["--scheduler", "tcp://x:1", "--folder", str(lab.results)])


def test_the_version_in_the_message_is_the_pinned_one():
    pin = f"distributed=={jobs.DISTRIBUTED}"
    assert pin in (ROOT / "requirements.txt").read_text().splitlines()
    project = tomllib.loads((ROOT / "code" / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["cluster"] == [pin]


def test_a_run_that_kills_its_workers_is_named(cluster, lab):
    cluster.local.scheduler.allowed_failures = 0
    lab.wish(kill=5)
    # Dask hands out ahead and hears late: any of the jobs may be the one that it names
    says = r'1 workers were killed that had been given {"seed": [0-7]}'
    kept = []
    with pytest.raises(ShortOfMemory, match=says) as error:
        experiments.run("toy", keep=kept.append, scheduler=cluster.address)
    named = int(re.search(r'"seed": (\d)', str(error.value))[1])
    assert named not in [entry["config"]["seed"] for entry in kept]


def test_a_scheduler_that_goes_away_ends_the_command(cluster, lab):
    lab.wish(sleep=0.2)

    def keep(entry):
        cluster.local.close()

    with pytest.raises(ClusterError, match="the scheduler at .* is gone; start it"):
        experiments.run("toy", keep=keep, scheduler=cluster.address)
