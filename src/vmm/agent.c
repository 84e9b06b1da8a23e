#include "vmm/agent.h"
#include "base/clock.h"
#include "base/fd.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

size_t agent_format(const struct agent_request *request, char line[AGENT_LINE_MAX])
{
    int len = 0;
    switch (request->verb) {
    case AGENT_HELLO:
        len = snprintf(line, AGENT_LINE_MAX, "hello version=1\n");
        break;
    case AGENT_BEFORE:
        len = snprintf(line, AGENT_LINE_MAX, "before-last-round slow=%d limit_ms=%" PRIu64 "\n",
                       request->slow, request->restore_ns / CLOCK_MSEC);
        break;
    case AGENT_AFTER:
        len = snprintf(line, AGENT_LINE_MAX, "after-move\n");
        break;
    case AGENT_VERB_MAX:
        break;
    }
    ASSERT(len > 0);
    return (size_t)len;
}

/* " KEY=DIGITS", no more of them than fit; cut off *at. */
static bool take_number(const char **at, const char *key, uint64_t *ret)
{
    size_t len = strlen(key);
    uint64_t value = 0;
    if (**at != ' ' || strncmp(*at + 1, key, len) != 0 || (*at)[1 + len] != '=')
        return false;
    const char *digit = *at + len + 2;
    size_t digits = strspn(digit, "0123456789");
    if (digits == 0 || digits > 18)
        return false;
    for (size_t i = 0; i < digits; i++)
        value = value * 10 + (uint64_t)(digit[i] - '0');
    *at = digit + digits;
    *ret = value;
    return true;
}

/* " agent=WORD" */
static bool take_version(const char **at, char *ret, size_t size)
{
    static const char key[] = " agent=";
    if (strncmp(*at, key, sizeof(key) - 1) != 0)
        return false;
    const char *word = *at + sizeof(key) - 1;
    size_t len =
        strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_+~");
    if (len == 0 || len >= size)
        return false;
    memcpy(ret, word, len);
    ret[len] = '\0';
    *at = word + len;
    return true;
}

int agent_parse(enum agent_verb verb, const char *line, struct agent_reply *reply)
{
    bool good = false;
    if (strncmp(line, "error ", 6) == 0)
        return -EREMOTEIO;
    if (strncmp(line, "ok", 2) != 0)
        return -EPROTO;
    line += 2;
    switch (verb) {
    case AGENT_HELLO:
        good = take_number(&line, "version", &reply->protocol) &&
               take_version(&line, reply->version, sizeof(reply->version)) &&
               take_number(&line, "page_cache", &reply->page_cache) &&
               take_number(&line, "slow", &reply->slow);
        break;
    case AGENT_BEFORE:
        good = take_number(&line, "page_cache_bytes", &reply->page_cache_bytes) &&
               take_number(&line, "slowed", &reply->slowed);
        break;
    case AGENT_AFTER:
        good = take_number(&line, "restored", &reply->restored);
        break;
    case AGENT_VERB_MAX:
        break;
    }
    return good && !*line ? 0 : -EPROTO;
}

static void finish(struct agent *agent, struct agent_reply *reply, int rc)
{
    agent_fn *fn = agent->fn;
    agent->fn = NULL;
    loop_remove(&agent->socket);
    loop_timer_set(&agent->timer, CLOCK_NEVER);
    fd_close(&agent->fd);
    reply->rc = rc;
    reply->took_ns = clock_now_ns() - agent->began_ns;
    if (fn)
        fn(agent->arg, reply);
}

static void on_timer(struct loop_source *source, uint32_t events)
{
    struct agent *agent = CONTAINER_OF(source, struct agent, timer);
    (void)events;
    (void)loop_drain(source->fd);
    if (agent->fn && clock_now_ns() >= agent->began_ns + agent->request.limit_ns)
        finish(agent, &(struct agent_reply){ .present = agent->len > 0 }, -ETIMEDOUT);
}

static void on_socket(struct loop_source *source, uint32_t events)
{
    struct agent *agent = CONTAINER_OF(source, struct agent, socket);
    struct agent_reply reply = { 0 };
    (void)events;
    ssize_t n =
        recv(agent->fd, agent->line + agent->len, sizeof(agent->line) - agent->len, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    reply.present = agent->len > 0 || n > 0;
    if (n <= 0) {
        finish(agent, &reply, reply.present ? -EPROTO : -ECONNREFUSED);
        return;
    }
    agent->len += (size_t)n;
    char *end = memchr(agent->line, '\n', agent->len);
    if (!end && agent->len < sizeof(agent->line))
        return;
    int rc = -EPROTO;
    /* One line and no more; a NUL would hide what follows it. */
    if (end == agent->line + agent->len - 1 && !memchr(agent->line, '\0', agent->len)) {
        *end = '\0';
        rc = agent_parse(agent->request.verb, agent->line, &reply);
    }
    if (rc)
        reply = (struct agent_reply){ .present = true };
    finish(agent, &reply, rc);
}

int agent_init(struct agent *agent, struct loop *loop, int (*dial)(void *ctx, int *ret_fd),
               void *ctx)
{
    *agent = (struct agent){ .loop = loop, .dial = dial, .ctx = ctx, .fd = -1 };
    agent->socket.fd = -1;
    return loop_timer_add(loop, &agent->timer, on_timer);
}

void agent_fini(struct agent *agent)
{
    agent->fn = NULL;
    loop_remove(&agent->socket);
    loop_timer_remove(&agent->timer);
    fd_close(&agent->fd);
}

void agent_cancel(struct agent *agent)
{
    if (agent->fn)
        finish(agent, &(struct agent_reply){ 0 }, -ECANCELED);
}

void agent_ask(struct agent *agent, const struct agent_request *request, agent_fn *fn, void *arg)
{
    char line[AGENT_LINE_MAX];
    agent_cancel(agent);
    agent->fn = fn;
    agent->arg = arg;
    agent->request = *request;
    agent->len = 0;
    agent->began_ns = clock_now_ns();
    int rc = agent->dial(agent->ctx, &agent->fd);
    if (!rc) {
        size_t len = agent_format(request, line);
        if (send(agent->fd, line, len, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)len)
            rc = -EIO; /* a fresh socket has room for a line */
    }
    if (!rc)
        rc = loop_add(agent->loop, &agent->socket, agent->fd, EPOLLIN, on_socket);
    if (rc)
        finish(agent, &(struct agent_reply){ 0 }, rc);
    else
        loop_timer_set(&agent->timer, agent->began_ns + request->limit_ns);
}
