"""Runs one submission and writes down what came out; everything here happens inside the sandbox.

Nothing that this side says is believed: it delivers numbers, texts and pictures, never marks.
"""

import ast
import base64
import contextlib
import io
import json
import linecache
import signal
import traceback
from pathlib import Path

from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.pylabtools import select_figure_formats
from matplotlib_inline.backend_inline import show
from traitlets.config import Config

from grader import ask, notebook

TEXT = 20_000  # characters kept of what a cell prints
PICTURES = 6  # kept of a cell
CELL = "<cell "  # how the file names of cells begin
PICTURE = 500_000  # characters of a picture


class OutOfTime(BaseException):
    """A cell ran too long. Not an Exception, so that ``except Exception`` does not stop it."""


class Bounded(io.StringIO):
    """A text stream that forgets what comes after its first 20,000 characters."""

    def write(self, text: str) -> int:
        super().write(text[: max(0, TEXT - self.tell())])
        return len(text)


class Shell(InteractiveShell):
    """What IPython knows about magics and about showing things, without history and windows."""

    def enable_gui(self, gui=None) -> None:
        """Figures are kept as pictures, so there is no window to open."""


def shell() -> Shell:
    """Return the shell that the cells of a notebook share."""
    made = Shell.instance(config=Config(HistoryManager={"enabled": False}))
    select_figure_formats(made, {"png"})
    return made


@contextlib.contextmanager
def limited(seconds: float):
    """Raise :class:`OutOfTime` after that much processor time, or four times as long by the clock."""

    def stop(*_):
        raise OutOfTime(f"stopped: it ran longer than {seconds:g} s")

    timers = {signal.ITIMER_PROF: (signal.SIGPROF, 1), signal.ITIMER_REAL: (signal.SIGALRM, 4)}
    for timer, (number, times) in timers.items():
        signal.signal(number, stop)
        signal.setitimer(timer, times * seconds, 0.5)  # again and again, should it be caught
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)


def run(job: dict, tell) -> None:
    """Run a submission cell by cell.

    Args:
        job: ``notebook`` (path), ``cells`` (the assignment's, as dicts), ``assignment``,
            ``seconds`` (for a cell), ``skip`` (indices of cells that ended a run before),
            ``experiments`` (whether to run the long cells and self-checks, which no test needs).
        tell: called with what happened, one JSON object at a time.
    """
    try:
        theirs = notebook.read(Path(job["notebook"]))
    except notebook.Unreadable as error:
        tell({"unreadable": str(error)})
        return
    cells = notebook.merged(theirs, [notebook.Cell(**cell) for cell in job["cells"]])
    questions = ask.questions(job["assignment"])
    ipython = shell()
    for index, cell in enumerate(cells):
        tell({"begin": index, "kind": cell.kind, "name": cell.name, "source": cell.source[:TEXT]})
        if index in job["skip"]:
            tell({"error": "this cell ended the whole program, so the rest ran without it"})
        elif cell.kind == "test":
            for name, question in questions[cell.name].items():
                answer = asked(question, ipython.user_ns, job["seconds"])
                tell({"task": cell.name, "check": name, "answer": answer})
        elif not job["experiments"] and (cell.experiment or cell.source.startswith("selfcheck.")):
            continue
        elif cell.kind in ("code", "locked") and cell.source.strip():
            tell(executed(ipython, cell.source, job["seconds"]))
    tell({"finished": True})


def asked(question, names: dict, seconds: float) -> dict:
    """Ask one question of ``observe.py`` within a time limit."""
    try:
        with limited(seconds):
            return ask.observe(question, names)
    except OutOfTime as error:
        return {"error": str(error)}
    except BaseException as error:  # such as SystemExit: it costs this question, and no other
        return {"error": ask.named(error)}


def executed(ipython: Shell, source: str, seconds: float) -> dict:
    """Run a cell; return what it printed, showed, drew and raised."""
    printed, raised = Bounded(), None
    ipython.display_pub = CapturingDisplayPublisher()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            with limited(seconds):
                evaluate(ipython, source)
                show(close=True)
        except BaseException as error:  # also sys.exit() and OutOfTime
            raised = error
            printed.write(trace(error))
    bundles = ipython.display_pub.outputs
    return {
        "text": printed.getvalue(),
        "shown": [text for b in bundles if (text := shown_text(b))][:PICTURES],
        "pictures": [png for b in bundles if (png := picture(b))][:PICTURES],
        "error": None if raised is None else ask.named(raised),
    }


def evaluate(ipython: Shell, source: str) -> None:
    """Run a cell and show the value of its last line, as a notebook does."""
    text = ipython.transform_cell(source)
    name = f"{CELL}{len(linecache.cache)}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    tree = ast.parse(text, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), ipython.user_ns)
    if last:
        value = eval(compile(ast.Expression(last.value), name, "eval"), ipython.user_ns)
        if value is not None and not source.rstrip().endswith(";"):
            ipython.display_pub.publish(*ipython.display_formatter.format(value))


def trace(error: BaseException) -> str:
    """Return the end of a traceback, without the lines of the grader."""
    frames = error.__traceback__
    while frames and not frames.tb_frame.f_code.co_filename.startswith(CELL):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))[-3000:]


def shown_text(bundle: dict) -> str:
    """Return the text of an output that is no picture."""
    data = bundle["data"]
    return "" if "image/png" in data else str(data.get("text/plain", ""))[:TEXT]


def picture(bundle: dict) -> str:
    """Return a PNG in base 64, or nothing."""
    png = bundle["data"].get("image/png", "")
    text = base64.b64encode(png).decode() if isinstance(png, bytes) else str(png)
    return text if len(text) <= PICTURE else ""


def teller(file):
    """Return a function that writes one JSON object as a line, at once."""

    def tell(event: dict) -> None:
        file.write(json.dumps(event) + "\n")
        file.flush()

    return tell
