"""Converting parsed documents: every problem, each with its place."""

from __future__ import annotations

import datetime
import enum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from symphony.config.model import Config, Route, TcpUpstream
from symphony.config.schema import convert, convert_or_none

LISTENERS = [{"port": 443}]


def problems_of(document: object, type_: Any = Config) -> dict[str, str]:
    value, problems = convert(document, type_)
    assert value is None
    places = [problem.place for problem in problems]
    assert len(set(places)) == len(places)
    return {problem.place: problem.text for problem in problems}


def test_a_document_in_order_is_converted() -> None:
    upstream = {"kind": "tcp", "host": "a", "port": 1}
    document = {"listeners": LISTENERS, "routes": [{"sni": "a", "upstreams": [upstream], "burst": 2}]}
    config, problems = convert(document, Config)
    assert problems == []
    assert config is not None
    assert config.routes[0].upstreams == (TcpUpstream(host="a", port=1),)
    assert config.routes[0].burst == 2.0


def test_every_problem_is_found_at_once() -> None:
    document = {
        "worker": 2,
        "workers": 0,
        "read_buffer_size": "64k",
        "drain_timeout_ms": 1.5,
        "listeners": [
            {"port": 70000},
            {"host": 1},
            5,
            {"port": True, "default_cert": {"private_key_fil": "x"}},
        ],
        "routes": [
            {"sni": "ok", "upstreams": []},
            {"sni": 5, "upstreams": {}, "terminate_tls": "yes"},
            {
                "upstreams": [
                    {"host": "a", "port": 1},
                    {"kind": "tpc"},
                    {"kind": 3},
                    {"kind": "tcp", "host": "a", "path": "/x"},
                    {"kind": "uds", "path": "/x", "pid": 0},
                    "tcp://a",
                ],
                "cert": "chain.pem",
                "max_connections_per_second": float("nan"),
            },
        ],
    }
    assert problems_of(document) == {
        "worker": 'unknown key; did you mean "workers"?',
        "workers": "expected an integer from 1 to 1024, found the number 0",
        "read_buffer_size": "expected an integer from 16384 to 16777216, found a string",
        "drain_timeout_ms": "expected an integer from 0 to 86400000, found the number 1.5",
        "listeners[0].port": "expected an integer from 0 to 65535, found the number 70000",
        "listeners[1].host": "expected a string, found the number 1",
        "listeners[1].port": "is missing: expected an integer from 0 to 65535",
        "listeners[2]": "expected a table, found the number 5",
        "listeners[3].port": "expected an integer from 0 to 65535, found the boolean true",
        "listeners[3].default_cert.private_key_fil": 'unknown key; did you mean "private_key_file"?',
        "routes[1].sni": "expected a string, found the number 5",
        "routes[1].upstreams": "expected an array of tables, found a table",
        "routes[1].terminate_tls": "expected true or false, found a string",
        "routes[2].sni": "is missing: expected a string",
        "routes[2].upstreams[0].kind": 'is missing: expected "tcp" or "uds"',
        "routes[2].upstreams[1].kind": 'expected "tcp" or "uds", found "tpc"; did you mean "tcp"?',
        "routes[2].upstreams[2].kind": 'expected "tcp" or "uds", found the number 3',
        "routes[2].upstreams[3].path": "unknown key; expected host, port, connect_timeout_ms, weight, "
        "max_fails, fail_timeout_ms, ip_affinity, ip_affinity_ttl_ms, health_check, protocol or kind",
        "routes[2].upstreams[3].port": "is missing: expected an integer from 1 to 65535",
        "routes[2].upstreams[4].pid": "expected an integer of at least 1, found the number 0",
        "routes[2].upstreams[5]": "expected a table, found a string",
        "routes[2].cert": "expected a table, found a string",
        "routes[2].max_connections_per_second": "expected a number above 0, found the number nan",
    }


@pytest.mark.parametrize(
    ("document", "place", "text"),
    [
        ({}, "listeners", "is missing: expected an array of tables"),
        ({"listeners": LISTENERS, 5: 1}, '"5"', "unknown key"),
        ({"listeners": LISTENERS, "a b.c": 1}, '"a b.c"', "unknown key"),
        ({"listeners": LISTENERS, "x" * 100: 1}, '"' + "x" * 57 + '..."', "unknown key"),
        (
            {"listeners": LISTENERS, "Drain-Timeout-MS": 1},
            "Drain-Timeout-MS",
            'did you mean "drain_timeout_ms"?',
        ),
        ({"listeners": LISTENERS, "runtime_dir": b"x"}, "runtime_dir", "found binary data"),
        ({"listeners": LISTENERS, "runtime_dir": datetime.date(2024, 1, 1)}, "runtime_dir", "found a date"),
        ({"listeners": [{"port": 2**200}]}, "listeners[0].port", "far too large"),
        ({"listeners": [{"port": None}]}, "listeners[0].port", "found null"),
        ({"listeners": None}, "listeners", "found null"),
        ([], "", "expected a table, found an array"),
    ],
)
def test_single_problems(document: object, place: str, text: str) -> None:
    found = problems_of(document)
    assert list(found) == [place]
    assert text in found[place]


def test_values_of_strings_are_never_shown() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\n"
    document = {
        "listeners": key,
        "workers": key,
        key: 1,
        "routes": [{"upstreams": [{"kind": key}], "sni": "a"}],
    }
    found = problems_of(document)
    assert len(found) == 4
    assert "MIGH" not in str(found)


def test_places_begin_where_the_caller_says() -> None:
    _, problems = convert({"sni": 1, "upstreams": []}, Route, "routes[7]")
    assert [problem.place for problem in problems] == ["routes[7].sni"]


def test_convert_or_none() -> None:
    assert convert_or_none({"sni": "a", "upstreams": []}, Route) == Route(sni="a", upstreams=())
    assert convert_or_none({"upstreams": []}, Route) is None


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Sample(Struct, forbid_unknown_fields=True):
    colour: Colour = Colour.RED
    mode: Literal["off", "on"] = "on"
    limits: dict[str, Annotated[int, Meta(lt=10)]] = {}
    names: Annotated[list[str], Meta(min_length=1, max_length=2)] = msgspec.field(
        default_factory=lambda: ["a"]
    )
    either: int | str | list[int] | None = None
    short: Annotated[str, Meta(max_length=3)] = ""


def test_types_beyond_those_of_today() -> None:
    document = {
        "colour": "rad",
        "mode": 1,
        "limits": {"a": 3, "b": 12, "c d": "x"},
        "names": [],
        "either": 1.5,
        "short": "long",
    }
    assert problems_of(document, Sample) == {
        "colour": 'expected "red" or "blue", found "rad"; did you mean "red"?',
        "mode": 'expected "off" or "on", found the number 1',
        "limits.b": "expected an integer below 10, found the number 12",
        'limits."c d"': "expected an integer below 10, found a string",
        "names": "expected at least 1 elements, found 0",
        "either": "expected an integer, a string or an array of integers, found the number 1.5",
        "short": "expected at most 3 characters, found 4",
    }
    assert problems_of({"either": [1, "x"]}, Sample) == {"either[1]": "expected an integer, found a string"}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "listeners",
                    "routes",
                    "port",
                    "host",
                    "sni",
                    "upstreams",
                    "kind",
                    "path",
                    "cert",
                    "mtls",
                    "workers",
                    "x",
                ]
            ),
            inner | st.sampled_from(["tcp", "uds"]),
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(VALUES)
def test_the_walk_and_msgspec_agree_on_any_document(document: object) -> None:
    try:
        expected = msgspec.convert(document, Config)
    except msgspec.ValidationError:
        value, problems = convert(document, Config)
        assert value is None
        assert problems
        # msgspec's own words are the last resort; they must not be needed.
        assert not any(problem.text.startswith(("Expected", "Object", "Invalid")) for problem in problems)
    else:
        assert convert(document, Config) == (expected, [])
