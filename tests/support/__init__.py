"""What tests share: servers, whole runs, failing disks, texts."""

import importlib
import os
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
"""The checkout."""
SAMPLES = ROOT / "sample_data"
"""A folder of real documents."""
IS_CI = os.environ.get("CI", "") not in ("", "0", "false")
"""Nothing may be skipped, and the examples of the laws are the same ones each time."""


def require(present: object, what: str, hint: str) -> None:
    """Skip the test where something is absent that it needs; in CI the test fails instead.

    An absence that is only skipped hides a broken machine: a suite that ran nothing is green, too.
    """
    if not present:
        message = f"{what} is missing: {hint}"
        pytest.fail(message, pytrace=False) if IS_CI else pytest.skip(message, allow_module_level=True)


def require_module(name: str) -> ModuleType:
    """The module of this name, by `require`."""
    try:
        return importlib.import_module(name)
    except ImportError:
        require(False, f"the package of {name}", "pip install -e '.[local,test]'")
        raise
