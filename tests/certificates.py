"""Certificates for servers that speak TLS, by an authority of the test's own."""

from pathlib import Path
from typing import NamedTuple

import trustme


class Certificate(NamedTuple):
    """Files in PEM: a certificate, its key, and the authority that signed it."""

    cert: Path
    key: Path
    ca: Path


def make_certificate(folder: Path, name: str) -> Certificate:
    """A certificate for a host name or an address, written to the folder."""
    authority = trustme.CA()
    issued = authority.issue_cert(name)
    made = Certificate(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
    made.cert.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(made.key))
    authority.cert_pem.write_to_path(str(made.ca))
    return made
