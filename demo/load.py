#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The client outside: small requests at a fixed rate, and one long download, from the guest's web server.

    load.py ADDRESS --rate 20 --report FILE [--download-rate BYTES]

The probe is open-loop: request n is due at start + n/rate whatever became of the ones before, each on one of
a few kept connections of its own thread, and its latency counts from when it was due, so a stall is not
hidden by a client that politely waits. SIGUSR1 begins the next phase: the report has each by itself. The download reads /big.bin over one TCP connection at a limited rate
and checks the SHA-256 at the end. On SIGTERM or SIGINT the probe ends, the rest of the download comes as fast as it
can, and the report is written.
"""
import argparse
import hashlib
import http.client
import json
import os
import queue
import signal
import socket
import threading
import time


class Probe:
    """Threads that each keep one connection; a request that fails is retried on a new one, once a due time."""

    def __init__(self, address, rate, patience, stop):
        self.address, self.interval, self.patience, self.stop = address, 1.0 / rate, patience, stop
        self.due = queue.Queue()
        self.samples = []       # (due, latency or None, error), seconds since `began`
        self.lock = threading.Lock()
        self.late_max = 0.0     # of our own timer: the probe's error
        self.began = time.monotonic()
        self.marks = []         # where a new phase begins
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(16)]
        self.timer = threading.Thread(target=self._tick, daemon=True)

    def start(self):
        for thread in self.threads:
            thread.start()
        self.timer.start()

    def _tick(self):
        due = time.monotonic()
        while not self.stop.is_set():
            now = time.monotonic()
            if now < due:
                self.stop.wait(due - now)
                continue
            self.late_max = max(self.late_max, now - due)
            self.due.put(due)
            due += self.interval
        for _ in self.threads:
            self.due.put(None)

    def _work(self):
        connection = None
        while True:
            due = self.due.get()
            if due is None:
                return
            error = None
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(self.address, 80, timeout=self.patience)
                connection.request("GET", "/ping")
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200 or body != b"pong\n":
                    error = f"status {answer.status}"
            except (OSError, http.client.HTTPException) as e:
                error = f"{type(e).__name__}: {e}"
                if connection:
                    connection.close()
                connection = None
            now = time.monotonic()
            with self.lock:
                self.samples.append((due - self.began, None if error else now - due, error, now - self.began))

    def finish(self, limit):
        """After `stop`: waits for the answers to what was asked."""
        end = time.monotonic() + limit
        for thread in [self.timer, *self.threads]:
            thread.join(max(0, end - time.monotonic()))

    def mark(self):
        self.marks.append(time.monotonic() - self.began)

    @staticmethod
    def _sum_up(samples, gaps):
        good = sorted(s[1] for s in samples if s[1] is not None)
        gap, gap_at = max(gaps, default=(0.0, 0.0))

        def share(q):
            return round(good[min(len(good) - 1, int(q * len(good)))] * 1e3, 3) if good else None
        return {
            "requests": len(samples), "answered": len(good),
            "latency_ms": {"p50": share(.5), "p90": share(.9), "p99": share(.99), "max": share(1)},
            "longest_gap_ms": round(gap * 1e3, 3), "longest_gap_at_s": round(gap_at, 3),
        }

    def report(self):
        with self.lock:
            samples = sorted(self.samples, key=lambda s: s[0])
        answers = sorted(s[3] for s in samples if s[1] is not None)
        gaps = [(b - a, a) for a, b in zip(answers, answers[1:])]
        edges = [float("-inf"), *self.marks, float("inf")]
        return {
            **self._sum_up(samples, gaps),
            "failed": [s[2] for s in samples if s[2]],
            "phases": [self._sum_up([s for s in samples if a <= s[0] < b], [g for g in gaps if a <= g[1] < b])
                       for a, b in zip(edges, edges[1:])],
            "probe_late_max_ms": round(self.late_max * 1e3, 3),
            "clock": "latency from when a request was due to its last byte; the gap between two answers, "
                     "in the phase in which it began",
        }


class Download(threading.Thread):
    """One long download: one TCP connection that must live through the move."""

    def __init__(self, address, rate, patience, first=None, want=None):
        super().__init__(daemon=True)
        self.address, self.rate, self.patience = address, rate, patience
        self.headers = {"Range": f"bytes=0-{first - 1}"} if first else {}
        self.got, self.total, self.error, self.sha256, self.want = 0, None, None, None, want
        self.longest_gap, self.got_when_told = 0.0, None
        self.done = threading.Event()
        self.sock = None

    def run(self):
        try:
            self._read()
        except (OSError, http.client.HTTPException) as e:
            self.error = f"{type(e).__name__}: {e}"
        self.done.set()

    def _read(self):
        if not self.want:
            small = http.client.HTTPConnection(self.address, 80, timeout=2 * self.patience)
            small.request("GET", "/big.sha256")
            self.want = small.getresponse().read().decode().split()[0]
            small.close()
        connection = http.client.HTTPConnection(self.address, 80, timeout=2 * self.patience)
        connection.connect()
        # A small window: the server must send all along the move, not from a buffer on our side.
        self.sock = connection.sock
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.request("GET", "/big.bin", headers=self.headers)
        answer = connection.getresponse()
        self.total = int(answer.getheader("Content-Length"))
        digest = hashlib.sha256()
        began = last = time.monotonic()
        while True:
            data = answer.read1(32768)
            now = time.monotonic()
            self.longest_gap = max(self.longest_gap, now - last)
            if not data:
                break
            digest.update(data)
            self.got += len(data)
            ahead = began + self.got / self.rate - now
            if ahead > 0:
                time.sleep(ahead)
            last = time.monotonic()
        self.sha256 = digest.hexdigest()
        self.sock = None

    def finish(self, limit):
        """From here on as fast as it goes."""
        self.got_when_told, self.rate = self.got, 1e12
        if not self.done.is_set() and self.sock:
            # The small window has done its duty: the server must not crawl through the rest.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.done.wait(limit)

    def report(self):
        return {"bytes": self.got, "of": self.total, "bytes_when_told_to_end": self.got_when_told, "complete": self.done.is_set() and self.got == self.total,
                "sha256_matches": self.sha256 is not None and self.sha256 == self.want, "connections": 1,
                "longest_gap_ms": round(self.longest_gap * 1e3, 3), "error": self.error}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--download-rate", type=float, default=4e6)
    parser.add_argument("--download-first", type=int, help="only so many bytes of the file; needs --download-sha256")
    parser.add_argument("--download-sha256", help="their sum; not given: the guest has that of the whole file")
    parser.add_argument("--begun", help="a file to make once a request was answered and the download has begun")
    parser.add_argument("--report", required=True)
    parser.add_argument("--limit", type=float, default=300, help="seconds after which it stops by itself")
    parser.add_argument("--patience", type=float, default=30,
                        help="seconds without an answer after which a request counts as failed; a download: twice that")
    args = parser.parse_args()

    stop = threading.Event()
    probe = Probe(args.address, args.rate, args.patience, stop)
    download = Download(args.address, args.download_rate, args.patience, args.download_first, args.download_sha256)
    for number in signal.SIGTERM, signal.SIGINT:
        signal.signal(number, lambda *_: stop.set())
    signal.signal(signal.SIGUSR1, lambda *_: probe.mark())
    probe.start()
    download.start()
    end = time.monotonic() + args.limit
    # SIGTERM asks to end: the probe at once, the download when it is complete (it is what must survive).
    while not stop.wait(0.5) and time.monotonic() < end:
        if args.begun and probe.samples and download.got and not os.path.exists(args.begun):
            os.close(os.open(args.begun, os.O_WRONLY | os.O_CREAT))
    download.finish(max(0, end - time.monotonic()))
    probe.finish(args.patience)
    report = {"probe": probe.report(), "download": download.report()}
    part = f"{args.report}.part"
    with open(part, "w") as f:
        json.dump(report, f, indent=1)
    os.rename(part, args.report)


if __name__ == "__main__":
    main()
