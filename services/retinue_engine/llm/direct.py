"""The direct transport: the OpenAI chat-completions protocol over one kept aiohttp session."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson
from yarl import URL

from retinue_engine.llm.answer import MAX_ANSWER_CHARS, Answer
from retinue_engine.llm.failures import (
    error_from_status,
    not_in_protocol,
    not_sendable,
    timed_out,
    unreachable,
)
from retinue_engine.llm.model import (
    ChatRequest,
    Completion,
    Endpoint,
    OnReasoning,
    OnText,
    ignore_reasoning,
)
from retinue_engine.llm.request import request_fields
from retinue_engine.llm.sse import EventSplitter
from retinue_kit.allowed_hosts import Target

_LARGE_BODY = 1024 * 1024

_MAX_ERROR_BYTES = 64 * 1024
"""As much of a failure's body is read; more says nothing more."""

_KEEPALIVE_S = 30.0
"""How long an idle connection is kept: below the 60 s and more after which common servers close theirs."""

_END_WAIT_S = 0.1
"""How long the end of the response may come after the end of the answer; then its connection is given up."""

_OPENAI_HOST = "//api.openai.com/"
"""OpenAI's own reasoning models refuse `max_tokens`; many of the others know nothing else."""


@asynccontextmanager
async def open_direct() -> AsyncIterator["DirectTransport"]:
    """Open the session that all direct calls share; leaving closes its connections."""
    # Without limit: how many calls run at once is decided by who starts runs. A pool that is full would make
    # a call wait where no one sees it, and its timeout would count the wait.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S)
    # The time is bounded per call by the endpoint's own timeout. Cookies of one tenant's provider must not
    # reach another's; the environment's proxies and netrc are not config.
    session = aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=True,
    )
    async with session:
        yield DirectTransport(session)


class DirectTransport:
    """A ChatModel over the OpenAI chat-completions protocol."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def complete(
        self,
        endpoint: Endpoint,
        request: ChatRequest,
        on_text: OnText,
        on_reasoning: OnReasoning = ignore_reasoning,
    ) -> Completion:
        """Ask, stream text and reasoning as they come, and return the whole answer; see ChatModel."""
        fields = request_fields(request)
        if _OPENAI_HOST in (endpoint.base_url or "") and "max_tokens" in fields:
            fields["max_completion_tokens"] = fields.pop("max_tokens")
        fields.update(model=endpoint.model, stream=True, stream_options={"include_usage": True})
        try:
            body = orjson.dumps(fields)
        except TypeError as error:
            raise not_sendable(endpoint, error) from None
        try:
            async with asyncio.timeout(endpoint.timeout_s) as deadline:
                return await self._ask(endpoint, body, Answer(endpoint, on_text, on_reasoning))
        except TimeoutError as error:
            if deadline.expired():
                raise timed_out(endpoint) from None
            raise unreachable(endpoint, error) from error

    async def _ask(self, endpoint: Endpoint, body: bytes, answer: Answer) -> Completion:
        async with await self._send(endpoint, body) as response:
            try:
                if response.status != HTTPStatus.OK:
                    said = await _read_at_most(response, _MAX_ERROR_BYTES)
                    headers = {name.lower(): value for name, value in response.headers.items()}
                    raise error_from_status(endpoint, response.status, said.decode(errors="replace"), headers)
                if response.content_type == "application/json":
                    await _read_whole(response, endpoint, answer)
                else:
                    await _read_stream(response, endpoint, answer)
            except (aiohttp.ClientError, OSError):
                if not answer.finished:
                    raise answer.broke_off() from None
        return answer.completion()

    async def _send(self, endpoint: Endpoint, body: bytes) -> aiohttp.ClientResponse:
        url, headers = f"{(endpoint.base_url or '').rstrip('/')}/chat/completions", _headers(endpoint)
        try:
            if endpoint.reach is None:
                return await self._post(url, body, headers)
            return await self._post_pinned(url, body, headers, await endpoint.reach.target(url))
        except (aiohttp.InvalidURL, ValueError) as error:
            # aiohttp refuses line breaks in headers and addresses that are none; its text would show them.
            raise not_sendable(endpoint, type(error).__name__) from None
        except aiohttp.ClientResponseError as error:
            # Its headers are not HTTP.
            raise not_in_protocol(endpoint, error.message) from None
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(endpoint, error) from error

    async def _post_pinned(
        self, url: str, body: bytes, headers: dict[str, str], target: Target
    ) -> aiohttp.ClientResponse:
        """Send to the addresses that were checked: the name, looked up again, could lead elsewhere by now."""
        named = URL(url)
        headers = {name: value for name, value in headers.items() if name.lower() != "host"}
        headers["Host"] = named.host_port_subcomponent or ""
        for address in target.addresses:
            try:
                return await self._post(
                    named.with_host(address), body, headers, server_hostname=named.raw_host
                )
            except aiohttp.ClientConnectorError:
                if address == target.addresses[-1]:
                    raise
        raise AssertionError("a target has an address")

    async def _post(
        self, url: str | URL, body: bytes, headers: dict[str, str], server_hostname: str | None = None
    ) -> aiohttp.ClientResponse:
        # A redirect is not followed: it would lead past the hosts that the operator allows.
        # aiohttp warns of larger bodies as bytes; as a file it sends them piece by piece.
        data = body if len(body) <= _LARGE_BODY else io.BytesIO(body)
        return await self._session.post(
            url, data=data, headers=headers, allow_redirects=False, server_hostname=server_hostname
        )


async def _read_stream(response: aiohttp.ClientResponse, endpoint: Endpoint, answer: Answer) -> None:
    """The hot path: each read is cut, parsed and passed on as one piece."""
    feed, add, loads = EventSplitter(endpoint).feed, answer.add, orjson.loads
    async for read in response.content.iter_any():
        done = False
        try:
            for data in feed(read):
                try:
                    add(loads(data))
                except orjson.JSONDecodeError:
                    if data == b"[DONE]":
                        done = True
                        break
                    add(_loads_leniently(data, endpoint))
        finally:
            answer.flush()
        if done:
            await _read_to_end(response)
            return


async def _read_to_end(response: aiohttp.ClientResponse) -> None:
    """Read the end that follows `[DONE]`, so that the connection can be kept; the answer needs it not."""
    with suppress(TimeoutError, aiohttp.ClientError, OSError):
        async with asyncio.timeout(_END_WAIT_S):
            await _read_at_most(response, _MAX_ERROR_BYTES)


async def _read_whole(response: aiohttp.ClientResponse, endpoint: Endpoint, answer: Answer) -> None:
    """An answer in one piece, from a server that does not stream."""
    body = await _read_at_most(response, MAX_ANSWER_CHARS + 1)
    if len(body) > MAX_ANSWER_CHARS:
        raise not_in_protocol(endpoint, f"more than {MAX_ANSWER_CHARS} bytes")
    answer.add(_loads_leniently(body, endpoint))
    answer.flush()


async def _read_at_most(response: aiohttp.ClientResponse, limit: int) -> bytes:
    parts = []
    left = limit
    async for read in response.content.iter_any():
        parts.append(read[:left])
        left -= len(read)
        if left <= 0:
            break
    return b"".join(parts)


def _loads_leniently(data: bytes, endpoint: Endpoint) -> Any:
    """JSON that orjson refuses and others take: halves of surrogate pairs, written as escapes."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        excerpt = data[:200].decode(errors="replace")
        raise not_in_protocol(endpoint, excerpt) from None


def _headers(endpoint: Endpoint) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json",
        "Accept": "text/event-stream",
        # What compresses a stream on the way, holds text back.
        "Accept-Encoding": "identity",
    }
    if endpoint.api_key:
        headers["Authorization"] = f"Bearer {endpoint.api_key}"
    if endpoint.headers:
        given = {name.lower() for name in endpoint.headers}
        headers = {name: value for name, value in headers.items() if name.lower() not in given}
        headers.update(endpoint.headers)
    return headers
