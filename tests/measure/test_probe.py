#!/usr/bin/env python3
"""The probe against servers that stall: it must find each stall, and the true percentiles, to a millisecond and its
own lateness.

For every request the server's log has the interval in which it answered. The probe must not have read the answer
before that; it may have been late by as much as its own timer was known to be late at that time. What is derived from
rows (gaps, latencies, percentiles) must agree with what is derived from the log in the same way.
"""
import bisect
import ctypes
import os
import random
import socket
import struct
import subprocess
import sys
import time

from probing import (MS, Late, Server, Skipped, check, cut_echo, cut_http, cut_ping, listen, main, now_ns, probe, roomy,
                     serve_datagrams, serve_stream, statuses, target)

RATE = 2000         # a late probe that is late by more than half a millisecond shows in its timer's lateness
STALLS = {150: 0.080, 700: 0.200, 1300: 0.037}
TOLERANCE = MS      # beyond the probe's own lateness
GAP = 30 * MS       # of the server's silences, those that must be found


class Lateness:
    """By how much the probe was known to be late in an interval. Who is late has to catch up, which takes no longer
    than he was late: so an answer may have waited twice as long."""

    def __init__(self, run):
        self.entries = run.lateness()
        self.due = [due for due, _ in self.entries]
        self.most = max(late for _, late in self.entries)
        self.end = self.due[-1]  # later nothing is known: its timer has nothing more to do

    def within(self, begin, end):
        first = bisect.bisect_left(self.due, begin - self.most)
        last = bisect.bisect_right(self.due, end)
        return 2 * max((late for due, late in self.entries[first:last] if due + late >= begin), default=0)


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def check_rows(rows, facts):
    check([row["seq"] for row in rows] == list(range(len(rows))), "rows out of order")
    check(statuses(rows) == {"ok": len(rows)} == facts["statuses"], f"not all answered: {statuses(rows)}")
    check(facts["requests"] == len(rows), "facts: requests")
    first = rows[0]["due_ns"]
    for row in rows:
        check(row["due_ns"] == first + row["seq"] * 10**9 // RATE, f"due at the wrong time: {row}")
        check(row["due_ns"] <= row["sent_ns"] <= row["done_ns"], f"out of order: {row}")


def check_lateness(run, facts):
    late = [entry[1] for entry in run.lateness()]
    check(len(late) == facts["requests"] == facts["late"]["count"], "an entry a request")
    check(max(late) == facts["late"]["max_ns"], "the largest lateness is exact")
    for key, share in ("p50_ns", 0.5), ("p99_ns", 0.99):
        exact = sorted(late)[-(-int(share * 1000) * len(late) // 1000) - 1]
        check(exact <= facts["late"][key] <= exact * 65 / 64 + 1, f"{key}: {facts['late'][key]}, exactly {exact}")


def compare(run, log, stalls, late_share=0):
    """Rows against the server's log; of the answers, such a share may be later than was known."""
    rows, facts = run.rows(), run.facts()
    check_rows(rows, facts)
    check_lateness(run, facts)
    lateness = Lateness(run)
    served = {entry["seq"]: entry for entry in log if "seq" in entry}
    check(len(served) == len(rows), "the server answered others")
    low, high, real, late = [], [], [], []
    for row in rows:
        entry = served[row["seq"]]
        check(row["sent_ns"] <= entry["received"], f"received before it was sent: {row} {entry}")
        check(entry["before"] <= row["done_ns"], f"read before it was answered: {row} {entry}")
        known = entry["after"] + TOLERANCE + lateness.within(entry["before"], row["done_ns"])
        if known < row["done_ns"] <= lateness.end:
            late.append(f"read {(row['done_ns'] - known) / MS} ms too late: {row} {entry}")
        low.append(entry["before"] - row["due_ns"])
        high.append(max(known, row["done_ns"]) - row["due_ns"])
        real.append(row["done_ns"] - row["due_ns"])
    print(f"# {len(late)} of {len(rows)} answers were read later than was known")
    if len(late) > len(rows) * late_share:
        raise Late(f"{len(late)} answers of {len(rows)}: {late[0]}")
    for share in 0.5, 0.9, 0.99, 0.999, 1:
        check(quantile(low, share) <= quantile(real, share) <= quantile(high, share), f"the percentile {share}")
    check_stalls(rows, log, stalls, lateness, served)
    silences = sorted(row["done_ns"] for row in rows)
    check(facts["silence_ns"] == max(b - a for a, b in zip(silences, silences[1:])), "the longest silence")


def check_stalls(rows, log, stalls, lateness, served):
    found = {entry["stall"]: entry for entry in log if "stall" in entry}
    check(set(found) == set(stalls), "the server stalled as planned")
    for stall in found.values():
        length = stall["to"] - stall["from"]
        hit = rows[stall["stall"]]
        check(hit["done_ns"] - hit["due_ns"] >= length,
              f"the request that met the stall was answered sooner: {hit} {stall}")
        # Nobody waited politely: as many were due as at any other time, each to wait for the rest of the stall.
        due = [row for row in rows if stall["from"] <= row["due_ns"] < stall["to"]]
        common = max(0, min(stall["to"], rows[-1]["due_ns"]) - max(stall["from"], rows[0]["due_ns"]))
        check(abs(len(due) - common * RATE / 1e9) <= 1, f"{len(due)} due in {common / MS} ms")
        check(all(row["done_ns"] >= stall["to"] for row in due), "answered while the server slept")
    answers = sorted(row["done_ns"] for row in rows)
    gaps = [(b - a, a, b) for a, b in zip(answers, answers[1:])]
    sends = sorted((entry["before"], entry["after"]) for entry in served.values())
    for (early, last), (first, after) in zip(sends, sends[1:]):
        if first - last < GAP or after > lateness.end - GAP:
            continue
        met = [gap for gap in gaps if gap[1] < first <= gap[2]]  # the one that ends with the first answer after it
        check(len(met) == 1, f"{len(met)} gaps around {first}")
        gap, a, b = met[0]
        at_begin, at_end = lateness.within(early, a) + TOLERANCE, lateness.within(first, b) + TOLERANCE
        check(first - last - at_begin <= gap <= after - early + at_end,
              f"a silence of {(first - last) / MS} to {(after - early) / MS} ms was found as {gap / MS} ms")


def stalling(serve, *argv):
    server = Server(lambda log: serve(log))
    try:
        run = probe(*argv, "--rate", RATE, "--limit", RATE, "--timeout", "20s", "--priority", late=True)
    finally:
        log = server.stop()
    compare(run, log, STALLS)


def test_tcp_stalls():
    sock = listen()
    stalling(lambda log: serve_stream(sock, cut_echo(64), log, stalls=STALLS), "tcp", target(sock))


def test_http_stalls():
    sock = listen()
    stalling(lambda log: serve_stream(sock, cut_http, log, stalls=STALLS), "http", target(sock), "--connections", 1,
             "--expect", "pong\n")


def test_http_posts_stall():
    sock = listen()
    stalling(lambda log: serve_stream(sock, cut_http, log, stalls=STALLS), "http", target(sock), "--mix",
             "post:1:/post")


def test_resp_stalls():
    sock = listen()
    stalling(lambda log: serve_stream(sock, cut_ping, log, stalls=STALLS), "resp", target(sock), "--connections", 1)


def udp_socket():
    sock = roomy(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.bind(("127.0.0.1", 0))
    return sock


def test_udp_stalls():
    sock = udp_socket()
    stalling(lambda log: serve_datagrams(sock, cut_echo(64), log, stalls=STALLS), "udp", target(sock))


def cut_icmp(data):
    """An echo request with its IP header; the answer has another type and so another sum."""
    data = data[(data[0] & 15) * 4:]
    if data[0] != 8:
        return None
    answer = bytearray(b"\0\0\0\0" + data[4:])
    total = sum(struct.unpack(f">{len(answer) // 2}H", answer))
    total = (total & 0xffff) + (total >> 16)
    answer[2:4] = struct.pack(">H", ~(total + (total >> 16)) & 0xffff)
    return struct.unpack_from("<Q", data, 16)[0], len(data), bytes(answer)


def in_namespace(work):
    """Runs work() in a network namespace of its own, where this process's children are too."""
    if os.geteuid() != 0:
        raise Skipped("a network namespace wants root")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):
                status = 2
            else:
                subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
                work()
                status = 0
        except BaseException as e:
            print(f"# in the namespace: {e}", flush=True)
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 2:
        raise Skipped("no network namespace can be made here")
    check(status == 0, "in the namespace, as said above")


def test_icmp_stalls():
    """The kernel answers echoes itself and does not stall: told not to, it leaves them to a raw socket."""
    def work():
        with open("/proc/sys/net/ipv4/icmp_echo_ignore_all", "w", encoding="ascii") as f:
            f.write("1")
        sock = roomy(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
        stalling(lambda log: serve_datagrams(sock, cut_icmp, log, stalls=STALLS), "icmp", "127.0.0.1")
    in_namespace(work)


def test_icmp_without_privilege():
    """Where the kernel allows it, no raw socket is needed; and both families work."""
    def work():
        with open("/proc/sys/net/ipv4/ping_group_range", "w", encoding="ascii") as f:
            f.write("0 100000")
        for host in "127.0.0.1", "::1":
            run = probe("icmp", host, "--rate", 200, "--limit", 50)
            check(statuses(run.rows()) == {"ok": 50} and run.facts()["strays"] == 0, run.facts())
    in_namespace(work)


def test_delays():
    """True percentiles: each answer is delayed by its own time, from a long-tailed distribution."""
    random.seed(4)
    delays = [min(0.3, random.expovariate(1) * 0.004) for _ in range(RATE)]
    sock = udp_socket()
    server = Server(lambda log: serve_datagrams(sock, cut_echo(64), log, delay=lambda n: delays[n]))
    try:
        run = probe("udp", target(sock), "--rate", RATE, "--limit", RATE, "--priority", late=True)
    finally:
        log = server.stop()
    compare(run, log, {}, late_share=0.02)  # the kernel's way from a server that is never idle has delays of its own
    latencies = [row["done_ns"] - row["due_ns"] for row in run.rows()]
    check(all(latency >= delay * 1e9 for latency, delay in zip(latencies, delays)), "sooner than the server waited")


def test_spin():
    """Waking early is never sending early."""
    sock = udp_socket()
    server = Server(lambda log: serve_datagrams(sock, cut_echo(64), log))
    try:
        run = probe("udp", target(sock), "--rate", RATE, "--limit", RATE // 2, "--spin", "200us", late=True)
    finally:
        log = server.stop()
    compare(run, log, {})
    check(run.facts()["spin_ns"] == 200_000, "facts: spin")


TICK = 10 * MS


def serve_ticks(sock, ticks, log):
    """As the guest's tick server: a packet a tick to all who were heard, numbered for each; it oversleeps as told."""
    players, due = {}, now_ns()
    sock.setblocking(False)
    for tick in range(ticks):
        due += TICK
        time.sleep(max(0, due - now_ns()) / 1e9 + (0.150 if tick == ticks // 2 else 0))
        try:
            while True:
                data, sender = sock.recvfrom(100)
                word, player = data.split()
                players.setdefault(sender, [int(player), 0])
                log({"word": word.decode(), "player": int(player)})
        except BlockingIOError:
            pass
        for sender, player in players.items():
            before = now_ns()
            packet = struct.pack("<QQ", player[1], before) + b"q" * 184
            if not (player[0] == 1 and player[1] == 20):  # one is lost
                sock.sendto(packet, sender)
                log({"player": player[0], "seq": player[1], "before": before, "after": now_ns()})
            player[1] += 1
    time.sleep(60)


def test_arrivals():
    sock = udp_socket()
    server = Server(lambda log: serve_ticks(sock, 160, log))
    try:
        run = probe("arrivals", target(sock), "--connections", 3, "--rate", 1000, "--for", "2500ms", "--priority",
                    late=True)
    finally:
        log = server.stop()
    rows, facts, lateness = run.rows(), run.facts(), Lateness(run)
    sent = {(entry["player"], entry["seq"]): entry for entry in log if "seq" in entry}
    came = {(row["connection"], row["seq"]): row for row in rows}
    check(set(sent) == set(came) and len(rows) == len(came), "every packet, once")
    check((1, 20) not in came and (1, 21) in came, "the lost one is missing and no other")
    check(facts["requests"] == len(rows) and facts["statuses"] == {"ok": len(rows)}, "facts")
    for key, row in came.items():
        check(row["due_ns"] == sent[key]["before"] and row["bytes"] == 200 and row["kind"] == "arrival", f"{row}")
        known = sent[key]["after"] + TOLERANCE + lateness.within(sent[key]["before"], row["done_ns"])
        check(sent[key]["before"] <= row["done_ns"] <= known, f"{row}, not {sent[key]}")
    words = [entry["word"] for entry in log if "word" in entry]
    check(words.count("join") >= 3 * 2, f"joins are repeated: {words.count('join')}")
    check(words.count("input") > 500, f"{words.count('input')} inputs")
    for player in range(3):
        times = [row["done_ns"] for row in rows if row["connection"] == player]
        sends = [entry["before"] for entry in log if entry.get("player") == player and "seq" in entry]
        gap, real = (max(b - a for a, b in zip(x, x[1:])) for x in (times, sends))
        check(abs(gap - real) <= TOLERANCE + lateness.most + 2 * MS, f"stall of {real / MS} ms found as {gap / MS}")


def serve_file(server, size, log, stall):
    """Sends its file in pieces of 32 KiB, without end; after `size` bytes sleeps `stall` seconds."""
    connection, _ = server.accept()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    sent, piece = 0, b"x" * 32768
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
    while True:
        try:
            connection.sendall(piece)
        except ConnectionError:
            return  # the probe has had enough
        before, sent = sent, sent + len(piece)
        if before < size <= sent:
            began = now_ns()
            time.sleep(stall)
            log({"from": began, "to": now_ns(), "sent": sent})


def stream(size, *argv):
    sock = listen()
    server = Server(lambda log: serve_file(sock, size, log, 0.550))
    try:
        run = probe("stream", target(sock), "--connections", 1, "--for", "2s", "--path", "/file", *argv)
    finally:
        log = server.stop()
    return run, log


def test_stream_stalls():
    run, log = stream(8 << 20)
    rows, facts = run.rows(), run.facts()
    check([row["seq"] for row in rows] == list(range(len(rows))), "rows out of order")
    check(statuses(rows) == {"ok": len(rows)}, f"{statuses(rows)}")
    for a, b in zip(rows, rows[1:]):
        check(a["done_ns"] == b["sent_ns"] and a["due_ns"] < b["due_ns"], f"rows that do not meet: {a} {b}")
    # All that was sent before the stall is read at some time, and from then on nothing comes until it is over.
    came = 0
    while came < log[0]["sent"] and rows[0]["done_ns"] < log[0]["to"]:
        came += rows.pop(0)["bytes"]
    silent = [row for row in rows if row["done_ns"] <= log[0]["to"]]
    check(silent and all(row["bytes"] == 0 for row in silent), f"not one silent tenth in the stall: {silent}")
    length = log[0]["to"] - silent[0]["sent_ns"]
    check(facts["silence_ns"] >= length, f"a stall of at least {length / MS} ms found as {facts['silence_ns'] / MS}")
    after = [row for row in rows if row["sent_ns"] >= log[0]["to"]]
    check(sum(row["bytes"] for row in after) > 0, "nothing after the stall")
    check(came <= log[0]["sent"] + 100, "more came than was sent")


def test_stream_limit():
    """The rate is kept, over the whole and from tenth to tenth; after a stall nothing is made up for."""
    run, _ = stream(1 << 20, "--bandwidth", "2MB/s")
    rows = run.rows()
    seconds = (rows[-1]["done_ns"] - rows[0]["sent_ns"]) / 1e9
    total = sum(row["bytes"] for row in rows)
    check(total <= 2e6 * seconds + 200_000, f"{total} bytes in {seconds} s")
    for row in rows:
        most = 2e6 * (row["done_ns"] - row["sent_ns"]) / 1e9 + 200_000
        check(row["bytes"] <= most, f"more than {most}: {row}")
    check(total > 500_000, f"hardly anything: {total}")


if __name__ == "__main__":
    sys.exit(main([value for name, value in list(globals().items()) if name.startswith("test_")]))
