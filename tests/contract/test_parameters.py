"""Paging and order of lists, and parameters that cannot be read (Contract 0)."""

import pytest

from tests.contract.target import UNKNOWN_ID, Router, error_of


def bids_path(router: Router) -> str:
    """The bids of a model that has two or more."""
    for model in router.models("LLM")[:20]:
        path = f"/blockchain/models/{model['Id']}/bids"
        if len(router.read(path)["bids"]) >= 2:
            return path
    raise AssertionError("no model has two bids")


def test_only_an_upper_case_asc_is_ascending(router: Router) -> None:
    """Contract 0, pagination: everything else is newest first, unknown words too."""
    path = bids_path(router)
    ascending = router.read(path, order="ASC", limit=255)["bids"]
    descending = router.read(path, limit=255)["bids"]
    assert descending == ascending[::-1]
    created = [int(bid["CreatedAt"]) for bid in ascending]
    assert created == sorted(created)
    for order in ("asc", "Asc", "DESC", "desc", "sideways"):
        assert router.read(path, order=order, limit=255)["bids"] == descending


def test_offset_and_limit_page_a_list(router: Router) -> None:
    """Contract 0, pagination: no total, no next link; beyond the end is an empty list."""
    path = bids_path(router)
    everything = router.read(path, limit=255)["bids"]
    assert router.read(path, offset=1, limit=1) == {"bids": everything[1:2]}
    assert router.read(path) == {"bids": everything[:10]}
    assert router.read(path, offset=len(everything)) == {"bids": []}
    assert router.read(path, offset=10**6) == {"bids": []}


def test_a_limit_of_zero_is_an_empty_list(router: Router) -> None:
    """Contract 0, pagination."""
    assert router.read(bids_path(router), limit=0) == {"bids": []}
    assert router.read("/blockchain/sessions/user", user=router.wallet(), limit=0) == {"sessions": []}


@pytest.mark.parametrize(("path", "name"), [("/blockchain/models", "models"), ("/blockchain/providers", "providers")])
def test_models_and_providers_are_listed_whole_without_a_limit(router: Router, path: str, name: str) -> None:
    """Contract 0, pagination: all, ascending, in whatever order was asked for; a limit of 0 says the same."""
    everything = router.read(path)[name]
    assert router.read(path, limit=0, order="DESC")[name] == everything
    assert router.read(path, limit=1, order="ASC")[name] == everything[:1]
    assert len(router.read(path, limit=2)[name]) == min(2, len(everything))


@pytest.mark.parametrize("limit", ["256", "1000"])
def test_a_limit_is_one_byte(router: Router, limit: str) -> None:
    """Contract 0, pagination: uint8."""
    response = router.get(f"/blockchain/models/{UNKNOWN_ID}/bids", limit=limit)
    assert (response.status_code, error_of(response)) == (
        400,
        f'strconv.ParseUint: parsing "{limit}": value out of range',
    )


@pytest.mark.parametrize("limit", ["-1", "x", "1.5"])
def test_a_limit_is_a_number(router: Router, limit: str) -> None:
    """Contract 0, pagination."""
    response = router.get(f"/blockchain/models/{UNKNOWN_ID}/bids", limit=limit)
    assert (response.status_code, error_of(response)) == (400, f'strconv.ParseUint: parsing "{limit}": invalid syntax')


@pytest.mark.parametrize("path", ["/blockchain/bids/{}", "/blockchain/sessions/{}", "/blockchain/models/{}/bids"])
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ("0x12", "invalid hash length"),
        ("ab" * 33, "invalid hash length"),
        ("z" * 64, "encoding/hex: invalid byte: U+007A 'z'"),
        ("0x" + "ab" * 31 + "a-", "encoding/hex: invalid byte: U+002D '-'"),
    ],
)
def test_an_id_is_32_bytes_of_hex(router: Router, path: str, bad: str, error: str) -> None:
    """Contract 0, path id."""
    response = router.get(path.format(bad))
    assert (response.status_code, error_of(response)) == (400, error)


def test_the_prefix_of_an_id_may_be_missing(router: Router) -> None:
    """Contract 0, path id."""
    bid_id = router.offer("LLM").bid_id
    assert router.read(f"/blockchain/bids/{bid_id[2:]}") == router.read(f"/blockchain/bids/{bid_id}")


@pytest.mark.parametrize(
    "path",
    [
        "/blockchain/providers/0x12/bids",
        "/blockchain/allowance?spender=nobody",
        "/blockchain/sessions/user?user=0x12",
        "/blockchain/sessions/user/ids?user=0x12",
        "/blockchain/sessions/provider?provider=0x12",
    ],
)
def test_an_address_is_20_bytes_of_hex(router: Router, path: str) -> None:
    """Contract 0, address param."""
    response = router.http.get(path)
    assert (response.status_code, error_of(response)) == (400, "invalid address")


def test_a_missing_address_is_the_zero_address(router: Router) -> None:
    """Contract 0, address param: nobody's allowance and nobody's sessions, not an error."""
    assert router.read("/blockchain/sessions/user") == {"sessions": []}
    assert router.read("/blockchain/sessions/user/ids") == []
    assert set(router.read("/blockchain/allowance")) == {"allowance"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/proxy/provider/ping"])
def test_an_empty_body_is_eof(router: Router, path: str) -> None:
    """Contract 0, empty JSON body."""
    response = router.post(path)
    assert (response.status_code, response.json()) == (400, {"error": "EOF"})


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"x", "invalid character 'x' looking for beginning of value"),
        (b'{"providerUrl": ,}', "invalid character ',' looking for beginning of value"),
        (b'{"providerUrl"', "unexpected EOF"),
        (b"{7}", "invalid character '7' looking for beginning of object key string"),
        (b'{"providerUrl" 7}', "invalid character '7' after object key"),
        (b'{"providerUrl": "a" 7}', "invalid character '7' after object key:value pair"),
    ],
)
def test_a_body_that_is_no_json_has_the_text_of_go(router: Router, body: bytes, error: str) -> None:
    """Contract 0, empty JSON body: or Go's syntax error."""
    response = router.post("/proxy/provider/ping", body)
    assert (response.status_code, error_of(response)) == (400, error)


@pytest.mark.spends
@pytest.mark.parametrize(
    "path",
    [
        "/blockchain/sessions",
        "/proxy/sessions/initiate",
        f"/blockchain/bids/{UNKNOWN_ID}/session",
        f"/blockchain/models/{UNKNOWN_ID}/session",
    ],
)
def test_an_open_with_an_empty_body_is_eof(router: Router, path: str) -> None:
    """Contract 0, empty JSON body."""
    response = router.post(path)
    assert (response.status_code, error_of(response)) == (400, "EOF")


@pytest.mark.spends
def test_an_approval_of_money_without_an_amount_is_400(router: Router) -> None:
    """Contract 0, address param: pointer fields do fail. A body is not looked at (Contract 2.5)."""
    response = router.post("/blockchain/approve", {"amount": "1"}, spender=router.diamond())
    assert (response.status_code, error_of(response)) == (
        400,
        "Key: 'QueryApprove.Amount' Error:Field validation for 'Amount' failed on the 'required' tag",
    )
