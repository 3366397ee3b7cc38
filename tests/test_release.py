"""What students get: nothing of the solutions, and what the hub's own nbgrader makes of it."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import classroom
import pytest

from grader import ask, collect

COURSEWORK = collect.SOURCE.parent
ASSIGNMENTS = list(collect.assignments())
NAME = "1_build_batch_norm"
#: Lines of a solution or a hidden test that the student is told as well.
TOLD = {
    "2W  -2W  3w  W+v  4X  5x  X+c  X+a",  # the columns of the matrix
    'STILL = {"n_mu": 0.0, "n_sigma": 1.0, "r_mu": 0.0, "r_sigma": 0.0}',  # no noise
}


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """A copy of ``coursework/`` in which ``make assignments`` was called."""
    course = tmp_path_factory.mktemp("course") / "coursework"
    made_there = shutil.ignore_patterns("release", "*.db", "__pycache__", "submitted", "autograded")
    shutil.copytree(COURSEWORK, course, ignore=made_there)
    done = command(course, sys.executable, "-m", "grader.release")
    assert done.returncode == 0, done.stderr
    return course


def command(course: Path, *words: str) -> subprocess.CompletedProcess:
    """Run a command in the copy, with the Python of these tests."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        words,
        cwd=course,
        env=os.environ | {"PYTHONPATH": str(course), "PATH": path},
        capture_output=True,
        text=True,
    )


def released(course: Path, name: str) -> dict[str, str]:
    """Return ``{file: text}`` of a release; of notebooks, the cells' text only."""
    texts = {}
    for path in sorted((course / "release" / name).iterdir()):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
        texts[path.name] = text
    return texts


def secrets(name: str) -> list[str]:
    """Return lines that no student may see: solutions, model answers, inputs of hidden tests."""
    made = json.loads(collect.assignments()[name].read_text(encoding="utf-8"))
    lines = []
    for cell in made["cells"]:
        text, grading = "".join(cell["source"]), cell["metadata"].get("nbgrader", {})
        if grading.get("solution") and cell["cell_type"] == "markdown":
            lines += text.splitlines()
        for block in re.findall(r"### BEGIN (?:\w| )+\n(.*?)### END", text, flags=re.DOTALL):
            lines += block.splitlines()
    for path in (ask.HIDDEN / name).glob("*.py"):
        text = path.read_text(encoding="utf-8").splitlines()
        lines += [line for line in text if len(re.findall(r"\d\.\d", line)) > 3]
    return [line.strip() for line in lines]


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_a_release_holds_no_solution_and_no_hidden_test(course, name):
    texts = released(course, name)
    assert {"selfcheck.py"} < set(texts)
    harmless = re.compile(r"(import|from|def|class|return|for|if|with|#|\W*$)")
    found = {
        (file, line)
        for line in set(secrets(name)) - TOLD
        for file, text in texts.items()
        if len(line) > 30 and not harmless.match(line) and line in text
        if file != "museum.py"  # exhibits with one fault each: what is right in them is no secret
    }
    assert not found
    for file, text in texts.items():
        for word in ("BEGIN SOLUTION", "END SOLUTION", "HIDDEN TESTS", "examine(", "expect.py"):
            assert word not in text, file


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_a_release_leaves_every_question_open(course, name):
    path = course / "release" / name / collect.assignments()[name].name
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text, grading = "".join(cell["source"]), cell["metadata"].get("nbgrader", {})
        assert not cell.get("outputs")
        if grading.get("solution") and cell["cell_type"] == "code":
            assert "raise NotImplementedError()" in text
        elif grading.get("solution"):
            assert text == "YOUR ANSWER HERE"


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_the_zip_holds_the_release_and_nothing_else(course, name):
    with zipfile.ZipFile(course / "release" / f"{name}.zip") as archive:
        held = {info.filename: archive.read(info) for info in archive.infolist()}
    folder = course / "release" / name
    assert held == {f"{name}/{path.name}": path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_an_untouched_release_gets_no_points_and_stops_at_nothing_else(course, name, tmp_path):
    path = course / "release" / name / collect.assignments()[name].name
    work = classroom.handed_in(name, "ada", path.read_bytes())
    limits = classroom.LIMITS | {"experiments": True}
    (result,) = classroom.graded([work], tmp_path, limits=limits).values()
    assert not result["notes"] and not result["problem"]
    assert sum(classroom.points(result).values()) == 0
    errors = {cell["name"]: cell["error"] for cell in result["cells"] if cell["error"]}
    first = next(iter(errors.values()))
    assert first.startswith("NotImplementedError")
    open_ends = ("NotImplementedError", "NameError")  # the second where the first left no result
    assert all(error.startswith(open_ends) for error in errors.values()), errors
    checks = [cell for cell in result["cells"] if cell["source"].startswith("selfcheck.")]
    assert checks and all("✗" in cell["text"] and not cell["error"] for cell in checks)


def test_nbgraders_own_autograder_gives_the_same_marks(course, tmp_path):
    mutants, _ = classroom.examples(1)
    work = {"ada": classroom.solved(NAME), "bob": classroom.changed(NAME, mutants[0])}
    for student, made in work.items():
        place = course / "submitted" / student / NAME
        place.mkdir(parents=True)
        (place / "build_batch_norm.ipynb").write_text(json.dumps(made))
    done = command(course, sys.executable, "-m", "nbgrader", "autograde", NAME, "--create")
    assert done.returncode == 0, done.stderr
    done = command(course, sys.executable, "-m", "nbgrader", "export", "--to", "hub.csv")
    assert done.returncode == 0, done.stderr
    with (course / "hub.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["assignment"] == NAME]
    hub = {row["student_id"]: float(row["raw_score"]) for row in rows}
    submissions = [classroom.handed_in(NAME, name, made) for name, made in work.items()]
    results = classroom.graded(submissions, tmp_path)
    ours = {name: sum(classroom.points(result).values()) for name, result in results.items()}
    assert hub == pytest.approx(ours) and ours["bob"] < ours["ada"]


def test_a_release_that_fails_is_named(course, tmp_path):
    broken = tmp_path / "coursework"
    shutil.copytree(course, broken)
    (broken / "source" / NAME / "build_batch_norm.ipynb").write_text("{")
    done = command(broken, sys.executable, "-m", "grader.release")
    assert done.returncode == 1 and f"nbgrader could not build {NAME}" in done.stderr
