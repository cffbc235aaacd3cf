"""Texts that are kept: how one is made, and by which terms it is found."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from retinue.errors import InvalidArgumentError, PayloadTooLargeError, Violation

MAX_TEXT_BYTES = 64 * 1024
MAX_TERMS = 2000
"""Different words of one text by which it is found: the first."""
MAX_QUERY = 64
"""Different words of one query that count: the first."""
MAX_LABELS = 64
MAX_LABEL_NAME = 128
MAX_LABEL_VALUE = 1024

_WORD = re.compile(r"\w{1,64}")


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """One text."""

    namespace: str
    memory_id: str
    text: str
    labels: Mapping[str, str]
    create_us: int
    expire_us: int | None = None
    """When it is forgotten; None: never."""
    run_id: str = ""
    """The run that wrote it."""

    @property
    def terms(self) -> list[str]:
        """What it is found by: its words, and its labels."""
        return [*words_of(self.text, MAX_TERMS), *label_terms(self.labels)]


def words_of(text: str, most: int = MAX_QUERY) -> list[str]:
    """The different words of a text, without case and accents."""
    found: dict[str, None] = {}
    for word in _plain_words(text):
        found[word] = None
        if len(found) == most:
            break
    return list(found)


def _plain_words(text: str) -> Iterator[str]:
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(each for each in decomposed if not unicodedata.combining(each))
    return (match.group() for match in _WORD.finditer(plain))


def label_terms(labels: Mapping[str, str]) -> list[str]:
    """Labels as terms, which no word is."""
    return [json.dumps([name, value], ensure_ascii=False) for name, value in labels.items()]


def memory_id(*parts: str) -> str:
    """The id of the text that is told from others by these parts: the same each time it is written."""
    return f"memory-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]}"


def check_text(text: str) -> None:
    """Raise InvalidArgumentError, PayloadTooLargeError where a text cannot be kept."""
    size = len(text.encode())
    if not text.strip():
        raise _invalid("text", "is empty: there is nothing to keep")
    if size > MAX_TEXT_BYTES:
        raise PayloadTooLargeError(
            f"the text has {size} bytes, and at most {MAX_TEXT_BYTES} are kept: let a step shorten it",
            size_bytes=size,
            limit_bytes=MAX_TEXT_BYTES,
        )


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise InvalidArgumentError where there are too many labels, or one is too long."""
    if len(labels) > MAX_LABELS:
        raise _invalid("labels", f"has {len(labels)} labels, and takes {MAX_LABELS}")
    for name, value in labels.items():
        if not 1 <= len(name) <= MAX_LABEL_NAME or len(value) > MAX_LABEL_VALUE:
            raise _invalid(
                f"labels.{name[:MAX_LABEL_NAME]}",
                f"must have a name of 1 to {MAX_LABEL_NAME} characters, and a value of at most "
                f"{MAX_LABEL_VALUE}",
            )


def _invalid(field: str, what: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field} {what}", violations=[Violation(field, what)])
