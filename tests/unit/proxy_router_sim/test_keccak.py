import pytest
from proxy_router_sim.ethereum import checksum
from proxy_router_sim.keccak import keccak256


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"", "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"),
        (b"abc", "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"),
    ],
)
def test_gives_the_published_digests(data: bytes, digest: str) -> None:
    assert keccak256(data).hex() == digest


def test_every_length_around_the_block_size_has_its_own_digest() -> None:
    assert len({keccak256(bytes(length)) for length in range(130, 280)}) == 150


@pytest.mark.parametrize(
    "spelled",
    [
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
    ],
)
def test_checksums_are_those_of_eip_55(spelled: str) -> None:
    assert checksum(spelled.lower()) == spelled
