"""Faults below and beside HTTP: certificates, names, resets, silence, outages, revoked keys."""

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import threading

import aiohttp
import pytest

from jobs.mock import serving
from tests.support import require
from tests.support.served import (
    KEY,
    at,
    balanced,
    child,
    given,
    job,
    paid,
    rows,
    same_as_ever,
    written,
)

# --- 39: certificates -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A folder with ca.pem, and NAME.pem and NAME.key that it vouches for."""
    require(shutil.which("openssl"), "openssl", "apt-get install openssl")
    folder = tmp_path_factory.mktemp("authority")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "9",
            "-subj", "/CN=ca", "-addext", "keyUsage=critical,keyCertSign")
    (folder / "index.txt").touch()
    (folder / "serial").write_text("01\n")
    (folder / "ca.cnf").write_text(
        "[ca]\ndefault_ca = own\n[own]\ndatabase = index.txt\nserial = serial\nnew_certs_dir = .\n"
        "certificate = ca.pem\nprivate_key = ca.key\ndefault_md = sha256\npolicy = any\n"
        "copy_extensions = copy\nunique_subject = no\n[any]\ncommonName = supplied\n")  # fmt: skip
    for name, host, ends in [("valid", "IP:127.0.0.1", "20990101000000Z"),
                             ("expired", "IP:127.0.0.1", "20200201000000Z"),
                             ("wrong-host", "DNS:example.org", "20990101000000Z")]:
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr",
                "-subj", f"/CN={name}", "-addext", f"subjectAltName={host}")
        openssl("ca", "-batch", "-config", "ca.cnf", "-in", f"{name}.csr", "-out", f"{name}.pem",
                "-startdate", "20200101000000Z", "-enddate", ends)
    return folder


@contextlib.contextmanager
def in_front(mock, context):
    """A TLS server that hands all on to the mock: its URL, and what came through."""
    came, ready, control = bytearray(), threading.Event(), []

    async def carry(reader, writer, note=None):
        with contextlib.suppress(OSError):
            while piece := await reader.read(65_536):
                if note is not None:
                    note.extend(piece)
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def serve(reader, writer):
        inner, outer = await asyncio.open_connection("127.0.0.1", mock.port)
        await asyncio.gather(carry(reader, outer, came), carry(inner, writer))

    async def main():
        done = asyncio.Event()
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        control.extend([asyncio.get_running_loop(), done, server.sockets[0].getsockname()[1]])
        ready.set()
        await done.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert ready.wait(10)
    yield f"https://127.0.0.1:{control[2]}", came
    control[0].call_soon_threadsafe(control[1].set)
    thread.join(10)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "code", "problem", "step"), [
    ("valid", "openai", 0, "", ""),
    ("expired", "openai", 7, "certificate has expired", "renew it"),
    ("wrong-host", "openai", 7, "IP address mismatch", "use a host in `endpoint.url` that"),
    ("expired", "tei", 7, "certificate has expired", "renew it"),
    ("unknown", "openai", 7, "unable to get local issuer certificate", "make its authority known"),
])  # fmt: skip
def test_fault_39_nothing_is_sent_over_a_certificate_that_is_not_valid(
    workdir, authority, name, kind, code, problem, step
):
    given(workdir, rows(5))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    own = "valid" if name == "unknown" else name
    context.load_cert_chain(authority / f"{own}.pem", authority / f"{own}.key")
    with serving(key=KEY) as mock, in_front(mock, context) as (url, came):
        endpoint = at(url, kind=kind)
        if kind == "tei":
            endpoint |= {"url": url, "model": "mock-embedding"}
        trusted = {} if name == "unknown" else {"SSL_CERT_FILE": str(authority / "ca.pem")}
        ended, out, err = child("run", job(workdir, endpoint), "--json", **trusted)
        assert ended == code, err
        assert KEY not in out + err
        if code:
            assert f"the certificate of {url[8:]} is not valid: {problem}" in err
            assert err.rstrip().splitlines()[-1].startswith(f"hint: {step}")
            assert (bytes(came), mock.bill.totals().calls, mock.bill.totals().lookups) == (b"", 0, 0)
            assert not (workdir / "out.parquet").exists()
        else:
            assert len(written(workdir)) == 5


def test_a_server_that_hangs_up_in_the_handshake_is_away_and_not_refused(workdir, textmill):
    given(workdir, rows(5))
    listening, over = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def hang_up():
        with contextlib.suppress(OSError):
            while not over.is_set():
                connection, _ = listening.accept()
                connection.recv(10_000)
                connection.close()

    thread = threading.Thread(target=hang_up, daemon=True)
    thread.start()
    url = f"https://127.0.0.1:{listening.getsockname()[1]}"
    ran = textmill("run", job(workdir, at(url)), "--json", "--max-start", "0.3")
    over.set()
    socket.create_connection(listening.getsockname()).close()
    thread.join(5)
    listening.close()
    assert balanced(ran, code=5)["calls"] == 0


# --- 41: revoked ----------------------------------------------------------------------------------


def test_fault_41_a_key_revoked_in_mid_run_keeps_what_came_and_a_new_one_goes_on(
    workdir, textmill, monkeypatch
):
    given(workdir, rows(200))
    answered = 0

    def revoke(_):
        nonlocal answered
        answered += 1
        if answered == 10:
            mock.key = f"{KEY}-new"
        return 0.0

    with serving(key=KEY, latency=revoke) as mock:
        path = job(workdir, at(mock, batch_size=5))
        ran = textmill("run", path, "--json")
        first = balanced(ran, code=7)
        assert first["resumable"] is True
        assert 10 <= mock.bill.totals().by_status["200"] <= 12
        assert mock.bill.totals().by_status["401"] <= 2  # concurrency
        assert not (workdir / "out.parquet").exists()
        monkeypatch.setenv("MOCK_KEY", f"{KEY}-new")
        second = balanced(textmill("run", path, "--json"))
        assert 50 <= second["cached"] <= 60
        assert mock.bill.totals().repeated_inputs == 0
        paid([mock], first, second)
        mock.latency = 0.0
        assert same_as_ever(workdir, textmill, monkeypatch, path, mock)["calls"] == 0


# --- 46, 48: away ---------------------------------------------------------------------------------


def test_fault_46_503_for_ever_ends_the_run_and_the_next_one_goes_on(workdir, textmill, monkeypatch):
    given(workdir, rows(100))
    with serving(["503 after=5"], key=KEY) as mock:
        path = job(workdir, at(mock, batch_size=4))
        first = balanced(textmill("run", path, "--json", "--max-outage", "1.5"), code=5)
        assert first["resumable"] is True
        assert mock.bill.totals().by_status["200"] == 5
        assert mock.bill.totals().by_status["503"] <= 12
        assert not (workdir / "out.parquet").exists()
        mock.play()
        second = balanced(textmill("run", path, "--json"))
        assert second["cached"] == 20
        paid([mock], first, second)
        assert mock.bill.totals().repeated_inputs == 0
        assert same_as_ever(workdir, textmill, monkeypatch, path, mock)["calls"] == 0


def test_fault_48_a_short_outage_costs_probes_and_no_row(workdir, textmill, monkeypatch):
    given(workdir, rows(400))
    with serving(key=KEY, limit="outage=100ms-900ms outage_status=503 latency=2ms") as mock:
        path = job(workdir, at(mock, batch_size=1))
        told = balanced(textmill("run", path, "--json"), code=0)
        assert told["ok"] == 400
        wasted = mock.bill.totals().calls - 400
        assert wasted <= 30
        paid([mock], told)
        mock.restrict(None)
        same_as_ever(workdir, textmill, monkeypatch, path, mock)


# --- 37, 53, 55, 56 -------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["slow seconds=5 x1", "hang x2"])
def test_fault_37_a_server_that_dawdles_meets_our_own_deadline(workdir, textmill, monkeypatch, fault):
    given(workdir, rows(20))
    deadline = {"first_byte_seconds": 1.0, "connect_seconds": 1.0, "idle_seconds": 1.0}
    with serving([fault], key=KEY) as mock:
        path = job(workdir, at(mock, batch_size=4, deadline=deadline))
        assert balanced(textmill("run", path, "--json"))["ok"] == 20
        same_as_ever(workdir, textmill, monkeypatch, path, mock)


def test_fault_53_a_limit_that_claims_a_billion_is_not_believed(workdir, textmill, monkeypatch):
    given(workdir, rows(150))
    limit = "bucket calls=60/s headers=openai reported=1e9 latency=5ms"
    with serving(key=KEY, limit=limit) as mock:
        path = job(workdir, at(mock, batch_size=1, concurrency=16))
        told = balanced(textmill("run", path, "--json"))
        refused = mock.bill.totals().by_status.get("429", 0)
        assert refused <= 24  # what was under way, and some that found out
        paid([mock], told)
        mock.restrict(None)
        same_as_ever(workdir, textmill, monkeypatch, path, mock)


def test_fault_55_a_reply_cut_after_any_byte_is_asked_again_and_never_half_kept(
    workdir, textmill, monkeypatch
):
    cuts = range(0, 300, 5)  # a whole reply has some more bytes, head included
    given(workdir, rows(4 * len(cuts)))
    script = [f"cut bytes={size} match='<{4 * n}>' x1" for n, size in enumerate(cuts)]
    with serving(script, key=KEY, dimension=2) as mock:
        path = job(workdir, at(mock, batch_size=1))
        told = balanced(textmill("run", path, "--json"))
        assert told["ok"] == 4 * len(cuts)
        assert mock.bill.totals().by_status["cut"] == len(cuts)
        assert mock.bill.totals().calls == 5 * len(cuts)
        paid([mock], told)
        for row in written(workdir):
            assert row["vector"] == pytest.approx(mock.vector(row["text"], "mock"))
        same_as_ever(workdir, textmill, monkeypatch, path, mock)


def test_fault_56_a_name_that_is_not_found_for_a_while_holds_the_run_and_fails_no_row(
    workdir, textmill, monkeypatch
):
    given(workdir, rows(20))
    asked = []
    resolve = aiohttp.ThreadedResolver.resolve

    async def flaky(self, host, *rest, **more):
        asked.append(host)
        if len(asked) <= 4:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return await resolve(self, host, *rest, **more)

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", flaky)
    with serving(key=KEY) as mock:
        path = job(workdir, at(mock.url.replace("127.0.0.1", "localhost"), batch_size=4))
        told = balanced(textmill("run", path, "--json"))
        assert told["ok"] == 20
        assert asked[:5] == ["localhost"] * 5
        paid([mock], told)
        asked.clear()
        assert balanced(textmill("run", path, "--json"))["calls"] == 0
        assert asked == []
        monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
        same_as_ever(workdir, textmill, monkeypatch, path, mock)


@pytest.mark.parametrize("is_attended", [True, False])
def test_a_name_that_does_not_resolve_ends_at_once_where_a_person_watches(
    workdir, textmill, monkeypatch, is_attended
):
    monkeypatch.setattr("jobs.stdio.is_attended", lambda: is_attended)
    given(workdir, rows(20))
    path = job(workdir, at("https://gpu-bix.localhost.invalid"))
    ran = textmill("run", path, "--json", "--max-start", "30" if is_attended else "0.4")
    assert balanced(ran, code=5)["resumable"] is True
    assert ran.last["seconds"] < 20
    assert "https://gpu-bix.localhost.invalid/v1: cannot connect to" in ran.err
    assert "(name not found: " in ran.err and "hint: correct the host of `endpoint.url`" in ran.err
    assert "no reply;" in ran.err if is_attended else "(run.max_start_seconds = 0.4)" in ran.err
    with serving(key=KEY) as mock:  # the same job, with the right host
        path.write_text(path.read_text().replace("https://gpu-bix.localhost.invalid", mock.url))
        assert balanced(textmill("run", path, "--json"))["ok"] == 20


@pytest.mark.parametrize("count", [2, 60])
def test_fault_37_a_server_that_never_says_anything_is_away_and_fails_no_row(
    workdir, textmill, monkeypatch, count
):
    given(workdir, rows(count))
    deadline = {"first_byte_seconds": 0.05, "connect_seconds": 0.05}
    with serving(["hang"], key=KEY) as mock:
        path = job(workdir, at(mock, batch_size=2, deadline=deadline))
        first = balanced(textmill("run", path, "--json", "--max-start", "0.8"), code=5)
        assert first["failed"] == 0
        assert not (workdir / "out.parquet").exists()
        path = job(workdir, at(mock, batch_size=2))
        assert same_as_ever(workdir, textmill, monkeypatch, path, mock)["ok"] == count


@pytest.mark.parametrize("fault", ["half_body", "reset"])
def test_fault_36_a_row_on_which_the_connection_breaks_is_tried_once_more_and_isolated(
    workdir, textmill, monkeypatch, fault
):
    given(workdir, rows(30))
    with serving([f"{fault} match='<3>'"], key=KEY, latency=0.003) as mock:
        path = job(workdir, at(mock, batch_size=1))
        told = balanced(textmill("run", path, "--json"), code=3)
        assert (told["ok"], told["failed"]) == (29, 1)
        # Where the head of a reply came the server is there; else a try counts only once something
        # else has come from it since the one before.
        assert mock.bill.totals().faults[fault] in ([2] if fault == "half_body" else range(2, 13))
        same_as_ever(workdir, textmill, monkeypatch, path, mock)
