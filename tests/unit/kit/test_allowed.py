"""What the operator's lists say of components that came by API."""

import socket
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from retinue.errors import ComponentNotAllowedError
from retinue_kit.allowed import Allowed, Place, parse_hosts
from retinue_kit.allowed_hosts import Target
from retinue_mcp_host.settings import McpHostSettings

KEY = Place("llm", "fast", "api_key")
URL = Place("llm", "fast", "base_url")


def refused(allowed: Allowed, text: str) -> str:
    """The setting that a reference needs."""
    with pytest.raises(ComponentNotAllowedError) as caught:
        allowed.check_secret(KEY, text)
    facts = dict(caught.value.facts)
    setting = facts.pop("setting")
    assert facts == {"kind": "llm", "name": "fast", "field": "api_key"}
    assert f"add it to {setting} where the engine is started" in caught.value.message
    return setting


def test_variables_and_files_are_refused_unless_they_are_listed() -> None:
    nothing = Allowed("engine")
    assert refused(nothing, "${env:KEY}") == "RETINUE_API_ENV"
    assert refused(nothing, "${file:/run/secrets/key}") == "RETINUE_API_FILES"
    listed = Allowed("engine", env=("KEY", "TEAM_*"), files=("/run/secrets", "/etc/keys/*.txt"))
    for text in ("${env:KEY} ${env:TEAM_A}", "${file:/run/secrets/a/b}", "${file:/etc/keys/a.txt}", "plain"):
        listed.check_secret(KEY, text)
    assert refused(listed, "${env:KEY} ${env:OTHER}") == "RETINUE_API_ENV"
    assert refused(listed, "${env:key}") == "RETINUE_API_ENV"
    for path in ("/run/secrets2", "/run/secrets/../passwd", "/etc/keys/more/a.txt", "/etc/keys/a"):
        assert refused(listed, f"${{file:{path}}}") == "RETINUE_API_FILES"


def test_a_link_out_of_a_listed_folder_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "hidden").write_text("secret")
    (tmp_path / "shown" / "link").symlink_to(tmp_path / "hidden")
    (tmp_path / "door").symlink_to(tmp_path / "shown")
    (tmp_path / "shown" / "own").write_text("secret")
    listed = Allowed("engine", files=(str(tmp_path / "door"),))
    listed.check_secret(KEY, f"${{file:{tmp_path}/shown/own}}")
    assert refused(listed, f"${{file:{tmp_path}/shown/link}}") == "RETINUE_API_FILES"


def test_a_command_is_listed_as_it_is_written_and_no_variable_replaces_it() -> None:
    place = Place("mcp_server", "time", "stdio.command")
    listed = Allowed("mcp-host", commands=("npx", "/opt/server"))
    listed.check_command(place, "npx", ["DEBUG"])
    listed.check_command(place, "/opt/server", [])
    for command in ("python", "/tmp/npx", "/opt/../opt/server"):
        with pytest.raises(ComponentNotAllowedError, match="RETINUE_API_COMMANDS where the mcp-host"):
            listed.check_command(place, command, [])
    for name in ("PATH", "LD_PRELOAD", "DYLD_INSERT_LIBRARIES"):
        with pytest.raises(ComponentNotAllowedError) as caught:
            listed.check_command(place, "npx", [name])
        assert caught.value.facts["field"] == f"stdio.env.{name}"


async def target(hosts: str, url: str, *, secret: bool = False) -> Target | str:
    """Where a URL may lead, or what the refusal says."""
    reach = Allowed("engine", hosts=parse_hosts(hosts)).reach(URL, secret=secret)
    try:
        return await reach.target(url)
    except ComponentNotAllowedError as error:
        return f"{error.message} {error.facts}"


PUBLIC = "http://9.9.9.9/v1"


@pytest.mark.parametrize(
    ("hosts", "url", "secret"),
    [
        ("", PUBLIC, False),
        ("*", PUBLIC, True),
        ("9.9.9.9", PUBLIC, True),
        ("9.9.9.9:80", PUBLIC, True),
        ("9.0.0.0/8", PUBLIC, True),
        ("127.0.0.1:8080, localhost", "http://127.0.0.1:8080/v1", True),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("::1", "http://[::1]:9/v1", False),
        ("[::1]:9", "http://[::1]:9/v1", False),
        ("10.0.0.0/8", "http://[::ffff:10.0.0.1]/", False),
    ],
)
async def test_an_address_that_is_listed_or_public_is_reached(hosts: str, url: str, secret: bool) -> None:
    found = await target(hosts, url, secret=secret)
    assert isinstance(found, Target), found
    assert found.addresses == (found.host,)


@pytest.mark.parametrize(
    ("hosts", "url", "secret"),
    [
        ("", PUBLIC, True),
        ("9.9.9.9:443", PUBLIC, True),
        *(
            # `*` is for public addresses: none of these is one, however it is written.
            ("*", f"http://{host}/v1", False)
            for host in (
                *("127.0.0.1", "2130706433", "0x7f.1", "0.0.0.0", "10.0.0.1", "169.254.169.254"),
                *("100.64.0.1", "224.0.0.1", "[::1]", "[::]", "[fe80::1]", "[fd00::1]", "[::ffff:127.0.0.1]"),
                *("[64:ff9b::7f00:1]", "[2002:7f00:1::]"),
            )
        ),
        ("10.0.0.0/8, 127.0.0.1:8080", "http://127.0.0.1:8081/v1", False),
    ],
)
async def test_any_other_address_is_refused(hosts: str, url: str, secret: bool) -> None:
    said = await target(hosts, url, secret=secret)
    assert isinstance(said, str)
    assert "to RETINUE_API_HOSTS where the engine is started" in said
    assert ("secrets may go there" if secret else "not a public address") in said
    assert "{'kind': 'llm', 'name': 'fast', 'field': 'base_url', 'setting': 'RETINUE_API_HOSTS'}" in said


class Names:
    """What names lead to, in place of the machine's own resolver."""

    def __init__(self, **addresses: list[str]) -> None:
        self.addresses = addresses
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, *_args: Any, **_more: Any) -> list[Any]:
        self.asked.append(host)
        found = self.addresses.get(host.replace(".", "_"))
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]


async def test_a_name_is_judged_by_the_name_and_by_each_of_its_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = Names(
        api_example_com=["9.9.9.9"],
        inner_example_com=["10.0.0.7"],
        example_com=["9.9.9.9"],
        rebind_test=["9.9.9.9", "127.0.0.1"],
    )
    monkeypatch.setattr(socket, "getaddrinfo", names)
    assert await target("*.example.com", "https://api.example.com", secret=True) == Target(
        "api.example.com", 443, ("9.9.9.9",)
    )
    assert "secrets may go there" in str(await target("*.example.com", "https://example.com", secret=True))
    assert "secrets may go there" in str(await target("example.com", "https://api.example.com", secret=True))
    # A name that the operator wrote may lead to a private address; one that `*` means may not.
    assert isinstance(await target("inner.example.com", "http://inner.example.com"), Target)
    assert "not a public" in str(await target("*", "http://inner.example.com"))
    # Of a name with addresses of both sorts, the allowed ones are left.
    assert await target("", "http://rebind.test/") == Target("rebind.test", 80, ("9.9.9.9",))
    with pytest.raises(OSError, match="unknown"):
        await target("*", "http://nowhere.test/")


async def test_a_name_that_is_none_cannot_be_looked_up() -> None:
    with pytest.raises(OSError, match="cannot be the name of a host"):
        await target("*", f"http://{'x' * 64}.test/")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"api_hosts": "http://example.com"}, "'http://example.com' is not a host: write host, host:port"),
        ({"api_hosts": "a.*.com"}, "is not a host"),
        ({"api_hosts": "10.0.0.0/99"}, "is not a host"),
        ({"api_files": "secrets"}, "'secrets' is not an absolute path"),
    ],
)
def test_an_entry_that_means_nothing_is_told_at_the_start(setting: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        McpHostSettings(address="127.0.0.1:0", **setting)  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_the_lists_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETINUE_API_ENV", " A_*, B ,")
    monkeypatch.setenv("RETINUE_API_COMMANDS", "npx")
    allowed = McpHostSettings(address="127.0.0.1:0").allowed
    assert (allowed.env, allowed.commands, allowed.files, allowed.hosts) == (("A_*", "B"), ("npx",), (), ())
