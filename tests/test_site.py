"""Every page of the built site in a real browser: desktop and phone, light and dark.

Needs ``make book`` first, a Chromium, and ``pip install playwright``; says what is missing otherwise.
On a CI machine (``CI=true``) nothing may be missing.
"""

import json
import os
import re
import shutil
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest

SITE = Path(__file__).parents[1] / "_build" / "html"
PAGES = sorted(
    str(path.relative_to(SITE))
    for path in [*SITE.glob("*.html"), *SITE.glob("chapters/**/*.html")]
    if path.name not in ("search.html", "genindex.html")
)
SOURCES = sorted((Path(__file__).parents[1] / "coursework" / "source").glob("*/*.ipynb"))
TAUGHT = "forward-code"  # lesson 2 derives these five lines; the assignment asks for them again
NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
DARK = ["index.html", *[page for page in PAGES if "chapters/1" in page][:1]] if PAGES else []
VISITS = [(page, size, "light") for size in SIZES for page in PAGES] + [
    (page, size, "dark") for size in SIZES for page in DARK
]

# What is wrong on the page that is open, as a list of sentences.
FAULTS = """() => {
  const faults = [], article = document.querySelector("article") || document.body;
  for (const math of article.querySelectorAll(".math"))
    if (!math.querySelector("mjx-container") || math.querySelector("mjx-merror, [data-mjx-error], [mathcolor=red]"))
      faults.push("formula not rendered: " + math.textContent.trim().slice(0, 80));
  const walker = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); )
    if (!node.parentElement.closest("pre, code, script, style, mjx-container")
        && /\\\\\\(|\\\\\\[|\\\\begin\\{|\\$[^$]+\\$/.test(node.data))
      faults.push("raw TeX in the text: " + node.data.trim().slice(0, 80));
  for (const image of document.images) {
    if (image.complete && image.naturalWidth === 0) faults.push("image missing: " + image.src);
    if (article.contains(image) && !(image.getAttribute("alt") || "").trim())
      faults.push("image without alt text: " + image.src);
    if (article.contains(image) && /\\.(png|svg|jpe?g)$/.test(image.alt))
      faults.push("the alt text is a file name: " + image.alt);
  }
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) {
    const wide = [...article.querySelectorAll("*")]
      .filter(e => e.getBoundingClientRect().right > root.clientWidth + 1)
      .map(e => e.tagName.toLowerCase() + "." + e.className).slice(0, 4);
    faults.push(`the page scrolls sideways: ${root.scrollWidth} > ${root.clientWidth} px (${wide})`);
  }
  if (document.body.innerText.includes("Traceback (most recent call last)"))
    faults.push("the page shows a traceback");
  if ([...document.querySelectorAll(".search-button__default-text, form.bd-search")]
      .filter(bar => bar.checkVisibility() && !bar.closest("dialog")).length > 1)
    faults.push("two search bars");
  return faults;
}"""


def missing() -> str | None:
    """Return what keeps the browser test from running."""
    if not PAGES:
        return "no built site in _build/html: run `make book` first"
    if BROWSER is None:
        return "no browser: install chromium"
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "no playwright: .venv/bin/python -m pip install playwright"
    return None


@pytest.fixture(scope="module")
def site():
    """Serve the built site and yield its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            """Say nothing; what fails is reported by the browser."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    """Yield one headless Chromium for all pages."""
    reason = missing()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def tabs(browser):
    """Return a function that gives one page per size and colour scheme, opened once."""
    opened = {}

    def tab(size, scheme):
        if (size, scheme) not in opened:
            width, height = SIZES[size]
            context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
            opened[size, scheme] = context.new_page()
        return opened[size, scheme]

    return tab


def faults_of(tab, site: str, page: str) -> list[str]:
    """Open a page and return what is wrong with it."""
    faults = []
    listeners = {
        "console": lambda m: m.type == "error" and faults.append(f"console error: {m.text}"),
        "pageerror": lambda error: faults.append(f"page error: {error}"),
        "request": lambda r: (
            r.url.startswith((site, "data:", "blob:")) or faults.append(f"foreign request: {r.url}")
        ),
        "response": lambda r: r.status >= 400 and faults.append(f"{r.status}: {r.url}"),
    }
    for event, listener in listeners.items():
        tab.on(event, listener)
    tab.goto(site + page, wait_until="load")
    tab.evaluate("() => window.MathJax?.startup?.promise")
    tab.evaluate(  # images below the fold load only when scrolled to
        """() => Promise.all([...document.images].map(image => {
             image.loading = "eager"; return image.decode().catch(() => null); }))"""
    )
    faults += tab.evaluate(FAULTS)
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)
    return faults


@pytest.mark.parametrize("page, size, scheme", VISITS or [("no site", "desktop", "light")])
def test_page(tabs, site, page, size, scheme):
    tab = tabs(size, scheme)
    faults = faults_of(tab, site, page)
    if scheme == "dark":
        assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    assert not faults, f"{page} at {size} size, {scheme}:\n" + "\n".join(dict.fromkeys(faults))


def test_search_finds_a_word(tabs, site):
    tab = tabs("desktop", "light")
    tab.goto(site + "search.html?q=variance")
    tab.wait_for_selector("#search-results li a", timeout=10_000)


class Links(HTMLParser):
    """Collects the links and the anchors of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors.update(found[key] for key in ("id", "name") if found.get(key))
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])


@pytest.mark.skipif(not PAGES, reason="no built site in _build/html: run `make book` first")
def test_every_link_inside_the_site_leads_somewhere():
    pages = {path: Links((SITE / path).read_text(encoding="utf-8")) for path in PAGES}
    dead = []
    for page, parsed in pages.items():
        for link in parsed.links:
            if ":" in link.split("/")[0]:
                continue  # http:, mailto:, javascript:
            path, anchor = urldefrag(unquote(urljoin("/" + page, link)))
            path = path.lstrip("/")
            known = pages.get(path)
            if not (SITE / path).exists() or (anchor and known and anchor not in known.anchors):
                dead.append(f"{page}: {link}")
    assert not dead, "dead links:\n" + "\n".join(dead)


@pytest.mark.skipif(not PAGES, reason="no built site in _build/html: run `make book` first")
def test_a_lesson_has_the_number_of_its_file():
    home = (SITE / "index.html").read_text(encoding="utf-8")
    links = re.findall(r'toctree-l2[^>]*><a[^>]*href="chapters/\w+/(\d+)_\w+\.html">(\d+)\. ', home)
    numbers = [int(number) for _, number in links]
    assert numbers == [int(file) for file, _ in links] == list(range(1, len(links) + 1)), links
    assert len(links) == sum(page.split("/")[-1][:2].isdigit() for page in PAGES) // 2


@pytest.mark.skipif(not PAGES, reason="no built site in _build/html: run `make book` first")
def test_the_site_holds_no_solution_of_graded_work():
    files = [path for path in SITE.rglob("*") if path.is_file()]
    assert not [path for path in files if path.stem in {s.stem for s in SOURCES}]
    read = [path.read_text(encoding="utf-8") for path in files if path.suffix in (".ipynb", ".md")]
    assert len(read) > 40  # the sources of the pages, which the site holds too
    told = {bare(text) for text in read}
    for source in SOURCES:
        for cell in json.loads(source.read_text(encoding="utf-8"))["cells"]:
            grading = cell["metadata"].get("nbgrader", {})
            text = "".join(cell["source"])
            if grading.get("solution") and cell["cell_type"] == "code":
                text = text.partition("### BEGIN SOLUTION")[2].partition("### END SOLUTION")[0]
            if grading.get("solution") and len(text) > 60 and cell["id"] != TAUGHT:
                assert not any(bare(text) in page for page in told), cell["id"]


def bare(text: str) -> str:
    """Return the letters and digits of a text; of a notebook, without the dress of JSON."""
    return re.sub(r"\\n|[^\w]", "", text)
