"""The screenshots of docs/, taken on this machine alone in a headless Chromium; it needs chromium and aiohttp.

python docs/screenshots.py runs/kind [charts maps …]   TensorBoard over a folder of runs: docs/images/dashboard-*.png
python docs/screenshots.py app                         the page, at a desk and on a phone: docs/images/app.png
"""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

from PIL import Image

HERE = Path(__file__).parent

# file → tab of TensorBoard, what is typed into its filter, and the height of the window
SHOTS = {
    "charts": ("custom_scalars", "", 2090),
    "maps": ("images", "_map|item[01]/where", 1070),
    "media": ("images", "item0/(ref|spec)", 740),
    "runs": ("hparams", "", 360),
    "about": ("text", "run/text", 900),
}
WIDTH, PHONE, HEIGHT, GAP = 1280, 390, 1300, 40  # pixels: of windows, and of the two shots of the page side by side
LARGEST = 300_000  # bytes of a file

# its page is of nested shadow trees, which no selector crosses
ALL = """(() => {
    const walk = (tree) => [...tree.querySelectorAll("*")].flatMap((e) => [e, ...(e.shadowRoot ? walk(e.shadowRoot) : [])]);
    return walk(document);
})()"""
FILTER = f"{ALL}.find((e) => /^Filter tags/.test(e.label || '') && e.offsetParent)"
NO_PATHS = (
    f"{ALL}.filter((e) => !e.children.length && /^[/]\\S/.test(e.textContent)).forEach((e) => {{ e.style.display = 'none' }})"
)


def free_port() -> int:
    with socket.socket() as given:
        given.bind(("127.0.0.1", 0))
        return given.getsockname()[1]


def wait_for(url: str, seconds: float = 120) -> None:
    """Until a server answers; TimeoutError where it does not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            return urllib.request.urlopen(url, timeout=10).close()
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"{url} does not answer")


def shoot(tab, url: str, name: str, wait_s: float) -> Path:
    """One tab of TensorBoard → docs/images/dashboard-<name>.png, in a palette where it would be too large."""
    plugin, words, height = SHOTS[name]
    tab.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=height, deviceScaleFactor=1, mobile=False)
    tab.call("Page.navigate", url=f"{url}/?{name}#{plugin}")
    time.sleep(wait_s)  # its pages tell nobody when they are drawn
    if words:
        tab.js(f"{FILTER}.value = {json.dumps(words)}")
        time.sleep(wait_s)
    tab.js(NO_PATHS)
    file = HERE / "images" / f"dashboard-{name}.png"
    tab.shot(file)
    return lessened(Image.open(io.BytesIO(file.read_bytes())), file)


def lessened(picture: Image.Image, file: Path) -> Path:
    """Write the picture, in a palette where it would be too large."""
    picture, colours = picture.convert("RGB"), 256
    picture.save(file, optimize=True)
    while file.stat().st_size > LARGEST and colours >= 16:
        picture.quantize(colours).save(file, optimize=True)
        colours //= 2
    return file


def dashboard(runs: str, *names: str, wait_s: float = 9) -> None:
    from browser import browser

    url = f"http://127.0.0.1:{(port := free_port())}"
    command = ["-m", "tensorboard.main", "--logdir", runs, "--host", "127.0.0.1", "--port", str(port), "--load_fast", "false"]
    board = subprocess.Popen([sys.executable, *command, "--samples_per_plugin", "images=100"], stderr=subprocess.DEVNULL)
    try:
        wait_for(f"{url}/data/runs")
        time.sleep(wait_s)  # it reads the runs meanwhile
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder, browser(folder) as chromium:
            tab = chromium.tab()
            for name in names or SHOTS:
                file = shoot(tab, url, name, wait_s)
                print(file, f"{file.stat().st_size / 1000:.0f} kB")
    finally:
        board.terminate()
        board.wait(30)


def demonstrated(tab, url: str, width: int, phone: bool) -> Image.Image:
    """The whole page after an example has become a clip, and the picture has been asked where it acted."""
    tab.open(url, width=width, height=900, phone=phone)
    tab.upload("#picture input[type=file]", HERE.parent / "data" / "examples" / "sea-night-clear.png")
    tab.type("#sentence textarea", "a tune in A minor")
    tab.type("#seed textarea, #seed input", "7")
    tab.until("document.querySelector('#picture img')?.naturalWidth > 0")
    tab.click("#generate")
    tab.until("document.querySelector('#clip-1').innerText.includes('0:05')", 300)
    tab.until("document.querySelector('#spectrogram img')?.naturalWidth > 0")
    tab.click("#ask")
    tab.until("document.querySelector('#influence img')?.naturalWidth > 0", 300)
    time.sleep(2)  # pictures fade in
    with NamedTemporaryFile(suffix=".png") as file:
        tab.shot(file.name, whole=True)
        return Image.open(io.BytesIO(Path(file.name).read_bytes())).convert("RGB")


def app() -> None:
    from browser import browser

    from melfusion.app.actions import Actions
    from melfusion.app.models import SHIPPED, Models
    from melfusion.app.server import serve

    page = serve(Actions(Models({SHIPPED: None}, "cpu")), "127.0.0.1", None, 4, 20, None, wait=False)
    try:
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder, browser(folder) as chromium:
            shots = [demonstrated(chromium.tab(), page.blocks.local_url, width, width < 800) for width in (WIDTH, PHONE)]
    finally:
        page.blocks.close()
    shots = [shot.resize((round(shot.width * HEIGHT / shot.height), HEIGHT), Image.Resampling.LANCZOS) for shot in shots]
    both = Image.new("RGB", (sum(shot.width for shot in shots) + GAP, HEIGHT), "white")
    both.paste(shots[0], (0, 0))
    both.paste(shots[1], (shots[0].width + GAP, 0))
    file = lessened(both, HERE / "images" / "app.png")
    print(file, f"{file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent / "tests" / "app"))
    app() if sys.argv[1:] == ["app"] else dashboard(*sys.argv[1:])
