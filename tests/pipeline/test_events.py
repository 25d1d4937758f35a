"""Events: one stream with stable names and without texts or credentials."""

from typing import get_args, get_type_hints

import msgspec
import pytest

from pipeline import events
from pipeline.errors import ErrorKind


@pytest.mark.parametrize(("event", "line"), [
    (events.Warned("one line"), '{"event":"warned","message":"one line"}'),
    (events.RuleColumnMissing("private"), '{"event":"rule_column_missing","column":"private","nearest":""}'),
    (events.Warned("a.jsonl: read so"), '{"event":"warned","message":"a.jsonl: read so"}'),
    (events.Surveyed(3, 1), '{"event":"surveyed","documents":3,"parts":1}'),
    (events.Started("r", "/o.run/runs/r"), '{"event":"started","run":"r","folder":"/o.run/runs/r"}'),
    (events.Admitted(2, 9, 4), '{"event":"admitted","documents":2,"requests":9,"cached":4}'),
    (events.CallEnded("hub", 8, 0.25, 100, 7, 0.5),
     '{"event":"call_ended","endpoint":"hub","requests":8,"seconds":0.25,"input_tokens":100,'
     '"output_tokens":7,"cost_usd":0.5,"error":null,"message":null}'),
    (events.Paused("hub", 7.0, True, 12, "rate", "429"),
     '{"event":"paused","endpoint":"hub","seconds":7.0,"asked":true,"times":12,"kind":"rate",'
     '"message":"429"}'),
    (events.UsageDoubted("hub", 900, 200),
     '{"event":"usage_doubted","endpoint":"hub","reported":900,"counted":200}'),
    (events.Written(4, 2, 1, 1), '{"event":"written","documents":4,"ok":2,"partial":1,"failed":1}'),
    (events.Draining("SIGINT", 5), '{"event":"draining","reason":"SIGINT","in_flight":5}'),
    (events.Committed("out.parquet", 3), '{"event":"committed","path":"out.parquet","rows":3}'),
])
def test_events_as_json(event, line):
    assert msgspec.json.encode(event).decode() == line
    assert msgspec.json.decode(line, type=events.Event) == event
    with pytest.raises(AttributeError):
        event.event = "other"


def test_every_event_is_a_flat_frozen_record_of_plain_figures():
    for kind in get_args(events.Event):
        assert kind.__struct_config__.frozen
        for name, hint in get_type_hints(kind).items():
            if name != "__match_args__" and not name.startswith("__"):
                allowed = {int, float, str, bool, type(None), ErrorKind}
                assert (set(get_args(hint)) or {hint}) <= allowed, (kind, name)


def test_the_summary_has_the_key_class_and_not_class_():
    summary = events.Summary(exit=3, class_="failed rows", resumable=False, documents=2, failed=1)
    assert events.flatten(summary) == {
        "exit": 3, "class": "failed rows", "resumable": False, "documents": 2, "ok": 0,
        "partial": 0, "failed": 1, "requests": 0, "cached": 0, "calls": 0, "tokens": 0,
        "cost_usd": 0.0, "unpriced_calls": 0, "ambiguous": 0, "seconds": 0.0, "endpoints": [],
        "answers_shared": (), "added": 0, "changed": 0, "removed": 0, "unchanged": 0,
        "retried": 0,
    }
