"""Grades, marks and pages: what the teacher and the students get."""

import csv
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import classroom
import distributed
import pytest
from classroom import lay, rows, run

from grader import collect, grade, judge, marks, report, sandbox

NAME = classroom.NAME


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A graded class: one model solution, one empty notebook, one file that is no notebook."""
    folder = tmp_path_factory.mktemp("taught") / "class"
    lay(folder, "ada.ipynb")
    bare = classroom.solved(NAME)
    bare["cells"] = []
    (folder / "=bob.ipynb").write_text(json.dumps(bare))
    (folder / "eve.ipynb").write_text("{")
    run(folder)
    return folder


def typed(out: Path, points: dict[str, str] | None = None, **columns) -> list[dict]:
    """Type full marks, or these, as a teacher does; return the lines."""
    lines = rows(out / "marks.csv")
    for line in lines:
        if line["student"] == "ada":
            line["points"] = (points or {}).get(line["question"], line["max"])
            line.update(columns)
    save(out, lines)
    return lines


def save(out: Path, lines: list[dict], encoding: str = "utf-8", delimiter: str = ",") -> None:
    """Save ``marks.csv`` as some spreadsheet does; what it cannot save becomes a question mark."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, lines[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(lines)
    (out / "marks.csv").write_text(stream.getvalue(), encoding, errors="replace")


def ada(out: Path) -> dict:
    """Return Ada's line of the grades."""
    return next(row for row in rows(out / "grades.csv") if row["student"] == "ada")


def test_grades_hold_a_line_for_everybody(taught):
    out = run(taught)
    most = classroom.most(NAME)
    assert float(ada(out)["code"]) == float(ada(out)["code of"]) == sum(most.values())
    assert all(float(ada(out)[f"{task} of {p:g}"]) == p for task, p in most.items())
    assert ada(out)["total"] == "" and int(ada(out)["still to mark"]) > 0
    others = {row["student"]: row for row in rows(out / "grades.csv") if row["student"] != "ada"}
    assert set(others) == {"eve", "'=bob"}  # no formula for a spreadsheet
    assert "no valid JSON" in others["eve"]["remarks"]
    assert "no cell of the assignment" in others["'=bob"]["remarks"]
    assert {row["total"] for row in others.values()} == {"0"}  # nothing there to mark


@pytest.fixture
def one(tmp_path) -> Path:
    """A graded class of one."""
    folder = lay(tmp_path / "class", "ada/build_batch_norm.ipynb")
    run(folder)
    return folder


@pytest.mark.parametrize(
    ("encoding", "delimiter"),
    [("utf-8", ","), ("utf-8-sig", ";"), ("utf-16", "\t"), ("cp1252", ";")],
)
def test_typed_marks_are_added_without_running_anything(one, monkeypatch, encoding, delimiter):
    out = Path(f"{one}-graded")
    lines = typed(out, comment="well said; <b>really</b> für Ada", tutor="me")
    save(out, lines[::-1], encoding, delimiter)
    monkeypatch.setattr(grade, "_run", lambda *_: pytest.fail("nothing has changed"))
    run(one)
    assert float(ada(out)["total"]) == 100 and ada(out)["still to mark"] == "0"
    page = (out / "feedback" / "ada.html").read_text()
    assert "well said; &lt;b&gt;really&lt;/b&gt; für Ada" in page
    text = marks.decoded((out / "marks.csv").read_bytes())
    assert marks.separator(text) == delimiter
    after = marks.read(out / "marks.csv")
    assert [row["points"] for row in after] == [row["points"] for row in lines]
    assert {row["tutor"] for row in after} == {"me"}  # the teacher's own column


def test_another_answer_takes_its_mark_into_the_comment(one):
    out = Path(f"{one}-graded")
    typed(out)
    run(one)
    made = classroom.solved(NAME)
    question = next(iter(marks.rubric(NAME)))
    classroom.cell(made, question)["source"] = "something else"
    (one / "ada/build_batch_norm.ipynb").write_text(json.dumps(made))
    run(one)
    for row in marks.read(out / "marks.csv"):
        changed = row["question"] == question
        assert (row["points"] == "") == changed
        assert row["comment"].startswith("[") == changed
    assert ada(out)["total"] == ""


def test_an_answer_that_is_not_there_is_worth_nothing_until_it_comes(one):
    out = Path(f"{one}-graded")
    made = classroom.solved(NAME)
    question = next(iter(marks.rubric(NAME)))
    classroom.cell(made, question)["source"] = "YOUR ANSWER HERE"
    (one / "ada/build_batch_norm.ipynb").write_text(json.dumps(made))
    run(one)
    mine = [row for row in marks.read(out / "marks.csv") if row["question"] == question]
    assert {(row["points"], row["comment"]) for row in mine} == {("0", marks.NO_ANSWER)}
    lay(one, "ada/build_batch_norm.ipynb")
    run(one)
    mine = [row for row in marks.read(out / "marks.csv") if row["question"] == question]
    assert {(row["points"], row["comment"]) for row in mine} == {("", "")}


def test_a_file_with_another_name_keeps_its_marks(one):
    out = Path(f"{one}-graded")
    typed(out)
    (one / "ada/build_batch_norm.ipynb").rename(one / "ada/build_batch_norm (1).ipynb")
    run(one)
    assert float(ada(out)["total"]) == 100


def test_a_number_that_lost_its_zeros_keeps_its_marks(tmp_path):
    out = Path(f"{tmp_path / 'class'}-graded")
    run(lay(tmp_path / "class", "00815/build_batch_norm.ipynb", "4711/build_batch_norm.ipynb"))
    lines = rows(out / "marks.csv")
    bare = [row | {"student": row["student"].lstrip("0"), "points": row["max"]} for row in lines]
    save(out, bare)
    run(tmp_path / "class")
    totals = {row["student"]: float(row["total"]) for row in rows(out / "grades.csv")}
    assert totals == {"00815": 100, "4711": 100}
    assert {row["student"] for row in marks.read(out / "marks.csv")} == {"00815", "4711"}


@pytest.mark.parametrize(
    ("typed_as", "students", "is_of"),
    [
        ("7", {"007", "bob"}, "007"),
        ("7", {"7", "007"}, "7"),
        ("7", {"07", "007"}, "7"),
        ("07", {"007"}, "07"),
        ("bob", {"0bob"}, "bob"),
    ],
)
def test_zeros_come_back_where_only_one_student_can_be_meant(typed_as, students, is_of):
    assert marks._whole(typed_as, students) == is_of


def test_marks_that_belong_to_nothing_stay_and_do_not_count(one, capsys):
    out = Path(f"{one}-graded")
    lines = typed(out)
    lines[0]["criterion"] = "a criterion of last year"
    save(out, lines)
    run(one)
    assert "1 typed marks belong to no answer and do not count (ada)" in capsys.readouterr().out
    assert ada(out)["total"] == "" and ada(out)["still to mark"] == "1"
    assert lines[0]["criterion"] in (out / "marks.csv").read_text()


@pytest.mark.parametrize("points", ["7000", "-1", "good", "1/2", "nan"])
def test_a_mark_that_cannot_be_is_named_and_nothing_is_lost(one, points):
    out = Path(f"{one}-graded")
    question = next(iter(marks.rubric(NAME)))
    typed(out, {question: points})
    before = (out / "marks.csv").read_bytes()
    with pytest.raises(SystemExit, match=f"line 2 .*ada, {question}.*points from 0 to .*{points}"):
        run(one)
    assert (out / "marks.csv").read_bytes() == before


def test_a_mark_that_was_typed_twice_is_named(one):
    out = Path(f"{one}-graded")
    lines = typed(out)
    save(out, [*lines, lines[0] | {"points": "0"}])
    with pytest.raises(SystemExit, match="give different points for the same criterion"):
        run(one)


def test_marks_without_their_columns_are_refused(tmp_path):
    (tmp_path / "marks.csv").write_text("student,points\nada,3\n")
    with pytest.raises(marks.BadMarks, match="got none called assignment"):
        marks.read(tmp_path / "marks.csv")


def test_lines_without_a_student_or_with_too_few_cells_are_passed_over(tmp_path):
    lines = [",".join(marks.COLUMNS), "", ",,,,", "my own note"]
    (tmp_path / "marks.csv").write_text("\n".join(lines))
    assert [row["student"] for row in marks.read(tmp_path / "marks.csv")] == ["my own note"]


def test_the_class_has_its_pages(one):
    out = Path(f"{one}-graded")
    answers = (out / "class" / f"{NAME}-answers.html").read_text()
    checks = (out / "class" / f"{NAME}-checks.html").read_text()
    for question, criteria in marks.rubric(NAME).items():
        assert f"<h2>{question}</h2>" in answers
        for criterion in criteria:
            assert str(report.jinja2.filters.escape(criterion["asks"])) in answers
    assert "of 1 submissions" in checks and checks.count("<td>1</td>") == sum(
        len(found) for found in judge.checks(NAME).values()
    )


def test_pages_of_students_who_are_gone_go_too(one):
    lay(one, "bob/build_batch_norm.ipynb")
    pages = Path(f"{one}-graded") / "feedback"
    run(one)
    assert {page.name for page in pages.iterdir()} == {"ada.html", "bob.html"}
    (one / "bob/build_batch_norm.ipynb").unlink()
    (one / "bob").rmdir()
    run(one)
    assert {page.name for page in pages.iterdir()} == {"ada.html"}


def test_a_cell_that_raises_is_named_first(tmp_path):
    made = classroom.solved(NAME)
    codes = [c for c in made["cells"] if c["metadata"].get("nbgrader", {}).get("solution")]
    codes[0]["source"] = "def f(:"
    folder = tmp_path / "class"
    lay(folder, "ada/build_batch_norm.ipynb")
    (folder / "ada/build_batch_norm.ipynb").write_text(json.dumps(made))
    out = run(folder)
    name = codes[0]["metadata"]["nbgrader"]["grade_id"]
    assert f"cell {name}: SyntaxError" in ada(out)["remarks"]
    page = (out / "feedback" / "ada.html").read_text()
    assert f"An error in your cell {name}: SyntaxError" in page and "the same" in page


def test_a_page_of_feedback_needs_no_other_file_and_runs_no_script(taught):
    for path in (run(taught) / "feedback").glob("*.html"):
        page = path.read_text()
        assert "<script" not in page and "http://" not in page and "https://" not in page
        assert "default-src 'none'" in page


def test_what_a_student_writes_is_text_and_nothing_else(tmp_path):
    made = classroom.solved(NAME)
    answer = next(
        c
        for c in made["cells"]
        if c["cell_type"] == "markdown" and c["metadata"]["nbgrader"]["grade"]
    )
    answer["source"] = "<script>alert(1)</script>"
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "<img src=x>.ipynb").write_text(json.dumps(made))
    (page,) = (run(tmp_path / "class") / "feedback").glob("*.html")
    assert "<script>" not in page.read_text() and "&lt;script&gt;" in page.read_text()
    assert "<img src=x>" not in page.read_text()


def test_two_students_never_share_a_page():
    names = ["a/b", "a_b", "a:b", "ada", "Ada Lovelace", "..", "", "ä"]
    assert len({report.file_name(name) for name in names}) == len(names)


def test_changed_work_is_graded_again_and_only_that(tmp_path, monkeypatch):
    folder = lay(tmp_path / "class", "ada.ipynb", "bob.ipynb")
    run(folder)
    made = classroom.solved(NAME)
    made["cells"][0]["source"] = "# another text"
    (folder / "bob.ipynb").write_text(json.dumps(made))
    ran, real = [], grade._run
    monkeypatch.setattr(grade, "_run", lambda s, *rest: ran.append(s.student) or real(s, *rest))
    run(folder)
    assert ran == ["bob"]


def test_equal_work_is_run_once(tmp_path, monkeypatch):
    folder = lay(tmp_path / "class", "ada.ipynb", "bob.ipynb")
    ran, real = [], grade._run
    monkeypatch.setattr(grade, "_run", lambda s, *rest: ran.append(s.student) or real(s, *rest))
    assert len(rows(run(folder) / "grades.csv")) == 2 and len(ran) == 1


def test_a_new_test_means_a_new_run(monkeypatch):
    work = classroom.handed_in(NAME, "ada", classroom.solved(NAME))
    first = grade.key(work, sandbox.LIMITS, False)
    monkeypatch.setattr(grade, "fingerprint", lambda name: "other tests")
    assert grade.key(work, sandbox.LIMITS, False) != first


def test_a_changed_package_means_a_new_run(monkeypatch, tmp_path):
    before = grade.fingerprint(NAME)
    (tmp_path / "__init__.py").write_text("")
    monkeypatch.setattr(grade.normlab, "__file__", str(tmp_path / "__init__.py"))
    assert grade.fingerprint.__wrapped__(NAME) != before


def test_a_disk_that_is_nearly_full_ends_the_run_and_gives_no_mark(tmp_path, monkeypatch):
    folder = lay(tmp_path / "class", "ada.ipynb")
    free = SimpleNamespace(free=2 * sandbox.LIMITS["folder"] - 1)
    monkeypatch.setattr(grade.shutil, "disk_usage", lambda _: free)
    with pytest.raises(SystemExit, match="nearly full: make room there"):
        run(folder)
    assert not (tmp_path / "class-graded/grades.csv").exists()


@pytest.mark.parametrize("option", ["--processes", "--seconds"])
def test_an_option_below_one_is_refused(option, tmp_path, capsys):
    with pytest.raises(SystemExit):
        grade.main([str(tmp_path), option, "0"])
    assert "expected a number above 0, got 0" in capsys.readouterr().err


def test_results_do_not_go_where_the_submissions_are(tmp_path):
    with pytest.raises(SystemExit, match="expected results outside of"):
        grade.main([str(tmp_path), "--out", str(tmp_path / "results")])


def test_half_a_result_is_made_again(one):
    (kept,) = Path(f"{one}-graded/.kept").glob("*.json")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:100])
    run(one)
    assert kept.read_bytes() == whole


def test_two_graders_do_not_write_into_the_same_folder(one):
    with grade._only_one(Path(f"{one}-graded/.kept")):
        with pytest.raises(SystemExit, match="another grader is at work"):
            run(one)


def test_a_fault_of_the_grader_costs_one_submission_and_is_not_kept(one, monkeypatch):
    lay(one, "bob/build_batch_norm.ipynb")
    made = classroom.solved(NAME)
    made["cells"][0]["source"] = "# another text"
    (one / "bob/build_batch_norm.ipynb").write_text(json.dumps(made))
    with monkeypatch.context() as patch:
        patch.setattr(grade, "_judged", lambda *_: 1 / 0)
        run(one)
    found = {row["student"]: row["remarks"] for row in rows(Path(f"{one}-graded/grades.csv"))}
    assert found["ada"] == "" and "the grader itself failed on it" in found["bob"]
    run(one)
    assert {row["remarks"] for row in rows(Path(f"{one}-graded/grades.csv"))} == {""}


def test_marks_typed_during_a_run_are_not_overwritten(one, monkeypatch):
    (one / "ada/build_batch_norm.ipynb").write_text(json.dumps(classroom.solved(NAME)) + " ")
    out, real = Path(f"{one}-graded"), grade._run
    monkeypatch.setattr(grade, "_run", lambda *rest: typed(out) and real(*rest))
    run(one)
    assert float(ada(out)["total"]) == 100


def test_no_scratch_folder_is_left(one):
    assert not list(Path(tempfile.gettempdir()).glob(f"grade-{os.getpid()}-*"))


def test_the_command_ends_with_a_sentence_where_it_cannot_go_on(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="which does not exist"):
        grade.main([str(tmp_path / "none")])
    folder = lay(tmp_path / "class", "ada.ipynb")
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    with pytest.raises(SystemExit, match="expects Linux, got darwin.*TRUST=1"):
        grade.main([str(folder)])


def test_with_trust_it_runs_without_the_sandbox(tmp_path):
    made = classroom.with_cell(
        NAME, "import socket\nsocket.socket()", list(classroom.most(NAME))[0]
    )
    work = classroom.handed_in(NAME, "ada", made)
    (result,) = classroom.graded([work], tmp_path, trust=True).values()
    assert classroom.points(result) == classroom.most(NAME)
    assert not next(cell for cell in result["cells"] if cell["name"] == "more")["error"]


def test_a_cluster_gives_the_same_grades(tmp_path):
    folder = lay(tmp_path / "class", "ada.ipynb")
    here = (run(folder) / "grades.csv").read_bytes()
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        words = [str(folder), "--out", str(tmp_path / "far"), "--quick"]
        words += ["--trust"] if classroom.NO_SANDBOX else []
        done = subprocess.run(  # as a teacher calls it
            [
                sys.executable,
                "-m",
                "grader.grade",
                *words,
                "--scheduler",
                cluster.scheduler_address,
            ],
            cwd=collect.SOURCE.parents[1],
            env=os.environ | {"PYTHONPATH": "coursework"},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "far" / "grades.csv").read_bytes() == here


def test_no_fingerprint_looks_like_a_number():
    for answer in map(str, range(100)):
        with pytest.raises(ValueError):
            float(marks.seal(answer))
