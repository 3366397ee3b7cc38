"""Many jobs: one after the other, in processes side by side, or on a Dask cluster.

Each way is a generator of ``(job, function(job))`` as jobs finish. When it is interrupted, or a job
fails, what is finished is handed over first, the rest is given up, and the error is raised.
"""

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children, get_context

import torch

from normlab.train import progress

DISTRIBUTED = "2026.8.0"  # of the package `distributed`, as in requirements.txt
TIMEOUT = 5  # seconds to wait for a scheduler


class ShortOfMemory(RuntimeError):
    """A job had too little memory, or its process was stopped from outside, which looks the same."""


class ClusterError(RuntimeError):
    """The cluster is not there, or its workers are not like this computer."""


def lacks_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on the processor or on a GPU."""
    signs = ("not enough memory", "can't allocate", "alloc_failed", "out of memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)
    )


def side_by_side(
    function: Callable, jobs: Sequence, processes: int | None = None, finished: int = 0
):
    """Yield ``(job, function(job))`` as jobs finish, in one-thread processes side by side.

    For convolutional networks on a CPU. On a GPU, or with one process, the jobs run here, one
    after the other. ``function`` must be importable (a module's own, not a notebook's).

    Args:
        function: of one job.
        jobs: what it is called with.
        processes: how many; default: one for each processor core, or 1 if there is a GPU.
        finished: jobs of an earlier session, which the progress bar counts.

    Raises:
        ShortOfMemory: a process was killed.
    """
    count = processes or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    bar = partial(progress, total=finished + len(jobs), initial=finished, smoothing=0, desc="runs")
    if count == 1:
        for job in bar(jobs):
            yield job, function(job)
        return
    others = set(active_children())
    spawn = get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=spawn, initializer=_alone) as pool:
        futures = {pool.submit(function, job): job for job in jobs}
        try:
            for future in bar(as_completed(futures)):
                result = future.result()
                yield futures.pop(future), result
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                yield from _finished(futures)
            for process in set(active_children()) - others:
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise ShortOfMemory(_killed(list(futures.values())[:count])) from None
            raise


def _alone() -> None:
    """Set up a process of the pool: one thread, no bar of its own, Ctrl-C left to the parent."""
    torch.set_num_threads(1)
    os.environ["NORMLAB_PROGRESS"] = "0"
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _finished(futures: dict):
    """Yield the jobs that are finished; take them out of ``futures``."""
    for future in [f for f in futures if f.done() and not f.cancelled() and not f.exception()]:
        yield futures.pop(future), future.result()


def _killed(jobs: Sequence) -> str:
    return (
        "a process was killed from outside, most likely because memory ran out, while it ran "
        + ("" if len(jobs) == 1 else "one of ")
        + "; ".join(map(str, jobs))
    )


def on_cluster(
    function: Callable,
    jobs: Sequence,
    address: str,
    finished: int = 0,
    versions: Callable[[], dict] = dict,
):
    """Yield ``(job, function(job))`` as jobs finish on the workers of a Dask cluster.

    A worker runs one job at a time. If it dies, Dask runs its job again on another one.

    Args:
        function: of one job; importable on the workers.
        jobs: what it is called with.
        address: of the scheduler, such as ``tcp://10.0.0.5:8786``.
        finished: jobs of an earlier session, which the progress bar counts.
        versions: called here and on every worker; the answers must agree.

    Raises:
        ClusterError: no scheduler, ``distributed`` is not installed, other versions on a worker.
        ShortOfMemory: four workers were killed that had been given the same job.
    """
    with _client(address) as client:
        expected = {**versions(), "threads per worker": 1}
        if not client.nthreads():
            print(f"{address} has no workers yet: waiting for the first (Ctrl-C ends)", flush=True)
            client.wait_for_workers(1)
        _check_workers(client, versions, expected)
        call = partial(_on_worker, versions, expected, function)
        futures = {client.submit(partial(call, job), pure=False): job for job in jobs}
        yield from _gather(futures, address, finished)


def _gather(futures: dict, address: str, finished: int):
    """Yield what the workers finish; name the job if they fail."""
    import distributed

    total = finished + len(futures)
    # with_results: results are fetched as soon as they are there, before their worker may die
    done = distributed.as_completed(list(futures), with_results=True, raise_errors=False)
    try:
        for future, result in progress(
            done, total=total, initial=finished, smoothing=0, desc="runs"
        ):
            job = futures.pop(future)
            if isinstance(result, CancelledError):
                raise ClusterError(
                    f"the scheduler at {address} is gone; start it and its workers again"
                )
            if future.status == "error":
                raise _cause(result[1], job)
            yield job, result
    except GeneratorExit:
        raise
    except BaseException:
        for future, result in done.next_batch(block=False):
            if future.status != "error" and not isinstance(result, CancelledError):
                yield futures.pop(future), result
        raise


def _cause(error: Exception, job) -> Exception:
    """Return the error of a job; if its workers were killed, one that says so."""
    from distributed import KilledWorker

    if not isinstance(error, KilledWorker):
        return error
    return ShortOfMemory(
        f"{error.allowed_failures + 1} workers were killed that had been given {job}, most likely "
        "because memory ran out"
    )


@contextmanager
def _client(address: str):
    """Connect to a scheduler, and let go of it at the end."""
    try:
        import distributed
    except ModuleNotFoundError:
        raise ClusterError(
            "--scheduler needs the package `distributed`, which is not installed here: "
            f'pip install "distributed=={DISTRIBUTED}"'
        ) from None
    try:
        client = distributed.Client(address, timeout=TIMEOUT)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"expected a Dask scheduler at {address}, got no answer within {TIMEOUT} s ({error}); "
            "start one with `dask scheduler`, give the address that it prints, and see that no "
            "firewall is in between"
        ) from None
    with client:
        yield client


def _check_workers(client, versions: Callable[[], dict], expected: dict) -> None:
    """Compare every worker with this computer.

    Raises:
        ClusterError: at least one of them differs.
    """
    try:
        found = client.run(_difference, versions, expected)
    except (ImportError, AttributeError) as error:
        found = {"at least one": f"expected the normlab of this computer, got {error!r}"}
    wrong = "; ".join(f"worker {name}: {text}" for name, text in found.items() if text)
    if wrong:
        raise ClusterError(_unlike(wrong))


def _unlike(wrong: str) -> str:
    return (
        f"{wrong}. Install the same requirements.txt and the same commit for every worker, then "
        "start all workers anew, with `--nthreads 1`"
    )


def _difference(versions: Callable[[], dict], expected: dict, dask_worker) -> str:
    """Say, on a worker (which Dask passes by this name), what is not as expected, else nothing."""
    try:
        found = versions()
    except ImportError as error:
        return f"expected the modules of this computer, got {error!r}"
    found = {**found, "threads per worker": dask_worker.state.nthreads}
    return ", ".join(
        f"expected {key} {value}, got {found.get(key)}"
        for key, value in expected.items()
        if found.get(key) != value
    )


def _on_worker(versions: Callable[[], dict], expected: dict, function: Callable, job):
    """Run one job on a worker, which may have joined after the first check."""
    from distributed import get_worker

    worker = get_worker()
    wrong = _difference(versions, expected, worker)
    if wrong:
        raise ClusterError(_unlike(f"worker {worker.address}: {wrong}"))
    os.environ["NORMLAB_PROGRESS"] = "0"
    return function(job)
