# SPDX-License-Identifier: Apache-2.0
"""The lab command."""
import argparse
import json
import os
import select
import signal
import sys
import time

from . import keeper, state
from .errors import LabError, LabTimeout
from .lab import Lab, down

_PROG = "lab"
TIMED_OUT = 124                     # as timeout(1)


def _parser():
    parser = argparse.ArgumentParser(prog=_PROG, description="Emulated hosts on one network.")
    parser.add_argument("--name", default="lab", help="which lab; several may run (default: lab)")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name, text, *, host=False, command=False):
        sub = verbs.add_parser(name, help=text, description=text)
        sub.add_argument("--name", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if host:
            sub.add_argument("host", metavar="HOST")
        if command:
            sub.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER)
        return sub

    up = verb("up", "start a lab")
    up.add_argument("-n", "--hosts", type=int, default=2)
    up.add_argument("-m", "--memory", type=int, default=1536, metavar="MIB", help="of each host")
    up.add_argument("--cpus", type=int, default=1, help="of each host (with more, guests crash now and then)")
    up.add_argument("--boot-limit", type=int, default=120, metavar="S")
    up.add_argument("--hold", action="store_true", help="stay, and end the lab with this process")
    verb("down", "end a lab; nothing of it stays")
    verb("status", "show labs, or one").add_argument("--json", action="store_true")
    run = verb("exec", "run a command in a host", host=True, command=True)
    run.add_argument("-i", "--stdin", action="store_true", help="pass standard input on")
    run.add_argument("-d", "--detach", action="store_true", help="print its process id, leave it")
    run.add_argument("--log", default="", metavar="FILE",
                     help="in the host: output of a detached one")
    run.add_argument("--timeout", type=float, metavar="S", help=f"then stop it, status {TIMED_OUT}")
    for name, text in ("push", "copy a file into a host"), ("pull", "copy a file out of a host"):
        sub = verb(name, text, host=True)
        sub.add_argument("source")
        sub.add_argument("target")
    cut = verb("cut", "pull the data cable of a host", host=True)
    cut.add_argument("--silent", action="store_true", help="the host keeps its carrier")
    verb("join", "put the data cable back", host=True)
    shape = verb("shape", "limit the data link of a host; without options, lift it", host=True)
    shape.add_argument("--rate", help="in each direction, like 1gbit")
    shape.add_argument("--delay", help="of each packet that leaves, like 1ms")
    verb("kill", "cut the power of a host", host=True)
    verb("boot", "start a dead host again", host=True)
    verb("console", "show what a host has printed", host=True)
    verb("client", "run a command here, as the outside client", command=True)
    return parser


def _command(args):
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise LabError(f"{args.verb}: no command given: {_PROG} {args.verb} ... -- COMMAND")
    return command


def _up(args):
    start = time.monotonic()

    def report(event):
        if event["event"] == "booted":
            print(f"host {event['host']} up after {event['seconds']} s", flush=True)

    lab = Lab.up(args.name, hosts=args.hosts, memory_mib=args.memory, cpus=args.cpus,
                 boot_seconds=args.boot_limit, report=report)
    try:
        print(f"lab '{args.name}' up after {time.monotonic() - start:.1f} s, "
              f"network namespace {lab.netns}", flush=True)
        if args.hold:
            select.select([], [], [])
        lab.free()
    except BaseException:
        lab.down()
        raise
    return 0


def _status(args):
    with state.locked():
        state.sweep()
    records = []
    for name in state.names():
        try:
            records.append(Lab.attach(name).status())
        except LabError:
            pass                    # ended since we listed it
    if args.json:
        print(json.dumps(records, indent=1))
        return 0
    for record in records:
        print(f"{record['name']}: namespace {record['netns']}, client {record['client']}")
        for host in record["hosts"]:
            print(f"  {host['name']} {host['state']:8} {host['address']}")
    return 0


def _exec(args):
    command = _command(args)
    host = Lab.attach(args.name)[args.host]
    if args.detach:
        print(host.detach(command, log=args.log))
        return 0
    session = host.session(command)
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, lambda n, _: session.signal(n))

    def to(stream):
        def write(data):
            stream.buffer.write(data)
            stream.buffer.flush()
        return write

    return session.pump(to(sys.stdout), to(sys.stderr), input=0 if args.stdin else None,
                        timeout=args.timeout)


def _console(args):
    Lab.attach(args.name).host_record(args.host)
    with open(os.path.join(state.folder(args.name), f"{args.host}.console"), "rb") as file:
        sys.stdout.buffer.write(file.read())
    return 0


def _other(args):
    lab = Lab.attach(args.name)
    if args.verb == "push":
        lab[args.host].push(args.source, args.target)
    elif args.verb == "pull":
        lab[args.host].pull(args.source, args.target)
    elif args.verb == "cut":
        lab.cut(args.host, silent=args.silent)
    elif args.verb == "join":
        lab.join(args.host)
    elif args.verb == "shape":
        lab.shape(args.host, rate=args.rate, delay=args.delay)
    elif args.verb == "kill":
        lab.kill(args.host)
    elif args.verb == "boot":
        lab.boot(args.host)
    elif args.verb == "client":
        argv = lab.client_argv(_command(args))
        os.execvp(argv[0], argv)
    return 0


def _interrupt(number, _):
    raise SystemExit(128 + number)


def main(argv):
    if argv[:1] == ["_keeper"]:
        return keeper.main(*argv[1:])
    args = _parser().parse_args(argv)
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, _interrupt)
    verbs = {"up": _up, "status": _status, "exec": _exec, "console": _console,
             "down": lambda a: down(a.name)}
    try:
        return verbs.get(args.verb, _other)(args) or 0
    except LabTimeout as err:
        print(f"{_PROG}: {err}", file=sys.stderr)
        return TIMED_OUT
    except BrokenPipeError:         # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except (LabError, OSError) as err:
        print(f"{_PROG}: {err}", file=sys.stderr)
        return 2
