"""The client that MCP's conformance runner starts for one scenario: `mcp_conformance_client.py URL`.

It speaks no MCP: it stores the runner's server in a registry and calls all its tools through a running MCP
host over gRPC. Forms that a server asks for are accepted with the defaults of their schemas, as a person does
who changes nothing. Where a server wants a login it is the person too: it opens the address, is sent on at
once, and tells the host where to.
"""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from google.protobuf.duration_pb2 import Duration

from retinue.client import Client, open_client
from retinue.common.v1 import error_pb2
from retinue.errors import McpLoginRequiredError, RetinueError
from retinue.mcphost.v1 import server_request_pb2, tool_pb2
from retinue.registry.v1 import component_pb2, mcp_server_pb2

SAMPLES: dict[str, Any] = {
    "string": "text",
    "integer": 1,
    "number": 1,
    "boolean": True,
    "array": [],
    "object": {},
}
"""A value of each type of JSON Schema."""

REDIRECT_URI = "http://127.0.0.1:49152/callback"
"""Nothing listens there: this client sees where it is sent."""
CLIENT_METADATA_URL = "https://conformance-test.local/client-metadata.json"
"""The one that the scenario expects."""
MAX_LOGINS = 3

REVISIONS = {"request-metadata": "2026-07-28"}
"""What the config says of a server, in scenarios that look at the first word to it."""
IDLE = Duration(seconds=1)
"""The runner waits at the end of a scenario until the host has closed its connection."""


def arguments_of(tool: tool_pb2.Tool, tools: Sequence[tool_pb2.Tool]) -> dict[str, Any]:
    """Arguments that a tool takes: each that its schema names; for a `schema` that of the first tool."""
    properties = json.loads(tool.input_schema_json).get("properties", {})
    arguments = {name: SAMPLES.get(each.get("type"), "") for name, each in properties.items()}
    if "schema" in arguments:
        arguments["schema"] = json.loads(tools[0].input_schema_json)
    return arguments


def calls_of(tools: Sequence[tool_pb2.Tool]) -> list[tuple[str, dict[str, Any]]]:
    """What to call: what the scenario says, else each tool once."""
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    if wanted := context.get("toolCalls"):
        return [(each["name"], each["arguments"]) for each in wanted]
    return [(tool.name, arguments_of(tool, tools)) for tool in tools]


def filled_in(form: server_request_pb2.Elicitation) -> server_request_pb2.ElicitationAnswer:
    """A form as it is, with its defaults."""
    properties = json.loads(form.schema_json).get("properties", {})
    content = {name: each["default"] for name, each in properties.items() if "default" in each}
    return server_request_pb2.ElicitationAnswer(
        action=server_request_pb2.ELICITATION_ACTION_ACCEPT, content_json=json.dumps(content)
    )


class Person:
    """Logs in where a server wants it, a few times at most."""

    def __init__(self, client: Client, server: str) -> None:
        self._client = client
        self._server = server
        self._left = MAX_LOGINS

    async def log_in(self) -> bool:
        """Log in; whether that is done. The outcome is for the scenario to judge."""
        if not self._left:
            return False
        self._left -= 1
        try:
            started = await self._client.servers.start_login(self._server, REDIRECT_URI)
            async with httpx2.AsyncClient() as browser:
                sent_on = await browser.get(started.authorization_url)
            await self._client.servers.finish_login(started.login_id, sent_on.headers["location"])
        except RetinueError as error:
            print(f"login: {error.message}", file=sys.stderr)
            return False
        return True


async def tools_of(client: Client, server: str, person: Person) -> Sequence[tool_pb2.Tool] | None:
    """The server's tools; None where they cannot be had."""
    while True:
        tools, failures = await client.tools.list([tool_pb2.ServerRef(name=server)])
        if not failures:
            return tools
        print(failures[0].failure.message, file=sys.stderr)
        wants_login = failures[0].failure.reason == error_pb2.ERROR_REASON_MCP_LOGIN_REQUIRED
        if not (wants_login and await person.log_in()):
            return None


async def call(client: Client, server: str, tool: str, arguments: dict[str, Any], person: Person) -> None:
    """Call one tool and answer what it asks. That a tool fails is for the scenario to judge."""
    while True:
        updates = client.tools.call(server, tool, json.dumps(arguments), accepts_elicitation=True)
        try:
            async for update in updates:
                if update.HasField("request"):
                    await client.tools.answer(
                        update.request.request_id, filled_in(update.request.elicitation)
                    )
                elif update.HasField("result"):
                    print(f"{tool}: {update.result}")
        except McpLoginRequiredError as error:
            print(f"{tool}: {error.message}", file=sys.stderr)
            if await person.log_in():
                continue
        except RetinueError as error:
            print(f"{tool}: {error.message}", file=sys.stderr)
        return


def oauth_of(name: str) -> mcp_server_pb2.OAuthSettings:
    """What an operator configures for a scenario: the client that it knows, else a person's login."""
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    settings = mcp_server_pb2.OAuthSettings(
        grant=mcp_server_pb2.GRANT_TYPE_AUTHORIZATION_CODE, client_id=context.get("client_id", "")
    )
    if settings.client_id:
        settings.issuer = context.get("issuer") or issuer_of(sys.argv[1])
    if name == "auth-basic-cimd":
        settings.client_metadata_url = CLIENT_METADATA_URL
    if "idp_id_token" in context:
        settings.grant = mcp_server_pb2.GRANT_TYPE_JWT_BEARER
        settings.identity_provider = context["idp_token_endpoint"]
        settings.identity_client_id = context["idp_client_id"]
        settings.assertion = reference_to("id_token", context["idp_id_token"])
    secret = context.get("private_key_pem") or context.get("valid_jwt") or context.get("client_secret")
    if secret is None:
        return settings
    reference = reference_to("secret", secret)
    if "private_key_pem" in context:
        settings.grant = mcp_server_pb2.GRANT_TYPE_CLIENT_CREDENTIALS
        settings.private_key = reference
        settings.private_key_algorithm = context["signing_algorithm"]
    elif "valid_jwt" in context:
        settings.grant = mcp_server_pb2.GRANT_TYPE_JWT_BEARER
        settings.assertion = reference
    else:
        settings.client_secret = reference
    if name == "auth-client-credentials-basic":
        settings.grant = mcp_server_pb2.GRANT_TYPE_CLIENT_CREDENTIALS
    return settings


def reference_to(name: str, value: str) -> str:
    """A reference to a secret of this scenario."""
    path = Path(os.environ["MCP_CONFORMANCE_SECRETS"], f"{os.getpid()}-{name}")
    path.write_text(value)
    return f"${{file:{path}}}"


def issuer_of(url: str) -> str:
    """The authorization server that a server's metadata names: an operator knows it, the runner is silent."""
    parts = urlsplit(url)
    known = f"{parts.scheme}://{parts.netloc}/.well-known/oauth-protected-resource{parts.path}"
    return str(httpx2.get(known).json()["authorization_servers"][0])


async def main() -> int:
    """Store the server, list its tools, call them."""
    name = os.environ["MCP_CONFORMANCE_SCENARIO"].replace("/", "-")
    transport = mcp_server_pb2.StreamableHttpTransport(url=sys.argv[1])
    if name.startswith("auth-"):
        transport.oauth.CopyFrom(oauth_of(name))
    component = component_pb2.Component(
        kind=component_pb2.COMPONENT_KIND_MCP_SERVER,
        name=name,
        mcp_server=mcp_server_pb2.McpServerSpec(
            streamable_http=transport, idle_timeout=IDLE, revision=REVISIONS.get(name, "")
        ),
    )
    async with open_client() as client:
        await client.components.apply([component])
        person = Person(client, name)
        tools = await tools_of(client, name, person)
        for tool, arguments in calls_of(tools or ()):
            await call(client, name, tool, arguments, person)
    return 1 if tools is None else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
