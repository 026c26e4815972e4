"""What the registry keeps from one life to the next, beside what its own tests see through its mailbox."""

from __future__ import annotations

from pathlib import Path

from symphony.config.numbering import upstream_numbers
from symphony.routing.snapshot_keeper import SnapshotKeeper
from symphony.routing.snapshot_store import SnapshotStore


class Life:
    """A registry's life over a file in `directory`."""

    def __init__(self, directory: Path, first: bool) -> None:
        self.keeper = SnapshotKeeper(str(directory / "symphony.toml"), SnapshotStore(str(directory)), tree=1)
        self.keeper.begin(self.keeper.read(), first)

    @property
    def numbers(self) -> dict[str, int]:
        return upstream_numbers(self.keeper.current)


def write(directory: Path, *ports: int) -> None:
    rows = ", ".join(f"{{ kind = 'tcp', host = '127.0.0.1', port = {port} }}" for port in ports)
    (directory / "symphony.toml").write_text(
        f"[[listeners]]\nport = 8443\n[[routes]]\nsni = 'a'\nterminate_tls = false\nupstreams = [{rows}]\n"
    )


def test_numbers_survive_reloads_and_restarts(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3)
    life = Life(tmp_path, first=True)
    assert life.numbers == {"tcp://127.0.0.1:1": 0, "tcp://127.0.0.1:2": 1, "tcp://127.0.0.1:3": 2}
    write(tmp_path, 4, 3, 1)
    assert life.keeper.reload(life.keeper.read()).changed
    expected = {"tcp://127.0.0.1:4": 3, "tcp://127.0.0.1:3": 2, "tcp://127.0.0.1:1": 0}
    assert life.numbers == expected
    version = life.keeper.current.version
    again = Life(tmp_path, first=False)
    assert (again.numbers, again.keeper.current.version) == (expected, version)
    write(tmp_path, 5, 3)
    third = Life(tmp_path, first=False)
    assert third.numbers == {"tcp://127.0.0.1:5": 4, "tcp://127.0.0.1:3": 2}
    assert third.keeper.current.version == version + 1
    assert third.keeper.current.upstream_numbering.freed == (1, 0, 3)


def test_a_new_tree_goes_on_with_the_version_of_what_is_the_same(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    version = Life(tmp_path, first=True).keeper.current.version
    assert Life(tmp_path, first=True).keeper.current.version == version
    write(tmp_path, 2)
    assert Life(tmp_path, first=True).keeper.current.version == version + 1
