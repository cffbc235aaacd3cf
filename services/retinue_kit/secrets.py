"""Secret references: `${env:NAME}` and `${file:PATH}`, resolved by the service that uses the value."""

import os
import re
from pathlib import Path

from retinue.errors import SecretNotFoundError

REFERENCE = re.compile(r"\$\{(env|file):([^}]+)\}")

MAX_SECRET_BYTES = 64 * 1024


def resolve_secret(text: str, *, field: str) -> str:
    """The text with its references replaced by their values. `field` names its place in errors.

    A file's value ends before its last newline. Raises SecretNotFoundError.
    """

    def value(match: re.Match[str]) -> str:
        kind, name = match.groups()
        if kind == "env":
            found = os.environ.get(name)
            if found is None:
                raise SecretNotFoundError(
                    f"{field} needs the environment variable {name}, which is not set here: export {name} "
                    "where the service is started",
                    reference=match.group(0),
                    field=field,
                )
            return found
        try:
            with Path(name).open("rb") as file:
                data = file.read(MAX_SECRET_BYTES + 1)
        except OSError as error:
            why = error.strerror
        else:
            if len(data) <= MAX_SECRET_BYTES and _is_text(data):
                return data.decode().removesuffix("\n")
            why = f"it is not UTF-8 text of at most {MAX_SECRET_BYTES} bytes"
        raise SecretNotFoundError(
            f"{field} needs the file {name}, which cannot be read: {why}",
            reference=match.group(0),
            field=field,
        )

    return REFERENCE.sub(value, text)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
