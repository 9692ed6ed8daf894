"""The flags that say what is wanted, as a goal; and what is wrong with one, in words of those flags."""

import argparse

from edgecloud.partition.decide import Clash, Goal, GoalError
from edgecloud.utils.errors import UsageError

WORDS: dict[Clash, str] = {
    Clash.WEIGHTED_ALONE: "--objective weighted needs --seconds-per-joule",
    Clash.AUTO_ALONE: "--objective auto needs --rate",
    Clash.JOULES_UNWANTED: "--seconds-per-joule is for --objective weighted",
    Clash.COST_WITH_OTHERS: "--max-cost is for --objective latency, energy or weighted, and chooses its own method",
    Clash.COST_WITHOUT_PRICE: "--max-cost needs --cloud-price",
    Clash.DSH_UNWANTED: "--method dsh is DADS's search for --objective throughput",
    Clash.MINCUT_UNWANTED: ("a minimum cut adds stages up: --objective throughput takes --method auto, chain or dsh"),
}


def goal_of(options: argparse.Namespace) -> Goal:
    """The goal of a command line that has the flags of `cli.flags.add_goal_flags`. Raises UsageError."""
    wanted = (options.objective, options.method, options.seconds_per_joule, options.rate)
    try:
        return Goal(*wanted, options.max_cost, options.cloud_price)
    except GoalError as error:
        raise UsageError(WORDS[error.clash]) from None
