"""Clips: the frames that come out, and every way in which a file can be no clip."""

import contextlib
import fractions
import io
import os
import struct
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from pocketvlm import PocketVLMError
from pocketvlm.media.videos import VideoLimits, open_video
from support.clips import numbered, write_clip, write_silence

FASTSTART = {"movflags": "faststart"}


def numbers(images) -> list[int]:
    return [int(np.asarray(image)[0, 0, 0]) for image in images]


def refused(video, limits=None) -> str:
    with pytest.raises(PocketVLMError) as caught:
        open_video(video, 8, limits)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def frames():
    return numbered(30)


@pytest.fixture(scope="module")
def clip(tmp_path_factory, frames):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mkv", frames)


@pytest.fixture(scope="module")
def mp4(tmp_path_factory, frames):
    """Header first, then frames that depend on each other."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    return write_clip(path, frames, codec="libx264", pixels="yuv420p", **FASTSTART)


@pytest.mark.parametrize("count", [1, 3, 8, 9, 30, 101])
def test_frames_are_those_of_linspace(tmp_path, count):
    frames = numbered(count, (16, 16))
    images = open_video(write_clip(tmp_path / "clip.mkv", frames), 8)
    expected = np.linspace(0, count - 1, 8, dtype=int)  # as Video-LLaVA's own code has it
    assert numbers(images) == expected.tolist()
    for image, number in zip(images, expected, strict=True):
        assert np.array_equal(image, frames[number])


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels"),
    [("mp4", "libx264", "yuv420p"), ("webm", "libvpx-vp9", "yuv420p"), ("avi", "mjpeg", "yuvj420p"),
     ("ts", "mpeg2video", "yuv420p"), ("gif", "gif", "rgb8")],
)  # fmt: skip
def test_common_files_are_read(tmp_path, suffix, codec, pixels):
    grey = [np.full((48, 64, 3), 8 * number, np.uint8) for number in range(20)]
    images = open_video(write_clip(tmp_path / f"clip.{suffix}", grey, codec, pixels), 8)
    assert [image.size for image in images] == [(64, 48)] * 8
    greys = np.array([np.asarray(image).mean() for image in images])
    assert np.abs(greys - 8 * np.linspace(0, 19, 8, dtype=int)).max() < 12


def test_bytes_are_read_too_and_sound_is_passed_over(tmp_path, frames):
    path = write_clip(tmp_path / "clip.mkv", frames, audio=True)
    assert numbers(open_video(path.read_bytes(), 3)) == [0, 14, 29]


def test_the_rotation_that_a_file_asks_for_is_applied(tmp_path):
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:16, :16] = 255  # top left
    path = write_clip(tmp_path / "clip.mp4", [frame] * 3, codec="libx264", pixels="yuv420p")
    identity = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    quarter = struct.pack(
        ">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000
    )  # clockwise when shown
    data = path.read_bytes()
    at = data.rindex(identity)  # that of the track, after that of the film
    turned = open_video(data[:at] + quarter + data[at + len(identity) :], 1)[0]
    assert turned.size == (48, 64)
    assert np.asarray(turned)[:16, -16:].min() > 200
    assert np.asarray(turned)[:16, :16].max() < 50


def test_what_is_no_clip_is_refused(tmp_path, mp4):
    folder, empty, junk = tmp_path / "folder.mp4", tmp_path / "empty.mp4", tmp_path / "junk.mp4"
    folder.mkdir()
    empty.touch()
    junk.write_bytes(np.random.default_rng(0).bytes(9000))
    picture, pipe = tmp_path / "picture.png", tmp_path / "pipe.mp4"
    Image.new("RGB", (16, 16)).save(picture)
    os.mkfifo(pipe)
    assert "No such file" in refused(tmp_path / "missing.mp4")
    assert "a directory, not a file" in refused(folder)
    assert "pipe, socket or device, not a file" in refused(pipe)
    assert "pipe, socket or device, not a file" in refused("/dev/zero")
    assert "is empty" in refused(empty)
    assert "is empty" in refused(b"")
    assert "is not a video that this can read" in refused(junk)
    assert "is not a video that this can read" in refused(picture)
    assert "a clip is of type int: expected a path" in refused(7)


@pytest.mark.parametrize(
    ("container", "part"),
    [("clip", 0.02), ("clip", 0.3), ("clip", 0.8), ("mp4", 0.02), ("mp4", 0.5), ("mp4", 0.97)],
)
def test_a_truncated_clip_is_refused(request, container, part):
    data = request.getfixturevalue(container).read_bytes()
    assert "truncated" in refused(data[: int(len(data) * part)])


def test_a_damaged_clip_is_refused_or_read_but_never_more(mp4):
    data = mp4.read_bytes()
    rng = np.random.default_rng(7)
    for _ in range(40):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 8):
            damaged[at] = rng.integers(0, 256)
        with contextlib.suppress(PocketVLMError):
            assert len(open_video(bytes(damaged), 8, VideoLimits(max_pixels=100_000))) == 8


def test_sound_alone_is_refused(tmp_path):
    assert "no moving pictures in it, only audio" in refused(
        write_clip(tmp_path / "sound.mp4", [], audio=True)
    )


def test_an_absurd_count_in_the_header_is_not_believed(mp4):
    data = bytearray(mp4.read_bytes())
    at = data.index(b"stts") + 8  # one entry: samples, and how long each is shown
    assert struct.unpack_from(">2I", data, at) == (1, 30)
    struct.pack_into(">I", data, at + 4, 2**30)
    assert [image.tobytes() for image in open_video(bytes(data), 8)] == [
        image.tobytes() for image in open_video(mp4, 8)
    ]


def test_an_absurd_length_in_the_header_is_not_believed(clip):
    data = bytearray(clip.read_bytes())
    at = data.index(b"\x44\x89\x88") + 3  # Matroska's Duration, a float64 of milliseconds
    assert struct.unpack_from(">d", data, at)[0] == 3000
    struct.pack_into(">d", data, at, 1e12)
    assert numbers(open_video(bytes(data), 3)) == [0, 14, 29]


def written(container, codec, pixels, milliseconds, *, seconds_of_sound=0, **options):
    """A clip in memory, with a frame at each time."""
    stream, base = io.BytesIO(), fractions.Fraction(1, 1000)
    with av.open(stream, "w", format=container, options=options) as output:
        video = output.add_stream(codec, rate=1000)
        video.height, video.width, video.pix_fmt = 48, 64, pixels
        video.codec_context.time_base = base
        if seconds_of_sound:
            write_silence(output, 8000 * seconds_of_sound)
        for number, at in enumerate(milliseconds):
            samples = np.full((48, 64, 3), 10 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(samples, format="rgb24")
            frame.pts, frame.time_base = at, base
            output.mux(video.encode(frame))
        output.mux(video.encode())
    return stream.getvalue()


KINDS = {
    "matroska": ("matroska", "ffv1", "bgr0", {}),
    "webm": ("webm", "libvpx-vp9", "yuv420p", {}),
    "webm as it is recorded": ("webm", "libvpx-vp9", "yuv420p", {"live": "1"}),
    "mp4": ("mp4", "libx264", "yuv420p", {}),
    "mp4 in fragments": ("mp4", "libx264", "yuv420p", {"movflags": "frag_keyframe+empty_moov"}),
    "mov": ("mov", "libx264", "yuv420p", {}),
    "gif": ("gif", "gif", "rgb8", {}),
}
TIMES = {
    "a late last frame": [*range(0, 1900, 100), 60_000],
    "a late first frame": range(50_000, 52_000, 100),
    "a gap": [*range(0, 1000, 100), *range(30_000, 31_000, 100)],
    "at any time": [0, 20, 700, 720, 740, 2000, 5000, 5020, 9000],
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_a_whole_clip_is_whole_whenever_its_frames_are_shown(kind, times):
    container, codec, pixels, options = kind
    data = written(container, codec, pixels, times, **options)
    assert len(open_video(data, 8)) == 8


@pytest.mark.parametrize("container", ["matroska", "mp4", "mov"])
def test_sound_may_be_longer_than_the_pictures(container):
    codec, pixels = KINDS[container][1:3]
    data = written(container, codec, pixels, range(0, 500, 50), seconds_of_sound=30)
    assert len(open_video(data, 8)) == 8


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_clip_that_is_cut_off_is_refused(kind, part):
    container, codec, pixels, options = kind
    data = written(container, codec, pixels, range(0, 2000, 100), **options)
    assert "truncated" in refused(data[: int(len(data) * part)])


@pytest.mark.parametrize("kind", ["matroska", "webm as it is recorded", "mp4 in fragments"])
def test_a_clip_that_is_cut_off_anywhere_is_refused_or_has_lost_no_whole_part(kind):
    container, codec, pixels, options = KINDS[kind]
    data = written(container, codec, pixels, range(0, 300, 100), **options)
    whole = len(open_video(data, 8))
    for end in np.random.default_rng(5).integers(1, len(data), 60):
        with contextlib.suppress(PocketVLMError):
            assert len(open_video(data[:end], 8)) == whole


def test_tables_of_more_frames_than_any_file_has_are_not_filled(mp4):
    data = bytearray(mp4.read_bytes())
    for table, place in ((b"stsz", 12), (b"stts", 12), (b"stsc", 16)):
        struct.pack_into(">I", data, data.index(table) + place, 2**30)
    struct.pack_into(">I", data, data.index(b"stsz") + 8, 1)  # all of one byte
    assert "states more than 2000000 frames" in refused(bytes(data))


def test_frames_that_are_kept_take_no_more_memory_than_allowed(clip):
    limits = VideoLimits(max_memory=8 * 4 * 64 * 48)
    assert len(open_video(clip, 8, limits)) == 8
    with pytest.raises(PocketVLMError, match=r"9 frames of .* take more than 0 MB"):
        open_video(clip, 9, limits)


@pytest.mark.parametrize("error", [RuntimeError("x"), MemoryError(), RecursionError(), KeyError(1)])
def test_whatever_the_library_raises_is_a_refusal(clip, monkeypatch, error):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(av, "open", fail)
    assert "clip.mkv" in refused(clip)


def test_limits_are_kept(clip, mp4):
    size = clip.stat().st_size
    assert f"has {size} bytes, the limit is {size - 1}" in refused(
        clip, VideoLimits(max_bytes=size - 1)
    )
    assert "64x48 pixels, the limit is 3071" in refused(mp4, VideoLimits(max_pixels=3071))
    assert "more than 29 frames" in refused(mp4, VideoLimits(max_frames=29))
    assert "more than 0 seconds" in refused(mp4, VideoLimits(max_seconds=0))
    assert len(open_video(clip, 8, VideoLimits(size, 3072, 30))) == 8


@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXTINF:5,\nfile:{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {}\n"]
)
def test_a_list_of_other_files_opens_none_of_them(tmp_path, clip, text):
    path = tmp_path / "list.mp4"
    path.write_text(text.format(clip))
    assert "is not a video that this can read" in refused(path)


def test_without_pyav_one_line_says_what_to_install(clip):
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from pocketvlm.media.videos import open_video\n"
        "from pocketvlm import PocketVLMError\n"
        f"try: open_video({str(clip)!r}, 8)\n"
        "except PocketVLMError as error: print(error)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "pip install 'pocketvlm[video]'" in out
    assert out.count("\n") == 1
