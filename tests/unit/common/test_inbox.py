"""How many attempts a gateway has open at once."""

import pytest
from morpheus_common.bus.frames import WINDOW_BYTES, Kind, frame_headers
from morpheus_common.bus.inbox import Attempt, RelayInbox
from morpheus_common.errors import ApiError
from nats.aio.client import Client
from nats.aio.msg import Msg


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> RelayInbox:
    """Room for one."""
    monkeypatch.setattr("morpheus_common.bus.inbox.PENDING_BYTES", 2 * WINDOW_BYTES)
    return RelayInbox(Client(), "g1")


async def arrives(inbox: RelayInbox, attempt: Attempt, kind: Kind) -> None:
    await inbox._on_message(Msg(_client=Client(), subject=attempt.inbox, headers=frame_headers(kind, 0)))


@pytest.mark.parametrize("kind", [Kind.OWNER, Kind.END, Kind.ERROR])
async def test_an_attempt_that_is_over_takes_nobodys_place(inbox: RelayInbox, kind: Kind) -> None:
    with inbox.attempt() as first:
        await arrives(inbox, first, kind)
        with inbox.attempt():
            assert len(inbox) == 2
    with inbox.attempt(), pytest.raises(ApiError), inbox.attempt():
        pass


@pytest.mark.parametrize("kind", [Kind.ACCEPT, Kind.BEAT, Kind.DATA])
async def test_an_attempt_under_way_keeps_its_place(inbox: RelayInbox, kind: Kind) -> None:
    with inbox.attempt() as first:
        await arrives(inbox, first, kind)
        with pytest.raises(ApiError), inbox.attempt():
            pass
