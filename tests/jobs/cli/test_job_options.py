"""The options that set keys of the job file are made from the keys."""

import click
import pytest

from jobs.cli.job_options import (
    FLAGGED,
    HELP_GROUPS,
    GroupedCommand,
    JobSettings,
    job_options,
    pairs,
)
from jobs.spec.job import KEY, KEYS
from pipeline.errors import UsageError


def settings_of(*arguments, keys=FLAGGED):
    seen = []

    @click.command()
    @job_options(keys)
    def command(settings):
        seen.append(settings)

    command.main(list(arguments), standalone_mode=False)
    return seen[0]


def test_every_key_with_a_flag_is_an_option_what_is_read_and_written_first():
    command = click.command()(job_options()(lambda settings: None))
    assert [option.opts for option in command.params[:3]] == [
        ["-i", "--input"], ["-o", "--output"], ["--text"]]  # fmt: skip
    assert {option.opts[-1] for option in command.params} == {
        *(key.flag for key in KEYS if key.flag), "--set"}  # fmt: skip


def test_nothing_given_is_nothing_set():
    assert settings_of() == JobSettings()


VALUES = {"integer": ("7", 7), "number": ("0.5", 0.5), "string": ("word", "word"), "text": ("two words", "two words"),
          "strings": ("word", ("word",)), "time": ("06:00", "06:00")}  # fmt: skip


@pytest.mark.parametrize("key", FLAGGED, ids=lambda key: key.name)
def test_a_flag_sets_its_key_as_the_type_of_the_key(key):
    if key.type == "boolean":
        assert settings_of(key.flag).flags == {key.name: True}
    else:
        raw, value = VALUES[key.type]
        assert settings_of(key.flag, raw).flags == {key.name: value}


def test_flags_keep_the_order_in_which_they_were_typed():
    assert list(settings_of("--url", "u", "--id", "n", "-i", "p").flags) == [
        "endpoint.url", "input.id", "input.path"]  # fmt: skip


def test_zero_is_a_value_and_what_may_be_repeated_is_kept_in_order():
    settings = settings_of("--grace", "0", "--keep", "b", "--keep", "a", "--set", "x=1", "--set", "y")
    assert settings == JobSettings(
        {"run.grace_seconds": 0.0, "input.keep": ("b", "a")}, ("x=1", "y")
    )


def test_a_command_may_take_some_of_the_keys_only():
    model = KEY["endpoint.model"]
    assert settings_of("--model", "m", keys=[model]).flags == {"endpoint.model": "m"}
    with pytest.raises(click.NoSuchOption):
        settings_of("--url", "u", keys=[model])


def test_an_override_is_a_key_and_a_value():
    assert pairs(["a.b = c=d", "x="]) == [("a.b", " c=d"), ("x", "")]
    for wrong in ("a", "=1"):
        with pytest.raises(UsageError, match="--set takes KEY=VALUE"):
            pairs([wrong])


def test_help_lists_the_flags_in_groups_by_the_section_of_their_key():
    @click.command(cls=GroupedCommand)
    @click.argument("job")
    @job_options([KEY["run.until"], KEY["input.path"], KEY["guard.max_failed"], KEY["chunk.size"], KEY["endpoint.url"]])
    @click.option("--json", is_flag=True, help="Print JSON.")
    def command(job, settings, json):
        pass

    shown = command.get_help(click.Context(command, info_name="x", terminal_width=80))
    assert shown.partition("[OPTIONS] JOB\n\n")[2].splitlines() == [
        "Input and output:",
        "  -i, --input PATH    Input rows: file, glob, directory, URL or -.", "",
        "Chunking:",
        "  --size TOKENS       Maximum tokens per chunk.", "",
        "Endpoint:",
        "  --url URL           Base URL of the service.", "",
        "Limits:",
        "  --max-failed SHARE  Largest share of failed rows; above it nothing is",
        "                      published (exit 4).", "",
        "Run:",
        "  --until TIME        Time of day, such as 06:00, at which to drain and exit 10.", "",
        "Options:",
        "  --set KEY=VALUE     Set any key of the job file.",
        "  --json              Print JSON.",
        "  --help              Show this message and exit.",
    ]  # fmt: skip


def test_every_section_with_a_flag_has_a_group():
    assert {key.section for key in FLAGGED} <= set(HELP_GROUPS)
