"""The token bucket of `tc tbf`, for constant and for changing links. Pure.

burst   what gets through at once when the link was idle, and after each change, which fills the bucket. A transfer is
        shorter by it, so it is small: a packet, since the kernel drops what is larger, and 0.6 ms of the rate, since
        tokens that come while the bucket is full are lost, and the kernel's timer is late by less. So at 50 mbit 100 kB
        are 4.5 % early, and the programs' own millisecond makes them as late. What fits into the bucket takes no time
        at all, however slow the link: 3 kB at 1.1 mbit 0.2 ms instead of 22 ms. The relay has no such bucket.
limit   what waits behind it: 0.4 s of the rate, but at least 256 KiB, as behind 5 mbit. With 64 KiB the last packets of
        100 kB are dropped while TCP still looks for the rate, and it waits for its timer: 1.4 s instead of 0.7 s at
        1.1 mbit. tc's own `latency` would let nothing wait in an outage.
"""

MTU = 4000
"""Bytes of a packet on the lab's cable: tc counts headers too, 1.7 % of the rate so, and 4.4 % with 1500."""
PACKET_BYTES = MTU + 14  # with the Ethernet header, which tc counts too
LATE_S, QUEUE_S = 0.0006, 0.4
LEAST_QUEUE_BYTES, MOST_BYTES = 1 << 18, 1 << 30
LEAST_BITS_PER_S = 8  # tc has no rate of 0


def burst_bytes(bytes_per_s: float) -> int:
    """What an idle link lets through at once."""
    return min(PACKET_BYTES + round(LATE_S * bytes_per_s), MOST_BYTES)


def tbf(bytes_per_s: float) -> tuple[str, ...]:
    """One direction at a rate, as words of `tc qdisc replace dev DEV root ...`; 0 is an outage.

    In an outage one packet gets through, and then 1 byte a second.
    """
    burst = burst_bytes(bytes_per_s)
    limit = burst + min(max(LEAST_QUEUE_BYTES, round(QUEUE_S * bytes_per_s)), MOST_BYTES)
    bits_per_s = max(LEAST_BITS_PER_S, round(8 * bytes_per_s))
    return "tbf", "rate", f"{bits_per_s}bit", "burst", f"{burst}b", "limit", f"{limit}b"
