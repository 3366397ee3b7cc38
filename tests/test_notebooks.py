"""The form of the notebooks: what a reader can rely on in every lesson, checked without running it."""

import ast
import json
import re
from collections import Counter
from pathlib import Path
from statistics import median

import pytest
import yaml

BOOK = Path(__file__).parents[1]
NOTEBOOKS = sorted(
    p for p in BOOK.glob("chapters/**/*.ipynb") if ".ipynb_checkpoints" not in p.parts
)
LESSONS = [path for path in NOTEBOOKS if not path.stem.endswith("_solutions")]
METADATA = {
    "kernelspec": {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"name": "python"},
}
PARTS = ["You will", "Break it", "Claims checked", "Known and guessed", "Exercises", "Next"]
NETWORK = {"urllib", "requests", "httpx", "http", "socket", "ftplib", "pooch"}
ABBREVIATIONS = r"(?:e\.g|i\.e|et al|etc|vs|cf|Fig|Eq|Sec|Ch|Dr|St|resp|approx|no|p|pp|[A-Z])\.$"


def name_of(path: Path) -> str:
    """Return a notebook's path below chapters/, as tests and claims.yml name it."""
    return str(path.relative_to(BOOK / "chapters").with_suffix(""))


def load(path: Path) -> dict:
    """Return a notebook as JSON, with every source joined to one string."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def cells_of(path: Path, kind: str) -> list[dict]:
    """Return the cells of one kind (``code`` or ``markdown``)."""
    return [cell for cell in load(path)["cells"] if cell["cell_type"] == kind]


def size(cell: dict) -> int:
    """Return how many lines of a cell are not blank."""
    return sum(bool(line.strip()) for line in cell["source"].splitlines())


def calls(source: str) -> list[ast.Call]:
    """Return the calls in a code cell."""
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]


def claims_in(source: str) -> list[str]:
    """Return the ids that a cell passes to ``claim(...)``."""
    named = [
        c for c in calls(source) if getattr(c.func, "id", getattr(c.func, "attr", "")) == "claim"
    ]
    return [
        c.args[0].value if c.args and isinstance(c.args[0], ast.Constant) else "?" for c in named
    ]


def prose(source: str) -> list[str]:
    """Return the lines of a markdown cell that are sentences: no math, code, tables or directives."""
    source = re.sub(r"(?ms)^( *)(`{3,}|~{3,}).*?^\1\2`*\s*$", "", source)
    source = re.sub(r"(?s)\$\$.*?\$\$|\\begin\{(\w+\*?)\}.*?\\end\{\1\}|<!--.*?-->", "", source)
    source = re.sub(r"\$[^$\n]+\$|`[^`\n]+`", "X", source)
    lines = [re.sub(r"\]\([^)]*\)|<[^>]*>|\{[\w:]+\}", "", line) for line in source.splitlines()]
    return [line for line in lines if not re.match(r"\s*(\||#|:|\(|%|>|<|[-*+] |\d+\. |!\[)", line)]


def sections(path: Path) -> list[tuple[str, dict]]:
    """Return every cell with the H2 heading it stands under."""
    under, found = "", []
    for cell in load(path)["cells"]:
        if cell["cell_type"] == "markdown":
            headings = re.findall(r"(?m)^## (.+?)\s*$", cell["source"])
            under = headings[-1] if headings else under
        found.append((under, cell))
    return found


every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
every_lesson = pytest.mark.parametrize("path", LESSONS, ids=name_of)


@every_notebook
def test_is_stripped(path):
    full = [c["id"] for c in cells_of(path, "code") if c["outputs"] or c["execution_count"]]
    assert not full, f"run `nbstripout --keep-id {path.name}`: cells with outputs or counts: {full}"


@every_notebook
def test_no_control_characters(path):
    """A backslash that was read as an escape turns ``\\varepsilon`` into a vertical tab."""
    cells = [
        c["id"] for c in load(path)["cells"] if re.search(r"[\x00-\x09\x0b-\x1f]", c["source"])
    ]
    assert not cells, f"cells {cells} hold control characters: write the backslash out again"


@every_notebook
def test_cell_ids_are_there_and_unique(path):
    ids = [cell.get("id") for cell in load(path)["cells"]]
    assert None not in ids, "a cell has no id: save the notebook with nbformat 4.5"
    twice = [name for name, count in Counter(ids).items() if count > 1]
    assert not twice, f"give each cell its own id: {twice}"


@every_notebook
def test_kernel_and_metadata_are_the_common_ones(path):
    notebook = load(path)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"] == METADATA, f"set the metadata of the notebook to {METADATA}"


@every_notebook
def test_code_is_plain_python_that_stays_offline_and_warns(path):
    for cell in cells_of(path, "code"):
        source, where = cell["source"], f"cell {cell['id']!r}"
        magic = [line for line in source.splitlines() if re.match(r"\s*[!%]", line)]
        assert not magic, f"{where}: write plain Python instead of {magic}"
        tree = ast.parse(source)
        imports = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        imports |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        foreign = {name for name in imports if name.split(".")[0] in NETWORK}
        assert not foreign, f"{where}: lessons run offline; do without {foreign}"
        used = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        used |= {ast.unparse(c.func) for c in calls(source)}
        assert "sys.path" not in used, f"{where}: import from normlab instead of touching sys.path"
        hushed = {u for u in used if u.split(".")[-1] in ("filterwarnings", "simplefilter")}
        assert not hushed, f"{where}: mend the cause instead of silencing warnings with {hushed}"
        fetched = {
            u for u in used if re.search(r"download|urlopen|urlretrieve|load_state_dict_from", u)
        }
        assert not fetched, f"{where}: lessons run offline; do without {fetched}"


@every_notebook
def test_no_path_of_one_machine_and_nothing_left_to_do(path):
    for cell in load(path)["cells"]:
        local = re.search(r"(?<![\w./])/(?:work|tmp|home|root|Users)/\S*", cell["source"])
        assert not local, f"cell {cell['id']!r}: {local.group()} exists on one machine only"
        left = re.search(r"\b(?:TODO|FIXME|XXX|TBD)\b", cell["source"])
        assert not left, f"cell {cell['id']!r}: finish what {left.group()} stands for"


@every_notebook
def test_cells_are_short(path):
    long = {c["id"]: size(c) for c in cells_of(path, "code") if size(c) > 25}
    assert not long, f"split these cells (at most 25 lines that are not blank): {long}"


@every_lesson
def test_most_cells_are_very_short(path):
    sizes = sorted(size(cell) for cell in cells_of(path, "code"))
    assert median(sizes) <= 6, f"half of the code cells have at most 6 lines; here: {sizes}"
    within = sum(lines <= 15 for lines in sizes) / len(sizes)
    assert within >= 0.9, f"nine of ten code cells have at most 15 lines; here: {sizes}"


@every_notebook
def test_text_stands_before_every_code_cell(path):
    cells = load(path)["cells"]
    kinds = [cell["cell_type"] for cell in cells]
    bare = [c["id"] for i, c in enumerate(cells) if kinds[max(i - 1, 0) : i + 1] == ["code"] * 2]
    bare += [cells[0]["id"]] if kinds[:1] == ["code"] else []
    assert not bare, f"say in a text cell before these what they are for: {bare}"


def draws(cell: dict) -> bool:
    """Return whether a cell shows a figure: it calls ``plt.show()``."""
    return any(ast.unparse(call.func) == "plt.show" for call in calls(cell["source"]))


@every_notebook
def test_figures_have_name_caption_alt_text_and_a_reference(path):
    text = "\n".join(cell["source"] for cell in cells_of(path, "markdown"))
    for cell in cells_of(path, "code"):
        about = cell["metadata"].get("mystnb", {})
        figure, image = about.get("figure", {}), about.get("image", {})
        if not (figure or draws(cell)):
            continue
        where = f"cell {cell['id']!r}"
        name = figure.get("name", "")
        assert re.fullmatch(r"fig-[a-z0-9-]+", name), (
            f"{where}: name the figure fig-…, not {name!r}"
        )
        assert figure.get("caption"), f"{where}: add mystnb.figure.caption, the claim of the figure"
        assert image.get("alt"), f"{where}: add mystnb.image.alt, what there is to see"
        refers = rf"\{{(?:num)?ref\}}`(?:[^`]*<)?{name}>?`|\]\(#{name}\)"
        assert re.search(refers, text), f"{where}: no text refers to it: write {{numref}}`{name}`"


def test_figure_names_are_unique():
    named = Counter(
        cell["metadata"].get("mystnb", {}).get("figure", {}).get("name", path)
        for path in NOTEBOOKS
        for cell in cells_of(path, "code")
        if "figure" in cell["metadata"].get("mystnb", {})
    )
    assert not [n for n, count in named.items() if count > 1], "two figures share a name"


@every_notebook
def test_a_cell_that_plots_shows_its_figure(path):
    for cell in cells_of(path, "code"):
        used = {ast.unparse(call.func) for call in calls(cell["source"])}
        opens = used & {"plt.subplots", "plt.figure", "plt.subplot_mosaic"}
        inside = re.search(r"(?m)^def ", cell["source"])
        assert not opens or inside or draws(cell), f"cell {cell['id']!r}: end it with plt.show()"


@every_lesson
def test_parts_of_a_lesson_are_there_in_order(path):
    headings = [
        heading
        for cell in cells_of(path, "markdown")
        for heading in re.findall(r"(?m)^## (.+?)\s*$", cell["source"])
    ]
    lacking = [part for part in PARTS if headings.count(part) != 1]
    assert not lacking, f"a lesson has each of these H2 headings once: {lacking}"
    assert [h for h in headings if h in PARTS] == PARTS, f"expected the order {PARTS}"
    first = load(path)["cells"][0]["source"]
    assert re.search(r"(?m)^# \S", first), "the first cell holds the title: `# …`"


@every_lesson
def test_a_lesson_has_solutions_and_both_are_in_the_toc(path):
    solutions = path.with_name(f"{path.stem}_solutions.ipynb")
    assert solutions.exists(), f"write {solutions.name} beside it"
    toc = (BOOK / "_toc.yml").read_text(encoding="utf-8")
    for notebook in (path, solutions):
        entry = f"file: chapters/{name_of(notebook)}"
        assert re.search(rf"{re.escape(entry)}(\.ipynb)?\s*$", toc, re.M), (
            f"add `{entry}` to _toc.yml"
        )


@every_notebook
def test_claims_stand_alone_in_their_section(path):
    for heading, cell in sections(path):
        if cell["cell_type"] != "code":
            continue
        count, where = len(claims_in(cell["source"])), f"cell {cell['id']!r}"
        if heading == "Claims checked":
            assert count == 1, f"{where}: one claim(…) in each cell of Claims checked, got {count}"
        else:
            assert count == 0, f"{where}: move claim(…) to the section Claims checked"


def test_every_claim_is_checked_in_the_lesson_it_names():
    listed = yaml.safe_load((BOOK / "code/normlab/claims.yml").read_text(encoding="utf-8")) or {}
    checked = Counter(
        (claim, name_of(path))
        for path in NOTEBOOKS
        for cell in cells_of(path, "code")
        for claim in claims_in(cell["source"])
    )
    promised = {(claim, entry["lesson"]) for claim, entry in listed.items()}
    assert not promised - set(checked), (
        "claims.yml lists them, but the lesson named has no such claim()"
    )
    assert not set(checked) - promised, "checked there, but not listed so in claims.yml"
    assert not [c for c, count in checked.items() if count > 1], "checked more than once"


@every_notebook
def test_one_sentence_per_line(path):
    for cell in cells_of(path, "markdown"):
        for line in prose(cell["source"]):
            assert len(line) <= 200, f"cell {cell['id']!r}: more than 200 characters: {line[:60]}…"
            for end in re.finditer(r"[.!?](?= +[A-Z])|[。！？](?=[^\s”）])", line):
                before = line[: end.start() + 1]
                if not re.search(rf"(?:^|[\s(*_])(?:{ABBREVIATIONS})", before) and before.strip(
                    "*_ "
                ):
                    rest = line[end.end() :].strip()[:40]
                    assert not rest, f"cell {cell['id']!r}: start a new line before {rest!r}"
