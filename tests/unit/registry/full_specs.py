"""Specs of each kind with every field set, for tests of what happens to fields."""

from typing import Any

FULL: dict[str, dict[str, Any]] = {
    "llm": {
        "description": "Thinks.",
        "model": "gpt-4o-mini",
        "protocol": "openai_chat",
        "transport": "direct",
        "base_url": "https://api.openai.com/v1",
        "api_key": "${env:OPENAI_API_KEY}",
        "headers": {"X-Team": "Bearer ${file:/run/secrets/team}"},
        "generation": {
            "temperature": 0.0,
            "top_p": 0.5,
            "max_output_tokens": 2**40,
            "seed": -7,
            "stop": ["END", "STOP"],
        },
        "timeout": "1.5s",
        "price": {
            "input_nano_usd_per_million": 0,
            "output_nano_usd_per_million": 600_000_000,
            "cached_input_nano_usd_per_million": 75_000_000,
        },
        "max_retries": 0,
        "structured_output": "native",
    },
    "mcp_server": {
        "description": "Tells the time.",
        "stdio": {
            "command": "/opt/time",
            "args": ["--utc", ""],
            "env": {"TOKEN": "${env:TOKEN}"},
            "cwd": "/srv",
        },
        "connect_timeout": "30s",
        "call_timeout": "60s",
        "idle_timeout": "300s",
        "allow_sampling": False,
        "scope": "session",
        "prewarm": False,
        "max_concurrent_calls": 1,
        "max_queued_calls": 2,
        "roots": ["/data", "file:///srv/shared"],
        "revision": "2026-07-28",
    },
    "agent": {
        "description": "Helps.",
        "llm": "fast",
        "system_prompt": "You help {{ person }}.\n",
        "mcp_servers": ["time", "mail"],
        "generation": {"temperature": 2.0},
        "max_iterations": 3,
        "tool_concurrency": 1,
        "include_history": False,
        "timeout": "0.25s",
        "fallback_llms": ["slow", "local"],
        "budget": {
            "max_tokens": 1,
            "max_cost_nano_usd": 0,
            "max_tool_calls": 0,
            "max_turns": 1,
            "max_duration": "3600s",
        },
        "agents": ["researcher", "writer"],
        "tool_policies": [
            {"server": "mail", "tool": "send_*", "approval": "always", "interrupted": "fail"},
            {"approval": "destructive"},
        ],
        "ask_user": False,
        "output_schema": {
            "type": "object",
            "properties": {"b": {"enum": [1, 1.0, None, "é\n"]}, "a": {"items": {"$ref": "#/properties/b"}}},
        },
        "max_repairs": 0,
        "session_budget": {"max_tokens": 2},
        "max_context_tokens": 256,
        "stall_after": 2,
        "variables": {"person": "{{ Ann }}"},
        "input_timeout": "86400s",
        "allowed_tools": [{"server": "mail", "tool": "send_*"}, {"server": "time"}],
        "excluded_tools": [{"server": "mail", "tool": "delete_*"}],
        "linear_workflows": ["reporting"],
        "graph_workflows": ["research"],
        "custom_workflows": ["nightly"],
    },
    "linear_workflow": {
        "description": "Reports.",
        "steps": [
            {
                "name": "look",
                "tool": {
                    "server": "time",
                    "tool": "now",
                    "arguments": {"zone": "{{ input.zone }}", "deep": [{"n": 1}]},
                },
                "condition": "input.zone != ''",
                "timeout": "5s",
                "retry": {
                    "attempts": 3,
                    "backoff": "1s",
                    "max_backoff": "60s",
                    "errors": ["MCP_TIMEOUT"],
                },
                "on_error": "fallback",
                "fallback": {"agent": "guesser", "input": "What time is it in {{ input.zone }}?"},
                "output": "result.structured.time",
            },
            {"name": "write", "agent": "writer", "input": "{{ steps.look.output }}", "on_error": "continue"},
            {"name": "send", "linear_workflow": "sending", "set": {"sent": "result.text"}},
            {"name": "file", "run": "time/write", "arguments": {"text": "{{ input.zone }}"}},
        ],
        "state": {"sent": "", "deep": [{"n": 1}]},
        "input_schema": {"type": "object", "properties": {"zone": {"type": "string"}}},
        "output": "steps.write.output",
        "timeout": "600s",
        "budget": {"max_tokens": 1},
        "session_budget": {"max_turns": 2},
    },
    "graph_workflow": {
        "description": "Researches.",
        "nodes": [
            {"name": "plan", "transform": {"expression": "[input.topic, 'more']"}},
            {"name": "text", "transform": {"template": "{{ input.topic }}"}},
            {
                "name": "search",
                "each": {
                    "items": "steps.plan.output",
                    "agent": "searcher",
                    "input": "{{ index }}: {{ item }}",
                    "concurrency": 4,
                    "on_failure": "continue",
                    "quorum": 1,
                    "branch_timeout": "30s",
                },
            },
            {
                "name": "refine",
                "loop": {
                    "agent": "writer",
                    "input": "{{ loop.last }}",
                    "until": "loop.round == 3",
                    "max_rounds": 5,
                },
            },
            {
                "name": "source",
                "failover": {
                    "choices": [
                        {"agent": "fast"},
                        {"graph_workflow": "slow", "input": "{{ input }}"},
                    ],
                    "errors": ["LLM_TIMEOUT"],
                },
            },
            {
                "name": "triage",
                "router": {
                    "routes": [
                        {"name": "good", "description": "Fit to print."},
                        {"name": "bad", "description": "Not."},
                    ],
                    "default": "bad",
                    "agent": "judge",
                    "input": "{{ steps.text.output }}",
                },
            },
            {
                "name": "ask",
                "ask": {
                    "question": "Print?",
                    "answer_schema": {"type": "boolean"},
                    "timeout": "60s",
                },
                "join": {
                    "mode": "quorum",
                    "quorum": 2,
                    "cancel_rest": True,
                    "timeout": "30s",
                    "merge": "list",
                },
            },
            {
                "name": "keep",
                "memory_write": {
                    "text": "{{ input.text }}",
                    "labels": {"topic": "{{ input.topic }}"},
                    "expire_after": "60s",
                },
            },
            {
                "name": "find",
                "memory_read": {
                    "query": "{{ input.topic }}",
                    "labels": {"topic": "{{ input.topic }}"},
                    "limit": 5,
                },
            },
            {"name": "stop", "fail": {"message": "no"}},
        ],
        "edges": [
            {"source": "plan", "target": "search", "after": "always", "when": "true"},
            {"source": "text", "target": "triage"},
            {"source": "search", "target": "ask"},
            {"source": "refine", "target": "ask"},
            {"source": "triage", "target": "stop", "route": "bad"},
        ],
        "input_schema": {"type": "object"},
        "output": "steps.text.output",
        "concurrency": 3,
        "on_failure": "wait_all",
        "timeout": "60s",
        "budget": {"max_turns": 9},
        "session_budget": {"max_turns": 9},
        "state": {"found": []},
        "on_conflict": "merge",
    },
    "custom_workflow": {
        "description": "Reports by night.",
        "entry_point": "reports.nightly:Nightly",
        "folder": "/code",
        "env": {"TOKEN": "${env:TOKEN}", "MODE": "short"},
        "agents": ["writer"],
        "linear_workflows": ["reporting"],
        "graph_workflows": ["research"],
        "custom_workflows": ["hourly"],
        "mcp_servers": ["time"],
        "input_schema": {"type": "object"},
        "timeout": "60s",
        "budget": {"max_turns": 9},
        "session_budget": {"max_turns": 9},
    },
}
"""A spec of each kind with every field set, as it is after validation."""
_TLS = {"ca_file": "/tls/ca.pem", "cert_file": "/tls/me.pem", "key_file": "/tls/me.key"}
HTTP = {
    "streamable_http": {
        "url": "https://example.com/mcp",
        "headers": {"Authorization": "Bearer ${env:TOKEN}"},
        "tls": _TLS,
    }
}
_OAUTH = {
    "issuer": "https://login.example.com",
    "client_id": "retinue",
    "scopes": ["tools.read", "tools.call"],
}
HTTP_OAUTH = {
    "streamable_http": {
        "url": "https://example.com/mcp",
        "oauth": {**_OAUTH, "client_secret": "${env:CLIENT_SECRET}", "require_dpop": True},
    }
}
SSE = {
    "sse": {
        "url": "https://example.com/sse",
        "headers": {"Authorization": "Bearer ${env:TOKEN}"},
        "tls": _TLS,
    }
}
SSE_OAUTH = {
    "sse": {
        "url": "http://127.0.0.1:8080/sse",
        "oauth": {**_OAUTH, "private_key": "${file:/keys/client.pem}", "private_key_algorithm": "ES256"},
    }
}

HTTP_LOGIN = {
    "streamable_http": {
        "url": "https://example.com/mcp",
        "oauth": {
            "grant": "authorization_code",
            "client_metadata_url": "https://retinue.example.com/client.json",
            "redirect_uri": "http://127.0.0.1:7414/callback",
        },
    }
}
SSE_WORKLOAD = {
    "sse": {
        "url": "https://example.com/sse",
        "oauth": {
            "grant": "jwt_bearer",
            "issuer": "https://login.example.com",
            "assertion": "${file:/var/run/secrets/token}",
            "client_id": "retinue",
            "identity_provider": "https://idp.example.com/token",
            "identity_client_id": "retinue-at-idp",
            "identity_client_secret": "${env:IDENTITY_SECRET}",
        },
    }
}

MINIMAL: dict[str, dict[str, Any]] = {
    "llm": {"model": "m"},
    "mcp_server": {"stdio": {"command": "c"}},
    "agent": {"llm": "fast"},
    "linear_workflow": {"steps": [{"name": "a", "agent": "b"}]},
    "graph_workflow": {"nodes": [{"name": "a", "agent": "b"}]},
    "custom_workflow": {"entry_point": "m:C"},
}
CUSTOM_COMMAND = {"command": "/code/worker", "args": ["--fast"]}
