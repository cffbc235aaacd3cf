"""Secret references: `${env:NAME}` and `${file:PATH}`, resolved by the service that uses the value."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from retinue.errors import SecretNotFoundError

REFERENCE = re.compile(r"\$\{(env|file):([^}]+)\}")

MAX_SECRET_BYTES = 64 * 1024
MIN_HIDDEN_CHARS = 4
"""A shorter value would blot out half of a text, and protects nothing."""


def resolve_secret(text: str, *, field: str, values: list[str] | None = None) -> str:
    """The text with its references replaced by their values. `field` names its place in errors.

    A file's value ends before its last newline. The values alone are added to `values`, for those who cut
    them out of what a server says. Raises SecretNotFoundError.
    """

    def noted(match: re.Match[str]) -> str:
        found = _value(match, field)
        if values is not None and found:
            values.append(found)
        return found

    return REFERENCE.sub(noted, text)


def hide_values(text: str, values: Iterable[str]) -> str:
    """The text, in which somebody else may have repeated secrets, without these values and their lines."""
    for value in values:
        for part in (value, *value.split("\n")) if "\n" in value else (value,):
            if len(part) >= MIN_HIDDEN_CHARS:
                text = text.replace(part, "***")
    return text


def references(text: str) -> Iterator[str]:
    """Yield the references in a text, `${env:NAME}`, each as it is written."""
    for match in REFERENCE.finditer(text):
        yield match.group()


def _value(match: re.Match[str], field: str) -> str:
    kind, name = match.groups()
    if kind == "env":
        found = os.environ.get(name)
        if found is None:
            raise SecretNotFoundError(
                f"{field} needs the environment variable {name}, which is not set here: export {name} "
                "where the service is started",
                reference=match.group(),
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
        reference=match.group(),
        field=field,
    )


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
