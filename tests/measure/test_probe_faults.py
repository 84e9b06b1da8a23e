#!/usr/bin/env python3
"""The probe against servers that refuse, break, lie, trickle and die, and against a disk that is full: every request
has a row that says what became of it, and the probe says in one line what it cannot do."""
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

from probing import (MS, PROBE, Run, Server, Skipped, check, cut_echo, listen, main, now_ns, probe, roomy,
                     scratch, serve_stream, statuses, target)

PONG = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\npong\n"


@contextlib.contextmanager
def serving(answer, sock=None):
    """Calls answer(connection, question) for every request, each connection in a thread of its own, until that
    returns False."""
    sock = sock or listen()
    accepted = []

    def converse(connection):
        with contextlib.suppress(OSError), connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            data = b""
            while more := connection.recv(65536):
                data += more
                while b"\r\n\r\n" in data:
                    question, _, data = data.partition(b"\r\n\r\n")
                    if answer(connection, question) is False:
                        return

    def accept():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = sock.accept()
                accepted.append(connection)
                threading.Thread(target=converse, args=(connection,), daemon=True).start()
    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield target(sock), accepted
    finally:
        sock.shutdown(socket.SHUT_RDWR)
        sock.close()
        thread.join()
        for connection in accepted:
            connection.close()


def http(where, *argv, **kwargs):
    return probe("http", where, "--rate", 100, "--limit", 20, "--connections", 2, "--timeout", "10s", *argv, **kwargs)


def all_are(run, status, count=20):
    rows = run.rows()
    check(statuses(rows) == {status: count}, f"{statuses(rows)}, not all {status}")
    check([row["seq"] for row in rows] == list(range(count)), "rows out of order")
    check(run.facts()["statuses"] == {status: count}, "facts: statuses")
    return rows


def test_refused():
    sock = listen()
    where = target(sock)
    sock.close()
    for kind in "http", "tcp", "resp", "udp":
        rows = all_are(probe(kind, where, "--rate", 100, "--limit", 20, "--connections", 2), "refused")
        check(all(row["bytes"] is None and row["done_ns"] >= row["due_ns"] for row in rows), f"{rows[0]}")


def test_unreachable():
    """An address of a prefix that is answered with ICMP's unreachable: a route of that type, in a namespace."""
    if os.geteuid() != 0:
        raise Skipped("a network namespace wants root")
    script = ('ip link set lo up && ip route add unreachable 192.0.2.0/24 && '
              'for kind in http:80 udp:7 icmp; do '
              '"$0" ${kind%:*} 192.0.2.1$(case $kind in *:*) echo ":${kind#*:}";; esac) --rate 100 --limit 5; done')
    done = subprocess.run(["unshare", "-n", "sh", "-c", script, PROBE], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True)
    said = done.stderr.strip().splitlines()
    rows = [line for line in done.stdout.splitlines() if line.endswith(",unreachable")]
    # A datagram socket cannot even be connected then: nothing can ever be asked, and that is an error.
    check(len(rows) == 5 and rows[0].startswith("0,http,"), done.stdout + done.stderr)
    check(len(said) == 2 and all("No route to host" in line or "unreachable" in line for line in said), f"{said}")


def test_reset():
    def answer(connection, _):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False
    with serving(answer) as (where, accepted):
        rows = all_are(http(where), "reset")
        check(all(row["sent_ns"] for row in rows), "they were sent")
        check(len(accepted) >= 20, "each needed a new connection")


def test_closed():
    with serving(lambda connection, _: False) as (where, _):
        all_are(http(where), "closed")


def test_half_answers():
    for cut in 1, 10, len(PONG) - 1:
        def answer(connection, _, cut=cut):
            connection.sendall(PONG[:cut])
            return False
        with serving(answer) as (where, _):
            rows = all_are(http(where), "closed")
            check(all(row["bytes"] == cut for row in rows), f"{rows[0]}")


def test_answers_that_end_with_the_connection():
    def answer(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\npong\n")
        return False
    with serving(answer) as (where, accepted):
        all_are(http(where, "--expect", "pong\n"), "ok")
        check(len(accepted) >= 20, "each needed a new connection")


def test_wrong_answers():
    answers = {
        "an error": b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
        "a redirection": b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
        "another body": PONG.replace(b"pong", b"ping"),
        "a longer body": PONG.replace(b"5", b"6") + b"\n",
        "no HTTP": b"220 mail ready\r\n",
        "two answers": PONG + PONG,
        "a long header": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 9000 + b"\r\n",
        "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000 + b"\r\n",
    }
    for what, bytes_ in answers.items():
        def answer(connection, _, bytes_=bytes_):
            connection.sendall(bytes_)
        with serving(answer) as (where, _):
            rows = http(where, "--expect", "pong\n").rows()
            check(statuses(rows) == {"bad": 20}, f"{what}: {statuses(rows)}")


def test_endless_header():
    def answer(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(b"X-More: and more\r\n" * 50)
    with serving(answer) as (where, _):
        rows = all_are(http(where), "bad")
        check(all(row["bytes"] < 1 << 20 for row in rows), f"{rows[0]}")


def test_chunks_on_kept_connections():
    body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\npon\r\n2\r\ng\n\r\n0\r\nX-Sum: 1\r\n\r\n"

    def answer(connection, _):
        for i in range(len(body)):
            connection.send(body[i:i + 1])
    with serving(answer) as (where, accepted):
        rows = all_are(http(where, "--expect", "pong\n"), "ok")
        check(len(accepted) == 2, f"{len(accepted)} connections")
        check(all(row["bytes"] == len(body) for row in rows), f"{rows[0]}")
        check({row["connection"] for row in rows} == {0, 1}, "both connections are used")


def test_trickle():
    """An answer a byte at a time takes as long as it takes, or until its time is up."""
    pause = 0.02

    def answer(connection, _):
        for i in range(len(PONG)):
            time.sleep(pause)
            connection.send(PONG[i:i + 1])
    with serving(answer) as (where, _):
        run = probe("http", where, "--rate", 10, "--limit", 3, "--connections", 3, "--timeout", "30s")
        rows = all_are(run, "ok", 3)
        check(all(row["done_ns"] - row["sent_ns"] >= pause * len(PONG) * 1e9 for row in rows), f"{rows}")
        run = probe("http", where, "--rate", 10, "--limit", 3, "--connections", 3, "--timeout", "300ms")
        for row in all_are(run, "timeout", 3):
            check(row["done_ns"] - row["due_ns"] >= 300 * MS, f"{row}")


def test_silence():
    """Nobody answers: all is due as planned all the same, and given up when its time is up."""
    with serving(lambda connection, _: None) as (where, accepted):
        run = probe("http", where, "--rate", 100, "--limit", 100, "--connections", 2, "--timeout", "250ms", late=True)
        rows = all_are(run, "timeout", 100)
        for row, (due, late) in zip(rows, run.lateness()):
            check(row["due_ns"] == due == rows[0]["due_ns"] + row["seq"] * 10 * MS, f"due: {row}")
            patience = 250 if row["sent_ns"] else 125
            check(row["done_ns"] >= due + late + patience * MS, f"given up too soon: {row}")
        for row in rows[2:]:  # they waited for a connection, which nobody gave up before his time
            check(row["sent_ns"] is None or row["sent_ns"] >= rows[0]["due_ns"] + 250 * MS, f"{row}")
        check(rows[0]["sent_ns"] and rows[1]["sent_ns"], "the first two were sent")
        check(len(accepted) >= 4, "connections are opened again")


def test_busy_connections():
    """More is due than connections are free: the queue is in the latency."""
    def answer(connection, _):
        time.sleep(0.03)
        connection.sendall(PONG)
    with serving(answer) as (where, accepted):
        run = probe("http", where, "--rate", 100, "--limit", 40, "--connections", 1, "--timeout", "30s")
        rows = all_are(run, "ok", 40)
        check(len(accepted) == 1, "one connection")
        for n, row in enumerate(rows):
            check(row["done_ns"] - rows[0]["due_ns"] >= (n + 1) * 30 * MS, f"{row}")
            check(row["sent_ns"] >= (rows[n - 1]["done_ns"] if n else 0), f"{row}")


def test_overload():
    """More is asked than can be answered: what is answered is what the server can do, and not nothing."""
    def answer(connection, _):
        time.sleep(0.4)
        connection.sendall(PONG)
    with serving(answer) as (where, _):
        run = probe("http", where, "--rate", 10, "--limit", 60, "--connections", 1, "--timeout", "1s")
        rows = run.rows()
        check(statuses(rows).get("ok", 0) >= 10, f"{statuses(rows)} of six seconds at 0.4 s each")
        for row in rows:
            check(row["sent_ns"] or row["status"] == "timeout", f"{row}")


def test_server_dies_and_comes_back():
    sock = listen()
    where, port = target(sock), sock.getsockname()[1]
    server = Server(lambda log: serve_stream(sock, cut_echo(64), log))
    run = Run("tcp", where, "--rate", 200, "--for", "3s", "--timeout", "1s")
    time.sleep(1)
    alive = now_ns()
    os.kill(server.pid, signal.SIGKILL)
    os.waitpid(server.pid, 0)
    sock.close()
    died = now_ns()
    time.sleep(0.5)
    sock = listen(port)
    again = now_ns()
    server = Server(lambda log: serve_stream(sock, cut_echo(64), log))
    rows = run.wait().rows()
    server.stop()
    check(len(rows) == 600, f"{len(rows)} rows")
    check(set(statuses(rows)) <= {"ok", "closed", "reset", "refused"}, f"{statuses(rows)}")
    away = [row for row in rows if died < row["due_ns"] < again and row["done_ns"] < again]
    check(away and all(row["status"] == "refused" for row in away), f"while it was away: {statuses(away)}")
    before = [row for row in rows if row["done_ns"] < alive]
    check(before and all(row["status"] == "ok" for row in before), f"before: {statuses(before)}")
    back = [row for row in rows if row["due_ns"] > again]
    check(back and all(row["status"] == "ok" for row in back), f"after: {statuses(back)}")


def test_udp_losses_lies_and_strays():
    def cut(data):
        number, size, answer = cut_echo(64)(data)
        if number % 10 == 3:
            answer = answer[:-1] + b"!"
        if number % 10 == 4:
            answer = answer[:-1]
        return number, size, answer

    def serve(sock, log):
        while True:
            data, sender = sock.recvfrom(1000)
            number, _, answer = cut(data)
            if number % 10 == 5:
                continue
            sock.sendto(answer, sender)
            if number % 10 == 6:
                sock.sendto(answer, sender)
            if number % 10 == 7:
                sock.sendto(b"nothing that was asked for", sender)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    server = Server(lambda log: serve(sock, log))
    run = probe("udp", target(sock), "--rate", 200, "--limit", 100, "--timeout", "2s")
    server.stop()
    wanted = {3: "bad", 4: "bad", 5: "timeout"}
    for row in run.rows():
        check(row["status"] == wanted.get(row["seq"] % 10, "ok"), f"{row}")
    check(run.facts()["strays"] == 20, f"{run.facts()}")


def test_open_loop():
    """No request waits for the answer to another: this server answers none before it has them all."""
    count = 300

    def serve(sock):
        waiting = [sock.recvfrom(1000) for _ in range(count)]
        for data, sender in waiting:
            sock.sendto(data, sender)
        time.sleep(60)
    sock = roomy(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.bind(("127.0.0.1", 0))
    server = Server(lambda log: serve(sock))
    run = probe("udp", target(sock), "--rate", 1000, "--limit", count, "--timeout", "30s")
    server.stop()
    all_are(run, "ok", count)


def test_every_due_request_has_a_row():
    """More than this probe can do, and an end while it is behind: what was due before the end was asked, however
    late."""
    run = probe("udp", "127.0.0.1:1", "--rate", 200_000, "--for", "200ms", "--timeout", "2s")
    rows = run.rows()
    check(len(rows) == 40_000 and run.facts()["late"]["count"] == 40_000, f"{len(rows)} rows")
    check(rows[-1]["due_ns"] == rows[0]["due_ns"] + 39_999 * 5000, f"{rows[-1]}")


def test_echo_lies():
    for what, change in (("one byte", lambda b: b[:-1] + b"!"), ("one more", lambda b: b + b"!")):
        def cut(data, change=change):
            got = cut_echo(64)(data)
            return got and (got[0], got[1], change(got[2]))
        sock = listen()
        server = Server(lambda log: serve_stream(sock, cut, log))
        run = probe("tcp", target(sock), "--rate", 100, "--limit", 20, "--timeout", "10s")
        server.stop()
        check(statuses(run.rows()) == {"bad": 20}, f"{what}: {statuses(run.rows())}")


def test_resp_lies():
    for reply in b"-LOADING not yet\r\n", b"+PANG\r\n", b"$4\r\nPONG\r\n", b"+PONG\r\n+PONG\r\n", b"HTTP/1.1 400\r\n":
        sock = listen()
        server = Server(lambda log: serve_stream(sock, lambda data: (None, 14, reply) if len(data) >= 14 else None,
                                                 log))
        run = probe("resp", target(sock), "--rate", 100, "--limit", 20, "--timeout", "10s")
        server.stop()
        check(statuses(run.rows()) == {"bad": 20}, f"{reply}: {statuses(run.rows())}")


@contextlib.contextmanager
def redis():
    """The real thing: Debian has it in one program with its checking tool, told apart by name."""
    program = "/usr/bin/redis-check-rdb"
    if not os.path.exists(program):
        raise Skipped("no redis (package redis-tools)")
    sock = listen()
    port = sock.getsockname()[1]
    sock.close()
    process = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                                "--appendonly", "no"],
                               executable=program, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if "Ready to accept connections" in line:
                break
        yield f"127.0.0.1:{port}", process
    finally:
        process.kill()
        process.communicate()


def test_redis():
    with redis() as (where, _):
        run = probe("resp", where, "--rate", 1000, "--limit", 1000, "--mix", "ping:1,get:6,set:3", "--keys", 50,
                    "--value", 1000)
        rows = all_are(run, "ok", 1000)
        sizes = {row["bytes"] for row in rows}
        check(sizes == {5, 7, 1009}, f"answers of {sizes} bytes")  # OK or nothing, PONG, a value
        # What another program keeps under the probe's names is not what the probe put there.
        host, port = where.split(":")
        with socket.create_connection((host, int(port))) as other:
            for key in range(50):
                other.sendall(b"SETRANGE probe:1000:%d 500 !\r\n" % key)
            other.recv(65536)
        got = statuses(probe("resp", where, "--rate", 1000, "--limit", 200, "--mix", "get:1", "--keys", 50, "--value",
                             1000).rows())
        check(got == {"bad": 200}, f"changed values: {got}")
        got = statuses(probe("resp", where, "--rate", 1000, "--limit", 200, "--mix", "get:1", "--keys", 50, "--value",
                             1000,
                             "--key", "probe:1000:").rows())
        check(got == {"ok": 200}, f"of the right length: {got}")


def test_redis_loses_its_mind():
    """Killed and gone: the requests under way are closed or reset, later ones refused."""
    with redis() as (where, process):
        run = Run("resp", where, "--rate", 500, "--for", "2s", "--mix", "get:1,set:1")
        time.sleep(1)
        process.kill()
        rows = run.wait().rows()
    found = statuses(rows)
    check(len(rows) == 1000 and found["ok"] > 50 and found["refused"] > 50, f"{found}")
    check(set(found) <= {"ok", "refused", "reset", "closed"}, f"{found}")


def test_signals():
    """What is under way when it ends has a row: sent or not, it has no answer and its time is not up."""
    with serving(lambda connection, _: None) as (where, _):
        for number in signal.SIGTERM, signal.SIGINT:
            run = Run("http", where, "--rate", 100, "--connections", 2, "--timeout", "60s")
            while not (os.path.exists(run.out) and os.path.exists(run.facts_path)):
                time.sleep(0.01)
            time.sleep(1)
            run.process.send_signal(number)
            rows = run.wait().rows()
            facts = run.facts()
            check(facts["ended"] == "signal" and facts["requests"] == len(rows), f"{facts}")
            check(statuses(rows) == {"unsent": len(rows)} and len(rows) > 10, f"{statuses(rows)}")
            sent = [row["seq"] for row in rows if row["sent_ns"]]
            check(sent == [0, 1] and all(row["done_ns"] is None for row in rows), f"sent: {sent}")


def test_a_second_signal():
    with serving(lambda connection, _: None) as (where, _):
        run = Run("http", where, "--rate", 100, "--timeout", "60s")
        while not os.path.exists(run.facts_path):
            time.sleep(0.01)
        time.sleep(0.2)
        run.process.send_signal(signal.SIGTERM)
        run.process.send_signal(signal.SIGINT)
        check(statuses(run.wait().rows()).keys() == {"unsent"}, "unsent")


def test_answers_after_a_signal():
    """They have a second more to come."""
    def answer(connection, _):
        time.sleep(0.3)
        connection.sendall(PONG)
    with serving(answer) as (where, _):
        run = Run("http", where, "--rate", 20, "--connections", 40)
        while not os.path.exists(run.facts_path):
            time.sleep(0.01)
        time.sleep(1)
        run.process.send_signal(signal.SIGTERM)
        rows = run.wait().rows()
        check(statuses(rows) == {"ok": len(rows)} and len(rows) >= 5, f"{statuses(rows)}")


def rows_while_it_runs(run):
    try:
        with open(run.out, encoding="utf-8") as f:
            return f.read().count("\n") - 1
    except FileNotFoundError:
        return 0


def test_killed():
    """Rows are in the file a second after they were known; whoever kills the probe has those."""
    sock = listen()
    server = Server(lambda log: serve_stream(sock, cut_echo(64), log))
    run = Run("tcp", target(sock), "--rate", 100)
    end = time.monotonic() + 60
    while rows_while_it_runs(run) < 100:
        check(time.monotonic() < end, "no rows after a minute")
        time.sleep(0.05)
    run.process.kill()
    run.process.communicate()
    server.stop()
    check([row["seq"] for row in run.rows()][:100] == list(range(100)), "the first hundred")
    facts = run.facts()
    check(facts["ended"] is None and facts["end_ns"] is None, f"{facts}")


def one_line(run):
    check(run.stderr.startswith("godwit-probe: ") and run.stderr.count("\n") == 1, f"not one line: {run.stderr!r}")
    return run.stderr


def test_full_disk():
    """A file that cannot grow; then a file system without room."""
    sock = listen()
    server = Server(lambda log: serve_stream(sock, cut_echo(64), log))
    try:
        run = probe("tcp", target(sock), "--rate", 1000, "--for", "20s", limit_bytes=100_000, status=1)
        check("rows.csv: File too large" in one_line(run), run.stderr)
        rows = run.rows()
        check(len(rows) > 1000 and [row["seq"] for row in rows] == list(range(len(rows))), f"{len(rows)} rows")
        check(os.path.getsize(run.out) <= 100_000, "beyond the limit")
        check(run.facts()["ended"] == "error", "facts")
        if os.geteuid() == 0:
            full_file_system(target(sock))
    finally:
        server.stop()


def full_file_system(where):
    with scratch() as folder:
        done = subprocess.run(["unshare", "-m", "sh", "-c",
                               'mount -t tmpfs -o size=64k none "$1" && { "$0" tcp "$2" --rate 1000 --for 20s --out '
                               '"$1/rows.csv"; echo $?; tail -c 200 "$1/rows.csv"; }', PROBE, folder, where],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if "mount" in done.stderr:
            return  # not allowed here; the other half of the test was
        check("rows.csv: No space left on device" in done.stderr and done.stderr.count("\n") == 1, done.stderr)
        lines = done.stdout.splitlines()
        check(lines[0] == "1" and done.stdout.endswith("\n") and lines[-1].endswith(",ok"), done.stdout)


def test_unwritable():
    for option, path, reason in (("--out", "/dev/full", "No space left"), ("--out", "/no/where", "No such file"),
                                 ("--facts", "/no/where", "No such file"), ("--late", "/no/where", "No such file")):
        done = subprocess.run([PROBE, "udp", "127.0.0.1:1", "--for", "1s", option, path], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
        check(done.returncode == 1 and done.stderr.count("\n") == 1 and reason in done.stderr,
              f"{option} {path}: {done}")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([PROBE, "udp", "127.0.0.1:1", "--for", "1s"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    check(done.returncode == 1 and done.stderr == "godwit-probe: cannot write standard output: Broken pipe\n",
          f"{done}")


def test_command_line():
    for argv in ([], ["http"], ["ftp", "127.0.0.1:1"], ["udp", "127.0.0.1:1", "--rate", "0"],
                 ["udp", "127.0.0.1:1", "--path", "/"]):
        done = subprocess.run([PROBE, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        check(done.returncode == 2 and not done.stdout and done.stderr.count("\n") == 1, f"{argv}: {done}")
    done = subprocess.run([PROBE, "udp", "no-such-host.invalid:1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True)
    check(done.returncode == 1 and done.stderr.startswith("godwit-probe: no-such-host.invalid: "), f"{done}")
    done = subprocess.run([PROBE, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    check(done.returncode == 0 and not done.stderr and "--timeout TIME" in done.stdout, f"{done}")
    check(max(map(len, done.stdout.splitlines())) <= 120, "help of long lines")


def test_standard_output():
    sock = listen()
    server = Server(lambda log: serve_stream(sock, cut_echo(64), log))
    done = subprocess.run([PROBE, "tcp", target(sock), "--limit", "3", "--rate", "100"], stdout=subprocess.PIPE,
                          text=True)
    server.stop()
    lines = done.stdout.splitlines()
    check(done.returncode == 0 and lines[0] == "seq,kind,connection,due_ns,sent_ns,done_ns,bytes,status"
          and len(lines) == 4, f"{lines}")


def test_mix():
    """Shares, methods, paths and bodies as asked for; the same seed asks the same."""
    asked = []

    def cut(data):
        head, end, rest = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        size = next((int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length")), 0)
        return (lines, len(head) + 4 + size, rest[:size]) if end and len(rest) >= size else None

    def serve(sock, log):
        def one(data):
            got = cut(data)
            if got:
                log([got[0][0].decode(), got[2].decode(), sorted(line.decode() for line in got[0][1:])])
            return got and (None, got[1], PONG)
        serve_stream(sock, one, log)
    for _ in range(2):
        sock = listen()
        server = Server(lambda log: serve(sock, log))
        run = probe("http", target(sock), "--rate", 1000, "--limit", 1000, "--connections", 1, "--body", 100,
                    "--timeout", "30s",
                    "--mix", "static:70:/static/{0-3}/{1-9},dynamic:20:/cgi/dynamic?class={0-3},post:10:/cgi/post",
                    "--seed", 9)
        log = [entry for entry in server.stop() if isinstance(entry, list)]
        rows = all_are(run, "ok", 1000)
        asked.append([entry[:2] for entry in log])
        for row, (line, body, headers) in zip(rows, log):
            begin = {"static": "GET /static/", "dynamic": "GET /cgi/dynamic?class=",
                     "post": "POST /cgi/post HTTP/1.1"}[row["kind"]]
            check(line.startswith(begin) and line.endswith(" HTTP/1.1"), f"{row}: {line}")
            check(len(body) == (100 if row["kind"] == "post" else 0), f"{row}: {body}")
            check(body == "" or body.startswith(f"seq={row['seq']:020d}&data=abc"[:28]), f"{row}: {body}")
            check(f"Host: {target(sock)}" in headers, f"{headers}")
        shares = {kind: sum(row["kind"] == kind for row in rows) for kind in ("static", "dynamic", "post")}
        check(600 < shares["static"] < 800 and 120 < shares["dynamic"] < 280 and 50 < shares["post"] < 160, f"{shares}")
        check(len({line for line, *_ in log if "static" in line}) == 36, "every file")
    check(asked[0] == asked[1], "the same seed, other questions")


def test_many_connections():
    """More than the usual limit of open files."""
    sock = listen()
    sock.listen(4096)
    with serving(lambda connection, _: connection.sendall(PONG), sock) as (where, accepted):
        run = probe("http", where, "--rate", 1000, "--limit", 1000, "--connections", 500, "--timeout", "30s",
                    env={**os.environ})
        all_are(run, "ok", 1000)
        check(len({row["connection"] for row in run.rows()}) == 500, "all connections are used")


def test_pin():
    cpu = min(os.sched_getaffinity(0))
    run = probe("udp", "127.0.0.1:1", "--limit", 1, "--pin", cpu)
    check(run.facts()["processor"] == cpu, f"{run.facts()}")
    done = probe("udp", "127.0.0.1:1", "--limit", 1, "--pin", 1000, status=1)
    check("--pin 1000" in one_line(done), done.stderr)


if __name__ == "__main__":
    sys.exit(main([value for name, value in list(globals().items()) if name.startswith("test_")]))
