"""What Chromium decodes, by `decodePicture`, against the runtime: every format, depth, orientation
and kind of transparency of which the two agree.

One page decodes all files, and posts the pixels to a server of this test.
"""

import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvlm.media.pictures import open_picture
from support.picture_files import encoded, png_of_samples

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(3)
PAGE = """<!doctype html><meta charset="utf-8"><script type="module">
import { decodePicture } from "/modules/pictures.mjs";
const post = (path, body) => fetch(path, { method: "POST", body });
for (const name of %s) {
  try {
    const blob = await (await fetch(`/files/${name}`)).blob();
    const { data, width, height } = await decodePicture(blob);
    await post(`/made/${name}`, new Blob([new Uint32Array([width, height]), data]));
  } catch (error) {
    await post(`/refused/${name}`, `${error.name}: ${error.message}`);
  }
}
await post("/end", "");
</script>"""


def every_alpha():
    """Each sample at each alpha."""
    samples, alpha = np.meshgrid(np.arange(256), np.arange(256))
    rgba = np.stack([samples, 255 - samples, samples // 2, alpha], 2)
    return Image.fromarray(rgba.astype(np.uint8))


def turned(orientation):
    stated = Image.Exif()
    stated[274] = orientation
    photograph = Image.open(ROOT / "examples" / "coffee.jpg").resize((81, 54))
    return encoded(photograph, "JPEG", quality=95, exif=stated)


def pictures():
    """Files by name."""
    noise = Image.fromarray(RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    photograph = Image.open(ROOT / "examples" / "coffee.jpg")
    alpha = every_alpha()
    tall = np.indices((2100, 2050)).sum(0)[:, :, None] * np.array([1, 3, 7]) % 256
    return {
        "rgb.png": encoded(noise, "PNG"),
        "alpha.png": encoded(alpha, "PNG"),
        "grey-alpha.png": encoded(alpha.convert("LA"), "PNG"),
        "palette.png": encoded(noise.quantize(16), "PNG"),
        "transparent-colour.png": encoded(noise.quantize(16), "PNG", transparency=3),
        "bits.png": encoded(noise.convert("1"), "PNG"),
        "grey-16.png": png_of_samples(RNG.integers(0, 65536, (40, 40, 1)), 16, 0),
        "rgb-16.png": png_of_samples(RNG.integers(0, 65536, (40, 40, 3)), 16, 2),
        "in-parts.png": encoded(Image.fromarray(tall.astype(np.uint8)), "PNG"),
        "animation.gif": encoded(noise.quantize(32), "GIF"),
        "bitmap.bmp": encoded(noise, "BMP"),
        "alpha.webp": encoded(alpha, "WEBP", lossless=True, exact=True),
        "lossy.webp": encoded(photograph, "WEBP", quality=80),
        "grey.jpg": encoded(photograph.convert("L"), "JPEG"),
        "cmyk.jpg": encoded(photograph.convert("CMYK"), "JPEG"),
        "progressive.jpg": encoded(photograph, "JPEG", progressive=True),
        **{
            f"subsampled-{kind}.jpg": encoded(photograph, "JPEG", subsampling=kind)
            for kind in (0, 1, 2)
        },
        **{f"turned-{number}.jpg": turned(number) for number in range(1, 9)},
        **{
            path.name: path.read_bytes()
            for path in sorted((ROOT / "examples").iterdir())
            if path.suffix in (".png", ".jpg")
        },
    }


FILES = pictures()
# Equal here, but other releases of the decoders may round otherwise.
LOSSY = {name for name in FILES if name.endswith(".jpg")} | {"lossy.webp"}
REFUSED = {"damaged.jpg": FILES["turned-1.jpg"][:40], "text.png": b"no picture", "empty.png": b""}


class Handler(BaseHTTPRequestHandler):
    """Gives the page, the modules and the files, and keeps what is posted."""

    protocol_version = "HTTP/1.1"
    received: dict[str, bytes]
    ended: threading.Event

    def do_GET(self):
        room, _, name = self.path.strip("/").partition("/")
        kind, body = "application/octet-stream", b""
        if room == "modules":
            kind, body = "text/javascript", (ROOT / "clients" / "web" / name).read_bytes()
        elif room == "files":
            body = {**FILES, **REFUSED}[name]
        elif not room:
            kind, body = "text/html", (PAGE % json.dumps([*FILES, *REFUSED])).encode()
        self.answer(kind, body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received[self.path] = body
        self.answer("text/plain", b"")
        if self.path == "/end":
            self.ended.set()

    def answer(self, kind, body):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def received(tmp_path_factory):
    """What the page posted, by path."""
    handler = type("OfThisTest", (Handler,), {"received": {}, "ended": threading.Event()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        profile = tmp_path_factory.mktemp("profile")
        address = f"http://127.0.0.1:{server.server_port}/"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        assert CHROMIUM is not None
        browser = subprocess.Popen(
            [CHROMIUM, *flags, address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            assert handler.ended.wait(300), f"only {sorted(handler.received)} came"
        finally:
            browser.terminate()
            browser.wait(60)
            server.shutdown()
    return handler.received


@pytest.mark.parametrize("name", FILES)
def test_decoded_pixels_equal_the_runtimes(received, name):
    assert f"/made/{name}" in received, received.get(f"/refused/{name}")
    body = received[f"/made/{name}"]
    width, height = np.frombuffer(body[:8], np.uint32)
    rgba = np.frombuffer(body[8:], np.uint8).reshape(height, width, 4)
    assert (rgba[:, :, 3] == 255).all()
    expected = np.asarray(open_picture(FILES[name])).astype(int)
    assert expected.shape == (height, width, 3)
    assert np.abs(rgba[:, :, :3] - expected).max() <= (2 if name in LOSSY else 0)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_refused_in_words(received, name):
    refused = received[f"/refused/{name}"].decode()
    assert refused.startswith("ClientError: ")
    assert refused.endswith(": give JPEG, PNG, WebP or GIF")
