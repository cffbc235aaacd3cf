"""How long to wait before the next try."""

import random
from collections.abc import Iterator

FIRST_S = 0.1
LONGEST_S = 5.0


def backoff_s() -> Iterator[float]:
    """Yield waits in seconds, doubling from 0.1 to 5, with jitter so that callers do not march in step."""
    longest = FIRST_S
    while True:
        yield random.uniform(longest / 2, longest)  # noqa: S311 - spreads callers, guards nothing
        longest = min(longest * 2, LONGEST_S)
