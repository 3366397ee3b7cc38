"""Multiple-choice questions on the website: a Sphinx extension, loaded by ``_config.yml``.

The body of a question holds one bullet list. ``[x]`` marks the right option; the first line of an
item is the option, the rest its feedback::

    :::{quiz} A batch norm gets an input of shape (N, C, H, W). How many means does it compute?
    - [ ] One for each example.
      That is layer norm.
    - [x] One for each channel.
      It averages over examples, height and width.
    - [ ] ...
    :::

On screen every option is a native ``<details>`` element: no script, and the keyboard works.
On paper options have letters and no feedback, and ``{quiz-answers}`` at the end prints the key.
"""

from string import ascii_uppercase

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

LOG = logging.getLogger(__name__)
FORM = "write `- [ ] option` or `- [x] option`, and the feedback on the lines below it"


class Details(nodes.General, nodes.Element):
    """A ``<details>`` element; its classes are written out."""


class Summary(nodes.General, nodes.TextElement):
    """The ``<summary>`` of a ``Details`` node: what is seen while it is closed."""


class Quiz(SphinxDirective):
    """``{quiz}``: one question, given as the argument, with at least three options in a list."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        body = nodes.container()
        self.state.nested_parse(self.content, self.content_offset, body)
        lists = [child for child in body if isinstance(child, nodes.bullet_list)]
        if len(lists) != 1:
            return self.refuse(f"expected one bullet list of options, got {len(lists)}; {FORM}")
        options = [read_option(item) for item in lists[0]]
        for *_, line, fault in options:
            if fault:
                return self.refuse(fault, line)
        if len(options) < 3:
            return self.refuse(f"expected at least 3 options, got {len(options)}: add one")
        right = [mark for mark, *_ in options].count(True)
        if right != 1:
            return self.refuse(f"expected exactly one right option, [x], got {right}; {FORM}")
        return [self.draw(body, lists[0], options)]

    def refuse(self, text: str, line: int | None = None) -> list[nodes.Node]:
        """Warn, which fails the build of the book, and show no question."""
        LOG.warning("quiz: %s", text, location=(self.env.docname, line or self.lineno))
        return []

    def draw(self, body: nodes.Element, listed: nodes.Node, options: list[tuple]) -> nodes.Node:
        """Return the container of a question: number and question, what stands below, options."""
        number = sum("quiz" in c["classes"] for c in self.state.document.findall(nodes.container))
        question, messages = self.state.inline_text(self.arguments[0], self.lineno)
        lead = nodes.paragraph("", "", *question, *messages, classes=["quiz-question"])
        lead.insert(0, nodes.strong("", f"{number + 1}.\u00a0"))
        box = nodes.container(classes=["quiz"], number=number + 1)
        box += [lead, *(child for child in body if child is not listed)]
        for letter, (right, option, feedback, _, _) in zip(ascii_uppercase, options, strict=False):
            box += draw_option(letter, right, option, feedback)
        return box


def read_option(item: nodes.list_item) -> tuple:
    """Return (is it right, option, feedback, line, what is wrong with it or "") of a list item.

    Option and feedback are lists of nodes, the feedback of paragraphs and other blocks.
    The mark is a raw checkbox where MyST's ``tasklist`` is switched on, else it is text.
    """
    first = item[0] if len(item) and isinstance(item[0], nodes.paragraph) else nodes.paragraph()
    words = list(first)
    mark = words.pop(0).astext() if words else ""
    if not mark.startswith("<input"):
        words.insert(0, nodes.Text(mark[3:]))
    if words and words[0] != "\n" and isinstance(words[0], nodes.Text):
        words[0] = nodes.Text(words[0].lstrip())
    right = 'checked="checked"' in mark or mark[:3] in ("[x]", "[X]")
    if not right and not mark.startswith(("<input", "[ ]")):
        return right, [], [], item.line, f"an option has no mark [ ] or [x]; {FORM}"
    end = next((i for i, word in enumerate(words) if word == "\n"), len(words))
    feedback = [nodes.paragraph("", "", *words[end + 1 :])] if words[end + 1 :] else []
    feedback += item[1:]
    missing = f"the option {''.join(w.astext() for w in words[:end]).strip()!r} has no feedback"
    return right, words[:end], feedback, item.line, "" if feedback else f"{missing}; {FORM}"


def draw_option(letter: str, right: bool, option: list, feedback: list) -> Details:
    """Return one option; what is right is said by a sign and a word, not by colour alone."""
    verdict, kind = ("✓ Right. ", "right") if right else ("✗ Not so. ", "wrong")
    if not isinstance(feedback[0], nodes.paragraph):
        feedback = [nodes.paragraph(), *feedback]
    feedback[0].insert(0, nodes.strong("", verdict))
    name = nodes.inline("", f"{letter}.", classes=["quiz-letter"])
    text = nodes.inline("", "", *option, classes=["quiz-option"])
    box = Details(classes=["quiz-choice", f"quiz-{kind}"], letter=letter, right=right)
    box += Summary("", "", name, nodes.Text(" "), text)
    box += nodes.container("", *feedback, classes=["quiz-feedback"])
    return box


class QuizAnswers(SphinxDirective):
    """``{quiz-answers}``: the right option of every question above it, with its feedback."""

    def run(self) -> list[nodes.Node]:
        boxes = [c for c in self.state.document.findall(nodes.container) if "quiz" in c["classes"]]
        if not boxes:
            LOG.warning("quiz-answers: no {quiz} stands above it", location=self.get_location())
            return []
        key = nodes.container(classes=["quiz-key"])
        for box in boxes:
            right = next(option for option in box.findall(Details) if option["right"])
            feedback = [child.deepcopy() for child in right[1]]
            option = [word.deepcopy() for word in right[0][-1]] + [nodes.Text(" ")]
            feedback[0][0] = nodes.strong("", f"{box['number']}.\u00a0{right['letter']}. ", *option)
            key += feedback
        # Closed <details> stay closed on paper, so the key stands beside its switch, not in it.
        switch = Details("", Summary("", "Key to all questions"), classes=["quiz-switch"])
        return [switch, key]


def visitors(tag: str) -> tuple:
    """Return the functions that open and close an HTML element."""
    return (
        lambda writer, node: writer.body.append(writer.starttag(node, tag)),
        lambda writer, node: writer.body.append(f"</{tag}>\n"),
    )


def setup(app) -> dict:
    """Register nodes and directives; called by Sphinx."""
    app.add_node(Details, html=visitors("details"))
    app.add_node(Summary, html=visitors("summary"))
    app.add_directive("quiz", Quiz)
    app.add_directive("quiz-answers", QuizAnswers)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
