"""Submissions that mean harm, or are broken: each ends in time, with a mark and a reason."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import classroom
import pytest

from grader import ask, collect, grade, notebook, report

pytestmark = pytest.mark.skipif(bool(classroom.NO_SANDBOX), reason=classroom.NO_SANDBOX or "-")

NAME = "1_build_batch_norm"
LIMITS = classroom.LIMITS | {"cell": 4, "seconds": 12, "folder": 60 << 20, "file": 20 << 20}

#: What a cell of the submission does, and what its author reads.
CELLS = {
    "infinite loop": ("while True: pass", "OutOfTime: stopped: it ran longer than 4 s"),
    "loop that catches everything": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "ended the whole program|OutOfTime",
    ),
    "sleeps": ("import time\ntime.sleep(10_000)", "OutOfTime"),
    "100 GB": (
        "import numpy as np\nnp.ones(100 * 2**30, dtype='u1')",
        "MemoryError: Unable to allocate 100. GiB",
    ),
    "100 GB in torch": ("import torch\ntorch.ones(100 * 2**28)", "can't allocate memory"),
    "fork bomb": ("import os\nwhile True: os.fork()", "PermissionError"),
    "process": (
        "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()",
        "PermissionError",
    ),
    "program": ("import subprocess\nsubprocess.run(['id'])", "PermissionError"),
    "threads": (
        "import threading, time\n"
        "for _ in range(100_000): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "RuntimeError: can't start new thread",
    ),
    "deletes its folder": ("import os, shutil\nshutil.rmtree(os.getcwd())", "PermissionError"),
    "prints 1 GB": ("for _ in range(1_000_000): print('x' * 1000)", ""),
    "writes 1 GB to the screen": ("import os\nfor _ in range(1000): os.write(1, b'x' * 10**6)", ""),
    "one huge file": (
        "with open('huge', 'wb') as f:\n    while True: f.write(b'x' * 10**6)",
        "File too large",
    ),
    "many files": (
        "n = 0\nwhile True:\n    open(f'{n}', 'wb').write(b'x' * 10**7)\n    n += 1",
        "ended the whole program",
    ),
    "internet": ("import socket\nsocket.create_connection(('127.0.0.1', PORT))", "PermissionError"),
    "unix socket": ("import socket\nsocket.socket(socket.AF_UNIX)", "PermissionError"),
    "ends the program": ("import os\nos._exit(0)", "ended the whole program"),
    "signals by a pipe": (
        "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())",
        "PermissionError",
    ),
    "deep folders": (
        "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\nwhile True: pass",
        "ended the whole program",
    ),
    "files without a name": (
        "import os\nkept = []\nfor n in range(10):\n    f = open('f', 'wb')\n    os.remove('f')\n"
        "    f.write(b'x' * 10**7)\n    f.flush()\n    kept.append(f)\nwhile True: pass",
        "ended the whole program",
    ),
    "files in memory": ("import os\nos.memfd_create('x')", "PermissionError"),
    "reads passwords": ("print(open('/etc/shadow').read())", "PermissionError"),
    "reads the environment": (
        "import os\nassert 'SECRET' not in os.environ\n"
        "try: text = open('/proc/self/environ', 'rb').read()\nexcept PermissionError: text = b''\n"
        "assert b'SECRET' not in text",
        "",
    ),
    "half a character": ("print(chr(0xD800))", ""),
    "tells without end": (
        'import os\nfor n in range(3, 50):\n    try: os.write(n, b\'{"text": "x"}\\n\' * 10**6)\n'
        "    except OSError: pass",
        "ended the whole program",
    ),
    "sys.exit": ("import sys\nsys.exit(1)", "SystemExit: 1"),
    "crashes": ("import ctypes\nctypes.string_at(0)", "ended the whole program"),
    "kills the grader": ("import os\nos.kill(os.getppid(), 9)", "PermissionError"),
    "raises its limits": (
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (-1, -1))",
        "not allowed|not permitted",
    ),
    "syntax error": ("def f(:", "SyntaxError: invalid syntax"),
    "reads the answers": ("print(open(EXPECT).read())", "PermissionError"),
    "reads the solutions": ("print(open(SOLUTION).read())", "PermissionError"),
    "reads other work": ("import os\nprint(os.listdir(OUTSIDE))", "PermissionError"),
    "writes other work": ("open(OUTSIDE + '/ada.ipynb', 'w').write('x')", "PermissionError"),
    "cuts other work off": ("import os\nos.truncate(OUTSIDE + '/ada.ipynb', 0)", "Permission"),
    "deletes other work": ("import os\nos.remove(OUTSIDE + '/ada.ipynb')", "PermissionError"),
    "moves other work": ("import os\nos.rename(OUTSIDE + '/ada.ipynb', 'x')", "PermissionError"),
    "changes modes": ("import os\nos.chmod(OUTSIDE + '/ada.ipynb', 0)", "PermissionError"),
    "changes dates": ("import os\nos.utime(OUTSIDE + '/ada.ipynb', (0, 0))", "PermissionError"),
    "rewrites the self-check": ("open('selfcheck.py', 'w').write('raise SystemExit')", ""),
    "patches the comparisons": (
        "import numpy as np, torch\n"
        "np.isclose = np.allclose = torch.allclose = lambda *_, **__: True\n"
        "np.testing.assert_allclose = lambda *_, **__: None",
        "",
    ),
}


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A folder with the work of others, which no submission may see or change."""
    folder = tmp_path_factory.mktemp("others")
    (folder / "ada.ipynb").write_text("the work of Ada")
    return folder


def state(folder: Path) -> list[tuple]:
    """Return name, size, mode, date and content of all files."""
    return [
        (str(p), p.stat().st_size, p.stat().st_mode, p.stat().st_mtime_ns, p.read_bytes())
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.suffix != ".pyc"
    ]


@pytest.fixture(scope="module")
def harm(outside, tmp_path_factory):
    """Grade a class of hostile submissions and one honest one, with a server that nobody may reach."""
    server = socket.create_server(("127.0.0.1", 0))
    calls = []
    threading.Thread(target=lambda: calls.append(server.accept()), daemon=True).start()
    names = {
        "PORT": server.getsockname()[1],
        "OUTSIDE": str(outside),
        "EXPECT": str(ask.HIDDEN / NAME / "expect.py"),
        "SOLUTION": str(collect.assignments()[NAME]),
    }
    setup = "\n".join(f"{name} = {value!r}" for name, value in names.items())
    first = next(task for task in classroom.most(NAME))
    work = {
        name: classroom.with_cell(NAME, f"{setup}\n{code}", behind=first)
        for name, (code, _) in CELLS.items()
    }
    work["honest"] = classroom.solved(NAME)
    kept = tmp_path_factory.mktemp("kept")
    grade._SANDBOX.close()  # so that it starts with the environment of this test
    os.environ["SECRET"] = "of the teacher"
    os.environ[grade.SCRATCH] = f"hostile-{os.getpid()}"  # its own, since others grade meanwhile
    before = state(outside), state(collect.SOURCE), state(ask.HIDDEN)
    start = time.monotonic()
    submissions = [classroom.handed_in(NAME, name, made) for name, made in work.items()]
    results = classroom.graded(submissions, kept, limits=LIMITS)
    seconds = time.monotonic() - start
    after = state(outside), state(collect.SOURCE), state(ask.HIDDEN)
    server.close()
    left = list(Path(tempfile.gettempdir()).glob(f"{os.environ.pop(grade.SCRATCH)}-*"))
    del os.environ["SECRET"]
    return {
        "results": results,
        "seconds": seconds,
        "calls": calls,
        "same": before == after,
        "work": submissions,
        "left": left,
    }


@pytest.mark.parametrize("name", CELLS)
def test_harm_costs_nobody_a_mark_and_is_named(harm, name):
    result = harm["results"][name]
    assert classroom.points(result) == classroom.most(NAME)
    evil = next(cell for cell in result["cells"] if cell["name"] == "more")
    reason = CELLS[name][1]
    assert re.search(reason, evil["error"]) if reason else not evil["error"]
    assert len(json.dumps(result)) < 3_000_000


def test_others_are_not_disturbed(harm):
    assert classroom.points(harm["results"]["honest"]) == classroom.most(NAME)
    assert not harm["results"]["honest"]["notes"]


def test_nothing_outside_the_scratch_copy_changes(harm):
    assert harm["same"] and not harm["calls"]
    assert not harm["left"]


def test_everybody_gets_a_page(harm, tmp_path):
    report.everything([(s, harm["results"][s.student]) for s in harm["work"]], tmp_path)
    assert len(list((tmp_path / "feedback").glob("*.html"))) == len(CELLS) + 1
    assert (
        len((tmp_path / "grades.csv").read_text(encoding="utf-8-sig").splitlines())
        == len(CELLS) + 2
    )


def test_the_readme_says_how_many():
    readme = (collect.SOURCE.parents[1] / "README.md").read_text(encoding="utf-8")
    assert f"{len(CELLS)} that mean harm" in readme


def test_a_repository_that_submissions_could_read_is_refused(monkeypatch):
    monkeypatch.setattr(grade.sandbox, "readable", lambda: [str(collect.SOURCE.parents[1])])
    with pytest.raises(grade.sandbox.NoSandbox, match="the hidden tests lie below it"):
        grade.sandbox.check()


#: Prints the forbidden system calls that do not answer "not permitted", and how many were tried.
CALLS = """
import ctypes, errno, sys
import pyseccomp
from grader import sandbox
known = {name: pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) for name in sandbox.FORBIDDEN}
tried = {name: n for name, n in known.items() if n >= 0} | {str(n): n for n in sandbox.NUMBERED}
libc = ctypes.CDLL(None, use_errno=True)
sandbox._lock_calls()
wrong = ctypes.c_long(-1)
for name, number in tried.items():
    answer = libc.syscall(ctypes.c_long(number), wrong, wrong, wrong, wrong)
    if answer != -1 or ctypes.get_errno() != errno.EPERM:
        print(name)
print(len(tried))
"""


def test_every_forbidden_call_is_refused():
    done = subprocess.run(
        [sys.executable, "-c", CALLS], cwd=collect.SOURCE.parent, capture_output=True, text=True
    )
    *allowed, count = done.stdout.split()
    assert not allowed and not done.returncode, done.stderr
    assert int(count) >= 60  # some have no number on some processors


def test_it_all_ends_in_time(harm):
    assert harm["seconds"] < 8 * len(CELLS)  # some four seconds for those that never end


#: Broken files: what is handed in, and what its author reads.
FILES = {
    "empty file": (b"", "the file is empty"),
    "corrupt JSON": (b'{"cells": [', "got no valid JSON"),
    "other JSON": (b"[1, 2]", "got other JSON"),
    "deep JSON": (b"[" * 200_000, "got no valid JSON"),
    "bytes": (os.urandom(1000), "got no valid JSON"),
    "cells that are none": (b'{"cells": [1, null]}', "got other JSON"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_gets_a_reason(name, tmp_path):
    content, reason = FILES[name]
    result = classroom.graded([classroom.handed_in(NAME, "eve", content)], tmp_path)["eve"]
    assert reason in result["problem"] and sum(classroom.points(result).values()) == 0


def test_work_without_its_teachers_cells_gets_full_marks(tmp_path):
    made = classroom.solved(NAME)
    mine = [c for c in made["cells"] if c["metadata"].get("nbgrader", {}).get("solution")]
    work = classroom.handed_in(NAME, "eve", made | {"cells": mine})
    result = classroom.graded([work], tmp_path)["eve"]
    assert classroom.points(result) == classroom.most(NAME)


def test_doubled_cells_and_lost_metadata_cost_nothing(tmp_path):
    doubled, bare = classroom.solved(NAME), classroom.solved(NAME)
    doubled["cells"] *= 2
    for cell in bare["cells"]:
        cell["metadata"] = {}
    work = [classroom.handed_in(NAME, n, m) for n, m in {"two": doubled, "bare": bare}.items()]
    for result in classroom.graded(work, tmp_path).values():
        assert classroom.points(result) == classroom.most(NAME)


def test_a_missing_cell_costs_its_own_points_and_says_so(tmp_path):
    made = classroom.solved(NAME)
    codes = [c for c in made["cells"] if c["cell_type"] == "code"]
    mine = [c for c in codes if c["metadata"].get("nbgrader", {}).get("solution")]
    made["cells"].remove(mine[0])
    result = classroom.graded([classroom.handed_in(NAME, "eve", made)], tmp_path)["eve"]
    got, most = classroom.points(result), classroom.most(NAME)
    first = next(iter(most))
    assert got[first] == 0 and sum(got.values()) > 0
    assert "no such name" in result["tasks"][first][0]["reason"]


def test_a_renamed_function_costs_its_own_points_and_says_so(tmp_path):
    made = classroom.solved(NAME)
    code = classroom.cell(made, "forward-code")
    code["source"] = "".join(code["source"]).replace("def batch_norm(", "def my_batch_norm(")
    result = classroom.graded([classroom.handed_in(NAME, "eve", made)], tmp_path)["eve"]
    got, most = classroom.points(result), classroom.most(NAME)
    assert got["forward"] == 0 and got["mending"] == most["mending"]
    assert "expected the notebook to define `batch_norm`" in result["tasks"]["forward"][0]["reason"]


def test_fifty_megabytes_of_output_are_read_past(tmp_path):
    made = classroom.solved(NAME)
    code = next(c for c in made["cells"] if c["cell_type"] == "code")
    code["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x" * 50_000_000}]
    result = classroom.graded([classroom.handed_in(NAME, "eve", made)], tmp_path)["eve"]
    assert classroom.points(result) == classroom.most(NAME)


@pytest.mark.parametrize("name", ["pyseccomp.py", "torch.py", "json.py", "sitecustomize.py"])
def test_a_file_beside_the_notebook_does_not_pass_for_a_module_of_ours(name, tmp_path):
    open_door = b"class SyscallFilter:\n    def __init__(self, *_): pass\n"
    open_door += b"    def add_rule(self, *_): pass\n    def load(self): pass\n"
    open_door += b"ALLOW = NE = EQ = MASKED_EQ = 0\ndef ERRNO(*_): pass\ndef Arg(*_): pass\n"
    made = classroom.with_cell(
        NAME, "import socket\nsocket.socket()", list(classroom.most(NAME))[0]
    )
    plain = classroom.handed_in(NAME, "eve", made)
    work = collect.Submission(plain.student, NAME, plain.file, plain.content, {name: open_door})
    grade._SANDBOX.close()
    result = classroom.graded([work], tmp_path)["eve"]
    assert classroom.points(result) == classroom.most(NAME)
    evil = next(cell for cell in result["cells"] if cell["name"] == "more")
    assert "PermissionError" in evil["error"]


def test_forged_answers_are_judged_like_all_others(tmp_path):
    task, check = next((t, c) for t, cs in ask.questions(NAME).items() for c in cs)
    forged = [
        {"task": task, "check": check, "answer": {"value": True}},
        {"task": task, "check": check},
        {"task": task, "check": check, "answer": {"value": {"array": [1], "shape": [-5]}}},
        {"begin": [], "kind": 3},
        {"begin": 1, "kind": "answer", "name": "x", "source": {}},
        {"text": 3, "pictures": [1, "<script>"], "error": {"a": 1}},
    ]
    text = "".join(json.dumps(event) + "\n" for event in forged)
    code = (
        f"import os\ntext = {text!r}.encode()\n"
        "for number in range(3, 50):\n    try: os.write(number, text)\n    except OSError: pass"
    )
    made = classroom.with_cell(NAME, code, behind=list(classroom.most(NAME))[-1])
    work = classroom.handed_in(NAME, "eve", made)
    result = classroom.graded([work], tmp_path)["eve"]
    got, most = classroom.points(result), classroom.most(NAME)
    assert [name for name in most if got[name] < most[name]] == [task]
    report.everything([(work, result)], tmp_path / "out")
    assert "<script>" not in (tmp_path / "out" / "feedback" / "eve.html").read_text()


def test_a_grader_that_cannot_start_raises_and_gives_no_mark(tmp_path, monkeypatch):
    monkeypatch.setattr(grade, "_SANDBOX", grade.sandbox.Sandbox())
    limits = LIMITS | {"memory": None}  # the limits cannot be set
    work = [classroom.handed_in(NAME, "ada", classroom.solved(NAME))]
    with pytest.raises(grade.sandbox.NoSandbox, match="could not start"):
        classroom.graded(work, tmp_path, limits=limits)
    assert not list(tmp_path.iterdir())


def test_a_notebook_above_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(notebook, "LARGEST", 1000)
    path = tmp_path / "a.ipynb"
    path.write_bytes(b"x" * 1001)
    with pytest.raises(notebook.Unreadable, match="clear the outputs"):
        notebook.read(path)
