"""``make book`` on a tiny book: what fails the build, what is run again, and where cells run."""

import nbformat
import pytest

from normlab import execute


@pytest.fixture
def book(tmp_path):
    """A book of one page and two notebooks, with a package and a record."""
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: index\nchapters:\n"
        "  - file: part/first\n    sections:\n      - file: part/second\n"
    )
    for folder in ("part", "code/package", "results"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "index.md").write_text("# A book\n")
    (tmp_path / "code/package/layer.py").write_text("EPS = 1e-5\n")
    (tmp_path / "results/run.json").write_text("{}\n")
    (tmp_path / "requirements.txt").write_text("torch\n")
    write(tmp_path / "part/first.ipynb", "import os\nprint(os.getcwd())")
    write(tmp_path / "part/second.ipynb", "1 + 1")
    return tmp_path


def write(path, source):
    """Write a notebook of one cell."""
    cells = [nbformat.v4.new_code_cell(source, id="only-cell")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


def test_toc_names_the_notebooks_in_order(book):
    assert [path.name for path in execute.lessons_of(book)] == ["first.ipynb", "second.ipynb"]


def test_a_raising_cell_fails_the_first_and_the_second_build(book, capsys):
    write(book / "part/second.ipynb", "width = 3\nwidth / 0")
    for attempt in (1, 2):
        assert execute.execute(book) == 1, f"attempt {attempt} went through"
        told = capsys.readouterr().err
        assert "part/second.ipynb" in told
        assert "width = 3\nwidth / 0" in told
        assert "ZeroDivisionError: division by zero" in told
    write(book / "part/second.ipynb", "width = 3")
    assert execute.execute(book) == 0


def test_nothing_runs_again_until_something_read_has_changed(book, capsys):
    assert execute.execute(book) == 0
    assert "2 to execute" in capsys.readouterr().out
    assert execute.execute(book) == 0
    assert "0 to execute" in capsys.readouterr().out
    (book / "code/package/layer.py").write_text("EPS = 1e-3\n")
    assert execute.execute(book) == 0
    assert "2 to execute" in capsys.readouterr().out


def test_a_notebook_runs_in_its_own_folder(book):
    notebook, seconds = execute.run_notebook(book / "part/first.ipynb")
    assert notebook.cells[0].outputs[0].text.strip() == str(book / "part")
    assert seconds > 0


@pytest.mark.parametrize(
    "change",
    [
        lambda book: (book / "code/package/layer.py").write_text("EPS = 1e-3\n"),
        lambda book: (book / "code/package/layer.py").unlink(),
        lambda book: (book / "code/package/new.py").write_text(""),
        lambda book: (book / "code/package/layer.py").rename(book / "code/package/norm.py"),
        lambda book: (book / "results/run.json").write_text('{"runs": []}\n'),
        lambda book: (book / "results/run.json").unlink(),
        lambda book: (book / "requirements.txt").write_text("torch\nnumpy\n"),
    ],
    ids=["code", "code gone", "code new", "code renamed", "record", "record gone", "requirements"],
)
def test_what_lessons_read_is_in_the_key(book, change):
    before = execute.inputs_key(book)
    assert execute.inputs_key(book) == before
    change(book)
    assert execute.inputs_key(book) != before


def test_byte_code_is_not_in_the_key(book):
    before = execute.inputs_key(book)
    (book / "code/package/__pycache__").mkdir()
    (book / "code/package/__pycache__/layer.pyc").write_bytes(b"\0")
    assert execute.inputs_key(book) == before


def test_the_longest_notebook_starts_first(book):
    short, long, new = (book / "part" / name for name in ("a.ipynb", "b.ipynb", "c.ipynb"))
    seconds = {"part/a.ipynb": 1.0, "part/b.ipynb": 60.0}
    assert execute.longest_first([short, long, new], seconds, book) == [new, long, short]
