"""What the teacher and the students get: ``grades.csv``, ``marks.csv``, pages of feedback."""

import base64
import csv
import hashlib
import io
import os
import re
from pathlib import Path

import jinja2
import yaml

from grader import collect, notebook
from grader.ask import HIDDEN

MARKS = ["student", "assignment", "file", "question", "criterion", "max", "points", "comment"]
FORMULA = "=+-@\t\r"  # first characters that a spreadsheet takes for a formula
PAGES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


class BadMarks(Exception):
    """A line of ``marks.csv`` cannot be used; the message names it."""


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf-8", errors="replace")  # half a character is none
    os.replace(draft, path)


def output(event: dict) -> dict:
    """Return what a cell printed, showed, drew and raised, as far as it is what it should be."""
    texts = [event.get("text"), *_list(event.get("shown"))]
    return {
        "text": "\n".join(t[:20_000] for t in texts[:11] if isinstance(t, str) and t),
        "pictures": [p for p in _list(event.get("pictures"))[:10] if _is_png(p)],
        "error": str(event["error"])[:500] if event.get("error") else "",
    }


def _list(value) -> list:
    return value if isinstance(value, list) else []


def _is_png(text) -> bool:
    """Tell whether a text is a PNG in base 64, and nothing else."""
    try:
        start = base64.b64decode(text, validate=True)[:8]
    except (TypeError, ValueError):
        return False
    return start == b"\x89PNG\r\n\x1a\n"


def rubric(assignment: str) -> dict[str, list[dict]]:
    """Return ``{question: [criterion, ...]}`` of an assignment's free-text questions."""
    return yaml.safe_load((HIDDEN / assignment / "rubric.yml").read_text(encoding="utf-8")) or {}


# --- marks of the free-text questions --------------------------------------------------------------


def read_marks(path: Path) -> dict[tuple, dict]:
    """Return what the teacher typed: ``{(student, assignment, file, question, criterion): row}``.

    Raises:
        BadMarks: a column is missing, or points are no number from 0 to max.
    """
    if not path.exists():
        return {}
    rows = _table(path)
    missing = [name for name in MARKS if rows and name not in rows[0]]
    if missing:
        raise BadMarks(
            f"expected the columns {', '.join(MARKS)} in {path}, got none called "
            f"{', '.join(missing)}: give them back their names, or delete the file to start anew"
        )
    for number, row in enumerate(rows, 2):
        points = (row["points"] or "").strip().replace(",", ".")
        try:
            good = not points or 0 <= float(points) <= float(row["max"])
        except ValueError:
            good = False
        if not good:
            raise BadMarks(
                f"line {number} of {path} ({row['student']}, {row['question']}): expected points "
                f"from 0 to {row['max']}, or nothing, got {points!r}"
            )
        row["points"] = points
        row.update({name: _armed(row[name]) for name in MARKS[:5]})
    return {tuple(row[name] for name in MARKS[:5]): row for row in rows}


def _table(path: Path) -> list[dict]:
    """Read a CSV file as a spreadsheet may have left it (UTF-8, comma or semicolon)."""
    text = path.read_text(encoding="utf-8-sig")
    delimiter = ";" if text.split("\n")[0].count(";") > text.split("\n")[0].count(",") else ","
    return list(csv.DictReader(io.StringIO(text), delimiter=delimiter))


def with_blanks(graded: list[tuple], marks: dict[tuple, dict]) -> dict[tuple, dict]:
    """Add a blank row for every criterion that has none; rows that are there stay."""
    rows = dict(marks)
    for submission, _ in graded:
        if not submission.assignment:
            continue
        for question, criteria in rubric(submission.assignment).items():
            for criterion in criteria:
                place = (submission.student, submission.assignment, submission.file)
                row = (*place, question, criterion["asks"])
                blank = [*row, _number(criterion["points"]), "", ""]
                rows.setdefault(row, dict(zip(MARKS, blank, strict=True)))
    return rows


def _armed(text: str) -> str:
    """Undo what :func:`table` does to a text that a spreadsheet would take for a formula."""
    return text[1:] if text[:1] == "'" and text[1:2] in FORMULA else text


# --- the tables ------------------------------------------------------------------------------------


def _number(value: float) -> str:
    return f"{round(float(value), 2):g}"


def table(rows: list[list]) -> str:
    """Return rows as CSV; text that a spreadsheet would take for a formula is disarmed."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(
        ["'" + cell if cell and cell[0] in FORMULA else cell for cell in map(str, row)]
        for row in rows
    )
    return stream.getvalue()


def points(result: dict, task: str) -> float:
    """Return the points of a task."""
    return sum(verdict["points"] for verdict in result["tasks"].get(task, []))


def summary(submission, result: dict, marks: dict[tuple, dict]) -> dict[str, str]:
    """Return a line of ``grades.csv``, without the columns of single questions."""
    cells = notebook.master(collect.assignments()[submission.assignment])
    tests = sum(cell.points for cell in cells if cell.kind == "test")
    place = (submission.student, submission.assignment, submission.file)
    rows = [row for name, row in marks.items() if name[:3] == place]
    typed = [float(row["points"]) for row in rows if row["points"]]
    code = sum(points(result, cell.name) for cell in cells if cell.kind == "test")
    still = sum(not row["points"] for row in rows)
    return {
        "student": submission.student,
        "assignment": submission.assignment,
        "file": submission.file,
        "code": _number(code),
        "code of": _number(tests),
        "text": _number(sum(typed)) if typed else "",
        "text of": _number(sum(cell.points for cell in cells if cell.kind == "answer")),
        "total": "" if still else _number(code + sum(typed)),
        "still to mark": str(still),
        "remarks": "; ".join(filter(None, [result["problem"], *result["notes"]])),
    }


def grades(graded: list[tuple], marks: dict[tuple, dict]) -> str:
    """Return ``grades.csv``: one line per submission, its totals, then a column per question."""
    lines, questions = [], {}
    for submission, result in graded:
        if not submission.assignment:
            line = {"student": submission.student, "file": submission.file}
            lines.append(line | {"code": "0", "remarks": result["problem"]})
            continue
        line = summary(submission, result, marks)
        for cell in notebook.master(collect.assignments()[submission.assignment]):
            if cell.kind == "test":
                column = f"{cell.name} of {_number(cell.points)}"
                line[column] = _number(points(result, cell.name))
                questions[column] = None
        lines.append(line)
    totals = ["student", "assignment", "file", "code", "code of", "text", "text of", "total"]
    columns = [*totals, "still to mark", "remarks", *questions]
    return table([columns, *[[line.get(name, "") for name in columns] for line in lines]])


# --- feedback --------------------------------------------------------------------------------------


def page(student: str, theirs: list[tuple], marks: dict[tuple, dict]) -> str:
    """Return the page of feedback of one student, which needs no other file."""
    parts = []
    for submission, result in theirs:
        part = {"file": submission.file, "assignment": submission.assignment, "result": result}
        if submission.assignment:
            part["line"] = summary(submission, result, marks)
            part["marks"] = {
                question: [
                    {**criterion, "row": marks.get(_place(submission, question, criterion), {})}
                    for criterion in criteria
                ]
                for question, criteria in rubric(submission.assignment).items()
            }
        parts.append(part)
    return PAGES.get_template("feedback.html").render(student=student, parts=parts)


def _place(submission, question: str, criterion: dict) -> tuple:
    place = (submission.student, submission.assignment, submission.file)
    return (*place, question, criterion["asks"])


def file_name(student: str) -> str:
    """Return a file name for a student that is safe everywhere and different for each."""
    safe = re.sub(r"[^\w.@+ -]", "_", student).strip(". ")
    if safe == student:
        return f"{safe}.html"
    return f"{safe}-{hashlib.sha256(student.encode()).hexdigest()[:8]}.html"


def everything(graded: list[tuple], out: Path, marks: dict[tuple, dict]) -> None:
    """Write the tables and the pages, and print where they are."""
    marks = with_blanks(graded, marks)
    rows = [MARKS, *[[row[name] for name in MARKS] for row in marks.values()]]
    write(out / "grades.csv", grades(graded, marks))
    write(out / "marks.csv", table(rows))
    students: dict[str, list[tuple]] = {}
    for submission, result in graded:
        students.setdefault(submission.student, []).append((submission, result))
    for student, theirs in students.items():
        write(out / "feedback" / file_name(student), page(student, theirs, marks))
    print(f"{out / 'grades.csv'}: {len(graded)} lines")
    print(f"{out / 'feedback'}: a page for each of {len(students)} students")
    still = sum(not row["points"] for row in marks.values())
    if still:
        print(
            f"{out / 'marks.csv'}: {still} marks of free-text answers to type, then run this again"
        )
    for submission, result in graded:
        if result["problem"]:
            print(f"needs a look: {submission.student}: {result['problem']}")
