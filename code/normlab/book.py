"""The part of the website that is ours: a Sphinx extension, loaded by ``_config.yml``.

It collects what every ``claim(...)`` measured while the lessons ran, draws the table of all claims
(directive ``{claims-ledger}``), numbers the lessons in the order of the parts, and drops the
live-code scripts of sphinx-thebe, which Jupyter Book loads on every page although this book does
not use them.
"""

from html.parser import HTMLParser

import sphinx_thebe
from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from normlab.claims import all_claims
from normlab.experiments import at_scale

LOG = logging.getLogger(__name__)
COLUMNS = {"claim": 50, "measured in this build": 25, "at scale": 25}


class ClaimCards(HTMLParser):
    """Collects ``{id: measured}`` from the cards that ``claim(...)`` writes into a page."""

    def __init__(self, text: str):
        super().__init__()
        self.found = {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        card = dict(attributes)
        if "data-claim" in card:
            self.found[card["data-claim"]] = card.get("data-measured", "")


class Measured(nodes.Inline, nodes.Element):
    """Stands for a measured value until all pages are read."""


class LessonLink(nodes.Inline, nodes.TextElement):
    """Stands for a link to a lesson, or to a claim in it, until all pages are read."""


class ClaimsLedger(SphinxDirective):
    """``{claims-ledger}``: every entry of ``claims.yml`` in one table, grouped by lesson."""

    def run(self) -> list[nodes.Node]:
        table = nodes.table(classes=["claims-ledger"])
        group = nodes.tgroup(cols=len(COLUMNS))
        group += [nodes.colspec(colwidth=width) for width in COLUMNS.values()]
        group += nodes.thead("", row([[nodes.Text(name)] for name in COLUMNS]))
        body = nodes.tbody()
        lessons = sorted({entry["lesson"] for entry in all_claims().values()})
        for lesson in lessons:
            body += row([[LessonLink(lesson=lesson)]], span=len(COLUMNS))
            for name, entry in all_claims().items():
                if entry["lesson"] == lesson:
                    body += claim_row(name, entry)
        if not lessons:
            body += row([[nodes.Text("No claim yet.")]], span=len(COLUMNS))
        group += body
        table += group
        return [table]


def row(cells: list[list[nodes.Node]], span: int = 1) -> nodes.row:
    """Return a table row; with ``span`` its one cell runs over that many columns."""
    line = nodes.row()
    for content in cells:
        entry = nodes.entry("", nodes.paragraph("", "", *content))
        if span > 1:
            entry["morecols"] = span - 1
            entry["classes"].append("ledger-lesson")
        line += entry
    return line


def claim_row(name: str, entry: dict) -> nodes.row:
    """Return the row of one claim; links and measured values are filled in later."""
    verdict = "✓ holds. " if entry["verdict"] == "holds" else "✗ not reproduced. "
    link = LessonLink("", nodes.Text(entry["says"]), lesson=entry["lesson"], claim=name)
    line = row(
        [
            [nodes.strong("", verdict), link],
            [Measured(claim=name, lesson=entry["lesson"])],
            [nodes.Text(at_scale(name) or "–")],
        ]
    )
    for field in ("criterion", "source"):
        text = f"{field.capitalize()}: {entry[field]}"
        line[0] += nodes.paragraph("", text, classes=["criterion"])
    return line


def collect(app, doctree) -> None:
    """Remember the measured values of a page that was read (event ``doctree-read``)."""
    found = {}
    for raw in doctree.findall(nodes.raw):
        if "data-claim" in raw.astext():
            found.update(ClaimCards(raw.astext()).found)
    measured(app.env)[app.env.docname] = found


def measured(env) -> dict[str, dict[str, str]]:
    """Return ``{page: {claim id: measured}}`` of a Sphinx environment."""
    if not hasattr(env, "normlab_measured"):
        env.normlab_measured = {}
    return env.normlab_measured


def forget(app, env, docname) -> None:
    """Drop what a page said before it is read again (event ``env-purge-doc``)."""
    measured(env).pop(docname, None)


def merge(app, env, docnames, other) -> None:
    """Take over what another reading process collected (event ``env-merge-info``)."""
    measured(env).update({name: measured(other).get(name, {}) for name in docnames})


def fill(app, doctree, docname) -> None:
    """Put links and measured values into the ledger (event ``doctree-resolved``)."""
    for node in list(doctree.findall(Measured)):
        values = measured(app.env).get(f"chapters/{node['lesson']}", {})
        if node["claim"] not in values:
            LOG.warning(
                "the page of lesson %s shows no result for the claim %r: call claim(%r, ...) there, "
                "or mend its entry in claims.yml",
                *(node["lesson"], node["claim"], node["claim"]),
                location=docname,
            )
        node.replace_self(nodes.Text(values.get(node["claim"], "–")))
    for node in list(doctree.findall(LessonLink)):
        page = f"chapters/{node['lesson']}"
        if page not in app.env.found_docs:
            LOG.warning("claims.yml names a lesson %r that the book lacks", node["lesson"])
            node.replace_self(list(node.children) or nodes.Text(node["lesson"]))
            continue
        uri = app.builder.get_relative_uri(docname, page)
        uri += f"#claim-{node['claim']}" if "claim" in node else ""
        text = list(node.children) or [nodes.Text(app.env.titles[page].astext())]
        node.replace_self(nodes.reference("", "", *text, refuri=uri, internal=True))


class Sorted(set):
    """A set that is walked in sorted order."""

    def __iter__(self):
        return iter(sorted(super().__iter__()))


def sort_pages(app, env) -> list[str]:
    """Sort the tables of contents, since lessons are numbered in their order (``env-get-updated``).

    Otherwise sphinx-multitoc-numbering takes the order in which pages happened to be read, and
    sphinx-external-toc the order of a set, which changes from build to build.
    """
    env.tocs = dict(sorted(env.tocs.items()))
    env.numbered_toctrees = Sorted(env.numbered_toctrees)
    return []


def drop_thebe(app, config) -> None:
    """Disconnect sphinx-thebe, whose script Sphinx would add twice and which needs a foreign host."""
    unused = (sphinx_thebe.init_thebe_core, sphinx_thebe.update_thebe_context)
    for event in ("env-before-read-docs", "doctree-resolved"):
        for listener in list(app.events.listeners.get(event, [])):
            if listener.handler in unused:
                app.disconnect(listener.id)


def setup(app) -> dict:
    """Register directive and events; called by Sphinx."""
    app.add_node(Measured)
    app.add_node(LessonLink)
    app.add_directive("claims-ledger", ClaimsLedger)
    app.connect("config-inited", drop_thebe)
    app.connect("doctree-read", collect)
    app.connect("env-get-updated", sort_pages, priority=100)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("doctree-resolved", fill)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
