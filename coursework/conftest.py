"""For pytest: the kernels of the assignments import the grader, as they do under nbgrader."""

import os
from pathlib import Path

os.environ["PYTHONPATH"] = str(Path(__file__).parent)
