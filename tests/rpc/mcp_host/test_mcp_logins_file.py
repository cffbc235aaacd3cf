"""RETINUE_LOGINS_FILE: logins that outlast the host."""

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from retinue.errors import McpLoginRequiredError
from tests.servers.oauth_servers import CLIENT, SECRET, Protected, serve_protected

from .hosting import Host, Registry, open_host
from .logging_in import log_in, put_login


@pytest.fixture
async def protected() -> AsyncIterator[Protected]:
    async with serve_protected() as opened:
        yield opened


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "data" / "logins.json"


def text_of(path: Path) -> str:
    return path.read_text()


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def put_file(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(mode)


async def hello(host: Host) -> str:
    return (await host.call("web", "hello")).content[0].text


async def test_a_login_outlasts_the_host_with_what_was_renewed_since(
    registry: Registry, protected: Protected, kept: Path, tmp_path: Path
) -> None:
    async with open_host(registry, tmp_path, logins_file=kept) as host:
        put_login(host, protected)
        await log_in(host)
        protected.authorization.valid.clear()
        assert await hello(host) == "hello"
    assert mode_of(kept) == 0o600
    assert [path.name for path in sorted(kept.parent.iterdir())] == ["logins.json", "logins.json.lock"]
    async with open_host(registry, tmp_path, logins_file=kept) as host:
        refused = protected.guard.refused
        assert await hello(host) == "hello"
        assert protected.guard.refused == refused
        protected.authorization.valid.clear()
        assert await hello(host) == "hello", "with the refresh token that came last"
        assert len(protected.authorization.asked) == 1
        await host.servers.logout("web")
    assert json.loads(text_of(kept))["logins"] == []


async def test_without_a_file_logins_last_as_long_as_the_host(
    registry: Registry, protected: Protected, tmp_path: Path
) -> None:
    async with open_host(registry, tmp_path) as host:
        put_login(host, protected)
        await log_in(host)
    async with open_host(registry, tmp_path) as host:
        with pytest.raises(McpLoginRequiredError):
            await hello(host)


async def test_a_secret_of_the_config_is_not_kept(
    registry: Registry, protected: Protected, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIENT_SECRET", SECRET)
    async with open_host(registry, tmp_path, logins_file=kept) as host:
        put_login(
            host,
            protected,
            issuer=protected.authorization.url,
            client_id=CLIENT,
            client_secret="${env:CLIENT_SECRET}",
        )
        await log_in(host)
        assert SECRET not in text_of(kept)
        protected.authorization.valid.clear()
        assert await hello(host) == "hello"


async def test_a_file_belongs_to_one_host(registry: Registry, kept: Path, tmp_path: Path) -> None:
    async with open_host(registry, tmp_path, logins_file=kept):
        with pytest.raises(ValueError, match="another MCP host keeps its logins"):
            async with open_host(registry, tmp_path, logins_file=kept):
                pass
    async with open_host(registry, tmp_path, logins_file=kept):
        pass


@pytest.mark.parametrize(
    ("content", "mode", "match"),
    [
        (b'{"version": 1, "logins": []}', 0o644, "can be read by others"),
        (b'{"version": 2, "logins": []}', 0o600, "no file of logins of this version"),
        (b'{"version": 1, "logins": [{"login": {"access_token": "t0ken"}}]}', 0o600, "no file of logins"),
        (b"t0ken", 0o600, "no file of logins"),
        (b"", 0o600, "no file of logins"),
    ],
)
async def test_a_host_does_not_start_on_another_kind_of_file_nor_change_it(
    registry: Registry, kept: Path, tmp_path: Path, content: bytes, mode: int, match: str
) -> None:
    put_file(kept, content, mode)
    with pytest.raises(ValueError, match=match) as caught:
        async with open_host(registry, tmp_path, logins_file=kept):
            pass
    assert "t0ken" not in str(caught.value)
    assert text_of(kept).encode() == content


async def test_a_login_works_where_it_cannot_be_kept(
    registry: Registry, protected: Protected, kept: Path, tmp_path: Path, capfd: pytest.CaptureFixture[Any]
) -> None:
    async with open_host(registry, tmp_path, logins_file=kept) as host:
        shutil.rmtree(kept.parent)
        put_login(host, protected)
        await log_in(host)
        assert await hello(host) == "hello"
    assert "logins cannot be kept" in capfd.readouterr().out
