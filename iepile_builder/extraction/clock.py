"""Limit the time of a call."""

import time
from collections.abc import Callable

from iepile_builder.errors import InputError


def start_clock(max_seconds: float | None) -> Callable[[], None]:
    """Start the clock of a call; what is returned raises an `InputError` once the time is up."""
    end = None if max_seconds is None else time.monotonic() + max_seconds

    def check_time() -> None:
        if end is not None and time.monotonic() > end:
            raise InputError(f"this takes more than {max_seconds:g} seconds: give a shorter text or fewer labels")

    return check_time
