"""The buckets of a profile: where each is, and which secrets open it."""

from __future__ import annotations

from collections.abc import Iterator

from provision_agent.contract.buckets import BucketPlace, Buckets
from provision_agent.contract.plan_parts import SecretRule

from .model import Document
from .model_base import Part
from .model_parts import Bucket
from .notes import NAMES_SECRET, fields_of


def buckets_of(document: Document) -> Buckets:
    """What *document* says of its buckets, and the rules of the secrets that they name."""
    places = {name: _place(bucket) for name, bucket in document.buckets.items()}
    names = {name for place in places.values() for name in place.secrets}
    rules = (
        SecretRule(name=name, hosts=rule.hosts, aliases=rule.aliases)
        for name, rule in document.secrets.items()
    )
    return Buckets(places, tuple(rule for rule in rules if rule.name in names))


def stays_here(document: Document) -> frozenset[str]:
    """The secrets that nothing but buckets names: their values never leave this machine."""
    of_buckets = {rule.name for rule in buckets_of(document).secrets if not rule.hosts}
    rest = document.model_copy(update={"buckets": {}})
    return frozenset(of_buckets.difference(_named(rest)))


def _place(bucket: Bucket) -> BucketPlace:
    said = {name: getattr(bucket, name) for name in Bucket.model_fields}
    return BucketPlace(**{name: value for name, value in said.items() if value is not None})


def _named(part: Part) -> Iterator[str]:
    """The secrets that *part* and what is in it name."""
    for field in fields_of(type(part)):
        value: object = getattr(part, field.name)
        values = (
            value if isinstance(value, tuple) else value.values() if isinstance(value, dict) else (value,)
        )
        for each in values:
            if isinstance(each, Part):
                yield from _named(each)
            elif isinstance(each, str) and field.has(NAMES_SECRET):
                yield each
