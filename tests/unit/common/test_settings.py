"""Settings come from the environment, and from files where containers are given secrets."""

from pathlib import Path

import pytest
from morpheus_common.settings import CommonSettings
from pydantic import ValidationError


def settings() -> CommonSettings:
    return CommonSettings()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
    monkeypatch.delenv("NATS_SEED", raising=False)
    return tmp_path


def test_a_setting_is_read_from_the_file_that_bears_its_name(folder: Path) -> None:
    (folder / "NATS_SEED").write_text("from a file\n")
    assert settings().nats_seed.get_secret_value() == "from a file"


def test_a_file_is_read_the_way_kubernetes_mounts_it(folder: Path) -> None:
    (folder / "..2026").mkdir()
    (folder / "..2026" / "NATS_SEED").write_text("mounted")
    (folder / "..data").symlink_to("..2026")
    (folder / "NATS_SEED").symlink_to("..data/NATS_SEED")
    assert settings().nats_seed.get_secret_value() == "mounted"


def test_the_environment_counts_more_than_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "NATS_SEED").write_text("from a file")
    monkeypatch.setenv("NATS_SEED", "from the environment")
    assert settings().nats_seed.get_secret_value() == "from the environment"


def test_a_folder_that_is_not_there_is_said_at_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRETS_DIR", str(folder / "elsewhere"))
    with pytest.raises(ValueError, match=r"SECRETS_DIR names .*elsewhere, which is no folder"):
        settings()


def test_what_is_in_a_file_and_does_not_fit_is_not_shown(folder: Path) -> None:
    (folder / "NATS_SEED").write_text("a seed")
    (folder / "METRICS_PORT").write_text("a secret in the wrong file")
    with pytest.raises(ValidationError) as refused:
        settings()
    assert "metrics_port" in str(refused.value)
    assert "a secret in the wrong file" not in str(refused.value)
