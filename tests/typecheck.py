"""The checker of types that jaxtyping is given: beartype, which checks a function within a function once, not per call.

A nested function is made anew by each call of the one around it. Its checks are the same each time, and writing them
takes longer than most of our functions do.
"""

from collections.abc import Callable
from typing import Any

from beartype import beartype

_CHECKED: dict[tuple[Any, ...], Callable[..., Any]] = {}


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Args:
    function: made by jaxtyping, with a signature to check and nothing else.
    """
    if "<locals>" not in function.__qualname__:
        return beartype(function)
    key = function.__module__, function.__qualname__, function.__code__, str(function.__annotations__)
    if key not in _CHECKED:
        _CHECKED[key] = beartype(function)
    return _CHECKED[key]
