"""``claim(...)``: the cell that makes a sentence true, or fails.

All claims of the book stand in ``claims.yml``: what is said, who says it, in which lesson, by what
criterion. The criterion is written before the run; the lesson computes whether it is met.
"""

import html
from functools import cache
from importlib.resources import files

import yaml
from IPython.display import display

FIELDS = {"says", "criterion", "source", "lesson", "verdict"}
VERDICTS = ("holds", "not reproduced")


class ClaimError(AssertionError):
    """A claim that came out otherwise than ``claims.yml`` says."""


@cache
def all_claims() -> dict[str, dict]:
    """Return every claim of the book, by id, in the order of ``claims.yml``.

    Raises:
        ValueError: an entry with a missing or unknown field, or an unknown verdict.
    """
    entries = yaml.safe_load(files("normlab").joinpath("claims.yml").read_text("utf-8")) or {}
    for name, entry in entries.items():
        if not FIELDS <= set(entry) <= FIELDS | {"record"}:
            raise ValueError(
                f"claims.yml: {name} expected the fields {', '.join(sorted(FIELDS))} "
                f"(and record), got {', '.join(sorted(entry))}"
            )
        if entry["verdict"] not in VERDICTS:
            raise ValueError(
                f"claims.yml: {name} expected a verdict of {' or '.join(VERDICTS)}, "
                f"got {entry['verdict']!r}"
            )
    return entries


class Claim:
    """A checked claim; shows itself as a card in a notebook and as text elsewhere."""

    def __init__(self, name: str, entry: dict, measured: str):
        self.name, self.entry, self.measured = name, entry, measured

    def __repr__(self) -> str:
        mark = "✓" if self.entry["verdict"] == "holds" else "✗ not reproduced:"
        return (
            f"{mark} {self.entry['says']}\n  criterion: {self.entry['criterion']}\n"
            f"  measured:  {self.measured}\n  source:    {self.entry['source']}"
        )

    def _repr_html_(self) -> str:
        text = {key: html.escape(str(value)) for key, value in self.entry.items()}
        measured = html.escape(self.measured, quote=True)
        kind = "holds" if self.entry["verdict"] == "holds" else "not-reproduced"
        mark = "✓ holds" if kind == "holds" else "✗ not reproduced here"
        return (
            f'<div class="claim claim-{kind}" id="claim-{self.name}" data-claim="{self.name}" '
            f'data-measured="{measured}"><p class="claim-says"><strong>{mark}</strong> '
            f"{text['says']}</p><dl><dt>criterion</dt><dd>{text['criterion']}</dd>"
            f"<dt>measured</dt><dd>{measured}</dd><dt>source</dt><dd>{text['source']}</dd>"
            "</dl></div>"
        )


def claim(name: str, holds, measured: str) -> None:
    """Show a claim with its measured value, and raise if it came out otherwise than expected.

    Args:
        name: id in ``claims.yml``.
        holds: whether the criterion was met: a bool, or a bool scalar of numpy or torch.
        measured: the value measured, as text with its unit.

    Raises:
        ClaimError: the criterion is not met; or it is met, and the claim is listed as
            "not reproduced".
        KeyError: no such claim.
        TypeError: ``holds`` is not a truth value, or ``measured`` is not text.
    """
    entries = all_claims()
    if name not in entries:
        raise KeyError(f"no claim {name!r} in claims.yml; add it there, or mend the name")
    truth = holds.item() if hasattr(holds, "item") else holds
    if not isinstance(truth, bool):
        raise TypeError(f"claim({name!r}) expected holds to be True or False, got {holds!r}")
    if not isinstance(measured, str) or not measured:
        raise TypeError(f"claim({name!r}) expected measured as text, got {measured!r}")
    entry = entries[name]
    expected = entry["verdict"] == "holds"
    if truth != expected:
        verb = "does not hold" if expected else "holds, though it is listed as not reproduced"
        raise ClaimError(
            f"the claim {name!r} {verb}.\n  says:      {entry['says']}\n"
            f"  criterion: {entry['criterion']}\n  measured:  {measured}"
        )
    display(Claim(name, entry, measured))
