"""Reloads and upgrades under the load of ``wrk``, and what is left of each of them: see :mod:`tools.changes.show`."""
