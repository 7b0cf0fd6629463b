"""Headers that promise more than the file holds, or nothing though samples follow.

A file that was cut (a copy or a download that stopped) is refused in every container that says how long it is:
AIFF, AU, AVR, CAF, FLAC, HTK, MAT4, MAT5, MPC2K, MP3 with a Xing header, NIST, Ogg, RF64, SDS, SVX, VOC, W64, WAV and
WVE. libsndfile reads most of them without complaint and tells only in its log.

`UNTOLD` are those that cannot tell. PAF, PVF, IRCAM and SD2 have no length in their header, libsndfile writes one of 0
into XI, and an MP3 of constant bit rate without a Xing header is as long as its file. A half of such a file is a
shorter sound.

A writer to a pipe, or one that was stopped, leaves a length of 0 in WAV, RF64 and AU files: `finished` puts it in.
AIFF, SVX and W64 libsndfile takes as they are; a CAF or FLAC file without a length it cannot read.
"""

from __future__ import annotations

import io
import re
import struct
from typing import BinaryIO

UNTOLD = ("IRCAM", "PAF", "PVF", "SD2", "XI")
SLACK = 16  # bytes: padding that a writer counted, or a reader did not
UNKNOWN = 0x7FFF_0000  # bytes: a 32-bit size from here on is one that was never filled in

_PROMISED = {
    # bytes; chunk by chunk, "data : 88200 (should be 4096)"
    "chunk": re.compile(r"^\W*(?:data|ssnd|data size|body) *: *(\d+) \(should be (\d+)\)", re.I | re.M),
    # bytes, of which the header itself is told elsewhere: more than the whole file is too much
    "W64": re.compile(r"^data *: *(\d+)", re.M),
    "RF64": re.compile(r"^ +Data size *: *(\d+)", re.M),
    # samples of a channel
    "AVR": re.compile(r"^ +Frames *: *(\d+)", re.M),
    "MPC2K": re.compile(r"^ +Frames *: *(\d+)", re.M),
    "MAT4": re.compile(r"Cols *: *(\d+)\n(?:.*\n){1,3} *Name *: *wavedata"),
    "MAT5": re.compile(r"Cols *: *(\d+)\n(?:.*\n){1,3} *Name *: *wavedata"),
    "NIST": re.compile(r"^sample_count -i (\d+)", re.M),
}
# Ogg, MAT4, VOC, WVE; not "data chunk seems to be truncated", which it says of any WAV file of GSM
_TOLD = re.compile(
    r"ended unexpectedly|file seems to be truncated|seems to be a truncated file|^Data length \d+ should",
    re.I | re.M,
)


def cut_short(container: str, log: str, frames: int, start: bytes, size: int) -> bool:
    """Whether a file holds less than its header promises.

    Args:
        container: libsndfile's name of it
        log: what libsndfile says of the file
        frames: samples of a channel that libsndfile finds
        start: the file's first 1,024 bytes
        size: bytes of the file
    """
    if _TOLD.search(log):
        return True
    for promised, held in _PROMISED["chunk"].findall(log):
        if int(held) + SLACK < int(promised) < UNKNOWN:
            return True
    if container in ("W64", "RF64"):
        found = _PROMISED[container].search(log)
        return found is not None and size + SLACK < int(found[1]) < 2**62
    if container in ("AVR", "MPC2K", "MAT4", "MAT5", "NIST"):
        found = _PROMISED[container].search(start.decode("latin-1") if container == "NIST" else log)
        return found is not None and int(found[1]) > frames
    return False


def finished(file: BinaryIO, size: int) -> BinaryIO | None:
    """A view of a file whose header has a length of 0 though samples follow, with the length put in.

    Args:
        file: open for reading; WAV, RF64 or AU
        size: its bytes

    Returns:
        what reads like the file; None if its header is finished, or it is none of these
    """
    head = file.read(12)
    if head[:4] == b".snd" and len(head) == 12 and head[8:12] == b"\0\0\0\0":
        return _Patched(file, {8: b"\xff\xff\xff\xff"}) if size > struct.unpack(">I", head[4:8])[0] else None
    if head[:4] not in (b"RIFF", b"RF64") or head[8:12] != b"WAVE":
        return None
    at, long, block = 12, 0, 1  # `long` is where RF64 keeps the length
    while len(chunk := _at(file, at, 24)) >= 8:
        name, length = chunk[:4], struct.unpack("<I", chunk[4:8])[0]
        if name == b"ds64":
            long = at + 16
        elif name == b"fmt " and len(chunk) >= 22:
            block = max(struct.unpack("<H", chunk[20:22])[0], 1)
        elif name == b"data":
            break
        at += 8 + length + length % 2
    else:
        return None
    held = size - at - 8
    if long:
        length = struct.unpack("<Q", _at(file, long, 8))[0] if length == 0xFFFF_FFFF else length
    if length or held < 1 or _chunk_at(file, at + 8, size):
        return None
    if long:
        lengths = {long: struct.pack("<QQ", held, held // block)}
        return _Patched(file, lengths | {at + 4: b"\xff\xff\xff\xff"})
    return _Patched(file, {at + 4: struct.pack("<I", min(held, 0xFFFF_FFFF))})


def without_length(start: bytes) -> bool:
    """Whether these first bytes are of a FLAC or CAF file that does not say how long it is."""
    if start[:4] == b"fLaC":
        return len(start) >= 26 and not start[21] & 0x0F and start[22:26] == bytes(4)
    return start[:4] == b"caff" and b"data" + b"\xff" * 8 in start


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _chunk_at(file: BinaryIO, place: int, size: int) -> bool:
    """Whether a chunk begins there, as after samples of which there are none."""
    head = _at(file, place, 8)
    name = head[:4].decode("latin-1")
    if len(head) < 8 or not (name.isascii() and name.isprintable()):
        return False
    return place + 8 + struct.unpack("<I", head[4:])[0] <= size


class _Patched(io.RawIOBase):
    """A file some of whose bytes read as others."""

    def __init__(self, file: BinaryIO, bytes_at: dict[int, bytes]) -> None:
        self.file, self.bytes_at = file, bytes_at
        file.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readinto(self, buffer: memoryview) -> int:
        begin = self.file.tell()
        data = bytearray(self.file.read(len(buffer)))
        for place, new in self.bytes_at.items():
            for k, byte in enumerate(new):
                if begin <= place + k < begin + len(data):
                    data[place + k - begin] = byte
        buffer[: len(data)] = bytes(data)
        return len(data)
