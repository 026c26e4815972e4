"""What a reload applies, keeps and refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from symphony.config.loaded import Loaded
from symphony.config.problem import Severity
from symphony.config.reload import Merged, keep_listeners, merge
from symphony.config.resolve import load
from symphony.config.snapshot import RouteEntry, Snapshot, TlsPolicy
from symphony.tls.certificate_maker import make_authority, make_certificate

Load = Callable[..., Loaded]

DEFAULT = 'default_cert = { cert_chain_file = "default.pem", private_key_file = "default.key" }'
CA = 'mtls = { client_ca_cert_file = "ca.pem" }'


PASSED = "terminate_tls = false"


def cert(name: str) -> str:
    return f'cert = {{ cert_chain_file = "{name}.pem", private_key_file = "{name}.key" }}'


def listener(port: int, *keys: str) -> str:
    return "\n".join(("[[listeners]]", f"port = {port}", *keys, ""))


def route(sni: str, *keys: str, port: int = 80) -> str:
    upstreams = f'upstreams = [{{ kind = "tcp", host = "127.0.0.1", port = {port} }}]'
    return "\n".join(("[[routes]]", f'sni = "{sni}"', upstreams, *keys, ""))


@pytest.fixture
def read(tmp_path: Path) -> Load:
    for name in ("a", "b", "default"):
        made = make_certificate([name])
        (tmp_path / f"{name}.pem").write_bytes(made.chain_pem)
        (tmp_path / f"{name}.key").write_bytes(made.key_pem)
        (tmp_path / f"{name}.key").chmod(0o600)
    (tmp_path / "ca.pem").write_bytes(make_authority("Clients").cert_pem)

    def read(*parts: str) -> Loaded:
        (tmp_path / "symphony.toml").write_text("\n".join(parts))
        return load(str(tmp_path / "symphony.toml"))

    return read


def served(loaded: Loaded) -> Snapshot:
    return loaded.require()[1]


def applied(merged: Merged) -> Snapshot:
    assert merged.snapshot is not None
    check_consistent(merged.snapshot)
    return merged.snapshot


def check_consistent(snapshot: Snapshot) -> None:
    """Every index and digest leads somewhere, and nothing is carried that no route uses."""
    used = {number for entry in snapshot.routes for number in entry.policies if number != -1}
    assert used == set(range(len(snapshot.policies)))
    assert len(set(snapshot.policies)) == len(snapshot.policies)
    assert {policy.identity for policy in snapshot.policies} - {""} == set(snapshot.identities)
    authorities = {policy.client_authority for policy in snapshot.policies} - {""}
    assert authorities == set(snapshot.client_authorities)
    for entry in snapshot.routes:
        covered = entry.terminate_tls or entry.suspend_timeout_ms
        assert len(entry.policies) == (len(snapshot.listeners) if covered else 0)


def entry_of(snapshot: Snapshot, sni: str) -> RouteEntry:
    return next(entry for entry in snapshot.routes if entry.sni == sni)


def policy_of(snapshot: Snapshot, sni: str, column: int = 0) -> TlsPolicy | None:
    number = entry_of(snapshot, sni).policies[column]
    return None if number == -1 else snapshot.policies[number]


def warnings(merged: Merged) -> dict[str, str]:
    return {
        problem.place: problem.text for problem in merged.problems if problem.severity is Severity.WARNING
    }


def ports(snapshot: Snapshot) -> dict[str, int]:
    return {entry.sni: entry.upstreams[0].port for entry in snapshot.routes}  # type: ignore[union-attr]


def test_the_same_file_changes_nothing(read: Load) -> None:
    parts = (listener(1, DEFAULT), route("a", cert("a")), route("b"), route("", "terminate_tls = false"))
    merged = merge(served(read(*parts)), read(*parts))
    assert replace(merged, topology=None) == Merged(None, (), (), ())
    reordered = (parts[0], parts[3], parts[2], parts[1])
    assert merge(served(read(*parts)), read(*reordered)).snapshot is None


def test_changes_are_applied_and_counted(read: Load) -> None:
    before = served(read("drain_timeout_ms = 5", listener(1, DEFAULT), route("a"), route("b"), route("c")))
    after = applied(
        merge(
            before,
            read("drain_timeout_ms = 6", listener(1, DEFAULT), route("a", port=81), route("d"), route("c")),
        )
    )
    assert (after.version, after.drain_timeout_ms) == (2, 6)
    assert ports(after) == {"a": 81, "c": 80, "d": 80}
    assert before.version == 1


def test_a_broken_route_keeps_its_last_good_version(read: Load) -> None:
    before = served(read(listener(1, DEFAULT), route("a", cert("a")), route("b")))
    loaded = read(listener(1, DEFAULT), route("a", cert("gone"), port=81), route("b", cert("b"), port=82))
    merged = merge(before, loaded)
    assert (merged.kept, merged.left_out) == (("a",), ())
    assert any(problem.severity is Severity.ERROR for problem in merged.problems)
    after = applied(merged)
    assert ports(after) == {"a": 80, "b": 82}
    assert policy_of(after, "a") == policy_of(before, "a")
    assert policy_of(after, "b") not in before.policies
    # And again: nothing more changes, and the route is kept for as long as it is broken.
    again = merge(after, loaded)
    assert (again.snapshot, again.kept) == (None, ("a",))


def test_a_new_broken_route_is_left_out(read: Load) -> None:
    before = served(read(listener(1, DEFAULT), route("a")))
    merged = merge(before, read(listener(1, DEFAULT), route("a", port=81), route("b", "http3 = true")))
    assert (merged.kept, merged.left_out) == ((), ("b",))
    assert ports(applied(merged)) == {"a": 81}


def test_two_routes_of_one_name_are_both_broken(read: Load) -> None:
    before = served(read(listener(1, DEFAULT), route("a"), route("b")))
    merged = merge(
        before, read(listener(1, DEFAULT), route("a", port=81), route("a", port=82), route("b", port=83))
    )
    assert merged.kept == ("a",)
    assert ports(applied(merged)) == {"a": 80, "b": 83}


def test_a_route_that_lost_its_certificate_is_kept(read: Load) -> None:
    before = served(read(listener(1, DEFAULT), route("a"), route("b", cert("b"))))
    merged = merge(before, read(listener(1), route("a"), route("b", cert("b"), port=81)))
    assert merged.kept == ("a",)
    assert policy_of(applied(merged), "a") == policy_of(before, "a")


def test_nothing_is_removed_while_a_name_cannot_be_read(read: Load) -> None:
    before = served(read(listener(1, DEFAULT), route("a"), route("b"), route("c")))
    merged = merge(before, read(listener(1, DEFAULT), route("a", port=81), route("b..")))
    assert merged.kept == ("b", "c")
    assert "no route is removed" in warnings(merged)["routes"]
    assert ports(applied(merged)) == {"a": 81, "b": 80, "c": 80}


ONE, TWO = "0.0.0.0:1", "0.0.0.0:2"


def on(*ids: str) -> str:
    return f"listeners = {list(ids)!r}"


def named_ports(snapshot: Snapshot) -> dict[str, int]:
    return {entry.name: entry.upstreams[0].port for entry in snapshot.routes}  # type: ignore[union-attr]


def test_routes_of_one_name_on_two_listeners_change_apart(read: Load) -> None:
    head = listener(1, DEFAULT) + listener(2, DEFAULT.replace("default.", "b."))
    before = served(read(head, route("a", on(ONE)), route("a", on(TWO), port=81)))
    assert named_ports(before) == {f"a@{ONE}": 80, f"a@{TWO}": 81}
    assert [[policy >= 0 for policy in entry.policies] for entry in before.routes] == [
        [True, False],
        [False, True],
    ]
    after = applied(merge(before, read(head, route("a", on(ONE)), route("a", on(TWO), port=82))))
    assert named_ports(after) == {f"a@{ONE}": 80, f"a@{TWO}": 82}
    assert [entry.number for entry in after.routes] == [entry.number for entry in before.routes]
    gone = applied(merge(after, read(head, route("a", on(TWO), port=82))))
    assert named_ports(gone) == {f"a@{TWO}": 82}
    assert len(gone.policies) == len(gone.identities) == 1
    everywhere = applied(merge(gone, read(head, route("a", port=83))))
    assert named_ports(everywhere) == {"a": 83}


def test_a_broken_route_stays_where_its_name_is_given_to_no_other(read: Load) -> None:
    head = listener(1, DEFAULT) + listener(2, DEFAULT)
    before = served(read(head, route("a"), route("b", on(ONE)), route("b", on(TWO), port=81)))
    broken = cert("gone")
    # The file has the name for the first listener; the route for all of them stays on the other one.
    merged = merge(before, read(head, route("a", on(ONE), port=90), route("a", on(TWO), broken)))
    assert (merged.kept, merged.left_out) == ((f"a@{TWO}",), ())
    after = applied(merged)
    assert named_ports(after) == {f"a@{TWO}": 80, f"a@{ONE}": 90}
    kept = next(entry for entry in after.routes if entry.name == f"a@{TWO}")
    assert [policy >= 0 for policy in kept.policies] == [False, True]
    # Of two routes of one name, the one that is broken stays, and the one that is removed goes.
    merged = merge(before, read(head, route("a"), route("b", on(ONE), broken)))
    assert (merged.kept, merged.left_out) == ((f"b@{ONE}",), ())
    assert named_ports(applied(merged)) == {"a": 80, f"b@{ONE}": 80}
    # One that is broken where it never was is left out, and gone where it was.
    merged = merge(after, read(head, route("a", on(TWO), port=91), route("a", on(ONE), broken)))
    assert merged.kept == (f"a@{ONE}",)
    assert named_ports(applied(merged)) == {f"a@{ONE}": 90, f"a@{TWO}": 91}


def test_where_a_broken_route_belongs_cannot_be_told(read: Load) -> None:
    head = listener(1, DEFAULT) + listener(2, DEFAULT)
    before = served(read(head, route("a", on(ONE)), route("a", on(TWO), port=81), route("b")))
    merged = merge(before, read(head, route("a", on("nowhere:1"), port=90), route("b", port=91)))
    assert merged.kept == (f"a@{ONE}", f"a@{TWO}")
    merged = merge(before, read(head, route("a", "listeners = 5"), route("a", on(TWO), port=90)))
    assert merged.kept == (f"a@{ONE}",)
    assert named_ports(applied(merged)) == {f"a@{ONE}": 80, f"a@{TWO}": 90}
    merged = merge(before, read(head, route("a", port=90), route("..")))
    assert merged.kept == ("b",)
    assert named_ports(applied(merged)) == {"b": 80, "a": 90}


def test_a_listener_goes_and_with_it_its_routes(read: Load) -> None:
    one, two = listener(1, DEFAULT), listener(2, DEFAULT)
    before = served(read(one, two, route("a", on(ONE)), route("b", cert("b"), CA), route("c", on(TWO))))
    after = applied(merge(before, read(one, route("a", on(ONE)), route("b", cert("b"), CA))))
    # Until nobody listens there any more, the listener has the routes that all have, and nobody else's.
    assert [entry.id for entry in after.listeners] == [ONE, TWO]
    assert [[policy >= 0 for policy in entry.policies] for entry in after.routes] == [
        [True, False],
        [True, True],
    ]
    pruned = keep_listeners(after, [ONE])
    check_consistent(pruned)
    assert [entry.name for entry in pruned.routes] == [f"a@{ONE}", "b"]


@pytest.mark.parametrize(
    "parts",
    [
        ("workers = 'x'", listener(1, DEFAULT), route("a", port=81)),
        ("worker = 1", listener(1, DEFAULT), route("a", port=81)),
        ("= 5",),
        ("listeners = []", route("a", port=81)),
        (listener(1, DEFAULT.replace("default.key", "a.key")), route("a", port=81)),
        (listener(1, DEFAULT, "mtls = {}"), route("a", port=81)),
        (listener(1, DEFAULT), listener(1), route("a", port=81)),
        (listener(1, DEFAULT), "[routes]"),
    ],
)
def test_anything_wrong_outside_single_routes_changes_nothing(read: Load, parts: tuple[str, ...]) -> None:
    before = served(read(listener(1, DEFAULT), route("a")))
    loaded = read(*parts)
    merged = merge(before, loaded)
    assert (merged.snapshot, merged.kept, merged.problems) == (None, (), loaded.problems)
    assert any(problem.severity is Severity.ERROR for problem in merged.problems)


def test_listener_settings_are_applied(read: Load) -> None:
    before = served(read(listener(1, DEFAULT), route("a")))
    changed = listener(1, DEFAULT.replace("default.", "b."), CA, "idle_timeout_ms = 5", "max_connections = 6")
    after = applied(merge(before, read(changed, route("a"))))
    assert (after.listeners[0].idle_timeout_ms, after.listeners[0].max_connections) == (5, 6)
    policy = policy_of(after, "a")
    assert policy is not None
    assert policy.identity not in before.identities
    assert policy.client_authority


def test_a_listener_changes_its_mode(read: Load) -> None:
    tls, plain = listener(1, DEFAULT), listener(1, 'mode = "http"', "redirect_port = 8443")
    other = listener(2, DEFAULT)
    before = served(read(tls, other, route("a"), route("b", cert("b"))))
    after = applied(merge(before, read(plain, other, route("a"), route("b", cert("b")))))
    assert (after.listeners[0].mode, after.listeners[0].redirect_port) == ("http", 8443)
    assert [policy_of(after, name) for name in "ab"] == [None, None]
    again = applied(merge(after, read(tls, other, route("a"), route("b", cert("b")))))
    assert again.listeners == before.listeners
    assert [policy_of(again, name) for name in "ab"] == [policy_of(before, name) for name in "ab"]


def test_new_listeners_are_there_before_anybody_serves_them(read: Load) -> None:
    before = served(read(listener(1, DEFAULT), route("a"), route("broken"), route("through", PASSED)))
    # The new one stands first, so that columns taken by position would be wrong.
    loaded = read(
        listener(2, DEFAULT.replace("default.", "b."), CA),
        listener(1, DEFAULT),
        route("a", port=81),
        route("broken", "http2 = 5"),
        route("through", PASSED),
    )
    merged = merge(before, loaded)
    after = applied(merged)
    assert [each.id for each in after.listeners] == ["0.0.0.0:1", "0.0.0.0:2"]
    assert policy_of(after, "a") == policy_of(before, "a")
    there = policy_of(after, "a", 1)
    assert there is not None
    assert there.identity not in before.identities
    assert there.client_authority
    # Of a broken route nothing is known there.
    assert policy_of(after, "broken") == policy_of(before, "broken")
    assert policy_of(after, "broken", 1) is None
    assert merged.topology is not None
    assert [each.id for each in merged.topology.listeners] == ["0.0.0.0:2", "0.0.0.0:1"]
    assert merge(after, loaded).snapshot is None
    # It was not to be had: everything is as before, and the next try the same.
    pruned = keep_listeners(after, {"0.0.0.0:1"})
    assert pruned.listeners == before.listeners
    assert pruned.identities == before.identities
    assert pruned.client_authorities == {}
    assert policy_of(pruned, "a") == policy_of(before, "a")
    again = merge(pruned, loaded).snapshot
    assert again is not None
    assert replace(again, version=0) == replace(after, version=0)


def test_a_listener_that_nobody_serves_any_more_is_forgotten_with_all_that_only_it_needed(read: Load) -> None:
    first = read(
        listener(1, DEFAULT.replace("default.", "b."), CA),
        listener(2, DEFAULT),
        route("a"),
        route("b", cert("a")),
    )
    before = served(first)
    assert keep_listeners(before, {"0.0.0.0:1", "0.0.0.0:2", "0.0.0.0:3"}) is before
    after = keep_listeners(before, {"0.0.0.0:2"})
    assert [each.id for each in after.listeners] == ["0.0.0.0:2"]
    assert after.version == before.version
    assert policy_of(after, "a") == policy_of(before, "a", 1)
    assert policy_of(after, "b") == policy_of(before, "b", 1)
    assert len(after.identities) == 2
    assert len(before.identities) == 3
    assert after.client_authorities == {}
    file = read(listener(2, DEFAULT), route("a"), route("b", cert("a")))
    assert replace(served(file), version=after.version) == after


def test_a_removed_listener_goes_on_with_what_routes_say_themselves(read: Load) -> None:
    before = served(
        read(
            listener(1, DEFAULT),
            listener(2, DEFAULT.replace("default.", "b."), CA),
            route("inherits"),
            route("own", cert("a")),
            route("opened", cert("a"), CA),
            route("through", "terminate_tls = false"),
        )
    )
    merged = merge(
        before,
        read(
            listener(1, DEFAULT),
            route("inherits", port=81),
            route("own", cert("b"), port=81),
            route("opened", cert("a"), port=81),
            route("through", "terminate_tls = false", port=81),
            route("new", cert("a")),
            route("new-closed", cert("a"), CA),
        ),
    )
    after = applied(merged)
    assert after.listeners == before.listeners
    assert merged.topology is not None
    assert [each.id for each in merged.topology.listeners] == ["0.0.0.0:1"]
    assert ports(after) == {
        "inherits": 81,
        "own": 81,
        "opened": 81,
        "through": 81,
        "new": 80,
        "new-closed": 80,
    }
    # Column 1 is the listener that went: what was inherited from it stays, what routes say themselves is new.
    assert policy_of(after, "inherits", 1) == policy_of(before, "inherits", 1)
    own, own_before = policy_of(after, "own", 1), policy_of(before, "own", 1)
    assert own is not None
    assert own_before is not None
    assert own.identity != own_before.identity
    assert own.client_authority == own_before.client_authority != ""
    # Client certificates are demanded there as before, by the listener that is not known any more.
    assert policy_of(after, "opened", 1) == policy_of(before, "opened", 1)
    assert policy_of(after, "new", 1) is None
    new_closed = policy_of(after, "new-closed", 1)
    assert new_closed is not None
    assert new_closed.client_authority


def test_kept_routes_bring_their_identity_along(read: Load) -> None:
    before = served(read(listener(1, DEFAULT), route("a", cert("a"), CA), route("b")))
    after = applied(merge(before, read(listener(1, DEFAULT), route("a", "http2 = 5"), route("b", cert("b")))))
    policy, former = policy_of(after, "a"), policy_of(before, "a")
    assert policy == former is not None
    assert after.identities[former.identity] == before.identities[former.identity]


def test_what_only_a_restart_can_change_is_told(read: Load) -> None:
    first = read("workers = 2", listener(1, DEFAULT), route("a"))
    started, before = first.require()
    loaded = read("workers = 3", 'runtime_dir = "/run/x"', "[admin]", listener(1, DEFAULT), route("a"))
    merged = merge(before, loaded, started=started)
    assert merged.snapshot is None
    assert merged.topology is not None
    assert merged.topology.workers == 3
    assert set(warnings(merged)) == {"runtime_dir", "admin"}
    assert merge(before, first, started=started).problems == ()


def test_suspended_routes_without_a_certificate_over_reloads(read: Load) -> None:
    listeners = listener(1, CA)
    held = route("held", "suspended = true", "terminate_tls = false")
    first = served(read(listeners, held))
    assert policy_of(first, "held") == TlsPolicy("", next(iter(first.client_authorities)), False)
    assert merge(first, read(listeners, held)).snapshot is None
    # Another route comes; the held one is broken, then gone, then no longer suspended.
    second = applied(merge(first, read(listeners, held, route("b", cert("b")))))
    assert policy_of(second, "held") == policy_of(first, "held")
    broken = held.replace("terminate_tls = false", "terminate_tls = 5")
    third = applied(merge(second, read(listeners, broken, route("b", cert("a")))))
    assert policy_of(third, "held") == policy_of(first, "held")
    fourth = applied(merge(third, read(listeners, route("b", cert("a")))))
    assert [entry.sni for entry in fourth.routes] == ["b"]
    fifth = applied(merge(third, read(listeners, route("held", "terminate_tls = false"))))
    assert entry_of(fifth, "held").suspend_timeout_ms == 0 and fifth.policies == ()
