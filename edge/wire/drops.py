"""What becomes of odd events of an accepted request, in closed lists. The answer is 200 either way."""

from typing import Final

DROP_REASONS: Final = (
    "not_an_object",
    "no_event_name",
    "no_distinct_id",
    "invalid_properties",
    "event_name_too_long",
    "distinct_id_too_long",
    "malformed_distinct_id",
    "invalid_timestamp",
    "invalid_options",
    "performance_event",
    "no_session_id",
    "invalid_session_id",
    "no_snapshot_data",
    "unreadable",
)
"""Why an event is not delivered."""

MENDED_FIELDS: Final = ("timestamp", "uuid", "cookieless_mode")
"""What may be unusable in an event that is delivered: it counts as absent."""
