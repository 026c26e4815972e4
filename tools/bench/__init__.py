"""The benchmark: Symphony beside other TLS proxies, two at a time on one core, CPU per operation as a ratio.

Theory of operation. Absolute CPU figures from one machine and one minute do not travel, and on shared hardware they
do not even repeat. So two proxies run at the same time on the same core, with the same certificate, the same
backend and the same client, each gets exactly the same number of operations interleaved with the other's, and what
is reported is the ratio of the CPU that all processes of each side have used. Load and backend run on another core.
Each pair is started afresh (memory layout is luck, and this draws again), the order alternates, and the median over
the pairs is given with its minimum and maximum. Every answer is compared with what it must be, byte for byte; one
wrong answer, one lost connection or one process that came or went makes the pair an error, and an axis with an
error in it is reported as failed, without a number.
"""
