"""What is answered on paths of other services when there is no upstream: path → a small answer that ends the client's asking.

Everything else stays 404, never a catch-all 200: a `config.js` that is no script raises an error in the customer's page, logs
that are answered 200 are believed to be stored. Flags are not made up: an empty set is marked as not computed, so that
libraries keep what they know. `supportedCompression` lets browsers go on sending gzip.
"""

from typing import Final

import msgspec

from edge.wire.fields import parse_fields

JSON: Final = b"application/json"


class Quiet(msgspec.Struct, frozen=True):
    """One answer."""

    status: int
    content_type: bytes
    body: bytes


_encode: Final = msgspec.json.Encoder().encode
_METHODS: Final = frozenset({"GET", "HEAD", "POST"})

_CONFIG: Final = {
    "supportedCompression": ["gzip", "gzip-js"],
    "toolbarParams": {},
    "isAuthenticated": False,
    "sessionRecording": False,
}
_NO_FLAGS: Final = {"flags": {}, "featureFlags": {}, "featureFlagPayloads": {}, "errorsWhileComputingFlags": True}
_COLLECT: Final = {"config": {"enable_collect_everything": True}}


def _json(content: object) -> Quiet:
    return Quiet(200, JSON, _encode(content))


_DECIDE_LIST: Final = _json({"featureFlags": [], **_CONFIG, **_COLLECT})
_DECIDE: Final = _json({**_NO_FLAGS, **_CONFIG, **_COLLECT})

_BY_PATH: Final = {
    b"flags": _json({**_NO_FLAGS, **_CONFIG}),
    b"decide": _DECIDE,
    b"api/surveys": _json({"surveys": []}),
    b"api/early_access_features": _json({"earlyAccessFeatures": []}),
    b"api/web_experiments": _json({"experiments": []}),
    b"api/product_tours": _json({"product_tours": []}),
}

QUIET_PATHS: Final = tuple(path.decode() for path in _BY_PATH)


def quiet_answer(method: str, path: bytes, query: bytes) -> Quiet | None:
    """The answer for a path of another service, with and without the trailing slash; `None` where it is 404."""
    if method not in _METHODS or not path.startswith(b"/"):
        return None
    name = path[1:].removesuffix(b"/")
    if name == b"decide" and parse_fields(query).get("v", b"1") in (b"", b"1"):
        # The first version has a list of the keys that are on.
        return _DECIDE_LIST
    return _BY_PATH.get(name)
