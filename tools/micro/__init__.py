"""Micro-benchmarks of what every connection pays for: guard rails against a slow creep that no single test sees.

Two views of the same cases (:mod:`tools.micro.cases`). `count` runs each under valgrind's callgrind and counts the
instructions of one call. That number is the same on a busy machine and on a quiet one, so it can be compared with a
stored one (`baseline.json`), and a regression is seen without a timed test. `time` measures nanoseconds with pyperf,
for when somebody wants to know what an instruction is worth. Neither is part of the tests.
"""
