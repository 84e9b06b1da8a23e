/* HTTP, Redis and echo, as the kept connections of session.c speak them. */
#include "session.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void plan_mix(struct probe *probe, struct request *request)
{
    const struct mix *mix = &probe->options.mix;
    request->item = mix->count > 1 ? mix_choose(mix, &probe->seed) : 0;
    request->choice = mix_random(&probe->seed);
    request->kind = mix->items[request->item].what <= MIX_POST
                        ? mix_name(mix->items[request->item].what)
                        : "resp";
}

static const struct mix_item *item_of(const struct session *session, const struct request *request)
{
    return &session->probe->options.mix.items[request->item];
}

/* A form: fields that a program behind the server can keep. */
static void put_form(struct buf *out, const struct request *request, size_t len)
{
    char head[48];
    int head_len =
        snprintf(head, sizeof(head), "seq=%020" PRIu64 "&data=", request->seq); /* 30 bytes */
    buf_printf(out,
               "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %zu\r\n\r\n",
               len);
    buf_put(out, head, MIN((size_t)head_len, len));
    for (size_t i = (size_t)head_len; i < len; i++)
        buf_put_u8(out, (uint8_t)('a' + i % 26));
}

static void http_ask(struct session *session, const struct request *request)
{
    const struct options *options = &session->probe->options;
    const struct mix_item *item = item_of(session, request);
    uint64_t seed = request->choice;
    buf_printf(&session->out, "%s ", item->what == MIX_POST ? "POST" : "GET");
    mix_put_path(&session->out, item, &seed);
    buf_printf(&session->out, " HTTP/1.1\r\nHost: %s\r\nUser-Agent: godwit-probe\r\n",
               options->target);
    if (item->what == MIX_POST)
        put_form(&session->out, request, options->body_bytes);
    else
        buf_printf(&session->out, "\r\n");
    http_begin(&session->http);
    session->http.sums = options->expect != NULL;
}

static enum answer http_take(struct session *session, const uint8_t *bytes, size_t len,
                             size_t *ret_used)
{
    return http_feed(&session->http, bytes, len, ret_used);
}

static enum answer http_closed(struct session *session)
{
    return http_eof(&session->http);
}

static bool http_right(const struct session *session, const struct request *request)
{
    (void)request;
    const struct http *http = &session->http;
    const char *expect = session->probe->options.expect;
    if (http->status < 200 || http->status > 299)
        return false;
    return !expect || (http->body_bytes == strlen(expect) &&
                       http->body_sum == answer_sum(ANSWER_SUM_BEGIN, expect, strlen(expect)));
}

static bool http_kept(const struct session *session)
{
    return !session->http.close;
}

const struct session_ops ask_http = { .plan = plan_mix,
                                      .ask = http_ask,
                                      .feed = http_take,
                                      .eof = http_closed,
                                      .right = http_right,
                                      .kept = http_kept };

/* What a key holds, once it was set: always the same, since its name says how long it is. */
static char value_byte(uint64_t key, uint64_t at)
{
    return (char)('a' + (key + at) % 26);
}

static uint64_t key_of(const struct session *session, const struct request *request)
{
    return request->choice % session->probe->options.keys;
}

static void resp_ask(struct session *session, const struct request *request)
{
    uint64_t len = session->probe->options.value_bytes, key = key_of(session, request);
    const char *prefix = session->probe->options.key;
    char name[128];
    int name_len = prefix ? snprintf(name, sizeof(name), "%.80s%" PRIu64, prefix, key)
                          : snprintf(name, sizeof(name), "probe:%" PRIu64 ":%" PRIu64, len, key);
    switch (item_of(session, request)->what) {
    case MIX_GET:
        buf_printf(&session->out, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", name_len, name);
        break;
    case MIX_SET:
        buf_printf(&session->out, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%" PRIu64 "\r\n", name_len,
                   name, len);
        for (uint64_t i = 0; i < len; i++)
            buf_put_u8(&session->out, (uint8_t)value_byte(key, i));
        buf_printf(&session->out, "\r\n");
        break;
    default:
        buf_printf(&session->out, "*1\r\n$4\r\nPING\r\n");
    }
    resp_begin(&session->resp);
}

static enum answer resp_take(struct session *session, const uint8_t *bytes, size_t len,
                             size_t *ret_used)
{
    return resp_feed(&session->resp, bytes, len, ret_used);
}

/* A key that was never set has no value: that is right, too. */
static bool value_is_right(const struct session *session, uint64_t key)
{
    const struct resp *resp = &session->resp;
    uint64_t sum = ANSWER_SUM_BEGIN, len = session->probe->options.value_bytes;
    if (resp->type != '$' || resp->nil)
        return resp->type == '$';
    if (session->probe->options.key)
        return resp->bulk_bytes == len; /* the server's own, or ours */
    for (uint64_t i = 0; i < len; i++) {
        char byte = value_byte(key, i);
        sum = answer_sum(sum, &byte, 1);
    }
    return resp->bulk_bytes == len && resp->bulk_sum == sum;
}

static bool resp_right(const struct session *session, const struct request *request)
{
    const struct resp *resp = &session->resp;
    switch (item_of(session, request)->what) {
    case MIX_GET:
        return value_is_right(session, key_of(session, request));
    case MIX_SET:
        return resp->type == '+' && strcmp(resp->text, "OK") == 0;
    default:
        return resp->type == '+' && strcmp(resp->text, "PONG") == 0;
    }
}

const struct session_ops ask_resp = {
    .plan = plan_mix, .ask = resp_ask, .feed = resp_take, .right = resp_right
};

static void echo_plan(struct probe *probe, struct request *request)
{
    (void)probe;
    request->kind = "tcp";
}

static void echo_ask(struct session *session, const struct request *request)
{
    size_t len = session->probe->options.size_bytes;
    uint8_t *bytes = buf_grow(&session->out, len);
    if (bytes)
        echo_fill(bytes, len, session->probe->cookie, request->seq);
    session->echoed = 0;
}

static enum answer echo_take(struct session *session, const uint8_t *bytes, size_t len,
                             size_t *ret_used)
{
    size_t some = MIN(len, session->out.len - session->echoed);
    bool same = memcmp(session->out.data + session->echoed, bytes, some) == 0;
    session->echoed += some;
    *ret_used = some;
    return !same ? ANSWER_BAD : session->echoed == session->out.len ? ANSWER_DONE : ANSWER_MORE;
}

static bool echo_right(const struct session *session, const struct request *request)
{
    (void)session;
    (void)request;
    return true; /* compared as it came */
}

const struct session_ops ask_echo = {
    .plan = echo_plan, .ask = echo_ask, .feed = echo_take, .right = echo_right
};
