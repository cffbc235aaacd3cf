"""How a command ends badly: one clear line on stderr with the next step, and an exit status."""

import json
import os
import sys
import traceback
from typing import Any

FAILED = 1
USAGE = 2
CANCELLED = 3
INTERRUPTED = 130


class CommandError(Exception):
    """What stops a command, in words for the person who typed it: what is wrong and what to do about it."""

    def __init__(self, message: str, *, status: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


def debugging() -> bool:
    """Whether RETINUE_DEBUG asks for tracebacks."""
    return os.environ.get("RETINUE_DEBUG", "").lower() in {"1", "true", "yes"}


def report(error: Exception, *, as_json: bool) -> int:
    """Say on stderr what went wrong and return the exit status."""
    if debugging():
        traceback.print_exception(error)
    if isinstance(error, CommandError):
        _say(error.message, as_json=as_json)
        return error.status
    from retinue.errors import RetinueError, reason_name  # noqa: PLC0415 - costs 0.1 s, only where it fails

    if isinstance(error, RetinueError):
        facts: dict[str, Any] = {"reason": reason_name(error.reason), "facts": error.facts}
        if error.violations:
            facts["violations"] = [violation._asdict() for violation in error.violations]
        _say(words(error), as_json=as_json, **facts)
        return FAILED
    hint = "" if debugging() else "; set RETINUE_DEBUG=1 to see where"
    if isinstance(error, OSError):
        _say(f"{error}{hint}", as_json=as_json)
    else:
        _say(f"unexpected {type(error).__name__}: {error}{hint}", as_json=as_json)
    return FAILED


def words(error: Exception) -> str:
    """An error of Retinue in one line, or a line for each field, with the next step."""
    from retinue.errors import (  # noqa: PLC0415 - costs 0.1 s, only where it fails
        DeadlineExceededError,
        RetinueError,
        ServiceUnavailableError,
        UnauthenticatedError,
        UnimplementedError,
    )

    if isinstance(error, ServiceUnavailableError) and "address" in error.facts:
        service, address = error.facts.get("service", "service"), error.facts["address"]
        return f"the {service} is not running at {address}: start it with `retinue up`"
    text = str(error)
    if isinstance(error, UnauthenticatedError):
        return f"{text}, or give --token" if "RETINUE_TOKEN" in text else f"{text}: set RETINUE_TOKEN"
    if isinstance(error, DeadlineExceededError):
        return f"{text}: the service did not answer in time; `retinue doctor` looks for the cause"
    if isinstance(error, UnimplementedError):
        return f"{text}: the service is older than this `retinue`; start both from one version"
    if isinstance(error, RetinueError):
        nearest = error.facts.get("nearest")
        if nearest and nearest not in text:
            return f"{text}; did you mean {nearest}?"
    return text


def _say(message: str, *, as_json: bool, **facts: object) -> None:
    if as_json:
        line = json.dumps({"error": {"message": message, **facts}}, ensure_ascii=False)
    else:
        from retinue_cli.wording import clean  # noqa: PLC0415

        line = f"error: {clean(message)}"
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
