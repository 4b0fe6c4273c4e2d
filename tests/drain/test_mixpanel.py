import msgspec
import pytest
from msgspec import Raw

from edge.drain.mixpanel import group_update


def updated(text: bytes) -> object:
    members = group_update(msgspec.json.decode(text, type=dict[str, Raw]))
    return None if members is None else {name: msgspec.json.decode(raw) for name, raw in members.items()}


def group(kind: str, key: str, **properties: object) -> dict[str, object]:
    named = {"$group_type": kind, "$group_key": key, "$group_set": {}} | {f"${k}": v for k, v in properties.items()}
    return {"event": "$groupidentify", "distinct_id": f"${kind}_{key}", "properties": named}


UPDATES = {
    "set": (
        b'{"$token":"t","$group_key":"company","$group_id":"acme","$set":{"plan":"pro"}}',
        group("company", "acme", group_set={"plan": "pro"})
        | {"$token": "t", "$group_key": "company", "$group_id": "acme"},
    ),
    "a number for an id": (
        b'{"$group_key":"company","$group_id":7}',
        group("company", "7") | {"$group_key": "company", "$group_id": 7},
    ),
    "what is set once is not the person's": (
        b'{"$group_key":"c","$group_id":"a","$set_once":{"x":1}}',
        group("c", "a", group_set_once={"x": 1}) | {"$group_key": "c", "$group_id": "a"},
    ),
    "other operations stay": (
        b'{"$group_key":"c","$group_id":"a","$unset":["x"]}',
        group("c", "a") | {"$group_key": "c", "$group_id": "a", "$unset": ["x"]},
    ),
    "no type": (b'{"$group_id":"a","$set":{}}', None),
    "no id": (b'{"$group_key":"c","$set":{}}', None),
    "an empty id": (b'{"$group_key":"c","$group_id":""}', None),
    "an odd id": (b'{"$group_key":"c","$group_id":["a"]}', None),
}


@pytest.mark.parametrize(("text", "expected"), UPDATES.values(), ids=UPDATES)
def test_a_group_update_is_an_event_about_the_group(text: bytes, expected: object) -> None:
    assert updated(text) == expected
