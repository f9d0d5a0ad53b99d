"""Errors in the words of older and newer routers."""

import json

import pytest
from proxy_router_sim.errors import BadRequestError, ModelError, RouterError
from proxy_router_sim.forms import Errors, Forms

from tests.unit.proxy_router_sim.harness import HOUR_STAKE, Router

FIRST = "failed to send transaction: "
NO_GAS = "failed to build transaction: insufficient funds for gas * price + value: address 0x1 have 0 want 1"
NO_MOR = "failed to build transaction: execution reverted: ERC20: transfer amount exceeds balance"
NOT_MINED = "transaction not mined after all escalation attempts: last tx 0x12"


def told(errors: Errors, text: str) -> str:
    forms = Forms()
    forms.change({"errors": str(errors)})
    status, body = forms.answer(RouterError(text))
    assert status == 500
    return str(body["error"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{FIRST}open session failed: {NO_GAS}", "open session failed: insufficient ETH for gas — add ETH"),
        (f"{FIRST}open session failed: {NO_MOR}", "open session failed: insufficient MOR balance — "),
        (
            f"{FIRST}open session failed: {NOT_MINED}",
            "open session failed: transaction could not be confirmed on-chain — ",
        ),
        (
            f"{FIRST}close session failed: {NO_MOR}",
            "close session failed: the protocol funding pool does not have enough MOR allowance to settle provider payment — ",
        ),
    ],
)
def test_dev_explains_errors_of_the_chain_and_keeps_the_original(text: str, words: str) -> None:
    assert words in told(Errors.DEV, text)
    assert f"Original: {text.split('failed: ', 1)[1]}" in told(Errors.DEV, text)
    assert told(Errors.OLDER, text) == told(Errors.NEWER, text) == text


def test_dev_names_the_approve_stage_otherwise() -> None:
    text = f"{FIRST}approve failed: failed to build transaction: execution reverted"
    assert told(Errors.DEV, text) == text.replace("approve failed", "approve MOR allowance failed")


@pytest.mark.parametrize(
    "text",
    [
        "session not found",
        f"{FIRST}open session failed: failed to build transaction: EVM error: SessionDuplicateApproval() []",
        f"{FIRST}close session failed: failed to build transaction: EVM error: SessionAlreadyClosed() []",
    ],
)
def test_what_the_gateway_decides_by_is_the_same_in_every_version(text: str) -> None:
    assert {told(errors, text) for errors in Errors} == {text}


@pytest.mark.parametrize("errors", list(Errors))
def test_a_models_error_has_its_own_status_from_newer_on(errors: Errors) -> None:
    forms = Forms()
    forms.change({"errors": str(errors)})
    answered = forms.answer(ModelError({"error": "slow down"}, 429))
    newer = (429, {"providerModelError": {"error": "slow down"}, "statusCode": 429})
    older = (400, {"providerModelError": {"error": "slow down"}})
    assert answered == (older if errors is Errors.OLDER else newer)


def test_the_form_can_be_asked_for_in_any_version() -> None:
    assert Forms().answer(ModelError("x", 503, pass_status=True))[0] == 503


@pytest.mark.parametrize("wish", [{}, {"errors": "ancient"}, {"errors": "dev", "more": 1}, {"errors": None}])
def test_an_unknown_version_is_refused(wish: dict[str, object]) -> None:
    with pytest.raises(BadRequestError, match="older, newer, dev"):
        Forms().change(wish)


async def test_the_version_changes_while_the_simulator_runs(router: Router) -> None:
    opened = await router.open()
    assert await router.post("/sim/forms", {"errors": "dev"}) == (200, {"errors": "dev"})
    await router.arm("chat", "model_error", count=2, status=503)
    status, body = await router.chat(opened)
    assert (status, body["statusCode"]) == (503, 503)
    assert json.loads(await router.stream(opened))["statusCode"] == 503
    await router.post("/sim/balance", {"mor": "0"})
    status, body = await router.post("/blockchain/sessions", await router.agreement(router.bid(), HOUR_STAKE))
    assert status == 500
    assert "insufficient MOR balance — " in body["error"]
