"""How the floor asks the model: aiohttp, or litellm in its place, as one would write it by hand."""

import importlib
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import aiohttp
import orjson

_HEADERS = {"Content-Type": "application/json", "Accept": "text/event-stream", "Accept-Encoding": "identity"}


class Answer:
    """A model's answer while it comes in."""

    def __init__(self) -> None:
        self.text = ""
        self.call_id = self.name = self.arguments = self.finish_reason = ""
        self.usage: Mapping[str, int] = {}
        self._rest = b""

    def feed(self, data: bytes) -> str:
        """Take what was read; the text in it."""
        *events, self._rest = (self._rest + data).split(b"\n\n")
        text = ""
        for event in events:
            if event == b"data: [DONE]":
                break
            chunk = orjson.loads(event[6:])
            if usage := chunk.get("usage"):
                self.usage = usage
            text += self.add(chunk["choices"])
        return text

    def add(self, choices: Iterable[Mapping[str, Any]]) -> str:
        """Take the choices of a chunk; the text in them."""
        text = ""
        for choice in choices:
            self.finish_reason = choice["finish_reason"] or self.finish_reason
            delta = choice["delta"]
            text += delta.get("content") or ""
            for call in delta.get("tool_calls") or ():
                function = call["function"]
                self.call_id = call.get("id") or self.call_id
                self.name = function.get("name") or self.name
                self.arguments += function["arguments"]
        self.text += text
        return text


class Model(Protocol):
    """Asks a model."""

    def ask(self, target: str, body: Mapping[str, Any], answer: Answer) -> AsyncIterator[str]:
        """Send a request, put what comes into the answer, and yield the text in it as it comes."""


class AiohttpModel:
    """By one kept session."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url = url
        self._http = http

    async def ask(self, target: str, body: Mapping[str, Any], answer: Answer) -> AsyncIterator[str]:
        """As `Model.ask`."""
        async with self._http.post(
            f"{self._url}/{target}/v1/chat/completions",
            data=orjson.dumps({**body, "model": "fake", "stream": True}),
            headers=_HEADERS,
        ) as response:
            async for data in response.content.iter_any():
                if text := answer.feed(data):
                    yield text


class LitellmModel:
    """By litellm.acompletion."""

    def __init__(self, url: str) -> None:
        self._url = url
        # Else the import fetches a price table from the internet.
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        litellm: Any = importlib.import_module("litellm")
        litellm.suppress_debug_info = True
        litellm.turn_off_message_logging = True
        self._litellm = litellm

    async def ask(self, target: str, body: Mapping[str, Any], answer: Answer) -> AsyncIterator[str]:
        """As `Model.ask`."""
        stream = await self._litellm.acompletion(
            model="openai/fake",
            api_base=f"{self._url}/{target}/v1",
            api_key="none",
            messages=body["messages"],
            tools=body["tools"] or None,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            if usage := getattr(chunk, "usage", None):
                answer.usage = {
                    "prompt_tokens": usage.prompt_tokens,
                    "completion_tokens": usage.completion_tokens,
                }
            if text := answer.add(chunk.choices):
                yield text


@asynccontextmanager
async def open_model(url: str, transport: str) -> AsyncIterator[Model]:
    """The model at an address, by `direct` (aiohttp) or `litellm`."""
    if transport == "litellm":
        yield LitellmModel(url)
        return
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        yield AiohttpModel(url, http)
