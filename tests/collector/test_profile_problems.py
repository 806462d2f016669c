"""Whatever is wrong with a profile is said at its line and column, in one line, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from provision_collector.errors import ProfileError
from provision_collector.profile import Profile, load_profile

GOLDEN = Path(__file__).parent / "golden"

HEAD = "version: 1\n"

PROBLEMS = {
    "an unknown key gets the nearest known one": ("repo: []", "2:1: unknown key `repo`; did you mean `repos`?"),
    "an unknown key without a near one gets all that are known": (
        "repos: [{url: https://h/a, path: a, colour: red}]",
        "2:37: unknown key `colour`; known here: install, level, mirrors, name, path, ref, submodules, url, when",
    ),
    "a key given twice": ("apt: [git]\napt: [ffmpeg]", "3:1: `apt` is given twice; first on line 2"),
    "a tab": ("apt:\n\t- git", "3:1: a tab cannot indent YAML: use spaces"),
    "a bracket that is never closed": ("apt: [git", "2:6: what opens here is never closed"),
    "a colon too many": ("description: a: b", "2:15: a `:` stands where none can: quote the text, or mend the indentation"),
    "a second document": ("---\nname: b", "2:1: a second document starts here (`---`); a profile is one document"),
    "an alias without anchor": ("apt: *tools", "2:6: `*tools` has no `&tools` above it"),
    "an alias that contains itself": ("apt: &a [*a]", "2:6: nested deeper than 50 levels, or an alias that contains itself"),
    "a tag": ("name: !!python/name:os.system x", "2:7: the tag `tag:yaml.org,2002:python/name:os.system` means nothing in a profile; remove it"),
    "a value starting with a sign": ("name: @x", "2:7: a value cannot start with `@`: quote it"),
    "a float where a string is meant": (
        "variables: {ref: 2.10}",
        '2:18: `ref` must be a string, not `2.10`, which YAML reads as the number 2.1: quote it, as "2.10"',
    ),
    "an octal where a string is meant": (
        "files: [{path: a, content: b, mode: 0644}]",
        '2:37: `mode` must be a string, not `0644`, which YAML reads as an octal number: quote it, as "0644"',
    ),
    "a time where a string is meant": (
        "services: [{name: a, run: [serve, 1:30]}]",
        '2:35: an item of `run` must be a string, not `1:30`, which YAML reads as a number in base 60: quote it, as "1:30"',
    ),
    "a boolean word where a string is meant": (
        "commands: [{name: a, run: [echo], environment: {ASK: no}}]",
        '2:54: `ASK` must be a string, not `no`, which YAML reads as the boolean false: quote it, as "no"',
    ),
    "an octal in JSON": (
        "services: [{name: a, run: [b], ready: {url: http://h/, json: {mode: 0644}}}]",
        '2:69: `0644` is an octal number to YAML: quote it, as "0644"',
    ),
    "a string where a boolean is meant": ('strict: "yes"', "2:9: `strict` must be true or false, not the string `yes`"),
    "an ambiguous duration": ("limits: {run: 1:30}", "2:15: `run` must be a duration such as `15m`, not `1:30`, which YAML reads as a number in base 60"),
    "a duration of nothing": ("limits: {run: 0s}", "2:15: a duration of `0s` is out of range: more than 0, at most 365d"),
    "a size without a unit that exists": ("limits: {rate: 300mb}", "2:16: `300mb` is no size: write bytes, or text such as `100MiB`, `6.9GB`, or `none`"),
    "no attempts": ("limits: {attempts: 0}", "2:20: `attempts` must be at least 1, not `0`"),
    "a word for a count": ("limits: {files: many}", "2:17: `files` must be a whole number or auto, not the string `many`"),
    "a condition without operator": (
        "downloads: [{url: https://h/a, path: a, when: {disk_free: 9GB}}]",
        "2:59: `9GB` is no condition: write an operator and a size, such as `>=24GiB`",
    ),
    "a key that is a list": ("[a]: b", "2:1: a key must be a plain word; quote a value that starts with `{` or `[`"),
    "a merge of no mapping": ("<<: x", "2:5: `<<` takes a mapping or a list of mappings"),
    "an unknown level": (
        "files: [{path: a, content: b, level: optinal}]",
        "2:38: `level` must be critical, required or optional, not `optinal`; did you mean `optional`?",
    ),
    "a missing key": ("files: [{path: a}]", "2:9: `content` is missing"),
    "a list where a mapping is meant": ("limits: [1h]", "2:9: `limits` must be a mapping (`key: value`), not a list"),
    "a string where a list is meant": ("apt: git", "2:6: `apt` must be a list, not the string `git`"),
    "an empty item": ("repos:\n  -", "3:4: an item of `repos` must be a mapping (`key: value`), not empty: give a value or remove it"),
    "an empty argv": ("commands: [{name: a, run: []}]", "2:27: `run` must not be empty"),
    "a path that climbs out": ("files: [{path: ../a, content: b}]", "2:16: `../a` may not leave the workspace: write it without `..`"),
    "a path that climbs out by the workspace": (
        'files: [{path: "${workspace}/../a", content: b}]',
        "2:16: `${workspace}/../a` may not leave the workspace: write it without `..`",
    ),
    "a path beside the workspace": (
        'files: [{path: "${workspace}x", content: b}]',
        "2:16: `${workspace}x` is not below the workspace: paths are relative to it, write `ComfyUI/models/x`",
    ),
    "an absolute path": ("repos: [{url: https://h/a, path: /opt/a}]", "2:34: `/opt/a` is not below the workspace: paths are relative to it, write `a`"),
    "a path with the workspace in front": (
        "files: [{path: /workspace/models/loras/a, content: b}]",
        "2:16: `/workspace/models/loras/a` is not below the workspace: paths are relative to it, write `models/loras/a`",
    ),
    "a path with another workspace in front": (
        "files: [{path: /srv/space/models/a, content: b}]",
        "2:16: `/srv/space/models/a` is not below the workspace: paths are relative to it, write `models/a`",
    ),
    "a URL with a colon and no port": (
        "downloads: [{path: a, url: 'http://127.0.0.1:/x'}]",
        "2:28: `http://127.0.0.1:/x` has a `:` and no port behind it: add the port, or leave the `:` out",
    ),
    "a path in the home folder": (
        'downloads: [{url: https://h/a, path: "${home}/a"}]',
        "2:38: `${home}/a` is not below the workspace: paths are relative to it, write `ComfyUI/models/x`",
    ),
    "provision's own folder": ("files: [{path: ./.provision/a, content: b}]", "2:16: `.provision` is provision's own: choose another name"),
    "a Windows path": ("files: [{path: 'a\\b', content: c}]", "2:16: `a\\b`: instances are Linux: write `/`, not `\\`"),
    "a relative workspace": ("workspace: work", "2:12: the workspace `work` must be an absolute path or `~/…`, without `..` and variables"),
    "a checkout of this machine": (
        "repos: [{url: ../a, path: a}]",
        "2:15: `../a` is a path of this machine, which no instance has: send it with `uploads:`; "
        "a checkout on the instance itself is `file:///PATH`",
    ),
    "another scheme": (
        "downloads: [{url: ftp://h/a, path: a}]",
        "2:19: `ftp://h/a` must start with `https://`, `http://`, `file:///`, `hf://`, `civitai:`, `urn:`, `air:`, `github://`, `gs://` or `s3://`",
    ),
    "a URL without a host": ("downloads: [{url: 'https:///a', path: a}]", "2:19: `https:///a` is not complete: write `https://HOST/PATH`"),
    "a URL with a token as its user": (
        "downloads:\n  - {url: 'https://hf_abcdef@huggingface.co/m.safetensors', path: a.bin}",
        "3:11: a login in a URL would be stored on the instance: declare the host's token under `secrets`",
    ),
    "a URL with a password": (
        "repos: [{url: 'https://me:pw@h/a', path: a}]",
        "2:15: a password in a URL would be stored on the instance: declare the host's token under `secrets`",
    ),
    "a URL with a token": (
        "downloads: [{url: 'https://h/a?token=abc', path: a}]",
        "2:19: `token=` in a URL would be stored on the instance: declare the host's token under `secrets`",
    ),
    "a repository's size": (
        "downloads: [{url: 'hf://a/b', path: a/, size: 5}]",
        "2:41: `size` means nothing for a whole repository: remove it",
    ),
    "a repository without a folder": (
        "downloads: [{url: 'hf://a/b', path: a}]",
        "2:37: a whole repository needs a folder: write `a/`, or name one file of it in `url`",
    ),
    "patterns for one file": (
        "downloads: [{url: 'hf://a/b/c', path: a, include: ['*']}]",
        "2:42: `include` means nothing for a single file: remove it",
    ),
    "the hub's layout for a part of a repository": (
        "downloads: [{url: 'hf://a/b/c/', path: a/, layout: hub}]",
        "2:44: `layout: hub` keeps whole repositories of the model hub: write `hf://OWNER/REPO`, choose with `include`",
    ),
    "the hub's layout for one file": (
        "downloads: [{url: 'hf://a/b/c', path: a, layout: hub}]",
        "2:42: `layout` means nothing for a single file: remove it",
    ),
    "a short hash": ("downloads: [{url: https://h/a, path: a, sha256: abc}]", "2:49: `abc` is not a sha256: 64 hexadecimal digits"),
    "a mode that is none": ('files: [{path: a, content: b, mode: "0888"}]', '2:37: `0888` is not a file mode: octal digits in quotes, such as "0644"'),
    "an option for apt": ("apt: [-y]", "2:7: `-y` is not the name of a Debian package"),
    "an option for pip": (
        "python: {layers: [[--user, numpy]]}",
        "2:20: `--user` is none of the options that a layer may begin with: --no-deps, --pre, --upgrade, "
        "--no-build-isolation, --index-url=URL, --extra-index-url=URL",
    ),
    "an option alone": ("python: {layers: [[--pre]]}", "2:19: a layer of options alone installs nothing: name a package after them"),
    "a late option": (
        "python: {layers: [[numpy, --pre]]}",
        "2:27: `--pre` holds for the whole layer: write it before the first package",
    ),
    "a password in an index": (
        "python: {layers: [['--index-url=https://u:p@h/simple', numpy]]}",
        "2:20: a password in a URL would be stored on the instance: declare the host's token under `secrets`",
    ),
    "an option for git": ("repos: [{url: https://h/a, path: a, ref: --help}]", "2:42: `--help` is not a branch, a tag or a commit"),
    "a layer that is two things": (
        "python: {layers: [{torch: {version: 2.9.1}, requirements: a.txt}]}",
        "2:19: a layer is a list of packages, or one of `torch` and `requirements`",
    ),
    "a layer that is a word": (
        "python: {layers: [numpy]}",
        "2:19: an item of `layers` must be a list of packages, `torch: …` or `requirements: …`, not the string `numpy`",
    ),
    "a secret in small letters": (
        "secrets: {hf_token: {}}",
        "2:11: `hf_token` is not a name of a secret: capitals, digits and `_`, as an environment variable",
    ),
    "a secret's host as a URL": (
        "secrets: {T: {hosts: ['https://h']}}",
        "2:23: `https://h` is not a host name, such as `huggingface.co` (no scheme)",
    ),
    "an undeclared secret": (
        "secrets: {HF_TOKEN: {}}\ncommands: [{name: a, run: [b], secrets: [HF_TOKN]}]",
        "3:42: unknown secret `HF_TOKN`; did you mean `HF_TOKEN`?",
    ),
    "a secret by its alias": (
        "secrets: {HF_TOKEN: {aliases: [HUB_TOKEN]}}\ndownloads: [{url: https://h/a, path: a, when: {secret: HUB_TOKEN}}]",
        "3:56: `HUB_TOKEN` is an alias: use its name, `HF_TOKEN`",
    ),
    "a secret of the hook that is not declared": (
        "on_failure: {run: [a], secrets: [KEY]}",
        "2:34: unknown secret `KEY`; declare it under `secrets`, as `KEY: {}`",
    ),
    "a secret in a text": (
        'secrets: {KEY: {}}\ncommands: [{name: a, run: [b, "${KEY}"]}]',
        "3:31: `KEY` is a secret and never part of a text; a command gets it by `secrets: [KEY]`",
    ),
    "an unknown variable": (
        'variables: {folder: a}\nfiles: [{path: "${foldr}/b", content: c}]',
        "3:16: unknown variable `foldr`; did you mean `folder`?",
    ),
    "an unclosed variable": ('files: [{path: a, content: "${x"}]', "2:28: `${` is never closed by `}`; write `$${` for a literal `${`"),
    "a variable that shadows": ("variables: {home: /root}", "2:13: `home` is built in; choose another name"),
    "variables in a circle": (
        'variables: {a: "${b}", b: "${a}"}',
        "2:16: variables that use each other: `a` -> `b` -> `a`",
    ),
    "variables that explode": (
        "variables:\n" + "".join(f'  v{i}: "{f"${{v{i + 1}}}" * 40}"\n' for i in range(2)) + "  v2: x",
        "3:7: grows beyond all measure when its variables are filled in",
    ),
    "a dollar before a built-in": (
        'variables: {a: $}\nfiles: [{path: f, content: "${a}${home}"}]',
        "3:28: a value that ends with `$` cannot stand before `${home}`",
    ),
    "two files at one path": (
        "downloads: [{url: https://h/a, path: a}]\nfiles: [{path: ./a, content: b}]",
        "3:16: `./a` is already taken by the item on line 2, which is not the same",
    ),
    "two sources of one file": (
        f"downloads:\n  - {{url: https://h/a, path: a, sha256: {'a' * 64}}}\n  - {{url: https://i/a, path: a, sha256: {'a' * 64}}}",
        "4:30: `a` is already taken by the item on line 3, which is not the same; give its other URL there as a `mirrors` entry",
    ),
    "a file that is also a folder": (
        "downloads: [{url: https://h/a, path: a}, {url: https://h/b, path: a/b}]",
        "2:67: `a` is a file of this profile and cannot be a folder too",
    ),
    "two services of one name": (
        "services: [{name: a, run: [b]}, {name: a, run: [c]}]",
        "2:40: two services are called `a`; the first is on line 2",
    ),
    "a critical service that waits": (
        "services: [{name: a, run: [b], level: critical, start: complete}]",
        "2:56: a critical service decides `usable`, so it cannot wait for `complete`: use `start: usable`",
    ),
    "a check of nothing": ("checks: [{name: a}]", "2:10: a check has one of `path`, `glob`, `imports` and `service`; this one has none"),
    "a check of two kinds": (
        "checks: [{name: a, path: b, imports: [c]}]",
        "2:29: a check has one of `path`, `glob`, `imports` and `service`; this one has `path` and `imports`",
    ),
    "a service that is asked for nothing": (
        "services: [{name: ui, run: [a]}]\nchecks: [{name: a, service: ui}]",
        "3:20: say what the service must offer: give `nodes`, `models` or both",
    ),
    "a service that is not there": (
        "services: [{name: comfyui, run: [a]}]\nchecks: [{name: a, service: comfyu, nodes: [KSampler]}]",
        "3:29: no service of this profile is called `comfyu`; did you mean `comfyui`?",
    ),
    "nodes without a service": ("checks: [{name: a, path: b, nodes: [c]}]", "2:29: `nodes` means nothing with `path`: remove it"),
    "a pattern that is none": (
        "services: [{name: ui, run: [a], log_failures: ['[a']}]",
        "2:48: `[a` is not a regular expression: unterminated character set at position 0",
    ),
    "a count of imports": ("checks: [{name: a, imports: [b], min_count: 2}]", "2:34: `min_count` means nothing with `imports`: remove it"),
    "a substitute that would pass for the file": (
        "downloads: [{url: https://h/a, path: a, substitute: {url: https://h/b, path: ./a}}]",
        "2:78: a substitute under the wanted file's own path would pass for it: give it another path",
    ),
    "a condition of nothing": (
        "downloads: [{url: https://h/a, path: a, when: {}}]",
        "2:47: give a condition, such as `gpu_memory`, or remove `when`",
    ),
    "a limit that only the run has": (
        "downloads: [{url: https://h/a, path: a, limits: {rate: 1MB}}]",
        "2:50: unknown key `rate`; known here: attempt, attempts, connect, connections, file, lookup, stall",
    ),
    "a header in plain sight": (
        "secrets: {K: {}}\ndownloads: [{url: http://h/a, path: a, headers: {X-K: {secret: K}}}]",
        "3:40: `headers` goes to https hosts only, and `url` is none: write `https://`",
    ),
    "a header of ours": (
        "secrets: {K: {}}\ndownloads: [{url: https://h/a, path: a, headers: {Host: {secret: K}}}]",
        "3:51: `Host` is set by provision itself: choose another header",
    ),
    "a login with a colon": (
        'secrets: {K: {}}\ndownloads: [{url: https://h/a, path: a, basic: {user: "a:b", secret: K}}]',
        "3:55: `a:b` is not a name for a login: visible characters without `:`",
    ),
    "an empty marker": ('markers: {failure: [""]}', "2:21: an item of `failure` must not be empty"),
    "an unknown base": ("extends: comfyu", "2:10: no built-in profile `comfyu`; did you mean `comfyui`? (a file is given with `/` or `.yaml`)"),
    "a base that is not there": ("extends: ./no.yaml", "2:10: `./no.yaml`: no such file"),
    "a base that is no name": ("extends: [{a: b}]", "2:11: `extends` takes a name, a path, or a list of them"),
}  # fmt: skip

UNREADABLE = {
    "another version": ("version: 2\n", "p.yaml:1:10: `version` must be 1, not `2`"),
    "a version in quotes": ('version: "1"\n', "p.yaml:1:10: `version` must be 1, not the string `1`"),
    "a boolean for a version": ("version: yes\n", "p.yaml:1:10: `version` must be 1, not `yes`"),
    "no version": (
        "apt: [git]\n",
        "p.yaml:1:1: `version` is missing: a profile starts with `version: 1`",
    ),
    "nothing": ("# soon\n", "p.yaml:1:1: the file is empty; a profile starts with `version: 1`"),
    "a list": ("- version: 1\n", "p.yaml:1:1: a profile must be a mapping (`key: value`), not a list"),
    "a control character": (
        "version: 1\nname: a\x01",
        "p.yaml:2:8: the character U+0001 cannot stand in YAML: is this a text file?",
    ),
    "aliases": (
        "a: &a b\nc: [" + "*a, " * 10_001 + "]",
        "p.yaml:2:40005: more than 10000 aliases",
    ),
    "an abyss": ("[" * 30_000, "p.yaml:1:53: nested deeper than 50 levels"),
}

BYTES = {
    "a program": (b"\x7fELF\0\0", "binary data or UTF-16, not a profile: save it as UTF-8 text"),
    "UTF-16": ("version: 1".encode("utf-16"), "binary data or UTF-16, not a profile: save it as UTF-8 text"),
    "Latin-1": (b"version: 1\nname: \xe9", "not UTF-8 text: save it as UTF-8"),
    "two MiB": (b"#" * (2 << 20), "more than 1 MiB: this is no profile"),
}


def problems_of(text: str, name: str = "p.yaml") -> list[str]:
    with pytest.raises(ProfileError) as caught:
        Profile.from_text(text, name=name)
    return caught.value.problems


@pytest.mark.parametrize("case", PROBLEMS)
def test_a_problem_is_said_where_it_stands(case: str) -> None:
    text, *expected = PROBLEMS[case]

    assert [line.removeprefix("p.yaml:") for line in problems_of(HEAD + text)] == expected


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_is_no_profile_gets_one_line(case: str) -> None:
    text, expected = UNREADABLE[case]

    assert problems_of(text) == [expected]


@pytest.mark.parametrize("case", BYTES)
def test_a_file_that_is_no_text_gets_one_line(case: str, tmp_path: Path) -> None:
    content, expected = BYTES[case]
    path = tmp_path / "p.yaml"
    path.write_bytes(content)

    with pytest.raises(ProfileError) as caught:
        load_profile(str(path))

    [line] = caught.value.problems
    assert line.startswith(f"{path}:") and line.endswith(f": {expected}")


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="no such file"):
        load_profile(str(tmp_path / "no.yaml"))
    with pytest.raises(ProfileError, match="is a directory"):
        load_profile(str(tmp_path))


def test_an_alias_bomb_ends_quickly() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
    )

    assert problems_of(bomb)[-1].endswith("more than 50000 values once the aliases are followed")


def test_all_problems_of_a_very_wrong_profile_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)

    with pytest.raises(ProfileError) as caught:
        load_profile("wrong.yaml")

    assert caught.value.problems == (GOLDEN / "wrong.problems.txt").read_text().splitlines()


def test_the_file_that_holds_the_wrong_value_is_named(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("version: 1\nlimits:\n  run: soon\napt: [git]\n")
    (tmp_path / "top.yaml").write_text("version: 1\nextends: base.yaml\napt: [Git]\n")

    with pytest.raises(ProfileError) as caught:
        load_profile(str(tmp_path / "top.yaml"))

    assert [line.split(": ")[0] for line in caught.value.problems] == [
        f"{tmp_path}/top.yaml:3:7",
        f"{tmp_path}/base.yaml:3:8",
    ]


def test_profiles_that_extend_each_other_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("version: 1\nextends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("version: 1\nextends: [./a.yaml]\n")

    with pytest.raises(ProfileError) as caught:
        load_profile(str(tmp_path / "a.yaml"))

    assert caught.value.problems == [
        f"{tmp_path}/b.yaml:2:11: profiles that extend each other: a.yaml -> b.yaml -> a.yaml"
    ]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            {"serv": "x"},
            "p.yaml:2:1: `--set serv`: this profile has no such variable; did you mean `server`?",
        ),
        ({"a-b": "x"}, "p.yaml:2:1: `--set a-b`: a variable is letters, digits and `_`"),
    ],
)
def test_setting_what_is_no_variable_is_an_error(overrides: dict[str, str], expected: str) -> None:
    with pytest.raises(ProfileError) as caught:
        Profile.from_text(HEAD + "variables: {server: x}", name="p.yaml", overrides=overrides)

    assert caught.value.problems == [expected]
