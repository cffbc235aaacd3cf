"""The types that the fields of specs are made of. Names, ranges and comments are those of the protos."""

import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from retinue_kit.secrets import REFERENCE

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
DURATION_MAX_S = 315_576_000_000
"""google.protobuf.Duration holds no more: 10,000 years."""

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, token
_REFERENCE_START = re.compile(r"\$\{\s*(env|file)\s*:")
_BARE_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_UNIT_S = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}


def required(example: object) -> Any:
    """A field that has to be set, with an example for people and editors."""
    return Field(examples=[example])


def optional(example: object, *, default: object = None) -> Any:
    """A field that may be left out, with an example; `default` is what the services take then.

    Nothing is filled in here: a spec holds what was written, and so do its versions.
    """
    extra: dict[str, Any] = {} if default is None else {"default": default}
    return Field(default=None, examples=[example], json_schema_extra=extra)


class Broken(NamedTuple):
    """A rule that a spec breaks."""

    place: tuple[str | int, ...]
    """Path of the field inside the spec: `("stdio", "args", 2)`."""
    message: str
    """What is wrong and what to do about it."""


class Secret:
    """Marks a field whose text may hold secret references."""


class RefersTo(NamedTuple):
    """Marks a field that names another component of the same namespace, or a list of them."""

    kind: str


class Part(BaseModel):
    """A message inside a spec. Types are exact: no text is taken for a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Spec(Part):
    """What a component is made of."""

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        """Yield what breaks the rules that bind fields together.

        `given` is as it was written: its fields may have any type.
        """
        _ = given
        yield from ()

    def without_folder(self) -> Iterator[Broken]:
        """Yield the relative paths: one that came by API has no folder that they could start from."""
        yield from ()

    def in_folder(self, folder: Path) -> Self:
        """The same with its relative paths made absolute, from the folder of the file that holds it."""
        _ = folder
        return self


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(
            f"{text[:80]!r} is not a name: use 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit"
        )
    return text


def _text(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    return text


def broken_text(text: str) -> str | None:
    """What is wrong with a text that is no secret; None where nothing is."""
    if found := _REFERENCE_START.search(text):
        return (
            f"holds {found.group()}…}}, and references are only allowed in secret fields: api_key, "
            "client_secret, private_key, and the values of headers and env"
        )
    return "must not hold a NUL character" if "\0" in text else None


def _plain(text: str) -> str:
    if wrong := broken_text(text):
        raise ValueError(wrong)
    return text


def _secret(text: str) -> str:
    rest = REFERENCE.sub("", text)
    if _REFERENCE_START.search(rest):
        raise ValueError("holds a reference that is not well formed: write ${env:NAME} or ${file:PATH}")
    for kind, name in REFERENCE.findall(text):
        if kind == "env" and not _ENV_NAME.fullmatch(name):
            raise ValueError(f"${{env:{name[:80]}}} does not name an environment variable")
    if bare := _BARE_REFERENCE.search(rest):
        raise ValueError(f"holds {bare.group()}: write ${{env:{bare.group(1)}}} to have its value filled in")
    return _text(text)


def _key_reference(text: str) -> str:
    if not REFERENCE.search(text):
        raise ValueError(
            "a plain key does not belong in config: put it into an environment variable and write ${env:NAME}"
        )
    return text


def _url(text: str) -> str:
    _plain(text)
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or re.search(r"\s", text):
        raise ValueError("must be an address that begins with http:// or https:// and names a host")
    _ = parts.port  # raises ValueError where it is none
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user or password: use headers, with ${env:NAME} for what is secret")
    return text


def _duration(value: object) -> str:
    """Seconds as `90s` or `1.5s`: one way to write each span, so that equal ones are equal."""
    wanted = "must be a span of time: 30s, 1.5s, 5m, 250ms, 1h, or a number of seconds"
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip()[:64])
        if match is None:
            raise ValueError(wanted)
        seconds = Decimal(match.group(1)) * _UNIT_S[match.group(2)]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = Decimal(str(value))
    else:
        raise ValueError(wanted)  # noqa: TRY004 - pydantic collects ValueErrors
    if not seconds.is_finite() or not 0 < seconds <= DURATION_MAX_S:
        raise ValueError("must be more than 0, and at most 10,000 years")
    nanos = int(seconds * 1_000_000_000)
    if nanos == 0:
        raise ValueError("must be a billionth of a second or more")
    whole, fraction = divmod(nanos, 1_000_000_000)
    return f"{whole}.{fraction:09}".rstrip("0").rstrip(".") + "s"


def _matches(pattern: re.Pattern[str], what: str) -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"{text[:80]!r} is not the name of {what}")
        return text

    return AfterValidator(check)


def once_each(names: list[str]) -> list[str]:
    """Refuse a list that names something twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"names {', '.join(twice)} more than once")
    return names


def refuse(broken: Iterable[Broken]) -> None:
    """Refuse what breaks rules, for a validator of a field; places are inside the field."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError("broken", "{error}", {"error": each.message}), loc=each.place, input=""
        )
        for each in broken
    ]
    if details:
        raise ValidationError.from_exception_data("field", details)


def _text_like(pattern: re.Pattern[str], *, whole: bool = True) -> WithJsonSchema:
    """What editors are told of a text; the validators say the same in words."""
    found = f"^(?:{pattern.pattern})$" if whole else pattern.pattern
    return WithJsonSchema({"type": "string", "pattern": found})


Name = Annotated[str, AfterValidator(_name), _text_like(NAME)]
Text = Annotated[str, AfterValidator(_plain)]
Required = Annotated[str, Field(min_length=1), AfterValidator(_plain)]
SecretText = Annotated[str, AfterValidator(_secret), Secret()]
KeyReference = Annotated[SecretText, AfterValidator(_key_reference), _text_like(REFERENCE, whole=False)]
Url = Annotated[str, AfterValidator(_url), _text_like(re.compile("^https?://"), whole=False)]
Duration = Annotated[
    str,
    BeforeValidator(_duration),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": f"^\\s*(?:{_DURATION.pattern})\\s*$"},
                {"type": "number", "exclusiveMinimum": 0},
            ]
        }
    ),
]
EnvName = Annotated[str, _matches(_ENV_NAME, "an environment variable"), _text_like(_ENV_NAME)]
HeaderName = Annotated[str, _matches(_HEADER_NAME, "an HTTP header"), _text_like(_HEADER_NAME)]
Headers = Annotated[dict[HeaderName, SecretText], Secret()]
Count = Annotated[int, Field(ge=1, le=INT32_MAX)]
LabelKey = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_plain)]
LabelValue = Annotated[str, Field(max_length=1024), AfterValidator(_plain)]
MAX_LABELS = 64


class Labels(Part):
    """The labels of a component of any kind."""

    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=MAX_LABELS)] = Field(
        default={}, examples=[{"team": "support"}]
    )


def secret_in_folder(text: str, folder: Path) -> str:
    """The text with the relative paths of its `${file:PATH}` made absolute."""
    return REFERENCE.sub(
        lambda match: (
            f"${{file:{folder / match.group(2)}}}"
            if match.group(1) == "file" and not Path(match.group(2)).is_absolute()
            else match.group()
        ),
        text,
    )


def relative_references(place: tuple[str | int, ...], text: str) -> Iterator[Broken]:
    """Yield the `${file:PATH}` of a secret whose path is relative."""
    for kind, path in REFERENCE.findall(text):
        if kind == "file" and not Path(path).is_absolute():
            yield Broken(place, f"${{file:{path}}} must be an absolute path where it comes by API")
