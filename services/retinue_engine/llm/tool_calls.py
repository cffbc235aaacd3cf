"""Tool calls while they come in: the pieces of several calls, put together, liberally to what servers do."""

import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from retinue_engine.llm.model import ToolRequest

_CALL_CHARS = 64  # what a call counts besides its text, so that empty calls are bounded too


@dataclass(slots=True)
class _Call:
    call_id: str
    name: str
    arguments: list[str] = field(default_factory=list)


class ToolCalls:
    """The calls of one message, in the order in which they began."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._at_index: dict[int, _Call] = {}

    def add(self, delta: Any) -> int:
        """Take one piece of a call; gives the characters that it adds."""
        if not isinstance(delta, dict):
            return 0
        function = delta.get("function")
        function = function if isinstance(function, dict) else {}
        call_id, name = _text(delta.get("id")), _text(function.get("name"))
        arguments = _arguments(function.get("arguments"))
        index = delta.get("index")
        call = self._find(index, call_id, name)
        chars = len(arguments)
        if call is None or _begins_another(call, call_id, name, arguments):
            call = _Call(call_id, name)
            self._calls.append(call)
            chars += _CALL_CHARS + len(call_id) + len(name)
        else:
            call.call_id = call.call_id or call_id
            # Some servers repeat the name with each piece.
            if not call.name:
                call.name = name
        if isinstance(index, int):
            self._at_index[index] = call
        if arguments:
            call.arguments.append(arguments)
        return chars

    def finished(self) -> tuple[ToolRequest, ...]:
        """The calls, each with an id of its own."""
        taken: set[str] = set()
        requests = []
        for call in self._calls:
            call_id = call.call_id
            if not call_id or call_id in taken:
                # Random: some providers refuse a conversation in which two messages use one id.
                call_id = f"call_{secrets.token_hex(12)}"
            taken.add(call_id)
            requests.append(ToolRequest(call_id, call.name, without_surrogates("".join(call.arguments))))
        return tuple(requests)

    def _find(self, index: Any, call_id: str, name: str) -> _Call | None:
        if isinstance(index, int):
            return self._at_index.get(index)
        if call_id:
            return next((call for call in self._calls if call.call_id == call_id), None)
        # Without index and id, a name begins a call and arguments go on with the last.
        return self._calls[-1] if self._calls and not name else None


def _begins_another(call: _Call, call_id: str, name: str, arguments: str) -> bool:
    """Whether a piece at a known index belongs to a new call: some servers send every call as index 0."""
    if call_id and call.call_id and call_id != call.call_id:
        return True
    if not name or not call.name:
        return False
    # A name again: a server that repeats it, unless what came before is whole and this begins anew.
    return arguments.startswith("{") and _is_whole("".join(call.arguments))


def _is_whole(arguments: str) -> bool:
    if not arguments.rstrip().endswith("}"):
        return False
    try:
        json.loads(arguments)
    except ValueError:
        return False
    return True


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _arguments(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    # Some servers send the arguments as an object instead of its text.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def without_surrogates(text: str) -> str:
    """The text, whole pairs of surrogates joined and lone halves replaced: no store or wire takes them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
