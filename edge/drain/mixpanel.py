"""What Mixpanel's libraries say in their own words, in the protocol's.

An event's time stands among its properties, in seconds or milliseconds:

    {"event":"e","properties":{"token":"phc_x","distinct_id":"u","time":1694769302.5}}

A group has a path of its own, and is named by two members:

    {"$token":"phc_x","$group_key":"company","$group_id":"acme","$set":{"plan":"pro"}}

becomes what PostHog calls it, with its type for its key and its key for its id:

    {"event":"$groupidentify","distinct_id":"$company_acme",
     "properties":{"$group_type":"company","$group_key":"acme","$group_set":{"plan":"pro"}},"$token":"phc_x"}
"""

from typing import Final

import msgspec
from msgspec import Raw

TIMED_PATHS: Final = frozenset({"track", "import"})
"""Where `properties.time` is when the event happened. Elsewhere it is a property like any other."""

GROUP_PATH: Final = "groups"
GROUP_IDENTIFY: Final = "$groupidentify"

_MOVED: Final = {"$set": "$group_set", "$set_once": "$group_set_once"}
_EMPTY_OBJECT: Final = Raw(b"{}")

_decode_name: Final = msgspec.json.Decoder(str | int | float).decode
_encode: Final = msgspec.json.Encoder().encode


def group_update(members: dict[str, Raw]) -> dict[str, Raw] | None:
    """The members of the `$groupidentify` that a nameless object on the group's path stands for; `None` without a group.

    `$set` and `$set_once` move: beside an event they are about its person. Other operations stay as they are.
    """
    kind, key = (_name(members.get(member)) for member in ("$group_key", "$group_id"))
    if not kind or not key:
        return None
    properties = {"$group_type": Raw(_encode(kind)), "$group_key": Raw(_encode(key)), "$group_set": _EMPTY_OBJECT}
    properties |= {name: members[member] for member, name in _MOVED.items() if member in members}
    rest = {member: raw for member, raw in members.items() if member not in _MOVED}
    return rest | {
        "event": Raw(_encode(GROUP_IDENTIFY)),
        "distinct_id": Raw(_encode(f"${kind}_{key}")),
        "properties": Raw(_encode(properties)),
    }


def _name(raw: Raw | None) -> str:
    try:
        return "" if raw is None else str(_decode_name(raw))
    except msgspec.ValidationError:
        return ""
