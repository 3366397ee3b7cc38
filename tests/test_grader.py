"""The parts of the grader: asking, judging, reading notebooks and folders, reporting."""

import ast
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import classroom
import distributed
import numpy as np
import pytest
import torch

from grader import ask, collect, grade, inside, judge, marks, notebook, report, sandbox
from grader.judge import Check
from normlab import layers

NAME = "1_build_batch_norm"
ASSIGNMENTS = list(collect.assignments())


def there_and_back(value):
    """Return a value as the judge sees it."""
    return judge.revived(json.loads(json.dumps(ask.plain(value))))


# --- asking and judging ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected", "says"),
    [
        (torch.ones(2, 3), np.ones((2, 3)), None),
        (torch.ones(2, 3), np.ones((3, 2)), "expected the shape"),
        (
            torch.ones(2, 3),
            np.full((2, 3), 1.1),
            "6 of 6 numbers are off, by up to 0.1 (allowed: 1.2e-05)",
        ),
        (torch.tensor([1.0, torch.nan]), [1.0, 2.0], "expected 2 values"),
        (torch.tensor([1.0, torch.nan]), np.array([1.0, 2.0]), "1 of 2 numbers are off"),
        (torch.tensor([1.0, torch.inf]), np.array([1.0, torch.inf]), None),
        (torch.tensor([1.0, torch.nan]), np.array([1.0, np.nan]), None),
        ([1.0, torch.tensor(2.0)], [1.0, 2.0], None),
        ([1.0, 2.0], [1.0, 2.5], "value 2 of 2"),
        ({"a": 1}, {"a": 1, "b": 2}, "expected the entries ['a', 'b']"),
        ({"a": 1}, {"a": 2}, "in 'a'"),
        ("mean", "mean", None),
        ("mean", "variance", "got another answer"),
        (None, None, None),
        (None, 1.0, "expected numbers, got None"),
        (True, 1.0, "expected numbers, got True"),
        (1.0, True, "got another answer"),
        ("1", 1.0, "expected numbers"),
        (3, None, "got another answer"),
    ],
)
def test_an_answer_is_compared_with_what_is_expected(answer, expected, says):
    wrong = Check(1, expected).wrong(there_and_back(answer))
    assert wrong is None if says is None else says in wrong


def test_the_dtype_is_compared_if_the_check_asks_for_it():
    check = Check(1, np.ones(2), dtype="float64")
    assert check.wrong(there_and_back(torch.ones(2, dtype=torch.float64))) is None
    assert "expected dtype float64, got float32" in check.wrong(there_and_back(torch.ones(2)))


def test_tolerances_are_absolute_and_relative():
    check = Check(1, 1000.0, rtol=1e-3, atol=0.5)
    assert check.wrong(1001.4) is None and check.wrong(1001.6) is not None


def test_float64_survives_to_the_last_digit():
    value = torch.tensor([1 / 3, 1e-300, -0.1], dtype=torch.float64)
    assert there_and_back(value).tolist() == value.tolist()


def test_bfloat16_and_integers_are_answers_too():
    assert there_and_back(torch.ones(2, dtype=torch.bfloat16)).kind == "bfloat16"
    assert there_and_back(torch.arange(3)).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda s: s["nothing"], "expected the notebook to define `nothing`"),
        (lambda s: 1 / 0, "ZeroDivisionError"),
        (lambda s: torch.zeros(20_000), "at most 10000 numbers, got shape (20000,)"),
        (lambda s: object(), "expected a tensor, an array or a number, got object"),
        (lambda s: torch.nn.BatchNorm1d(2)(torch.ones(3, 2)), "switched off"),
        (lambda s: torch.nn.LayerNorm(2)(torch.ones(3, 2)), "switched off"),
        (lambda s: torch.batch_norm(*[None] * 9), "switched off"),
    ],
)
def test_what_goes_wrong_is_said(function, says):
    assert says in ask.observe(function, {})["error"]


def exits(*_):
    raise SystemExit("out")


class Untold(Exception):
    def __str__(self):
        raise SystemExit


def untold(*_):
    raise Untold


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ([0.0] * 20_000, "at most 10000 parts"),
        (dict.fromkeys(range(20_000)), "at most 10000 parts"),
        ("x" * 2_000_000, "at most 1000000 characters"),
        (torch.zeros(1).expand(10**12), "at most 10000 numbers"),
        (torch.zeros(2, device="meta"), "NotImplementedError: Cannot copy out of meta tensor"),
        (torch.eye(2).to_sparse(), "TypeError"),
        (torch.zeros(2, dtype=torch.complex64), "complex is not JSON"),
        (np.array([object()]), "object is not JSON"),
        (np.zeros(2, np.longdouble), "longdouble is not JSON"),
        (10**5000, "Exceeds the limit"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 99 else "",
)
def test_an_answer_that_cannot_be_told_costs_one_question_and_no_more(answer, says):
    assert says in inside.asked(lambda s: answer, {}, 10)["error"]


def test_a_list_that_holds_itself_is_no_answer():
    endless = []
    endless.append(endless)
    assert "RecursionError" in inside.asked(lambda s: endless, {}, 10)["error"]


@pytest.mark.parametrize(("function", "says"), [(exits, "SystemExit: out"), (untold, "Untold")])
def test_a_function_that_ends_the_program_costs_one_question_and_no_more(function, says):
    assert inside.asked(function, {}, 10) == {"error": says}


def test_an_error_that_cannot_be_told_ends_no_notebook():
    code = "class Bad(Exception):\n    def __str__(self): raise SystemExit\nraise Bad"
    assert inside.executed(inside.shell(), code, 10)["error"] == "Bad"


@pytest.mark.parametrize("name", ["value", "error"])
@pytest.mark.parametrize("depth", [100, 900, 20_000, 200_000])
def test_a_forged_answer_nested_without_end_is_wrong_and_stops_nobody(name, depth):
    deep = []
    for _ in range(depth):
        deep = [deep]
    task, checks = next(iter(judge.checks(NAME).items()))
    verdicts = judge.judge(NAME, task, {check: {name: deep} for check in checks})
    assert all(verdict.reason and not verdict.points for verdict in verdicts)


def from_torch(x, gamma, beta, eps=1e-5, ready=torch.batch_norm):
    return ready(x, gamma, beta, None, None, True, 0.0, eps, False)


def operator(x, gamma, beta, eps=1e-5):
    return torch.ops.aten.native_batch_norm(x, gamma, beta, None, None, True, 0.0, eps)[0]


def from_the_course(x, gamma, beta, eps=1e-5):
    return layers.batch_norm(x, None, None, gamma, beta, True, 0.1, eps)


@pytest.mark.parametrize("ready", [from_torch, operator, from_the_course])
def test_a_ready_made_norm_is_off_under_every_name(ready):
    for question in ask.questions(NAME)["forward"].values():
        assert "switched off" in ask.observe(question, {"batch_norm": ready})["error"]


def nothing(*arguments, **_):
    return arguments[0]


class NothingDone(torch.nn.Module):
    """A layer that returns its input."""

    def __init__(self, *_, **__):
        super().__init__()
        self.running_mean = self.running_var = torch.zeros(3)

    def forward(self, x):
        return x


def test_doing_nothing_earns_nothing():
    letters = [f"Mended{letter}" for letter in "ABCDEFGHI"]
    functions = ["batch_norm", "batch_norm_backward", "running_update", "fold", *letters]
    names = dict.fromkeys(functions, nothing) | {"diagnosis": {}, "BatchNorm": NothingDone}
    for kind in (NothingDone, torch.nn.BatchNorm1d, layers.BatchNorm1d):
        names["BatchNorm"] = kind
        for task in classroom.most(NAME):
            assert judge.examine(NAME, task, names) == 0


def test_an_assignment_can_switch_off_more():
    question = ask.questions("2_predict_the_matrix")["cosine-norm"]
    cheat = {"cosine_norm": lambda x, w, **_: torch.cosine_similarity(x[:, None], w, dim=2)}
    answers = [ask.observe(function, cheat) for function in question.values()]
    assert any("switched off" in answer.get("error", "") for answer in answers)


def test_torchs_norms_work_again_afterwards():
    ask.observe(lambda s: 1, {})
    assert torch.nn.BatchNorm1d(2)(torch.ones(3, 2)).shape == (3, 2)


def test_a_check_without_answer_gets_no_points():
    task = next(iter(judge.checks(NAME)))
    for answers in ({}, {name: {"value": None} for name in judge.checks(NAME)[task]}):
        verdicts = judge.judge(NAME, task, answers)
        assert sum(v.points for v in verdicts) == 0 and all(v.reason for v in verdicts)


def test_examine_prints_and_returns_the_points(capsys):
    task, points = next(iter(classroom.most(NAME).items()))
    assert judge.examine(NAME, task, {}) == 0.0
    printed = capsys.readouterr().out
    assert printed.count("✗") == len(judge.checks(NAME)[task])
    assert sum(check.points for check in judge.checks(NAME)[task].values()) == points


# --- the assignments -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_an_assignment_is_whole(name):
    cells = notebook.master(collect.assignments()[name])
    graded = {cell.name: cell.points for cell in cells if cell.kind in ("test", "answer")}
    assert sum(graded.values()) == 100
    names = [cell.name for cell in cells]
    assert len(names) == len(set(names))
    tests = {cell.name for cell in cells if cell.kind == "test"}
    asked, checks = ask.questions(name), judge.checks(name)
    assert set(asked) == set(checks) == tests
    for task in tests:
        assert set(asked[task]) == set(checks[task])
        assert sum(check.points for check in checks[task].values()) == graded[task]
        assert all(function.__doc__ for function in asked[task].values())
    rubric = marks.rubric(name)
    assert set(rubric) == {cell.name for cell in cells if cell.kind == "answer"}
    for question, criteria in rubric.items():
        assert sum(criterion["points"] for criterion in criteria) == graded[question]
        for criterion in criteria:
            assert set(criterion) == {"points", "asks", "levels"}
            assert max(criterion["levels"]) == criterion["points"] and 0 in criterion["levels"]
    assert (collect.HIDDEN.parent / "guide" / f"{name}.md").exists()
    assert (collect.SOURCE / name / "selfcheck.py").exists()


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_a_test_cell_holds_nothing_but_its_test(name):
    for cell in classroom.solved(name)["cells"]:
        grading = cell["metadata"].get("nbgrader", {})
        if grading.get("grade") and not grading["solution"]:
            task, points = grading["grade_id"], grading["points"]
            assert "".join(cell["source"]).splitlines() == [
                f"# Graded: {task} ({points} points). The tests of your teacher run here; "
                "you can leave this cell as it is.",
                "### BEGIN HIDDEN TESTS",
                "from grader.judge import examine",
                "",
                f'examine("{name}", "{task}", globals())',
                "### END HIDDEN TESTS",
            ]


@pytest.mark.parametrize(
    "path", sorted(ask.HIDDEN.glob("*/*.py")), ids=lambda p: "/".join(p.parts[-2:])
)
def test_marks_hang_on_no_stream_of_random_numbers(path):
    streams = {"rand", "randn", "randint", "randperm", "manual_seed", "random", "normal", "dropout"}
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)]
    used = {n.attr for n in nodes if ast.unparse(n.value) in ("torch", "np", "torch.nn.functional")}
    imported = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Import)]
    assert not used & streams and "random" not in {a.name for n in imported for a in n.names}


# --- reading notebooks ------------------------------------------------------------------------------


def master() -> list[notebook.Cell]:
    return notebook.master(collect.assignments()[NAME])


def theirs(made: dict) -> list[dict]:
    """Return the cells of a notebook as :func:`grader.notebook.read` does."""
    return [{**cell, "source": "".join(cell["source"])} for cell in made["cells"]]


def test_the_master_holds_no_solutions():
    for cell in master():
        assert not cell.source if cell.kind in ("code", "answer", "test") else cell.source


def test_a_teachers_cell_is_restored_whatever_was_handed_in():
    made = classroom.solved(NAME)
    for cell in made["cells"]:
        if not cell["metadata"].get("nbgrader", {}).get("solution"):
            cell["source"] = "raise SystemExit"
    assert all("SystemExit" not in cell.source for cell in notebook.merged(theirs(made), master()))


def test_a_missing_cell_comes_back_in_its_place():
    made, ours = classroom.solved(NAME), master()
    whole = [cell.name for cell in notebook.merged(theirs(made), ours)]
    tests = {cell.name for cell in ours if cell.kind in ("test", "locked")}
    for cell in list(made["cells"]):
        if cell["metadata"].get("nbgrader", {}).get("grade_id") in tests:
            made["cells"].remove(cell)
    assert [cell.name for cell in notebook.merged(theirs(made), ours)] == whole


def test_a_students_own_cell_stays_where_it_is():
    task = list(classroom.most(NAME))[1]
    made = classroom.with_cell(NAME, "x = 1", behind=task)
    cells = notebook.merged(theirs(made), master())
    names = [cell.name for cell in cells]
    assert names[names.index(task) + 1] == "more" and cells[names.index("more")].kind == "code"


# --- running a cell ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("print('a')\n1 + 1", {"text": "a\n", "shown": ["2"], "error": None}),
        ("1 + 1;", {"shown": [], "error": None}),
        ("None", {"shown": [], "error": None}),
        ("%time x = 1", {"error": None}),
        ("print('a')\n1 / 0", {"error": "ZeroDivisionError: division by zero"}),
        ("raise SystemExit(2)", {"error": "SystemExit: 2"}),
        ("print('x' * 10**6)", {"text": "x" * inside.TEXT}),
    ],
)
def test_a_cell_says_what_it_printed_showed_and_raised(source, expected):
    got = inside.executed(inside.shell(), source, 10)
    assert {name: got[name] for name in expected} == expected


def test_a_traceback_names_the_students_line_and_no_line_of_the_grader():
    text = inside.executed(inside.shell(), "def f():\n    1 / 0\nf()", 10)["text"]
    assert "1 / 0" in text and "inside.py" not in text


def test_a_figure_is_kept_as_a_picture(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", sandbox.INLINE)
    import matplotlib.pyplot as plt

    before = plt.get_backend()
    try:
        plt.switch_backend(sandbox.INLINE)
        got = inside.executed(inside.shell(), "import matplotlib.pyplot as p\np.plot([1, 2]);", 20)
    finally:
        plt.switch_backend(before)
    assert len(got["pictures"]) == 1
    assert report.output(got)["pictures"] == got["pictures"]


# --- finding submissions ------------------------------------------------------------------------------


def lay(folder: Path, *names: str) -> Path:
    """Write a solved notebook to each of these places."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(classroom.solved(NAME)))
    return folder


@pytest.mark.parametrize(
    ("name", "student"),
    [
        (f"submitted/ada/{NAME}/build_batch_norm.ipynb", "ada"),
        (f"ada/{NAME}/build_batch_norm.ipynb", "ada"),
        ("ada.ipynb", "ada"),
        ("ada/any name (1).ipynb", "ada"),
        ("Ada L_123_assignsubmission_file_/build_batch_norm.ipynb", "Ada L_123"),
        (f"submissions/DL/ada/{NAME}/build_batch_norm.ipynb", "submissions"),
        ("Ada L_123_assignsubmission_file_build_batch_norm.ipynb", "Ada L_123"),
        ("week 1/Ada L_123_assignsubmission_file_/build_batch_norm.ipynb", "Ada L_123"),
        ("ada_4711_99_build_batch_norm.ipynb", "ada_4711"),
        ("ada/BUILD.IPYNB", "ada"),
        ("ada_LATE_4711_99_build_batch_norm-1.ipynb", "ada_4711"),
        ("build-batch-norm-ada/coursework/build_batch_norm.ipynb", "build-batch-norm-ada"),
    ],
)
def test_a_submission_is_found_wherever_it_lies(tmp_path, name, student):
    (found,) = collect.submissions(lay(tmp_path, name))
    assert (found.student, found.assignment) == (student, NAME)


def test_every_file_of_a_student_is_graded_and_other_files_come_along(tmp_path):
    lay(tmp_path, "ada/a.ipynb", "ada/b.ipynb", "bob.ipynb", "ada/.ipynb_checkpoints/a.ipynb")
    (tmp_path / "ada/mine.py").write_text("x = 1")
    (tmp_path / "notes.txt").write_text("the teacher's")
    found = {s.file: s for s in collect.submissions(tmp_path)}
    assert set(found) == {"ada/a.ipynb", "ada/b.ipynb", "bob.ipynb", "notes.txt"}
    assert found["ada/a.ipynb"].beside == {"mine.py": b"x = 1"}
    assert found["bob.ipynb"].beside == {}
    assert "expected a notebook" in found["notes.txt"].problem


def test_a_folder_around_all_students_is_stepped_into(tmp_path):
    lay(tmp_path, "course/ada/a.ipynb", "course/bob/b.ipynb")
    assert [s.student for s in collect.submissions(tmp_path)] == ["ada", "bob"]


def test_who_handed_in_nothing_is_listed_and_what_is_no_work_is_not(tmp_path):
    lay(tmp_path, "ada.ipynb")
    (tmp_path / "bob").mkdir()
    for name in ("Thumbs.db", "Grades.csv", ".DS_Store"):
        (tmp_path / name).write_text("x")
    ada, bob = collect.submissions(tmp_path)
    assert (bob.student, bob.problem) == ("bob", "the folder is empty")


def test_two_notebooks_of_a_student_are_remarked(tmp_path):
    out = run(lay(tmp_path / "class", "ada/a.ipynb", "ada/b.ipynb"))
    lines = rows(out / "grades.csv")
    assert [line["remarks"] for line in lines] == ["one of 2 notebooks of this student"] * 2
    assert {row["file"] for row in rows(out / "marks.csv")} == {"ada/a.ipynb", "ada/b.ipynb"}


def test_zip_files_are_opened(tmp_path):
    made = json.dumps(classroom.solved(NAME))
    with zipfile.ZipFile(tmp_path / "ada.zip", "w") as archive:
        archive.writestr("work/build_batch_norm.ipynb", made)
        archive.writestr("__MACOSX/._build_batch_norm.ipynb", "x")
    (tmp_path / "bob.zip").write_bytes(b"PK")
    ada, bob = collect.submissions(tmp_path)
    assert ada.student == "ada" and ada.content == made.encode()
    assert bob.student == "bob" and "broken" in bob.problem
    whole = tmp_path.with_suffix(".zip")
    with zipfile.ZipFile(whole, "w") as archive:
        archive.write(tmp_path / "ada.zip", "ada.zip")
    assert collect.submissions(whole)[0].student == "ada"


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "LARGEST", 1000)
    with zipfile.ZipFile(tmp_path / "eve.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.ipynb", "x" * 10_000)
    (eve,) = collect.submissions(tmp_path)
    assert eve.content is None and "unpacks to more than" in eve.problem


def test_a_link_is_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("{}")
    lay(tmp_path / "class", "ada.ipynb")
    (tmp_path / "class/eve.ipynb").symlink_to(secret)
    eve = collect.submissions(tmp_path / "class")[1]
    assert eve.content is None and "link" in eve.problem


@pytest.mark.parametrize(
    ("prepare", "assignment", "says"),
    [
        (lambda folder: folder / "none", None, "which does not exist"),
        (lambda folder: folder, None, "expected notebooks"),
        (lambda folder: lay(folder, "a.ipynb"), "5_none", "expected one of the assignments"),
        (lambda folder: lay(folder, "a.ipynb") / "a.ipynb", None, "got the file"),
        (lambda folder: collect.SOURCE.parents[1], None, "which holds this course"),
    ],
)
def test_a_bad_folder_is_named(tmp_path, prepare, assignment, says):
    with pytest.raises(collect.BadFolder, match=says):
        collect.submissions(prepare(tmp_path), assignment)


# --- the tables and pages -------------------------------------------------------------------------------


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


def run(folder: Path, *more: str) -> Path:
    """Grade a folder; return where the results are."""
    grade.main([str(folder), "--processes", "1", "--quick", *more])
    return Path(f"{folder}-graded")


def rows(path: Path) -> list[dict]:
    """Read a table that the grader wrote."""
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))


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


@pytest.mark.parametrize("option", ["--processes", "--seconds"])
def test_an_option_below_one_is_refused(option, tmp_path, capsys):
    with pytest.raises(SystemExit):
        grade.main([str(tmp_path), option, "0"])
    assert "expected a number above 0, got 0" in capsys.readouterr().err


def test_results_do_not_go_where_the_submissions_are(tmp_path):
    with pytest.raises(SystemExit, match="expected results outside of"):
        grade.main([str(tmp_path), "--out", str(tmp_path / "results")])


def test_no_scratch_folder_is_left(one):
    assert not list(Path(tempfile.gettempdir()).glob(f"grade-{os.getpid()}-*"))


def test_the_command_ends_with_a_sentence_where_it_cannot_go_on(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="which does not exist"):
        grade.main([str(tmp_path / "none")])
    folder = lay(tmp_path / "class", "ada.ipynb")
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    with pytest.raises(SystemExit, match="expects Linux, got darwin.*TRUST=1"):
        run(folder)


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
