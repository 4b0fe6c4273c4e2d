from edge.metrics import slot
from edge.wire.drops import DROP_REASONS, MENDED_FIELDS


def test_every_reason_is_counted_by_itself() -> None:
    slots = {slot("capture_events_dropped_total", reason) for reason in DROP_REASONS}
    assert len(slots) == len(DROP_REASONS) == len(set(DROP_REASONS))
    mended = {slot("capture_events_mended_total", field) for field in MENDED_FIELDS}
    assert len(mended) == len(MENDED_FIELDS) == len(set(MENDED_FIELDS))
