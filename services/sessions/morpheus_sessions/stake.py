"""Stake arithmetic, in exact integers of wei.

Source: proxy-router contract, section 3: `stake = supply * price * duration / budget`, and the contract works the
duration out again from the stake, rounding down.
"""

from dataclasses import dataclass
from typing import Final

MIN_ASKED_SECONDS: Final = 330
"""The contract refuses under 300 s of what the stake buys when the open is mined; a change of day between our arithmetic
and the block, or rounding, could push 300 s under that."""
MAX_CHAIN_SECONDS: Final = 7 * 86_400
"""The chain caps a session's time here, but not its stake: a longer request would lock MOR for nothing."""

TAG_SPACE: Final = 10**9
"""The last nine digits of a stake are ours: three for the deployment, six for a counter. A thousand-millionth of a MOR
at most is added by that."""
TAG_COUNTERS: Final = 10**6
"""So many stakes differ by their counter."""


@dataclass(frozen=True, slots=True)
class Quote:
    """What a session costs. `price` in wei a second, `stake` in wei without a tag, `duration` in seconds."""

    price: int
    duration: int
    stake: int


def asked_duration(duration: int) -> int:
    """Return the seconds to ask of the chain for a session of `duration` seconds. `ValueError` over seven days."""
    if duration > MAX_CHAIN_SECONDS:
        msg = f"at most {MAX_CHAIN_SECONDS} seconds"
        raise ValueError(msg)
    return max(duration, MIN_ASKED_SECONDS)


def quote(*, price: int, duration: int, supply: int, budget: int) -> Quote:
    """Return what a session of `duration` seconds at `price` wei a second needs. Rounds up, so the time is never short."""
    if budget <= 0:
        msg = "the chain's budget is zero"
        raise ValueError(msg)
    seconds = asked_duration(duration)
    return Quote(price=price, duration=seconds, stake=-(-supply * price * seconds // budget))


def tagged(stake: int, *, deployment: int, counter: int) -> int:
    """Return `stake` rounded up to a multiple of 10**9 wei, plus our tag in the last nine digits.

    The contract stores a stake to the wei (tried on a local chain), so the tag tells which sessions of a wallet are
    ours, and which operation opened one.
    """
    if not 1 <= deployment <= 999:
        msg = "a deployment number has one to three digits"
        raise ValueError(msg)
    rounded = -(-stake // TAG_SPACE) * TAG_SPACE
    return rounded + deployment * TAG_COUNTERS + counter % TAG_COUNTERS


def most_tagged(stake: int) -> int:
    """Return what `stake` comes to at most, in wei, with whatever tag."""
    return -(-stake // TAG_SPACE) * TAG_SPACE + TAG_SPACE - 1


def deployment_of(stake: int) -> int:
    """Return the deployment number in the tag of a stake; 0 for one without a tag."""
    return stake % TAG_SPACE // TAG_COUNTERS
