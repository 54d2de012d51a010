"""Decode the planned runs of a file and nothing else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from tempo_fast.video.container import open_video
from tempo_fast.video.damage import Damage, Keyed
from tempo_fast.video.packets.syntax import Syntax
from tempo_fast.video.plan import Packets, Run

# Up to this many packets ahead, reading on is quicker than seeking.
_NEAR = 64
# Packets read ahead, to see what later ones refer to: so many, or so much.
_LOT, _LOT_BYTES = 64, 16 << 20


class UnplannedError(Exception):
    """The file doesn't decode as its packets promised: only decoding everything can tell."""


class RunReader:
    """An open file of which runs are decoded, in any order."""

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        packets: Packets,
        syntax: Syntax,
        skip: bool = False,
        forgiven: int | None = None,
    ) -> None:
        self._container = container
        self._stream = stream
        self._context = stream.codec_context
        self._packets = packets
        self._syntax = syntax
        self._skip = skip
        self._forgiven = forgiven
        self._damage = Damage()
        self._reformatter = VideoReformatter()
        self._demuxed = self._demux()
        self._next = 0

    def _demux(self) -> Iterator[av.Packet]:
        return (packet for packet in self._container.demux(self._stream) if packet.size)

    def read(self, run: Run, to_pixels: Callable, stopped: Callable[[], bool]) -> Iterator:
        """The run's frames, as `to_pixels(frame, reformatter)` of each, in order.

        With `skip`, None for those that are missing or that damage in the run has reached. Ends
        early once stopped(). Raises UnplannedError or FFmpegError instead where it doesn't skip.
        """
        awaited = deque(run.times)
        self._go_to(run.start)
        with closing(self._decode(run, stopped)) as frames:
            for time, frame in frames:
                while awaited and awaited[0] < time:
                    self._check_damage(awaited.popleft())
                    yield None
                if awaited and time == awaited[0]:
                    if frame is None:
                        self._check_damage(time)
                    yield None if frame is None else to_pixels(frame, self._reformatter)
                    awaited.popleft()
                if not awaited:
                    return
        if stopped():
            return
        self._check_damage(awaited[0])
        yield from (None for _ in awaited)

    def _check_damage(self, time: int) -> None:
        """Raises UnplannedError unless damage, which is skipped, is why the frame is missing."""
        if not (self._skip and self._damage.noticed):
            raise UnplannedError(f"the frame at {time} didn't come")

    def _decode(self, run: Run, stopped: Callable[[], bool]) -> Iterator[Keyed]:
        """The run's frames with their times; None for some that aren't wanted or are damaged."""
        self._damage = damage = Damage(self._forgiven)
        wanted, replaced = set(run.times), set()

        def come(frames: list[av.VideoFrame]) -> Iterator[Keyed]:
            for frame in frames:
                # What stands in for a frame that nobody needs is no damage, whatever it looks like.
                patched = frame.is_corrupt and frame.pts not in replaced
                yield from damage.come(frame, patched=patched, keep=frame.pts in wanted)

        try:
            for packet, own in self._chosen(run, wanted, stopped):
                damage.give(packet.pts, packet.is_keyframe)
                if not own:
                    replaced.add(packet.pts)
                try:
                    frames = self._context.decode(packet)
                except av.FFmpegError:
                    if not self._skip:
                        raise
                    # A decoder that goes on makes up frames and doesn't say which.
                    damage.fail()
                    break
                yield from come(frames)
            if not stopped():
                yield from come(self._rest())
                yield from damage.end()
        finally:
            # The next run starts afresh; a decoder that was drained takes nothing more otherwise.
            self._context.flush_buffers()

    def _chosen(
        self, run: Run, wanted: set[int], stopped: Callable[[], bool]
    ) -> Iterator[tuple[av.Packet, bool]]:
        """What to decode of the run's packets, from the next on, and whether it is their own."""
        # Where damage is reckoned with, the decoder sees nothing but what is in the file.
        choose = self._syntax.left_out if self._skip else self._syntax.chooser()
        while self._next < run.end and not stopped():
            packets, size = [], 0
            while self._next < run.end and len(packets) < _LOT and size < _LOT_BYTES:
                packet = self._take()
                if packet is None:
                    break
                packets.append(packet)
                size += packet.size
            if not packets:
                return
            lot = [(bytes(packet), packet.pts in wanted) for packet in packets]
            for packet, (own, _), data in zip(packets, lot, choose(lot), strict=True):
                if stopped():
                    return
                if data is own:
                    yield packet, True
                elif data is not None:
                    yield _in_place_of(packet, data), False

    def _rest(self) -> list[av.VideoFrame]:
        """The frames that the decoder still holds."""
        try:
            return self._context.decode(None)
        except av.FFmpegError:
            if not self._skip:
                raise
            return []

    def _take(self) -> av.Packet | None:
        """The next packet, None at the end; it must be the one that the scan saw here."""
        packet = next(self._demuxed, None)
        if packet is not None:
            times = self._packets.times
            if self._next >= len(times) or packet.pts != times[self._next]:
                raise UnplannedError(f"packet {self._next} is another one now")
            self._next += 1
        return packet

    def _go_to(self, number: int) -> None:
        """Leave the packet `number` to be taken next."""
        if not 0 <= number - self._next <= _NEAR:
            self._seek(number)
        while self._next < number:
            if self._take() is None:
                raise UnplannedError(f"the file ends before packet {number}")

    def _seek(self, number: int) -> None:
        """Seek to a packet from which some few lead to `number`."""
        # Matroska seeks by presentation time, others by decoding time.
        for time in self._packets.seek_times(number):
            self._container.seek(time, stream=self._stream)
            self._demuxed = self._demux()
            for packet in self._demuxed:
                at = None if packet.pts is None else self._packets.number(packet.pts)
                if at == number:
                    # Taken already, so it is put back.
                    self._demuxed = _chain(packet, self._demuxed)
                    self._next = number
                    return
                if at is not None and at > number:
                    break
        raise UnplannedError(f"seeking misses packet {number}")


def _in_place_of(packet: av.Packet, data: bytes) -> av.Packet:
    """A packet of other data, shown at the same time."""
    other = av.Packet(data)
    other.pts, other.dts, other.duration = packet.pts, packet.dts, packet.duration
    other.time_base = packet.time_base
    return other


def _chain(packet: av.Packet, packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    yield packet
    yield from packets


@contextmanager
def open_runs(
    path: Path,
    packets: Packets,
    syntax: Syntax,
    threads: int,
    skip: bool,
    forgiven: int | None = None,
) -> Iterator[RunReader]:
    """A reader of the file's runs whose decoder has `threads` threads.

    skip: as in `read`; forgiven: as in `Damage`.
    """
    with open_video(path) as (container, stream):
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        stream.codec_context.options = {} if skip else syntax.chooser_options()
        yield RunReader(container, stream, packets, syntax, skip, forgiven)
