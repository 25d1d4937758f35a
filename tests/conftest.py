"""What every test may use: the asyncio backend, and a home of its own for answers."""

import pytest


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("TEXTMILL_HOME", str(home))
    return home
