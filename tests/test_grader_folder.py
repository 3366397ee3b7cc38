"""Finding submissions in whatever folder a teacher has."""

import json
import os
import zipfile

import classroom
import pytest
from classroom import lay, rows, run

from grader import collect

NAME = classroom.NAME


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
        ("ada_4711_90210_build_batch_norm.ipynb", "ada_4711"),
        ("ada/BUILD.IPYNB", "ada"),
        ("ada_LATE_4711_90210_build_batch_norm-1.ipynb", "ada_4711"),
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
    for name in ("Thumbs.db", "Grades.csv", ".DS_Store", "._ada.ipynb"):
        (tmp_path / name).write_text("x")
    ada, bob = collect.submissions(tmp_path)
    assert (bob.student, bob.problem) == ("bob", "no notebook in it, but nothing")


def test_work_in_another_form_is_listed(tmp_path):
    for name in ("ada/work.pdf", "bob/data.csv", "cem/_final.ipynb", "dan.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = {s.student: s.problem for s in collect.submissions(tmp_path)}
    assert "work.pdf" in found["ada"] and "data.csv" in found["bob"] and "dan.py" in found["dan"]
    assert found["cem"] == ""


def test_names_that_look_alike_stay_two_students(tmp_path):
    lay(tmp_path, "hw_1_2024_ada.ipynb", "hw_1_2024_bob.ipynb")
    assert {s.student for s in collect.submissions(tmp_path)} == {"hw_1_2024_ada", "hw_1_2024_bob"}


def test_a_name_of_any_bytes_can_be_written(tmp_path):
    lay(tmp_path, "ada.ipynb")
    os.rename(tmp_path / "ada.ipynb", os.path.join(os.fsencode(tmp_path), b"M\xfcller.ipynb"))
    (found,) = collect.submissions(tmp_path)
    assert found.student.encode().decode().startswith("M\ufffdller")


def test_a_damaged_zip_file_is_named(tmp_path):
    lay(tmp_path / "class", "ada.ipynb")
    with zipfile.ZipFile(tmp_path / "class/bob.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.ipynb", "x" * 10_000)
    content = bytearray((tmp_path / "class/bob.zip").read_bytes())
    content[40:48] = b"\xff" * 8
    (tmp_path / "class/bob.zip").write_bytes(content)
    bob = collect.submissions(tmp_path / "class")[1]
    assert bob.student == "bob" and "broken" in bob.problem


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
