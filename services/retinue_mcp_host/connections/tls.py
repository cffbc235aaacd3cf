"""The TLS side of a connection to a server elsewhere: what is trusted, and what is shown."""

import ssl

import httpx2

from retinue_mcp_host.failures import unavailable
from retinue_mcp_host.model import ServerSpec, TlsFiles


def tls_context(spec: ServerSpec, tls: TlsFiles) -> ssl.SSLContext:
    """What a connection is made with. Raises McpServerUnavailableError for files that cannot be used."""
    if tls.ca_file:
        try:
            context = ssl.create_default_context(cafile=tls.ca_file)
        except OSError as error:
            raise _unusable(spec, "tls.ca_file", tls.ca_file, error) from error
    else:
        context = httpx2.create_ssl_context(trust_env=False)
    if tls.cert_file:
        try:
            context.load_cert_chain(tls.cert_file, tls.key_file or None, password=_no_password)
        except (OSError, ValueError) as error:
            files = " and ".join(filter(None, (tls.cert_file, tls.key_file)))
            raise _unusable(spec, "tls.cert_file and tls.key_file", files, error) from error
    return context


def _no_password() -> str:
    # Without it OpenSSL would ask on the terminal, and the host would stand.
    raise ValueError("the key has a password: give one without")


def _unusable(spec: ServerSpec, field: str, path: str, error: Exception) -> Exception:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return unavailable(spec, f"cannot be reached: {field} {path} cannot be used: {why}")
