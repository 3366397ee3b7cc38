"""Two hundred submissions, a grader that is killed half-way, and grades that are the same to the byte."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import classroom
import pytest

pytestmark = pytest.mark.skipif(bool(classroom.NO_SANDBOX), reason=classroom.NO_SANDBOX or "-")

NAME = "1_build_batch_norm"
NUMBER = 200
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of 200 different submissions: each student solved some of the questions."""
    folder = tmp_path_factory.mktemp("class") / "submitted"
    dice = random.Random(0)
    for student in range(NUMBER):
        made = classroom.solved(NAME)
        for cell in made["cells"]:
            grading = cell["metadata"].get("nbgrader", {})
            if grading.get("solution") and dice.random() < 0.2:
                cell["source"] = f"# student {student} gave up here"
        made["cells"].append(
            {"cell_type": "markdown", "id": "name", "metadata": {}, "source": f"{student}"}
        )
        place = folder / f"student{student:03}" / NAME
        place.mkdir(parents=True)
        (place / "build_batch_norm.ipynb").write_text(json.dumps(made))
    return folder


def start(folder: Path, out: Path) -> subprocess.Popen:
    """Start the grader as ``make grade`` does."""
    return subprocess.Popen(
        [sys.executable, "-m", "grader.grade", str(folder), "--out", str(out), "--quick"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "coursework", "NORMLAB_PROGRESS": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kept(out: Path) -> dict[str, int]:
    """Return ``{result: when it was written}``."""
    return {p.name: p.stat().st_mtime_ns for p in (out / ".kept").glob("*.json")}


def test_a_killed_grader_goes_on_and_gives_the_same_grades(folder, tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    begun = time.monotonic()
    process = start(folder, whole)
    text, _ = process.communicate()
    seconds = time.monotonic() - begun
    assert process.returncode == 0, text
    with capsys.disabled():
        print(f"\n{NUMBER} submissions: {seconds:.0f} s, {seconds / NUMBER:.2f} s each")

    process = start(folder, parts)
    while len(kept(parts)) < NUMBER // 2:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = kept(parts)
    assert NUMBER // 2 <= len(before) < NUMBER and not (parts / "grades.csv").exists()

    process = start(folder, parts)
    text, _ = process.communicate()
    assert process.returncode == 0, text
    after = kept(parts)
    assert len(after) == NUMBER and before.items() <= after.items()  # nothing was run twice
    for name in ("grades.csv", "marks.csv"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    assert len((whole / "grades.csv").read_text().splitlines()) == NUMBER + 1
    assert len(list((whole / "feedback").glob("*.html"))) == NUMBER

    now = kept(whole)
    process = start(folder, whole)
    process.communicate()
    assert kept(whole) == now  # unchanged work is not run again
