"""lz-string's compressToBase64, the plain way, for requests made beforehand."""

from base64 import b64encode


def compress(text: str) -> bytes:
    """Base64 of `text`, whose characters outside the basic plane count as the two surrogates JavaScript sees."""
    raw = text.encode("utf-16-le", "surrogatepass")
    units = [raw[i : i + 2].decode("utf-16-le", "surrogatepass") for i in range(0, len(raw), 2)]
    bits: list[str] = []

    def write(value: int, width: int) -> None:
        bits.append(f"{value:0{width}b}"[::-1])

    codes: dict[str, int] = {}
    new: set[str] = set()
    size, width, widen_in = 3, 2, 2

    def grown() -> None:
        nonlocal width, widen_in
        widen_in -= 1
        if widen_in == 0:
            widen_in = 1 << width
            width += 1

    def write_phrase(phrase: str) -> None:
        if phrase in new:
            wide = ord(phrase) > 255
            write(int(wide), width)
            write(ord(phrase), 16 if wide else 8)
            new.remove(phrase)
            grown()
        else:
            write(codes[phrase], width)
        grown()

    phrase = ""
    for unit in units:
        if unit not in codes:
            codes[unit] = size
            size += 1
            new.add(unit)
        if phrase + unit in codes:
            phrase += unit
            continue
        write_phrase(phrase)
        codes[phrase + unit] = size
        size += 1
        phrase = unit
    if phrase:
        write_phrase(phrase)
    write(2, width)
    stream = "".join(bits) + "0"
    digits = -(-len(stream) // 6)
    stream = stream.ljust(-(-digits // 4) * 24, "0")
    return b64encode(int(stream, 2).to_bytes(len(stream) // 8, "big"))[:digits].ljust(-(-digits // 4) * 4, b"=")
