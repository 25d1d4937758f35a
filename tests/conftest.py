"""What every test may use: the asyncio backend, and a home of its own for answers."""

import json
import signal
import time
from contextlib import closing
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings

from jobs.commands import cli
from tests.support import IS_CI
from tests.support.crashing import Processes
from tests.support.served import KEY

# Machines are slow and noisy; a law is about results, never about time.
settings.register_profile(
    "textmill",
    deadline=None,
    derandomize=IS_CI,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("textmill")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what goes on in its background so, and every child would ignore ctrl-C, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def zone(monkeypatch):
    """Sets the time zone of this process."""

    def use(name):
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield use
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("TEXTMILL_HOME", str(home))
    return home


@pytest.fixture
def workdir(tmp_path, monkeypatch, own_home):
    """The current folder of a job whose key lies in $MOCK_KEY: no byte that is left may hold it."""
    monkeypatch.setenv("MOCK_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for file in [*tmp_path.rglob("*"), *own_home.rglob("*")]:
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file


@pytest.fixture(scope="session")
def processes():
    """Starts the command line as a process of its own, in some milliseconds."""
    with closing(Processes()) as made:
        yield made


@pytest.fixture
def textmill(capsys):
    """Runs the command line in this process; its exit code, stdout and stderr."""
    return CommandLine(capsys)


class CommandLine:
    def __init__(self, capsys):
        self._capsys = capsys

    def __call__(self, *arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments], prog_name="textmill")
        out, err = self._capsys.readouterr()
        assert KEY not in out + err
        return Completed(ended.value.code or 0, out, err)


class Completed(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def last(self):
        """The last line of --json."""
        return json.loads(self.out.strip().splitlines()[-1])
