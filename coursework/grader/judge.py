"""Whether the numbers are right: compares what a submission computed with what it should be.

This side is trusted and never runs in the process of a student's code, except when nbgrader itself
grades a notebook (:func:`examine`).
"""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from grader import ask


@dataclass(frozen=True)
class Check:
    """What one question of ``observe.py`` must be answered with.

    Args:
        points: what the answer is worth.
        value: the answer: an array, number, text, None, or list or dict of these; or a function
            without arguments that returns it.
        rtol, atol: two numbers agree if ``|got - expected| <= atol + rtol * |expected|``.
        dtype: of the array, such as ``"float32"``; any if None.
        passes: instead of ``value``: a function of the answer that returns None if it is right,
            and otherwise a sentence that says what is wrong.
        hint: what the student may read when the answer is wrong; gives no answer away.
    """

    points: float
    value: object = None
    rtol: float = 1e-5
    atol: float = 1e-6
    dtype: str | None = None
    passes: Callable | None = None
    hint: str = ""

    def wrong(self, answer) -> str | None:
        """Return None if the answer is right, otherwise a sentence that says how it is wrong."""
        if self.passes:
            return self.passes(answer)
        expected = self.value() if callable(self.value) else self.value
        return differs(answer, expected, self)


@dataclass(frozen=True)
class Verdict:
    """How one check went."""

    name: str
    says: str
    points: float
    out_of: float
    reason: str = ""
    hint: str = ""


def differs(got, expected, check: Check, where: str = "") -> str | None:
    """Return how an answer differs from what is expected, or None if it agrees."""
    if isinstance(expected, dict):
        if not isinstance(got, dict) or set(got) != set(expected):
            return f"expected the entries {sorted(expected)}{where}, got {short(got)}"
        pairs = ((got[key], expected[key], f"{where} in {key!r}") for key in expected)
        return first(pairs, check)
    if isinstance(expected, list | tuple):
        if not isinstance(got, list) or len(got) != len(expected):
            return f"expected {len(expected)} values{where}, got {short(got)}"
        places = (f"{where}, value {index + 1} of {len(expected)}" for index in range(len(got)))
        return first(zip(got, expected, places, strict=True), check)
    if expected is None or isinstance(expected, str | bool):
        same = type(got) is type(expected) and got == expected
        return None if same else f"got another answer{where}: {short(got)}"
    return numbers_differ(got, expected, check, where)


def first(pairs, check: Check) -> str | None:
    """Return what is wrong with the first pair that differs."""
    reasons = (differs(got, expected, check, where) for got, expected, where in pairs)
    return next((reason for reason in reasons if reason), None)


def numbers_differ(got, expected, check: Check, where: str) -> str | None:
    """Compare two arrays or numbers, in float64."""
    if isinstance(expected, torch.Tensor):
        expected = expected.detach().double().numpy()
    expected = np.asarray(expected, dtype=np.float64)
    if got is None or isinstance(got, str | bool | dict | list):
        return f"expected numbers{where}, got {short(got)}"
    if check.dtype and getattr(got, "kind", check.dtype) != check.dtype:
        return f"expected dtype {check.dtype}{where}, got {got.kind}"
    got = np.asarray(got, dtype=np.float64)
    if got.shape != expected.shape:
        return f"expected the shape {expected.shape}{where}, got {got.shape}"
    with np.errstate(invalid="ignore", over="ignore"):
        allowed = check.atol + check.rtol * np.abs(expected)
        far = ~np.isclose(got, expected, rtol=check.rtol, atol=check.atol, equal_nan=True)
        if not far.any():
            return None
        off = np.where(far, np.nan_to_num(np.abs(got - expected), nan=np.inf, posinf=np.inf), -1)
    worst = np.unravel_index(off.argmax(), off.shape)
    return (
        f"{far.sum()} of {far.size} numbers are off{where}, by up to {off[worst]:.2g} "
        f"(allowed: {allowed[worst]:.2g})"
    )


class Answer(np.ndarray):
    """An array that remembers the dtype it had in the student's notebook (``kind``)."""

    kind = ""


def revived(plain):
    """Turn what :func:`grader.ask.plain` wrote back into arrays, lists and dicts.

    Raises:
        ValueError: it was not written by ``plain``.
    """
    if isinstance(plain, dict) and "array" in plain:
        answer = np.array(plain["array"], dtype=np.float64).reshape(plain["shape"]).view(Answer)
        answer.kind = str(plain["dtype"])
        return answer
    if isinstance(plain, dict) and isinstance(plain.get("dict"), dict):
        return {key: revived(part) for key, part in plain["dict"].items()}
    if isinstance(plain, list):
        return [revived(part) for part in plain]
    if plain is None or isinstance(plain, bool | int | float | str):
        return plain
    raise ValueError(f"expected an answer, got {short(plain)}")


def short(value) -> str:
    """Return a value as text of at most 80 characters."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    try:
        text = repr(value)
    except RecursionError:
        return "something nested too deeply"
    return text if len(text) <= 80 else text[:77] + "..."


@functools.cache
def load(path: Path):
    """Return a file of ``hidden/`` as a module, without making it importable."""
    spec = importlib.util.spec_from_file_location(f"hidden_{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def observed_inputs(file: str):
    """Return the module ``observe.py`` beside ``file``, for the inputs that it holds."""
    return load(Path(file).with_name("observe.py"))


def checks(assignment: str) -> dict[str, dict[str, Check]]:
    """Return ``{task: {check: Check}}`` of an assignment's ``expect.py``."""
    return load(ask.HIDDEN / assignment / "expect.py").CHECKS


def judge(assignment: str, task: str, answers: dict[str, dict]) -> list[Verdict]:
    """Return a verdict on every check of a task.

    Args:
        answers: ``{check: {"value": ...} or {"error": sentence}}``; untrusted.
    """
    asked, verdicts = ask.questions(assignment)[task], []
    for name, check in checks(assignment)[task].items():
        reason = _reason(check, answers.get(name))
        says = (asked[name].__doc__ or name).strip().splitlines()[0].rstrip(".")
        points = 0 if reason else check.points
        hint = "" if "error" in (answers.get(name) or {}) else check.hint  # an error says enough
        verdicts.append(
            Verdict(name, says, points, check.points, reason or "", hint if reason else "")
        )
    return verdicts


def _reason(check: Check, answer) -> str | None:
    if not isinstance(answer, dict) or not {"value", "error"} & set(answer):
        return "no answer: the notebook ended before this was asked"
    if "error" in answer:
        error = answer["error"]
        return error[:500] if isinstance(error, str) and error else short(error)
    try:
        return check.wrong(revived(answer["value"]))
    except Exception as error:  # an answer of a kind that nobody foresaw is a wrong answer
        return f"expected another kind of answer, got {short(answer['value'])} ({error})"[:500]


def examine(assignment: str, task: str, names: dict) -> float:
    """Ask, judge and print in one go; return the points, which nbgrader takes as the mark.

    For a test cell that nbgrader itself runs. Here the student's code and the answers share one
    process: use it for people you trust, and ``make grade`` for all others.
    """
    answers = {
        name: ask.observe(function, names)
        for name, function in ask.questions(assignment)[task].items()
    }
    verdicts = judge(assignment, task, answers)
    for verdict in verdicts:
        mark = "✗" if verdict.reason else "✓"
        print(f"{mark} {verdict.says}: {verdict.points:g} of {verdict.out_of:g}")
        for line in filter(None, (verdict.reason, verdict.hint)):
            print(f"    {line}")
    return float(sum(verdict.points for verdict in verdicts))
