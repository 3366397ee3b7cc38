"""Finds the submissions in a folder, whatever system it was downloaded from.

Understood are nbgrader's ``STUDENT/ASSIGNMENT/NOTEBOOK.ipynb`` (also below ``submitted/``), Moodle's
``NAME_ID_assignsubmission_file/…``, Canvas's flat ``name_ID_ID_file.ipynb``, one clone per student as
GitHub Classroom makes them, and any other folder with a sub-folder or a notebook per student. Zip
files are looked into.
"""

import hashlib
import io
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from grader import notebook
from grader.ask import HIDDEN

SOURCE = HIDDEN.parent / "source"
EXTRA = 5_000_000  # bytes of a file that comes along with a notebook
LARGEST = 200_000_000  # bytes of an unpacked zip file
CANVAS = re.compile(r"(?P<name>[^_]+)_(?:LATE_)?(?P<user>\d{3,})_\d{4,}_.+")
MOODLE = "_assignsubmission_"  # stands between the name and the kind of a hand-in
JUNK = re.compile(
    r"\._.*|\.(?!ipynb$).*|__MACOSX|__pycache__|Thumbs\.db|desktop\.ini", re.IGNORECASE
)


class BadFolder(Exception):
    """There is nothing to grade; the message says what was expected."""


@dataclass(frozen=True)
class Submission:
    """One notebook of one student.

    Args:
        student: as the folder or the file is called.
        assignment: a folder of ``source/``, or None if it cannot be told.
        file: where it was found, below the folder that was given.
        content: the notebook's bytes; None if there is no notebook, and ``problem`` says why.
        beside: ``{name: bytes}`` of the files in the same folder.
    """

    student: str
    assignment: str | None
    file: str
    content: bytes | None = field(default=None, repr=False)
    beside: dict[str, bytes] = field(default_factory=dict, repr=False)
    problem: str = ""


@dataclass(frozen=True)
class Found:
    """A file in the folder or in a zip file in it."""

    path: PurePosixPath
    content: bytes | None
    problem: str = ""


def assignments() -> dict[str, Path]:
    """Return ``{name: source notebook}`` of all assignments."""
    return {path.parent.name: path for path in sorted(SOURCE.glob("*/*.ipynb"))}


def submissions(folder: Path, assignment: str | None = None) -> list[Submission]:
    """Return all submissions in a folder or zip file, sorted.

    Args:
        assignment: which one they are; default: told by folder, file name or content.

    Raises:
        BadFolder: no such folder, or nothing in it.
    """
    if not folder.exists():
        raise BadFolder(f"expected a folder of submissions, got {folder}, which does not exist")
    if assignment and assignment not in assignments():
        known = ", ".join(assignments())
        raise BadFolder(f"expected one of the assignments {known}, got {assignment!r}")
    if (folder / "submitted").is_dir():
        folder = folder / "submitted"
    if folder.is_file() and folder.suffix.lower() != ".zip":
        raise BadFolder(f"expected a folder of submissions or a zip file, got the file {folder}")
    if folder.resolve() in [HIDDEN, *HIDDEN.parents]:
        raise BadFolder(f"expected a folder of submissions, got {folder}, which holds this course")
    files = _without_wrapper(list(_files(folder)))
    students: dict[str, list[Found]] = {}
    for found in files:
        students.setdefault(_student(found.path), []).append(found)
    handed_in = [s for name, theirs in students.items() for s in _of(name, theirs, assignment)]
    if not handed_in:
        raise BadFolder(
            f"expected notebooks (.ipynb) or zip files in {folder} or its sub-folders, got none"
        )
    names = {s.assignment for s in handed_in} - {None}
    if len(names) == 1:  # what cannot be told is most likely the same
        handed_in = [replace(s, assignment=s.assignment or min(names)) for s in handed_in]
    return sorted(handed_in, key=lambda s: (s.assignment or "", s.student, s.file))


def _without_wrapper(files: list[Found]) -> list[Found]:
    """Step into a folder that holds nothing but the folders of all students."""
    while True:
        tops = {found.path.parts[0] for found in files}
        below = {found.path.parts[1] for found in files if len(found.path.parts) > 2}
        deep = all(len(found.path.parts) > 2 for found in files)
        if len(tops) != 1 or len(below) < 2 or not deep or below & set(assignments()):
            return files
        files = [replace(f, path=PurePosixPath(*f.path.parts[1:])) for f in files]


def _of(student: str, files: list[Found], assignment: str | None) -> Iterator[Submission]:
    """Yield the submissions of one student; one that says so if there is no notebook."""
    notebooks = [found for found in files if found.path.suffix.lower() == ".ipynb"]
    for found in notebooks:
        alone = len(found.path.parts) > 1  # else the folder holds the work of others
        beside = {
            f.path.name: f.content
            for f in files
            if alone and f.path.parent == found.path.parent and f.path.suffix.lower() != ".ipynb"
            if f.content is not None and len(f.content) <= EXTRA
        }
        yield Submission(
            student=student,
            assignment=assignment or _assignment(found),
            file=str(found.path),
            content=found.content,
            beside=beside,
            problem=found.problem,
        )
    if not notebooks:
        names = ", ".join(sorted(str(found.path) for found in files)[:5])
        problem = next((found.problem for found in files if found.problem), "")
        yield Submission(
            student=student,
            assignment=assignment,
            file=str(files[0].path),
            problem=problem or f"expected a notebook (.ipynb), got {names}",
        )


def _student(path: PurePosixPath) -> str:
    """Return who handed a file in, from where it lies."""
    moodle = next((part for part in path.parts if MOODLE in part), None)
    if moodle:
        return moodle.partition(MOODLE)[0]
    name = path.parts[0]
    if len(path.parts) == 1 or name.endswith(".zip"):
        name = name.removesuffix(path.suffix).removesuffix(".zip")
        canvas = CANVAS.fullmatch(name)
        return f"{canvas['name']}_{canvas['user']}" if canvas else name
    return name


def _assignment(found: Found) -> str | None:
    """Return which assignment a notebook is: by folder, by file name, or by its cells."""
    for name, source in assignments().items():
        if name in found.path.parts or source.stem in found.path.stem:
            return name
    names = set(re.findall(rb'"grade_id": ?"([a-z0-9-]+)"', found.content or b""))
    shared = {
        name: len(names & {cell.name.encode() for cell in notebook.master(source)})
        for name, source in assignments().items()
    }
    best = max(shared, key=shared.get, default=None)
    return best if best and shared[best] > 2 else None


def _files(folder: Path) -> Iterator[Found]:
    """Yield the files of a folder or zip file, and those of the zip files in it."""
    if folder.is_file():
        yield from _unzipped(PurePosixPath(), folder.read_bytes())
        return
    for path in sorted(folder.rglob("*")):
        place = PurePosixPath(readable_name(path.relative_to(folder).as_posix()))
        if any(JUNK.fullmatch(part) for part in place.parts):
            continue
        try:
            yield from _found(path, place)
        except PermissionError:
            yield Found(place, None, "this file may not be read: mend its permissions")


def _found(path: Path, place: PurePosixPath) -> Iterator[Found]:
    """Yield a file, the files of a zip file, or that a student's folder holds no work."""
    kind = path.suffix.lower()
    if path.is_symlink():
        yield Found(place, None, "expected a file, got a link to one, which is not followed")
    elif path.is_dir():
        if not any(f.suffix.lower() in (".ipynb", ".zip") for f in path.rglob("*")):
            if len(place.parts) == 1:
                names = sorted(f.name for f in path.iterdir())[:5]
                yield Found(place / "-", None, f"no notebook in it, but {names or 'nothing'}")
    elif not path.is_file():
        return
    elif kind == ".zip":
        yield from _unzipped(place, path.read_bytes())
    elif kind == ".ipynb" and path.stat().st_size > notebook.LARGEST:
        size = path.stat().st_size // 1_000_000
        yield Found(place, None, f"expected at most 100 MB, got {size} MB: clear the outputs")
    elif kind == ".ipynb":
        yield Found(place, path.read_bytes())
    elif len(place.parts) > 1:
        if path.stat().st_size <= EXTRA and any(path.parent.glob("*.[iI][pP][yY][nN][bB]")):
            yield Found(place, path.read_bytes())
    elif kind not in (".csv", ".tmp", ".part"):
        yield Found(place, None)  # somebody's work, perhaps, in another form


def readable_name(name: str) -> str:
    """Return a file name as text that can be printed and written, whatever bytes it has."""
    plain = os.fsencode(name).decode("utf-8", "replace")
    return (
        plain if plain == name else f"{plain}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:4]}"
    )


def _unzipped(place: PurePosixPath, content: bytes, inside: int = 0) -> Iterator[Found]:
    """Yield the files of a zip file, unpacked in memory; zip files in it are opened once."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        members = [m for m in archive.infolist() if not m.is_dir()]
        if sum(m.file_size for m in members) > LARGEST:
            yield Found(place, None, f"{place.name} unpacks to more than 200 MB")
            return
        for member in members:
            path = PurePosixPath(member.filename)
            if any(part == "/" or JUNK.fullmatch(part) for part in path.parts):
                continue
            if path.suffix.lower() not in (".ipynb", ".zip") and member.file_size > EXTRA:
                continue
            inner = archive.read(member)
            if path.suffix.lower() == ".zip" and not inside:
                yield from _unzipped(place / path, inner, 1)
            else:
                yield Found(place / path, inner)
    except Exception as error:  # a zip file can be broken in many ways
        name = place if place.parts else PurePosixPath("the zip file")
        yield Found(name, None, f"expected a zip file, got a broken one ({error})")
