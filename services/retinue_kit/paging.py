"""Pages of a list: how large they are, and the opaque token that says where the next one begins."""

import base64
import binascii
import json
from collections.abc import Sequence

from retinue.errors import InvalidArgumentError, Violation

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000

_INT64_MAX = 2**63 - 1
"""No store counts further."""


def page_limit(page_size: int, *, default: int = DEFAULT_PAGE_SIZE) -> int:
    """How many items a page has. Raises InvalidArgumentError below 0 and above 1000."""
    if not 0 <= page_size <= MAX_PAGE_SIZE:
        raise InvalidArgumentError(
            f"page_size is {page_size}: use 1 to {MAX_PAGE_SIZE}, or 0 for {default}",
            violations=[Violation("page_size", f"must be 0 to {MAX_PAGE_SIZE}")],
        )
    return page_size or default


def encode_page_token(place: Sequence[str | int]) -> str:
    """The token of the place after which the next page begins."""
    return base64.urlsafe_b64encode(json.dumps(place, separators=(",", ":")).encode()).decode()


def decode_page_token(token: str, *shape: type[str] | type[int]) -> list[str | int] | None:
    """The place that a token names; None for the empty token. Raises InvalidArgumentError."""
    if not token:
        return None
    try:
        place = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        place = None
    if isinstance(place, list) and [type(part) for part in place] == list(shape) and _is_countable(place):
        return place
    raise InvalidArgumentError(
        "page_token is not one that this list gave: begin again without it",
        violations=[Violation("page_token", "must be the next_page_token of the page before")],
    )


def _is_countable(place: Sequence[str | int]) -> bool:
    return all(abs(part) <= _INT64_MAX for part in place if isinstance(part, int))
