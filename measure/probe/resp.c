#include "resp.h"
#include "base/compiler.h"

#include <string.h>

void resp_begin(struct resp *resp)
{
    resp->state = RESP_LINE;
    resp->type = '\0';
    resp->nil = resp->any = false;
    resp->text[0] = '\0';
    resp->bulk_bytes = 0;
    resp->bulk_sum = ANSWER_SUM_BEGIN;
    resp->left = resp->line_len = 0;
    resp->depth = 0;
}

/* A decimal integer, with a plus sign perhaps where `any_sign`; the text ends with a NUL. */
static bool read_integer(const char *text, bool any_sign, int64_t *ret)
{
    bool minus = *text == '-';
    int64_t value = 0;
    text += minus || (any_sign && *text == '+');
    if (!*text)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || __builtin_mul_overflow(value, INT64_C(10), &value) ||
            __builtin_sub_overflow(value, (int64_t)(*text - '0'), &value))
            return false; /* counted downwards: the smallest has no counterpart */
    }
    if (!minus && __builtin_sub_overflow(INT64_C(0), value, &value))
        return false;
    *ret = value;
    return true;
}

/* A value is over: perhaps the arrays around it are, too. */
static enum resp_state end_value(struct resp *resp)
{
    while (resp->depth) {
        if (--resp->open[resp->depth - 1])
            return RESP_LINE;
        resp->depth--;
    }
    return RESP_DONE;
}

static enum resp_state end_line(struct resp *resp)
{
    char type = resp->line_len ? resp->line[0] : '\0';
    const char *text = resp->line + 1;
    int64_t number = 0;

    if (resp->line_len == 0 || memchr(resp->line, '\0', resp->line_len))
        return RESP_BROKEN;
    resp->line[resp->line_len] = '\0';
    bool whole = !resp->any;
    if (whole) {
        resp->any = true;
        resp->type = type;
        memcpy(resp->text, text, resp->line_len);
    }
    switch (type) {
    case '+':
    case '-':
        return end_value(resp);
    case ':':
        return read_integer(text, true, &number) ? end_value(resp) : RESP_BROKEN;
    case '$':
    case '*':
        if (!read_integer(text, false, &number) || number < -1 ||
            number > (type == '$' ? RESP_BULK_MAX : RESP_ARRAY_MAX))
            return RESP_BROKEN;
        if (number == -1) {
            resp->nil |= whole;
            return end_value(resp);
        }
        if (type == '$') {
            resp->left = (uint64_t)number;
            return number ? RESP_BULK : RESP_BULK_END;
        }
        if (number == 0)
            return end_value(resp);
        if (resp->depth == RESP_DEPTH_MAX)
            return RESP_BROKEN;
        resp->open[resp->depth++] = (uint64_t)number;
        return RESP_LINE;
    default:
        return RESP_BROKEN;
    }
}

/* Takes bytes up to the end of a line, which is "\r\n" and nothing less. Returns how many. */
static size_t take_line(struct resp *resp, const uint8_t *bytes, size_t len)
{
    const uint8_t *newline = memchr(bytes, '\n', len);
    size_t used = newline ? (size_t)(newline - bytes) + 1 : len;
    if (used > sizeof(resp->line) - resp->line_len) {
        resp->state = RESP_BROKEN;
        return used;
    }
    memcpy(resp->line + resp->line_len, bytes, used);
    resp->line_len += used;
    if (!newline)
        return used;
    if (resp->line_len < 2 || resp->line[resp->line_len - 2] != '\r') {
        resp->state = RESP_BROKEN;
        return used;
    }
    resp->line_len -= 2;
    if (resp->state == RESP_BULK_END)
        resp->state = resp->line_len == 0 ? end_value(resp) : RESP_BROKEN;
    else
        resp->state = end_line(resp);
    resp->line_len = 0;
    return used;
}

enum answer resp_feed(struct resp *resp, const uint8_t *bytes, size_t len, size_t *ret_used)
{
    size_t used = 0;
    while (used < len && resp->state != RESP_DONE && resp->state != RESP_BROKEN) {
        if (resp->state == RESP_BULK) {
            size_t some = (size_t)MIN((uint64_t)(len - used), resp->left);
            if (resp->type == '$') { /* the value is this string, not one within an array */
                resp->bulk_sum = answer_sum(resp->bulk_sum, bytes + used, some);
                resp->bulk_bytes += some;
            }
            used += some;
            resp->left -= some;
            if (resp->left == 0)
                resp->state = RESP_BULK_END;
        } else {
            used += take_line(resp, bytes + used, len - used);
        }
    }
    *ret_used = used;
    return resp->state == RESP_DONE     ? ANSWER_DONE
           : resp->state == RESP_BROKEN ? ANSWER_BAD
                                        : ANSWER_MORE;
}
