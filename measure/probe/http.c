#include "http.h"
#include "base/compiler.h"

#include <string.h>
#include <strings.h>

void http_begin(struct http *http)
{
    http->state = HTTP_STATUS_LINE;
    http->status = 0;
    http->close = false;
    http->body_sum = ANSWER_SUM_BEGIN;
    http->body_bytes = http->left = 0;
    http->head_bytes = http->line_len = 0;
    http->interim = 0;
    http->minor_zero = http->chunked = http->has_length = http->keep_alive = false;
}

/* "HTTP/1.1 200 text", the text and its space perhaps missing. */
static bool read_status_line(struct http *http)
{
    const char *line = http->line;
    if (http->line_len < 12 || memcmp(line, "HTTP/1.", 7) != 0 ||
        (line[7] != '0' && line[7] != '1') || line[8] != ' ' ||
        (http->line_len > 12 && line[12] != ' '))
        return false;
    http->minor_zero = line[7] == '0';
    http->status = 0;
    for (int i = 9; i < 12; i++) {
        if (line[i] < '0' || line[i] > '9')
            return false;
        http->status = http->status * 10 + (unsigned)(line[i] - '0');
    }
    return http->status >= 100 && http->status < 600;
}

/* The value of `name: value` without the blanks around it, or NULL when the line is another header. */
static const char *header_value(const struct http *http, const char *name, size_t *ret_len)
{
    size_t at = strlen(name), end = http->line_len;
    if (end <= at || http->line[at] != ':' || strncasecmp(http->line, name, at) != 0)
        return NULL;
    for (at++; at < end && (http->line[at] == ' ' || http->line[at] == '\t'); at++)
        ;
    while (end > at && (http->line[end - 1] == ' ' || http->line[end - 1] == '\t'))
        end--;
    *ret_len = end - at;
    return http->line + at;
}

static bool read_length(struct http *http, const char *value, size_t len)
{
    uint64_t length = 0;
    if (len == 0)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (value[i] < '0' || value[i] > '9' ||
            __builtin_mul_overflow(length, UINT64_C(10), &length) ||
            __builtin_add_overflow(length, (uint64_t)(value[i] - '0'), &length))
            return false;
    }
    if (http->has_length && http->left != length)
        return false;
    http->has_length = true;
    http->left = length;
    return true;
}

/* Does a comma-separated list contain this word? */
static bool list_has(const char *list, size_t len, const char *word)
{
    size_t want = strlen(word);
    for (size_t at = 0; at < len;) {
        size_t end = at;
        while (end < len && list[end] != ',')
            end++;
        size_t from = at, to = end;
        while (from < to && (list[from] == ' ' || list[from] == '\t'))
            from++;
        while (to > from && (list[to - 1] == ' ' || list[to - 1] == '\t'))
            to--;
        if (to - from == want && strncasecmp(list + from, word, want) == 0)
            return true;
        at = end + 1;
    }
    return false;
}

/* Characters of a header's name: RFC 9110's tokens. */
static bool is_token(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_header(const struct http *http)
{
    const char *colon = memchr(http->line, ':', http->line_len);
    if (!colon || colon == http->line)
        return false;
    for (const char *at = http->line; at < colon; at++)
        if (!is_token(*at))
            return false;
    return true;
}

static bool read_header(struct http *http)
{
    size_t len;
    const char *value;
    if (!is_header(http))
        return false;
    if ((value = header_value(http, "content-length", &len)))
        return read_length(http, value, len);
    if ((value = header_value(http, "transfer-encoding", &len))) {
        bool again = http->chunked;
        http->chunked = true;
        return !again && len == 7 && strncasecmp(value, "chunked", len) == 0;
    }
    if ((value = header_value(http, "connection", &len))) {
        http->close |= list_has(value, len, "close");
        http->keep_alive |= list_has(value, len, "keep-alive");
    }
    return true;
}

/* The empty line after the headers: what follows? */
static enum http_state end_head(struct http *http)
{
    if (http->status < 200) {
        unsigned interim = http->interim + 1;
        if (http->status == 101 || interim > HTTP_INTERIM_MAX)
            return HTTP_BROKEN; /* nobody asked for another protocol */
        http_begin(http);
        http->interim = interim;
        return HTTP_STATUS_LINE;
    }
    if (http->minor_zero && !http->keep_alive)
        http->close = true;
    if (http->chunked && (http->has_length || http->minor_zero))
        return HTTP_BROKEN;
    if (http->status == 204 || http->status == 304)
        return HTTP_DONE;
    http->head_bytes = 0; /* the trailers' turn */
    if (http->chunked)
        return HTTP_CHUNK_SIZE;
    if (http->has_length)
        return http->left ? HTTP_BODY_LENGTH : HTTP_DONE;
    http->close = true;
    return HTTP_BODY_CLOSE;
}

/* "1a2b" or "1a2b;what=ever". */
static enum http_state read_chunk_size(struct http *http)
{
    size_t at = 0;
    http->left = 0;
    for (; at < http->line_len; at++) {
        char c = http->line[at];
        unsigned digit = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                         : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10
                         : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A') + 10
                                                : 16;
        if (digit == 16)
            break;
        if (http->left >> 60)
            return HTTP_BROKEN;
        http->left = http->left << 4 | digit;
    }
    if (at == 0)
        return HTTP_BROKEN;
    while (at < http->line_len && (http->line[at] == ' ' || http->line[at] == '\t'))
        at++;
    if (at < http->line_len && http->line[at] != ';')
        return HTTP_BROKEN;
    return http->left ? HTTP_CHUNK_DATA : HTTP_TRAILER;
}

static enum http_state end_line(struct http *http)
{
    switch (http->state) {
    case HTTP_STATUS_LINE:
        return read_status_line(http) ? HTTP_HEADER : HTTP_BROKEN;
    case HTTP_HEADER:
        if (http->line_len == 0)
            return end_head(http);
        return read_header(http) ? HTTP_HEADER : HTTP_BROKEN;
    case HTTP_CHUNK_SIZE:
        return read_chunk_size(http);
    case HTTP_CHUNK_END:
        return http->line_len == 0 ? HTTP_CHUNK_SIZE : HTTP_BROKEN;
    case HTTP_TRAILER:
        if (http->line_len == 0)
            return HTTP_DONE;
        return is_header(http) ? HTTP_TRAILER : HTTP_BROKEN;
    default:
        return HTTP_BROKEN;
    }
}

/* Takes bytes up to the end of a line, which a newline alone ends too. Returns how many. */
static size_t take_line(struct http *http, const uint8_t *bytes, size_t len)
{
    bool counts = http->state == HTTP_STATUS_LINE || http->state == HTTP_HEADER ||
                  http->state == HTTP_TRAILER;
    const uint8_t *newline = memchr(bytes, '\n', MIN(len, (size_t)HTTP_LINE_MAX));
    size_t used = newline ? (size_t)(newline - bytes) + 1 : MIN(len, (size_t)HTTP_LINE_MAX);
    size_t keep = newline ? used - 1 : used;

    http->head_bytes += counts ? used : 0;
    if (keep > sizeof(http->line) - http->line_len || http->head_bytes > HTTP_HEAD_MAX ||
        memchr(bytes, '\0', keep)) {
        http->state = HTTP_BROKEN;
        return used;
    }
    memcpy(http->line + http->line_len, bytes, keep);
    http->line_len += keep;
    if (!newline)
        return used;
    if (http->line_len && http->line[http->line_len - 1] == '\r')
        http->line_len--;
    http->state = memchr(http->line, '\r', http->line_len) ? HTTP_BROKEN : end_line(http);
    http->line_len = 0;
    return used;
}

static size_t take_body(struct http *http, const uint8_t *bytes, size_t len)
{
    size_t used = http->state == HTTP_BODY_CLOSE ? len : (size_t)MIN((uint64_t)len, http->left);
    if (http->sums)
        http->body_sum = answer_sum(http->body_sum, bytes, used);
    http->body_bytes += used;
    if (http->state == HTTP_BODY_CLOSE)
        return used;
    http->left -= used;
    if (http->left == 0)
        http->state = http->state == HTTP_CHUNK_DATA ? HTTP_CHUNK_END : HTTP_DONE;
    return used;
}

enum answer http_feed(struct http *http, const uint8_t *bytes, size_t len, size_t *ret_used)
{
    size_t used = 0;
    while (used < len && http->state != HTTP_DONE && http->state != HTTP_BROKEN) {
        bool body = http->state == HTTP_BODY_LENGTH || http->state == HTTP_BODY_CLOSE ||
                    http->state == HTTP_CHUNK_DATA;
        used += body ? take_body(http, bytes + used, len - used)
                     : take_line(http, bytes + used, len - used);
    }
    *ret_used = used;
    return http->state == HTTP_DONE     ? ANSWER_DONE
           : http->state == HTTP_BROKEN ? ANSWER_BAD
                                        : ANSWER_MORE;
}

enum answer http_eof(struct http *http)
{
    if (http->state == HTTP_BODY_CLOSE)
        http->state = HTTP_DONE;
    return http->state == HTTP_DONE ? ANSWER_DONE : ANSWER_MORE;
}
