"""A credential that cannot be printed, and where it may come from."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.secrets import Reference, looks_secret, mask, resolve
from pipeline.errors import UsageError
from pipeline.secret import Secret

CANARY = "hf_CanaryCanaryCanaryCanary0123"


@given(st.text(min_size=1), st.sampled_from(["", ">80", "s", "<3"]))
def test_no_text_made_from_a_secret_depends_on_it(text: str, form: str) -> None:
    secret = Secret(text)
    made = {str(secret), repr(secret), format(secret, form), f"{secret!r:}", "%s" % secret}  # noqa: UP031
    assert made == {"***"}
    assert repr([secret]) == "[***]"
    assert secret.reveal() == text


@given(st.text(st.characters()), st.text(st.characters()))
def test_secrets_are_equal_when_their_texts_are(one: str, other: str) -> None:
    assert (Secret(one) == Secret(other)) == (one == other)
    assert Secret(one) != one


def test_a_secret_leaves_the_process_by_no_copy() -> None:
    secret = Secret(CANARY)
    for leave in (pickle.dumps, copy.copy, copy.deepcopy, hash, msgspec.json.encode, vars):
        with pytest.raises(TypeError) as raised:
            leave(secret)
        assert CANARY not in str(raised.value)


TOKENS = [
    CANARY,
    "api_org_abcdefghijklmnopqrstuvwx",
    "sk-abcdefghijklmnopqrstuvwxyz",
    "sk-proj-AbC_123-abcdefghijkl",
    "gsk_abcdefghijklmnopqrst0123",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "Bearer abc123def456",
    "authorization: bearer  AbCdEfGhIj",
    "Basic dXNlcjpwYXNzd29yZA==",
]


@pytest.mark.parametrize("token", TOKENS)
def test_known_tokens_are_seen_and_masked_in_any_text(token: str) -> None:
    for text in (token, f"key={token}", f'say "{token}" twice: {token}', f"中文{token}中文"):
        assert looks_secret(text)
        assert token not in mask(text)
    assert mask(f"key={CANARY}!") == "key=***!"


@pytest.mark.parametrize(
    "text",
    ["hf_transformers", "hf_hub_download", "sk-learn", "risk-management-and-mitigation-2024",
     "the bearer of good news", "Bearer responsibilities", "basic covid-19-related questions",
     "task-0123456789-abcdefghijkl", "BAAI/bge-small-zh-v1.5", "全文检索 sk 值"],
)  # fmt: skip
def test_plain_words_are_no_tokens(text: str) -> None:
    assert not looks_secret(text)
    assert mask(text) == text


def test_the_user_of_a_url_is_masked() -> None:
    assert mask("at https://me:hunter2@example.com/x@y") == "at https://***@example.com/x@y"


# References


def refusal(reference: Reference, folder: Path | str = "") -> str:
    with pytest.raises(UsageError) as raised:
        resolve(reference, folder)
    assert CANARY not in f"{raised.value} {raised.value.hint}"
    return str(raised.value)


def test_no_reference_is_no_secret() -> None:
    assert resolve(None) is None


def test_a_variable_is_read_without_blanks_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", f" {CANARY}\n")
    assert resolve(Reference(env="SOME_KEY")) == Secret(CANARY)


def test_a_variable_that_is_unset_or_empty_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    unset = "endpoint.api_key: environment variable `SOME_KEY` is not set"
    assert refusal(Reference(env="SOME_KEY")) == unset
    monkeypatch.setenv("SOME_KEY", " \n")
    empty = "endpoint.api_key: environment variable `SOME_KEY` is empty"
    assert refusal(Reference(env="SOME_KEY")) == empty


@pytest.mark.parametrize("text", ["a\r\nX-Evil: 1", f"Bearer {CANARY}", f"{CANARY}é", "a\x00b"])
def test_a_text_that_no_header_can_carry_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "key"
    file.write_text(text, "utf-8")
    file.chmod(0o600)
    assert refusal(Reference(file="key"), tmp_path) == (
        f"endpoint.api_key: file `{file}` holds blanks or characters that are not valid in a key"
    )


def test_a_private_file_is_read_beside_the_job_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{CANARY}\n")
    for mode in (0o600, 0o400):
        file.chmod(mode)
        assert resolve(Reference(file="key"), tmp_path) == Secret(CANARY)
        assert resolve(Reference(file=str(file)), "elsewhere") == Secret(CANARY)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o610])
def test_a_file_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "key"
    file.write_text(CANARY)
    file.chmod(mode)
    assert refusal(Reference(file="key"), tmp_path) == (
        f"endpoint.api_key: file `{file}` has mode {mode:04o}, must be 0600 or stricter"
    )


def test_a_file_that_is_missing_empty_or_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch(0o600)
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "large").write_bytes(b"a" * 70_000)
    (tmp_path / "large").chmod(0o600)
    for name, problem in (
        ("empty", "is empty"),
        ("pipe", "is not a regular file"),
        ("", "is not a regular file"),
        ("large", "is larger than 65,536 bytes"),
    ):
        assert refusal(Reference(file=name), tmp_path) == (
            f"endpoint.api_key: file `{tmp_path / name}` {problem}"
        )
    assert refusal(Reference(file="none"), tmp_path) == (
        f"endpoint.api_key: cannot read file `{tmp_path / 'none'}`: No such file or directory"
    )
