"""The supervision tree under random specifications and random events, and against a small model of OTP's rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from supervisor.node import EndKind, Group, Leaf, State
from supervisor.spec import BackoffSpec, ChangeRefused, ChildSpec, GroupSpec, Restart, Strategy
from tests.support.tree_driver import TreeDriver, child, leaving

QUICK = BackoffSpec(first_s=0.25, limit_s=2.0, reset_after_s=4.0)


@st.composite
def trees(
    draw: st.DrawFn, *, intensity: st.SearchStrategy[int], name: str = "r", least: int = 1, depth: int = 0
) -> GroupSpec:
    """A group of up to four children, each a process or (two levels down) a group; names tell where they stand."""

    def node(name: str, depth: int) -> ChildSpec | GroupSpec:
        restart = draw(st.sampled_from(Restart))
        if depth < 2 and draw(st.integers(0, 2)) == 0:
            return group(name, depth + 1, restart)
        return child(
            name,
            restart=restart,
            shutdown_s=draw(st.sampled_from([0.0, 1.0, 3.0])),
            start_timeout_s=5.0,
            heartbeat_timeout_s=draw(st.sampled_from([None, 2.0])),
        )

    def group(name: str, depth: int, restart: Restart) -> GroupSpec:
        count = draw(st.integers(0 if depth else least, 4))
        return GroupSpec(
            name,
            tuple(node(f"{name}.{index}", depth) for index in range(count)),
            draw(st.sampled_from(Strategy)),
            intensity=draw(intensity),
            period_s=draw(st.sampled_from([1.0, 5.0])),
            restart=restart,
            backoff=QUICK,
            stop_together=draw(st.booleans()),
        )

    return group(name, depth, Restart.PERMANENT if name == "r" else draw(st.sampled_from(Restart)))


def additions(intensity: st.SearchStrategy[int]) -> st.SearchStrategy[ChildSpec | GroupSpec]:
    """What is added to a tree that runs, under the name `new`."""
    single = st.builds(
        lambda restart, shutdown_s: child("new", restart=restart, shutdown_s=shutdown_s, start_timeout_s=5.0),
        st.sampled_from(Restart),
        st.sampled_from([0.0, 1.0, 3.0]),
    )
    return single | trees(intensity=intensity, name="new", least=0, depth=1)


def renamed(spec: ChildSpec | GroupSpec, name: str) -> ChildSpec | GroupSpec:
    """`spec` with `name` instead of `new` in every name."""
    new = spec.name.replace("new", name, 1)
    if isinstance(spec, ChildSpec):
        return replace(spec, name=new)
    return replace(spec, name=new, children=tuple(renamed(each, name) for each in spec.children))


class Chaos(RuleBasedStateMachine):
    """Anything happens at any time. TreeDriver itself checks each single action."""

    @initialize(spec=trees(intensity=st.sampled_from([0, 1, 3, 50])))
    def begin(self, spec: GroupSpec) -> None:
        self.driver = TreeDriver(spec)
        self.beliefs: dict[str, tuple[int, set[str]]] = {}
        self.stops = 0
        self.added: dict[str, set[str]] = {}  # with the groups around it
        self.retired: list[str] = []

    def some(self, number: int, names: list[str]) -> str:
        assume(names)
        return names[number % len(names)]

    # A process does something

    @rule(number=st.integers(0, 20))
    def ready(self, number: int) -> None:
        self.driver.ready(self.some(number, list(self.driver.processes)))

    @rule()
    def all_ready(self) -> None:
        for _ in range(30):
            starting = [leaf.name for leaf in self.driver.tree.leaves() if leaf.state is State.STARTING]
            starting = [name for name in starting if not leaving(self.driver.processes[name])]
            if not starting:
                break
            self.driver.ready(starting[0])

    @rule(number=st.integers(0, 20), code=st.integers(0, 1))
    def exit(self, number: int, code: int) -> None:
        self.driver.exit(self.some(number, list(self.driver.processes)), code)

    @rule(number=st.integers(0, 20))
    def obey(self, number: int) -> None:
        names = [name for name, process in self.driver.processes.items() if leaving(process)]
        self.driver.exit(self.some(number, names), 0)

    @rule(number=st.integers(0, 20))
    def say_why(self, number: int) -> None:
        self.driver.fail(self.some(number, list(self.driver.processes)), "no more")

    @rule(number=st.integers(0, 20))
    def talk_nonsense(self, number: int) -> None:
        name = self.some(number, list(self.driver.processes))
        self.driver.tree.child_broken(name, "nonsense", self.driver.now)
        self.driver.act()

    # Time goes by

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.5, 2.0, 7.0]), beating=st.booleans())
    def wait(self, seconds: float, beating: bool) -> None:
        self.driver.wait(seconds, beating=beating)

    @rule(seconds=st.sampled_from([0.2, 1.0, 30.0]))
    def stand_still(self, seconds: float) -> None:
        self.driver.sleep_through(seconds)

    @precondition(lambda self: self.stops < 2)
    @rule(grace_s=st.sampled_from([None, 0.0, 2.0]), luck=st.integers(0, 4))
    def stop(self, grace_s: float | None, luck: int) -> None:
        assume(luck == 0)  # not in every run, and not at once
        self.stops += 1
        self.driver.stop(grace_s)

    # The tree is changed

    @rule(spec=additions(st.sampled_from([0, 1, 3])), number=st.integers(0, 20))
    def add(self, spec: ChildSpec | GroupSpec, number: int) -> None:
        parents = list(groups(self.driver.tree.root))
        parent = parents[number % len(parents)]
        name = f"n{len(self.added)}"
        if parent.state in (State.STARTING, State.RUNNING):
            self.driver.add(renamed(spec, name), parent.name)
            self.added[name] = {parent.name, *(group.name for group in ancestors(parent))}
            with pytest.raises(ChangeRefused, match=r"there is (one already|no )|does not run"):
                self.driver.add(child(name), parent.name)
        else:
            with pytest.raises(ChangeRefused, match="does not run"):
                self.driver.add(renamed(spec, name), parent.name)

    @rule(number=st.integers(0, 40))
    def retire(self, number: int) -> None:
        name = self.some(number, self.driver.names())
        if self.driver.outcome is not None:
            with pytest.raises(ChangeRefused, match="has ended"):
                self.driver.retire(name)
            return
        self.driver.retire(name)
        self.retired.append(name)

    # What always holds

    @invariant()
    def what_was_added_joins_or_goes_and_what_was_retired_goes(self) -> None:
        settled, there = self.driver.settled, set(self.driver.names())
        for name in self.added:
            if name in there:
                node = next(node for node in self.driver.tree.root.walk() if node.name == name)
                assert node.joining is (f"+{name}" not in settled)
            else:
                assert not {name, *self.added[name]}.isdisjoint(self.driver.removed), name
        for name in self.driver.removed:
            assert name in self.added or name in self.retired, f"{name} is forgotten for nothing"
            assert name in self.retired or f"+{name}" not in settled, f"{name} had joined"

    @invariant()
    def processes_are_those_of_live_children(self) -> None:
        assert self.driver.running == {leaf.name for leaf in self.driver.tree.leaves() if leaf.live}

    @invariant()
    def only_what_runs_and_is_not_killed_is_up(self) -> None:
        for leaf in self.driver.tree.leaves():
            assert leaf.up == (leaf.state is State.RUNNING and not leaf.killed), leaf.name
            assert leaf.killed == (leaf.live and self.driver.processes[leaf.name].killed)

    @invariant()
    def nothing_lives_in_a_group_that_does_not(self) -> None:
        for group in groups(self.driver.tree.root):
            if not group.live:
                assert not any(node.live for node in group.children), group.name
            assert (group.ending is not None) == (group.state is State.STOPPING), group.name

    @invariant()
    def children_stop_from_the_last_one_on(self) -> None:
        if self.stops > 1:
            return
        for group in groups(self.driver.tree.root):
            if group.spec.stop_together:
                continue
            going = [
                node
                for node in group.children
                if node.live and not node.leaving and (group.ending is not None or node.name in group.to_stop)
            ]
            for node in going[:-1]:
                # A group may be ending by itself at the same time.
                by_itself = isinstance(node, Group) and node.ending and node.ending.kind is not EndKind.ASKED
                assert node.state is not State.STOPPING or by_itself, node.name

    @invariant()
    def children_start_from_the_first_one_on(self) -> None:
        for group in groups(self.driver.tree.root):
            if group.ending is not None or group.to_stop or not group.live:
                continue
            held = False
            for node in group.children:
                assert not (held and node.live and not node.leaving), (
                    f"{node.name} before one that is due first"
                )
                held = held or (node.in_sequence and node.state in (State.WAITING, State.STARTING))

    @invariant()
    def siblings_know_what_they_need_to(self) -> None:
        leaves = {leaf.name: leaf for leaf in self.driver.tree.leaves()}
        for name, process in self.driver.processes.items():
            incarnation, down = self.beliefs.get(name, (0, set()))
            if incarnation != process.incarnation:
                down = set()
            for sibling, up in self.driver.told(name):
                assert (sibling in down) is up, f"{name} was told of {sibling} what it knew"
                (down.discard if up else down.add)(sibling)
            down = {
                each for each in down if each in leaves
            }  # of one that is gone for good nothing more is told
            self.beliefs[name] = (process.incarnation, down)
            leaf = leaves[name]
            stays = leaf.group.ending is None and name not in leaf.group.to_stop and not leaf.leaving
            if leaf.state is State.RUNNING and not leaf.killed and stays:
                assert down == {each.name for each in siblings(leaf) if not each.up}, name

    @invariant()
    def whatever_is_awaited_has_a_time(self) -> None:
        nodes = list(self.driver.tree.root.walk())
        awaited = [node for node in nodes if isinstance(node, Leaf) and node.live and awaits(node)]
        awaited += [node for node in nodes if node.state is State.BACKING_OFF]
        assert self.driver.due is not None or not awaited
        assert (self.driver.due is None) or self.driver.outcome is None

    def teardown(self) -> None:
        """After a stop the tree comes to its end, even if nobody obeys and nobody dies."""
        if not hasattr(self, "driver"):
            return
        driver = self.driver
        if not self.stops:
            driver.stop()
        deadline = driver.now + 20.0 * (1 + sum(1 for _ in driver.tree.leaves()))
        obeying = len(driver.history) % 2 == 0
        while driver.outcome is None:
            assert driver.now < deadline, f"still there: {driver.running}"
            if obeying:
                driver.stop_all()
            driver.wait(1.0)
            self.processes_are_those_of_live_children()
        assert not driver.running
        assert driver.due is None
        kinds = {node.state for node in driver.tree.root.walk()}
        assert kinds == {State.DOWN}
        assert not [node.name for node in driver.tree.root.walk() if node.joining or node.leaving]


def ancestors(group: Group) -> Iterator[Group]:
    while group.parent is not None:
        group = group.parent
        yield group


def groups(root: Group) -> Iterator[Group]:
    return (node for node in root.walk() if isinstance(node, Group))


def siblings(leaf: Leaf) -> list[Leaf]:
    return [node for node in leaf.group.children if isinstance(node, Leaf) and node is not leaf]


def awaits(leaf: Leaf) -> bool:
    """Whether something must become of the child some time, by itself or by force."""
    return leaf.killed or leaf.state is not State.RUNNING or leaf.spec.heartbeat_timeout_s is not None


Chaos.TestCase.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestChaos = Chaos.TestCase


@dataclass
class Model:
    """OTP's rule for a node that is alone in failing: who lives, how often each was started, who gave up."""

    spec: ChildSpec | GroupSpec
    parent: Model | None = None
    alive: bool = False
    starts: int = 0
    restarts: list[float] = field(default_factory=list)
    children: list[Model] = field(default_factory=list)

    def __post_init__(self) -> None:
        if isinstance(self.spec, GroupSpec):
            self.children = [Model(each, self) for each in self.spec.children]

    def start(self) -> None:
        self.alive = True
        self.starts += 1
        self.restarts = []
        for each in self.children:
            each.start()

    def stop(self) -> None:
        self.alive = False
        for each in self.children:
            each.stop()

    def end(self, normal: bool, now: float) -> None:
        self.stop()
        if self.parent is None:
            return
        if self.spec.restart is Restart.PERMANENT or (self.spec.restart is Restart.TRANSIENT and not normal):
            self.parent.restart(self, now)

    def restart(self, node: Model, now: float) -> None:
        spec = self.spec
        assert isinstance(spec, GroupSpec)
        self.restarts = [at for at in self.restarts if now - at <= spec.period_s] + [now]
        if len(self.restarts) > spec.intensity:
            self.end(False, now)
            return
        index = self.children.index(node)
        first = {Strategy.ONE_FOR_ONE: index, Strategy.REST_FOR_ONE: index, Strategy.ONE_FOR_ALL: 0}
        again = self.children[first[spec.strategy] :]
        if spec.strategy is Strategy.ONE_FOR_ONE:
            again = [node]
        for each in again:
            each.stop()
        for each in again:
            if each.spec.restart is not Restart.TEMPORARY:
                each.start()

    def add(self, spec: ChildSpec | GroupSpec) -> None:
        self.children.append(Model(spec, self))
        self.children[-1].start()

    def retire(self) -> None:
        assert self.parent is not None
        self.stop()
        self.parent.children.remove(self)

    def walk(self) -> Iterator[Model]:
        yield self
        for each in self.children:
            yield from each.walk()

    def leaves(self) -> Iterator[Model]:
        if isinstance(self.spec, ChildSpec):
            yield self
        for each in self.children:
            yield from each.leaves()


def settle(driver: TreeDriver) -> None:
    """Let everybody do what is expected of them until nothing more is."""
    for _ in range(200):
        driver.stop_all()
        driver.start_all()
        waiting = {node.state for node in driver.tree.root.walk()} & {State.BACKING_OFF, State.WAITING}
        if driver.outcome is not None or not (waiting or any(map(leaving, driver.processes.values()))):
            return
        driver.wait(0.25)
    raise AssertionError("the tree does not come to rest")


@dataclass(frozen=True)
class Step:
    """A child ends, or the tree is changed, at the `number`-th place where that is possible; then `pause` seconds."""

    number: int
    pause: float
    what: str
    spec: ChildSpec | GroupSpec | None = None


def steps() -> st.SearchStrategy[Step]:
    number, pause = st.integers(0, 30), st.sampled_from([0.0, 0.7, 3.0])
    end = st.builds(Step, number, pause, st.sampled_from(["return", "fail"]))
    retire = st.builds(Step, number, pause, st.just("retire"))
    add = st.builds(Step, number, pause, st.just("add"), additions(st.sampled_from([0, 2])))
    return end | end | end | retire | add


@settings(max_examples=300, deadline=None)
@given(
    trees(intensity=st.sampled_from([0, 1, 2, 50])),
    st.lists(steps(), min_size=1, max_size=12),
)
def test_children_are_restarted_as_otp_says(spec: GroupSpec, planned: list[Step]) -> None:
    driver = TreeDriver(spec)
    settle(driver)
    model = Model(spec)
    model.start()
    for index, step in enumerate(planned):
        living = [leaf for leaf in model.leaves() if leaf.alive]
        assert driver.running == {leaf.spec.name for leaf in living}
        if step.what == "add":
            assert step.spec is not None
            parents = [each for each in model.walk() if each.alive and isinstance(each.spec, GroupSpec)]
            parent = parents[step.number % len(parents)]
            added = renamed(step.spec, f"n{index}")
            parent.add(added)
            driver.add(added, parent.spec.name)
        elif step.what == "retire":
            nodes = list(model.walk())[1:]
            if not nodes:
                continue
            node = nodes[step.number % len(nodes)]
            node.retire()
            driver.retire(node.spec.name)
        else:
            if not living:
                continue
            victim = living[step.number % len(living)]
            victim.end(step.what == "return", driver.now)
            driver.exit(victim.spec.name, 0 if step.what == "return" else 1)
        settle(driver)
        assert (driver.outcome is not None) == (not model.alive)
        starts = {leaf.spec.name: leaf.starts for leaf in model.leaves()}
        assert {leaf.name: leaf.incarnation for leaf in driver.tree.leaves()} == starts
        if driver.outcome is not None:
            break
        driver.wait(step.pause)
