"""A headless Chromium through its driver: HTTP and JSON, nothing else. It has no network."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

# Debian's names, then others'.
BROWSERS = ("/usr/bin/chromium", "/usr/bin/google-chrome")
DRIVERS = ("/usr/bin/chromedriver",)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--force-device-scale-factor=1",
         "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND", "--allow-file-access-from-files"]


class Missing(Exception):
    """There is no browser here; the text says which part is missing."""


def first(paths, what):
    for path in paths:
        if os.access(path, os.X_OK):
            return path
    raise Missing(f"no {what}: none of {', '.join(paths)}")


class Browser:
    def __init__(self, width=1100, height=1000):
        browser, driver = first(BROWSERS, "Chromium"), first(DRIVERS, "driver of it (Debian: chromium-driver)")
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        self.session = None
        self.driver = subprocess.Popen([driver, "--port=0"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, text=True)
        try:
            self.base = f"http://127.0.0.1:{self._port()}"
            made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": {
                "browserName": "chrome", "goog:loggingPrefs": {"browser": "ALL"},
                "goog:chromeOptions": {"binary": browser, "args": [
                    *FLAGS, f"--user-data-dir={self.profile}", f"--window-size={width},{height}"]}}}})
            self.session = f"/session/{made['sessionId']}"
        except BaseException:
            self.close()
            raise

    def _port(self):
        for line in self.driver.stdout:
            if "started successfully on port" in line:
                return int(line.rsplit("port", 1)[1].strip(" .\n"))
        raise Missing("the driver did not start")

    def _ask(self, method, path, body=None):
        request = urllib.request.Request(self.base + path, method=method, headers={"Content-Type": "application/json"},
                                         data=json.dumps(body).encode() if body is not None else None)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=180) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path}: {error.read().decode(errors='replace')[:500]}") from error

    def go(self, url):
        self._ask("POST", self.session + "/url", {"url": url})

    def run(self, script):
        """What a function body returns, run in the page."""
        return self._ask("POST", self.session + "/execute/sync", {"script": script, "args": []})

    def cdp(self, command, **params):
        return self._ask("POST", self.session + "/goog/cdp/execute", {"cmd": command, "params": params})

    def media(self, media="", dark=False):
        self.cdp("Emulation.setEmulatedMedia", media=media, features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def scripts(self, on):
        self.cdp("Emulation.setScriptExecutionDisabled", value=not on)

    def log(self):
        """What the console said since last asked."""
        return [entry["message"] for entry in self._ask("POST", self.session + "/se/log", {"type": "browser"})]

    def wait(self, condition, seconds=90):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.run(f"return Boolean({condition})"):
                return True
            time.sleep(0.2)
        return False

    def shot(self, path):
        """The whole page as PNG."""
        size = self.cdp("Page.getLayoutMetrics")["cssContentSize"]
        data = self.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip={
            "x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 16000), "scale": 1})["data"]
        data = base64.b64decode(data)
        with open(path, "wb") as file:
            file.write(data)
        return data

    def pdf(self):
        return base64.b64decode(self.cdp("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"])

    def close(self):
        if self.session:
            try:
                self._ask("DELETE", self.session)
            except (RuntimeError, OSError):
                pass  # it is ended below
        self.driver.terminate()
        try:
            self.driver.wait(20)
        except subprocess.TimeoutExpired:
            self.driver.kill()
            self.driver.wait()
        self.driver.stdout.close()
        shutil.rmtree(self.profile, ignore_errors=True)
