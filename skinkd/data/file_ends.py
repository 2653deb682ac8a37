"""What the two ends of a JPEG or PNG file say of it, without decoding."""

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
HEAD, TAIL = 4096, 512  # bytes read from the two ends of a file


def begins_well(head: bytes) -> bool:
    """Return whether a file's first ``HEAD`` bytes are clearly a JPEG's or a PNG's; if not, the file must be decoded."""
    if head.startswith(PNG_START):
        return head[12:16] == b"IHDR"
    if not head.startswith(JPEG_START):
        return False
    at, sized = 2, False
    while at + 4 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker == 0xDA:  # the scan
            return sized
        sized = sized or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC))  # a frame header
        at += 1 if marker == 0xFF else 2 + (head[at + 2] << 8 | head[at + 3])
    return len(head) == HEAD and at > HEAD - 4  # a profile or a thumbnail goes on beyond the head


def jpeg_ends(data: bytes) -> bool:
    """Return whether an end-of-image marker follows the scan.

    The segments before the scan are skipped, since a thumbnail among them has an end marker too. In a scan every byte
    FF is stuffed, so the first pair FF D9 is the end marker. Cameras may append bytes after it.
    """
    if data[-TAIL:].rstrip(b"\0").endswith(JPEG_END):
        return True
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xDA:
            return data.find(JPEG_END, at) >= 0
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False
