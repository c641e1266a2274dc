"""What is never to be recorded is taken out of bodies; a body that a rule does not fit is not recorded."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from gateway.payloads.redaction import REDACTED, CannotRedact, redact_fields, redact_tensors
from gateway.payloads.rules import PayloadRules, Side, read_redaction

CHAT: dict[str, Any] = {
    "model": "chat",
    "user": "ann@example.com",
    "messages": [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "my number is 4711"}]},
    ],
    "metadata": {"a/b": "slash", "t~x": "tilde"},
}


def redacted(*rules: str, document: dict[str, Any] = CHAT) -> dict[str, Any]:
    body = copy.deepcopy(document)
    redact_fields(body, [read_redaction(rule) for rule in rules])
    return body


def tensors() -> list[dict[str, Any]]:
    return [
        {"name": "age", "datatype": "FP32", "shape": [1], "data": [44.0]},
        {"name": "ssn", "datatype": "BYTES", "shape": [1], "data": ["123-45"], "parameters": {}},
    ]


def test_a_field_is_replaced_wherever_the_path_leads() -> None:
    body = redacted("request/messages/*/content", "request/user", "request/metadata/a~1b")
    assert [message["content"] for message in body["messages"]] == [REDACTED, REDACTED]
    assert (body["user"], body["metadata"]) == (REDACTED, {"a/b": REDACTED, "t~x": "tilde"})
    assert "4711" not in str(body)
    assert "ann" not in str(body)
    assert redacted("request/messages/1/content/0/text")["messages"][1]["content"][0]["text"] == REDACTED
    assert redacted("request/metadata/*")["metadata"] == {"a/b": REDACTED, "t~x": REDACTED}
    assert redacted("request/metadata/t~0x")["metadata"] == {"a/b": "slash", "t~x": REDACTED}


@pytest.mark.parametrize(
    "rule",
    [
        "request/prompt",  # is not there
        "request/messages/*/name",  # is in no member
        "request/messages/5/content",  # no such index
        "request/messages/content",  # a list has no names
        "request/user/name",  # text has no members
        "request/messages/*/content/*/text",  # text in the first message, a list in the second
        "inputs.user",  # a tensor, and there are none
        "request",  # all of it
    ],
)
def test_a_body_that_a_rule_does_not_fit_is_refused(rule: str) -> None:
    with pytest.raises(CannotRedact) as refusal:
        redacted(rule)
    assert rule in str(refusal.value)
    assert "4711" not in str(refusal.value)


def test_what_may_be_missing_is_passed_over_but_another_form_is_not() -> None:
    assert redacted("request/prompt?", "request/messages/*/name?", "inputs.age?") == CHAT
    for rule in ("request/user/name?", "request/messages/content?"):
        with pytest.raises(CannotRedact):
            redacted(rule)


def test_a_tensor_loses_its_values_and_keeps_its_shape() -> None:
    body = tensors()
    assert redact_tensors(body, [read_redaction("inputs.ssn")]) == ["inputs.ssn"]
    assert body[0] == tensors()[0]
    assert (body[1]["shape"], body[1]["redacted"], "data" in body[1]) == ([1], True, False)
    body = tensors()
    redact_tensors(body, [read_redaction("inputs.*"), read_redaction("inputs.other?")])
    assert "data" not in body[0]
    assert "data" not in body[1]


@pytest.mark.parametrize("rule", ["inputs.SSN", "request/inputs/0/data", "request"])
def test_tensors_that_a_rule_does_not_fit_are_refused(rule: str) -> None:
    with pytest.raises(CannotRedact):
        redact_tensors(tensors(), [read_redaction(rule)])


@pytest.mark.parametrize(
    "text", ["", "inputs.", "request/", "messages/0", "answers/a", "request/a~2", "/user"]
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is none of request, answer"):
        read_redaction(text)


def test_rules_are_of_one_side() -> None:
    rules = PayloadRules(1.0, redact=("inputs.a", "outputs.b", "request/c", "answer"))
    assert [rule.text for rule in rules.redactions(Side.REQUEST)] == ["inputs.a", "request/c"]
    assert [rule.text for rule in rules.redactions(Side.ANSWER)] == ["outputs.b", "answer"]
