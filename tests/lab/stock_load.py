# SPDX-License-Identifier: Apache-2.0
"""What stock guests do while they are moved: answer a client outside, and write their memory."""
import functools
import hashlib
import http.server
import json
import os
import re
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading

from stock import BUILD, GUEST_ADDRESS, LIMIT_S, ROOT, Move, eventually, expect, net


DOWNLOAD_BYTES = 24 << 20      # of big.bin: what is left when told to end comes as fast as it can, and that is slow


@functools.cache
def download_sum():
    """The sum of the key stream that images/build makes big.bin of."""
    made = subprocess.run(["openssl", "enc", "-aes-128-ctr", "-nosalt", "-K", "676f64776974206b6579207374726561",
                           "-iv", "0" * 32], input=bytes(DOWNLOAD_BYTES), capture_output=True, check=True)
    return hashlib.sha256(made.stdout).hexdigest()


class Kept:
    """One TCP connection to the guest's web server, never renewed."""

    def __init__(self, netns):
        self.sock = net.socket_in(netns)
        self.sock.settimeout(LIMIT_S)
        self.sock.connect((GUEST_ADDRESS, 80))
        self.answers = self.sock.makefile("rb")

    def ask(self):
        self.sock.sendall(b"GET /ping HTTP/1.1\r\nHost: guest\r\n\r\n")
        expect(self.answers.readline().startswith(b"HTTP/1.1 200"), "the kept connection was lost")
        while self.answers.readline().strip():
            pass
        expect(self.answers.read(5) == b"pong\n", "the kept connection answers something else")

    def close(self):
        self.answers.close()
        self.sock.close()


class Client:
    """Requests at a fixed rate, a connection that is kept, and one long download (demo/load.py), from outside.

    All of them must have survived when the block ends, whatever happened to the guest in it.
    """

    def __init__(self, stock, *, rate=5, patience=LIMIT_S - 30):
        self.stock, self.options = stock, ["--rate", str(rate), "--patience", str(patience),
                                           "--download-rate", "1e5", "--download-first", str(DOWNLOAD_BYTES),
                                           "--download-sha256", download_sum()]

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="godwit-test-")
        self.report = os.path.join(self.folder.name, "report")
        self.kept = Kept(self.stock.lab.netns)
        self.load = subprocess.Popen(self.stock.lab.client_argv(
            [sys.executable, os.path.join(ROOT, "demo", "load.py"), GUEST_ADDRESS, *self.options, "--report",
             self.report,
             "--begun", f"{self.report}-begun"]))
        eventually(lambda: os.path.exists(f"{self.report}-begun"), "the client outside is served")
        self.kept.ask()
        return self

    def ask(self):
        self.kept.ask()

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self.kept.ask()
                self.load.send_signal(signal.SIGTERM)
                self.load.wait(LIMIT_S)
                with open(self.report, encoding="utf-8") as file:
                    self._judge(json.load(file))
        finally:
            self.kept.close()
            self.load.kill()
            self.load.wait()
            self.folder.cleanup()

    @staticmethod
    def _judge(client):
        probe, download = client["probe"], client["download"]
        print(f"  {probe['answered']} of {probe['requests']} requests answered, longest silence "
              f"{probe['longest_gap_ms']:.0f} ms", flush=True)
        expect(probe["requests"] > 0 and probe["answered"] == probe["requests"],
               f"requests that failed: {probe['failed']}")
        expect(download["bytes_when_told_to_end"] < download["of"], "the download spanned all of it")
        expect(download["complete"] and download["sha256_matches"], f"the download: {download}")


class Writer:
    """writer.c in the guest, which verifies its memory while it writes it. It ends by itself after some minutes."""

    def __init__(self, stock, hot_mib, dense_mib, looks=1, *, limit_s=400):
        self.stock = stock
        stock.shell(f"test -x /tmp/writer || busybox wget -qO /tmp/writer http://{net.CLIENT}:{serve(stock)}/; chmod "
                    f"+x /tmp/writer; rm -f /tmp/progress; cd /tmp; "
                    f"(./writer {hot_mib} {dense_mib} {limit_s} {looks} 2>/tmp/writer.log & echo $! >/tmp/writer.pid); "
                    "cd /")
        self.passes = 0
        self.await_pass()

    def _progress(self):
        text = self.stock.shell("cat /tmp/progress /tmp/writer.log 2>&1")
        found = re.match(r"(\w+) +passes +(\d+) bad +(\d+)\n", text)
        return (found[1], int(found[2]), int(found[3])) if found else (text, 0, 0)

    def await_pass(self):
        """It goes on, and has found nothing wrong. Returns how often it has written all of its pages."""
        def further():
            state, passes, bad = self._progress()
            expect(bad == 0, f"the writer found {bad} pages that do not hold what was written to them")
            expect(passes == 0 or state == "working", f"the writer: {state}")
            return passes if passes > self.passes else 0
        self.passes = eventually(further, "the writer goes on")
        return self.passes

    def end(self):
        """All of its memory is looked at once more."""
        self.stock.shell("kill $(cat /tmp/writer.pid)")
        state, passes, bad = eventually(lambda: (now := self._progress())[0] == "ended" and now, "the writer ends")
        expect(bad == 0, f"the writer found {bad} pages that do not hold what was written to them")
        print(f"  the writer: {passes} passes, nothing wrong", flush=True)


def serve(stock):
    """A web server outside that has the writer to give away; returns its port."""
    if not hasattr(stock, "writer_port"):
        with open(os.path.join(BUILD, "tests", "lab", "writer"), "rb") as file:
            program = file.read()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(program)))
                self.end_headers()
                self.wfile.write(program)

            def log_message(self, *_):
                pass
        server = http.server.ThreadingHTTPServer((net.CLIENT, 0), Handler, bind_and_activate=False)
        server.socket.close()
        server.socket = net.socket_in(stock.lab.netns)
        socketserver.TCPServer.server_bind(server)     # HTTPServer's would ask for our name, which nobody knows
        server.server_activate()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stock.writer_port = server.server_address[1]
    return stock.writer_port


class Between:
    """A post-copy under way: the guest runs at the other host, and needs this one. The link is narrow meanwhile."""
    RATE = "48mbit"

    def __init__(self, stock, *, listen=None):
        self.stock, self.source, self.target = stock, stock.here, stock.other
        stock.lab.shape(self.source.host.name, rate=self.RATE)
        stock.receive(listen=listen)
        self.move = Move(self.source, self.target, "--mode", "post-copy", "--stall-limit", "3s")
        stock.await_state(self.target, "pulling")
        stock.await_state(self.source, "serving")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stock.lab.join(self.source.host.name)
        self.stock.lab.shape(self.source.host.name)

    def stranded(self):
        """Both sides have noticed. What follows need not be slow any more."""
        self.stock.await_state(self.source, "stranded")
        self.stock.await_state(self.target, "stranded", "unresponsive")
        self.stock.lab.shape(self.source.host.name)
