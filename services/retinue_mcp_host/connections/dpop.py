"""Tokens bound to a key (DPoP, RFC 9449): the key, its proofs, and the nonces that servers want in them."""

import base64
import hashlib
import re
import secrets
import time
from typing import NamedTuple

import httpx2
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

ALGORITHM = "ES256"
PROOF, NONCE = "DPoP", "DPoP-Nonce"
"""Headers; the first is the scheme of a bound token too."""
WANTS_NONCE, BAD_PROOF = "use_dpop_nonce", "invalid_dpop_proof"
"""Errors of both servers: the first is mended by another proof, the second by no other token."""
MAX_NONCE_CHARS = 1024
MAX_NONCES = 8
"""Origins whose nonces are kept; beyond it the first is forgotten, and asks again."""

_NONCE = re.compile(rf"[\x21\x23-\x5b\x5d-\x7e]{{1,{MAX_NONCE_CHARS}}}")
"""RFC 9449, 8.1."""
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_SCHEME = re.compile(r"(?:^|,)\s*(dpop|bearer)(?=\s|,|$)", re.IGNORECASE)


class ProofKey:
    """A key pair, and the proofs that whoever shows a token has it."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey) -> None:
        self._private_key = private_key
        self._headers = {
            "typ": "dpop+jwt",
            "jwk": ECAlgorithm.to_jwk(private_key.public_key(), as_dict=True),
        }

    @classmethod
    def generate(cls) -> "ProofKey":
        """A new one."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, text: str) -> "ProofKey":
        """The one that `to_pem` wrote. Raises ValueError."""
        key = serialization.load_pem_private_key(text.encode(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the key of a login is of another kind")  # noqa: TRY004 - its text is wrong
        return cls(key)

    def to_pem(self) -> str:
        """The private key, as good as a password together with its token."""
        return self._private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    def proof(self, request: httpx2.Request, nonce: str, token: str = "") -> str:
        """One for one request; `token` is what the request shows, empty where it asks for one."""
        claims = {
            "jti": secrets.token_urlsafe(16),
            "htm": request.method,
            "htu": str(request.url.copy_with(query=None, fragment=None)),
            "iat": int(time.time()),
        }
        if token:
            digest = hashlib.sha256(token.encode()).digest()
            claims["ath"] = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if nonce:
            claims["nonce"] = nonce
        return jwt.encode(claims, self._private_key, algorithm=ALGORITHM, headers=self._headers)


class AccessToken(NamedTuple):
    """A token as requests show it."""

    value: str = ""
    """Empty where there is none yet."""
    key: ProofKey | None = None
    """What it is bound to; None where whoever has it may use it."""


class Nonces:
    """What each origin wants to find in proofs."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, bytes], str] = {}

    def of(self, url: httpx2.URL) -> str:
        """The last of an address's origin; empty where it wanted none."""
        return self._kept.get((url.scheme, url.netloc), "")

    def take(self, response: httpx2.Response) -> str:
        """The one that an answer names, which is kept; empty where it names none that a proof can carry."""
        nonce = response.headers.get(NONCE, "")
        if not _NONCE.fullmatch(nonce):
            return ""
        url = response.request.url
        key = url.scheme, url.netloc
        if key not in self._kept and len(self._kept) >= MAX_NONCES:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = nonce
        return nonce


def wants_bound(challenge: str) -> bool:
    """Whether a WWW-Authenticate takes bound tokens alone. One that takes both gets what it always had."""
    schemes = {each.lower() for each in _SCHEME.findall(_QUOTED.sub('""', challenge))}
    return schemes == {"dpop"}
