#!/usr/bin/env python3
"""Predictions beside real moves: tiny guests of known habits are recorded, then moved over a link of known rate.

What is compared is counted, not timed: bytes, rounds, and the pages sent while the guest stood still. The link is
a relay that passes so many bytes a second; on a busy machine it is slower than it says, which makes rounds longer
but hardly changes what a hot set leaves behind, so the tolerances are wide. Writers are not slowed: how a guest
writes then is not in a recording (docs/wws.md).
"""
import threading
import time

from harness import Host, Relay, check, need_kvm, run_tests

BYTES_PER_S = 125000000  # 1 Gbit/s


class Link(Relay):
    """Passes BYTES_PER_S and no more: each section leaves when the link has carried what came before."""

    def __init__(self, to):
        super().__init__(to, None)
        self.free_at, self.lock = 0.0, threading.Lock()

    def take(self, sock, count):  # pylint: disable=arguments-differ
        data = Relay.take(sock, count)
        if count > 4096:
            with self.lock:
                self.free_at = max(self.free_at, time.monotonic()) + count / BYTES_PER_S
                wait = self.free_at - time.monotonic()
            time.sleep(max(wait, 0))
        return data

    def serve(self):
        self.at = lambda *_: None
        super().serve()


def within(what, predicted, real, factor, slack):
    low, high = predicted / factor - slack, predicted * factor + slack
    check(low <= real <= high, f"{what}: predicted {predicted}, in fact {real}")
    print(f"# {what}: predicted {predicted}, in fact {real}")


def compare(cmdline, memory, mode):
    def test():
        with Host(insecure=True) as a, Host(insecure=True) as b:  # the relay reads the stream
            vm = a.guest("guest", "writer", cmdline, memory=memory)
            vm.progress()
            report = a.json("wws", "guest", "--interval", "50ms", "--for", "2s", "--bandwidths", "1Gbit/s",
                            "--throttle", "never")
            check(report["ended"] == "complete", report["ended"])
            vm.progress()
            foretold = next(p for p in report["predictions"] if p["mode"] == mode)
            to = b.receive()
            with Link(to.address) as link:
                bill = a.migrate("guest", link.address, "--mode", mode, "--throttle", "never")
            vm.ended()
            to.pid = b.pid("guest")
            to.stop()
            running = [r for r in bill["rounds"]["list"] if not r["paused"]]
            paused = [r for r in bill["rounds"]["list"] if r["paused"]]
            rounds = sum(r["last"] - r["first"] + 1 for r in running)
            within("bytes", foretold["bytes"], bill["bytes"]["total"], 1.3, 4 << 20)
            within("pages sent while the guest stood still", foretold["last_pages"],
                   sum(r["pages_data"] for r in paused), 2, 512)
            if mode == "stop-copy":
                check(rounds == foretold["rounds"] == 0, f"{rounds} rounds before the stop")
            else:
                within("rounds", foretold["rounds"], rounds, 2, 3)
    return test


GUESTS = {
    "idle": ("dense=24M idle=1", "64M"),
    "16 MiB hot": ("dense=32M hot=16M", "64M"),
    "64 MiB hot": ("dense=72M hot=64M", "128M"),
}

if __name__ == "__main__":
    need_kvm()
    run_tests([(f"{name}, {mode}", compare(*guest, mode))
               for name, guest in GUESTS.items() for mode in ("pre-copy", "stop-copy")])
