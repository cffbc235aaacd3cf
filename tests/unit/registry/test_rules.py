"""Each rule of the models has a message that says what to do."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue_registry.convert import (
    ProtoCodec,
)
from retinue_registry.models.fields import NAME
from retinue_registry.validation import check_labels, check_spec, field_text

from .full_specs import (
    FULL,
    HTTP,
    HTTP_OAUTH,
)


def _oauth(**changes: Any) -> dict[str, Any]:
    http: dict[str, Any] = HTTP_OAUTH["streamable_http"]
    outside = {name: changes.pop(name) for name in ("url", "headers") if name in changes}
    oauth = {name: value for name, value in (http["oauth"] | changes).items() if value is not None}
    return {"streamable_http": http | outside | {"oauth": oauth}}


def _login(**changes: Any) -> dict[str, Any]:
    return _oauth(**{"grant": "authorization_code"} | changes)


def _workload(**changes: Any) -> dict[str, Any]:
    return _oauth(**{"grant": "jwt_bearer", "assertion": "${env:A}"} | changes)


BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("custom_workflow", {}, "entry_point", "is missing: name a class as MODULE:CLASS"),
    ("custom_workflow", {"entry_point": "m"}, "entry_point", "names no class: write MODULE:CLASS"),
    ("custom_workflow", {"entry_point": "m:C", "command": "x"}, "command", "takes the place of entry_point"),
    ("custom_workflow", {"entry_point": "m:C", "args": ["x"]}, "args", "are for `command`"),
    ("llm", {}, "model", "is missing"),
    ("llm", {"model": ""}, "model", "must have at least 1 character"),
    ("llm", {"model": None}, "model", "has no value"),
    ("llm", {"model": 4}, "model", "must be text, and 4 is not: put it in quotes"),
    ("llm", {"model": "m", "modle": "x"}, "modle", "there is no such key; did you mean model?"),
    ("llm", {"model": "m", "zzz": 1}, "zzz", "there is no such key; there are api_key"),
    ("llm", {"model": "m", "protocol": "openai-chat"}, "protocol", "did you mean openai_chat?"),
    ("llm", {"model": "m", "transport": "drect"}, "transport", "did you mean direct?"),
    ("llm", {"model": "m", "transport": "unspecified"}, "transport", "must be 'auto', 'direct' or 'litellm'"),
    (
        "llm",
        {"model": "m", "transport": "direct", "base_url": "http://x"},
        "transport",
        "protocol: openai_chat",
    ),
    ("llm", {"model": "m", "transport": "direct", "protocol": "openai_chat"}, "transport", "set base_url"),
    ("llm", {"model": "m", "protocol": "openai_chat"}, "protocol", "set base_url"),
    ("llm", {"model": "m", "base_url": "api.openai.com"}, "base_url", "http:// or https://"),
    ("llm", {"model": "m", "base_url": "http://x:99999/"}, "base_url", "Port out of range"),
    ("llm", {"model": "m", "base_url": "http://[x/"}, "base_url", "Invalid"),
    ("llm", {"model": "m", "base_url": "https://u:p@host/"}, "base_url", "user or password"),
    ("llm", {"model": "m", "api_key": "sk-123"}, "api_key", "write ${env:NAME}"),
    ("llm", {"model": "m", "api_key": "${OPENAI_API_KEY}"}, "api_key", "write ${env:OPENAI_API_KEY}"),
    ("llm", {"model": "m", "api_key": "${env:}"}, "api_key", "not well formed"),
    ("llm", {"model": "m", "api_key": "${env:A B}"}, "api_key", "does not name an environment variable"),
    ("llm", {"model": "m", "description": "${env:X}"}, "description", "only allowed in secret fields"),
    ("llm", {"model": "${file:/x}"}, "model", "only allowed in secret fields"),
    ("llm", {"model": "m", "headers": {"A b": "x"}}, "headers.A b", "is not the name of an HTTP header"),
    ("llm", {"model": "m", "headers": {"A": 1}}, "headers.A", "must be text, and 1 is not"),
    ("llm", {"model": "m", "headers": ["A"]}, "headers", "must be a mapping"),
    (
        "llm",
        {"model": "m", "generation": {"temperature": 2.1}},
        "generation.temperature",
        "less than or equal to 2",
    ),
    ("llm", {"model": "m", "generation": {"temperature": -1}}, "generation.temperature", "greater than or"),
    ("llm", {"model": "m", "generation": {"temperature": float("nan")}}, "generation.temperature", "must be"),
    ("llm", {"model": "m", "generation": {"top_p": 1.5}}, "generation.top_p", "less than or equal to 1"),
    (
        "llm",
        {"model": "m", "generation": {"max_output_tokens": 0}},
        "generation.max_output_tokens",
        "equal to 1",
    ),
    ("llm", {"model": "m", "generation": {"seed": 2**63}}, "generation.seed", "less than or equal to"),
    ("llm", {"model": "m", "generation": {"seed": True}}, "generation.seed", "must be a whole number"),
    ("llm", {"model": "m", "generation": {"stop": list("abcde")}}, "generation.stop", "at most 4 items"),
    ("llm", {"model": "m", "generation": {"stop": [""]}}, "generation.stop[0]", "at least 1 character"),
    (
        "llm",
        {"model": "m", "generation": {"tempreature": 1}},
        "generation.tempreature",
        "did you mean temperature?",
    ),
    ("llm", {"model": "m", "generation": 3}, "generation", "must be a mapping"),
    (
        "llm",
        {"model": "m", "price": {"input_nano_usd_per_million": -1}},
        "price.input_nano_usd_per_million",
        "to 0",
    ),
    ("llm", {"model": "m", "timeout": "5"}, "timeout", "must be a span of time"),
    ("llm", {"model": "m", "timeout": 0}, "timeout", "more than 0"),
    ("llm", {"model": "m", "timeout": -1}, "timeout", "more than 0"),
    ("llm", {"model": "m", "timeout": True}, "timeout", "must be a span of time"),
    ("llm", {"model": "m", "timeout": float("inf")}, "timeout", "more than 0"),
    ("llm", {"model": "m", "timeout": "9" * 50 + "h"}, "timeout", "at most 10,000 years"),
    ("mcp_server", {}, "", "needs a transport"),
    ("mcp_server", {**FULL["mcp_server"], **HTTP}, "streamable_http", "set one of them"),
    ("mcp_server", {"stdio": {}}, "stdio.command", "is missing"),
    ("mcp_server", {"stdio": {"command": "a\0b"}}, "stdio.command", "NUL"),
    ("mcp_server", {"stdio": {"command": "c", "env": {"A=B": "x"}}}, "stdio.env.A=B", "environment variable"),
    (
        "mcp_server",
        {"stdio": {"command": "c", "env": {"A": False}}},
        "stdio.env.A",
        "false is not: put it in quotes",
    ),
    ("mcp_server", {"stdio": {"command": "c", "args": "x"}}, "stdio.args", "must be a list"),
    ("mcp_server", {"stdio": {"command": "c", "args": [8]}}, "stdio.args[0]", "put it in quotes"),
    ("mcp_server", _oauth(url="http://example.com/mcp"), "streamable_http.url", "must begin with https://"),
    ("mcp_server", _oauth(issuer="http://10.0.0.1"), "streamable_http.oauth.issuer", "must begin with https"),
    ("mcp_server", _oauth(client_secret="plain"), "streamable_http.oauth.client_secret", "plain key"),
    ("mcp_server", _oauth(private_key="${env:K}"), "streamable_http.oauth.private_key", "set one of them"),
    ("mcp_server", _oauth(client_secret=None), "streamable_http.oauth", "needs client_secret or private_key"),
    (
        "mcp_server",
        _oauth(private_key_algorithm="RS256"),
        "streamable_http.oauth.private_key_algorithm",
        "without effect",
    ),
    ("mcp_server", _oauth(issuer=None), "streamable_http.oauth.issuer", "is missing"),
    ("mcp_server", _oauth(client_id=None), "streamable_http.oauth.client_id", "is missing"),
    (
        "mcp_server",
        _oauth(redirect_uri="http://127.0.0.1:1/"),
        "streamable_http.oauth.redirect_uri",
        "is for the grant authorization_code",
    ),
    ("mcp_server", _oauth(assertion="${env:A}"), "streamable_http.oauth.assertion", "the grant jwt_bearer"),
    (
        "mcp_server",
        _oauth(grant="jwt_bearer", client_secret=None),
        "streamable_http.oauth.assertion",
        "is missing",
    ),
    (
        "mcp_server",
        _oauth(grant="authorization_code", private_key="${env:K}"),
        "streamable_http.oauth.private_key",
        "is for the grant client_credentials",
    ),
    ("mcp_server", _login(client_id=None), "streamable_http.oauth.client_secret", "needs client_id"),
    (
        "mcp_server",
        _oauth(identity_provider="https://idp.example.com/token"),
        "streamable_http.oauth.identity_provider",
        "the grant jwt_bearer",
    ),
    (
        "mcp_server",
        _workload(client_id=None, client_secret=None, identity_provider="https://idp.example.com/token"),
        "streamable_http.oauth.identity_provider",
        "needs client_id",
    ),
    (
        "mcp_server",
        _workload(identity_provider="http://10.0.0.1/token"),
        "streamable_http.oauth.identity_provider",
        "must begin with https://",
    ),
    (
        "mcp_server",
        _workload(identity_client_id="me"),
        "streamable_http.oauth.identity_client_id",
        "it needs identity_provider",
    ),
    (
        "mcp_server",
        _workload(identity_provider="https://idp.example.com/token", identity_client_secret="${env:S}"),
        "streamable_http.oauth.identity_client_secret",
        "it needs identity_client_id",
    ),
    ("mcp_server", _login(issuer=None), "streamable_http.oauth.client_id", "needs issuer"),
    (
        "mcp_server",
        _login(client_metadata_url="https://a.example.com/client.json"),
        "streamable_http.oauth.client_metadata_url",
        "set one of them",
    ),
    (
        "mcp_server",
        _login(client_id=None, client_secret=None, client_metadata_url="https://a.example.com/"),
        "streamable_http.oauth.client_metadata_url",
        "have a path",
    ),
    (
        "mcp_server",
        _login(redirect_uri="http://example.com/callback"),
        "streamable_http.oauth.redirect_uri",
        "must begin with https",
    ),
    (
        "mcp_server",
        _login(redirect_uri="https://example.com/#callback"),
        "streamable_http.oauth.redirect_uri",
        "no fragment",
    ),
    ("mcp_server", _oauth(scopes=["a b"]), "streamable_http.oauth.scopes[0]", "one scope"),
    (
        "mcp_server",
        _oauth(headers={"authorization": "x"}),
        "streamable_http.headers.authorization",
        "beside oauth",
    ),
    ("mcp_server", {"streamable_http": {"url": "ftp://x"}}, "streamable_http.url", "http:// or https://"),
    ("agent", {}, "llm", "is missing"),
    ("agent", {"llm": "No Name"}, "llm", "is not a name"),
    ("agent", {"llm": "a", "mcp_servers": ["x", "x"]}, "mcp_servers", "names x more than once"),
    ("agent", {"llm": "a", "max_iterations": 0}, "max_iterations", "greater than or equal to 1"),
    ("agent", {"llm": "a", "max_iterations": 2**31}, "max_iterations", "less than or equal to"),
    ("agent", {"llm": "a", "tool_concurrency": 0}, "tool_concurrency", "greater than or equal to 1"),
    ("agent", {"llm": "a", "include_history": "no"}, "include_history", "must be true or false"),
    ("llm", {"model": "m", "structured_output": "nativ"}, "structured_output", "did you mean native?"),
    (
        "mcp_server",
        {"stdio": {"command": "c"}, "allow_sampling": "yes"},
        "allow_sampling",
        "must be true or false",
    ),
    ("agent", {"llm": "a", "budget": {"max_turns": 0}}, "budget.max_turns", "greater than or equal to 1"),
    ("agent", {"llm": "a", "budget": {"max_duration": 0}}, "budget.max_duration", "more than 0"),
    (
        "agent",
        {"llm": "a", "session_budget": {"max_token": 1}},
        "session_budget.max_token",
        "did you mean max_tokens",
    ),
    ("agent", {"llm": "a", "agents": ["b", "b"]}, "agents", "names b more than once"),
    ("agent", {"llm": "a", "agents": ["B"]}, "agents[0]", "is not a name"),
    ("agent", {"llm": "a", "ask_user": True, "agents": ["ask_user"]}, "ask_user", "rename the agent"),
    ("agent", {"llm": "a", "max_repairs": 21}, "max_repairs", "less than or equal to 20"),
    ("agent", {"llm": "a", "max_repairs": -1}, "max_repairs", "greater than or equal to 0"),
    ("agent", {"llm": "a", "max_context_tokens": 255}, "max_context_tokens", "greater than or equal to 256"),
    ("agent", {"llm": "a", "stall_after": 1}, "stall_after", "greater than or equal to 2"),
    ("agent", {"llm": "a", "stall_after": 1001}, "stall_after", "less than or equal to 1000"),
    ("agent", {"llm": "a", "input_timeout": "soon"}, "input_timeout", "must be a span of time"),
    ("agent", {"llm": "a", "tool_policies": {}}, "tool_policies", "must be a list"),
    ("agent", {"llm": "a", "tool_policies": [{"tool": "x"}]}, "tool_policies[0]", "says nothing"),
    (
        "agent",
        {"llm": "a", "tool_policies": [{"approval": "alway"}]},
        "tool_policies[0].approval",
        "did you mean always?",
    ),
    (
        "agent",
        {"llm": "a", "tool_policies": [{"interrupted": "retry"}]},
        "tool_policies[0].interrupted",
        "must be 'repeat', 'ask' or 'fail'",
    ),
    (
        "agent",
        {"llm": "a", "tool_policies": [{"approval": "never", "tols": "x"}]},
        "tool_policies[0].tols",
        "did you mean tool?",
    ),
    (
        "agent",
        {"llm": "a", "tool_policies": [{"approval": "never", "tool": "[ab]*"}]},
        "tool_policies[0].tool",
        "with * and ? in it",
    ),
    (
        "agent",
        {"llm": "a", "mcp_servers": ["mail"], "tool_policies": [{"approval": "never", "server": "mial"}]},
        "tool_policies[0].server",
        "is none of the agent's mcp_servers; did you mean mail?",
    ),
]


@pytest.mark.parametrize(("kind", "values", "field", "said"), BAD)
def test_a_broken_rule_names_its_field_and_what_to_do(
    kind: str, values: dict[str, Any], field: str, said: str
) -> None:
    spec, broken = check_spec(kind, values)
    assert spec is None
    assert [field_text(each.place) for each in broken] == [field]
    assert said in broken[0].message


def test_all_broken_rules_come_at_once() -> None:
    _, broken = check_spec(
        "llm", {"modle": "m", "transport": "direct", "timeout": "soon", "generation": {"top_p": 2}}
    )
    assert {field_text(each.place) for each in broken} == {
        "model",
        "modle",
        "transport",
        "timeout",
        "generation.top_p",
    }


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("30s", "30s"),
        ("1.5s", "1.5s"),
        ("5m", "300s"),
        ("250ms", "0.25s"),
        ("1h", "3600s"),
        (90, "90s"),
        (0.1, "0.1s"),
    ],
)
def test_equal_spans_are_stored_alike(written: object, canonical: str) -> None:
    spec, broken = check_spec("agent", {"llm": "a", "timeout": written})
    assert not broken
    assert spec is not None
    assert spec.model_dump()["timeout"] == canonical


@settings(deadline=None)
@given(st.integers(1, 10**18))
def test_a_span_survives_the_proto_to_the_nanosecond(nanos: int) -> None:
    text = f"{nanos // 10**9}.{nanos % 10**9:09}s"
    spec, _ = check_spec("agent", {"llm": "a", "timeout": text})
    assert spec is not None
    codec = ProtoCodec()
    values = codec.decode("agent", codec.encode("agent", spec.model_dump(exclude_none=True)))
    again, _ = check_spec("agent", values)
    assert again == spec


def test_labels_are_bounded_texts() -> None:
    assert check_labels({"team": "a"}) == ({"team": "a"}, [])
    for labels, said in (
        ({f"k{n}": "" for n in range(65)}, "at most 64 items"),
        ({"": "x"}, "at least 1 character"),
        ({"a": 1}, "put it in quotes"),
        ({"a": "x" * 1025}, "at most 1024 characters"),
        ({"a": "${env:X}"}, "only allowed in secret fields"),
        (["a"], "must be a mapping"),
    ):
        _, broken = check_labels(labels)
        assert [each.place[0] for each in broken] == ["labels"]
        assert said in broken[0].message


@settings(deadline=None)
@given(st.text(max_size=70) | st.from_regex(NAME, fullmatch=True))
def test_a_name_is_taken_just_where_the_rule_says_so(text: str) -> None:
    spec, broken = check_spec("agent", {"llm": text})
    assert (spec is not None) is (NAME.fullmatch(text) is not None) is (not broken)


def test_the_values_of_secrets_are_in_no_message() -> None:
    for values in (
        {"model": "m", "api_key": "hunter2"},
        {"model": "m", "api_key": "hunter2 ${env:"},
        {"model": "m", "headers": {"A": "hunter2 ${env:"}},
        {"model": "m", "base_url": "https://user:hunter2@host"},
    ):
        _, broken = check_spec("llm", values)
        assert broken
        assert all("hunter2" not in each.message for each in broken)
