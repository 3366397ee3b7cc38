"""``python -m grader.release``: build what students get, as folders and as one zip each.

nbgrader takes the solutions and the hidden tests out; the result is in ``coursework/release/``.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from grader import collect

COURSEWORK = Path(__file__).parents[1]
RELEASE = COURSEWORK / "release"


def release(assignment: str) -> Path:
    """Build the student version of an assignment; return its zip file.

    Raises:
        RuntimeError: nbgrader refused; the message holds what it said.
    """
    command = [sys.executable, "-m", "nbgrader", "generate_assignment", assignment]
    # nbgrader calls the program `alembic`, which lies beside this Python
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        [*command, "--create", "--force"],
        cwd=COURSEWORK,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"nbgrader could not build {assignment}:\n{done.stdout}{done.stderr}")
    return zipped(RELEASE / assignment)


def zipped(folder: Path) -> Path:
    """Put a folder into a zip file beside it; the same files give the same bytes."""
    target = folder.with_suffix(".zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                name = zipfile.ZipInfo(str(path.relative_to(folder.parent)))
                archive.writestr(name, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return target


def main() -> None:
    """Build all assignments."""
    for assignment in collect.assignments():
        print(release(assignment), flush=True)


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(str(error))
