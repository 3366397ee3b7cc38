"""``claim``: shows what was measured, raises when the outcome is not the expected one."""

import re
from pathlib import Path

import pytest
import torch

from normlab import claims
from normlab.claims import ClaimError, claim


@pytest.fixture
def shown(monkeypatch):
    """Two claims of our own, and what ``claim`` displays."""
    entry = {"says": "a < b", "criterion": "b - a > 0", "source": "ours", "lesson": "1_ng/01_x"}
    entries = {
        "good": entry | {"verdict": "holds"},
        "open": entry | {"verdict": "not reproduced"},
    }
    displayed = []
    monkeypatch.setattr(claims, "all_claims", lambda: entries)
    monkeypatch.setattr(claims, "display", displayed.append)
    return displayed


def test_a_claim_that_holds_is_shown_with_criterion_and_value(shown):
    claim("good", True, measured="b - a = 3 <units>")
    text, page = repr(shown[0]), shown[0]._repr_html_()
    for part in ("a < b", "b - a > 0", "b - a = 3 <units>", "ours"):
        assert part in text
    assert 'id="claim-good"' in page and 'data-measured="b - a = 3 &lt;units&gt;"' in page
    assert "claim-holds" in page and "a &lt; b" in page


def test_a_false_claim_raises_with_the_measured_value_and_shows_nothing(shown):
    with pytest.raises(ClaimError, match=r"'good' does not hold(.|\n)*b - a = -1"):
        claim("good", False, measured="b - a = -1")
    assert shown == []


def test_a_claim_that_was_not_reproduced_is_shown_as_such(shown):
    claim("open", False, measured="b - a = -1")
    assert "not reproduced" in repr(shown[0]) and "claim-not-reproduced" in shown[0]._repr_html_()


def test_a_claim_listed_as_not_reproduced_raises_when_it_suddenly_holds(shown):
    with pytest.raises(ClaimError, match="holds, though it is listed as not reproduced"):
        claim("open", True, measured="b - a = 1")


@pytest.mark.parametrize("truth", [torch.tensor(True), torch.tensor([1.0, 2.0]).max() > 1])
def test_scalars_of_torch_count_as_truth_values(shown, truth):
    claim("good", truth, measured="x")
    assert len(shown) == 1


@pytest.mark.parametrize("value", [None, "yes", 1, torch.tensor(1.0)])
def test_what_is_not_a_truth_value_is_refused(shown, value):
    with pytest.raises(TypeError, match="expected holds to be True or False"):
        claim("good", value, measured="x")


def test_an_unknown_claim_and_a_missing_measurement_are_refused(shown):
    with pytest.raises(KeyError, match="no claim 'goood'"):
        claim("goood", True, measured="x")
    with pytest.raises(TypeError, match="expected measured as text"):
        claim("good", True, measured=3.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: {says: x}", "a expected the fields criterion"),
        (
            "a: {says: x, criterion: y, source: z, lesson: l, verdict: perhaps}",
            "verdict of holds or not reproduced, got 'perhaps'",
        ),
        (
            "a: {says: x, criterion: y, source: z, lesson: l, verdict: holds, extra: 1}",
            "got criterion, extra",
        ),
    ],
)
def test_a_broken_list_of_claims_is_refused(monkeypatch, tmp_path, text, says):
    (tmp_path / "claims.yml").write_text(text)
    monkeypatch.setattr(claims, "files", lambda package: tmp_path)
    claims.all_claims.cache_clear()
    with pytest.raises(ValueError, match=says):
        claims.all_claims()
    claims.all_claims.cache_clear()


def test_the_list_of_the_book_is_read_and_not_empty():
    assert "by-hand-equals-torch" in claims.all_claims()


CHAPTERS = Path(__file__).parents[1] / "chapters"
LINKS = [
    (page, *link)
    for page in sorted(CHAPTERS.rglob("*.md")) + sorted(CHAPTERS.rglob("*.ipynb"))
    if ".ipynb_checkpoints" not in page.parts
    for link in re.findall(r"([\w./]+)\.html#claim-([\w-]+)", page.read_text("utf-8"))
]


def test_every_link_to_a_claim_leads_to_the_lesson_that_checks_it():
    listed = {name: entry["lesson"] for name, entry in claims.all_claims().items()}
    assert len(LINKS) > 5
    for page, lesson, name in LINKS:
        target = (page.parent / lesson).resolve().relative_to(CHAPTERS.resolve())
        assert name in listed, f"{page.name} links to the claim {name!r}, which is not listed"
        assert listed[name] == str(target), f"{page.name}: {name!r} is checked in {listed[name]}"


def test_every_cell_of_the_decision_table_rests_on_a_claim():
    text = (CHAPTERS / "2_survey" / "which_norm_when.md").read_text("utf-8")
    rows = [line.strip().strip("|").split("|") for line in text.splitlines() if line[:1] == "|"]
    cells = [cell for row in rows[2:] for cell in row[1:]]
    assert len(cells) >= 20
    bare = [cell.strip() for cell in cells if "#claim-" not in cell]
    assert not bare, f"link these cells to the claim that supports them: {bare}"
