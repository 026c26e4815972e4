"""Check a configuration and keep of it what the supervisor's process may know: no certificate, no key, no route."""

from __future__ import annotations

import os
from collections.abc import Mapping

from msgspec import Struct, structs

from symphony.api.child import call_in_child
from symphony.config.loaded import Loaded
from symphony.config.model import Admin, Config
from symphony.config.problem import ConfigError, Problem, Severity
from symphony.config.resolve import load
from symphony.config.snapshot import ListenerEntry
from symphony.config.source import find_file, read_document
from symphony.config.topology import topology_of
from symphony.host.hardening import forbid_dumps
from symphony.host.users import Account, find_account


class Examination(Struct, frozen=True):
    """A configuration that a start may use.

    `file` is as the user named it, `runtime_dir` absolute or None when the file does not say; `routes` is how many
    there are; `warnings` are findings that refuse nothing.
    """

    file: str
    workers: int
    drain_timeout_ms: int
    runtime_dir: str | None
    core_dumps: bool
    account: Account | None
    listeners: tuple[ListenerEntry, ...]
    routes: int
    warnings: tuple[Problem, ...]
    admin: Admin | None = None


def examine(file: str) -> Examination:
    """Check the file at `path` and all that it names. Raises :class:`ConfigError` with every finding."""
    return _keep(load(file))


def examine_apart(file: str, overrides: Mapping[str, object]) -> Examination:
    """As :func:`examine`, in a process of its own that takes the keys with it; `overrides` stand above the file's."""

    def load_and_keep() -> Examination | tuple[str, list[Problem]]:
        forbid_dumps()
        try:
            return _keep(load(file, overrides=overrides))
        except ConfigError as error:
            return error.file, error.problems

    found = call_in_child(load_and_keep)
    if isinstance(found, tuple):
        raise ConfigError(*found)
    return found


def peek_runtime_dir(named: str | None) -> str | None:
    """What the configuration file (found as always) says about `runtime_dir`; None if it says nothing.

    Raises :class:`ConfigError` when there is no file or it cannot be parsed. Nothing else in it is checked.
    """
    document = read_document(find_file(named))
    found = document.content.get("runtime_dir")
    return os.path.join(document.directory, found) if isinstance(found, str) and found else None


def _keep(loaded: Loaded) -> Examination:
    config, snapshot = loaded.require()
    wanted = topology_of(config, snapshot)
    directory = os.path.dirname(os.path.abspath(loaded.file))
    return Examination(
        file=loaded.file,
        workers=wanted.workers,
        drain_timeout_ms=wanted.drain_timeout_ms,
        runtime_dir=os.path.join(directory, config.runtime_dir) if config.runtime_dir else None,
        core_dumps=config.core_dumps,
        account=_account(config),
        listeners=wanted.listeners,
        routes=len(snapshot.routes),
        warnings=(*loaded.problems, *_account_warnings(config)),
        admin=_resolve_admin(config.admin, directory),
    )


def _account(config: Config) -> Account | None:
    """Whom workers are to become; None where they stay who they are."""
    if config.user is None or os.geteuid():
        return None
    return find_account(config.user, config.group)


def _account_warnings(config: Config) -> tuple[Problem, ...]:
    if config.user is None or not os.geteuid() or find_account(config.user, config.group).uid == os.geteuid():
        return ()
    text = f"is left out of account: only root can become another user, and this is user {os.geteuid()}"
    return (Problem("user", text, Severity.WARNING),)


def _resolve_admin(admin: Admin | None, directory: str) -> Admin | None:
    if admin is None or admin.socket_path is None:
        return admin
    return structs.replace(admin, socket_path=os.path.join(directory, admin.socket_path))
