"""The script's format: the pydantic models of the YAML, and which answer fits a conversation."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictStr, model_validator

from retinue_cli.scripted_model.conversation import Conversation
from retinue_cli.scripted_model.loader import ScriptError, validated

__all__ = ["Answer", "Script", "ScriptError", "load_script", "parse_script"]


def _is_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        msg = f"not a regular expression: {error}"
        raise ValueError(msg) from None
    return text


Pattern = Annotated[StrictStr, AfterValidator(_is_pattern)]
Milliseconds = Annotated[int, Field(strict=True, ge=0, le=3_600_000)]
Tokens = Annotated[int, Field(strict=True, ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ToolCall(_Part):
    """A tool call of the answer."""

    name: StrictStr
    arguments: Any = Field(default_factory=dict)
    """A mapping, or a string that is sent as it stands, valid JSON or not."""
    id: StrictStr | None = None

    @model_validator(mode="after")
    def _arguments_are_a_mapping_or_text(self) -> "ToolCall":
        if not isinstance(self.arguments, dict | str):
            msg = "arguments are a mapping, or a string that is sent as it stands"
            raise ValueError(msg)  # noqa: TRY004 (pydantic turns a ValueError into its own error)
        return self


class Usage(_Part):
    """What the answer says that it cost."""

    input_tokens: Tokens
    output_tokens: Tokens
    cached_input_tokens: Tokens = 0
    reasoning_tokens: Tokens = 0


class Failure(_Part):
    """An answer with a status of failure."""

    status: Annotated[int, Field(strict=True, ge=400, le=599)]
    message: StrictStr = "scripted error"
    code: StrictStr | None = None
    retry_after: Annotated[int, Field(strict=True, ge=0)] | StrictStr | None = None
    """The header Retry-After: seconds, or a date as text."""


class Answer(_Part):
    """What the model answers: text and tool calls, or one kind of failure."""

    reasoning: StrictStr | None = None
    text: StrictStr | None = None
    chunks: list[StrictStr] | None = None
    structured: dict[str, Any] | list[Any] | None = None
    """Sent as the text of its JSON."""
    chunk_size: Annotated[int, Field(strict=True, ge=1)] = 20
    tool_calls: list[ToolCall] = Field(default_factory=list)
    delay_ms: Milliseconds = 0
    chunk_delay_ms: Milliseconds = 0
    usage: Usage | None = None
    no_usage: StrictBool = False
    finish_reason: StrictStr | None = None
    error: Failure | None = None
    garbage: StrictStr | None = None
    cut: Annotated[int, Field(strict=True, ge=0)] | None = None
    hang: StrictBool = False

    @model_validator(mode="after")
    def _is_one_thing(self) -> "Answer":
        texts = [each for each in (self.text, self.chunks, self.structured) if each is not None]
        reply = bool(texts or self.tool_calls)
        kinds = [reply, self.error is not None, self.garbage is not None, self.hang]
        if sum(kinds) != 1:
            msg = "an answer is one of: text, chunks, structured or tool_calls; error; garbage; hang: true"
            raise ValueError(msg)
        if len(texts) > 1:
            msg = "text, chunks and structured exclude one another"
            raise ValueError(msg)
        if (self.cut is not None or self.reasoning is not None) and not reply:
            msg = "cut and reasoning go with text, chunks, structured or tool_calls; there are none"
            raise ValueError(msg)
        if self.usage is not None and self.no_usage:
            msg = "usage and no_usage exclude each other"
            raise ValueError(msg)
        return self


class When(_Part):
    """What must hold of the conversation, all of it."""

    model: StrictStr | None = None
    turn: Annotated[int, Field(strict=True, ge=1)] | None = None
    last_role: Literal["system", "developer", "user", "assistant", "tool"] | None = None
    user_contains: StrictStr | None = None
    user_matches: Pattern | None = None
    tool_contains: StrictStr | None = None
    tool_matches: Pattern | None = None
    system_contains: StrictStr | None = None
    has_image: StrictBool | None = None
    has_file: StrictBool | None = None
    response_format: Literal["text", "json_object", "json_schema"] | None = None

    def holds(self, conversation: Conversation) -> bool:
        """Whether all that is set holds; contains and matches look at text, upper and lower case apart."""
        said = conversation.last_user
        results = conversation.tool_results
        return (
            (self.model is None or self.model == conversation.model)
            and (self.turn is None or self.turn == conversation.turn)
            and (self.last_role is None or self.last_role == conversation.last_role)
            and (self.user_contains is None or self.user_contains in said)
            and (self.user_matches is None or re.search(self.user_matches, said) is not None)
            and (self.tool_contains is None or any(self.tool_contains in each for each in results))
            and (self.tool_matches is None or any(re.search(self.tool_matches, each) for each in results))
            and (self.system_contains is None or self.system_contains in conversation.system)
            and self.has_image in (None, bool(conversation.images))
            and self.has_file in (None, bool(conversation.files))
            and self.response_format in (None, conversation.response_format)
        )


class Rule(Answer):
    """An answer with its condition."""

    when: When = When()
    times: Annotated[int, Field(strict=True, ge=1)] | None = None
    """How often the rule is used while the server runs; without limit where it is not set."""


class Script(_Part):
    """A whole script."""

    name: Annotated[StrictStr, Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")] = "script"
    rules: list[Rule] = Field(default_factory=list)
    turns: list[Answer] = Field(default_factory=list)
    default: Answer | None = None

    @model_validator(mode="after")
    def _answers_something(self) -> "Script":
        if not (self.rules or self.turns or self.default):
            msg = "the script answers nothing; give it rules, turns or default"
            raise ValueError(msg)
        return self

    def answer_to(self, conversation: Conversation, used: dict[int, int]) -> Answer | None:
        """The answer: first rule that holds, else the turn of that number, else the default.

        `used` counts the uses of each rule by its place, and is counted up.
        """
        for place, rule in enumerate(self.rules):
            if rule.times is not None and used.get(place, 0) >= rule.times:
                continue
            if rule.when.holds(conversation):
                used[place] = used.get(place, 0) + 1
                return rule
        if conversation.turn <= len(self.turns):
            return self.turns[conversation.turn - 1]
        return self.default


def load_script(path: Path) -> Script:
    """Read a script; raises ScriptError that names file, line and the nearest valid key."""
    try:
        source = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScriptError(f"{path}: cannot be read: {error}") from None
    script = parse_script(source, str(path))
    if "name" in script.model_fields_set:
        return script
    return script.model_copy(update={"name": re.sub(r"[^A-Za-z0-9._-]", "-", path.stem)})


def parse_script(source: str, file: str = "<script>") -> Script:
    """Read a script from its text; raises ScriptError."""
    return validated(Script, source, file)
