"""``marks.csv``: what the teacher types for the free-text questions.

One line per criterion and student. Lines may be sorted, columns added, and a spreadsheet may have
saved it in its own way. A mark stays with the answer it was given for: when a student hands in
another answer, the mark moves into the comment.
"""

import csv
import hashlib
import io
import re
from pathlib import Path

import yaml

from grader.ask import HIDDEN

COLUMNS = ["student", "assignment", "file", "question", "criterion", "max"]
COLUMNS += ["points", "comment", "answer"]
FORMULA = "=+-@\t\r"  # first characters that a spreadsheet takes for a formula
NO_ANSWER = "no answer"


class BadMarks(Exception):
    """A line of ``marks.csv`` cannot be used; the message names it."""


def number(value: float) -> str:
    """Return a number as short as it can be written."""
    return f"{round(float(value), 2):g}"


def rubric(assignment: str) -> dict[str, list[dict]]:
    """Return ``{question: [criterion, ...]}`` of an assignment's free-text questions."""
    return yaml.safe_load((HIDDEN / assignment / "rubric.yml").read_text(encoding="utf-8")) or {}


# --- reading and writing -----------------------------------------------------------------------------


def table(rows: list[list], delimiter: str = ",") -> str:
    """Return rows as CSV; text that a spreadsheet would take for a formula is disarmed."""
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, lineterminator="\n").writerows(
        ["'" + cell if cell and cell[0] in FORMULA else cell for cell in map(str, row)]
        for row in rows
    )
    return stream.getvalue()


def armed(text: str) -> str:
    """Undo what :func:`table` does to a text that a spreadsheet would take for a formula."""
    return text[1:] if text[:1] == "'" and text[1:2] in FORMULA else text


def decoded(content: bytes) -> str:
    """Return the text of a file that a spreadsheet saved in UTF-8, UTF-16 or Windows' own way."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def separator(text: str) -> str:
    """Return what separates the columns: a comma, a semicolon or a tab."""
    return max(",;\t", key=text.partition("\n")[0].count)


def read(path: Path) -> list[dict]:
    """Return the lines of a table; those without a student are passed over.

    Raises:
        BadMarks: a column is missing.
    """
    if not path.exists():
        return []
    text = decoded(path.read_bytes())
    lines = csv.DictReader(io.StringIO(text), delimiter=separator(text), restval="")
    missing = [name for name in COLUMNS[:-1] if name not in (lines.fieldnames or [])]
    if missing:
        raise BadMarks(
            f"expected the columns {', '.join(COLUMNS)} in {path}, got none called "
            f"{', '.join(missing)}: give them back their names, or delete the file to start anew"
        )
    rows = []
    for row in lines:
        row.pop(None, None)  # more cells than columns
        if row["student"].strip():
            row.update({name: armed(text) for name, text in row.items()})
            row["answer"] = row.get("answer", "")
            row["points"] = row["points"].strip().replace(",", ".")
            rows.append(row | {"line": lines.line_num})
    return rows


def written(rows: list[dict], path: Path) -> str:
    """Return the rows as CSV, with the columns and the separator that the file has now."""
    extra = [name for row in rows for name in row if name not in [*COLUMNS, "line"]]
    columns = [*COLUMNS, *dict.fromkeys(extra)]
    delimiter = separator(decoded(path.read_bytes())) if path.exists() else ","
    cells = [[row.get(name, "") for name in columns] for row in rows]
    return "\ufeff" + table([columns, *cells], delimiter)


# --- which mark belongs to which answer ----------------------------------------------------------------


def seal(answer: str) -> str:
    """Return a short fingerprint of an answer, which no spreadsheet takes for a number."""
    return "a" + hashlib.sha256(answer.strip().encode(errors="replace")).hexdigest()[:8]


def is_blank(answer: str) -> bool:
    """Tell whether a student left a question open."""
    return answer.strip() in ("", "YOUR ANSWER HERE")


def matched(rows: list[dict], graded: list[tuple]) -> tuple[dict[str, list[dict]], list[dict]]:
    """Give every typed mark to its submission, and make a line for every mark that is missing.

    Returns:
        ``{file of the submission: its rows, in the order of the rubric}``, and the rows that
        belong to no submission or to no criterion of today's rubric.

    Raises:
        BadMarks: points are no number from 0 to what the criterion is worth, or a mark was typed
            twice.
    """
    handed_in = [(s.student, s.assignment) for s, _ in graded]
    students = {student for student, _ in handed_in}
    known: dict[tuple, list[dict]] = {}
    for row in rows:
        place = (_whole(row["student"], students), row["assignment"], row["question"])
        known.setdefault((*place, _bare(row["criterion"])), []).append(row)
    found, used = {}, set()
    for submission, result in graded:
        mine = []
        alone = handed_in.count((submission.student, submission.assignment)) == 1
        wanted = rubric(submission.assignment) if submission.assignment else {}
        for question, criteria in wanted.items():
            answer = result["answers"].get(question, "")
            for criterion in criteria:
                place = (submission.student, submission.assignment, question, criterion["asks"])
                same = known.get((*place[:3], _bare(place[3])), [])
                old = [row for row in same if alone or row["file"] in ("", submission.file)]
                used.update(row["line"] for row in old)
                file = "" if alone else submission.file
                mine.append(_row(place, file, criterion["points"], answer, old))
        found[submission.file] = mine
    return found, [row for row in rows if row["line"] not in used]


def _whole(student: str, students: set[str]) -> str:
    """Return the name of a student whose number has lost its leading zeros in a spreadsheet."""
    same = [name for name in students if name.isdigit() and name.lstrip("0") == student]
    return same[0] if len(same) == 1 and student not in students else student


def _bare(text: str) -> str:
    """Return a criterion without the characters that a spreadsheet may not be able to save."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _row(place: tuple, file: str, most: float, answer: str, old: list[dict]) -> dict:
    """Return the line of one criterion, with what was typed for this answer."""
    student, assignment, question, asks = place
    fresh = [student, assignment, file, question, asks, number(most), "", "", seal(answer)]
    row = dict(zip(COLUMNS, fresh, strict=True))
    if old:
        typed = _one(old)
        row = {**typed, **row, "points": typed["points"], "comment": typed["comment"]}
        _check(row, most)
        if typed["answer"] not in ("", row["answer"]):
            row |= _outdated(row)
    if is_blank(answer) and not row["points"]:
        row |= {"points": "0", "comment": row["comment"] or NO_ANSWER}
    return row


def _outdated(row: dict) -> dict:
    """Return points and comment of a line whose answer has changed since it was marked."""
    if not row["points"] or row["comment"] == NO_ANSWER:
        return {"points": "", "comment": row["comment"].removeprefix(NO_ANSWER)}
    before = f"[{row['points']} points for an earlier answer] {row['comment']}"
    return {"points": "", "comment": before.strip()}


def _one(rows: list[dict]) -> dict:
    """Return the line that has the mark, of several for the same criterion."""
    typed = [row for row in rows if row["points"]]
    if len({row["points"] for row in typed}) > 1:
        lines = " and ".join(str(row["line"]) for row in typed)
        raise BadMarks(
            f"lines {lines} of marks.csv ({typed[0]['student']}, {typed[0]['question']}) give "
            "different points for the same criterion: delete all but one"
        )
    return (typed or rows)[0]


def _check(row: dict, most: float) -> None:
    try:
        good = not row["points"] or 0 <= float(row["points"]) <= most
    except ValueError:
        good = False
    if not good:
        raise BadMarks(
            f"line {row['line']} of marks.csv ({row['student']}, {row['question']}): expected "
            f"points from 0 to {number(most)}, or nothing, got {row['points']!r}"
        )
