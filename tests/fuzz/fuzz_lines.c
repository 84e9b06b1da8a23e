/*
 * Lines from inside a guest, at the monitor's end: what an agent answers, and what a guest asks that wants to be moved.
 * Both come in any pieces. An answer is taken whole or not at all, and once; nothing is moved but where it was allowed.
 *
 * Compiled twice: with FUZZ_AGENT [verb, then pieces], and without [then operations on four connections].
 */
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "fuzz.h"
#include "vmm/agent.h"
#include "vmm/self_move.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

static void turn(struct loop *loop)
{
    for (int i = 0; i < 3; i++)
        FUZZ_CHECK(loop_once(loop, 0) == 0);
}

static void make_pair(int pair[2])
{
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
}

#if defined(FUZZ_AGENT)

struct asked {
    int fd; /* for dial() to hand out */
    unsigned answers;
    struct agent_reply reply;
};

static int dial(void *ctx, int *ret_fd)
{
    *ret_fd = ((struct asked *)ctx)->fd;
    return 0;
}

static void answered(void *arg, const struct agent_reply *reply)
{
    struct asked *asked = arg;
    asked->answers++;
    asked->reply = *reply;
}

/* An answer that was taken says nothing but these numbers and this word. */
static void check_taken(enum agent_verb verb, const char *line, const struct agent_reply *r)
{
    char text[AGENT_LINE_MAX];
    uint64_t number[3] = { r->protocol, r->page_cache, r->slow };
    if (verb == AGENT_BEFORE) {
        number[0] = r->page_cache_bytes;
        number[1] = r->slowed;
    } else if (verb == AGENT_AFTER) {
        number[0] = r->restored;
    }
    for (unsigned i = 0; i < 3; i++)
        FUZZ_CHECK(number[i] < UINT64_C(1000000000000000000));
    FUZZ_CHECK(verb != AGENT_HELLO ||
               (r->version[0] && strnlen(r->version, sizeof(r->version)) < sizeof(r->version)));
    for (const char *c = r->version; *c; c++)
        FUZZ_CHECK(*c > ' ' && *c <= '~');
    if (verb == AGENT_HELLO)
        (void)snprintf(text, sizeof(text), "ok version=%llu agent=%s page_cache=%llu slow=%llu",
                       (unsigned long long)number[0], r->version, (unsigned long long)number[1],
                       (unsigned long long)number[2]);
    else if (verb == AGENT_BEFORE)
        (void)snprintf(text, sizeof(text), "ok page_cache_bytes=%llu slowed=%llu",
                       (unsigned long long)number[0], (unsigned long long)number[1]);
    else
        (void)snprintf(text, sizeof(text), "ok restored=%llu", (unsigned long long)number[0]);
    if (!strstr(line, "=0")) /* zeroes before a number are taken, and not written */
        FUZZ_CHECK(strcmp(text, line) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cursor in = cursor_of(data, size);
    enum agent_verb verb = AGENT_HELLO + cursor_u8(&in) % (AGENT_VERB_MAX - AGENT_HELLO);
    struct loop loop;
    struct agent agent;
    struct asked asked = { 0 };
    int pair[2];
    char all[2 * AGENT_LINE_MAX] = "";
    size_t len = 0;

    make_pair(pair);
    asked.fd = pair[0];
    FUZZ_CHECK(loop_init(&loop) == 0 && agent_init(&agent, &loop, dial, &asked) == 0);
    agent_ask(&agent, &(struct agent_request){ .verb = verb, .limit_ns = 60 * CLOCK_SECOND },
              answered, &asked);
    while (in.left && asked.answers == 0) {
        size_t want = MIN((size_t)cursor_u8(&in) + 1, in.left);
        const uint8_t *piece = cursor_take(&in, MIN(want, sizeof(all) - len));
        if (!piece || in.at == piece)
            break;
        FUZZ_CHECK(send(pair[1], piece, (size_t)(in.at - piece), MSG_NOSIGNAL) == in.at - piece);
        memcpy(all + len, piece, (size_t)(in.at - piece));
        len += (size_t)(in.at - piece);
        turn(&loop);
    }
    fd_close(&pair[1]);
    turn(&loop);
    FUZZ_CHECK(asked.answers == 1); /* the end of the connection is an answer as well */

    const char *end = memchr(all, '\n', len);
    bool whole = end && end == all + len - 1 && len <= AGENT_LINE_MAX && !memchr(all, '\0', len);
    if (asked.reply.rc == 0) {
        FUZZ_CHECK(whole);
        all[len - 1] = '\0';
        check_taken(verb, all, &asked.reply);
    } else if (whole) {
        struct agent_reply reply = { 0 };
        all[len - 1] = '\0';
        FUZZ_CHECK(agent_parse(verb, all, &reply) == asked.reply.rc);
    }
    FUZZ_CHECK(asked.reply.present == (len > 0));
    agent_fini(&agent);
    loop_fini(&loop);
    return 0;
}

#else

#define GUESTS 4
#define GOOD_TARGET "host2:7000"

struct rig {
    struct loop loop;
    struct self_move self;
    int guest[GUESTS];
    bool moving, refuses;
    unsigned asked, said; /* lines in both directions */
    unsigned told_failed; /* answers that nobody asked for just then */
};

static int allowed(void *ctx, const char *target, struct err *err)
{
    (void)ctx;
    FUZZ_CHECK(target[0] && strlen(target) < SELF_MOVE_TARGET_MAX);
    for (const char *c = target; *c; c++)
        FUZZ_CHECK(*c > ' ' && *c <= '~');
    return strcmp(target, GOOD_TARGET) == 0 ? 0 : err_set(err, ERR_GUEST, EPERM, "not there");
}

static int start(void *ctx, const char *id, const char *target, struct err *err)
{
    struct rig *rig = ctx;
    FUZZ_CHECK(strcmp(target, GOOD_TARGET) == 0 && !rig->moving);
    FUZZ_CHECK(strlen(id) == SELF_MOVE_ID_MAX - 1 && strspn(id, "0123456789abcdef") == strlen(id));
    if (rig->refuses)
        return err_set(err, ERR_CALLER, EBUSY, "busy\nwith two lines");
    rig->moving = true;
    return 0;
}

/* All that is said is lines of a few kinds. */
static void hear(struct rig *rig, int fd)
{
    static const char *const kinds[] = { "accepted", "refused ", "moving",
                                         "moved ",   "failed ",  "unknown" };
    char text[8192];
    ssize_t n = fd < 0 ? 0 : recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT);
    if (n <= 0)
        return;
    text[n] = '\0';
    FUZZ_CHECK(strlen(text) == (size_t)n && text[n - 1] == '\n');
    for (char *line = text, *end; *line; line = end + 1) {
        unsigned kind = 0;
        end = strchr(line, '\n');
        while (kind < ARRAY_LEN(kinds) && strncmp(line, kinds[kind], strlen(kinds[kind])) != 0)
            kind++;
        if (kind == ARRAY_LEN(kinds))
            FUZZ_CHECK(strncmp(line, "with two lines", 14) == 0); /* the reason's own */
        else
            rig->said++;
    }
}

static void say(struct rig *rig, int fd, struct cursor *in)
{
    uint8_t len = cursor_u8(in);
    const uint8_t *piece = cursor_take(in, MIN((size_t)len, in->left));
    size_t taken = piece ? (size_t)(in->at - piece) : 0;
    for (size_t i = 0; i < taken; i++)
        rig->asked += piece[i] == '\n';
    if (fd >= 0 && taken)
        (void)!send(fd, piece, taken, MSG_DONTWAIT | MSG_NOSIGNAL);
    turn(&rig->loop);
}

static void connect_guest(struct rig *rig, int *guest, uint32_t port)
{
    int pair[2];
    make_pair(pair);
    fd_close(guest);
    turn(&rig->loop);
    *guest = pair[1];
    self_move_accept(&rig->self, pair[0], port);
}

static void act(struct rig *rig, struct cursor *in)
{
    uint8_t op = cursor_u8(in);
    int *guest = &rig->guest[op >> 6];
    struct err err = { .code = EIO, .fault = ERR_HOST, .text = "the link\r\nwas cut" };
    switch (op % 8) {
    case 0:
        connect_guest(rig, guest, op & 8 ? 5000 : 700);
        break;
    case 1:
        fd_close(guest);
        turn(&rig->loop);
        break;
    case 2:
        rig->told_failed += GUESTS;
        rig->moving = false;
        self_move_failed(&rig->self, &err);
        break;
    case 3:
        if (!rig->moving)
            self_move_arrived(&rig->self, op & 8 ? "0123456789abcdef" : "");
        break;
    case 4:
        rig->refuses = op & 8;
        break;
    default:
        say(rig, *guest, in);
        break;
    }
    for (unsigned i = 0; i < GUESTS; i++)
        hear(rig, rig->guest[i]);
    FUZZ_CHECK(rig->said <= rig->asked + rig->told_failed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cursor in = cursor_of(data, size);
    struct rig rig = { .guest = { -1, -1, -1, -1 } };
    const struct self_move_calls calls = { .ctx = &rig, .allowed = allowed, .start = start };
    log_setup(LOG_ERROR, "fuzz");
    FUZZ_CHECK(loop_init(&rig.loop) == 0);
    self_move_init(&rig.self, &rig.loop, &calls);
    for (unsigned i = 0; in.left && i < 400; i++)
        act(&rig, &in);
    self_move_fini(&rig.self);
    for (unsigned i = 0; i < GUESTS; i++)
        fd_close(&rig.guest[i]);
    loop_fini(&rig.loop);
    return 0;
}

#endif
