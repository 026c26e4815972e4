"""Where the commands find the runtime directory when the user does not say."""

from __future__ import annotations

import os
import tempfile

from symphony.cli.exits import Exit, leave


def default_runtime_dir() -> str:
    """``/run/symphony`` as root, else ``$XDG_RUNTIME_DIR/symphony``, else one per user under the temp dir."""
    if os.getuid() == 0:
        return "/run/symphony"
    session = os.environ.get("XDG_RUNTIME_DIR")
    if session:
        return os.path.join(session, "symphony")
    return os.path.join(tempfile.gettempdir(), f"symphony-{os.getuid()}")


def choose_runtime_dir(option: str | None, config_file: str | None) -> str:
    """The runtime directory of a running instance: `option`, else the configuration's, else the default one.

    The configuration may have become invalid since the start, and only this one key matters here: a file that
    cannot be read says nothing, unless the user named it.
    """
    if option is not None:
        return os.path.abspath(option)
    from symphony.api.examine import peek_runtime_dir
    from symphony.config.problem import ConfigError

    try:
        found = peek_runtime_dir(config_file)
    except ConfigError as error:
        if config_file is not None:
            leave(Exit.CONFIGURATION, str(error))
        found = None
    return found if found is not None else default_runtime_dir()
