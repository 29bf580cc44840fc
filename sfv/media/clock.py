"""When the frames of a video are shown, where it ends, and whether one is missing."""

from collections import deque

import av

from sfv.media.limits import MAX_SECONDS, MediaError

LATE = 0.5
"""Seconds that may lie between a video's stated length and the end of its last frame."""

WHOLE_PACKETS = ("h264", "hevc")
"""Codecs that show one frame for each packet, so that a missing frame can be told."""
DECODING_ORDER = ("avi",)
"""Formats whose time stamps are those of decoding: frames take them one after the other."""


class Clock:
    """Tells when a frame is shown, and whether one is missing."""

    def __init__(
        self, container: av.container.InputContainer, stream: av.VideoStream, where: str
    ) -> None:
        self.origin = stream.start_time or 0
        self._base, self._where = stream.time_base, where
        self._rate = stream.average_rate or stream.guessed_rate
        self._stated = stated_end(container, stream)
        self._end, self._num_packets = 0.0, 0
        self._has_order = container.format.name not in DECODING_ORDER
        self._queue: deque[int] = deque()
        self._is_whole = stream.codec_context.name in WHOLE_PACKETS
        self._waiting: set[int] = set()
        self._first: int | None = None

    def see(self, packet: av.Packet) -> None:
        """Take note of a packet that is about to be decoded."""
        if packet.is_corrupt:
            raise MediaError(self._where, "video is damaged or cut off", "a packet is corrupt")
        if not packet.size:
            return
        if not self._has_order and packet.dts is not None:
            self._queue.append(packet.dts)
        self._num_packets += 1
        begin = packet.pts if self._has_order else packet.dts
        usual = float(1 / self._rate) if self._rate else 0.0
        if begin is None:
            self._end = max(self._end, self._num_packets * usual)
            return
        stays = float(packet.duration * self._base) if packet.duration else usual
        self._end = max(self._end, self._seconds(begin) + stays)
        if self._end > MAX_SECONDS:
            raise MediaError(self._where, "video states a length of more than a week")
        if self._is_whole and self._has_order and not packet.is_discard:
            self._waiting.add(begin)

    def time_of(self, raw: av.VideoFrame, number: int) -> float:
        """Seconds since the first frame of the video.

        Raises:
            MediaError: the frame has no time stamp, or one before it is missing.
        """
        pts = raw.pts
        if not self._has_order:
            pts = self._queue.popleft() if self._queue else None
        if self._first is None:
            self._first = -1 if pts is None else pts
            self._is_steady = pts is None
        if self._is_steady and self._rate:
            return float(number / self._rate)
        if pts is None:
            raise MediaError(self._where, "video without time stamps", f"frame {number} has none")
        self._check_missing(raw, pts, number)
        return self._seconds(pts)

    def end(self, time: float) -> float:
        """Until when a frame stays, by the packets seen so far."""
        return max(self._end, time)

    def check_end(self, num_frames: int = 0) -> None:
        """Refuse a video that ends before its stated length, or whose last frames did not come out.

        Args:
            num_frames: that were decoded; 0 where none was meant to be.

        Raises:
            MediaError: names the length, or the frame.
        """
        self._refuse_lost(num_frames, float("inf"))
        if self._stated is not None and self._stated > self._end + LATE:
            raise MediaError(
                self._where,
                "video ends before its stated length (truncated?)",
                f"it ends at {self._end:.3f} s, stated are {self._stated:.3f} s",
            )

    def _check_missing(self, raw: av.VideoFrame, pts: int, number: int) -> None:
        """Every packet from the first frame on has to come out as a frame, in their order."""
        if raw.interlaced_frame:  # two fields may be two packets
            self._is_whole = False
        if not self._is_whole:
            self._waiting.clear()
            return
        self._waiting.discard(pts)
        self._refuse_lost(number, pts)

    def _refuse_lost(self, number: int, until: float | int) -> None:
        if self._first is None:
            return
        lost = [pts for pts in self._waiting if self._first < pts < until]
        if lost:
            raise MediaError(
                self._where,
                "video is damaged",
                f"frame {number} is missing: the one at {self._seconds(min(lost)):.3f} s",
            )

    def _seconds(self, stamp: int) -> float:
        return float((stamp - self.origin) * self._base)


def stated_end(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """Seconds that the file says its picture lasts; None where it does not say so reliably."""
    form = container.format.name
    if "mp4" in form and stream.duration:
        return float(stream.duration * stream.time_base)
    if "matroska" not in form:
        return None
    noted = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = map(float, noted)
        return (
            3600 * hours
            + 60 * minutes
            + seconds
            - float((stream.start_time or 0) * stream.time_base)
        )
    except ValueError:
        alone = len(container.streams) == 1 and container.duration
        return float(container.duration / av.time_base) if alone and container.duration else None
