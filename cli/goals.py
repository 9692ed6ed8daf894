"""The objective flags as a goal, and its errors in words of those flags."""

import argparse

from edgecloud.partition.decide import Clash, Goal, GoalError
from edgecloud.utils.errors import UsageError

WORDS: dict[Clash, str] = {
    Clash.WEIGHTED_ALONE: "--objective weighted requires --seconds-per-joule",
    Clash.AUTO_ALONE: "--objective auto requires --rate",
    Clash.JOULES_UNWANTED: "--seconds-per-joule requires --objective weighted",
    Clash.COST_WITH_OTHERS: (
        "--max-cost requires --objective latency, energy or weighted, and cannot be combined with --method"
    ),
    Clash.COST_WITHOUT_PRICE: "--max-cost requires --cloud-price",
    Clash.DSH_UNWANTED: "--method dsh requires --objective throughput",
    Clash.MINCUT_UNWANTED: "--objective throughput cannot be combined with --method mincut: use auto, chain or dsh",
}


def goal_of(options: argparse.Namespace) -> Goal:
    """The goal of a command line that has the flags of `cli.flags.add_goal_flags`. Raises UsageError."""
    criteria = (options.objective, options.method, options.seconds_per_joule, options.rate)
    try:
        return Goal(*criteria, options.max_cost, options.cloud_price)
    except GoalError as error:
        raise UsageError(WORDS[error.clash]) from None
