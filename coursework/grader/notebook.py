"""Reading notebooks, also broken ones, and putting a submission back into the form of its assignment.

Of a submission only the student's own cells count. Cells that belong to the teacher (texts, set-up,
plots, self-checks, tests) are taken from the assignment, whatever the submission says.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

LARGEST = 100_000_000  # bytes of a notebook that is still read
TEST = re.compile(r"# Graded: ([a-z0-9-]+) \(")


class Unreadable(Exception):
    """The file is no notebook; the message says what it is and what to do."""


@dataclass
class Cell:
    """A cell of an assignment or of a submission.

    Args:
        kind: ``"code"`` or ``"answer"`` (the student's), ``"locked"`` or ``"test"`` (the
            teacher's code), ``"text"``.
        name: the ``grade_id``, or the cell's id if it has none.
        points: of a test or an answer.
    """

    kind: str
    name: str
    source: str = ""
    points: float = 0
    experiment: bool = False


def read(path: Path) -> list[dict]:
    """Return the cells of a notebook file, without outputs.

    Raises:
        Unreadable: too large, empty, no JSON, or no notebook.
    """
    size = path.stat().st_size
    again = "save the notebook again (File > Save Notebook) and hand in that file"
    if size == 0:
        raise Unreadable(f"the file is empty: {again}")
    if size > LARGEST:
        raise Unreadable(
            f"expected at most {LARGEST // 1_000_000} MB, got {size // 1_000_000} MB: clear the "
            "outputs (Kernel > Restart and Clear Outputs), then save and hand in again"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        cells = content["cells"]
        return [{**cell, "source": _text(cell["source"]), "outputs": []} for cell in cells]
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"expected a notebook, got no valid JSON ({error}): {again}") from None
    except (KeyError, TypeError, AttributeError):
        raise Unreadable(f"expected a notebook with cells, got other JSON: {again}") from None


def _text(source) -> str:
    return source if isinstance(source, str) else "".join(str(line) for line in source)


def master(path: Path) -> list[Cell]:
    """Return the cells of an assignment's source notebook, without solutions and hidden tests."""
    cells = []
    for cell in read(path):
        grading = cell["metadata"].get("nbgrader", {})
        code = cell["cell_type"] == "code"
        if grading.get("solution"):
            kind = "code" if code else "answer"
        elif grading.get("grade"):
            kind = "test"
        else:
            kind = "locked" if code else "text"
        cells.append(
            Cell(
                kind=kind,
                name=grading.get("grade_id", cell["id"]),
                source=cell["source"] if kind in ("locked", "text") else "",
                points=grading.get("points", 0) if grading.get("grade") else 0,
                experiment="experiment" in cell["metadata"].get("tags", []),
            )
        )
    return cells


def merged(theirs: list[dict], ours: list[Cell]) -> list[Cell]:
    """Return the cells to run: the student's in the student's order, the teacher's restored.

    A teacher's cell that is missing is put behind the cell it follows in the assignment. A cell
    that the student added, or copied, stays where it is.
    """
    known = {cell.name: cell for cell in ours}
    cells = [_match(cell, known) for cell in theirs if isinstance(cell, dict)]
    for index, cell in enumerate(ours):
        if cell.kind in ("locked", "test") and all(cell.name != c.name for c in cells):
            before = [c.name for c in ours[:index]]
            place = max((i + 1 for i, c in enumerate(cells) if c.name in before), default=0)
            cells.insert(place, cell)
    return cells


def _match(cell: dict, known: dict[str, Cell]) -> Cell:
    """Return the teacher's cell that a submitted cell stands for, or the student's own."""
    metadata = cell.get("metadata")
    grading = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    names = [grading.get("grade_id") if isinstance(grading, dict) else None, cell.get("id")]
    names += TEST.findall(cell["source"])[:1]  # Colab drops ids, other tools drop metadata
    ours = next((known[name] for name in names if isinstance(name, str) and name in known), None)
    code = cell.get("cell_type") == "code"
    if ours and ours.kind in ("locked", "test", "text"):
        return ours
    if ours and (ours.kind == "code") == code:
        return Cell(**{**asdict(ours), "source": cell["source"]})
    return Cell(kind="code" if code else "text", name=str(cell.get("id")), source=cell["source"])
