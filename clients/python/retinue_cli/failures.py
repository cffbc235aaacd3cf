"""How a command ends badly: one clear line on stderr with the next step, and an exit status."""

import json
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retinue.errors import ServiceUnavailableError

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
    from retinue.errors import RetinueError, reason_name

    if isinstance(error, RetinueError):
        facts: dict[str, Any] = {"reason": reason_name(error.reason), "facts": error.facts}
        if error.violations:
            facts["violations"] = [violation._asdict() for violation in error.violations]
        _say(words(error), as_json=as_json, **facts)
        return FAILED
    hint = "" if debugging() else "; set RETINUE_DEBUG=1 to see where"
    if isinstance(error, OSError) and error.filename and error.strerror:
        _say(f"{error.filename} cannot be used: {error.strerror}", as_json=as_json)
    elif isinstance(error, OSError):
        _say(f"{error}{hint}", as_json=as_json)
    else:
        _say(f"unexpected {type(error).__name__}: {error}{hint}", as_json=as_json)
    return FAILED


def words(error: Exception) -> str:
    """An error of Retinue in one line, or a line for each field, with the next step."""
    from retinue.errors import (
        DeadlineExceededError,
        RetinueError,
        ServiceUnavailableError,
        UnauthenticatedError,
        UnimplementedError,
    )

    if isinstance(error, ServiceUnavailableError) and "address" in error.facts:
        return _out_of_reach(error)
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


def _out_of_reach(error: "ServiceUnavailableError") -> str:
    service, address = error.facts.get("service", "service"), error.facts["address"]
    if "handshake" in str(error).lower():
        return (
            f"the {service} at {address} cannot be called with TLS as it is set here: RETINUE_TLS_CA_FILE "
            "names the certificates to trust; without it RETINUE_TLS=true trusts the system's"
        )
    if "failed to connect" in str(error) and "Socket closed" in str(error):
        way = "if it serves with TLS, set RETINUE_TLS_CA_FILE or RETINUE_TLS=true"
        return f"the {service} at {address} hangs up: {way}"
    return f"the {service} is not running at {address}: start it with `retinue up`"


def _say(message: str, *, as_json: bool, **facts: object) -> None:
    if as_json:
        line = json.dumps({"error": {"message": message, **facts}}, ensure_ascii=False)
    else:
        from retinue_cli.wording import clean

        line = f"error: {clean(message)}"
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
