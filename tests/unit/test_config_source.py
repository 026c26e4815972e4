"""Finding and parsing the configuration file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from symphony.config.problem import ConfigError, Problem
from symphony.config.source import find_file, read_document

SECRET = "MIGHAgEAMBMGByqGSM49"


def failure(path: Path) -> Problem:
    with pytest.raises(ConfigError) as caught:
        read_document(str(path))
    (problem,) = caught.value.problems
    assert str(caught.value) == problem.line(str(path))
    assert SECRET not in str(caught.value)
    return problem


def test_search_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "symphony.config.source.DEFAULT_FILES", ("./symphony.toml", str(tmp_path / "etc.toml"))
    )
    environment = {"SYMPHONY_CONFIG": "from-environment.toml"}
    assert find_file("named.toml", environment) == "named.toml"
    assert find_file(None, environment) == "from-environment.toml"
    with pytest.raises(ConfigError, match=r"expected -c FILE, \$SYMPHONY_CONFIG, or \./symphony\.toml"):
        find_file(None, {"SYMPHONY_CONFIG": ""})
    (tmp_path / "etc.toml").touch()
    assert find_file(None, {}) == str(tmp_path / "etc.toml")
    (tmp_path / "symphony.toml").touch()
    assert find_file(None, {}) == "./symphony.toml"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", "workers = 2\n[[listeners]]\nport = 443\n"),
        ("a.conf", "workers = 2\n[[listeners]]\nport = 443\n"),
        ("a.yaml", "workers: 2\nlisteners:\n- port: 443\n"),
        ("a.YML", "workers: 2\nlisteners: [{port: 443}]\n"),
        ("a.json", '\ufeff{"workers": 2, "listeners": [{"port": 443}]}'),
    ],
)
def test_formats_by_ending(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    document = read_document(str(tmp_path / name))
    assert document.content == {"workers": 2, "listeners": [{"port": 443}]}
    assert document.directory == str(tmp_path)


def test_the_directory_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.toml").touch()
    assert read_document("a.toml").directory == str(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("a.toml", f"workers = 2\nprivate_key = {SECRET}\n", "line 2, column 15"),
        ("a.toml", f"a = 1\n{SECRET}\n", "line 2, column 21"),
        ("a.toml", 'a = "', "line 1"),
        ("a.toml", "a = 1\na = 2\n", "line 2, column 6"),
        ("a.toml", "a = " + "[" * 5000, ""),
        ("a.toml", "a = " + "9" * 5000, ""),
        ("a.json", '{\n "a": [1,\n}', "line 3, column 1"),
        ("a.json", '{"a": NaN}', ""),
        ("a.json", '{"a": 1, "a": 2}', ""),
        ("a.json", "[" * 100_000, ""),
        ("a.json", "", "line 1, column 1"),
        ("a.json", "[]", ""),
        ("a.json", r'{"a": [{"b": "\ud800"}]}', ""),
        ("a.json", r'{"\uDFFF": 1}', ""),
        ("a.yaml", r'a: "\ud800"', "line 1, column 7"),
        ("a.yaml", "a: [1\nb: 2\n", "line 2, column 2"),
        ("a.yaml", f"a: |\n{SECRET}\n", "line 3, column 1"),
        ("a.yaml", "a: 1\nb:\n  c: 1\n  c: 2\n", "line 4, column 3"),
        ("a.yaml", "a: !!python/object:os.system {}\n", "line 1, column 4"),
        ("a.yaml", "sni: *.example.com\n", "line 1, column 7"),
        ("a.yaml", "a: 1\n---\nb: 1\n", "line 2, column 1"),
        ("a.yaml", "a: \x07\n", "line 1"),
        ("a.yaml", "a: 2024-02-31\n", ""),
        ("a.yaml", "[" * 100_000, "line 1, column 65"),
        ("a.yaml", "- " * 100_000, "line 1, column 129"),
        ("a.yaml", "text", ""),
    ],
)
def test_syntax_errors_have_a_place_and_show_no_text(
    tmp_path: Path, name: str, text: str, place: str
) -> None:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    assert failure(path).place == place


def test_a_wildcard_without_quotes_in_yaml_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("sni: *.example.com\n")
    assert "needs quotes" in failure(path).text


def test_yaml_mappings_may_repeat_keys_of_their_parents_and_siblings(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "a: {a: 1, b: {a: 2}}\nb:\n- a: 1\n- a: 1\n? [c]\n: a\n".replace("? [c]\n: a\n", "c: a\n")
    )
    assert read_document(str(path)).content == {
        "a": {"a": 1, "b": {"a": 2}},
        "b": [{"a": 1}, {"a": 1}],
        "c": "a",
    }


def test_a_whole_surrogate_pair_is_one_character(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(r'{"a": "\ud83d\ude00"}')
    assert read_document(str(path)).content == {"a": "\U0001f600"}


def test_an_empty_yaml_file_is_an_empty_table(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("# nothing\n")
    assert read_document(str(path)).content == {}


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b'a = 1\nb = "\xff"\n')
    problem = failure(path)
    assert (problem.place, problem.text) == ("line 2, column 6", "is not UTF-8")


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "does not exist" in failure(tmp_path / "none.toml").text
    assert "is a directory" in failure(tmp_path).text
    os.mkfifo(tmp_path / "pipe.toml")
    assert "expected a regular file" in failure(tmp_path / "pipe.toml").text
    assert "not a file name" in failure(tmp_path / "a\0b").text
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be read" in failure(tmp_path / "loop").text
    assert "cannot be read" in failure(tmp_path / ("a" * 300)).text
