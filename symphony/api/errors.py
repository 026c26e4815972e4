"""What goes wrong for a program that starts a proxy or drives one."""

from __future__ import annotations


class StartFailed(Exception):
    """The tree has ended before it was ready; the text is the end of what it said."""


class NotRunning(Exception):
    """Nothing runs that could be driven: not started, ended, or no instance in the directory."""


class NotOurs(Exception):
    """The instance was started by somebody else, and its configuration is theirs to write."""


class UnknownConnection(LookupError):
    """No connection of that id is held, or not any more. Only raised where that is asked for."""


class ReloadFailed(Exception):
    """The new configuration is right but could not be brought into force; the one before is."""


class RouteRefused(ValueError):
    """A held connection cannot go where a route says, and is held on; the text says why."""
