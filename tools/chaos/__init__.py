"""The chaos tool: harm done to a running tree under traffic, and what may come of it and what must not.

    python -m tools.chaos --minutes 3 --seed 7

Theory of operation. A real ``symphony run`` serves real services. Clients make new connections without a pause, keep
others open and talk on them, and one moves bulk. Meanwhile every kind of process is killed, stopped, starved and
flooded, in an order that the seed gives and that the same seed gives again.

What a death may cost is known exactly and beforehand: the victim is stopped, the kernel's tables say which clients'
connections it holds, and then it is killed. These, and no others, may fail. Everything else that fails, that is refused
or answered wrongly is a promise broken, and the exit code says so.
"""
