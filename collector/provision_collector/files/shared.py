"""What is signed for one instance of a fleet does for the others: each bucket is listed, and each object asked for, once."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from functools import partial

from provision_agent.contract.buckets import Buckets, SignedSource
from provision_agent.contract.parsing import to_json

from .buckets import sign

KEPT_S = 60.0
"""How long what was signed is given to others that want the same."""


class SharedSigning:
    """Signs as `sign` for runs that begin together. Safe to use from any thread."""

    def __init__(self, *, uses_aws: bool = True) -> None:
        self._sign = partial(sign, uses_aws=uses_aws)
        self._lock = threading.Lock()
        self._made: dict[str, tuple[float, tuple[SignedSource, ...]]] = {}

    def __call__(
        self, buckets: Buckets, values: Mapping[str, str], *, lives_s: float
    ) -> tuple[SignedSource, ...]:
        """As `sign`."""
        names = {name for rule in buckets.secrets for name in (rule.name, *rule.aliases)}
        wanted = [to_json(buckets), lives_s, sorted((name, values.get(name)) for name in names)]
        key = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
        with self._lock:  # who wants the same meanwhile waits for it
            now = time.monotonic()
            self._made = {each: made for each, made in self._made.items() if now - made[0] < KEPT_S}
            if key not in self._made:
                self._made[key] = now, self._sign(buckets, values, lives_s=lives_s)
            return self._made[key][1]
