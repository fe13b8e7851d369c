"""Headless Chromium by its DevTools protocol (https://chromedevtools.github.io/devtools-protocol/), for tests and screenshots."""

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
)


class Tab:
    """One page: it evaluates JavaScript, gives files to inputs, takes screenshots; `asked` lists the addresses it requested."""

    def __init__(self, socket, loop):
        self.socket, self.loop, self.count, self.asked, self.said = socket, loop, 0, [], []

    def call(self, method, **given):
        return self.loop.run_until_complete(self._call(method, given))

    async def _call(self, method, given):
        self.count += 1
        await self.socket.send_str(json.dumps({"id": self.count, "method": method, "params": given}))
        while True:
            answer = json.loads((await asyncio.wait_for(self.socket.receive(), 60)).data)
            self._note(answer)
            if answer.get("id") == self.count:
                assert "error" not in answer, (method, answer)
                return answer["result"]

    def _note(self, event):
        """What the page does by itself."""
        if event.get("method") in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            self.asked.append(event["params"].get("url") or event["params"]["request"]["url"])
        if event.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.said.append(event["params"])

    def open(self, url, width=1280, height=900, phone=False):
        for domain in ("Page", "Network", "Runtime", "DOM", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Page.navigate", url=url)
        self.until("document.querySelector('#generate')", 60)

    def close(self):
        self.call("Page.close")
        self.loop.run_until_complete(self.socket.close())

    def js(self, text):
        """The value of an expression; a promise is awaited."""
        found = self.call("Runtime.evaluate", expression=text, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, text, seconds=60):
        """Wait until an expression is true; returns its value."""
        end = time.monotonic() + seconds
        while not (found := self.js(f"(() => {{ const found = {text}; return found instanceof Element ? true : found }})()")):
            assert time.monotonic() < end, (
                f"{text} is not so after {seconds} s; the page says: {self.js('document.body.innerText')}"
            )
            time.sleep(0.1)
        return found

    def click(self, selector):
        self.js(f"document.querySelector({json.dumps(selector)}).click()")

    def type(self, selector, words):
        """Words into a text box, as a person types them."""
        self.js(f"(() => {{ const box = document.querySelector({json.dumps(selector)}); box.focus(); box.select() }})()")
        self.call("Input.insertText", text=words)

    def upload(self, selector, file):
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def shot(self, file, whole=False, kind="png"):
        """A screenshot; `whole`: of the page, not of the window alone."""
        data = self.call("Page.captureScreenshot", format=kind, captureBeyondViewport=whole)["data"]
        Path(file).write_bytes(base64.b64decode(data))


class Browser:
    """A Chromium of its own profile; each tab has its own cookies."""

    def __init__(self, port, loop, session):
        self.port, self.loop, self.session = port, loop, session

    def tab(self):
        return self.loop.run_until_complete(self._tab())

    async def _tab(self):
        async with self.session.put(f"http://127.0.0.1:{self.port}/json/new?about:blank") as answer:
            address = (await answer.json())["webSocketDebuggerUrl"]
        return Tab(await self.session.ws_connect(address, max_msg_size=0), self.loop)


@contextlib.contextmanager
def browser(folder):
    """A Browser that is closed at the end; its profile lies in the folder."""
    import aiohttp

    process = subprocess.Popen(
        [CHROMIUM, *FLAGS, f"--user-data-dir={folder}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    loop = asyncio.new_event_loop()

    async def session():
        return aiohttp.ClientSession(trust_env=False)

    found, port = loop.run_until_complete(session()), Path(folder) / "DevToolsActivePort"
    try:
        end = time.monotonic() + 60
        while not (port.is_file() and len(port.read_text().split()) == 2):
            assert process.poll() is None and time.monotonic() < end, "Chromium does not start"
            time.sleep(0.1)
        yield Browser(port.read_text().split()[0], loop, found)
    finally:
        loop.run_until_complete(found.close())
        process.terminate()
        process.wait(30)
        loop.close()
