"""Count operations where a test wants to know that something is not quadratic: seconds depend on the machine."""

import sys
from collections.abc import Callable
from typing import Any


def count_calls(function: Callable[..., Any], *arguments: Any) -> int:
    """The number of calls, of Python and of C functions, that a call makes."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function(*arguments)
    finally:
        sys.setprofile(before)
    return calls
