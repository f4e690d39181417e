"""The file that DISTRIBUTED_COMM_KEY_FILE names, as secrets are mounted."""

import os
from pathlib import Path

import pytest
from users import (
    SOMEBODY,
    STRANGER,
    acting_as,
    command,
    needs_root,
    open_folder,
    without_keys,
)

import distributed_comm as dc
from distributed_comm._trust import trust
from distributed_comm._trust.trust import find_key, key_file

pytestmark = pytest.mark.skipif(os.name == "nt", reason="modes and users of Unix")

KEY = find_key("a secret")


def write(path: Path, mode: int = 0o600) -> Path:
    path.write_text("a secret\n")
    path.chmod(mode)
    return path


@pytest.fixture
def file(tmp_path):
    """A good key file, which is named, in a process that has read none."""
    with without_keys(HOME=str(tmp_path), DISTRIBUTED_COMM_KEY_FILE=str(tmp_path / "secret")):
        yield write(tmp_path / "secret")


@pytest.fixture
def mounted():
    """A folder of root's, which everybody can look into, to a user who has read no key."""
    with open_folder() as folder, without_keys(DISTRIBUTED_COMM_KEY_FILE=str(folder / "key")):
        yield folder


def test_it_goes_before_the_users_own_which_is_not_made(file):
    assert find_key() == KEY
    assert not key_file().parent.exists()


def test_an_argument_and_the_key_in_the_environment_go_before_it(file, monkeypatch):
    file.chmod(0o666)  # nor is it looked at
    monkeypatch.setenv("DISTRIBUTED_COMM_KEY", "of the environment")
    assert find_key() == find_key(b"of the environment")
    assert find_key("of an argument") == find_key(b"of an argument")
    monkeypatch.setenv("DISTRIBUTED_COMM_KEY", "")
    assert find_key() is None


def test_an_empty_variable_names_none(file, monkeypatch):
    monkeypatch.setenv("DISTRIBUTED_COMM_KEY_FILE", "")
    assert find_key() == find_key(key_file().read_text())


@pytest.mark.parametrize("name", ["secret", "./secret", "~/secret"])
def test_a_relative_path_is_refused(file, monkeypatch, name):
    monkeypatch.chdir(file.parent)
    monkeypatch.setenv("DISTRIBUTED_COMM_KEY_FILE", name)
    with pytest.raises(dc.KeyFileError, match=f"KEY_FILE is {name}: expected an absolute path"):
        find_key()


def empty(file):
    file.write_text(" \n")


def missing(file):
    file.unlink()


def dangling(file):
    file.unlink()
    file.symlink_to("nothing")


def in_no_folder(file):
    file.unlink()
    file.symlink_to("nothing/secret")


def below_a_file(file):
    file.rename(file.with_name("other"))
    file.symlink_to("other/secret")


def a_circle(file):
    file.unlink()
    file.symlink_to(file)


def a_folder(file):
    file.unlink()
    file.mkdir()


def a_pipe(file):
    file.unlink()
    os.mkfifo(file, 0o600)


def too_long(file):
    file.write_text("0" * 4097)


@pytest.mark.parametrize(
    "wrong",
    [empty, missing, dangling, in_no_folder, below_a_file, a_circle, a_folder, a_pipe, too_long],
)
def test_one_without_a_key_is_an_error_and_none_is_made(file, wrong):
    wrong(file)
    before = sorted(file.parent.rglob("*"))
    with pytest.raises(dc.KeyFileError) as caught:
        find_key()
    assert "DISTRIBUTED_COMM_KEY_FILE" in str(caught.value)
    assert str(file) in str(caught.value)
    assert sorted(file.parent.rglob("*")) == before
    done = command("key")
    assert (done.returncode, done.stderr) == (1, f"{caught.value}\n")
    file.rmdir() if file.is_dir() else file.unlink(missing_ok=True)
    write(file)
    assert find_key() == KEY  # the error was not kept


def test_one_that_appears_behind_the_look_at_its_folders_is_not_read(file, monkeypatch):
    """The folders that appeared with it have not been checked."""

    def read(path, rules):
        pytest.fail(f"{path} was read")

    file.unlink()
    monkeypatch.setattr(trust, "read", read)
    with pytest.raises(dc.KeyFileError, match="No such file"):
        find_key()


# Modes and folders


@pytest.mark.parametrize("readable", [0o644, 0o640, 0o604, 0o440])
def test_one_that_others_can_read_is_read_with_one_warning(file, caplog, readable):
    file.chmod(readable)
    assert find_key() == find_key() == KEY
    (record,) = caplog.records
    assert f"{file} has mode {readable:04o}: others who can read it" in record.getMessage()


@pytest.mark.parametrize("private", [0o600, 0o400])
def test_one_that_nobody_else_can_read_is_read_without(file, caplog, private):
    file.chmod(private)
    assert find_key() == KEY
    assert not caplog.records


@pytest.mark.parametrize("writable", [0o620, 0o602, 0o666])
def test_one_that_others_can_write_to_is_refused_with_what_mends_it(file, caplog, writable):
    file.chmod(writable)
    with pytest.raises(dc.KeyFileError) as caught:
        find_key()
    assert f"{file} has mode {writable:04o}" in str(caught.value)
    assert f"DISTRIBUTED_COMM_KEY_FILE, now {file}, to" in str(caught.value)
    assert f"`chmod go-w {file}`" in str(caught.value)
    assert not caplog.records


@pytest.mark.parametrize("folder", ["of the link", "of the link between", "of the file"])
def test_a_folder_on_its_way_that_others_can_write_to_is_refused(file, monkeypatch, folder):
    for name in ("of the link", "of the link between", "of the file"):
        (file.parent / name).mkdir()
    file.rename(file.parent / "of the file/key")
    (file.parent / "of the link between/key").symlink_to("../of the file/key")
    (file.parent / "of the link/key").symlink_to(file.parent / "of the link between/key")
    monkeypatch.setenv("DISTRIBUTED_COMM_KEY_FILE", str(file.parent / "of the link/key"))
    assert find_key() == KEY
    (file.parent / folder).chmod(0o777)
    trust._key_of_user.cache_clear()
    with pytest.raises(dc.KeyFileError) as caught:
        find_key()
    assert f"{file.parent / folder} has mode 0777" in str(caught.value)
    assert f"`chmod go-w '{file.parent / folder}'`" in str(caught.value)
    assert "set DISTRIBUTED_COMM_KEY_FILE, now " in str(caught.value)
    (file.parent / folder).chmod(0o1777)
    assert find_key() == KEY


def test_the_folders_above_it_count_up_to_the_home_or_to_the_root(file, monkeypatch, tmp_path):
    (tmp_path / "home").mkdir()
    tmp_path.chmod(0o777)
    monkeypatch.setenv("DISTRIBUTED_COMM_KEY_FILE", str(write(tmp_path / "home/key")))
    with pytest.raises(dc.KeyFileError, match="has mode 0777"):
        find_key()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert find_key() == KEY
    monkeypatch.setenv("HOME", str(tmp_path / "nothing"))
    trust._key_of_user.cache_clear()
    with pytest.raises(dc.KeyFileError, match="has mode 0777"):
        find_key()


# Other users


def mount(folder: Path) -> None:
    """Lay out a secret as Kubernetes does: all of root's, and a folder that is replaced as one."""
    folder.chmod(0o1777)
    (folder / "..2026_01_01").mkdir()
    write(folder / "..2026_01_01/key", 0o644)
    (folder / "..data").symlink_to("..2026_01_01")
    (folder / "key").symlink_to("..data/key")


@needs_root
def test_a_secret_of_kubernetes_is_read_and_never_written(mounted):
    mount(mounted)
    with acting_as(SOMEBODY):
        assert find_key() == KEY


@needs_root
@pytest.mark.parametrize("name", ["..2026_01_01", "..data", "key"])
def test_a_part_of_it_that_is_a_strangers_is_refused(mounted, name):
    mount(mounted)
    os.chown(mounted / name, STRANGER, STRANGER, follow_symlinks=False)
    with acting_as(SOMEBODY), pytest.raises(dc.KeyFileError, match="belongs to user") as caught:
        find_key()
    assert f"{mounted / name} belongs to user {STRANGER}" in str(caught.value)


@needs_root
def test_one_of_another_user_is_refused(mounted):
    os.chown(write(mounted / "key", 0o644), STRANGER, STRANGER)
    for user in (0, SOMEBODY):
        with acting_as(user), pytest.raises(dc.KeyFileError) as caught:
            find_key()
        assert f"belongs to user {STRANGER}: expected user {user} or" in str(caught.value)


@needs_root
def test_one_that_cannot_be_read_is_an_error(mounted):
    write(mounted / "key")
    with acting_as(SOMEBODY), pytest.raises(dc.KeyFileError) as caught:
        find_key()
    assert f"DISTRIBUTED_COMM_KEY_FILE is {mounted / 'key'}" in str(caught.value)
    assert "Permission denied" in str(caught.value)


@needs_root
def test_the_accounts_of_the_machine_are_no_key(mounted):
    """They belong to root, and everybody knows them, so the owner of the link matters."""
    mounted.chmod(0o1777)
    (mounted / "key").symlink_to("/etc/passwd")
    os.chown(mounted / "key", STRANGER, STRANGER, follow_symlinks=False)
    with acting_as(SOMEBODY), pytest.raises(dc.KeyFileError, match="belongs to user"):
        find_key()


# The command


def test_the_command_says_which_it_is(file):
    done = command("key")
    assert done.stdout == f"{file}: there, named by DISTRIBUTED_COMM_KEY_FILE\n"
    assert (done.returncode, done.stderr) == (0, "")
    done = command("key", DISTRIBUTED_COMM_KEY="other")
    assert "DISTRIBUTED_COMM_KEY is set, and goes before the file" in done.stdout
    assert not key_file().parent.exists()
