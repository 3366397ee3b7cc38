"""The quizzes: what the directive refuses, what it writes, and the form of every quiz page."""

import html
import io
import json
import re
from collections import Counter
from pathlib import Path

import pytest

BOOK = Path(__file__).parents[1]
TOC = (BOOK / "_toc.yml").read_text(encoding="utf-8")
PAGES = sorted(BOOK.glob("chapters/*/quiz.md"))
LESSONS = [BOOK / f"{name}.ipynb" for name in re.findall(r"file: (chapters/\w+/\d\d_\w+)", TOC)]
LESSONS = [path for path in LESSONS if not path.stem.endswith("_solutions")]
GOOD = """\
:::{quiz} What is $1 + 1$?
Think of `two` apples.

- [ ] One.
  Both are *counted*.
- [x] Two.
  One more than $1$.
- [ ] Three.

  Nothing else is added.
:::
"""


@pytest.fixture
def build(tmp_path):
    """Return a function that builds one page and returns its HTML and the warnings."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    def build(text: str, extensions=("dollarmath", "colon_fence", "tasklist")):
        (tmp_path / "index.md").write_text(f"# Page\n\n{text}", encoding="utf-8")
        warnings = io.StringIO()
        options = {
            "extensions": ["myst_parser", "normlab.quiz"],
            "myst_enable_extensions": list(extensions),
        }
        with patch_docutils(), docutils_namespace():
            app = Sphinx(
                *(tmp_path, None, tmp_path / "out", tmp_path / "trees", "html", options),
                status=None,
                warning=warnings,
                freshenv=True,
            )
            app.build()
        page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
        return page, re.sub(r"\x1b\[\d+(;\d+)*m", "", warnings.getvalue())

    return build


def text_of(markup: str) -> str:
    """Return the words of a piece of HTML, with single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", markup)).split())


def details_of(page: str) -> list[tuple[str, str, str]]:
    """Return (right or wrong, summary, feedback) of every option on a page, in order."""
    found = re.findall(
        r'(?s)<details class="quiz-choice quiz-(\w+)">\s*<summary>(.*?)</summary>(.*?)</details>',
        page,
    )
    return [(kind, text_of(summary), text_of(feedback)) for kind, summary, feedback in found]


@pytest.mark.parametrize("boxes", [("tasklist",), ()], ids=["tasklist", "no tasklist"])
def test_a_question_becomes_native_details_with_letters_and_feedback(build, boxes):
    page, warnings = build(GOOD, ("dollarmath", "colon_fence", *boxes))
    assert not warnings
    assert details_of(page) == [
        ("wrong", "A. One.", "✗ Not so. Both are counted."),
        ("right", "B. Two.", r"✓ Right. One more than \(1\)."),
        ("wrong", "C. Three.", "✗ Not so. Nothing else is added."),
    ]
    assert "checkbox" not in page, "a checkbox that cannot be ticked is left on the page"
    assert re.search(r'class="quiz-question"><strong>1\.\s</strong>What is', page)


def test_the_key_names_number_letter_and_feedback_of_every_right_option(build):
    second = GOOD.replace("[x]", "[ ]").replace("[ ] One", "[x] One")
    page, warnings = build(f"{GOOD}\n{second}\n:::{{quiz-answers}}\n:::\n")
    assert not warnings
    key = re.search(r'(?s)<div class="quiz-key[^>]*>(.*?)</div>', page).group(1)
    lines = [text_of(line) for line in re.findall("(?s)<p>(.*?)</p>", key)]
    assert lines == [r"1. B. Two. One more than \(1\).", "2. A. One. Both are counted."]
    assert page.index('class="quiz-switch') < page.index('class="quiz-key')


@pytest.mark.parametrize(
    "was, now, line, says",
    [
        (r"(?s)- .*(?=:::)", "No list.\n", 3, "expected one bullet list of options, got 0"),
        (r"(?=- \[x\])", "\nand\n\n", 3, "expected one bullet list of options, got 2"),
        (r"\[x\]", "[ ]", 3, "expected exactly one right option, [x], got 0"),
        (r"\[ \]", "[x]", 3, "expected exactly one right option, [x], got 3"),
        (r"  One more.*\n", "", 8, "the option 'Two.' has no feedback"),
        (r"\[x\] ", "", 8, "an option has no mark [ ] or [x]"),
        (r"(?s)- \[ \] Three.*(?=:::)", "", 3, "expected at least 3 options, got 2"),
    ],
    ids=[
        "no list",
        "two lists",
        "none right",
        "all right",
        "no feedback",
        "no mark",
        "two options",
    ],
)
def test_a_question_of_the_wrong_form_is_refused_with_its_line(build, was, now, line, says):
    page, warnings = build(re.sub(was, now, GOOD))
    assert f"index.md:{line}: WARNING: quiz: {says}" in warnings
    assert "quiz-choice" not in page


def test_a_key_without_questions_is_refused(build):
    _, warnings = build(":::{quiz-answers}\n:::\n")
    assert "index.md:3: WARNING: quiz-answers: no {quiz} stands above it" in warnings


# ------------------------------------------------------------------- the pages of this book


def quizzes(text: str) -> list[tuple[str, list[tuple[bool, str, str]]]]:
    """Return (question, [(is it right, option, feedback)]) of every quiz in a text."""
    found = []
    for question, body in re.findall(r"(?ms)^:::\{quiz\} (.+?)$(.*?)^:::$", text):
        items = re.findall(r"(?ms)^- \[([ xX])\] (.+?)$(.*?)(?=^- |\Z)", body)
        found.append((question, [(m in "xX", o.strip(), f.strip()) for m, o, f in items]))
    return found


def parts(page: Path) -> dict[str, tuple[str, str]]:
    """Return {number of a lesson: (heading, text)} of a quiz page."""
    found = re.findall(
        r"(?ms)^\(quiz-(\d\d)\)=\n## (.+?)$(.*?)(?=^\(quiz-|\Z)", page.read_text("utf-8")
    )
    return {number: (heading.strip(), text) for number, heading, text in found}


def source_of(lesson: Path) -> list[tuple[str, str]]:
    """Return (kind, source) of every cell of a lesson."""
    cells = json.loads(lesson.read_text(encoding="utf-8"))["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]


every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.parent.name)
every_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)


@every_page
def test_a_quiz_page_is_in_the_toc_before_the_takeaways_and_ends_with_the_key(page):
    folder = f"file: chapters/{page.parent.name}"
    assert re.search(rf"{folder}/quiz\s+- {folder}/takeaways", TOC), (
        "put it into _toc.yml, just before takeaways"
    )
    text = page.read_text(encoding="utf-8")
    assert re.search(r"(?m)^# Check yourself: Part \d$", text)
    assert re.search(r"\{quiz-answers\}\n:::\s*\Z", text), "the page ends with {quiz-answers}"


@every_lesson
def test_a_lesson_has_a_quiz_of_three_or_four_questions_and_both_are_linked(lesson):
    page, number = lesson.with_name("quiz.md"), lesson.stem[:2]
    assert page.exists(), f"write {page.relative_to(BOOK)}"
    assert number in parts(page), f"{page.relative_to(BOOK)} lacks (quiz-{number})="
    heading, text = parts(page)[number]
    cells = source_of(lesson)
    label, title = re.search(r"\((lesson-\S+)\)=\n# (.+)", cells[0][1]).groups()
    assert heading == title.strip(), "a section is called like its lesson"
    assert f"](#{label})" in text, f"link the lesson in its section: [lesson](#{label})"
    assert 3 <= len(quizzes(text)) <= 4, f"3 or 4 questions, not {len(quizzes(text))}"
    last = [source for kind, source in cells if kind == "markdown"][-1]
    assert f"[the quiz of this lesson](#quiz-{number})" in last, (
        f"link [the quiz of this lesson](#quiz-{number}) in the last text cell of the lesson"
        " (quiz.md#… is not found by Sphinx: a label is linked without its page)"
    )


@every_page
def test_every_question_has_one_right_option_and_every_option_feedback(page):
    found = quizzes(page.read_text(encoding="utf-8"))
    assert len(found) == page.read_text(encoding="utf-8").count("{quiz} ")
    for question, options in found:
        assert len(options) >= 3, f"at least 3 options: {question}"
        assert sum(right for right, *_ in options) == 1, f"exactly one [x]: {question}"
        assert all(feedback for *_, feedback in options), f"feedback for each option: {question}"
        texts = [option for _, option, _ in options]
        assert len(set(texts)) == len(texts), f"two options are the same: {question}"
    questions = [question for question, _ in found]
    assert len(set(questions)) == len(questions), "a question stands there twice"


@every_page
def test_neither_place_nor_length_gives_the_right_option_away(page):
    found = [options for _, options in quizzes(page.read_text(encoding="utf-8"))]
    places = Counter([right for right, *_ in options].index(True) for options in found)
    share = {place: count / len(found) for place, count in places.items()}
    assert max(share.values()) <= 0.45, f"right options by place: {sorted(places.items())}"
    assert all(places[place] >= len(found) / 8 for place in range(3)), sorted(places.items())
    longest = sum(
        max(options, key=lambda option: len(option[1]))[0]
        for options in found
        if len({len(o) for _, o, _ in options}) > 1
    )
    chance = sum(1 / len(options) for options in found)
    assert longest <= 1.5 * chance, f"the right option is the longest in {longest} of {len(found)}"


@every_page
def test_links_to_claims_name_claims_that_the_lesson_makes(page):
    for href in re.findall(r'href="([^"]+)"', page.read_text(encoding="utf-8")):
        target, _, anchor = href.partition("#claim-")
        lesson = (page.parent / target).with_suffix(".ipynb")
        assert anchor and lesson.exists(), f"{href}: link other places with [text](#label)"
        assert any(f'"{anchor}"' in source for _, source in source_of(lesson)), f"dead: {href}"
