"""Execute every lesson of the book, side by side, into the cache that Jupyter Book reads.

``python -m normlab.execute [FOLDER]`` fills ``_build/.jupyter_cache``. The cache itself compares
only the cells of a notebook; here it is also dropped when anything that they read has changed.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib import metadata
from pathlib import Path

import nbformat
import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from nbclient import NotebookClient

INPUTS = ("code", "results", "requirements.txt")  # what every lesson may read
SKIPPED = {"__pycache__", ".ruff_cache", ".ipynb_checkpoints"}
CELL_SECONDS = 600  # no cell may run longer
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class LessonError(Exception):
    """A notebook that did not run to its end; the message shows the cell and the error."""


def lessons_of(book: Path) -> list[Path]:
    """Return the notebooks that ``_toc.yml`` names, in its order."""

    def files(node):
        if isinstance(node, dict):
            yield from (value for key, value in node.items() if key in ("root", "file"))
            node = list(node.values())
        if isinstance(node, list):
            for child in node:
                yield from files(child)

    toc = yaml.safe_load((book / "_toc.yml").read_text(encoding="utf-8"))
    named = [book / (name.removesuffix(".ipynb") + ".ipynb") for name in files(toc)]
    return [path for path in named if path.exists()]


def inputs_key(book: Path) -> str:
    """Return one hash over names and contents of all that lessons read, and of Python and torch."""
    digest = hashlib.sha256(sys.version.encode())
    for package in ("torch", "normlab"):
        try:
            digest.update(metadata.version(package).encode())
        except metadata.PackageNotFoundError:
            digest.update(b"absent")
    for path in sorted(p for name in INPUTS for p in [book / name, *(book / name).rglob("*")]):
        hidden = SKIPPED.intersection(path.parts) or any(".egg-info" in p for p in path.parts)
        hidden = hidden or path.name.startswith(".")  # runs of an interrupted experiment
        if path.is_file() and not hidden:
            digest.update(str(path.relative_to(book)).encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def drop_stale(build: Path, key: str) -> None:
    """Delete the cache unless it was filled under the same ``key``."""
    note = build / ".jupyter_cache" / "inputs.sha256"
    if not note.exists() or note.read_text() != key:
        shutil.rmtree(note.parent, ignore_errors=True)
        note.parent.mkdir(parents=True)
        note.write_text(key)


def run_notebook(path: Path) -> tuple[nbformat.NotebookNode, float]:
    """Run one notebook in its own folder; return it with outputs, and the seconds it took.

    Raises:
        LessonError: a cell raised, took longer than ``CELL_SECONDS``, or killed its kernel.
    """
    notebook = nbformat.read(path, nbformat.NO_CONVERT)
    reached = {}
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        on_cell_start=lambda cell, cell_index: reached.update(cell=cell, index=cell_index),
    )
    start = time.perf_counter()
    try:
        client.execute()
    except Exception as error:  # any way to fail is reported with its cell
        cell = reached.get("cell", {"source": "(before the first cell)"})
        raised = [out for out in cell.get("outputs", []) if out["output_type"] == "error"]
        text = "\n".join(raised[-1]["traceback"]) if raised else f"{type(error).__name__}: {error}"
        raise LessonError(
            f"{path}, cell {cell.get('id', '')!r} (number {reached.get('index', 0)}):\n\n"
            f"{cell['source']}\n\n{ANSI.sub('', text)}"
        ) from error
    return notebook, time.perf_counter() - start


def longest_first(paths: list[Path], seconds: dict[str, float], book: Path) -> list[Path]:
    """Sort by the last known run time; a notebook never run yet counts as long."""

    def expected(path: Path) -> float:
        known = seconds.get(str(path.relative_to(book)))
        guess = 300.0 if "_solutions" not in path.name else 200.0
        return guess if known is None else known

    return sorted(paths, key=expected, reverse=True)


def execute(book: Path, workers: int | None = None) -> int:
    """Execute what the cache does not hold yet; print a line per notebook; return the failures."""
    build = book / "_build"
    drop_stale(build, inputs_key(book))
    cache, times = get_cache(build / ".jupyter_cache"), build / "seconds.json"
    seconds = json.loads(times.read_text()) if times.exists() else {}
    lessons = lessons_of(book)
    todo = [path for path in lessons if not is_cached(cache, path)]
    workers = workers or cores()
    print(f"{len(lessons)} notebooks: {len(lessons) - len(todo)} unchanged, ", end="")
    print(f"{len(todo)} to execute, {workers} at a time", flush=True)
    failures = []
    with ThreadPoolExecutor(workers) as pool:
        ordered = longest_first(todo, seconds, book)
        jobs = {pool.submit(run_notebook, path): path for path in ordered}
        for count, job in enumerate(as_completed(jobs), 1):
            name = str(jobs[job].relative_to(book))
            try:
                notebook, seconds[name] = job.result()
            except LessonError as error:
                failures.append(str(error))
                print(f"[{count}/{len(todo)}] FAILED   {name}", flush=True)
                continue
            data = {"execution_seconds": seconds[name]}
            bundle = CacheBundleIn(notebook, str(jobs[job]), data=data)
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
            times.write_text(json.dumps(seconds, indent=1, sort_keys=True) + "\n")
            print(f"[{count}/{len(todo)}] {seconds[name]:6.1f} s {name}", flush=True)
    for text in failures:
        print(f"\n{'=' * 80}\nThis notebook does not run: {text}", file=sys.stderr, flush=True)
    return len(failures)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def is_cached(cache, path: Path) -> bool:
    """Return whether the cache holds this notebook, cell by cell."""
    try:
        cache.match_cache_notebook(nbformat.read(path, nbformat.NO_CONVERT))
    except KeyError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(min(execute(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()), 1))
