"""Records: complete, readable, written in one step; experiments: resumable, judged by verdicts."""

import json
import math
import sys
import types
from importlib.metadata import version

import pytest
import torch

from normlab import claims, experiments, records
from normlab.records import RecordError

DATA = {"name": "toy", "sha256": "ab" * 32}


def make(name="toy", seeds=(0, 1)):
    record = records.new(name, "Is it so?", "quick", DATA, source="0" * 16)
    record["runs"] = [
        {"config": {"seed": s}, "metrics": {"loss": 1 / 3, "end": math.nan}, "seconds": 1.5}
        for s in seeds
    ]
    return record


def test_what_is_written_is_read_back_one_run_a_line_and_nan_as_null(tmp_path):
    path = records.write(make(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["toy.json"]
    lines = [line for line in path.read_text().splitlines() if '"config"' in line]
    assert len(lines) == 2
    record = records.read("toy", tmp_path)
    assert record["runs"][0]["metrics"] == {"loss": 0.333333, "end": None}
    json.loads(path.read_text(), parse_constant=pytest.fail)  # no NaN: other readers choke on it


def test_a_record_names_its_machine_versions_and_command():
    record = make()
    assert record["torch"] == torch.__version__
    assert record["torch"].split("+")[0] == version("torch").split("+")[0]
    assert record["command"] == "python -m normlab.experiments.toy --scale quick"
    text = records.provenance(record)
    for part in ("2 runs", "seeds 0, 1", "toy", "abababababab", record["date"], record["commit"]):
        assert part in text


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), "no record toy.json in results/; write it with"),
        (lambda path: path.write_text(path.read_text()[:-30]), "is damaged"),
        (
            lambda path: path.write_text(path.read_text().replace('"date"', '"day"')),
            "missing: date",
        ),
        (lambda path: path.write_text(path.read_text().replace('"seconds"', '"s"')), "each with"),
        (lambda path: path.write_text(path.read_text().replace('"toy",', '"boy",', 1)), "'boy'"),
    ],
)
def test_a_missing_or_damaged_record_says_what_to_do(tmp_path, damage, says):
    damage(records.write(make(), tmp_path))
    with pytest.raises(RecordError, match=says):
        records.read("toy", tmp_path)


def test_an_incomplete_record_is_not_written(tmp_path):
    with pytest.raises(RecordError, match="at least one run"):
        records.write(make(seeds=()), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """An experiment that counts its runs and can be interrupted."""
    module = types.ModuleType("normlab.experiments.toy")
    module.__file__ = str(tmp_path / "toy.py")
    (tmp_path / "toy.py").write_text("# a toy")
    module.QUESTION, module.calls, module.stop_at = "Is it so?", [], None
    module.CONFIGS = {"quick": [{"seed": s} for s in range(4)]}
    module.load = lambda scale: types.SimpleNamespace(**DATA)

    def run(config, data):
        if config["seed"] == module.stop_at:
            raise KeyboardInterrupt
        module.calls.append(config["seed"])
        return {"value": config["seed"] * 1.0, "lost": math.inf}

    module.run = run
    module.verdicts = lambda runs: {
        "toy-claim": (len(runs) == 4, f"sum {sum(r['metrics']['value'] for r in runs):g}")
    }
    monkeypatch.setitem(sys.modules, module.__name__, module)
    experiments._data.cache_clear()
    yield module
    experiments._data.cache_clear()


def test_an_experiment_runs_every_configuration_in_order(toy):
    record = experiments.run("toy", "quick")
    assert [run["config"]["seed"] for run in record["runs"]] == [0, 1, 2, 3]
    assert record["runs"][0]["metrics"]["lost"] is None
    with pytest.raises(ValueError, match="expected a scale of quick, got 'full'"):
        experiments.run("toy", "full")


def test_an_interrupted_experiment_goes_on_where_it_stopped(toy, tmp_path, capsys):
    folder = tmp_path / "results"
    toy.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        experiments.main(toy.__file__, ["--folder", str(folder)])
    (partial,) = folder.iterdir()
    with partial.open("a") as file:
        file.write('{"config": {"seed": 2}, "met')  # cut off in the middle of a line
    toy.stop_at = None
    experiments.main(toy.__file__, ["--folder", str(folder)])
    assert toy.calls == [0, 1, 2, 3]
    assert [p.name for p in folder.iterdir()] == ["toy.json"]
    assert "holds          toy-claim: sum 6" in capsys.readouterr().out
    assert len(records.read("toy", folder)["runs"]) == 4


def test_changed_code_does_not_go_on_with_old_runs(toy, tmp_path):
    folder = tmp_path / "results"
    toy.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        experiments.main(toy.__file__, ["--folder", str(folder)])
    (tmp_path / "toy.py").write_text("# a toy, changed")
    toy.stop_at, toy.calls = None, []
    experiments.main(toy.__file__, ["--folder", str(folder)])
    assert toy.calls == [0, 1, 2, 3]


def test_a_claim_is_judged_on_its_record(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "FOLDER", tmp_path)
    monkeypatch.setattr(claims, "all_claims", lambda: {"toy-claim": {"record": "toy"}, "other": {}})
    records.write(experiments.run("toy"), tmp_path)
    assert experiments.at_scale("toy-claim") == "sum 6 (scale: quick)"
    assert experiments.at_scale("other") is None
    record = experiments.run("toy")
    record["runs"].pop()
    records.write(record, tmp_path)
    assert experiments.at_scale("toy-claim") == "does not hold: sum 3 (scale: quick)"


NAMES = sorted(path.stem for path in records.FOLDER.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_every_committed_record_is_complete_and_answers_its_claims(name):
    record = records.read(name)
    module = experiments.experiment(name)
    verdicts = module.verdicts(record["runs"])
    listed = {i for i, entry in claims.all_claims().items() if entry.get("record") == name}
    if name != "benchmarks":  # these are about our engine, and stand in the README
        assert listed, "name the record in claims.yml"
    assert listed <= set(verdicts), "judge the claim in verdicts()"
    assert len({run["config"]["seed"] for run in record["runs"]}) >= 3
    assert record["question"] == module.QUESTION
    configs = [records.plain(config) for config in module.CONFIGS[record["scale"]]]
    assert [run["config"] for run in record["runs"]] == configs, "the code asks for other runs"


@pytest.mark.parametrize(
    "claim_id", [i for i, entry in claims.all_claims().items() if "record" in entry]
)
def test_every_claim_at_scale_can_be_derived_from_its_record(claim_id):
    assert experiments.at_scale(claim_id)
