"""Runs textmill many times without paying for its imports each time: forks for each command.

Reads one JSON object a line: `{"start": argv, ...}` answers with a pid, `{"wait": pid}` with how it
ended. `tests/support/crashing.py` is the other side.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

import aggregators
import chunkers
import jobs
import pipeline
from chunkers.tokens.tokenizers import tokenizer
from jobs.__main__ import main
from tests.support import faulty_disk

# What every child would import and read for itself is here once: half of the time of a short run.
for package in (pipeline, chunkers, aggregators, jobs):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
tokenizer("o200k_base").count("Its table is read once, for all children.")

LONGEST_SECONDS = 120
"""A child that runs longer hangs: it is killed, so that the test that waits for it fails."""


def child(command):
    os.environ.update(command.get("env", {}))
    for name in command.get("unset", ()):
        os.environ.pop(name, None)
    time.tzset()
    os.chdir(command["folder"])
    if command.get("gone_folder"):
        gone = Path(command["folder"], f"gone-{os.getpid()}")
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()
    for descriptor, name, flags in (
        (0, command.get("stdin") or os.devnull, os.O_RDONLY),
        (1, command["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, command["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        os.dup2(os.open(name, flags, 0o600), descriptor)
    for descriptor in command.get("no_reader", ()):
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, descriptor)
    for descriptor in command.get("closed", ()):
        os.close(descriptor)
    if limits := command.get("open_files"):
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tempfile.tempdir = None  # as the environment says now
    sys.argv = ["textmill", *command["start"]]
    if disk := command.get("disk"):
        log = disk.pop("log", None)
        if log:
            log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        faulty_disk.install(faulty_disk.Disk(log=log or None, **disk))
    if command.get("jump"):
        faulty_disk.jump(*command["jump"])
    if command.get("night_ends"):
        faulty_disk.end_the_night(command["night_ends"])
    if command.get("fill_up") is not None:
        faulty_disk.fill_up(command["fill_up"])
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def wait(pid):
    def kill(*_):
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(pid, signal.SIGKILL)

    signal.signal(signal.SIGALRM, kill)
    signal.alarm(LONGEST_SECONDS)
    _, status, usage = os.wait4(pid, 0)
    signal.alarm(0)
    return status, usage


def serve():
    control = os.fdopen(os.dup(0), "r")
    replies = os.fdopen(os.dup(1), "w")
    for line in control:
        command = json.loads(line)
        if "wait" in command:
            status, usage = wait(command["wait"])
            reply = {"code": os.waitstatus_to_exitcode(status), "rss_kb": usage.ru_maxrss}
        else:
            pid = os.fork()
            if not pid:
                try:
                    child(command)
                finally:
                    sys.stderr.flush()
                    os._exit(99)
            reply = {"pid": pid}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    serve()
