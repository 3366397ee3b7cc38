"""A laboratory for the tests: an experiment in a folder of its own, which other processes can run.

Each run sleeps, writes down its beginning and its end, and returns the square of its seed. What
else it does stands in ``wishes.json``: how long a seed sleeps, and whether it fails.
"""

import json
import sys
from pathlib import Path

from normlab import experiments

TOY = """
import json, os, signal, time
from pathlib import Path
from types import SimpleNamespace

QUESTION = "Is it so?"
CONFIGS = {"quick": [{"seed": s} for s in range(8)], "full": [{"seed": s} for s in range(8)]}
HERE = Path(__file__).parent


def note(event, seed):
    with (HERE / "log").open("a") as file:
        file.write(json.dumps([event, seed, os.getpid()]) + "\\n")


def load(scale):
    return SimpleNamespace(name="toy", sha256="ab" * 32)


def run(config, data):
    seed = config["seed"]
    wishes = json.loads((HERE / "wishes.json").read_text())
    note("start", seed)
    time.sleep(wishes["sleep"].get(str(seed), wishes["sleep"]["else"]))
    if seed == wishes.get("memory"):
        raise MemoryError("no room")
    if seed == wishes.get("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    note("end", seed)
    return {"square": seed**2}


def verdicts(runs):
    return {"toy-claim": (len(runs) == 8, f"sum {sum(r['metrics']['square'] for r in runs)}")}
"""

START = """
import signal
import sys
from pathlib import Path

from normlab import experiments

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores Ctrl-C
experiments.__path__.append(str(Path(__file__).parent))
if __name__ == "__main__":
    experiments.main("toy.py", sys.argv[1:])
"""


class Laboratory:
    """The folder with the experiment ``toy``; ``start`` is its command line."""

    def __init__(self, folder: Path, **wishes):
        self.folder, self.start, self.results = folder, folder / "start.py", folder / "results"
        folder.mkdir(exist_ok=True)
        (folder / "toy.py").write_text(TOY)
        self.start.write_text(START)
        self.wish(**wishes)

    def wish(self, sleep=0.0, long=None, **others) -> None:
        """Say what the next runs do: ``sleep`` in seconds, ``long`` for some seeds."""
        wishes = {"sleep": {"else": sleep, **(long or {})}, **others}
        (self.folder / "wishes.json").write_text(json.dumps(wishes))

    def open_to(self, monkeypatch) -> None:
        """Let this process import ``toy`` during one test."""
        monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(self.folder)])
        monkeypatch.setitem(sys.modules, "normlab.experiments.toy", None)  # put away afterwards
        monkeypatch.delitem(sys.modules, "normlab.experiments.toy")

    def log(self, event: str) -> list[tuple[int, int]]:
        """Return (seed, process) of every "start" or "end", in order."""
        path = self.folder / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [tuple(rest) for kind, *rest in map(json.loads, lines) if kind == event]

    def kept(self) -> list[int]:
        """Return the seeds in the file of an interrupted session."""
        files = list(self.results.glob(".toy.*.jsonl"))
        lines = files[0].read_text().splitlines() if files else []
        return [json.loads(line)["config"]["seed"] for line in lines]
