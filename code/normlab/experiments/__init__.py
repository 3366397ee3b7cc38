"""Experiments: each module asks one question and leaves one record in ``results/``.

A module has ``QUESTION``, ``CONFIGS`` (scale -> list of configurations, each with a ``seed``),
``load(scale)`` (the data), ``run(config, data)`` (the metrics of one run) and
``verdicts(runs)`` (claim id -> (holds, measured)): the criterion that the lesson applies to its own
quick runs judges the full-scale record too.

``python -m normlab.experiments.NAME --scale full`` runs one. An interrupted run goes on where it
stopped.
"""

import argparse
import functools
import json
import sys
import time
from importlib import import_module
from pathlib import Path

from normlab import claims, records
from normlab.train import side_by_side


def experiment(name: str):
    """Import an experiment's module by name."""
    return import_module(f"normlab.experiments.{name}")


@functools.cache
def _data(name: str, scale: str):
    return experiment(name).load(scale)


def _timed(job: tuple[str, str, dict]) -> dict:
    """Run one configuration; importable, so that other processes can run it too."""
    name, scale, config = job
    data = _data(name, scale)
    start = time.perf_counter()
    metrics = records.plain(experiment(name).run(config, data))
    return {"config": config, "metrics": metrics, "seconds": time.perf_counter() - start}


def run(name: str, scale: str = "quick", done: list[dict] | None = None, keep=None) -> dict:
    """Run an experiment and return its record.

    Args:
        name: of the module.
        scale: key of its ``CONFIGS``.
        done: runs already made; their configurations are not run again.
        keep: called with each run as it finishes.

    Raises:
        ValueError: no such scale.
    """
    module = experiment(name)
    if scale not in module.CONFIGS:
        raise ValueError(f"{name} expected a scale of {', '.join(module.CONFIGS)}, got {scale!r}")
    configs = module.CONFIGS[scale]
    finished = {json.dumps(entry["config"], sort_keys=True): entry for entry in done or []}
    keys = [json.dumps(config, sort_keys=True) for config in configs]
    left = [(name, scale, c) for c, k in zip(configs, keys, strict=True) if k not in finished]
    processes = 1 if scale == "quick" else None
    for (_, _, config), entry in side_by_side(_timed, left, processes):
        finished[json.dumps(config, sort_keys=True)] = entry
        if keep is not None:
            keep(entry)
    data = _data(name, scale)
    about = {"name": data.name, "sha256": data.sha256}
    source = records.source_hash(Path(module.__file__))
    record = records.new(name, module.QUESTION, scale, about, source)
    record["runs"] = [finished[key] for key in keys]
    return record


def at_scale(claim_id: str) -> str | None:
    """Judge a claim on its record: the measured text with its scale, marked if it does not hold."""
    entry = claims.all_claims()[claim_id]
    if "record" not in entry:
        return None
    record = records.read(entry["record"])
    holds, measured = experiment(entry["record"]).verdicts(record["runs"])[claim_id]
    verdict = measured if holds else f"does not hold: {measured}"
    return f"{verdict} (scale: {record['scale']})"


def _finished(partial: Path) -> list[dict]:
    """Read the runs of an interrupted session; a last line that was cut off is left out."""
    lines = partial.read_text().split("\n")[:-1] if partial.exists() else []
    return [json.loads(line) for line in lines]


def main(module_file: str, arguments: list[str] | None = None) -> None:
    """Run an experiment from the command line and write its record."""
    name = Path(module_file).stem
    module = experiment(name)
    parser = argparse.ArgumentParser(description=module.QUESTION)
    parser.add_argument("--scale", choices=list(module.CONFIGS), default=list(module.CONFIGS)[-1])
    parser.add_argument("--folder", type=Path, default=records.FOLDER, help="where to write")
    options = parser.parse_args(arguments)
    source = records.source_hash(Path(module.__file__))
    partial = options.folder / f".{name}.{options.scale}.{source}.jsonl"
    options.folder.mkdir(parents=True, exist_ok=True)
    done = _finished(partial)
    if done:
        print(f"{len(done)} runs of an interrupted session are kept", file=sys.stderr)

    def keep(entry: dict) -> None:
        with partial.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    record = run(name, options.scale, done, keep)
    path = records.write(record, options.folder)
    partial.unlink(missing_ok=True)
    print(records.provenance(record))
    for claim_id, (holds, measured) in module.verdicts(record["runs"]).items():
        print(f"{'holds' if holds else 'does not hold':14} {claim_id}: {measured}")
    print(f"written: {path}")
