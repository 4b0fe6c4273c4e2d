import gzip
import operator
import time
import zlib
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from urllib.parse import quote_plus

import brotli
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from edge.wire.encoding import DECODERS, GZIP_MEMBERS_MAX, HINTS, REASONS, Decoded, decode_body, gunzip
from edge.wire.fields import parse_fields
from edge.wire.rejections import Reason, Rejected
from edge.wire.request import Limits, Request

FORM = b"application/x-www-form-urlencoded"
LIMITS = Limits(decoded_bytes_max=1_000_000, lz64_bytes_max=10_000)

# Its base64 has all that can be mistaken: padding, `+` and `/`.
JSON = '{"event":"é>?>?>","distinct_id":"ÿÿÿ ~~~"}'.encode()
BASE64 = b64encode(JSON)
assert BASE64.endswith(b"==")
assert b"+" in BASE64
assert b"/" in BASE64
# LZString.compressToBase64('{"event":"e","distinct_id":"d"}') of lz-string 1.5.0.
LZ64 = b"N4IgpgbmB2AuIC5wgDQgCYEsDOtPQGNYB9TdRDEAXyA="
LZ64_JSON = b'{"event":"e","distinct_id":"d"}'
ZSTD = zstandard.ZstdCompressor().compress(JSON)

# Its first byte says how large the window is and the text.
BROTLI_LIKE_JSON = brotli.compress(JSON + b" " * 70_000)
assert BROTLI_LIKE_JSON.startswith(b"[")


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


def decoded_body(wrapped: Request, limits: Limits) -> Decoded:
    return decode_body(wrapped, parse_fields(wrapped.query), limits)


def request(
    body: bytes = b"",
    query: bytes = b"",
    content_type: bytes = b"",
    content_encoding: bytes = b"",
    method: str = "POST",
) -> Request:
    return Request(method, query, body, {b"content-type": content_type, b"content-encoding": content_encoding})


def refused(refused_request: Request) -> Rejected:
    with pytest.raises(Rejected) as refusal:
        decoded_body(refused_request, LIMITS)
    return refusal.value


ACCEPTED = {
    "plain": (request(JSON), ()),
    "list": (request(b"[" + JSON + b"]"), ()),
    "blanks, NULs and a byte order mark around": (request(b" \xef\xbb\xbf\r\n" + JSON + b"\n\0\0"), ()),
    "trailing newline": (request(JSON + b"\n"), ()),
    "query beside it": (request(JSON, b"ip=1&_=1694769302325&ver=1.2"), ()),
    "query whose data is empty": (request(JSON, b"data=&ip=1"), ()),
    "query key that only ends in data": (request(JSON, b"metadata=5"), ()),
    "gzip, nothing said": (request(gzip.compress(JSON), content_type=b"text/plain"), ("gzip",)),
    "gzip of several members": (request(gzip.compress(JSON[:9]) + gzip.compress(JSON[9:])), ("gzip",)),
    "gzip with something behind it": (request(gzip.compress(JSON) + b"\r\n"), ("gzip",)),
    "gzip of JSON and a newline": (request(gzip.compress(JSON + b"\n")), ("gzip",)),
    "gzip of JSON behind a byte order mark": (request(gzip.compress(b"\xef\xbb\xbf" + JSON)), ("gzip",)),
    "gzip in the query": (request(gzip.compress(JSON), b"compression=gzip-js&ip=1"), ("gzip",)),
    "gzip in query and header": (
        request(gzip.compress(JSON), b"compression=gzip", content_encoding=b"gzip"),
        ("gzip",),
    ),
    "gzip declared but absent": (request(JSON, b"compression=gzip-js", content_encoding=b"GZIP"), ()),
    "gzip twice": (request(gzip.compress(gzip.compress(JSON))), ("gzip", "gzip")),
    "four layers": (request(b64encode(b64encode(b64encode(BASE64)))), ("base64",) * 4),
    "deflate": (request(zlib.compress(JSON), content_encoding=b"deflate"), ("deflate",)),
    "raw deflate": (request(raw_deflate(JSON), content_encoding=b"Deflate"), ("deflate",)),
    "deflate declared but absent": (request(JSON, content_encoding=b"deflate"), ()),
    "deflate declared on base64": (request(BASE64, content_encoding=b"deflate"), ("base64",)),
    "base64 of deflate": (request(b64encode(zlib.compress(JSON)), b"compression=deflate"), ("base64", "deflate")),
    "deflate, then gzip": (
        request(gzip.compress(zlib.compress(JSON)), content_encoding=b"deflate, gzip"),
        ("gzip", "deflate"),
    ),
    "brotli that begins like JSON": (request(BROTLI_LIKE_JSON, content_encoding=b"br"), ("br",)),
    "JSON that is said to be brotli": (request(JSON, content_encoding=b"br"), ()),
    "brotli": (request(brotli.compress(JSON), content_encoding=b"BR"), ("br",)),
    "brotli declared but absent": (request(JSON, content_encoding=b"br"), ()),
    "base64 of brotli": (request(b64encode(brotli.compress(JSON)), content_encoding=b"br"), ("base64", "br")),
    "zstd": (request(ZSTD, content_encoding=b"zstd"), ("zstd",)),
    "zstd, nothing said": (request(ZSTD), ("zstd",)),
    "zstd of several frames": (
        request(b"".join(map(zstandard.ZstdCompressor().compress, [JSON[:9], JSON[9:]]))),
        ("zstd",),
    ),
    "base64": (request(BASE64), ("base64",)),
    "base64 with a hint": (request(BASE64, b"compression=b64"), ("base64",)),
    "base64 unpadded": (request(BASE64.rstrip(b"=")), ("base64",)),
    "base64 url-safe": (request(urlsafe_b64encode(JSON)), ("base64",)),
    "base64 with line breaks": (request(BASE64[:20] + b"\r\n" + BASE64[20:] + b"\r\n"), ("base64",)),
    "base64 of indented JSON": (request(b64encode(b"\n  " + JSON)), ("base64",)),
    "base64 of gzip": (request(b64encode(gzip.compress(JSON)), b"compression=gzip"), ("base64", "gzip")),
    "query, base64 escaped": (request(query=b"data=" + quote_plus(BASE64).encode(), method="GET"), ("base64",)),
    "query, base64 unescaped": (request(query=b"ip=1&data=" + BASE64, method="GET"), ("base64",)),
    "query, JSON": (request(query=b"data=" + quote_plus(JSON).encode()), ()),
    "query before body": (request(b'{"event":"other"}', b"data=" + BASE64), ("base64",)),
    "form, base64 escaped": (
        request(b"data=" + quote_plus(BASE64).encode() + b"&ip=1", content_type=FORM),
        ("form", "base64"),
    ),
    "form, base64 unescaped": (request(b"data=" + BASE64, content_type=FORM), ("form", "base64")),
    "form, JSON": (request(b"data=" + quote_plus(JSON).encode() + b"&verbose=1", content_type=FORM), ("form",)),
    "form with a charset": (request(b"data=" + BASE64, content_type=FORM + b"; charset=UTF-8"), ("form", "base64")),
    "form in text/plain": (request(b"data=" + BASE64, content_type=b"text/plain;charset=UTF-8"), ("form", "base64")),
    "form, data last": (request(b"ip=1&_=17&data=" + BASE64), ("form", "base64")),
    "form as declared, data far behind": (
        request(b"api_key=" + b"k" * 200 + b"&data=" + BASE64, content_type=FORM.upper()),
        ("form", "base64"),
    ),
    "form in gzip": (request(gzip.compress(b"data=" + BASE64), content_type=FORM), ("gzip", "form", "base64")),
    "form, gzip escaped": (request(b"data=" + quote_plus(gzip.compress(JSON)).encode()), ("form", "gzip")),
    "JSON in a form content type": (request(JSON, content_type=FORM), ()),
    "base64 in a form content type": (request(BASE64, content_type=FORM), ("base64",)),
    "unknown compression": (request(BASE64, b"compression=rot13", content_encoding=b"br"), ("base64",)),
    "lz64 declared but plain": (request(JSON, b"compression=lz64"), ()),
    "lz64 declared but base64": (request(BASE64, b"compression=lz64"), ("base64",)),
}


@pytest.mark.parametrize(("wrapped", "layers"), ACCEPTED.values(), ids=ACCEPTED)
def test_json_is_found_in_its_wrappings(wrapped: Request, layers: tuple[str, ...]) -> None:
    decoded = decoded_body(wrapped, LIMITS)
    assert decoded.text in (JSON, b"[" + JSON + b"]")
    assert decoded.layers == layers


LZ64_REQUESTS = {
    "raw body": (request(LZ64, b"compression=lz64"), ("lz64",)),
    "other name, upper case": (request(LZ64, b"compression=LZ-String"), ("lz64",)),
    "header": (request(LZ64, content_encoding=b"lz64"), ("lz64",)),
    "unpadded": (request(LZ64.rstrip(b"="), b"compression=lz64"), ("lz64",)),
    "query": (request(query=b"compression=lz64&data=" + LZ64, method="GET"), ("lz64",)),
    "named in the form": (
        request(b"data=" + quote_plus(LZ64).encode() + b"&compression=lz64", content_type=FORM),
        ("form", "lz64"),
    ),
    "in gzip": (request(gzip.compress(LZ64), b"compression=lz64", content_encoding=b"gzip"), ("gzip", "lz64")),
    "in base64": (request(b64encode(LZ64), b"compression=lz64"), ("base64", "lz64")),
}


@pytest.mark.parametrize(("wrapped", "layers"), LZ64_REQUESTS.values(), ids=LZ64_REQUESTS)
def test_lz64_is_read_wherever_it_is_named(wrapped: Request, layers: tuple[str, ...]) -> None:
    decoded = decoded_body(wrapped, LIMITS)
    assert decoded.text == LZ64_JSON
    assert decoded.layers == layers


def test_the_fields_of_a_form_are_handed_on() -> None:
    decoded = decoded_body(request(b"data=" + BASE64 + b"&api_key=phc_x&sent_at=17&ip=1", content_type=FORM), LIMITS)
    assert decoded.fields["api_key"] == b"phc_x"
    assert decoded.fields["sent_at"] == b"17"


def test_fields_of_the_query_are_not_the_form() -> None:
    assert decoded_body(request(query=b"api_key=phc_x&data=" + BASE64), LIMITS).fields == {}


def test_text_that_only_begins_like_json_is_left_to_the_parser() -> None:
    assert decoded_body(request(b'{"event": oops'), LIMITS).text == b'{"event": oops'


@pytest.mark.parametrize("dress", ["body", "form", "query"])
def test_json_is_the_same_in_every_dress(dress: str) -> None:
    value = quote_plus(JSON).encode()
    dressed = {
        "body": request(JSON),
        "form": request(b"data=" + value, content_type=FORM),
        "query": request(query=b"data=" + value, method="GET"),
    }
    assert decoded_body(dressed[dress], LIMITS).text == JSON


MIB = 1024 * 1024
SHORT_WAY = {
    "an object": b64encode(JSON),
    "a list": b64encode(b"[" + JSON + b"]"),
    "spaces for its plus": b64encode(b'{"a":"\xfb\xef\xbe"}').replace(b"+", b" "),
    "unpadded, url-safe": urlsafe_b64encode(JSON + b" ").rstrip(b"="),
    "blanks around": b64encode(JSON + b" \r\n\0") + b"\n",
    "cut in a digit": b64encode(JSON)[:-3],
    "a wrong digit": b64encode(JSON)[:-8] + b"*=======",
    "an opening and no more": b"ey",
    "over the limit": b64encode(b'{"' + bytes(MIB) + b'"}'),
}


@pytest.mark.parametrize("data", SHORT_WAY.values(), ids=SHORT_WAY)
def test_base64_of_json_in_the_query_is_read_as_in_a_body(data: bytes) -> None:
    """A query's takes a shorter way, a body's the one with every rule."""
    outcomes: list[object] = []
    for wrapped in (request(query=b"data=" + quote_plus(data).encode(), method="GET"), request(data)):
        try:
            outcomes.append(decoded_body(wrapped, LIMITS))
        except Rejected as refusal:
            outcomes.append((refusal.reason, refusal.found))
    assert outcomes[0] == outcomes[1]


REFUSED = {
    "nothing": (request(), Reason.NO_DATA, ""),
    "empty data": (request(query=b"data="), Reason.NO_DATA, ""),
    "a query without data": (request(query=b"ip=1&_=1694769302325"), Reason.NO_DATA, ""),
    "blanks": (request(b" \r\n\0"), Reason.NO_DATA, ""),
    "gzip of nothing": (request(gzip.compress(b"")), Reason.NO_DATA, "gzip"),
    "a form with empty data": (request(b"data=&ip=1", content_type=FORM), Reason.NO_DATA, "`data`"),
    "a form without data": (request(b"ip=1&_=5"), Reason.BAD_FORM, "found ip, _"),
    "no form where one is declared": (request(b"event=e", content_type=FORM), Reason.BAD_FORM, "found `event=e`"),
    "a word": (request(b"hello"), Reason.BAD_JSON, "found `hello`"),
    "a sentence": (request("grüße aus Köln".encode()), Reason.BAD_JSON, r"gr\xc3\xbc"),
    "quotes of the shell": (request(b"'{\"event\":1}'"), Reason.BAD_JSON, "found `'{\"event\":1}'`"),
    "a word in a form": (request(b"data=hello", content_type=FORM), Reason.BAD_JSON, "hello"),
    "markup": (request(b"<html>\n</html>"), Reason.BAD_JSON, "<html>"),
    "binary": (request(b"\x00\x01\xfe\xff"), Reason.BAD_ENCODING, r"\x01\xfe\xff"),
    "number": (request(b"5"), Reason.BAD_SHAPE, "`5`"),
    "long number": (request(b"-12345678901234567890.5e+3"), Reason.BAD_SHAPE, "-123"),
    "string": (request(b'"abc"'), Reason.BAD_SHAPE, '`"abc"`'),
    "null": (request(b"null\n"), Reason.BAD_SHAPE, "`null`"),
    "true": (request(b"true"), Reason.BAD_SHAPE, "`true`"),
    "a number in gzip": (request(gzip.compress(b"5")), Reason.BAD_SHAPE, "`5`"),
    "UTF-16": (request(JSON.decode().encode("utf-16")), Reason.BAD_UTF8, "UTF-16"),
    "gzip without its end": (request(gzip.compress(JSON)[:-1]), Reason.BAD_GZIP, "ends early"),
    "gzip cut in a second member": (
        request(gzip.compress(JSON) + gzip.compress(JSON)[:20]),
        Reason.BAD_GZIP,
        "ends early",
    ),
    "gzip with a wrong checksum": (
        request(gzip.compress(JSON)[:-8] + bytes(8)),
        Reason.BAD_GZIP,
        "incorrect checksum",
    ),
    "gzip decoded as text on the way": (
        request(gzip.compress(JSON).decode("utf-8", "replace").encode()),
        Reason.BAD_GZIP,
        "as text",
    ),
    "no gzip where it is declared": (request(b"hello", b"compression=gzip-js"), Reason.BAD_GZIP, "found `hello`"),
    "gzip as declared, of a word": (request(gzip.compress(b"hello"), b"compression=gzip"), Reason.BAD_JSON, "hello"),
    "broken gzip in base64": (request(b64encode(gzip.compress(JSON)[:-9])), Reason.BAD_GZIP, "ends early"),
    "deflate cut short": (
        request(zlib.compress(JSON)[:-5], content_encoding=b"deflate"),
        Reason.BAD_DEFLATE,
        "ends early",
    ),
    "no deflate where it is declared": (
        request(b"hello you", content_encoding=b"deflate"),
        Reason.BAD_DEFLATE,
        "hello you",
    ),
    "brotli cut short": (
        request(brotli.compress(JSON)[:-4], content_encoding=b"br"),
        Reason.BAD_BROTLI,
        "ends early",
    ),
    "no brotli where it is declared": (request(b"hello you", content_encoding=b"br"), Reason.BAD_BROTLI, "hello you"),
    "no zstd where it is declared": (request(b"hello", content_encoding=b"zstd"), Reason.BAD_ZSTD, "hello"),
    # A frame header that asks for a window of 16 MiB (RFC 8878, 3.1.1.1.2), and an empty last block.
    "zstd of a window above 8 MiB": (request(bytes.fromhex("28b52ffd 00 70 010000")), Reason.BAD_ZSTD, "memory"),
    "lz64 cut short": (request(LZ64[:20], b"compression=lz64"), Reason.BAD_LZ64, "end mark"),
    "lz64 of no JSON": (request(b"IZA=", b"compression=lz64"), Reason.BAD_LZ64, "found `a`"),
    "lz64 not named": (request(LZ64), Reason.BAD_ENCODING, "inside base64"),
    "base64 without its beginning": (request(BASE64[3:]), Reason.BAD_ENCODING, "inside base64"),
    "base64 with a wrong digit far behind": (
        request(b64encode(JSON * 9)[:-8] + b"*===="),
        Reason.BAD_ENCODING,
        "base64",
    ),
    "no base64 where it is declared": (request(b"hello", b"compression=base64"), Reason.BAD_ENCODING, "hello"),
    "five layers": (
        request(b64encode(b64encode(b64encode(b64encode(BASE64))))),
        Reason.BAD_ENCODING,
        "at most 4 layers",
    ),
}


@pytest.mark.parametrize(("wrapped", "reason", "found"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_names_the_layer_that_failed(wrapped: Request, reason: Reason, found: str) -> None:
    refusal = refused(wrapped)
    assert refusal.reason is reason
    assert found.lower() in refusal.found.lower()


COMPRESSORS: dict[Reason, Callable[[bytes], bytes]] = {
    Reason.BAD_GZIP: gzip.compress,
    Reason.BAD_ZSTD: zstandard.ZstdCompressor().compress,
}
CONTENTS = {"small": JSON, "repetitive": JSON * 50, "zeros": bytes(1000), "incompressible": bytes(range(256)) * 2}


@pytest.mark.parametrize("reason", COMPRESSORS, ids=lambda reason: reason.value)
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_stream_cut_anywhere_is_refused(reason: Reason, content: bytes) -> None:
    stream = COMPRESSORS[reason](content)
    for cut in range(4, len(stream)):
        assert refused(request(stream[:cut])).reason is reason, cut


BOMBS = {
    "gzip": request(gzip.compress(bytes(10 * MIB))),
    "gzip of members": request(gzip.compress(bytes(400_000)) * 3),
    "gzip in gzip": request(gzip.compress(gzip.compress(bytes(10 * MIB)))),
    "gzip in base64": request(b64encode(gzip.compress(bytes(10 * MIB)))),
    "gzip in a form": request(b"data=" + b64encode(gzip.compress(bytes(10 * MIB))), content_type=FORM),
    "deflate": request(zlib.compress(bytes(10 * MIB)), content_encoding=b"deflate"),
    "raw deflate": request(raw_deflate(bytes(10 * MIB)), content_encoding=b"deflate"),
    "brotli": request(brotli.compress(bytes(10 * MIB)), content_encoding=b"br"),
    "zstd that says its size": request(zstandard.ZstdCompressor().compress(bytes(10 * MIB))),
    "zstd that does not": request(zstandard.ZstdCompressor(write_content_size=False).compress(bytes(10 * MIB))),
    "zstd of frames": request(zstandard.ZstdCompressor().compress(bytes(400_000)) * 3),
    "base64": request(b64encode(b"[" + b"0," * MIB)),
    "base64 with its plus as space": request(b64encode(b"[0>" + b"\xfb\xef\xbe" * MIB + b"0]").replace(b"+", b" ")),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_output_over_the_limit_is_refused_and_soon(bomb: Request) -> None:
    started = time.process_time()
    refusal = refused(bomb)
    assert refusal.reason is Reason.DECODED_TOO_LARGE
    assert refusal.found == "Expected at most 1000000 bytes after decompression."
    assert time.process_time() - started < 1


def test_lz64_has_a_limit_of_its_own() -> None:
    # LZString.compressToBase64("[" + "0,".repeat(500) + "0]") of lz-string 1.5.0: 1,003 characters.
    long = b"NoBgNOkdWz90Q5TUvWzHtdz/ehBxRpJ5ZlF1VtN9djDzTrL7bnH3XvP/fQQOGoAukA=="
    wrapped = request(long, b"compression=lz64")
    assert len(decoded_body(wrapped, Limits(lz64_bytes_max=1003)).text) == 1003
    with pytest.raises(Rejected) as refusal:
        decoded_body(wrapped, Limits(lz64_bytes_max=1002))
    assert refusal.value.reason is Reason.DECODED_TOO_LARGE


@pytest.mark.parametrize("name", DECODERS)
def test_output_of_exactly_the_limit_is_accepted(name: str) -> None:
    encoded = {
        "gzip": gzip.compress(LZ64_JSON),
        "deflate": zlib.compress(LZ64_JSON),
        "br": brotli.compress(LZ64_JSON),
        "zstd": zstandard.ZstdCompressor().compress(LZ64_JSON),
        "lz64": LZ64,
        "base64": b64encode(LZ64_JSON),
    }[name]
    assert DECODERS[name](encoded, len(LZ64_JSON)) == LZ64_JSON
    with pytest.raises(ValueError, match=r"^(expected at most 30 .*)?$"):
        DECODERS[name](encoded, len(LZ64_JSON) - 1)


@given(
    st.lists(
        st.builds(operator.mul, st.binary(min_size=1, max_size=9), st.sampled_from([1, 2047, 4096])),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([b"", b"\0", b"behind", b"\x1f"]),
    st.sampled_from([0, 1, 6, 9]),
)
def test_members_of_any_length_are_joined_up_to_what_is_none(members: list[bytes], rest: bytes, level: int) -> None:
    """A decoder's buffer grows in powers of two: an output that fills it exactly must not hide the end of the stream."""
    stream = b"".join(gzip.compress(member, level) for member in members) + rest
    output = b"".join(members)
    assert gunzip(stream, len(output)) == output


def test_members_are_counted() -> None:
    member = gzip.compress(b"")
    assert refused(request(member * (GZIP_MEMBERS_MAX - 1) + gzip.compress(b"5"))).reason is Reason.BAD_SHAPE
    assert refused(request(member * (GZIP_MEMBERS_MAX + 1))).reason is Reason.BAD_GZIP


def test_every_decoder_has_a_reason_and_a_name_clients_use() -> None:
    assert set(DECODERS) == set(REASONS) == set(HINTS.values())


NAMES = st.sampled_from([*HINTS, b"br", b"", b"deflate, gzip"])
BYTES = st.one_of(
    st.binary(max_size=300),
    st.sampled_from(
        [JSON, BASE64, LZ64, ZSTD, gzip.compress(JSON), zlib.compress(JSON), raw_deflate(JSON), b"data=" + BASE64]
    ),
)
DAMAGED = st.builds(
    lambda data, at, put: data[: at % (len(data) + 1)] + put + data[at % (len(data) + 1) + len(put) :],
    BYTES,
    st.integers(0, 300),
    st.binary(max_size=2),
)


@example(body=b"5", query=b"", content_type=b"", name=b"", wrap=[])
@given(
    body=DAMAGED,
    query=st.one_of(
        st.just(b""), st.binary(max_size=40), NAMES.map(b"compression=".__add__), BYTES.map(b"data=".__add__)
    ),
    content_type=st.sampled_from([b"", FORM, b"application/json", b"\xff;"]),
    name=NAMES,
    wrap=st.lists(
        st.sampled_from([gzip.compress, zlib.compress, b64encode, zstandard.ZstdCompressor().compress]), max_size=4
    ),
)
def test_any_request_is_decoded_or_rejected(
    body: bytes, query: bytes, content_type: bytes, name: bytes, wrap: list[Callable[[bytes], bytes]]
) -> None:
    for encode in wrap:
        body = encode(body)
    try:
        decoded = decoded_body(request(body, query, content_type, name), LIMITS)
    except Rejected:
        return
    assert decoded.text[:1] in (b"{", b"[")
    assert decoded.text == decoded.text.strip(b" \t\r\n\v\f\0")
    assert len(decoded.layers) <= 4
