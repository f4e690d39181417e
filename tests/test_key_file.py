"""The user's key: made once, theirs alone, and refused where it may not be."""

import os
import subprocess
import sys

import pytest
from peers import LOOPBACK, echo
from users import STRANGER, command, masking, mode, needs_root, without_keys

import distributed_comm as dc
from distributed_comm._trust import trust
from distributed_comm._trust.trust import find_key, key_file, make_key, read_key

pytestmark = pytest.mark.skipif(os.name == "nt", reason="modes and users of Unix")


@pytest.fixture
def home(tmp_path):
    """The configuration folder of a user without a key, in a process that has read none."""
    with without_keys(XDG_CONFIG_HOME=str(tmp_path / "config")):
        yield tmp_path / "config"


@pytest.mark.parametrize("umask", [0, 0o022, 0o277, 0o777], ids=oct)
def test_it_is_made_on_first_use_for_its_owner_alone(home, umask):
    with masking(umask):
        key = find_key()
    assert key_file() == home / "distributed_comm" / "key"
    assert mode(key_file()) == 0o600
    assert mode(key_file().parent) == mode(home) == 0o700
    assert [file.name for file in key_file().parent.iterdir()] == ["key"]
    assert len(bytes.fromhex(key_file().read_text())) == 32
    assert find_key() == key
    trust._key_of_user.cache_clear()  # as another process
    assert find_key() == key


def test_what_the_file_holds_may_be_passed_by_hand(home, monkeypatch):
    key = find_key()
    text = key_file().read_text()
    assert find_key(text) == find_key(text.encode().strip()) == key
    monkeypatch.setenv("DISTRIBUTED_COMM_KEY", text)
    assert find_key() == key


def test_an_argument_goes_before_the_environment_and_that_before_the_file(home, monkeypatch):
    of_the_file = find_key()
    monkeypatch.setenv("DISTRIBUTED_COMM_KEY", "of the environment")
    of_the_environment = find_key()
    assert len({of_the_file, of_the_environment, find_key("of an argument")}) == 3
    assert find_key("") is None
    monkeypatch.setenv("DISTRIBUTED_COMM_KEY", "")
    assert find_key() is None


def test_importing_and_inproc_need_no_key(home, run):
    async def main():
        async with (
            dc.listen("inproc://", echo) as listener,
            await dc.connect(listener.contact_address) as comm,
        ):
            await comm.write("here")

    run(main())
    assert not home.exists()


def test_who_trusts_nobody_needs_no_key(home):
    dc.listen(LOOPBACK, echo, trusted=False)
    assert not home.exists()


RACE = """
import sys
from distributed_comm._trust.trust import find_key
sys.stdin.readline()
print(find_key().hex())
"""


def test_processes_that_make_it_at_once_have_the_same(home):
    environment = {**os.environ, "XDG_CONFIG_HOME": str(home)}
    command = [sys.executable, "-c", RACE]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=environment, **pipes) for _ in range(6)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    keys = {process.communicate()[0] for process in processes}
    assert keys == {f"{find_key().hex()}\n"}
    assert [file.name for file in key_file().parent.iterdir()] == ["key"]


def test_one_that_another_process_has_just_made_stays(home, monkeypatch):
    def link(draft, path):
        path.write_text("the faster one's")
        path.chmod(0o600)
        real(draft, path)

    real = os.link
    monkeypatch.setattr(os, "link", link)
    assert find_key() == find_key("the faster one's")


# What is refused


@pytest.mark.parametrize("wrong", [0o640, 0o604, 0o620, 0o644, 0o660, 0o601])
def test_one_that_others_can_read_or_write_is_refused_with_what_mends_it(home, run, wrong):
    key = find_key()
    trust._key_of_user.cache_clear()
    key_file().chmod(wrong)
    with pytest.raises(dc.KeyFileError) as caught:
        dc.listen(LOOPBACK, echo)
    assert str(key_file()) in str(caught.value)
    assert f"mode {wrong:04o}" in str(caught.value)
    command = str(caught.value).rpartition("`")[0].rpartition("`")[2]
    assert command == f"chmod 600 {key_file()}"

    async def main():
        with pytest.raises(dc.KeyFileError):  # at once, and not after all attempts
            await dc.connect("tcp://127.0.0.1:1")

    run(main())
    subprocess.run(command.split(), check=True)
    assert find_key() == key  # the error was not kept


@needs_root
def test_one_of_another_user_is_refused(home):
    find_key()
    trust._key_of_user.cache_clear()
    os.chown(key_file(), STRANGER, STRANGER)
    with pytest.raises(dc.KeyFileError, match=f"belongs to user {STRANGER}"):
        find_key()


@pytest.mark.parametrize("target", ["a key", "a private file", "nothing"])
def test_a_link_in_its_place_is_refused_and_not_followed(home, tmp_path, target):
    make_key(key_file())
    key_file().rename(tmp_path / "a key")
    (tmp_path / "a private file").write_text("4711")
    (tmp_path / "a private file").chmod(0o600)
    key_file().symlink_to(tmp_path / target)
    with pytest.raises(dc.KeyFileError, match=f"{key_file()} is a link: remove it"):
        find_key()
    assert not (tmp_path / "nothing").exists()
    key_file().unlink()
    assert find_key() == find_key(key_file().read_text())


def test_one_that_is_empty_is_refused(home):
    make_key(key_file())
    key_file().write_text("\n")
    with pytest.raises(dc.KeyFileError, match="is empty"):
        find_key()


def test_a_pipe_in_its_place_is_refused_and_not_waited_for(home):
    key_file().parent.mkdir(parents=True)
    os.mkfifo(key_file(), 0o600)
    with pytest.raises(dc.KeyFileError, match="not a regular file"):
        find_key()


def a_link(path):
    path.symlink_to(path.with_name("before"))


def a_pipe(path):
    os.mkfifo(path, 0o600)


def an_open_file(path):
    path.write_text("theirs")
    path.chmod(0o644)


@pytest.mark.parametrize("other", [a_link, a_pipe, an_open_file])
def test_what_takes_its_place_before_it_is_opened_is_not_read(home, monkeypatch, other):
    def lstat(path, real=os.lstat):
        status = real(path)
        if path == place:
            place.rename(place.with_name("before"))
            other(place)
        return status

    make_key(place := key_file())
    monkeypatch.setattr(os, "lstat", lstat)
    with pytest.raises((dc.KeyFileError, OSError)):
        read_key(place)


@pytest.mark.parametrize("text", ["0" * 4097, "0" * 64 + "\n" * 4096])
def test_one_that_is_too_long_to_be_a_key_is_refused_and_not_cut(home, text):
    make_key(key_file())
    key_file().write_text(text)
    with pytest.raises(dc.KeyFileError, match="exceeds 4096 bytes"):
        find_key()


@pytest.mark.parametrize("folder", ["", "relative/folder"])
def test_a_configuration_folder_that_means_nothing_is_the_usual_one(home, monkeypatch, folder):
    home.mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", folder)
    monkeypatch.setenv("HOME", str(home))
    assert find_key()
    assert key_file() == home / ".config/distributed_comm/key"
    assert key_file().exists()


# The command


def test_the_command_says_where_it_is_and_makes_one(home):
    first, second = command("key"), command("key")
    assert first.stdout == f"{key_file()}: made\n", first.stderr
    assert second.stdout == f"{key_file()}: there\n"
    assert (first.returncode, second.returncode) == (0, 0)
    secret = key_file().read_text().strip()
    assert secret not in first.stdout + second.stdout


def test_the_command_says_that_the_environment_goes_before(home):
    done = command("key", DISTRIBUTED_COMM_KEY="secret")
    assert "DISTRIBUTED_COMM_KEY is set, and goes before the file" in done.stdout
    assert "secret" not in done.stdout


def test_the_command_says_what_is_wrong(home):
    make_key(key_file())
    key_file().chmod(0o644)
    done = command("key")
    assert done.returncode == 1
    assert f"chmod 600 {key_file()}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_that_there_is_not():
    done = command("kay")
    assert done.returncode == 2
    assert "key" in done.stderr
