"""Bodies of answers that are read no further than somebody wants."""

from collections.abc import AsyncIterator

import httpx2

TOO_LONG = "more bytes than a message may have"
"""How reading an answer ends that is too long."""


class BoundedStream(httpx2.AsyncByteStream):
    """The body of an answer, which the SDK would read however long it is. Raises httpx2.StreamError."""

    def __init__(self, stream: httpx2.SyncByteStream | httpx2.AsyncByteStream, max_bytes: int) -> None:
        assert isinstance(stream, httpx2.AsyncByteStream)  # noqa: S101 - an async client's
        self._stream = stream
        self._left = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._left -= len(chunk)
            if self._left < 0:
                raise httpx2.StreamError(TOO_LONG)
            yield chunk

    async def aclose(self) -> None:
        """Close the connection or give it back."""
        await self._stream.aclose()


class UnreadStream(BoundedStream):
    """A body of which nobody wants to know."""

    def __init__(self, stream: httpx2.SyncByteStream | httpx2.AsyncByteStream) -> None:
        super().__init__(stream, 0)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        nothing: tuple[bytes, ...] = ()
        for chunk in nothing:
            yield chunk
