"""Secrets on their way from one server to another, through a database that must not learn them.

X25519 with a key of one use, HKDF-SHA256 and ChaCha20-Poly1305. The receiver's key lives in its memory only.
"""

from __future__ import annotations

import json

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from provision_agent.contract.parsing import ParseError, read_object

KEY_BYTES = 32
NONCE = bytes(12)
"""The key is used once."""
MAX_BYTES = 4 << 20


class Seal:
    """The key of this process."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()

    @property
    def public_key(self) -> bytes:
        """What others seal with."""
        return self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def opened(self, sealed: bytes, run: str) -> dict[str, str]:
        """The secrets for *run*; none when they were sealed for another process, another run, or by nobody."""
        try:
            theirs = sealed[:KEY_BYTES]
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(theirs))
            text = _cipher(shared, theirs + self.public_key).decrypt(NONCE, sealed[KEY_BYTES:], run.encode())
            return {
                name: value
                for name, value in read_object(text, max_bytes=MAX_BYTES, what="secrets").items()
                if isinstance(value, str)
            }
        except (InvalidTag, ParseError, ValueError):
            return {}


def sealed_for(public_key: bytes, run: str, values: dict[str, str]) -> bytes:
    """*values* for *run*, readable only by the process with *public_key*."""
    once = X25519PrivateKey.generate()
    mine = once.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    shared = once.exchange(X25519PublicKey.from_public_bytes(public_key))
    return mine + _cipher(shared, mine + public_key).encrypt(NONCE, json.dumps(values).encode(), run.encode())


def _cipher(shared: bytes, about: bytes) -> ChaCha20Poly1305:
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"provision secrets 1" + about).derive(shared)
    return ChaCha20Poly1305(key)
