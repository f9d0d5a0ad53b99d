"""`morpheus` with simulated routers whose blocks take BLOCK_SECONDS, and whose transactions collide when they overlap.

The development stack has blocks of half a second, because nobody at home wants to wait; the bar on opening speaks of
Base, which has two. Run by the Python of the checkout that is measured.
"""

import os
from dataclasses import replace

from morpheus_devstack import cli, stack
from morpheus_devstack.processes import Command


class SlowChain(stack.Stack):
    """The stack, its simulators told otherwise: of two options the last one counts."""

    def _simulator(self) -> list[Command]:
        more = ("--block-time", os.environ["BLOCK_SECONDS"], "--nonce-races")
        return [replace(command, argv=[*command.argv, *more]) for command in super()._simulator()]


def main() -> None:
    """Entry of the command."""
    stack.Stack = SlowChain  # type: ignore[misc]  # `up` looks for it there, and has no option for the block time
    cli.main()


if __name__ == "__main__":
    main()
