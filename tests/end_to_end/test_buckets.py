"""Models in buckets: the keys stay here, signed addresses reach the instance in memory, and are signed anew when they stop working."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.content import Content
from harness.s3_server import S3Server

from .conftest import Here

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
KEYS = {"R2_ACCESS": "AKIDEXAMPLE", "R2_SECRET": SECRET}


@pytest.fixture
def store() -> Iterator[S3Server]:
    with S3Server() as store:
        yield store


def profile_of(here: Here, store: S3Server, downloads: str) -> str:
    return here.profile(
        f"""
version: 1
secrets: {{R2_ACCESS: {{}}, R2_SECRET: {{}}}}
buckets:
  models: {{endpoint: "{store.url}", access_key: R2_ACCESS, secret_key: R2_SECRET}}
downloads:
{downloads}
"""
    )


def test_an_object_and_a_prefix_arrive_by_signed_addresses(here: Here, store: S3Server) -> None:
    content = Content.safetensors(1 << 20, seed=1)
    store.add("models", "a b+ü.safetensors", content.bytes())
    store.add("models", "loras/one.safetensors", content.bytes())
    store.add("models", "loras/notes.txt", b"no")
    profile = profile_of(
        here,
        store,
        """
  - {url: "s3://models/a b+ü.safetensors", path: m/a.safetensors, level: critical}
  - {url: "s3://models/loras/", path: l/, include: ["*.safetensors"]}
""",
    )

    done = here.up(profile, environment=KEYS)

    assert done.code == 0, done.stdout[-3000:] + done.stderr
    assert (here.instance.workspace / "m/a.safetensors").read_bytes() == content.bytes()
    assert (here.instance.workspace / "l/one.safetensors").read_bytes() == content.bytes()
    assert not (here.instance.workspace / "l/notes.txt").exists()
