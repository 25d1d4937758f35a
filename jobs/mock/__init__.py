"""A mock server that speaks every protocol, plays scripted faults, and keeps the bill.

It is the only fake of the project: tests and examples run against real HTTP, and every known fault
of a service is implemented here once. A protocol is two pure functions (`read` a body into `Call`,
`write` one value per input), a fault is a record, the bill is one object; `plan` combines them and
`server` moves the bytes.

    with serving(["429 x2"], key="k") as mock:      # in a thread, for code that blocks
        run(url=mock.url + "/v1")
    assert mock.bill.totals().repeated_inputs == 0

    async with Mock(["half_body every=3"]) as mock:  # in the loop of the test
        ...

    async with Mock(limit="bucket calls=50/s headers=openai") as mock:  # jobs.mock.limits.parse
        ...

Time may be virtual: `clock.run` runs an async function on a clock that jumps, and `SimulatedServer`
is the server behind the same limits, without sockets.

Control, without a key: `GET /_mock/bill` (`?full=1`), `POST /_mock/reset`, `GET` and `POST` of
`/_mock/script` (a JSON list of faults, as objects or in words) and of `/_mock/limit` (a JSON
string, or null; the reply shows the traffic that passed).
"""

from __future__ import annotations

from jobs.mock.bill import Bill, RecordedCall, Totals
from jobs.mock.clock import VirtualLoop
from jobs.mock.faults import Fault, Script, parse
from jobs.mock.limits.limits import Limit
from jobs.mock.running import check_host, serve, serving
from jobs.mock.server import Mock
from jobs.mock.simulated import SimulatedServer

__all__ = [
    "Bill",
    "Fault",
    "Limit",
    "Mock",
    "RecordedCall",
    "Script",
    "SimulatedServer",
    "Totals",
    "VirtualLoop",
    "check_host",
    "parse",
    "serve",
    "serving",
]
