"""`retinue login` and `retinue logout`, against a real host, registry, authorization server and browser."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.servers.oauth_servers import Protected, serve_protected

from .hosting import Host
from .logging_in import open_page, put_login

ADDRESS = re.compile(r"http://\S+/authorize\?\S+")


@pytest.fixture
async def protected() -> AsyncIterator[Protected]:
    async with serve_protected() as opened:
        yield opened


class Command:
    """A running `retinue`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said = ""

    async def address(self) -> str:
        """Read until it has said which address to open."""
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            while not (found := ADDRESS.search(self.said)):
                line = await self._process.stdout.readline()
                assert line, self.said + (await self.end())[2]
                self.said += line.decode()
        return found.group()

    async def end(self, typed: str = "") -> tuple[int, str, str]:
        """Its exit status, and what it has written."""
        async with asyncio.timeout(30):
            out, err = await self._process.communicate(typed.encode())
        return self._process.returncode or 0, self.said + out.decode(), err.decode()


@pytest.fixture
async def retinue(host: Host, tmp_path: Path) -> AsyncIterator[Any]:
    """Starts a command."""
    processes: list[asyncio.subprocess.Process] = []

    async def start(*arguments: str) -> Command:
        where = ("--mcp-host", host.channel.address, "--registry", host.registry_address)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "retinue_cli", *arguments, *where),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=tmp_path,
        )
        processes.append(process)
        return Command(process)

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_person_logs_in_with_a_browser_and_out(
    host: Host, protected: Protected, retinue: Any
) -> None:
    protected.guard.scope = "tools.read"
    put_login(host, protected)
    command = await retinue("login", "web")
    address = await command.address()
    async with httpx2.AsyncClient() as browser:
        page = await browser.get(await open_page(address))
    assert "You are logged in" in page.text
    status, out, err = await command.end()
    assert (status, err) == (0, "")
    assert f"Logged in to web at {protected.authorization.url}, with the scopes tools.read" in out
    assert (await host.call("web", "hello")).content[0].text == "hello"
    status, out, _ = await (await retinue("servers", "web")).end()
    assert "logged in" in out
    status, out, _ = await (await retinue("logout", "web")).end()
    assert (status, out) == (0, "Logged out of web\n")
    status, out, _ = await (await retinue("logout", "web", "--json")).end()
    assert (status, json.loads(out)) == (0, {"revoked": False})


async def test_visits_that_answer_no_login_are_sent_away(
    host: Host, protected: Protected, retinue: Any
) -> None:
    put_login(host, protected)
    command = await retinue("login", "web")
    sent_on = await open_page(await command.address())
    async with httpx2.AsyncClient() as browser:
        stranger = await browser.get(sent_on.partition("?")[0] + "?code=mine&state=mine")
        assert stranger.status_code == httpx2.codes.BAD_REQUEST
        for elsewhere in (sent_on.replace("/callback", "/favicon.ico"), sent_on.partition("/callback")[0]):
            assert (await browser.get(elsewhere)).status_code == httpx2.codes.NOT_FOUND
        assert (await browser.post(sent_on)).status_code == httpx2.codes.NOT_FOUND
        assert "You are logged in" in (await browser.get(sent_on)).text
    assert (await command.end())[0] == 0


async def test_the_command_says_why_a_login_came_to_nothing(
    host: Host, protected: Protected, retinue: Any
) -> None:
    protected.authorization.redirects = {"code": "", "error": "access_denied"}
    put_login(host, protected)
    command = await retinue("login", "web")
    async with httpx2.AsyncClient() as browser:
        page = await browser.get(await open_page(await command.address()))
    assert "came to nothing" in page.text
    status, _, err = await command.end()
    assert (status, "access_denied" in err) == (1, True)


async def test_an_address_may_be_pasted_where_the_browser_runs_elsewhere(
    host: Host, protected: Protected, retinue: Any
) -> None:
    own = "https://retinue.example.com/callback"
    put_login(host, protected, redirect_uri=own)
    status, _, err = await (await retinue("login", "web")).end()
    assert (status, "give --paste" in err) == (2, True)
    command = await retinue("login", "web", "--paste", "--json")
    sent_on = await open_page(await command.address())
    assert sent_on.startswith(own)
    status, out, _ = await command.end(f"{sent_on}\n")
    assert status == 0
    assert json.loads(out.splitlines()[-1])["login"]["state"] == "LOGIN_STATE_LOGGED_IN"
    command = await retinue("login", "web", "--paste")
    await command.address()
    status, _, err = await command.end("\n")
    assert (status, "no address was given" in err) == (2, True)


async def test_the_page_of_the_config_is_served_where_it_is_here(
    host: Host, protected: Protected, retinue: Any, unused_port: int
) -> None:
    own = f"http://localhost:{unused_port}/own/page"
    put_login(host, protected, redirect_uri=own)
    command = await retinue("login", "web")
    sent_on = await open_page(await command.address())
    assert sent_on.startswith(own)
    async with httpx2.AsyncClient() as browser:
        assert "You are logged in" in (await browser.get(sent_on)).text
    assert (await command.end())[0] == 0


async def test_a_port_that_is_taken_is_left_to_who_has_it(
    host: Host, protected: Protected, retinue: Any, unused_port: int
) -> None:
    put_login(host, protected)
    first = await retinue("login", "web", "--port", str(unused_port))
    assert f"127.0.0.1%3A{unused_port}" in await first.address()
    status, _, err = await (await retinue("login", "web", "--port", str(unused_port))).end()
    assert (status, "address already in use" in err) == (1, True)
    both = [await retinue("login", "web"), await retinue("login", "web")]
    for command in both:
        sent_on = await open_page(await command.address())
        async with httpx2.AsyncClient() as browser:
            assert "You are logged in" in (await browser.get(sent_on)).text
