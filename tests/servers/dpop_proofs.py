"""Checks proofs of keys as RFC 9449, 4.3 has them."""

import base64
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import jwt

_CLAIMS = {"jti", "htm", "htu", "iat"}


class ProofError(Exception):
    """A proof that is not to be taken."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


class Proofs:
    """The proofs that one server has taken, each once."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        """Their claims."""
        self.refused: list[str] = []
        """Why others were not."""
        self.next_nonce: Callable[[], str] | None = None
        """Makes the nonce that the next proof must have; none is wanted where it is None."""
        self.nonce = ""
        """The one that counts."""
        self.takes_nonces = True
        """Whether a proof with the nonce is good enough."""
        self.takes_none = False
        """Whether each proof is said to have come before."""

    def nonce_header(self) -> dict[str, str]:
        """What a refusal says."""
        return {"DPoP-Nonce": self.nonce} if self.nonce else {}

    def check(self, shown: list[str], method: str, url: str, token: str = "") -> str:
        """The thumbprint of the key that a request's proof is of (RFC 7638). Raises ProofError."""
        try:
            return self._check(shown, method, url, token)
        except ProofError as error:
            self.refused.append(str(error))
            raise

    def _check(self, shown: list[str], method: str, url: str, token: str) -> str:
        if len(shown) != 1:
            raise _bad(f"{len(shown)} proofs")
        header = jwt.get_unverified_header(shown[0])
        public = header["jwk"]
        if (header["typ"], header["alg"]) != ("dpop+jwt", "ES256") or set(public) != {"kty", "crv", "x", "y"}:
            raise _bad(f"a header {header}")
        try:
            claims = jwt.decode(
                shown[0], jwt.PyJWK(public, algorithm="ES256").key, algorithms=["ES256"], leeway=60
            )
        except jwt.PyJWTError as error:
            raise _bad(str(error)) from None
        self._check_claims(claims, method, url, token)
        is_known = self.takes_nonces and self.nonce and claims.get("nonce") == self.nonce
        if self.next_nonce is not None and not is_known:
            self.nonce = self.next_nonce()
            raise ProofError("use_dpop_nonce", "another nonce")
        self.taken.append(claims)
        members = {name: public[name] for name in ("crv", "kty", "x", "y")}
        return _digest(json.dumps(members, separators=(",", ":"), sort_keys=True))

    def _check_claims(self, claims: dict[str, Any], method: str, url: str, token: str) -> None:
        if (claims["htm"], claims["htu"]) != (method, url):
            raise _bad(f"{claims['htm']} {claims['htu']} for {method} {url}")
        if abs(claims["iat"] - time.time()) > 60:
            raise _bad(f"made at {claims['iat']}")
        if self.takes_none or claims["jti"] in {each["jti"] for each in self.taken}:
            raise _bad("a replay")
        if claims.get("ath") != (_digest(token) if token else None):
            raise _bad("another token")
        if set(claims) - {"ath", "nonce"} != _CLAIMS:
            raise _bad(f"claims {set(claims)}")


def _bad(why: str) -> ProofError:
    return ProofError("invalid_dpop_proof", why)


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
