"""The rules of an llm."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from retinue_registry.models.fields import (
    INT64_MAX,
    Broken,
    Duration,
    Headers,
    KeyReference,
    Part,
    Required,
    Spec,
    Text,
    Url,
    optional,
    relative_references,
    required,
    secret_in_folder,
)

Price = Annotated[int, Field(ge=0, le=INT64_MAX)]


class GenerationSettings(Part):
    """How a model writes."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = optional(0.2)
    top_p: Annotated[float, Field(ge=0, le=1)] | None = optional(0.9)
    max_output_tokens: Annotated[int, Field(ge=1, le=INT64_MAX)] | None = optional(2_000)
    seed: Annotated[int, Field(ge=-INT64_MAX - 1, le=INT64_MAX)] | None = optional(7)
    stop: Annotated[list[Required], Field(max_length=4)] | None = optional(["END"])


class LlmPrice(Part):
    """What a model costs, in billionths of a US dollar for a million tokens."""

    input_nano_usd_per_million: Price | None = optional(150_000_000)
    output_nano_usd_per_million: Price | None = optional(600_000_000)
    cached_input_nano_usd_per_million: Price | None = optional(75_000_000)


class LlmSpec(Spec):
    """A language model and how to reach it."""

    description: Text | None = optional("Quick and cheap.")
    model: Required = required("gpt-4o-mini")
    protocol: Literal["openai_chat"] | None = optional("openai_chat")
    transport: Literal["auto", "direct", "litellm"] | None = optional("direct", default="auto")
    base_url: Url | None = optional("https://api.openai.com/v1")
    api_key: KeyReference | None = optional("${env:OPENAI_API_KEY}")
    headers: Headers | None = optional({"X-Team": "${env:TEAM_KEY}"})
    generation: GenerationSettings | None = optional({"temperature": 0.2})
    timeout: Duration | None = optional("90s", default="120s")
    price: LlmPrice | None = optional({"input_nano_usd_per_million": 150_000_000})
    max_retries: Annotated[int, Field(ge=0, le=20)] | None = optional(4, default=2)
    structured_output: Literal["auto", "native", "instruction"] | None = optional(
        "instruction", default="auto"
    )

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        """Yield what the direct transport lacks."""
        transport, protocol = given.get("transport", "auto"), given.get("protocol")
        if transport == "direct" and not protocol:
            yield Broken(
                ("transport",),
                "direct needs to know what the server speaks: set protocol: openai_chat, "
                "or use transport: litellm",
            )
        if (transport == "direct" or (transport == "auto" and protocol == "openai_chat")) and not given.get(
            "base_url"
        ):
            why = (
                "transport: direct"
                if transport == "direct"
                else "protocol, which makes the transport direct,"
            )
            yield Broken(
                ("transport" if transport == "direct" else "protocol",),
                f"{why} needs the server's address: set base_url, for example https://api.openai.com/v1, "
                "or use transport: litellm",
            )

    def without_folder(self) -> Iterator[Broken]:
        """Yield the secrets in files that are named by a relative path."""
        yield from relative_references(("api_key",), self.api_key or "")
        for name, value in (self.headers or {}).items():
            yield from relative_references(("headers", name), value)

    def in_folder(self, folder: Path) -> Self:
        """The same with the paths of its secrets made absolute."""
        changes: dict[str, Any] = {}
        if self.api_key:
            changes["api_key"] = secret_in_folder(self.api_key, folder)
        if self.headers:
            changes["headers"] = {k: secret_in_folder(v, folder) for k, v in self.headers.items()}
        return self.model_copy(update=changes)
