"""What a run leaves behind: one small JSON file per experiment, with its provenance.

A record holds everything needed to doubt it: the command, the commit, the machine, the versions,
the data with their hash, and every single run, failures included. Only
``python -m normlab.experiments.NAME`` writes one.
"""

import datetime
import hashlib
import json
import math
import os
import platform
import subprocess
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parents[2] / "results"
FIELDS = (
    "experiment question scale command commit date device torch python data source runs"
).split()
RUN_FIELDS = {"config", "metrics", "seconds"}


class RecordError(ValueError):
    """A record that is missing, damaged or incomplete."""


def device_name() -> str:
    """Name the machine: the GPU, or the processor with the cores this process may use."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else model
    return f"CPU, {cores} cores ({model})"


def commit() -> str:
    """Return the commit of the code that runs, "-dirty" added when package files differ from it."""
    root = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short=12", "HEAD")
    return (head + ("-dirty" if git("status", "--porcelain", ".") else "")) or "unknown"


def source_hash(path: Path) -> str:
    """Hash the experiment's module: a record with another hash is older than its code."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def new(experiment: str, question: str, scale: str, data: dict, source: str) -> dict:
    """Start a record with its provenance and no runs."""
    return {
        "experiment": experiment,
        "question": question,
        "scale": scale,
        "command": f"python -m normlab.experiments.{experiment} --scale {scale}",
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "device": device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "data": data,
        "source": source,
        "runs": [],
    }


def plain(value):
    """Make a value ready for JSON: NaN and infinity become null, floats keep 6 digits."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def validate(record: dict, name: str) -> dict:
    """Return the record if it is complete.

    Raises:
        RecordError: a field is missing, or there is no run.
    """
    missing = [f for f in FIELDS if f not in record]
    if missing:
        raise RecordError(
            f"results/{name}.json: expected the fields {', '.join(FIELDS)}, "
            f"missing: {', '.join(missing)}; write it anew with "
            f"`python -m normlab.experiments.{name}`"
        )
    if record["experiment"] != name:
        raise RecordError(
            f"results/{name}.json: expected the record of {name}, got {record['experiment']!r}"
        )
    if not record["runs"] or any(set(run) != RUN_FIELDS for run in record["runs"]):
        raise RecordError(
            f"results/{name}.json: expected at least one run, each with config, metrics and seconds"
        )
    return record


def write(record: dict, folder: Path | None = None) -> Path:
    """Write ``NAME.json``, one run a line, in one step: no half-written file stays behind."""
    name = record["experiment"]
    validate(record, name)
    folder = Path(folder or FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    head = {key: value for key, value in record.items() if key != "runs"}
    lines = [
        f"  {json.dumps(key)}: {json.dumps(plain(value), ensure_ascii=False)},"
        for key, value in head.items()
    ]
    runs = [f"    {json.dumps(plain(run), allow_nan=False)}" for run in record["runs"]]
    text = "{\n" + "\n".join(lines) + '\n  "runs": [\n' + ",\n".join(runs) + "\n  ]\n}\n"
    path, partial = folder / f"{name}.json", folder / f".{name}.json.part"
    partial.write_text(text, "utf-8")
    partial.replace(path)
    return path


def read(name: str, folder: Path | None = None) -> dict:
    """Read the record of an experiment.

    Raises:
        RecordError: no such record, not JSON, or incomplete.
    """
    path = Path(folder or FOLDER) / f"{name}.json"
    try:
        record = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RecordError(
            f"no record {path.name} in results/; write it with `python -m normlab.experiments.{name}`"
        ) from None
    except json.JSONDecodeError as error:
        raise RecordError(
            f"results/{path.name} is damaged ({error}); restore it with git, or write it anew with "
            f"`python -m normlab.experiments.{name}`"
        ) from None
    return validate(record, name)


def provenance(record: dict) -> str:
    """Say in one line where a record comes from."""
    seeds = sorted({run["config"]["seed"] for run in record["runs"] if "seed" in run["config"]})
    hours = sum(run["seconds"] for run in record["runs"]) / 3600
    return (
        f"{record['experiment']}, scale {record['scale']!r}: {len(record['runs'])} runs, "
        f"seeds {', '.join(map(str, seeds))}, {hours:.2f} h of {record['device']}; "
        f"{record['data']['name']} (sha256 {record['data']['sha256'][:12]}); "
        f"torch {record['torch']}; {record['date']}; commit {record['commit']}"
    )
