"""Agent users: users of the router that may spend its wallet's tokens up to an allowance (contract section 1)."""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Protocol

from proxy_router_sim.auth import User, Users
from proxy_router_sim.errors import RouterError

ADMIN = "admin"


class Purse(Protocol):
    """What a caller may stake."""

    def check(self, stake: int) -> None:
        """Raises RouterError unless a stake (wei) may be spent."""

    def spend(self, stake: int, transaction: str) -> None:
        """Take a stake (wei) off; ``transaction`` is the hash of its open."""


class Unlimited:
    """The admin's purse: the wallet itself."""

    def check(self, stake: int) -> None: ...

    def spend(self, stake: int, transaction: str) -> None: ...


@dataclass(slots=True)
class Agent:
    """A user who asked for itself; nobody before it is confirmed."""

    user: User
    allowances: dict[str, int]
    """wei by token: the address as it was given"""
    confirmed: bool = False
    transactions: list[str] = field(default_factory=list)
    """hashes, oldest first"""


class Agents:
    """The agent users and what they asked for. They last as long as the process."""

    def __init__(self, users: Users, mor_token: str) -> None:
        self._users = users
        self._mor_token = mor_token
        self._agents: dict[str, Agent] = {}
        self._requests: dict[tuple[str, str], int] = {}

    def request(self, user: User, allowances: dict[str, int]) -> None:
        """Somebody without credentials asks to become a user. Raises RouterError for a name that is taken."""
        if user.name in self._agents or self._users.has(user.name):
            raise RouterError("user already exists")
        self._agents[user.name] = Agent(user, allowances)

    def decide(self, name: str, *, confirm: bool) -> None:
        """Let an agent in, or forget it. Raises RouterError for an unknown name."""
        agent = self._agent(name)
        if confirm:
            agent.confirmed = True
            self._users.add(agent.user)
        else:
            self.remove(name)

    def remove(self, name: str) -> None:
        """Forget a user, agent or not; an unknown name is no error."""
        self._agents.pop(name, None)
        self._users.remove(name)

    def all(self) -> list[Agent]:
        return list(self._agents.values())

    def ask_allowance(self, name: str, token: str, amount: int) -> None:
        """An agent asks for another allowance (wei) of a token. Raises RouterError for an unknown name."""
        self._agent(name)
        self._requests[name, token] = amount

    def allowance_requests(self) -> list[tuple[str, str, int]]:
        """Name, token and wei of what was asked for and not decided."""
        return [(name, token, amount) for (name, token), amount in self._requests.items()]

    def decide_allowance(self, name: str, token: str, *, confirm: bool) -> None:
        """Grant what an agent asked for, in place of what it had, or refuse it. Raises RouterError if it did not ask."""
        amount = self._requests.pop((name, token), None)
        if amount is None:
            raise RouterError("allowance request not found")
        if confirm:
            self._agent(name).allowances[token] = amount

    def revoke_allowance(self, name: str, token: str) -> None:
        """Take an allowance away. Raises RouterError for an unknown name."""
        self._agent(name).allowances.pop(token, None)

    def transactions(self, name: str, cursor: str, limit: int) -> tuple[list[str], str]:
        """A page of an agent's transactions, and the cursor of the next or "" at the end."""
        hashes = self._agent(name).transactions
        try:
            start = int(base64.b64decode(cursor, validate=True)) if cursor else 0
        except (binascii.Error, ValueError):
            raise RouterError("invalid cursor") from None
        following = start + limit
        return hashes[start:following], base64.b64encode(str(following).encode()).decode() if following < len(
            hashes
        ) else ""

    def purse(self, name: str) -> Purse:
        """What a user may stake: the admin without limit, nobody else without a record (contract section 1)."""
        if name == ADMIN:
            return Unlimited()
        agent = self._agents.get(name)
        return _AgentsPurse(agent, self._mor_token) if agent is not None and agent.confirmed else _Nobody()

    def _agent(self, name: str) -> Agent:
        try:
            return self._agents[name]
        except KeyError:
            raise RouterError("user not found") from None


class _Nobody:
    def check(self, _stake: int) -> None:
        raise RouterError("low agent user allowance: user not found")

    def spend(self, stake: int, _transaction: str) -> None:
        self.check(stake)


class _AgentsPurse:
    def __init__(self, agent: Agent, token: str) -> None:
        self._agent = agent
        self._token = token

    def check(self, stake: int) -> None:
        # Looked up in lowercase and stored as given: a checksummed spelling is never found.
        if self._agent.allowances.get(self._token, 0) < stake:
            raise RouterError("low agent user allowance: not enough allowance")

    def spend(self, stake: int, transaction: str) -> None:
        """Never given back. Another open may have been quicker: then this one is an error that hides a session."""
        self.check(stake)
        self._agent.allowances[self._token] -= stake
        self._agent.transactions.append(transaction)
