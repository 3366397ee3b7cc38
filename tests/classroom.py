"""A class of students for the tests of the grader: notebooks made from an assignment's source."""

import copy
import csv
import importlib.util
import io
import json
from functools import cache
from pathlib import Path

from grader import collect, grade, sandbox

try:
    sandbox.check()
    NO_SANDBOX = ""
except sandbox.NoSandbox as missing:
    NO_SANDBOX = str(missing)

NAME = "1_build_batch_norm"
LIMITS = sandbox.LIMITS | {"cell": 20, "seconds": 200, "experiments": False}


@cache
def _source(assignment: str) -> str:
    return collect.assignments()[assignment].read_text(encoding="utf-8")


def solved(assignment: str) -> dict:
    """Return the model solution as a student would hand it in."""
    return json.loads(_source(assignment))


def cell(made: dict, name: str) -> dict:
    """Return a cell by its ``grade_id`` or id."""
    found = [
        c
        for c in made["cells"]
        if name in (c["metadata"].get("nbgrader", {}).get("grade_id"), c.get("id"))
    ]
    assert len(found) == 1, f"expected one cell {name!r}, got {len(found)}"
    return found[0]


def source(made: dict, name: str) -> str:
    """Return the text of a cell."""
    return "".join(cell(made, name)["source"])


def changed(assignment: str, change: dict) -> dict:
    """Return the model solution with one cell changed, as ``mutants_N.py`` describe it."""
    made = solved(assignment)
    place = cell(made, change["cell"])
    if "source" in change:
        place["source"] = change["source"]
        return made
    old, new = change["swap"]
    text = "".join(place["source"])
    assert text.count(old) == 1, f"{change['name']}: {old!r} occurs {text.count(old)} times"
    place["source"] = text.replace(old, new)
    return made


def with_cell(assignment: str, code: str, behind: str) -> dict:
    """Return the model solution with a cell more."""
    made = solved(assignment)
    where = made["cells"].index(cell(made, behind)) + 1
    more = {"cell_type": "code", "id": "more", "metadata": {}, "source": code}
    made["cells"].insert(where, more | {"outputs": [], "execution_count": None})
    return made


def handed_in(assignment: str, student: str, made: dict | bytes) -> collect.Submission:
    """Return a submission."""
    content = made if isinstance(made, bytes) else json.dumps(copy.deepcopy(made)).encode()
    return collect.Submission(student, assignment, f"{student}/work.ipynb", content)


def graded(submissions: list[collect.Submission], kept: Path, **options) -> dict[str, dict]:
    """Grade, and return ``{student: result}``."""
    options = {"limits": LIMITS, "processes": 1, "trust": bool(NO_SANDBOX)} | options
    return {s.student: result for s, result in grade.results(submissions, kept, **options)}


def points(result: dict) -> dict[str, float]:
    """Return ``{task: points}``."""
    return {task: sum(v["points"] for v in found) for task, found in result["tasks"].items()}


def most(assignment: str) -> dict[str, float]:
    """Return ``{task: points of its test cell}``."""
    cells = solved(assignment)["cells"]
    tests = [c["metadata"].get("nbgrader", {}) for c in cells]
    return {t["grade_id"]: t["points"] for t in tests if t.get("grade") and not t["solution"]}


def examples(number: int) -> tuple[list[dict], list[dict]]:
    """Return mutants and correct variants of the assignment with that number."""
    path = Path(__file__).parent / "coursework" / f"mutants_{number}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MUTANTS, module.EQUIVALENTS


def lay(folder: Path, *names: str) -> Path:
    """Write a solved notebook to each of these places."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(solved(NAME)))
    return folder


def run(folder: Path, *more: str) -> Path:
    """Grade a folder; return where the results are."""
    trust = ["--trust"] if NO_SANDBOX else []
    grade.main([str(folder), "--processes", "1", "--quick", *trust, *more])
    return Path(f"{folder}-graded")


def rows(path: Path) -> list[dict]:
    """Read a table that the grader wrote."""
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
