"""JSON-RPC over a stdio server's pipes: a message is a line."""

from retinue_mcp_host.connections.notices import Notices
from retinue_mcp_host.connections.offer import Offer
from retinue_mcp_host.connections.rpc import JsonRpc
from retinue_mcp_host.processes.lines import LineSplitter
from retinue_mcp_host.processes.process import ServerProcess
from retinue_mcp_host.processes.stderr import StderrTail


class PipeRpc(JsonRpc):
    """One JSON-RPC session with a process of the host's."""

    def __init__(self, tail: StderrTail, offer: Offer, notices: Notices, max_message_bytes: int) -> None:
        super().__init__(offer, notices, max_message_bytes)
        self.process = ServerProcess(self._feed, self._gone, tail)
        self._lines = LineSplitter(max_message_bytes, self._oversize)
        self._tail = tail

    def _write(self, line: bytes, key: int | str | None = None) -> None:
        del key  # a pipe that fails fails for all
        self.process.write(line)

    async def _until_writable(self) -> None:
        if not self.process.writable:
            await self.process.until_writable()

    def _backlog_bytes(self) -> int:
        return self.process.backlog_bytes

    def _feed(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            if line and not self._take(line) and line.strip():
                # Not MCP; it often says why the server can not start, so it is kept with stderr.
                self._tail.feed(b"(stdout) " + line + b"\n")
