"""The examples of the protocol's public documentation, as they stand there, with what is delivered of each."""

import json
from typing import Any, Final

import msgspec

KEY: Final = "<ph_project_api_key>"
"""Where a project's key goes, in the bodies and in what is delivered."""


class Example(msgspec.Struct, frozen=True):
    id: str
    path: str
    body: str
    delivered: tuple[dict[str, Any], ...]
    """Each event as delivered, in order, without `uuid`, `token`, `ip` and `now`; without `timestamp` where it is the time
    of receipt."""


def event(name: str, distinct_id: str, properties: dict[str, Any], **others: Any) -> dict[str, Any]:
    members = {key.replace("__", "$"): value for key, value in others.items()}
    return {"event": name, "distinct_id": distinct_id, "lane": "main", "properties": properties, **members}


EXAMPLES: Final = (
    Example(
        "capture",
        "/i/v0/e/",
        """{
    "api_key": "<ph_project_api_key>",
    "event": "event name",
    "distinct_id": "user distinct id",
    "properties": {
        "account_type": "pro"
    },
    "timestamp": "2020-08-16T09:03:11.913767"
}""",
        (event("event name", "user distinct id", {"account_type": "pro"}, timestamp="2020-08-16T09:03:11.913767Z"),),
    ),
    Example(
        "capture, older path, distinct_id among the properties",
        "/capture/",
        """{
    "api_key": "<ph_project_api_key>",
    "event": "[event name]",
    "properties": {
        "distinct_id": "[your users' distinct id]",
        "key1": "value1",
        "key2": "value2"
    },
    "timestamp": "[optional timestamp in ISO 8601 format]"
}""",
        (
            event(
                "[event name]",
                "[your users' distinct id]",
                {"distinct_id": "[your users' distinct id]", "key1": "value1", "key2": "value2"},
            ),
        ),
    ),
    Example(
        "batch",
        "/batch/",
        """{
    "api_key": "<ph_project_api_key>",
    "historical_migration": false,
    "batch": [
        {
            "event": "batched_event_name_1",
            "properties": {
                "distinct_id": "user distinct id",
                "account_type": "pro"
            },
            "timestamp": "[optional timestamp in ISO 8601 format]"
        },
        {
            "event": "batched_event_name_2",
            "properties": {
                "distinct_id": "user distinct id",
                "account_type": "pro"
            }
        }
    ]
}""",
        (
            event(
                "batched_event_name_1",
                "user distinct id",
                {"distinct_id": "user distinct id", "account_type": "pro"},
            ),
            event(
                "batched_event_name_2",
                "user distinct id",
                {"distinct_id": "user distinct id", "account_type": "pro"},
            ),
        ),
    ),
    Example(
        "historical migration",
        "/batch/",
        """{
    "api_key": "<ph_project_api_key>",
    "historical_migration": true,
    "batch": [
        {
            "event": "batched_event_name",
            "properties": {
                "distinct_id": "user_id"
            },
            "timestamp": "2024-04-03T12:00:00Z"
        },
        {
            "event": "batched_event_name",
            "properties": {
                "distinct_id": "user_id"
            },
            "timestamp": "2024-04-03T12:00:00Z"
        }
    ]
}""",
        (
            event(
                "batched_event_name",
                "user_id",
                {"distinct_id": "user_id"},
                timestamp="2024-04-03T12:00:00Z",
                lane="historical",
                historical_migration=True,
            ),
        )
        * 2,
    ),
    Example(
        "alias",
        "/i/v0/e/",
        """{
    "api_key": "<ph_project_api_key>",
    "event": "$create_alias",
    "distinct_id": "frontend_id",
    "properties": {
        "alias": "backend_id"
    }
}""",
        (event("$create_alias", "frontend_id", {"alias": "backend_id"}),),
    ),
    Example(
        "alias, older form",
        "/capture/",
        """{
    "api_key": "<ph_project_api_key>",
    "properties": {
        "distinct_id": "123",
        "alias": "456"
    },
    "timestamp": "2020-08-16 09:03:11.913767",
    "context": {},
    "type": "alias",
    "event": "$create_alias"
}""",
        (
            event(
                "$create_alias",
                "123",
                {"distinct_id": "123", "alias": "456"},
                timestamp="2020-08-16T09:03:11.913767Z",
                context={},
                type="alias",
            ),
        ),
    ),
    Example(
        "group identify",
        "/i/v0/e/",
        """{
    "api_key": "<ph_project_api_key>",
    "event": "$groupidentify",
    "distinct_id": "groups_setup_id",
    "properties": {
        "$group_type": "<group_type>",
        "$group_key": "<company_name>",
        "$group_set": {
            "name": "<company_name>",
            "subscription": "premium",
            "date_joined": "2020-01-23T00:00:00.000Z"
        }
    }
}""",
        (
            event(
                "$groupidentify",
                "groups_setup_id",
                {
                    "$group_type": "<group_type>",
                    "$group_key": "<company_name>",
                    "$group_set": {
                        "name": "<company_name>",
                        "subscription": "premium",
                        "date_joined": "2020-01-23T00:00:00.000Z",
                    },
                },
            ),
        ),
    ),
    Example(
        "groups",
        "/i/v0/e/",
        """{
    "api_key": "<ph_project_api_key>",
    "event": "event name",
    "distinct_id": "user distinct id",
    "properties": {
        "account_type": "pro",
        "$groups": {"company": "<company_name>"}
    },
    "timestamp": "2020-08-16T09:03:11.913767"
}""",
        (
            event(
                "event name",
                "user distinct id",
                {"account_type": "pro", "$groups": {"company": "<company_name>"}},
                timestamp="2020-08-16T09:03:11.913767Z",
            ),
        ),
    ),
    Example(
        "identify",
        "/i/v0/e/",
        """{
    "api_key": "<ph_project_api_key>",
    "event": "$identify",
    "distinct_id": "user distinct id",
    "properties": {
        "$anon_distinct_id": "0191e2a4-anonymous",
        "$set": {"is_cool": "true"},
        "$set_once": {"first_seen": "2020-08-16"}
    },
    "timestamp": "2020-08-16T09:03:11.913767"
}""",
        (
            event(
                "$identify",
                "user distinct id",
                {
                    "$anon_distinct_id": "0191e2a4-anonymous",
                    "$set": {"is_cool": "true"},
                    "$set_once": {"first_seen": "2020-08-16"},
                },
                timestamp="2020-08-16T09:03:11.913767Z",
            ),
        ),
    ),
    Example(
        "identify, older form with $set beside the properties",
        "/capture/",
        """{
    "api_key": "<ph_project_api_key>",
    "timestamp": "2020-08-16 09:03:11.913767",
    "context": {},
    "distinct_id": "1234",
    "$set": {},
    "$set_once": {"plan": "free"},
    "event": "$identify"
}""",
        (
            event(
                "$identify",
                "1234",
                {},
                timestamp="2020-08-16T09:03:11.913767Z",
                context={},
                __set={},
                __set_once={"plan": "free"},
            ),
        ),
    ),
    Example(
        "pageview",
        "/i/v0/e/",
        """{
    "api_key": "<ph_project_api_key>",
    "event": "$pageview",
    "distinct_id": "user distinct id",
    "properties": {
        "$current_url": "https://example.com/docs?page=1#top",
        "$session_id": "019a51a6-7e0e-7ed3-8b66-4a8b1d4a1c11",
        "$referrer": "$direct",
        "title": "Grüße 🦔"
    },
    "timestamp": "2020-08-16T09:03:11.913767"
}""",
        (
            event(
                "$pageview",
                "user distinct id",
                {
                    "$current_url": "https://example.com/docs?page=1#top",
                    "$session_id": "019a51a6-7e0e-7ed3-8b66-4a8b1d4a1c11",
                    "$referrer": "$direct",
                    "title": "Grüße 🦔",
                },
                timestamp="2020-08-16T09:03:11.913767Z",
            ),
        ),
    ),
    Example(
        "screen",
        "/i/v0/e/",
        """{
    "api_key": "<ph_project_api_key>",
    "event": "$screen",
    "distinct_id": "user distinct id",
    "properties": {
        "$screen_name": "TheScreen"
    },
    "timestamp": "2020-08-16T09:03:11.913767"
}""",
        (
            event(
                "$screen",
                "user distinct id",
                {"$screen_name": "TheScreen"},
                timestamp="2020-08-16T09:03:11.913767Z",
            ),
        ),
    ),
    Example(
        "survey shown",
        "/i/v0/e/",
        """{
    "api_key": "<ph_project_api_key>",
    "event": "survey shown",
    "distinct_id": "user distinct id",
    "properties": {
        "$survey_id": "survey_id"
    },
    "timestamp": "2020-08-16T09:03:11.913767"
}""",
        (
            event(
                "survey shown",
                "user distinct id",
                {"$survey_id": "survey_id"},
                timestamp="2020-08-16T09:03:11.913767Z",
            ),
        ),
    ),
    Example(
        "survey sent",
        "/i/v0/e/",
        """{
    "api_key": "<ph_project_api_key>",
    "event": "survey sent",
    "distinct_id": "user distinct id",
    "properties": {
        "$survey_id": "survey_id",
        "$survey_response_d8462827-1575-4e1e-ab1d-b5fddd9f829c": "Awesome!",
        "$survey_questions": [
            {"id": "d8462827-1575-4e1e-ab1d-b5fddd9f829c", "question": "What is your favorite food?"}
        ]
    }
}""",
        (
            event(
                "survey sent",
                "user distinct id",
                {
                    "$survey_id": "survey_id",
                    "$survey_response_d8462827-1575-4e1e-ab1d-b5fddd9f829c": "Awesome!",
                    "$survey_questions": [
                        {"id": "d8462827-1575-4e1e-ab1d-b5fddd9f829c", "question": "What is your favorite food?"}
                    ],
                },
            ),
        ),
    ),
    Example(
        "survey dismissed",
        "/i/v0/e/",
        """{
    "api_key": "<ph_project_api_key>",
    "event": "survey dismissed",
    "distinct_id": "user distinct id",
    "properties": {
        "$survey_id": "survey_id"
    }
}""",
        (event("survey dismissed", "user distinct id", {"$survey_id": "survey_id"}),),
    ),
    Example(
        "exception",
        "/i/v0/e/",
        """{
    "api_key": "<ph_project_api_key>",
    "event": "$exception",
    "properties": {
        "distinct_id": "user distinct id",
        "$exception_list": [{
            "type": "error_type",
            "value": "error message",
            "mechanism": {
                "handled": true,
                "synthetic": false
            },
            "stacktrace": {
                "type": "raw",
                "frames": [{
                    "platform": "custom",
                    "lang": "javascript",
                    "function": "functionName",
                    "filename": "FileName.js",
                    "lineno": 10,
                    "colno": 10,
                    "resolved": true,
                    "in_app": true
                }]
            }
        }],
        "$exception_fingerprint": "209842d96784e19321e3a36b068d53fff7a01ebcb1da9e98df35c4c49db0b4f3b62aea7ee25a714470e"
    }
}""",
        (
            event(
                "$exception",
                "user distinct id",
                {
                    "distinct_id": "user distinct id",
                    "$exception_list": [
                        {
                            "type": "error_type",
                            "value": "error message",
                            "mechanism": {"handled": True, "synthetic": False},
                            "stacktrace": {
                                "type": "raw",
                                "frames": [
                                    {
                                        "platform": "custom",
                                        "lang": "javascript",
                                        "function": "functionName",
                                        "filename": "FileName.js",
                                        "lineno": 10,
                                        "colno": 10,
                                        "resolved": True,
                                        "in_app": True,
                                    }
                                ],
                            },
                        }
                    ],
                    "$exception_fingerprint": (
                        "209842d96784e19321e3a36b068d53fff7a01ebcb1da9e98df35c4c49db0b4f3b62aea7ee25a714470e"
                    ),
                },
                lane="exceptions",
            ),
        ),
    ),
    Example(
        "$ai_generation",
        "/i/v0/e/",
        """{
    "api_key": "<ph_project_api_key>",
    "event": "$ai_generation",
    "properties": {
        "distinct_id": "user_123",
        "$ai_trace_id": "trace_id_here",
        "$ai_model": "gpt-4o-mini",
        "$ai_provider": "openai",
        "$ai_input": [{"role": "user", "content": "Tell me a fun fact about hedgehogs"}],
        "$ai_input_tokens": 10,
        "$ai_output_choices": [{"role": "assistant", "content": "Hedgehogs have around 5,000 to 7,000 spines!"}],
        "$ai_output_tokens": 20,
        "$ai_latency": 1.5
    }
}""",
        (
            event(
                "$ai_generation",
                "user_123",
                {
                    "distinct_id": "user_123",
                    "$ai_trace_id": "trace_id_here",
                    "$ai_model": "gpt-4o-mini",
                    "$ai_provider": "openai",
                    "$ai_input": [{"role": "user", "content": "Tell me a fun fact about hedgehogs"}],
                    "$ai_input_tokens": 10,
                    "$ai_output_choices": [
                        {"role": "assistant", "content": "Hedgehogs have around 5,000 to 7,000 spines!"}
                    ],
                    "$ai_output_tokens": 20,
                    "$ai_latency": 1.5,
                },
                lane="ai",
            ),
        ),
    ),
    Example(
        "$ai_trace",
        "/i/v0/e/",
        """{
    "api_key": "<ph_project_api_key>",
    "event": "$ai_trace",
    "properties": {
        "distinct_id": "user_123",
        "$ai_trace_id": "trace_id_here",
        "$ai_input_state": [{"role": "user", "content": "What's the weather in SF?"}],
        "$ai_output_state": [{"role": "assistant", "content": "Sunny."}],
        "$ai_latency": 1.23,
        "$ai_span_name": "weather_chat",
        "$ai_is_error": false
    }
}""",
        (
            event(
                "$ai_trace",
                "user_123",
                {
                    "distinct_id": "user_123",
                    "$ai_trace_id": "trace_id_here",
                    "$ai_input_state": [{"role": "user", "content": "What's the weather in SF?"}],
                    "$ai_output_state": [{"role": "assistant", "content": "Sunny."}],
                    "$ai_latency": 1.23,
                    "$ai_span_name": "weather_chat",
                    "$ai_is_error": False,
                },
                lane="ai",
            ),
        ),
    ),
    Example(
        "$ai_span",
        "/i/v0/e/",
        """{
    "api_key": "<ph_project_api_key>",
    "event": "$ai_span",
    "properties": {
        "distinct_id": "user_123",
        "$ai_trace_id": "trace_id_here",
        "$ai_span_id": "span_id_here",
        "$ai_parent_id": "trace_id_here",
        "$ai_span_name": "vector_search",
        "$ai_input_state": {"query": "search query for documents"},
        "$ai_output_state": {"results": ["doc1", "doc2"], "count": 2},
        "$ai_latency": 0.45,
        "$ai_is_error": true,
        "$ai_error": "Connection timeout"
    },
    "timestamp": "2025-01-30T12:00:00Z"
}""",
        (
            event(
                "$ai_span",
                "user_123",
                {
                    "distinct_id": "user_123",
                    "$ai_trace_id": "trace_id_here",
                    "$ai_span_id": "span_id_here",
                    "$ai_parent_id": "trace_id_here",
                    "$ai_span_name": "vector_search",
                    "$ai_input_state": {"query": "search query for documents"},
                    "$ai_output_state": {"results": ["doc1", "doc2"], "count": 2},
                    "$ai_latency": 0.45,
                    "$ai_is_error": True,
                    "$ai_error": "Connection timeout",
                },
                lane="ai",
                timestamp="2025-01-30T12:00:00Z",
            ),
        ),
    ),
    Example(
        "$ai_embedding",
        "/i/v0/ai/batch/",
        """{
    "api_key": "<ph_project_api_key>",
    "batch": [{
        "event": "$ai_embedding",
        "properties": {
            "distinct_id": "user_123",
            "$ai_trace_id": "trace_id_here",
            "$ai_model": "text-embedding-3-small",
            "$ai_provider": "openai",
            "$ai_input": "Tell me a fun fact about hedgehogs",
            "$ai_input_tokens": 10,
            "$ai_latency": 0.35
        }
    }]
}""",
        (
            event(
                "$ai_embedding",
                "user_123",
                {
                    "distinct_id": "user_123",
                    "$ai_trace_id": "trace_id_here",
                    "$ai_model": "text-embedding-3-small",
                    "$ai_provider": "openai",
                    "$ai_input": "Tell me a fun fact about hedgehogs",
                    "$ai_input_tokens": 10,
                    "$ai_latency": 0.35,
                },
                lane="ai",
            ),
        ),
    ),
    Example(
        "no person profile",
        "/i/v0/e/",
        """{
    "api_key": "<ph_project_api_key>",
    "event": "event name",
    "distinct_id": "user distinct id",
    "properties": {
        "$process_person_profile": false
    }
}""",
        (event("event name", "user distinct id", {"$process_person_profile": False}),),
    ),
    Example(
        "no person profile, as a member of the event",
        "/i/v0/e/",
        """{
    "api_key": "<ph_project_api_key>",
    "event": "event name",
    "distinct_id": "user distinct id",
    "$process_person_profile": false,
    "properties": {"account_type": "pro"}
}""",
        (event("event name", "user distinct id", {"$process_person_profile": False, "account_type": "pro"}),),
    ),
    Example(
        "token for api_key",
        "/e/",
        """{"token": "<ph_project_api_key>", "event": "event name", "distinct_id": 23}""",
        (event("event name", "23", {}),),
    ),
    Example(
        "a list of events",
        "/track",
        """[
    {"event": "first", "properties": {"token": "<ph_project_api_key>", "distinct_id": "u"}},
    {"event": "second", "properties": {"token": "<ph_project_api_key>", "distinct_id": "u"}}
]""",
        (
            event("first", "u", {"token": KEY, "distinct_id": "u"}),
            event("second", "u", {"token": KEY, "distinct_id": "u"}),
        ),
    ),
    *(
        Example(
            f"timestamp {text}",
            "/capture",
            f"""{{"api_key": "<ph_project_api_key>", "event": "e", "distinct_id": "u", "timestamp": {json.dumps(text)}}}""",
            (event("e", "u", {}, timestamp=delivered),),
        )
        for text, delivered in {
            "2020-08-16 09:03:11.913767": "2020-08-16T09:03:11.913767Z",
            "2020-08-16T09:03:11.913767": "2020-08-16T09:03:11.913767Z",
            "2020-08-16T09:03:11": "2020-08-16T09:03:11Z",
            "2020-08-16T09:03:11Z": "2020-08-16T09:03:11Z",
            "2020-08-16T09:03:11.500+00:00": "2020-08-16T09:03:11.500Z",
            "2020-08-16T09:03:11+02:00": "2020-08-16T07:03:11Z",
            "2020-08-16 09:03:11-0530": "2020-08-16T14:33:11Z",
        }.items()
    ),
    Example(
        "events nobody could process among others",
        "/batch/",
        """{
    "api_key": "<ph_project_api_key>",
    "batch": [
        {"event": "kept first", "distinct_id": "u"},
        {"distinct_id": "u", "properties": {"name": "missing"}},
        {"event": "", "distinct_id": "u"},
        {"event": null, "distinct_id": "u"},
        {"event": "no id"},
        {"event": "empty id", "distinct_id": ""},
        {"event": "empty id inside", "properties": {"distinct_id": ""}},
        {"event": "null id", "distinct_id": null},
        {"event": "kept last", "distinct_id": "u"}
    ]
}""",
        (event("kept first", "u", {}), event("kept last", "u", {})),
    ),
)
