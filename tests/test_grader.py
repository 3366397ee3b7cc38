"""The parts of the grader: asking, judging, reading notebooks and folders, reporting."""

import ast
import json

import classroom
import numpy as np
import pytest
import torch

from grader import ask, collect, inside, judge, marks, notebook, report, sandbox
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
