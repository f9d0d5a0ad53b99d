"""What operators are told before the bus is asked."""

import pytest
from morpheus_common.logs import MASK, mask_secrets
from morpheus_devstack import cli
from morpheus_devstack.admin_command import _new


@pytest.mark.parametrize("arguments", [("invite",), ("reset-link", "ada@example.com")])
def test_without_a_place_to_ask_nothing_is_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    for name in ("NATS_URL", "NATS_SEED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.argv", ["morpheus", "admin", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    shown = capsys.readouterr()
    assert (left.value.code, shown.out) == (1, "")
    assert "NATS_URL, NATS_SEED missing" in shown.err


@pytest.mark.parametrize("kind", ["invite", "reset"])
def test_codes_and_tokens_are_long_all_different_and_masked_in_logs(kind: str) -> None:
    made = {_new(kind) for _ in range(100)}
    assert len(made) == 100
    assert all(len(code) == len(kind) + 1 + 43 for code in made)
    assert {mask_secrets(f"said {code}.") for code in made} == {f"said {MASK}."}
