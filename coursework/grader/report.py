"""What the teacher and the students get: ``grades.csv`` and pages, each of which is one file."""

import base64
import hashlib
import os
import re
from pathlib import Path

import jinja2

from grader import collect, notebook
from grader import marks as marking
from grader.marks import number

PAGES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "pages"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{os.getpid()}.part")
    draft.write_text(text, encoding="utf-8", errors="replace")  # half a character is none
    os.replace(draft, path)


# --- what a cell said, and what is made of it -----------------------------------------------------------


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


def points(result: dict, task: str) -> float:
    """Return the points of a task."""
    return sum(verdict["points"] for verdict in result["tasks"].get(task, []))


def remarks(submission, result: dict, files: int = 1) -> list[str]:
    """Return what a teacher should know of a submission before he believes its points."""
    found = [result["problem"], *result["notes"]] if result["problem"] else [*result["notes"]]
    if files > 1:
        found.append(f"one of {files} notebooks of this student")
    if not result["problem"] and submission.assignment:
        ours = {c.name for c in _cells(submission.assignment) if c.kind in ("code", "answer")}
        if not ours & {cell["name"] for cell in result["cells"]}:
            found.append("no cell of the assignment was found in it")
    return found + raised(result)


def raised(result: dict) -> list[str]:
    """Return which of the student's cells raised an error, and what they said."""
    return [
        f"cell {cell['name']}: {cell['error']}"
        for cell in result["cells"]
        if cell["kind"] == "code"
        and cell["error"]
        and not cell["error"].startswith(("NotImplementedError", "this cell ended"))
    ]


def _cells(assignment: str) -> list[notebook.Cell]:
    return notebook.master(collect.assignments()[assignment])


# --- the table -------------------------------------------------------------------------------------------


def summary(submission, result: dict, rows: list[dict], files: int = 1) -> dict[str, str]:
    """Return a line of ``grades.csv``, without the columns of single questions."""
    cells = _cells(submission.assignment)
    typed = [float(row["points"]) for row in rows if row["points"]]
    code = sum(points(result, cell.name) for cell in cells if cell.kind == "test")
    still = sum(not row["points"] for row in rows)
    return {
        "student": submission.student,
        "assignment": submission.assignment,
        "file": submission.file,
        "code": number(code),
        "code of": number(sum(cell.points for cell in cells if cell.kind == "test")),
        "text": number(sum(typed)) if typed else "",
        "text of": number(sum(cell.points for cell in cells if cell.kind == "answer")),
        "total": "" if still else number(code + sum(typed)),
        "still to mark": str(still),
        "remarks": "; ".join(remarks(submission, result, files)),
    }


def grades(graded: list[tuple], marks: dict[str, list[dict]]) -> str:
    """Return ``grades.csv``: one line per submission, its totals, then a column per question."""
    lines, questions = [], {}
    owners = [(s.student, s.assignment) for s, _ in graded]
    for submission, result in graded:
        if not submission.assignment:
            line = {"student": submission.student, "file": submission.file}
            lines.append(line | {"code": "0", "remarks": result["problem"]})
            continue
        files = owners.count((submission.student, submission.assignment))
        line = summary(submission, result, marks[submission.file], files)
        for cell in _cells(submission.assignment):
            if cell.kind == "test":
                column = f"{cell.name} of {number(cell.points)}"
                line[column] = number(points(result, cell.name))
                questions[column] = None
        lines.append(line)
    totals = ["student", "assignment", "file", "code", "code of", "text", "text of", "total"]
    columns = [*totals, "still to mark", "remarks", *questions]
    rows = [[line.get(name, "") for name in columns] for line in lines]
    return "\ufeff" + marking.table([columns, *rows])


# --- the pages -------------------------------------------------------------------------------------------


def questions(assignment: str) -> dict[str, dict]:
    """Return ``{question: {asked, model, criteria}}`` of an assignment's free-text questions."""
    found, asked = {}, ""
    for cell in notebook.read(collect.assignments()[assignment]):
        grading = cell["metadata"].get("nbgrader", {})
        if cell["cell_type"] == "markdown" and grading.get("grade"):
            criteria = marking.rubric(assignment)[grading["grade_id"]]
            found[grading["grade_id"]] = {
                "asked": asked,
                "model": cell["source"],
                "criteria": criteria,
            }
        elif cell["cell_type"] == "markdown":
            asked = cell["source"]
    return found


def feedback(student: str, theirs: list[tuple], marks: dict[str, list[dict]]) -> str:
    """Return the page of one student."""
    parts = []
    for submission, result in theirs:
        part = {"file": submission.file, "assignment": submission.assignment, "result": result}
        part["raised"] = raised(result)
        if submission.assignment:
            rows = marks[submission.file]
            part["line"] = summary(submission, result, rows)
            part["questions"] = questions(submission.assignment)
            part["rows"] = {(row["question"], row["criterion"]): row for row in rows}
        parts.append(part)
    return PAGES.get_template("feedback.html").render(student=student, parts=parts)


def to_mark(assignment: str, graded: list[tuple], marks: dict[str, list[dict]]) -> str:
    """Return the page with all answers to each free-text question, beside model and criteria."""
    theirs = [(s, r) for s, r in graded if s.assignment == assignment]
    return PAGES.get_template("marking.html").render(
        assignment=assignment,
        questions=questions(assignment),
        answers={
            name: [(s, r["answers"][name]) for s, r in theirs if not _blank(r, name)]
            for name in questions(assignment)
        },
        open_=[s.student for s, r in theirs if all(_blank(r, n) for n in questions(assignment))],
        marks=marks,
    )


def _blank(result: dict, question: str) -> bool:
    return marking.is_blank(result["answers"].get(question, ""))


def overview(assignment: str, graded: list[tuple]) -> str:
    """Return the page that tells how many of the class passed each check."""
    results = [r for s, r in graded if s.assignment == assignment and not r["problem"]]
    tasks: dict[str, list[dict]] = {}
    for task in {task: None for result in results for task in result["tasks"]}:
        for index, check in enumerate(results[0]["tasks"][task]):
            passed = sum(not result["tasks"][task][index]["reason"] for result in results)
            tasks.setdefault(task, []).append({"says": check["says"], "passed": passed})
    page = PAGES.get_template("overview.html")
    return page.render(assignment=assignment, tasks=tasks, number=len(results))


def file_name(student: str) -> str:
    """Return a file name for a student that is safe everywhere and different for each."""
    safe = re.sub(r"[^\w.@+ -]", "_", student).strip(". ")[:60]
    if safe == student:
        return f"{safe}.html"
    name = hashlib.sha256(student.encode(errors="replace")).hexdigest()[:8]
    return f"{safe}-{name}.html"


def everything(graded: list[tuple], out: Path) -> None:
    """Write the tables and the pages, and print where they are."""
    marks, left = marking.matched(marking.read(out / "marks.csv"), graded)
    rows = [row for mine in marks.values() for row in mine]
    write(out / "grades.csv", grades(graded, marks))
    write(out / "marks.csv", marking.written(rows + left, out / "marks.csv"))
    pages = {}
    students: dict[str, list[tuple]] = {}
    for submission, result in graded:
        students.setdefault(submission.student, []).append((submission, result))
    for student, theirs in students.items():
        pages[out / "feedback" / file_name(student)] = feedback(student, theirs, marks)
    for assignment in sorted({s.assignment for s, _ in graded if s.assignment}):
        pages[out / "class" / f"{assignment}-answers.html"] = to_mark(assignment, graded, marks)
        pages[out / "class" / f"{assignment}-checks.html"] = overview(assignment, graded)
    for path in [*out.glob("feedback/*.html"), *out.glob("class/*.html")]:
        if path not in pages:
            path.unlink()  # of a student who is gone
    for path, page in pages.items():
        write(path, page)
    _say(graded, out, rows, left, len(students))


def _say(graded: list[tuple], out: Path, rows: list[dict], left: list[dict], students: int) -> None:
    """Print where everything is, and what needs a teacher's eye."""
    print(f"{out / 'grades.csv'}: {len(graded)} lines")
    print(f"{out / 'feedback'}: a page for each of {students} students")
    still = sum(not row["points"] for row in rows)
    if still:
        print(f"{out / 'marks.csv'}: {still} marks to type, then give the same command again")
        print(f"{out / 'class'}: the answers to mark, question by question")
    earlier = {row["student"] for row in rows if "for an earlier answer]" in row["comment"]}
    if earlier:
        print(f"marks.csv: handed in another answer since: {', '.join(sorted(earlier))}")
    lost = [row for row in left if row["points"]]
    if lost:
        names = ", ".join(sorted({row["student"] for row in lost}))
        print(f"marks.csv: {len(lost)} typed marks belong to no answer and do not count ({names})")
    for submission, result in graded:
        if result["problem"]:
            print(f"needs a look: {submission.student}: {result['problem']}")
