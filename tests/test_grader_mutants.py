"""The grader is graded: wrong solutions lose points where they are wrong, right ones lose none."""

import classroom
import pytest

from grader import collect

ASSIGNMENTS = list(collect.assignments())
EXAMPLES = {name: classroom.examples(int(name[0])) for name in ASSIGNMENTS}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return ``{(assignment, student): result}`` of the model solutions and all their variants."""
    found = {}
    for assignment, (mutants, equivalents) in EXAMPLES.items():
        work = {"model": classroom.solved(assignment)}
        work |= {v["name"]: classroom.changed(assignment, v) for v in [*mutants, *equivalents]}
        assert len(work) == 1 + len(mutants) + len(equivalents), "two variants have the same name"
        submissions = [classroom.handed_in(assignment, name, made) for name, made in work.items()]
        kept = tmp_path_factory.mktemp(assignment)
        for student, result in classroom.graded(submissions, kept).items():
            found[assignment, student] = result
    return found


def lost(assignment: str, result: dict) -> dict[str, float]:
    """Return ``{task: points lost}``, without the tasks that lost none."""
    assert not result["problem"] and not result["notes"]
    got = classroom.points(result)
    return {t: p - got[t] for t, p in classroom.most(assignment).items() if got[t] != p}


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_the_model_solution_gets_every_point(results, assignment):
    assert lost(assignment, results[assignment, "model"]) == {}


@pytest.mark.parametrize(
    ("assignment", "mutant"),
    [(name, mutant) for name in ASSIGNMENTS for mutant in EXAMPLES[name][0]],
    ids=lambda value: value["name"] if isinstance(value, dict) else value[0],
)
def test_a_mutant_loses_points_in_its_question(results, assignment, mutant):
    result = results[assignment, mutant["name"]]
    assert mutant["task"] in lost(assignment, result)
    reasons = [v["reason"] for v in result["tasks"][mutant["task"]] if v["reason"]]
    assert not any("got no such name" in reason or "ended before" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("assignment", "variant"),
    [(name, variant) for name in ASSIGNMENTS for variant in EXAMPLES[name][1]],
    ids=lambda value: value["name"] if isinstance(value, dict) else value[0],
)
def test_a_correct_variant_loses_nothing(results, assignment, variant):
    assert lost(assignment, results[assignment, variant["name"]]) == {}


def test_there_are_as_many_examples_as_the_readme_says(results, record_property, capsys):
    mutants = [(name, mutant) for name in ASSIGNMENTS for mutant in EXAMPLES[name][0]]
    caught = sum(m["task"] in lost(name, results[name, m["name"]]) for name, m in mutants)
    variants = sum(len(EXAMPLES[name][1]) for name in ASSIGNMENTS)
    score = f"{caught} of {len(mutants)} wrong solutions lose points in the right question"
    with capsys.disabled():
        print(f"\nmutation score: {score}; {variants} right ones lose none")
    readme = (collect.SOURCE.parents[1] / "README.md").read_text(encoding="utf-8")
    assert score in readme and f"{variants} correct but different solutions" in readme
