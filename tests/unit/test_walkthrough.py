"""What tries the pages' blocks finds those that are not as they say."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.page_steps import PageError, as_shown, commands_of, read_steps
from tests.support.walkthrough import Walkthrough


def follow(tmp_path: Path, markdown: str) -> Walkthrough:
    page = tmp_path / "page.md"
    page.write_text(markdown)
    with Walkthrough(page) as walkthrough:
        walkthrough.follow()
    return walkthrough


@pytest.mark.parametrize(
    ("shown", "printed", "is_so"),
    [
        ("", "", True),
        ("", "something\n", False),
        ("a b\n", "a   b  \n", True),
        ("a b\n", "ab\n", False),
        ("a\n", "a", True),
        ("a\n", "a\nb\n", False),
        ("a ... c\n", "a b c\n", True),
        ("a ... c\n", "a\nc\n", False),
        ("...\nc\n", "a\nb\nc\n", True),
        ("...\nc\n", "c\n", True),
        ("a\n...\n", "a\n", True),
        ("a\n...\n", "b\na\n", False),
        ("...\n", "", True),
        ("a.b*\n", "axb*\n", False),
        ("pid ...\n", "pid 12\n", True),
    ],
)
def test_what_is_shown_is_what_was_printed(shown: str, printed: str, is_so: bool) -> None:
    assert (as_shown(shown, printed) >= 0) is is_so


def test_what_is_printed_next_comes_after_what_was_seen() -> None:
    printed = "one\ntwo\none\nthree\n"
    seen = as_shown("one\n", printed, whole=False)
    assert printed[:seen] == "one\n"
    assert as_shown("two\n...\nthree\n", printed, whole=False, since=seen) == len(printed)
    assert as_shown("two\n", printed, whole=False, since=len("one\ntwo\n")) == -1
    assert as_shown("ne\n", printed, whole=False) == -1, "half a line is no line"


def test_a_session_is_commands_with_their_output() -> None:
    session = "$ one\nout\n$ two \\\n    more\n$ three\na\n\nb\n"
    assert commands_of(session) == [("one", "out\n"), ("two \\\n    more", ""), ("three", "a\n\nb\n")]
    with pytest.raises(PageError, match="begins with a command"):
        commands_of("out\n$ one\n")


@pytest.mark.parametrize(
    ("markdown", "complaint"),
    [
        ("<!-- test: fiel x -->\n```toml\n```\n", "nobody knows"),
        ("```\nx\n```\n", "without a language"),
        ("Text\n\n    code\n", "without a language"),
        ("<!-- test: file x -->\n", "no block follows"),
        ("```toml\na = 1\n```\n", "has to be a file"),
        ("<!-- test: not run, -->\n```sh\nfalse\n```\n", "without a reason"),
        ("```sh\nfalse\ntrue\n```\n", "ended with code 1"),
        ("```console\n$ echo a\nb\n```\n", "did not print"),
        ("```console\n$ echo a; exit 3\na\n```\n", "ended with code 3, not 0"),
        ("```console\n$ echo a\nb\n$ echo c\n```\n", "did not print"),
        ("```python\nraise SystemExit(4)\n```\n", "ended with code 4"),
        ("<!-- test: runs on -->\n```console\n$ echo a\nb\n```\n", "ended with code 0"),
        ("<!-- test: interrupt -->\n", "nothing is running"),
        ("<!-- test: prints -->\n```text\na\n```\n", "nothing is running"),
        ("<!-- test: given false -->\n", "ended with code 1"),
        ("<!-- test: where X is echo 1 -->\n```sh\ntrue\n```\n", "X is not there"),
        ("<!-- test: exit 2 -->\n```console\n$ true\n```\n", "not 2"),
    ],
)
def test_a_page_that_is_wrong_is_told_with_its_place(tmp_path: Path, markdown: str, complaint: str) -> None:
    with pytest.raises(PageError, match=rf"(?s)page.md.*{complaint}"):
        follow(tmp_path, markdown)


def test_a_page_that_is_right(tmp_path: Path) -> None:
    done = follow(
        tmp_path,
        """# Page

<!-- no business of anybody -->
<!-- test: ports 8443 -->
<!-- test: given on 8443 python -m http.server 8443 -->
<!-- test: file some/name.txt -->
```toml
port = 8443
```

<!-- test: append some/name.txt -->
```toml
more = ID
```

```console
$ true && cat \\
    some/name.txt
port = 8443
...
$ curl -s localhost:8443/some/name.txt
port = ...

more = ID
```

<!-- test: where ID is echo more -->
```sh
grep ID some/name.txt
```

<!-- test: runs on -->
```console
$ tail -n +1 -f some/name.txt
port = 8443
```

<!-- test: given echo now >> some/name.txt -->
<!-- test: prints -->
```text
now
```

<!-- test: interrupt -->
<!-- test: given beside sleep 0.2; touch later -->
<!-- test: again -->
```console
$ ls later
later
```

<!-- test: exit 3 -->
```console
$ symphony status
nothing runs in ...
```

<!-- test: fresh -->
```console
$ ls
```

<!-- test: given if no-such-program no-such-program -->
<!-- test: not run, it hurts -->
```sh
false
```
""",
    )
    assert done.ran == 9
    assert done.left_out == [(65, "it hurts")]
    assert done.missing == {"no-such-program"}


def test_everything_has_ended_afterwards(tmp_path: Path) -> None:
    port = ""
    with pytest.raises(PageError, match="ended with code 1") as raised:
        follow(
            tmp_path,
            "<!-- test: ports 8443 -->\n<!-- test: given on 8443 python -m http.server 8443 -->\n"
            "```sh\necho 8443; false\n```\n",
        )
    port = next(word for word in str(raised.value).split() if word.isdigit())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)), 5)


def test_steps_keep_their_lines() -> None:
    first, second = read_steps(
        "<!-- test: fresh -->\n\n<!-- test: file a -->\n<!-- test: again -->\n```sh\nx\n```\n", "p"
    )
    assert (first.line, first.language) == (1, "")
    assert (second.line, second.language, second.text) == (5, "sh", "x\n")
    assert second.says("file") == "a"
    assert second.says("again") == ""
    assert second.says("prints") is None


LINES = st.lists(
    st.text(st.characters(exclude_categories=["C", "Zl", "Zp", "Zs"]) | st.just(" "), max_size=20), max_size=6
)


@given(LINES)
def test_what_was_printed_is_as_shown_and_with_one_more_line_is_not(lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    if "..." not in text and text.strip():
        assert as_shown(text, text) == len(text)
        assert as_shown(text.rstrip("\n"), text + "more\n") == -1
        assert as_shown(text.rstrip("\n") + "\n...", text + "more\n") >= 0


@given(
    st.lists(
        st.sampled_from(
            ["<!-- test: fresh -->", "<!-- test: ", "-->", "```sh", "```", "x", "    y", "file a", "$ "]
        )
    )
)
def test_any_page_is_read_or_refused_by_its_name(parts: list[str]) -> None:
    try:
        steps = read_steps("\n".join(parts), "page")
    except PageError as error:
        assert str(error).startswith("page")
    else:
        assert all(step.line >= 1 for step in steps)
