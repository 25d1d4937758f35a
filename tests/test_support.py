"""What the other tests lean on."""

import subprocess
import sys

import pytest

from tests import support
from tests.support.served import eventually, process


@pytest.mark.parametrize(("is_ci", "ends"), [(False, pytest.skip.Exception), (True, pytest.fail.Exception)])
def test_what_is_missing_is_skipped_here_and_fails_in_ci(monkeypatch, is_ci, ends):
    monkeypatch.setattr(support, "IS_CI", is_ci)
    support.require("present", "a browser", "apt-get install chromium")
    with pytest.raises(ends, match="a browser is missing: apt-get install chromium"):
        support.require(None, "a browser", "apt-get install chromium")
    assert support.require_module("json").loads("1") == 1
    with pytest.raises(ends, match="the package of no_such_module is missing"):
        support.require_module("no_such_module")


def test_what_is_waited_for_is_given_back_or_fails_with_its_process():
    found = iter([0, "", "found"])
    assert eventually(lambda: next(found)) == "found"
    with pytest.raises(AssertionError, match="not within 0 s"):
        eventually(lambda: False, seconds=0.0)
    with process([sys.executable, "-c", "raise SystemExit(3)"], stderr=subprocess.PIPE) as over:
        over.wait()
        with pytest.raises(AssertionError, match="ended with 3 before the condition held"):
            eventually(lambda: False, over)
