"""What is asked of a submission: functions that return raw numbers, never verdicts.

This side runs in the same process as the student's code and is not trusted. It only computes and
writes down; whether the numbers are right is decided by :mod:`grader.judge`, which the student's
process never loads.
"""

import contextlib
import functools
import io
import json
import math
import pkgutil
import runpy
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

HIDDEN = Path(__file__).parents[1] / "hidden"
LIMIT = 10_000  # numbers in one array, parts of one answer
LARGEST = 1_000_000  # characters of one answer


class Missing(Exception):
    """The notebook lacks a name that the assignment asks for."""


class Student(Mapping):
    """The names of a student's notebook.

    Raises:
        Missing: for a name that it does not define, with what to do.
    """

    def __init__(self, names: dict):
        self._names = names

    def __getitem__(self, name: str):
        if name not in self._names:
            raise Missing(
                f"expected the notebook to define `{name}`, got no such name: keep the names that "
                "the assignment gives, and see whether the cell that defines it runs"
            )
        return self._names[name]

    def __iter__(self):
        return iter(self._names)

    def __len__(self):
        return len(self._names)


def asks(task: str) -> Callable:
    """Mark a function of ``observe.py`` as a check of a task (the ``grade_id`` of its test cell)."""

    def mark(function: Callable) -> Callable:
        function.task = task
        return function

    return mark


@functools.cache
def questions(assignment: str) -> dict[str, dict[str, Callable]]:
    """Return ``{task: {check: function}}`` of an assignment's ``observe.py``."""
    found: dict[str, dict[str, Callable]] = {}
    names = runpy.run_path(str(HIDDEN / assignment / "observe.py"))
    for name, value in names.items():
        if hasattr(value, "task"):
            found.setdefault(value.task, {})[name] = value
    return found


def observe(function: Callable, names: dict) -> dict:
    """Ask one question and return the answer, or what was raised, in JSON's own types."""
    try:
        with (
            switched_off(function.__globals__.get("SWITCHED_OFF", ())),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            answer = {"value": plain(function(Student(names)))}
            size = len(json.dumps(answer))  # raises what cannot be told
        if size > LARGEST:
            raise ValueError(f"expected an answer of at most {LARGEST} characters, got {size}")
        return answer
    except Missing as error:
        return {"error": str(error)}
    except Exception as error:  # whatever the student's code raises
        if type(error) is NotImplementedError and not error.args:  # torch raises it with a text
            return {"error": "not written yet: the function raises NotImplementedError"}
        return {"error": named(error)}


def named(error: BaseException) -> str:
    """Return kind and text of an error, which may be unable to tell its text."""
    kind = str(type.__getattribute__(type(error), "__name__"))
    try:
        return f"{kind}: {error}"[:500]
    except BaseException:
        return kind[:500]


FUNCTIONAL = [name for name in dir(torch.nn.functional) if name.endswith("_norm")]


class Refused(TorchFunctionMode):
    """Sees every call of torch, under whatever name the student keeps the function."""

    def __init__(self, names: Iterable[str]):
        super().__init__()
        self.names = set(names)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in self.names or any(norm in name for norm in FUNCTIONAL):
            refuse()
        return function(*args, **(kwargs or {}))


def refuse(*_, **__):
    """Raise instead of answering."""
    raise RuntimeError("this function of torch is switched off while your work is graded")


@contextlib.contextmanager
def switched_off(more: Iterable[str] = ()):
    """Make torch's own normalization functions raise, so that an answer is the student's own.

    Args:
        more: names of other functions, such as ``"torch.cosine_similarity"``; an ``observe.py``
            lists them as ``SWITCHED_OFF``.
    """
    places = [(torch.nn.functional, name) for name in FUNCTIONAL]
    places += [(torch, name) for name in FUNCTIONAL if hasattr(torch, name)]
    for name in more:
        place, _, last = name.rpartition(".")
        places.append((pkgutil.resolve_name(place), last))
    kept = [(place, name, getattr(place, name)) for place, name in places]
    try:
        for place, name in places:
            setattr(place, name, refuse)
        with Refused(name.rpartition(".")[2] for name in more):
            yield
    finally:
        for place, name, value in kept:
            setattr(place, name, value)


def plain(value, room: Iterator | None = None):
    """Return a value in JSON's own types; an array becomes its dtype, shape and numbers.

    Raises:
        TypeError: it is no tensor, array, number, text, None, or list or dict of these.
        ValueError: it holds more than 10,000 parts, or an array of more than 10,000 numbers.
    """
    room = iter(range(LIMIT)) if room is None else room
    if next(room, None) is None:
        raise ValueError(f"expected an answer of at most {LIMIT} parts, got more")
    if isinstance(value, torch.Tensor):
        small(value.shape)
        value = value.detach().cpu()
        dtype = str(value.dtype).removeprefix("torch.")
        return array(value.double().numpy() if value.is_floating_point() else value.numpy(), dtype)
    if isinstance(value, np.ndarray | np.generic):
        small(value.shape)
        return array(np.asarray(value), str(value.dtype))
    if isinstance(value, dict):
        return {"dict": {str(key): plain(part, room) for key, part in value.items()}}
    if isinstance(value, list | tuple):
        return [plain(part, room) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"expected a tensor, an array or a number, got {type(value).__name__}")


def small(shape: tuple[int, ...]) -> None:
    """Raise ValueError for the shape of more than 10,000 numbers."""
    if math.prod(shape) > LIMIT:
        raise ValueError(f"expected at most {LIMIT} numbers, got shape {tuple(shape)}")


def array(values: np.ndarray, dtype: str) -> dict:
    """Return an array as ``{"array": numbers, "shape": [...], "dtype": "..."}``."""
    return {"array": values.ravel().tolist(), "shape": list(values.shape), "dtype": dtype}
