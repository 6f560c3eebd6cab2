"""Clips in the containers and codecs that people have."""

from pathlib import Path
from random import Random

from fuzz.base import OUTSIDE, Target, put
from fuzz.byte_changes import damaged
from pocketvlm.media.videos import open_video
from support.clips import numbered, write_clip

_KINDS = (
    ("mp4", "libx264", "yuv420p"), ("webm", "libvpx-vp9", "yuv420p"), ("avi", "mjpeg", "yuvj420p"),
    ("ts", "mpeg2video", "yuv420p"), ("gif", "gif", "rgb8"), ("mkv", "ffv1", "bgr0"),
    ("mov", "mpeg4", "yuv420p"),
)  # fmt: skip
# What FFmpeg would follow to other files, if it were let.
_LISTS = (
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{0}\n#EXT-X-ENDLIST\n",
    "ffconcat version 1.0\nfile '{0}'\n",
    "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1,\nconcat:{0}|{0}\n#EXT-X-ENDLIST\n",
    "<?xml version='1.0'?><MPD><Period><BaseURL>{0}</BaseURL></Period></MPD>",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na={0}\n",
)


class Fuzz(Target):
    """See the module."""

    threat = "a clip that crashes its decoder, names other files, never ends, or fills memory"
    memory_mb = 700

    def prepare(self, folder: Path) -> None:
        files = []
        for suffix, codec, pixels in _KINDS:
            path = write_clip(folder / f"clip.{suffix}", numbered(8, (32, 48)), codec, pixels)
            files.append(path.read_bytes())
        path = write_clip(folder / "sound.mp4", numbered(8, (32, 48)), "libx264", "yuv420p",
        audio=True,
                          movflags="faststart")  # fmt: skip
        self.files = [*files, path.read_bytes()]

    def write(self, random: Random, box: Path) -> None:
        if random.random() < 0.04:
            content = random.choice(_LISTS).format(random.choice(OUTSIDE)).encode()
        else:
            content = random.choice(self.files)
        if random.random() < 0.98:
            content = damaged(random, content, self.files, head=random.choice((0, 200, 2000)))
        put(box / "clip", content)

    def use(self, box: Path) -> None:
        open_video((box / "clip").read_bytes(), 4)
