"""The screenshots of docs/dashboard.md: TensorBoard on this machine alone, over a folder of runs, in a headless Chromium.

`python docs/screenshots.py runs/kind [charts maps …]` writes docs/images/dashboard-*.png; it needs chromium and aiohttp.
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
from tempfile import TemporaryDirectory

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
WIDTH, LARGEST = 1280, 300_000  # pixels; bytes of a file

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
    picture, colours = Image.open(io.BytesIO(file.read_bytes())).convert("RGB"), 256
    picture.save(file, optimize=True)
    while file.stat().st_size > LARGEST and colours >= 16:
        picture.quantize(colours).save(file, optimize=True)
        colours //= 2
    return file


def main(runs: str, *names: str, wait_s: float = 9) -> None:
    sys.path.insert(0, str(HERE.parent / "tests" / "app"))
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


if __name__ == "__main__":
    main(*sys.argv[1:])
