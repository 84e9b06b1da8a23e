#!/usr/bin/env python3
"""Who may move guests where: hosts with keys of their own, real processes, and the commands a user would type."""
import atexit
import contextlib
import ctypes
import json
import os
import pty
import re
import shlex
import shutil
import socket
import subprocess
import tempfile

from harness import GODWIT, Failed, Host, check, free_port, run_tests, wait_for

PRINT = r"SHA256:[A-Za-z0-9+/]{43}"


def own_host():
    """A host with a configuration directory, and so a key, of its own."""
    config = tempfile.mkdtemp(prefix="godwit-config-")
    atexit.register(shutil.rmtree, config, ignore_errors=True)
    return Host(config)


def fingerprint(host):
    return host.json("trust", "--self")["fingerprint"]


def configure(host, text):
    path = os.path.join(host.config, "godwit.conf")
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, 0o600)


def start(host, name="vm"):
    return host.vm("run", "--name", name, "--kernel", "/none", "--memory", "64M", "--fake")


def receive(host, *args, **kwargs):
    return host.receive("--fake", *args, **kwargs)


def log_of(host, vm):
    with open(os.path.join(host.base, vm.name, "log")) as f:
        return f.read()


def refused(a, address, *args):
    """A move that must fail at once; returns its reason. The guest stays, and runs."""
    done = a.run("migrate", "vm", address, "--json", *args, status=1)
    bill = json.loads(done.stdout)
    check(bill["outcome"] == "failed" and bill["owner"] == "source", str(bill["outcome"]))
    check(bill["failure"]["stage"] == "pre-migration" and bill["downtime"] is None, str(bill["failure"]))
    check(a.state("vm") == "running", a.state("vm"))
    return bill["failure"]


def type_command(text, *more):
    """Does what a message says to do, word for word."""
    command = re.search(rf"godwit trust \S+ {PRINT}.*", text)
    check(command, f"no command in {text!r}")
    words = shlex.split(command[0])
    done = subprocess.run([GODWIT, *words[1:], *more], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL)
    check(done.returncode == 0, f"{command[0]}: {done.stderr}")


def trusting():
    """Refused at either end until the command that each end shows was typed there; then the guest moves."""
    with own_host() as a, own_host() as b:
        mine, theirs = fingerprint(a), fingerprint(b)
        check(mine != theirs and re.fullmatch(PRINT, mine), f"{mine} {theirs}")
        vm = start(a)
        to = receive(b)

        failure = refused(a, to.address)
        check(failure["code"] == "EKEYREJECTED", str(failure))
        check(theirs in failure["text"] and mine in failure["text"], failure["text"])
        type_command(failure["text"])

        failure = refused(a, to.address)
        check(failure["code"] == "EKEYREJECTED", str(failure))
        check("does not trust this host's key" in failure["text"] and mine in failure["text"], failure["text"])
        said = wait_for("the receiver to log it", lambda: re.search(
            rf"move.untrusted: .*{re.escape(mine)}.*", log_of(b, to)))
        check(theirs in said[0], said[0])
        type_command(said[0])

        bill = a.migrate("vm", to.address)
        check(bill["owner"] == "target" and bill["encrypted"] is True, str(bill["encrypted"]))
        how = bill["encryption"]
        check(how["peer"] == theirs and how["cipher"].startswith("TLS_"), str(how))
        check(how["sent_bytes"] > bill["bytes"]["total"], "less on the wire than was sent")
        vm.ended()
        with tempfile.NamedTemporaryFile("w", suffix=".json") as saved:
            json.dump(bill, saved)
            saved.flush()
            check(theirs in a.run("bill", saved.name).stdout, "the page does not name the peer's key")
        # The way back: the same two lines serve both directions.
        check(b.names() == ["vm"], str(b.names()))
        back = receive(a)
        check(b.migrate("vm", back.address)["owner"] == "target", "the way back")
        to.ended()
        a.run("kill", "vm")


def changed_key():
    """A host whose key is another one than was pinned is not believed, until someone says so twice."""
    with own_host() as a, own_host() as b:
        old = fingerprint(b)
        a.run("trust", "127.0.0.1", old)
        b.run("trust", "*", fingerprint(a), "--comment", "only comes")
        os.unlink(os.path.join(b.config, "host_key"))
        new = fingerprint(b)
        check(new != old, "the same key again")
        start(a)
        to = receive(b)
        text = refused(a, to.address)["text"]
        check("CHANGED" in text and old in text and new in text and "--replace" in text, text)
        done = a.run("trust", "127.0.0.1", new, status=2)
        check(old in done.stderr and new in done.stderr and "--replace" in done.stderr, done.stderr)
        check(a.json("trust", "--list")[0]["fingerprint"] == old, "it was replaced all the same")
        type_command(text)
        check(a.migrate("vm", to.address)["owner"] == "target", "after --replace")


def on_a_terminal(host, answer, *args):
    """What `godwit trust` asks and does when a person answers."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(GODWIT, host.argv("trust", *args))
    out = b""
    with contextlib.suppress(OSError):
        while True:
            out += os.read(fd, 4096)
            if b"(yes/no)" in out and answer:
                os.write(fd, answer)
                answer = None
    _, status = os.waitpid(pid, 0)
    os.close(fd)
    return os.waitstatus_to_exitcode(status), out.decode()


def asking_the_host():
    """`godwit trust HOST:PORT` shows the key of whoever answers there and pins it if told that it is right."""
    with own_host() as a, own_host() as b:
        to = receive(b, once=False)
        theirs = fingerprint(b)
        done = a.run("trust", to.address, status=2)
        check(theirs in done.stderr and "nobody to ask" in done.stderr, done.stderr)
        for answer in (b"no\n", b"\n", b"y\n"):
            status, text = on_a_terminal(a, answer, to.address)
            check(status == 1 and theirs in text and a.json("trust", "--list") == [], f"{status} {text}")
        status, text = on_a_terminal(a, b"yes\n", to.address)
        check(status == 0 and theirs in text, f"{status} {text}")
        check(a.json("trust", "--list") == [{"host": "127.0.0.1", "fingerprint": theirs, "comment": ""}],
              str(a.json("trust", "--list")))
        a.run("trust", "--remove", "127.0.0.1")
        check(a.json("trust", "--list") == [], "it is still there")
        a.run("trust", to.address, "--yes", "--comment", "by the test")
        check(theirs in a.run("trust", "--list").stdout, "not in the list")
        # Looking neither moved nor broke anything: the receiver still waits.
        check(b.state(to.name) == "receiving", b.state(to.name))
        port = free_port()
        check("cannot connect" in a.run("trust", f"127.0.0.1:{port}", status=1).stderr, "nobody there")
        with socket.create_server(("127.0.0.1", 0)) as other:
            def answer_badly():
                peer = other.accept()[0]
                peer.sendall(b"SSH-2.0-x\r\n")
                return peer
            running = a.start("trust", f"127.0.0.1:{other.getsockname()[1]}", "--yes")
            with answer_badly():
                check(running.wait(20) == 1 and "no TLS" in running.stderr.read(), "some other program")


def the_file():
    """What people write into it holds; what is not understood is refused, whatever is asked."""
    with own_host() as a:
        mine = fingerprint(a)
        path = os.path.join(a.config, "trusted")
        with open(path, "w") as f:
            f.write(f"# by hand\nHost2 {mine}  a comment\n")
        os.chmod(path, 0o600)
        check(a.json("trust", "--list") == [{"host": "host2", "fingerprint": mine, "comment": "a comment"}], "list")
        with open(path, "a") as f:
            f.write("host3 nonsense\n")
        for args in (["--list"], ["--remove", "host2"], ["host4", mine]):
            done = a.run("trust", *args, status=2)
            check("line 3" in done.stderr, f"{args}: {done.stderr}")
        os.unlink(path)
        for args in ([], ["--list", "--self"], ["host2", "--list"], ["host2", "SHA256:short"], ["a b", mine], ["*"],
                     ["host2:x", mine], ["host2", mine, "--comment", "two\nlines"]):
            a.run("trust", *args, status=2)
        check(not os.path.exists(path), "wrong use wrote something")
        check(oct(os.stat(os.path.join(a.config, "host_key")).st_mode & 0o777) == "0o600", "the key's mode")
        os.chmod(os.path.join(a.config, "host_key"), 0o640)
        done = a.run("receive", "--listen", "127.0.0.1:0", "--fake", "--detach", check=False)
        check(done.returncode == 1 and "host_key" in done.stderr and "chmod" in done.stderr, done.stderr)
        check(a.is_empty(), str(a.names()))
        start(a)
        check("host_key" in refused(a, "127.0.0.1:1")["text"], "a key that others can read")


def misfits():
    """Both ends must agree whether to encrypt, and each says what is wrong when they do not."""
    with own_host() as a, own_host() as b:
        a.run("trust", "127.0.0.1", fingerprint(b))
        b.run("trust", "*", fingerprint(a))
        start(a)
        secure, plain = receive(b, once=False), receive(b, "--insecure", once=False)
        check("WARNING" in plain.err.text and "--insecure" in plain.err.text, plain.err.text)

        failure = refused(a, secure.address, "--insecure")
        check("wants TLS" in failure["text"] and "--insecure" in failure["text"], failure["text"])
        failure = refused(a, plain.address)
        check("does not encrypt" in failure["text"] and "--insecure" in failure["text"], failure["text"])
        check("does not encrypt" in log_of(b, secure) and "that encrypts" in log_of(b, plain), "the receivers' logs")

        # They wait on, unharmed.
        done = a.run("migrate", "vm", plain.address, "--json", "--insecure")
        bill = json.loads(done.stdout)
        check(bill["encrypted"] is False and bill["encryption"] is None and bill["owner"] == "target", str(bill))
        check("WARNING" in done.stderr and "NOT ENCRYPTED" not in done.stdout, done.stderr)
        b.run("kill", "vm")
        start(a)
        check(a.migrate("vm", secure.address)["encrypted"], "the other receiver")


def in_own_network():
    """This process and what it starts get a network of their own, with an address that is not loopback's."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x40000000):
        return False
    for args in (["link", "set", "lo", "up"], ["addr", "add", "10.99.0.1/32", "dev", "lo"]):
        subprocess.run(["ip", *args], check=True)
    return True


def insecure_off_loopback():
    """Beyond loopback --insecure takes two settings, at both ends, and any mistake in them is an error."""
    if not in_own_network():
        print("# skipped: cannot make a network of its own")
        return
    both = "allow-insecure = yes\nallow-insecure-off-loopback = yes\n"
    with own_host() as a, own_host() as b:
        for conf in ("", "allow-insecure = yes\n", "allow-insecure-off-loopback = yes\n",
                     "allow-insecure = no\nallow-insecure-off-loopback = yes\n"):
            configure(b, conf)
            for address in ("10.99.0.1:0", "0.0.0.0:0", ":0"):
                done = b.run("receive", "--listen", address, "--insecure", "--fake", "--detach", status=2)
                check("allow-insecure = yes" in done.stderr and "allow-insecure-off-loopback = yes" in done.stderr,
                      done.stderr)
        configure(b, both + "allow-insecure-at-night = yes\n")
        done = b.run("receive", "--listen", "10.99.0.1:0", "--insecure", "--fake", "--detach", status=2)
        check("line 3" in done.stderr and "unknown key" in done.stderr, done.stderr)
        check(b.is_empty(), "something was started")

        configure(b, both)
        to = b.vm("receive", "--listen", "10.99.0.1:0", "--insecure", "--fake")
        start(a)
        failure = refused(a, to.address, "--insecure")
        check(failure["code"] == "EPERM" and "allow-insecure-off-loopback" in failure["text"], str(failure))
        check(b.state(to.name) == "receiving", "the receiver")
        configure(a, both)
        bill = json.loads(a.run("migrate", "vm", to.address, "--json", "--insecure").stdout)
        check(bill["owner"] == "target" and bill["encrypted"] is False, str(bill))


run_tests([
    ("trusting: refused until the shown commands were typed", trusting),
    ("a changed key", changed_key),
    ("asking a host for its key", asking_the_host),
    ("the file of peers, and the key's mode", the_file),
    ("one end encrypts, the other does not", misfits),
    ("--insecure beyond loopback", insecure_off_loopback),  # last: it leaves the machine's network
])
