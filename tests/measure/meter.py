"""What tests of godwit-meter share: a meter at work, a process whose work is known, and what holds for any file."""
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../system"))
from harness import BUILD, LIMIT, Failed, check, wait_for  # noqa: E402

METER = os.path.join(BUILD, "measure/meter/godwit-meter")
WORK = os.path.join(BUILD, "tests/measure/work")
HOST_KINDS = ["user_ns", "system_ns", "irq_ns", "softirq_ns", "steal_ns", "idle_ns", "guest_ns"]
WORK_LIMIT = 120  # seconds for work that takes a fraction of one, on a machine that has more to do
MOST_S = "300s"  # a meter that a failed test leaves ends by itself


class Work:
    """tests/measure/work.c: one line to it, one line from it."""

    def __init__(self, *args, name=None, **kwargs):
        self.process = subprocess.Popen([name or WORK, *map(str, args)], executable=WORK, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, bufsize=0, **kwargs)
        self.pid, self.ready = self.process.pid, self.line()

    def line(self):
        text = b""
        while not text.endswith(b"\n"):
            check(select.select([self.process.stdout], [], [], WORK_LIMIT)[0], "the work says nothing")
            byte = self.process.stdout.read(1)
            check(byte, "the work ended")
            text += byte
        return json.loads(text)

    def go(self):
        self.process.stdin.write(b"\n")
        return self.line()

    def end(self):
        self.process.stdin.close()
        self.process.wait(LIMIT)
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Meter:
    """A meter that runs; .samples grows. After end(), .last is the last line, or None."""

    def __init__(self, *args, wrap=(), interval="20ms", **kwargs):
        handle, self.path = tempfile.mkstemp(suffix=".jsonl")
        os.close(handle)
        self.process = subprocess.Popen([*wrap, METER, *args, "--interval", interval, "-o", self.path,
                                         *([] if "--for" in args else ["--for", MOST_S])],
                                        stderr=subprocess.PIPE, text=True, **kwargs)
        self.first, self.last, self.samples, self.taken = None, None, [], 0
        wait_for("a first sample", lambda: self.read() or self.process.poll() is not None)

    def read(self):
        """Takes in the whole lines that were written since the last time."""
        with open(self.path, "rb") as f:
            f.seek(self.taken)
            text = f.read().rpartition(b"\n")[0]
        if text:
            self.taken += len(text) + 1
            for line in map(json.loads, text.split(b"\n")):
                if "at_ns" in line:
                    self.samples.append(line)
                elif "meter" in line:
                    self.first = line
                else:
                    self.last = line
        return self.samples

    def more(self, count=2):
        """Waits for samples taken wholly from now on, and returns the last."""
        before = len(self.read())
        wait_for("samples", lambda: len(self.read()) >= before + count + 1 or self.process.poll() is not None)
        return self.samples[-1]

    def until(self, what, good):
        """Waits for a sample that is so, and returns it."""
        return wait_for(lambda: f"{what}; last sample: {self.samples[-1] if self.samples else None}",
                        lambda: next((s for s in self.read() if good(s)), None))

    def end(self, number=signal.SIGTERM, status=0):
        if self.process.poll() is None:
            self.process.send_signal(number)
        error = self.process.communicate(timeout=LIMIT)[1]
        check(self.process.returncode == status, f"exit status {self.process.returncode}: {error}")
        self.read()
        return error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def check_file(meter):
    """What holds in every file: parts within their wholes, sums, counters that only grow."""
    check(meter.first["meter"] == 1 and meter.last, f"first {meter.first}, last {meter.last}")
    check(meter.last["samples"] == len(meter.samples) and meter.last["meter_cpu_ns"] > 0, str(meter.last))
    before = None
    for sample in meter.samples:
        process = sample["process"]
        if process and sample["threads"] is not None:
            check(sum(t["cpu_ns"] for t in sample["threads"]) <= process["cpu_ns"], f"threads exceed {sample}")
            check(all(t["guest_ns"] <= t["cpu_ns"] + meter.first["tick_ns"] for t in sample["threads"]), str(sample))
        if before:
            check(sample["at_ns"] > before["at_ns"], "time goes back")
            running = sample["running_ns"]
            check(running is None or sum(running) == sample["at_ns"] - before["at_ns"],
                  f"{running} do not sum to {sample['at_ns'] - before['at_ns']}")
            check(all(sample["host"][k] >= before["host"][k] for k in ["user_ns", "system_ns", "context_switches"]),
                  f"a counter of {sample['host']} went back from {before['host']}")
            if process and before["process"]:
                check(process["cpu_ns"] >= before["process"]["cpu_ns"], f"CPU went back: {before} {sample}")
            check_threads(before, sample)
        before = sample


def check_threads(before, sample):
    """Every thread is there again, unless it ended; and what it used only grows."""
    if before["threads"] is None or sample["threads"] is None:
        return
    now = {t["tid"]: t for t in sample["threads"]}
    for thread in before["threads"]:
        tid = thread["tid"]
        check(thread.get("ended", False) != (tid in now), f"thread {tid} in {before} and {sample}")
        if tid in now:
            check(all(now[tid][k] >= thread[k] for k in ["cpu_ns", "guest_ns", "voluntary", "involuntary"]),
                  f"thread {thread} went back to {now[tid]}")


def thread(sample, tid):
    found = [t for t in sample["threads"] if t["tid"] == tid]
    check(len(found) == 1, f"thread {tid} in {sample['threads']}")
    return found[0]


class Unknown(Failed):
    pass


def known(test):
    """A test of what ran: where a busy machine kept the meter waiting until records were lost, which it said, again."""
    def again():
        for _ in range(4):
            try:
                return test()
            except Unknown as e:
                print(f"# again: {e}")
        return test()
    return again


def running_between(meter, from_ns, to_ns):
    """Sums of running_ns over the samples that cover this time; and the first and last sample of it."""
    first = [s for s in meter.samples if s["at_ns"] <= from_ns][-1]
    last = next(s for s in meter.samples if s["at_ns"] >= to_ns)
    total = []
    for sample in meter.samples:
        if first["at_ns"] < sample["at_ns"] <= last["at_ns"]:
            if sample["running_ns"] is None:
                raise Unknown(f"running_ns is not known at {sample['at_ns']}: {meter.last}")
            for i, ns in enumerate(sample["running_ns"]):
                total += [0] * (i + 1 - len(total))
                total[i] += ns
    return total, first, last
