"""The folders that lead to the user's key: nobody else may be able to replace it."""

import os
from pathlib import Path

import pytest
from users import (
    SOMEBODY,
    STRANGER,
    acting_as,
    command,
    masking,
    mode,
    needs_root,
    open_folder,
    without_keys,
)

import distributed_comm as dc
from distributed_comm._trust import trust
from distributed_comm._trust.trust import find_key, key_file, make_key

pytestmark = pytest.mark.skipif(os.name == "nt", reason="modes and users of Unix")


@pytest.fixture
def home(tmp_path):
    """The home of a user without a key, in a process that has read none."""
    folder = tmp_path / "above" / "home"
    folder.mkdir(parents=True)
    with without_keys(HOME=str(folder)):
        yield folder


def test_existing_folders_are_unchanged_and_new_ones_are_private(home):
    config = home / ".config"
    config.mkdir()
    for readable in (0o755, 0o711, 0o750):
        config.chmod(readable)
        assert find_key()
        assert mode(config) == readable
    assert mode(home / ".config/distributed_comm") == 0o700


@pytest.mark.parametrize("umask", [0, 0o277, 0o777], ids=oct)
def test_a_missing_folder_of_an_absolute_path_is_made_with_its_parents(home, monkeypatch, umask):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "one/two"))
    with masking(umask):
        assert find_key()
    for folder in ("one", "one/two", "one/two/distributed_comm"):
        assert mode(home / folder) == 0o700
    assert mode(home / "one/two/distributed_comm/key") == 0o600


def test_nothing_is_open_to_others_for_a_moment(home, monkeypatch):
    def chmod(path, wanted, real=os.chmod):
        modes.append(os.stat(path).st_mode & 0o777)
        real(path, wanted)

    modes = []
    monkeypatch.setattr(os, "chmod", chmod)
    monkeypatch.setattr(os, "fchmod", chmod)
    with masking(0):
        assert find_key()
    assert modes == [0o700, 0o700, 0o600]


# Modes


@pytest.mark.parametrize("writable", [0o775, 0o757, 0o777])
@pytest.mark.parametrize("folder", [".", ".config", ".config/distributed_comm"])
def test_a_folder_that_others_can_write_to_is_refused_with_what_mends_it(home, folder, writable):
    (home / folder).mkdir(parents=True, exist_ok=True)
    (home / folder).chmod(writable)
    before = sorted(home.rglob("*"))
    with pytest.raises(dc.KeyFileError) as caught:
        find_key()
    assert f"{home / folder} has mode {writable:04o}" in str(caught.value)
    assert f"`chmod go-w {home / folder}`, or set DISTRIBUTED_COMM_KEY" in str(caught.value)
    assert "XDG_CONFIG_HOME" in str(caught.value)
    assert sorted(home.rglob("*")) == before
    assert mode(home / folder) == writable
    (home / folder).chmod(writable & ~0o022)
    assert find_key()  # the error was not kept


def test_a_key_that_was_there_is_refused_as_well(home):
    """Anyone who can write to the folder can put a link to another file there."""
    assert command("key").returncode == 0
    key_file().parent.chmod(0o777)
    with pytest.raises(dc.KeyFileError, match="has mode 0777"):
        find_key()
    done = command("key")
    assert done.returncode == 1
    assert "has mode 0777" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_sticky_folder_is_fine_above_it_and_not_as_the_last(home):
    home.chmod(0o1777)
    assert find_key()
    (home / ".config/distributed_comm").chmod(0o1777)
    with pytest.raises(dc.KeyFileError, match="distributed_comm has mode 1777"):
        key_file()


def test_folders_above_the_home_matter_only_to_paths_outside_it(home, monkeypatch):
    home.parent.chmod(0o777)
    assert find_key()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "other"))
    assert key_file() == home / "other/distributed_comm/key"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home.parent / "outside"))
    with pytest.raises(dc.KeyFileError, match="above has mode 0777"):
        key_file()
    assert not (home.parent / "outside").exists()


# Links


def test_a_home_behind_a_link_is_the_home(home, tmp_path, monkeypatch):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    home.parent.chmod(0o777)
    (tmp_path / "open/link").symlink_to(home)
    monkeypatch.setenv("HOME", str(tmp_path / "open/link"))
    assert find_key()
    assert key_file() == home / ".config/distributed_comm/key"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "open/link/.config"))
    assert key_file() == home / ".config/distributed_comm/key"


@pytest.mark.parametrize("target", ["dotfiles", "../home/./dotfiles", "{home}/dotfiles"])
def test_a_folder_behind_a_link_is_where_that_leads(home, target):
    (home / ".config").symlink_to(target.format(home=home))
    (home / "dotfiles").mkdir()
    assert find_key()
    assert key_file() == home / "dotfiles/distributed_comm/key"
    (home / "dotfiles").chmod(0o777)
    with pytest.raises(dc.KeyFileError, match="dotfiles has mode 0777"):
        key_file()


def test_a_link_in_a_folder_that_others_can_write_to_is_refused(home, tmp_path, monkeypatch):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open/link").symlink_to(home)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "open/link"))
    with pytest.raises(dc.KeyFileError, match="open has mode 0777"):
        find_key()
    assert not [*home.iterdir()]


def test_links_in_a_circle_are_no_place(home, caplog):
    (home / ".config").symlink_to(home / ".config")
    assert find_key() is None
    assert "Too many levels of symbolic links" in caplog.text


# Other users


@needs_root
@pytest.mark.parametrize("folder", [".", ".config", ".config/distributed_comm"])
def test_a_folder_of_another_user_is_refused(home, folder):
    (home / folder).mkdir(parents=True, exist_ok=True)
    os.chown(home / folder, STRANGER, STRANGER)
    with pytest.raises(dc.KeyFileError, match=f"belongs to user {STRANGER}") as caught:
        find_key()
    assert f"{home / folder} belongs" in str(caught.value)
    assert "set DISTRIBUTED_COMM_KEY, " in str(caught.value)
    assert not (home / ".config/distributed_comm/key").exists()


@needs_root
@pytest.mark.parametrize("umask", [0, 0o022, 0o277, 0o777], ids=oct)
def test_folders_of_root_are_fine_and_also_a_sticky_one_to_make_it_in(umask):
    with open_folder() as folder, without_keys(XDG_CONFIG_HOME=str(folder / "config")):
        folder.chmod(0o1777)
        with acting_as(SOMEBODY), masking(umask):
            assert find_key()
        assert (folder / "config/distributed_comm/key").stat().st_uid == SOMEBODY
        assert mode(folder / "config") == mode(folder / "config/distributed_comm") == 0o700
        assert mode(folder / "config/distributed_comm/key") == 0o600


@needs_root
def test_one_of_root_in_its_place_is_refused():
    with open_folder() as folder, without_keys(XDG_CONFIG_HOME=str(folder)):
        find_key()
        key_file().parent.chmod(0o755)
        trust._key_of_user.cache_clear()
        with (
            acting_as(SOMEBODY),
            pytest.raises(dc.KeyFileError, match="belongs to user 0: expected user"),
        ):
            find_key()


def squat(place: Path, own: Path, kind: str) -> None:
    """Put something of another user in a place, with a file in it that is ours, and no key."""
    (own / "distributed_comm").mkdir(parents=True)
    (own / "distributed_comm/key").write_text("4711")
    (own / "distributed_comm/key").chmod(0o600)
    if kind == "link":
        place.symlink_to(own)
    else:  # with a hard link to that file, which old systems let everybody make
        (place / "distributed_comm").mkdir(parents=True)
        os.link(own / "distributed_comm/key", place / "distributed_comm/key")
        os.chown(place / "distributed_comm", STRANGER, STRANGER)
    os.chown(place, STRANGER, STRANGER, follow_symlinks=False)


@needs_root
@pytest.mark.parametrize("kind", ["folder", "link"])
def test_another_users_entry_in_a_sticky_folder_is_refused(home, tmp_path, kind):
    home.chmod(0o1777)
    squat(home / ".config", tmp_path / "own", kind)
    with pytest.raises(dc.KeyFileError, match=f"{kind} .*config belongs to user {STRANGER}"):
        find_key()


@needs_root
@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_folder_that_another_user_makes_first_is_refused(home, tmp_path, kind):
    home.chmod(0o1777)
    path = key_file()
    squat(home / ".config", tmp_path / "own", kind)
    with pytest.raises(dc.KeyFileError, match=f"{kind} .*config belongs to user {STRANGER}"):
        make_key(path)


@needs_root
@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_change_between_check_and_creation_is_detected(home, tmp_path, monkeypatch, kind):
    def mkdir(path, mode):
        monkeypatch.undo()
        squat(home / ".config", tmp_path / "own", kind)
        os.mkdir(path, mode)

    home.chmod(0o1777)
    path = key_file()
    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(dc.KeyFileError, match=f"{kind} .*config belongs to user {STRANGER}"):
        make_key(path)


@needs_root
def test_nothing_is_made_where_another_user_leads(home, tmp_path, monkeypatch):
    def mkdir(path, mode):
        monkeypatch.undo()
        (home / ".config").symlink_to(tmp_path / "own")
        os.chown(home / ".config", STRANGER, STRANGER, follow_symlinks=False)
        os.mkdir(path, mode)

    home.chmod(0o1777)
    (tmp_path / "own").mkdir()
    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(dc.KeyFileError, match=f"config belongs to user {STRANGER}"):
        find_key()
    assert not [*(tmp_path / "own").iterdir()]


def test_a_link_of_our_own_that_appears_while_it_is_made_is_not_followed(home, monkeypatch):
    """Where symbolic links can be hard-linked, a stranger can put one of ours there."""

    def mkdir(path, mode):
        monkeypatch.undo()
        (home / ".config").symlink_to("other")
        os.mkdir(path, mode)

    (home / "other").mkdir()
    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(dc.KeyFileError, match="has just become a link"):
        find_key()
    assert not [*(home / "other").iterdir()]
