"""HTTP that connects to the addresses of a host that were checked, and to nothing else."""

import asyncio
from typing import Any, NamedTuple

import httpx2

from retinue_mcp_host.failures import connect_timeout, unavailable
from retinue_mcp_host.model import ServerSpec


class Pin(NamedTuple):
    """The host of a server's url, and the addresses at which it may be connected to, best first."""

    url: httpx2.URL
    addresses: tuple[str, ...]


async def look_up(spec: ServerSpec, url: str) -> Pin | None:
    """Where a server that came by API may be connected to; None for one that stands in a file.

    Raises ComponentNotAllowedError, McpServerUnavailableError, McpTimeoutError.
    """
    if spec.reach is None:
        return None
    try:
        async with asyncio.timeout(spec.connect_timeout_s):
            return Pin(httpx2.URL(url), (await spec.reach.target(url)).addresses)
    except TimeoutError:
        raise connect_timeout(spec) from None
    except OSError as error:
        raise unavailable(spec, f"cannot be reached: the host of {url} has no address: {error}") from error


class PinnedTransport(httpx2.AsyncHTTPTransport):
    """Sends to the addresses of a pin: the host's name, looked up again, could lead elsewhere by then.

    TLS and the header Host go by the name. Without a pin it is an ordinary transport.
    """

    def __init__(self, pin: Pin | None, **options: Any) -> None:
        super().__init__(**options)
        self._pin = pin

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request and return the beginning of its answer."""
        pin, url = self._pin, request.url
        if pin is None:
            return await super().handle_async_request(request)
        if (url.scheme, url.raw_host, url.port) != (pin.url.scheme, pin.url.raw_host, pin.url.port):
            raise httpx2.ConnectError(f"{url} is not at the host of the server's url", request=request)
        headers = request.headers.copy()
        headers["Host"] = url.netloc.decode()
        extensions = {**request.extensions, "sni_hostname": url.raw_host.decode()}
        for address in pin.addresses:
            pinned = httpx2.Request(
                request.method,
                url.copy_with(host=address),
                headers=headers,
                stream=request.stream,
                extensions=extensions,
            )
            try:
                return await super().handle_async_request(pinned)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                if address == pin.addresses[-1]:
                    raise
        raise AssertionError("a pin has an address")
