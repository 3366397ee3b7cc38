"""``python -m grader.grade FOLDER``: grade every submission in a folder.

Leaves beside it ``FOLDER-graded/`` with ``grades.csv``, ``marks.csv`` (where the teacher types the
marks of the free-text questions) and one page of feedback per student. A submission that was graded
before, and has not changed since, is not run again.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from functools import cache
from pathlib import Path

import normlab
from grader import collect, judge, marks, notebook, report, sandbox
from grader.ask import HIDDEN
from normlab import jobs

FAULT = "the grader itself failed on it"
LONGEST = 20_000  # characters of an answer or of a cell
LINES, LINE = 10_000, 5_000_000  # what a submission tells: so many lines, so many characters each
SAY = ("collect.py", "marks.py", "release.py", "report.py")  # decide no mark of a program
SCRATCH = "GRADER_SCRATCH"  # how the names of scratch folders begin
RERUNS = 3  # when a cell ends the whole program, the rest is run without it
EMPTY = {"problem": "", "notes": [], "tasks": {}, "answers": {}, "cells": []}
#: What the parts of an event must be, since a submission may write its own.
FORM = {
    "begin": int,
    "kind": str,
    "name": str,
    "source": str,
    "task": str,
    "check": str,
    "answer": dict,
    "unreadable": str,
    "text": str,
}


@cache
def fingerprint(assignment: str) -> str:
    """Return a hash of everything that decides the marks of an assignment, but the submission."""
    digest = hashlib.sha256()
    for path in sorted(Path(normlab.__file__).parent.rglob("*.py")):  # some assignments import it
        digest.update(path.read_bytes())
    folders = [HIDDEN / assignment, collect.SOURCE / assignment, Path(__file__).parent]
    for path in sorted(path for folder in folders for path in folder.iterdir()):
        if path.suffix in (".py", ".ipynb") and path.name not in SAY:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def key(submission: collect.Submission, limits: dict, trust: bool) -> str:
    """Return the name under which the result of a submission is kept."""
    digest = hashlib.sha256(fingerprint(submission.assignment).encode())
    digest.update(json.dumps([limits, trust]).encode())
    for name, content in sorted({**submission.beside, "": submission.content}.items()):
        digest.update(f"{name}\0{len(content)}\0".encode(errors="surrogateescape") + content)
    return digest.hexdigest()


#: What can go wrong without a fault of ours; the message is all that is shown.
EXPECTED = (collect.BadFolder, marks.BadMarks, sandbox.NoSandbox, OSError)
EXPECTED += (jobs.ClusterError, jobs.ShortOfMemory)
_SANDBOX = sandbox.Sandbox()


def grade(submission: collect.Submission, limits: dict, trust: bool) -> dict:
    """Run and judge a submission.

    Returns:
        ``problem`` (why nothing could be run), ``notes`` (what stopped it on the way), ``tasks``
        (``{task: [Verdict as dict]}``), ``answers`` (``{question: text}``) and ``cells`` (what each
        cell printed, drew and raised).
    """
    ours = notebook.master(collect.assignments()[submission.assignment])
    skip, notes, start = [], [], time.monotonic()
    for _ in range(RERUNS + 1):
        left = max(limits["cell"], limits["seconds"] - (time.monotonic() - start))
        events, ended = _run(submission, ours, limits | {"seconds": left}, trust, skip)
        if not ended:
            break
        begun = [event for event in events if "begin" in event]
        where = begun[-1] if begun else {"begin": 0}
        notes.append(f"in the cell {where.get('name', 'number 1')!r}: {ended}")
        skip.append(where["begin"])
    return _judged(submission.assignment, ours, events, notes)


def _run(submission, ours, limits, trust, skip) -> tuple[list[dict], str | None]:
    """Run a submission once in a scratch folder; return what it told, and how it ended."""
    folder = Path(tempfile.mkdtemp(prefix=f"{os.environ.get(SCRATCH, 'grade')}-")).resolve()
    try:
        if shutil.disk_usage(folder).free < 2 * limits["folder"]:
            raise sandbox.NoSandbox(f"the disk of {folder.parent} is nearly full: make room there")
        scratch, told = folder / "work", folder / "told.jsonl"
        _lay_out(submission, scratch)
        job = {
            "scratch": str(scratch),
            "told": str(told),
            "notebook": str(scratch / "submission.ipynb"),
            "assignment": submission.assignment,
            "cells": [asdict(cell) for cell in ours],
            "seconds": limits["cell"],
            "limits": limits,
            "experiments": limits["experiments"],
            "trust": trust,
            "skip": skip,
        }
        ended = _SANDBOX.run(job)
        events = _events(told)
    finally:
        _delete(folder)
    if not ended and not any({"finished", "unreadable"} & set(event) for event in events):
        ended = "it ended the program"
    return events, ended


def _lay_out(submission: collect.Submission, scratch: Path) -> None:
    """Copy a submission, and over it the files of the assignment, into a new folder."""
    scratch.mkdir()
    files = {n: c for n, c in submission.beside.items() if len(os.fsencode(n)) <= 255}
    for path in sorted((collect.SOURCE / submission.assignment).iterdir()):
        if path.is_file() and path.suffix != ".ipynb":
            files[path.name] = path.read_bytes()
    for name, content in files.items():
        (scratch / name).write_bytes(content)
    (scratch / "submission.ipynb").write_bytes(submission.content)


def _delete(folder: Path) -> None:
    """Delete a folder, however deep a submission has made it."""
    subprocess.run(["rm", "-rf", "--", str(folder)], check=False, stderr=subprocess.DEVNULL)


def _events(path: Path) -> list[dict]:
    """Read what a submission told; lines that are not of the right form are passed over."""
    found = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if len(line) > LINE or len(found) == LINES:
                continue
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict) and all(
                isinstance(event[name], kind) for name, kind in FORM.items() if name in event
            ):
                found.append(event)
    return found


def _judged(assignment: str, ours: list[notebook.Cell], events: list[dict], notes: list) -> dict:
    """Turn what a submission told into verdicts; believe nothing that is not a number to check."""
    told = next((event["unreadable"] for event in events if "unreadable" in event), None)
    answers: dict[str, dict] = {}
    cells, texts = [], {}
    for event in events:
        if "begin" in event:
            cells.append({n: event.get(n, "")[:LONGEST] for n in ("kind", "name", "source")})
            cells[-1] |= report.output({})
            name, source = cells[-1]["name"], cells[-1]["source"]
            if cells[-1]["kind"] == "answer":
                text = "\n\n".join(filter(None, [texts.get(name), source]))
                texts[name] = text[:LONGEST]
        elif "task" in event:
            answers.setdefault(event["task"], {})[event.get("check")] = event.get("answer")
        elif cells and ("text" in event or "error" in event):
            cells[-1] |= report.output(event)
    return {
        "problem": told or "",
        "notes": notes,
        "tasks": {
            cell.name: [
                asdict(verdict)
                for verdict in judge.judge(assignment, cell.name, answers.get(cell.name, {}))
            ]
            for cell in ours
            if cell.kind == "test"
        },
        "answers": {cell.name: texts.get(cell.name, "") for cell in ours if cell.kind == "answer"},
        "cells": cells,
    }


def _graded(job: tuple) -> dict:
    """Grade; let a fault of ours cost one submission and not the class."""
    try:
        return grade(*job)
    except (sandbox.NoSandbox, OSError):
        raise
    except Exception as error:
        return EMPTY | {"problem": f"{FAULT}: {type(error).__name__}: {error}"[:500]}


class Job(tuple):
    """``(submission, limits, trust)``; its text names the submission only."""

    def __str__(self) -> str:
        return f"{self[0].student} ({self[0].file})"


def versions() -> dict:
    """Return what must agree between this computer and the workers of a cluster."""
    import torch

    hashes = {name: fingerprint(name)[:12] for name in collect.assignments()}
    return {"torch": torch.__version__, **hashes}


def results(
    handed_in: list[collect.Submission],
    kept: Path,
    limits: dict,
    trust: bool = False,
    processes: int | None = None,
    scheduler: str | None = None,
):
    """Yield ``(submission, result)``; run only what is not in the folder ``kept``."""
    kept.mkdir(parents=True, exist_ok=True)
    names = {s.file: key(s, limits, trust) for s in handed_in if s.content and s.assignment}
    todo = {}
    for submission in handed_in:
        name = names.get(submission.file)
        if name is None:
            yield submission, EMPTY | {"problem": _hopeless(submission)}
        elif known := _kept(kept / f"{name}.json"):
            yield submission, known
        else:
            todo.setdefault(name, []).append(submission)  # equal work is run once
    work = [Job((same[0], limits, trust)) for same in todo.values()]
    if not work:
        return
    if not trust:
        sandbox.check()
    finished = len(handed_in) - len(work)
    if scheduler:
        done = jobs.on_cluster(_graded, work, scheduler, finished=finished, versions=versions)
    else:
        count = min(processes or os.cpu_count() or 1, len(work))
        done = jobs.side_by_side(_graded, work, count, finished=finished)
    for job, result in done:
        name = names[job[0].file]
        if not result["problem"].startswith(FAULT):
            report.write(kept / f"{name}.json", json.dumps(result))
        for submission in todo[name]:
            yield submission, result


def _kept(path: Path) -> dict | None:
    """Return a result of an earlier run, or None if there is none, or half of one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


@contextlib.contextmanager
def _only_one(folder: Path):
    """Let one grader at a time write into a folder.

    Raises:
        BadFolder: another one is at work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise collect.BadFolder(f"another grader is at work in {folder.parent}") from None
        yield


def _hopeless(submission: collect.Submission) -> str:
    if submission.problem:
        return submission.problem
    if submission.content == b"":
        return "the file is empty: save the notebook again and hand in that file"
    return (
        "expected one of the assignments, got a notebook that looks like none of them: name it "
        "with A=ASSIGNMENT"
    )


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, grade, and say where the results are."""
    options = _options().parse_args(arguments)
    folder = Path(options.folder).resolve()
    out = Path(options.out or f"{str(folder).removesuffix('.zip')}-graded").resolve()
    limits = sandbox.LIMITS | {
        "cell": options.seconds,
        "seconds": 10 * options.seconds,
        "experiments": not options.quick,
    }
    os.environ[SCRATCH] = f"grade-{os.getpid()}"
    try:
        if folder == out or folder in out.parents:
            raise collect.BadFolder(f"expected results outside of {folder}, got {out}")
        handed_in = collect.submissions(folder, options.assignment)
        marks.read(out / "marks.csv")  # now, so that a faulty file is named before the long run
        print(f"{len(handed_in)} submissions in {folder}")
        how = (options.trust, options.processes, options.scheduler)
        with _only_one(out / ".kept"):
            found = {s.file: (s, r) for s, r in results(handed_in, out / ".kept", limits, *how)}
            report.everything([found[submission.file] for submission in handed_in], out)
    except KeyboardInterrupt:
        sys.exit("\nStopped. What was graded is kept; the same command goes on from there.")
    except EXPECTED as error:
        sys.exit(f"{error}")
    finally:
        for left in Path(tempfile.gettempdir()).glob(f"grade-{os.getpid()}-*"):
            _delete(left)


def _positive(kind):
    """Return a type for the command line: a number above zero."""

    def positive(text: str):
        if not kind(text) > 0:
            raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
        return kind(text)

    return positive


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("make grade", description=__doc__)
    parser.add_argument("folder", help="with the submissions, or a zip file")
    parser.add_argument("--out", help="where the results go (default: FOLDER-graded)")
    parser.add_argument("--assignment", help="which one it is (default: told from each notebook)")
    parser.add_argument(
        "--processes", type=_positive(int), help="side by side (default: one for each core)"
    )
    parser.add_argument("--scheduler", help="address of a Dask scheduler, for large classes")
    parser.add_argument(
        "--seconds",
        type=_positive(float),
        default=60,
        help="for a cell; ten times as long for a notebook",
    )
    parser.add_argument(
        "--quick", action="store_true", help="leave out the long experiments, which earn no points"
    )
    parser.add_argument(
        "--trust", action="store_true", help="run without the sandbox, as your own code"
    )
    return parser


if __name__ == "__main__":
    from grader import grade as module  # by its own name, under which workers find it

    module.main()
