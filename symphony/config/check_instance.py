"""What is wrong with the keys that hold for the whole instance."""

from __future__ import annotations

from collections.abc import Mapping

from symphony.config.problem import Problem, SharedWarnings
from symphony.config.wording import quoted
from symphony.host.users import UnknownAccount, find_account


def check_instance(content: Mapping[str, object], problems: list[Problem], warnings: SharedWarnings) -> None:
    """Check the top level of a file, `content`. Values of the wrong type are passed over: that is found elsewhere."""
    if content.get("listeners") == []:
        problems.append(Problem("listeners", "is empty: expected at least one listener"))
    if content.get("routes", []) == []:
        warnings.add("routes", "is empty: every connection will be refused until there is a route")
    _check_account(content, problems)
    directory = content.get("runtime_dir")
    if isinstance(directory, str) and (not directory or "\0" in directory):
        text = f"{quoted(directory)} is not a file name: expected a directory"
        problems.append(Problem("runtime_dir", text))


def _check_account(content: Mapping[str, object], problems: list[Problem]) -> None:
    user, group = content.get("user"), content.get("group")
    if isinstance(user, str):
        try:
            find_account(user, group if isinstance(group, str) else None)
        except UnknownAccount as error:
            problems.append(Problem(error.key, f"{error}: expected the name or number of one"))
    elif group is not None:
        problems.append(Problem("group", "means nothing without user: expected both or neither"))
