"""Experiments: each module asks one question and leaves one record in ``results/``.

A module has ``QUESTION``, ``CONFIGS`` (scale -> list of configurations, each with a ``seed``),
``load(scale)`` (the data), ``run(config, data)`` (the metrics of one run) and
``verdicts(runs)`` (claim id -> (holds, measured)): the criterion that the lesson applies to its own
quick runs judges the full-scale record too. A module whose runs must have the computer for
themselves says ``PROCESSES = 1``.

``python -m normlab.experiments.NAME --scale full`` runs one, with ``--scheduler ADDRESS`` on a Dask
cluster. An interrupted run goes on where it stopped.
"""

import argparse
import functools
import hashlib
import json
import sys
import time
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import torch

from normlab import claims, records
from normlab.jobs import ClusterError, ShortOfMemory, lacks_memory, on_cluster, side_by_side


class Job(NamedTuple):
    """One configuration of an experiment."""

    name: str
    scale: str
    config: dict

    def __str__(self) -> str:
        return json.dumps(self.config)


def experiment(name: str):
    """Import an experiment's module by name."""
    return import_module(f"normlab.experiments.{name}")


@functools.cache
def _data(name: str, scale: str):
    return experiment(name).load(scale)


@functools.cache
def _versions(name: str) -> dict[str, str]:
    """Return what must be the same on all machines of a cluster; as it was when first asked."""
    package = Path(records.__file__).parent
    sources = sorted(package.rglob("*.py"))
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    own = records.source_hash(Path(experiment(name).__file__))
    return {"torch": torch.__version__, "normlab": code, f"{name}.py": own}


def _timed(job: Job) -> dict:
    """Run one configuration; importable, so that other processes can run it too.

    Raises:
        ShortOfMemory: with the configuration.
    """
    name, scale, config = job
    try:
        data = _data(name, scale)
        start = time.perf_counter()
        metrics = records.plain(experiment(name).run(config, data))
    except Exception as error:
        if not lacks_memory(error):
            raise
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ShortOfMemory(f"memory ran out in {job} ({reason[:200]})") from None
    seconds = time.perf_counter() - start
    device = records.device_name()
    return {"config": config, "metrics": metrics, "seconds": seconds, "device": device}


def run(
    name: str,
    scale: str = "quick",
    done: list[dict] | None = None,
    keep=None,
    processes: int | None = None,
    scheduler: str | None = None,
) -> dict:
    """Run an experiment and return its record.

    Args:
        name: of the module.
        scale: key of its ``CONFIGS``.
        done: runs already made; their configurations are not run again.
        keep: called with each run as it finishes.
        processes: side by side; default: 1 for "quick", else what the module or
            :func:`normlab.jobs.side_by_side` says.
        scheduler: address of a Dask scheduler, whose workers then run the configurations.

    Raises:
        ValueError: no such scale.
        ShortOfMemory: a configuration needs more memory than there is.
        ClusterError: as :func:`normlab.jobs.on_cluster`.
    """
    module = experiment(name)
    if scale not in module.CONFIGS:
        raise ValueError(f"{name} expected a scale of {', '.join(module.CONFIGS)}, got {scale!r}")
    configs = module.CONFIGS[scale]
    finished = {json.dumps(entry["config"], sort_keys=True): entry for entry in done or []}
    keys = [json.dumps(config, sort_keys=True) for config in configs]
    left = [Job(name, scale, c) for c, k in zip(configs, keys, strict=True) if k not in finished]
    before = len(keys) - len(left)
    if scheduler is None:
        default = 1 if scale == "quick" else getattr(module, "PROCESSES", None)
        processes = processes or default
        results = side_by_side(_timed, left, processes, before)
    else:
        versions = functools.partial(_versions, name)
        results = on_cluster(_timed, left, scheduler, before, versions)
    with closing(results):
        for job, entry in results:
            finished[json.dumps(job.config, sort_keys=True)] = entry
            if keep is not None:
                keep(entry)
    return _record(module, name, scale, [finished[key] for key in keys])


def _record(module, name: str, scale: str, entries: list[dict]) -> dict:
    """Put the runs in one record; its device names every machine that ran one of them."""
    data = _data(name, scale)
    about = {"name": data.name, "sha256": data.sha256}
    source = records.source_hash(Path(module.__file__))
    record = records.new(name, module.QUESTION, scale, about, source)
    devices = {entry.get("device", record["device"]) for entry in entries}
    record["device"] = "; ".join(sorted(devices))
    record["runs"] = [{k: e[k] for k in ("config", "metrics", "seconds")} for e in entries]
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
    """Read the runs of an interrupted session; a last line that was cut off is thrown away."""
    lines = partial.read_text().split("\n")[:-1] if partial.exists() else []
    if lines:
        partial.write_text("".join(line + "\n" for line in lines))
    return [json.loads(line) for line in lines]


def _options(module, arguments: list[str] | None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=module.QUESTION)
    parser.add_argument("--scale", choices=list(module.CONFIGS), default=list(module.CONFIGS)[-1])
    parser.add_argument("--folder", type=Path, default=records.FOLDER, help="where to write")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="runs side by side on this computer (default: 1 on a GPU or at scale quick, else one "
        "for each processor core)",
    )
    where.add_argument(
        "--scheduler", metavar="ADDRESS", help="of a Dask cluster, such as tcp://10.0.0.5:8786"
    )
    options = parser.parse_args(arguments)
    if options.processes is not None and options.processes < 1:
        parser.error(f"--processes expected 1 or more, got {options.processes}")
    return options


def main(module_file: str, arguments: list[str] | None = None) -> None:
    """Run an experiment from the command line and write its record."""
    name = Path(module_file).stem
    module = experiment(name)
    options = _options(module, arguments)
    source = records.source_hash(Path(module.__file__))
    partial = options.folder / f".{name}.{options.scale}.{source}.jsonl"
    options.folder.mkdir(parents=True, exist_ok=True)
    done = _finished(partial)
    if done:
        print(f"{len(done)} runs of an interrupted session are kept", file=sys.stderr)

    def keep(entry: dict) -> None:
        with partial.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def goes_on() -> str:
        kept = f"{len(_finished(partial))} of {len(module.CONFIGS[options.scale])} runs are kept"
        return f"{kept}; the same command goes on from there."

    try:
        record = run(name, options.scale, done, keep, options.processes, options.scheduler)
    except KeyboardInterrupt:
        print(f"\nInterrupted. {goes_on()}", file=sys.stderr)
        raise
    except ClusterError as error:
        sys.exit(f"{name}: {error}.\n{goes_on()}")
    except ShortOfMemory as error:
        cure = "Close other programs, ask for fewer processes (--processes 1) or a smaller --scale"
        sys.exit(f"{name}: {error}.\n{cure}. {goes_on()}")
    path = records.write(record, options.folder)
    partial.unlink(missing_ok=True)
    print(records.provenance(record))
    for claim_id, (holds, measured) in module.verdicts(record["runs"]).items():
        print(f"{'holds' if holds else 'does not hold':14} {claim_id}: {measured}")
    print(f"written: {path}")
