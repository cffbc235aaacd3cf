"""What the operator's lists say of a server that came by API; one from a file may use what it names."""

from retinue.registry.v1.component_pb2 import Component
from retinue.registry.v1.mcp_server_pb2 import McpServerSpec
from retinue_kit.allowed import Allowed, Place
from retinue_kit.allowed_hosts import Reach
from retinue_kit.secrets import REFERENCE

_KIND = "mcp_server"
_OAUTH_SECRETS = ("client_secret", "private_key", "assertion", "identity_client_secret")
_TLS_FILES = ("ca_file", "cert_file", "key_file")


def is_by_api(component: Component) -> bool:
    """Whether a component came by API."""
    return component.source.HasField("api")


def secret_fields(spec: McpServerSpec) -> dict[str, str]:
    """The fields of a server that may hold secret references, as they are written."""
    if spec.HasField("stdio"):
        return {f"stdio.env.{name}": text for name, text in spec.stdio.env.items()}
    transport = spec.WhichOneof("transport")
    if transport is None:
        return {}
    http = getattr(spec, transport)
    oauth = {name: text for name in _OAUTH_SECRETS if (text := getattr(http.oauth, name))}
    return {f"{transport}.headers.{name}": text for name, text in http.headers.items()} | {
        f"{transport}.oauth.{name}": text for name, text in oauth.items()
    }


def check_rules(component: Component, allowed: Allowed) -> Reach | None:
    """Where a server may be reached; None where that is not restricted, or it is started here.

    Raises ComponentNotAllowedError for one that came by API and uses what is not listed.
    """
    spec = component.mcp_server
    transport = spec.WhichOneof("transport")
    if transport is None or not is_by_api(component):
        return None
    fields = secret_fields(spec)
    for field, text in fields.items():
        allowed.check_secret(Place(_KIND, component.name, field), text)
    if transport == "stdio":
        place = Place(_KIND, component.name, "stdio.command")
        allowed.check_command(place, spec.stdio.command, spec.stdio.env)
        return None
    http = getattr(spec, transport)
    for name in _TLS_FILES:
        if path := getattr(http.tls, name):
            allowed.check_file(Place(_KIND, component.name, f"{transport}.tls.{name}"), path)
    secret = bool(http.tls.key_file) or any(map(REFERENCE.search, fields.values()))
    return allowed.reach(Place(_KIND, component.name, f"{transport}.url"), secret=secret)
