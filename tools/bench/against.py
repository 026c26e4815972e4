"""What something costs Symphony: Symphony with it beside Symphony without it, instead of another proxy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tools.bench.axes import CPU, Axis, Bench, fill, replace_job
from tools.bench.figures import spread
from tools.bench.job import Job
from tools.bench.outcome import Figure, Target
from tools.bench.pair import cpu_per_operation_us, cpu_ratio, order, run_pair
from tools.bench.peers import Peer, Symphony


@dataclass
class Against(Axis):
    """Symphony with something against Symphony without it, at the same time: what that costs an operation."""

    key: str
    title: str
    job: Job
    variant: Callable[[], Symphony]
    plain: Callable[[], Symphony]
    against: str
    limit: float | None = None
    upstream: str = "plain"
    only_symphony = True

    def __post_init__(self) -> None:
        """The variant may have another backend."""
        self.needs_nginx = self.upstream == "proxied"

    def run(self, bench: Bench, peer: Peer) -> list[Figure]:
        """Run the pairs."""
        both = [self.variant(), self.plain()]
        both[0].name, both[1].name = f"{peer.name}-{self.key}", f"{peer.name}-without"
        job = replace_job(self.job, operations=bench.operations(self.job.operations))
        services = {both[0].name: bench.service(upstream=self.upstream)}
        own, others, ratios = [], [], []
        for index in range(bench.pairs):
            sides = run_pair(order(index, both), bench.service(), job, bench.cores, services=services)
            own.append(cpu_per_operation_us(sides[both[0].name]))
            others.append(cpu_per_operation_us(sides[both[1].name]))
            ratios.append(cpu_ratio(sides[both[0].name], sides[both[1].name]))
            bench.step()
        target = Target("ratio", self.limit) if self.limit else None
        figure = fill(self.figure(peer, CPU, "µs", target), own, others)
        figure.ratio = spread(ratios)
        figure.against = self.against
        return [figure]
