import socket
from collections.abc import Iterator

import pytest
from morpheus_devstack.errors import StackError
from morpheus_devstack.ports import LOOPBACK, free_ports, is_free, remembered_or_free, require_free


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_free_ports_are_different_and_free() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(is_free(port) for port in ports)


def test_a_taken_port_is_one_sentence_with_the_way_out(taken: int) -> None:
    with pytest.raises(StackError) as refused:
        require_free(taken, whose="gateway", way_out="--port chooses another one")
    assert str(refused.value) == (
        f"Port {taken}, where the gateway should listen, is taken by another program; --port chooses another one."
    )


def test_a_port_is_kept_between_runs_while_it_is_free(taken: int) -> None:
    free = free_ports(1)[0]
    assert remembered_or_free(free) == free
    assert remembered_or_free(taken) != taken
    assert is_free(remembered_or_free(None))
