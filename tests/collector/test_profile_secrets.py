"""Secrets come from the caller's environment, repaired where that is safe, and are never shown."""

from __future__ import annotations

import pytest
from provision_collector.profile import Profile, secret_values

PROFILE = Profile.from_text(
    "version: 1\nsecrets:\n  HF_TOKEN: {hosts: [huggingface.co], aliases: [HUB_TOKEN, OLD_TOKEN]}\n"
)

CASES: dict[str, tuple[dict[str, str], dict[str, str], list[str]]] = {
    "set": ({"HF_TOKEN": "hf_abc"}, {"HF_TOKEN": "hf_abc"}, []),
    "by an alias": ({"OLD_TOKEN": "b", "HUB_TOKEN": "a"}, {"HF_TOKEN": "a"}, []),
    "name before alias": ({"HF_TOKEN": "a", "HUB_TOKEN": "b"}, {"HF_TOKEN": "a"}, []),
    "empty, with an alias": ({"HF_TOKEN": " ", "HUB_TOKEN": "b"}, {"HF_TOKEN": "b"}, []),
    "in quotes": ({"HF_TOKEN": '"hf_abc"'}, {"HF_TOKEN": "hf_abc"}, ["`HF_TOKEN` has quotes, spaces or line ends around its value; they are left out"]),
    "with a line end": ({"HUB_TOKEN": " 'hf_abc'\r\n"}, {"HF_TOKEN": "hf_abc"}, ["`HUB_TOKEN` has quotes, spaces or line ends around its value; they are left out"]),
    "unset": ({}, {}, ["`HF_TOKEN` is not set (nor `HUB_TOKEN`, `OLD_TOKEN`); items that need it will fail as `unauthorized`"]),
    "with a space inside": ({"HF_TOKEN": "hf abc"}, {}, ["`HF_TOKEN` has characters that no HTTP header can carry; it counts as not set"]),
    "with a line end inside": ({"HF_TOKEN": "a\nHost: b"}, {}, ["`HF_TOKEN` has characters that no HTTP header can carry; it counts as not set"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_secret_is_found_and_repaired(case: str) -> None:
    environ, values, warnings = CASES[case]

    assert secret_values(PROFILE, environ) == (values, warnings)


@pytest.mark.parametrize(
    "value",
    ["hf_xxx", "hf_xxxxxxxxxxxx", "xxx", "your-token", "YOUR_HF_TOKEN", "hf_your_token_here", "<token>", "changeme", "insert token", "..."],
)  # fmt: skip
def test_a_placeholder_counts_as_not_set(value: str) -> None:
    values, [warning] = secret_values(PROFILE, {"HF_TOKEN": value})

    assert values == {}
    assert warning == "`HF_TOKEN` looks like a placeholder, not like a secret; it counts as not set"


@pytest.mark.parametrize("value", ["hf_AbCxxxYz", "mytoken123", "sk-yourself", "0123456789abcdef"])
def test_a_real_token_is_no_placeholder(value: str) -> None:
    assert secret_values(PROFILE, {"HF_TOKEN": value}) == ({"HF_TOKEN": value}, [])


def test_a_secret_without_hosts_may_have_many_lines() -> None:
    profile = Profile.from_text("version: 1\nsecrets: {DEPLOY_KEY: {}}")

    assert secret_values(profile, {"DEPLOY_KEY": "a\nb"})[0] == {"DEPLOY_KEY": "a\nb"}


def test_no_warning_shows_a_value() -> None:
    for value in ("hf_xxx", " hf_secret ", "hf secret", '""hf_secret""'):
        warnings = secret_values(PROFILE, {"HF_TOKEN": value})[1]

        assert warnings and not any(value.strip(' "') in warning for warning in warnings)
