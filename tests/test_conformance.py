"""The conformance suite, over every transport: ours, and two from other distributions."""

import os
import sys

import pytest

from distributed_comm import testing

not_on_windows = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")


@pytest.mark.parametrize("check", testing.CHECKS)
def test_tcp(check, run, kernels):
    run(check("tcp://127.0.0.1:0"))


@pytest.mark.parametrize("check", testing.CHECKS)
def test_tcp_with_sentinels(check, run, kernels):
    run(check("sentinel://127.0.0.1:0"))


@pytest.mark.parametrize("check", testing.CHECKS)
def test_tls(check, run, kernels, certified):
    run(check("certified://127.0.0.1:0"))


@pytest.mark.parametrize("check", testing.CHECKS)
def test_inproc(check, run, kernels):
    run(check("inproc://"))


@not_on_windows
@pytest.mark.parametrize("check", testing.CHECKS)
def test_unix(check, run, kernels, tmp_path_factory):
    run(check(f"unix://{tmp_path_factory.getbasetemp()}/unix"))


@pytest.mark.skipif(sys.platform != "linux", reason="abstract names")
@pytest.mark.parametrize("check", testing.CHECKS)
def test_unix_without_a_file(check, run):
    run(check(f"unix://@distributed_comm-test-{os.getpid()}"))


@not_on_windows
@pytest.mark.parametrize("check", testing.CHECKS)
def test_channels_from_outside(check, run, kernels, outside, tmp_path_factory):
    run(check(f"local://{tmp_path_factory.getbasetemp()}/socket"))


@pytest.mark.parametrize("check", testing.CHECKS)
def test_comms_from_outside(check, run, kernels, outside):
    run(check("plain://127.0.0.1:0"))
