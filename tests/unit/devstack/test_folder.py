from pathlib import Path

import pytest
from morpheus_devstack.errors import StackError
from morpheus_devstack.folder import StackFolder


@pytest.fixture
def folder(tmp_path: Path) -> StackFolder:
    return StackFolder(tmp_path / "data")


def test_a_folder_of_somebody_else_is_neither_used_nor_wiped(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StackError, match="was not made by `morpheus up`"), StackFolder(tmp_path).held(fresh=True):
        pytest.fail("the folder was taken")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_fresh_empties_a_folder_of_ours(folder: StackFolder) -> None:
    with folder.held(fresh=False):
        (folder.path / "mongo" / "data").mkdir(parents=True)
        folder.env_file.write_text("A=1\n")
    with folder.held(fresh=False):
        assert folder.env() == {"A": "1"}
    with folder.held(fresh=True):
        assert {path.name for path in folder.path.iterdir()} == {".morpheus-stack", "stack.lock"}


def test_a_link_in_the_folder_is_removed_and_what_it_points_at_is_not(folder: StackFolder, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    with folder.held(fresh=False):
        (folder.path / "link").symlink_to(precious)
    with folder.held(fresh=True):
        assert not (folder.path / "link").exists()
    assert (precious / "file").exists()


def test_two_stacks_do_not_share_a_folder(folder: StackFolder) -> None:
    with folder.held(fresh=False):
        assert folder.owner() is not None
        with pytest.raises(StackError, match="A stack is running in"), folder.held(fresh=True):
            pytest.fail("the folder was taken twice")
    assert folder.owner() is None


def test_what_stands_in_stack_env_is_read_back_as_it_was(folder: StackFolder) -> None:
    values = {"MONGO_URL": "mongodb://a:b@h:1/?x=true&y=z", "NAME": "plain", "ODD": "it's $HOME #1"}
    with folder.held(fresh=False):
        folder.write_env(values)
        assert folder.env() == values
        assert folder.env_file.stat().st_mode & 0o077 == 0


def test_nobody_runs_where_nothing_is(folder: StackFolder) -> None:
    assert folder.owner() is None
    assert folder.pids() == {}
    assert folder.env() == {}
