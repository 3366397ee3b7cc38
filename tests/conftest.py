"""Order of the tests: notebooks first, the longest first, so that no core waits at the end."""

import json
from pathlib import Path

SECONDS = Path(__file__).parents[1] / "_build" / "seconds.json"


def pytest_collection_modifyitems(session, config, items):
    """Sort notebooks by the run time that the last ``make book`` measured."""
    known = json.loads(SECONDS.read_text()) if SECONDS.exists() else {}

    def place(item):
        name = str(item.path.relative_to(config.rootpath))
        if item.path.suffix != ".ipynb":
            return (1, 0.0)
        return (0, -known.get(name, 300.0))

    items.sort(key=place)
