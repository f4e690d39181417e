"""Without a home, or another place for it, there is no key, and none is made elsewhere."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from peers import LOOPBACK
from users import SOMEBODY, command, needs_root, open_folder, without_keys

import distributed_comm as dc
from distributed_comm._trust.trust import find_key

pwd = pytest.importorskip("pwd", reason="modes and users of Unix")


def warning(caplog) -> str:
    """Return the text of the only warning."""
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    return record.getMessage()


@pytest.mark.parametrize(
    ("variable", "folder"),
    [
        ("XDG_CONFIG_HOME", "/dev/null"),
        ("XDG_CONFIG_HOME", "/proc/self/nothing"),
        ("HOME", "{tmp_path}/nothing"),
    ],
)
def test_without_a_place_for_it_nobody_is_trusted_and_that_is_said_once(
    run, tmp_path, caplog, variable, folder
):
    async def main():
        served = []
        for _ in range(2):
            async with dc.listen(LOOPBACK, served.append) as listener:
                client = await dc.connect(listener.contact_address)
                assert not client.trusted
                client.abort()
        for server in served:
            server.abort()

    with without_keys(**{variable: folder.format(tmp_path=tmp_path)}):
        run(main())
    assert Path(folder).name in warning(caplog)
    assert "not trusted; set DISTRIBUTED_COMM_KEY" in warning(caplog)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("useless", ["", "folder", "~", "{tmp_path}/none", "/dev/null"])
def test_a_useless_home_goes_before_that_of_passwd_and_none_is_made(
    tmp_path, monkeypatch, caplog, useless
):
    useless = useless.format(tmp_path=tmp_path)
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pwd, "getpwuid", lambda user: SimpleNamespace(pw_dir=str(tmp_path)))
    monkeypatch.setattr(os, "mkdir", None)  # not outside of this folder, either
    with without_keys(HOME=useless):
        assert find_key() is find_key() is None
    assert f"HOME is {useless!r}: set it, or XDG_CONFIG_HOME, " in warning(caplog)
    assert [file.name for file in tmp_path.rglob("*")] == ["folder"]


def test_without_that_variable_the_home_is_that_of_passwd(tmp_path, monkeypatch):
    monkeypatch.setattr(pwd, "getpwuid", lambda user: SimpleNamespace(pw_dir=str(tmp_path)))
    with without_keys():
        monkeypatch.delenv("HOME")
        assert find_key()
    assert (tmp_path / ".config/distributed_comm/key").exists()


WITHOUT_AN_ENTRY = """
import os, sys
from distributed_comm._trust.trust import find_key
user = int(sys.argv[1])  # after the imports, for Python may lie where they cannot read it
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
print(find_key(), os.listdir())
"""


@needs_root
def test_a_user_without_home_and_entry_has_none_and_makes_none_where_they_are(monkeypatch):
    with pytest.raises(KeyError):
        pwd.getpwuid(SOMEBODY)
    with open_folder() as folder, without_keys():
        os.chown(folder, SOMEBODY, SOMEBODY)
        monkeypatch.delenv("HOME")
        program = [sys.executable, "-c", WITHOUT_AN_ENTRY, str(SOMEBODY)]
        done = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout == "None []\n", done.stderr
    assert done.stderr.startswith("no key: there is no home folder, HOME is not set: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("variable", ["XDG_CONFIG_HOME", "HOME"])
def test_the_command_says_that_there_is_no_place(variable):
    with without_keys():
        done = command("key", **{variable: "/dev/null"})
    assert done.returncode == 1
    assert "/dev/null" in done.stderr
    assert done.stderr.count("\n") == 1
