"""Which upstream a client's address was led to, remembered for all acceptors together.

One table in shared memory, made before the fork, which every acceptor reads and writes. An entry is a single word, so
that nobody ever sees half of one: a tag of the key, the number of the upstream, and when it was last used. Eight
entries make a bucket, one line of the cache; in a full one, the entry that was not used for the longest time goes.

Nobody locks anything. Acceptors that see a client for the first time at the same moment write the same, since the first
choice depends on the address and the upstreams alone (:mod:`symphony.routing.rendezvous`). Of two that write different
entries to one place, one is lost, and is chosen again in the same way. That two clients share an entry, because their
keys agree in 43 bits, does no harm: both are led to the same upstream.
"""

from __future__ import annotations

from symphony.host.shared_memory import attach, share

_WAYS = 8
_BUCKET_BITS = 17
_TAG_BITS = 26
_NUMBER_BITS = 16
_TIME_BITS = 22
_TIME_MASK = (1 << _TIME_BITS) - 1
_NUMBER_MASK = (1 << _NUMBER_BITS) - 1
_TAG_SHIFT = _NUMBER_BITS + _TIME_BITS
_UNIT_MS = 250  # 22 bits of it are 12 days
_WORD = 8


class AffinityTable:
    """Remembers an upstream's number (0 to 65535) by a key of 64 evenly distributed bits.

    The default size has room for a million keys in 8 MiB, which are backed as they are used.
    """

    __slots__ = ("_buckets", "_memory", "_words", "descriptor")

    LAYOUT = "26 + 16 + 22 bits in 8 ways, 1"

    def __init__(self, bucket_bits: int = _BUCKET_BITS, descriptor: int = -1) -> None:
        """`descriptor` is that of a table of the same layout and size which is used together; it is taken over.

        Raises :class:`UnusableMemory`.
        """
        self._buckets = 1 << bucket_bits
        size = self._buckets * _WAYS * _WORD
        if descriptor < 0:
            self._memory, self.descriptor = share("symphony-affinity", size)
        else:
            self._memory, self.descriptor = attach(descriptor, size)
        self._words = memoryview(self._memory).cast("Q")

    def recall(self, key: int, now_ms: int, ttl_ms: int) -> int:
        """Return the number that is remembered for `key`, or -1 when there is none or nobody asked for `ttl_ms`.

        An entry that is found counts as used now.
        """
        at, words = self._bucket(key)
        tag = _tag(key)
        now = now_ms // _UNIT_MS & _TIME_MASK
        for way, word in enumerate(words):
            if word >> _TAG_SHIFT == tag:
                age_ms = ((now - word) & _TIME_MASK) * _UNIT_MS
                if age_ms > ttl_ms:
                    return -1
                if age_ms * 8 > ttl_ms:  # not with each connection: others read this line of the cache, too
                    self._words[at + way] = word & ~_TIME_MASK | now
                return word >> _TIME_BITS & _NUMBER_MASK
        return -1

    def remember(self, key: int, number: int, now_ms: int) -> None:
        """Remember `number` for `key` from now on."""
        at, words = self._bucket(key)
        tag = _tag(key)
        now = now_ms // _UNIT_MS & _TIME_MASK
        place = oldest = -1
        for way, word in enumerate(words):
            if word >> _TAG_SHIFT == tag:
                place = way
                break
            age = (now - word) & _TIME_MASK if word else _TIME_MASK + 1
            if age > oldest:
                place, oldest = way, age
        self._words[at + place] = tag << _TAG_SHIFT | number << _TIME_BITS | now

    def _bucket(self, key: int) -> tuple[int, list[int]]:
        at = (key & self._buckets - 1) * _WAYS
        return at, self._words[at : at + _WAYS].tolist()


def _tag(key: int) -> int:
    return key >> 64 - _TAG_BITS or 1  # 0 is an entry that was never used
