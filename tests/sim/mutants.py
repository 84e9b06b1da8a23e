#!/usr/bin/env python3
"""Weakens the engines one line at a time, and asks whether sim notices. A mutant that survives means
that the simulation does not test what that line is there for.

    mutants.py BUILD_DIR [NAME...]
"""
import json
import os
import shlex
import subprocess
import sys
import tempfile

# name, file in src/move, text (once in the file), what it becomes
MUTANTS = [
    ("source-resumes-when-the-answer-is-lost", "source_steps.c",
     "        source_retry_later(c);\n        source_enter(c, SOURCE_UNCERTAIN);",
     "        (void)move_act(c->out, ACTION_RESUME_GUEST);\n        source_end(c, SOURCE_FAILED);"),
    ("source-commits-before-its-record", "source_commit.c",
     "    source_write_record(c, RECORD_HANDED);",
     "    source_write_record(c, RECORD_HANDED);\n    source_send_commit(c);"),
    ("source-resumes-while-recording", "source_steps.c",
     "        s->giving_up = true;\n        source_shut(c);",
     "        source_roll_back(c);"),
    ("source-forgets-that-it-gave-up", "source_commit.c",
     "    if (c->s->giving_up) {", "    if (0) {"),
    ("source-takes-back-before-its-record", "source_steps.c",
     "    source_enter(c, SOURCE_RECLAIMING);\n",
     "    source_enter(c, SOURCE_RECLAIMING);\n    (void)move_act(c->out, ACTION_RESUME_GUEST);\n"),
    ("source-frees-the-copy-before-it-took-back", "source_steps.c",
     "    source_enter(c, SOURCE_RECLAIMING);\n",
     "    source_enter(c, SOURCE_RECLAIMING);\n    source_send_abort(c);\n"),
    ("source-believes-any-store", "source_commit.c",
     "    if (memcmp(status->store, s->store, sizeof(s->store)) != 0) {", "    if (0) {"),
    ("source-hears-old-connections", "source.c",
     "        (c->e->conn == 0 || (c->e->conn != s->conn && c->e->conn <= s->last_conn)))",
     "        0)"),
    ("source-forgets-to-tell-the-target", "source_steps.c",
     "    if (s->target_gone) {\n        source_end(c, SOURCE_FAILED);",
     "    if (1) {\n        source_end(c, SOURCE_FAILED);"),
    ("source-takes-back-what-died-at-the-target", "source_commit.c",
     "        source_trouble(c, REASON_TARGET_DIED, &why, false);",
     "        target_holds_nothing(c, REASON_TARGET_DIED, &why);"),
    ("source-takes-an-unknown-record-for-none", "source_commit.c",
     "    if (c->e->record_unknown)", "    if (0)"),
    ("source-cancels-while-committing", "source.c",
     "    MSG(COMMITTING, STATUS, source_on_status),",
     "    MSG(COMMITTING, STATUS, source_on_status), ON(COMMITTING, CANCEL, source_on_reclaimed),"),
    ("source-never-asks-again", "source_steps.c",
     "    s->retry_at_ns = source_later(c->now, s->retry_ns);", "    s->retry_at_ns = CLOCK_NEVER;"),
    ("target-runs-before-its-record", "target_commit.c",
     "    c->t->reason = 0;\n    begin_record(c);",
     "    c->t->reason = 0;\n    begin_record(c);\n    (void)move_act(c->out, ACTION_RUN_GUEST);"),
    ("target-frees-when-the-connection-breaks", "target_steps.c",
     "        target_shut(c);\n        target_enter(c, TARGET_UNCERTAIN);",
     "        target_give_up(c);"),
    ("target-runs-when-the-connection-breaks", "target_steps.c",
     "        target_shut(c);\n        target_enter(c, TARGET_UNCERTAIN);",
     "        target_shut(c);\n        target_enter(c, TARGET_RECORDING);\n"
     "        move_act(c->out, ACTION_WRITE_RECORD)->record = RECORD_HERE;"),
    ("target-frees-when-its-disk-is-full", "target_commit.c",
     "    target_enter(c, t->conn ? TARGET_PREPARED : TARGET_UNCERTAIN);\n"
     "    target_send_status(c, t->conn, t->hello.token, KNOWS_HELD, REASON_RECORD);",
     "    target_give_up(c);"),
    ("target-takes-an-unknown-record-for-none", "target_commit.c",
     "    t->record_unknown |= c->e->record_unknown;", "    t->record_unknown = false;"),
    ("target-takes-commit-from-anyone", "target_commit.c",
     "    if (c->m->type == MESSAGE_HELLO && !known)",
     "    if (c->m->type == MESSAGE_COMMIT && c->t->state == TARGET_PREPARED)\n"
     "        return target_on_commit(c);\n    if (c->m->type == MESSAGE_HELLO && !known)"),
    ("target-ends-before-the-source-knows", "target_steps.c",
     "    if (!t->prepared) {", "    if (1) {"),
    ("target-denies-its-record", "target_commit.c",
     "c->e->token_recorded ? KNOWS_DIED : KNOWS_NOTHING", "KNOWS_NOTHING"),
    ("target-says-held-while-recording", "target_commit.c",
     "        target_send_status(c, t->conn, token, KNOWS_RECORDING, 0);",
     "        target_send_status(c, t->conn, token, KNOWS_NOTHING, 0);"),
    ("target-keeps-what-was-withdrawn", "target_commit.c",
     "        if (!withdraw) {", "        if (1) {"),
    ("source-frees-the-guest-when-the-target-runs", "source_commit.c",
     "    if (c->s->post_copy)\n        source_serve(c);\n    else\n        target_owns(c);",
     "    target_owns(c);"),
    ("source-pushes-before-it-answers-faults", "source_serve.c",
     "    if (s->urgent)\n        move_act(c->out, ACTION_PUSH)->conn = s->conn;",
     "    move_act(c->out, ACTION_PUSH)->conn = s->conn;"),
    ("source-pauses-before-the-lane-is-open", "source_rounds.c",
     "    move_act(c->out, ACTION_OPEN_URGENT)->conn = s->conn;\n}",
     "    move_act(c->out, ACTION_OPEN_URGENT)->conn = s->conn;\n    (void)move_act(c->out, ACTION_PAUSE_GUEST);\n"
     "    source_enter(c, SOURCE_STOPPING);\n}"),
    ("source-serves-no-more-after-a-cut", "source_steps.c",
     "    case SOURCE_UNCERTAIN:\n    case SOURCE_SERVING:\n    case SOURCE_WITHDRAWING:",
     "    case SOURCE_SERVING:\n        (void)move_act(c->out, ACTION_RELEASE);\n        source_end(c, SOURCE_DONE);\n "
     "       break;\n    case SOURCE_UNCERTAIN:\n    case SOURCE_WITHDRAWING:"),
    ("source-goes-on-without-asking-what-is-missing", "source_serve.c",
     '        source_emit(c, s->state, "the target answers again");',
     "        if (!s->urgent)\n            move_act(c->out, ACTION_OPEN_URGENT)->conn = s->conn;"),
    ("source-does-not-push-after-a-cut", "source_rounds.c",
     "    else if (s->state == SOURCE_SERVING)\n        move_act", "    else if (0)\n        move_act"),
    ("source-does-not-say-that-it-lost-its-memory", "source_commit.c",
     "                      : s->recovered                 ? INTENT_RECOVER\n", ""),
    ("target-lacks-nothing-after-a-cut", "target_commit.c",
     "    if (c->t->post_copy)\n        move_act(c->out, ACTION_SEND_ABSENT)->conn = c->t->conn;", "    (void)c;"),
    ("target-is-content-when-it-runs", "target_commit.c",
     "    target_enter(c, !t->post_copy ? TARGET_ACTIVE : t->conn ? TARGET_PULLING : TARGET_STRANDED);",
     "    target_enter(c, TARGET_ACTIVE);"),
    ("target-takes-pages-of-an-old-lane", "target_commit.c",
     "        target_shut(c);\n    c->t->lane = false;\n", ""),
    ("target-names-what-is-under-way", "target_commit.c",
     "        target_send_activated(c);\n        send_absent(c);\n        break;",
     "        target_send_activated(c);\n        break;"),
    ("target-is-adopted-by-half", "target_commit.c",
     "    if (c->t->post_copy)\n        return TARGET_REFUSE;\n", ""),
    ("target-forgets-to-say-pulled-again", "target_commit.c",
     "        if (t->post_copy)\n            target_send_pulled(c);", ""),
    ("target-never-stalls", "target.c",
     "    return waits ? target_later(t->progress_ns, t->config.stall_limit_ns) : CLOCK_NEVER;",
     "    (void)waits;\n    return CLOCK_NEVER;"),
]


def run(words, build):
    return subprocess.run(words, cwd=build, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def compile_words(build, path):
    with open(os.path.join(build, "compile_commands.json")) as f:
        for entry in json.load(f):
            if os.path.realpath(os.path.join(build, entry["file"])) == path:
                return shlex.split(entry["command"])
    sys.exit(f"mutants: {path} is not built")


def link_words(build, program):
    commands = run(["ninja", "-t", "commands", program], build).stdout.strip().splitlines()
    return shlex.split(commands[-1])


def replaced(words, option, value):
    at = words.index(option)
    return words[:at + 1] + [value] + words[at + 2:]


def without_deps(words):
    """No dependency file: it would be written beside the real object."""
    out = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in ("-MF", "-MQ"):
            skip = True
        elif word != "-MD":
            out.append(word)
    return out


def survives(build, source, mutant, scratch, program="tests/sim/sim"):
    name, file, old, new = mutant
    path = os.path.join(source, "src/move", file)
    with open(path) as f:
        text = f.read()
    if text.count(old) != 1:
        return f"its text is {text.count(old)} times in {file}"
    changed, obj, binary = (os.path.join(scratch, name + end) for end in (".c", ".o", ""))
    with open(changed, "w") as f:
        f.write(text.replace(old, new))
    words = without_deps(compile_words(build, path))
    words = replaced(replaced(words, "-o", obj), "-c", changed)
    done = run(words + ["-w"], build)
    if done.returncode:
        return "it does not compile:\n" + done.stdout
    # Before the archives, so that its symbols are the ones taken.
    words = replaced(link_words(build, program), "-o", binary)
    at = words.index("-o") + 2
    done = run(words[:at] + [obj] + words[at:], build)
    if done.returncode:
        return "it does not link:\n" + done.stdout
    try:
        done = subprocess.run([binary], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100)
    except subprocess.TimeoutExpired:
        return f"{program} hangs"
    if done.returncode == 0:
        return f"{program} does not notice"
    line = next((l for l in done.stdout.splitlines() if l.startswith(("BROKEN", "# ", "[  ERROR"))),
                done.stdout[-200:].strip())
    print(f"killed    {name}: {line}")
    return None


def main():
    build = os.path.realpath(sys.argv[1])
    source = os.path.realpath(os.path.join(os.path.dirname(__file__), "../.."))
    wanted = set(sys.argv[2:])
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for mutant in MUTANTS:
            if wanted and mutant[0] not in wanted:
                continue
            why = survives(build, source, mutant, scratch)
            if why:
                failed += 1
                print(f"SURVIVES  {mutant[0]}: {why}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
