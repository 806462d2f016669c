"""Secrets come from the caller's environment, repaired where that is safe, and are never shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from provision_collector.errors import ProfileError
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


DEFAULTS = Profile.from_text("""
version: 1
downloads:
  - {url: "hf://o/r/a", path: a, mirrors: ["https://github.com/o/r/releases/download/v1/a"]}
  - {url: "http://civitai.com/api/download/models/1", path: b}
""")


def rules_of(text: str) -> list[str]:
    profile = Profile.from_text("version: 1\n" + text)
    return [rule.name for rule in profile.secret_rules if rule.is_default]


def test_default_rules_follow_the_hosts_of_items_and_no_plain_http() -> None:
    assert [(rule.name, rule.is_default) for rule in DEFAULTS.secret_rules] == [
        ("HF_TOKEN", True),
        ("GITHUB_TOKEN", True),
    ]
    assert DEFAULTS.without_default_secrets().secret_rules == ()
    assert rules_of('downloads: [{url: "civitai:7", path: a}]') == ["CIVITAI_TOKEN"]
    assert rules_of("repos: [{url: https://github.com/o/r, path: r}]") == ["GITHUB_TOKEN"]
    assert rules_of('downloads: [{url: "github://o/r@v1/a", path: a}]') == ["GITHUB_TOKEN"]


@pytest.mark.parametrize(
    "own",
    [
        "HF_TOKEN: {}",
        "MINE: {aliases: [HF_TOKEN]}",
        "HUGGINGFACE_HUB_TOKEN: {}",
        "MINE: {hosts: [huggingface.co]}",
    ],
)
def test_no_default_rule_stands_where_the_profile_speaks_of_its_name_or_host(own: str) -> None:
    assert rules_of(f'secrets: {{{own}}}\ndownloads: [{{url: "hf://o/r/a", path: a}}]') == []


@pytest.mark.parametrize(
    ("variable", "path"),
    [
        ("HF_TOKEN_PATH", ""),
        ("HF_HOME", "token"),
        ("XDG_CACHE_HOME", "huggingface/token"),
        ("HOME", ".cache/huggingface/token"),
    ],
)
def test_the_token_of_hf_auth_login_is_found_by_its_own_variables(
    variable: str, path: str, tmp_path: Path
) -> None:
    file = tmp_path / "there" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("hf_of_the_login\n")
    environ = {variable: str(tmp_path / "there")}

    assert secret_values(DEFAULTS, environ) == ({"HF_TOKEN": "hf_of_the_login"}, [])
    assert secret_values(DEFAULTS, {**environ, "HUGGINGFACE_HUB_TOKEN": "hf_set"})[0] == {
        "HF_TOKEN": "hf_set"
    }
    assert secret_values(PROFILE, environ)[0] == {}, "a profile's own rule is as it says"


def test_a_default_secret_that_is_not_set_is_no_warning() -> None:
    assert secret_values(DEFAULTS, {"GH_TOKEN": "ghp_x"}) == ({"GITHUB_TOKEN": "ghp_x"}, [])


def test_a_condition_may_name_a_default_secret_and_a_command_may_not() -> None:
    Profile.from_text('version: 1\ndownloads: [{url: "hf://o/r/a", path: a, when: {secret: HF_TOKEN}}]')
    with pytest.raises(ProfileError, match="unknown secret `HF_TOKEN`"):
        Profile.from_text("version: 1\ncommands: [{name: a, run: [b], secrets: [HF_TOKEN]}]")
