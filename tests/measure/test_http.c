/* Each answer is read whole, byte by byte, and cut at every place: it must mean the same. */
#include "../unit/test.h"
#include "base/buf.h"
#include "base/compiler.h"
#include "http.h"

#include <stdio.h>
#include <string.h>

struct answer_case {
    const char *what, *text;
    enum answer answer; /* when all of it was read */
    enum answer at_eof; /* if the server closes then; of those that are not done */
    unsigned status;
    uint64_t body_bytes;
    const char *body; /* NULL: not compared */
    bool close;
    size_t left_over;
};

#define OK "HTTP/1.1 200 OK\r\n"
static const struct answer_case cases[] = {
    { "a length", OK "Content-Length: 5\r\n\r\npong\n", ANSWER_DONE, 0, 200, 5, "pong\n" },
    { "no body", OK "Content-Length: 0\r\n\r\n", ANSWER_DONE, 0, 200, 0, "" },
    { "no reason", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", ANSWER_DONE, 0, 200, 0, "" },
    { "an empty reason", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", ANSWER_DONE, 0, 200, 0, "" },
    { "newlines alone", "HTTP/1.1 200 OK\nContent-Length: 2\n\nab", ANSWER_DONE, 0, 200, 2, "ab" },
    { "any case, blanks", OK "cOnTeNt-LENGTH:\t 3 \r\n\r\nabc", ANSWER_DONE, 0, 200, 3, "abc" },
    { "the same length twice", OK "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", ANSWER_DONE,
      0, 200, 3, "abc" },
    { "an error", "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", ANSWER_DONE, 0, 503, 4,
      "busy" },
    { "no content", "HTTP/1.1 204 None\r\n\r\n", ANSWER_DONE, 0, 204, 0, "" },
    { "not modified, with a length", "HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n", ANSWER_DONE,
      0, 304, 0, NULL },
    { "a second answer behind", OK "Content-Length: 1\r\n\r\naHTTP/1.1", ANSWER_DONE, 0, 200, 1,
      "a", false, 8 },
    { "close", OK "Content-Length: 1\r\nConnection: x, Close\r\n\r\na", ANSWER_DONE, 0, 200, 1, "a",
      true },
    { "closer is not close", OK "Content-Length: 1\r\nConnection: closer\r\n\r\na", ANSWER_DONE, 0,
      200, 1, "a" },
    { "1.0 closes", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", ANSWER_DONE, 0, 200, 1, "a",
      true },
    { "1.0 keeps", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
      ANSWER_DONE, 0, 200, 1, "a" },
    { "up to the end", OK "\r\nabc", ANSWER_MORE, ANSWER_DONE, 200, 3, "abc", true },
    { "up to the end, empty", OK "\r\n", ANSWER_MORE, ANSWER_DONE, 200, 0, "", true },
    { "chunks", OK "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n",
      ANSWER_DONE, 0, 200, 13, "abc0123456789" },
    { "chunks with extensions",
      OK "Transfer-Encoding: Chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n00;x\r\n\r\n", ANSWER_DONE, 0, 200,
      3, "abc" },
    { "chunks with trailers",
      OK "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n", ANSWER_DONE,
      0, 200, 1, "a" },
    { "chunks, then more", OK "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nx", ANSWER_DONE, 0, 200,
      0, "", false, 1 },
    { "interim answers",
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\nContent-Length: 7\r\n\r\n" OK
      "Content-Length: 2\r\n\r\nab",
      ANSWER_DONE, 0, 200, 2, "ab" },

    { "nothing", "", ANSWER_MORE, ANSWER_MORE, 0, 0, "" },
    { "half a head", OK "Content-Le", ANSWER_MORE, ANSWER_MORE, 200, 0, NULL },
    { "half a body", OK "Content-Length: 5\r\n\r\npo", ANSWER_MORE, ANSWER_MORE, 200, 2, "po" },
    { "half a chunk", OK "Transfer-Encoding: chunked\r\n\r\n5\r\npo", ANSWER_MORE, ANSWER_MORE, 200,
      2, "po" },
    { "no last chunk", OK "Transfer-Encoding: chunked\r\n\r\n2\r\npo\r\n", ANSWER_MORE, ANSWER_MORE,
      200, 2, "po" },
    { "no end of trailers", OK "Transfer-Encoding: chunked\r\n\r\n0\r\n", ANSWER_MORE, ANSWER_MORE,
      200, 0, "" },

    { "another protocol", "SSH-2.0-OpenSSH_9.2\r\n", ANSWER_BAD },
    { "another version", "HTTP/2.0 200 OK\r\n", ANSWER_BAD },
    { "no number", "HTTP/1.1 2x0 OK\r\n", ANSWER_BAD },
    { "a number too long", "HTTP/1.1 2000 OK\r\n", ANSWER_BAD },
    { "a number too small", "HTTP/1.1 099 OK\r\n", ANSWER_BAD },
    { "an empty line first", "\r\n" OK, ANSWER_BAD },
    { "a header without a colon", OK "Content-Length 5\r\n", ANSWER_BAD },
    { "a header without a name", OK ": 5\r\n", ANSWER_BAD },
    { "a blank before the colon", OK "Content-Length : 5\r\n", ANSWER_BAD },
    { "a folded header", OK "X: a\r\n b\r\n", ANSWER_BAD },
    { "two lengths", OK "Content-Length: 3\r\nContent-Length: 4\r\n", ANSWER_BAD },
    { "two lengths in one", OK "Content-Length: 3, 3\r\n", ANSWER_BAD },
    { "a negative length", OK "Content-Length: -1\r\n", ANSWER_BAD },
    { "an empty length", OK "Content-Length:\r\n", ANSWER_BAD },
    { "a length beyond 64 bits", OK "Content-Length: 18446744073709551616\r\n", ANSWER_BAD },
    { "a length and chunks", OK "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
      ANSWER_BAD },
    { "another coding", OK "Transfer-Encoding: gzip, chunked\r\n", ANSWER_BAD },
    { "chunked twice", OK "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
      ANSWER_BAD },
    { "a chunk without a size", OK "Transfer-Encoding: chunked\r\n\r\n\r\n", ANSWER_BAD },
    { "a chunk of letters", OK "Transfer-Encoding: chunked\r\n\r\nxyz\r\n", ANSWER_BAD },
    { "a chunk too large", OK "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n",
      ANSWER_BAD },
    { "a chunk longer than it says", OK "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
      ANSWER_BAD },
    { "another protocol is offered", "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", ANSWER_BAD },
    { "a bare carriage return", OK "X: a\rb\r\n", ANSWER_BAD },
};

/* Feeds `len` bytes in pieces of `piece`, the first of them of `first`. */
static enum answer feed(struct http *http, const char *text, size_t len, size_t first, size_t piece,
                        size_t *ret_used)
{
    enum answer answer = ANSWER_MORE;
    http->sums = true;
    http_begin(http);
    *ret_used = 0;
    for (size_t at = 0, some = first; at < len && answer == ANSWER_MORE; at += some, some = piece) {
        size_t used = 0;
        some = MIN(some, len - at);
        answer = http_feed(http, (const uint8_t *)text + at, some, &used);
        *ret_used += used;
        if (answer == ANSWER_MORE)
            assert_int_equal(used, some);
    }
    return answer;
}

static void check(const struct answer_case *c, size_t first, size_t piece)
{
    static struct http http;
    size_t len = strlen(c->text), used;
    enum answer answer = feed(&http, c->text, len, first, piece, &used);
    if (answer != c->answer)
        fail_msg("%s (%zu, then %zu): %d", c->what, first, piece, answer);
    if (answer == ANSWER_BAD)
        return;
    if (answer == ANSWER_DONE)
        assert_int_equal(used, len - c->left_over);
    assert_int_equal(http.status, c->status);
    assert_int_equal(http.body_bytes, c->body_bytes);
    if (c->body)
        assert_int_equal(http.body_sum, answer_sum(ANSWER_SUM_BEGIN, c->body, strlen(c->body)));
    assert_int_equal(http_eof(&http), answer == ANSWER_DONE ? ANSWER_DONE : c->at_eof);
    assert_int_equal(http.close, c->close);
}

static void test_answers(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        size_t len = strlen(cases[i].text);
        check(&cases[i], len, len ? len : 1);
        check(&cases[i], 1, 1);
        for (size_t cut = 1; cut < len; cut++)
            check(&cases[i], cut, len);
    }
}

static void test_nul(void **state)
{
    (void)state;
    struct http http = { 0 };
    size_t used;
    static const uint8_t text[] = "HTTP/1.1 200 OK\r\nX: a\0b\r\n";
    http_begin(&http);
    assert_int_equal(http_feed(&http, text, sizeof(text) - 1, &used), ANSWER_BAD);
}

/* What never ends is refused at its bound, wherever it is. */
static void endless(const char *begin, const char *again, size_t bound)
{
    static struct http http;
    size_t used, sent = 0;
    http_begin(&http);
    enum answer answer = http_feed(&http, (const uint8_t *)begin, strlen(begin), &used);
    while (answer == ANSWER_MORE && sent < 4 * bound) {
        answer = http_feed(&http, (const uint8_t *)again, strlen(again), &used);
        sent += strlen(again);
    }
    assert_int_equal(answer, ANSWER_BAD);
    assert_true(sent >= bound / 2 && sent <= bound + strlen(begin) + strlen(again));
}

static void test_endless(void **state)
{
    (void)state;
    endless("", "x", HTTP_LINE_MAX);
    endless(OK, "x", HTTP_LINE_MAX);
    endless(OK "X: ", "y", HTTP_LINE_MAX);
    endless(OK, "X: y\r\n", HTTP_HEAD_MAX);
    endless(OK "Transfer-Encoding: chunked\r\n\r\n", "0", HTTP_LINE_MAX);
    endless(OK "Transfer-Encoding: chunked\r\n\r\n0\r\n", "X: y\r\n", HTTP_HEAD_MAX);
    endless("", "HTTP/1.1 100 Continue\r\n\r\n", 25 * HTTP_INTERIM_MAX);
}

/* The parser is used again and again. */
static void test_again(void **state)
{
    (void)state;
    static struct http http;
    size_t used;
    assert_int_equal(feed(&http, "x\n", 2, 2, 2, &used), ANSWER_BAD);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        check(&cases[i], 7, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_nul),
        cmocka_unit_test(test_endless),
        cmocka_unit_test(test_again),
    };
    return cmocka_run_group_tests_name("http", tests, NULL, NULL);
}
