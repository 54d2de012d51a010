"""What a codec's packets tell, before any decoding, about which of them are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tempo_fast.video.packets.bits import Bits

# Data of packets, each with whether its frame is wanted.
Packets = Sequence[tuple[bytes, bool]]
Buffer = bytes | memoryview


class Syntax:
    """How to read one stream's packets. This one knows nothing, so nothing is left out.

    steady: False once decoding from a keyframe would miss something that came before it (known
    when the whole file has been looked through). paired: a picture may be spread over two packets.
    alone: every packet is one frame, shown whatever comes before or after it. threaded: FFmpeg's
    frame threads give what one thread gives.
    """

    steady = True
    paired = False
    alone = False
    threaded = True

    def look(self, data: Buffer, keyframe: bool) -> bool:
        """Look at every packet in order; whether decoding can begin at this one.

        That is: frames of it and of later packets, if shown no earlier than it, are then decoded
        exactly as they are from the start of the file. keyframe: what the container says. Few
        packets are looked through, so that a memoryview saves copies.
        """
        return False

    def shown(self, data: Buffer) -> bool:
        """Whether a frame comes of this packet."""
        return True

    def droppable(self, data: bytes) -> bool:
        """Whether no other frame's pixels change when the decoder never sees this packet."""
        return False

    def left_out(self, packets: Packets) -> list[bytes | None]:
        """The packets, with None for those that aren't wanted and can be dropped."""
        return [data if wanted or not self.droppable(data) else None for data, wanted in packets]

    def chooser(self) -> Callable[[Packets], list[bytes | None]]:
        """What says how to decode one run's wanted frames exactly and others as little as can be.

        It takes the run's packets in order, in lots of any size, and gives for each the same data,
        other data in its place, or None for nothing.
        """
        return self.left_out

    def chooser_options(self) -> dict[str, str]:
        """The options of FFmpeg's decoder for what `chooser` gives."""
        return {}


class Keyframes(Syntax):
    """Codecs that code every frame by itself."""

    alone = True

    def look(self, data: Buffer, keyframe: bool) -> bool:
        return keyframe


class Mjpeg(Keyframes):
    """JPEGs, each with tables of its own: what one lacks, the decoder takes from those before."""

    def __init__(self) -> None:
        self._tables: set[tuple[int, int]] | None = None

    def look(self, data: Buffer, keyframe: bool) -> bool:
        tables = _tables(bytes(data))
        self._tables = tables if self._tables is None else self._tables
        if tables != self._tables or not any(kind == _DQT for kind, _ in tables):
            self.steady = False
        return keyframe


_DQT, _DHT, _SOS = 0xDB, 0xC4, 0xDA


def _tables(data: bytes) -> set[tuple[int, int]]:
    """The tables before a JPEG's first scan: (marker, class and number) of each."""
    found, at = set(), 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _SOS:
        kind, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        at += 4
        while kind in (_DQT, _DHT) and at < min(end, len(data)):
            found.add((kind, data[at]))
            size = 64 << (data[at] >> 4 & 1) if kind == _DQT else 16 + sum(data[at + 1 : at + 17])
            at += 1 + size
        at = end
    return found


class Vp8(Syntax):
    """VP8 (RFC 6386, 9.1)."""

    def look(self, data: Buffer, keyframe: bool) -> bool:
        return keyframe and not data[0] & 1

    def shown(self, data: Buffer) -> bool:
        return bool(data[0] & 16)


class Vp9(Syntax):
    """VP9. Any frame may lend its motion vectors and probabilities to the next, so all are kept."""

    def look(self, data: Buffer, keyframe: bool) -> bool:
        # frame_marker, profile (a reserved bit after 3), show_existing_frame, frame_type (0: key).
        profile = data[0] >> 5 & 1 | data[0] >> 3 & 2
        rest = data[0] & 7 if profile == 3 else data[0] >> 1 & 7
        return keyframe and data[0] >> 6 == 2 and not rest & 6


class Mpeg2(Syntax):
    """MPEG-1 and MPEG-2 video: an I picture right after a sequence header, which resets all.

    Its B-pictures, to which nothing refers, are decoded all the same.
    """

    paired = True

    def look(self, data: Buffer, keyframe: bool) -> bool:
        return keyframe and bytes(data[:5]).startswith((b"\0\0\1\xb3", b"\0\0\0\1\xb3"))


class Mpeg4(Syntax):
    """MPEG-4 part 2 (ISO 14496-2, 6.2.5): no picture refers to a B-VOP."""

    # Frame threads don't pass on all that interlaced pictures need of each other.
    threaded = False

    def __init__(self, extradata: bytes) -> None:
        self._layer = _video_object_layer(extradata)
        self._maker = _user_data(extradata)
        # FFmpeg takes a unit of time for interlaced pictures from the first B-VOP it sees.
        self._known = self._layer is not None and not _interlaced(self._layer)

    def look(self, data: Buffer, keyframe: bool) -> bool:
        data = bytes(data)
        layer = _video_object_layer(data)
        if layer is not None and layer != self._layer:
            self.steady = False
        # By its name for itself FFmpeg knows what an encoder does its own way.
        if _user_data(data) - self._maker:
            self.steady = False
        at = data.find(b"\0\0\1\xb6")
        begins = keyframe and self._known and 0 <= at < len(data) - 4
        return begins and data[at + 4] < 0x40

    def droppable(self, data: bytes) -> bool:
        return (
            self._known
            and len(data) > 4
            and data.startswith(b"\0\0\1\xb6")
            and data.find(b"\0\0\1", 4) < 0  # no second picture packed with it
            and 0x80 <= data[4] < 0xC0
        )


def _video_object_layer(data: bytes) -> bytes | None:
    at = data.find(b"\0\0\1")
    while at >= 0:
        end = data.find(b"\0\0\1", at + 3)
        if data[at + 3 : at + 4] and 0x20 <= data[at + 3] <= 0x2F:
            return data[at + 4 : end] if end >= 0 else data[at + 4 :]
        at = end
    return None


def _user_data(data: bytes) -> set[bytes]:
    """What stands in user data, by which encoders name themselves."""
    return {part.partition(b"\0\0\1")[0] for part in data.split(b"\0\0\1\xb2")[1:]}


def _interlaced(layer: bytes) -> bool:
    """The flag `interlaced` of a video object layer (6.2.3); True where it can't be read."""
    bits = Bits(layer[:64])
    try:
        bits.take(9)
        if bits.flag():
            bits.take(7)
        if bits.take(4) == 15:  # the pixels' shape is spelt out
            bits.take(16)
        if bits.flag():  # vol_control_parameters
            bits.take(3)
            if bits.flag():
                bits.take(79)
        if bits.take(2):  # not rectangular
            return True
        bits.take(1)
        resolution = bits.take(16)
        bits.take(1)
        if bits.flag():
            bits.take(max(1, (resolution - 1).bit_length()))
        bits.take(29)
        return bits.flag()
    except IndexError:
        return True
