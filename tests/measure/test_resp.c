/* Each reply is read whole, byte by byte, and cut at every place: it must mean the same. */
#include "../unit/test.h"
#include "base/compiler.h"
#include "resp.h"

#include <stdio.h>
#include <string.h>

struct reply_case {
    const char *what, *text;
    enum answer answer;
    char type;
    const char *line; /* the value's own line */
    const char *bulk; /* NULL: nil, or none */
    bool nil;
    size_t left_over;
};

static const struct reply_case cases[] = {
    { "a simple string", "+PONG\r\n", ANSWER_DONE, '+', "PONG", NULL },
    { "an empty one", "+\r\n", ANSWER_DONE, '+', "", NULL },
    { "an error", "-ERR no such thing\r\n", ANSWER_DONE, '-', "ERR no such thing", NULL },
    { "an integer", ":-9223372036854775808\r\n", ANSWER_DONE, ':', "-9223372036854775808", NULL },
    { "a bulk string", "$5\r\na\r\nb\n\r\n", ANSWER_DONE, '$', "5", "a\r\nb\n" },
    { "an empty one", "$0\r\n\r\n", ANSWER_DONE, '$', "0", "" },
    { "none", "$-1\r\n", ANSWER_DONE, '$', "-1", NULL, true },
    { "no array", "*-1\r\n", ANSWER_DONE, '*', "-1", NULL, true },
    { "an empty array", "*0\r\n", ANSWER_DONE, '*', "0", NULL },
    { "an array", "*3\r\n$1\r\na\r\n:1\r\n+b\r\n", ANSWER_DONE, '*', "3", NULL },
    { "arrays in arrays", "*2\r\n*2\r\n+a\r\n*0\r\n*1\r\n$-1\r\n", ANSWER_DONE, '*', "2", NULL },
    { "eight deep", "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", ANSWER_DONE, '*', "1",
      NULL },
    { "a second reply behind", "+OK\r\n+OK\r\n", ANSWER_DONE, '+', "OK", NULL, false, 5 },

    { "nothing", "", ANSWER_MORE },
    { "half a line", "+PON", ANSWER_MORE },
    { "half a line end", "+PONG\r", ANSWER_MORE },
    { "half a bulk string", "$5\r\nab", ANSWER_MORE },
    { "no end of it", "$2\r\nab\r", ANSWER_MORE },
    { "half an array", "*2\r\n:1\r\n", ANSWER_MORE },

    { "no type", "PONG\r\n", ANSWER_BAD },
    { "an empty line", "\r\n", ANSWER_BAD },
    { "a newline alone", "+PONG\n", ANSWER_BAD },
    { "an empty integer", ":\r\n", ANSWER_BAD },
    { "no integer", ":1x\r\n", ANSWER_BAD },
    { "an integer too large", ":9223372036854775808\r\n", ANSWER_BAD },
    { "a bulk string too long", "$536870913\r\n", ANSWER_BAD },
    { "a length below none", "$-2\r\n", ANSWER_BAD },
    { "a length with a plus", "$+5\r\n", ANSWER_BAD },
    { "longer than it says", "$1\r\nab\r\n", ANSWER_BAD },
    { "an array too long", "*1048577\r\n", ANSWER_BAD },
    { "nine deep", "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", ANSWER_BAD },
    { "a newer protocol", "_\r\n", ANSWER_BAD },
};

static void check(const struct reply_case *c, size_t first, size_t piece)
{
    static struct resp resp;
    enum answer answer = ANSWER_MORE;
    size_t len = strlen(c->text), all = 0;
    resp_begin(&resp);
    for (size_t at = 0, some = first; at < len && answer == ANSWER_MORE; at += some, some = piece) {
        size_t used = 0;
        some = MIN(some, len - at);
        answer = resp_feed(&resp, (const uint8_t *)c->text + at, some, &used);
        all += used;
        if (answer == ANSWER_MORE)
            assert_int_equal(used, some);
    }
    if (answer != c->answer)
        fail_msg("%s (%zu, then %zu): %d", c->what, first, piece, answer);
    if (answer != ANSWER_DONE)
        return;
    assert_int_equal(all, len - c->left_over);
    assert_int_equal(resp.type, c->type);
    assert_string_equal(resp.text, c->line);
    assert_int_equal(resp.nil, c->nil);
    assert_int_equal(resp.bulk_bytes, c->bulk ? strlen(c->bulk) : 0);
    if (c->bulk)
        assert_int_equal(resp.bulk_sum, answer_sum(ANSWER_SUM_BEGIN, c->bulk, strlen(c->bulk)));
}

static void test_replies(void **state)
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

static void test_endless(void **state)
{
    (void)state;
    static const char *const begin[] = { "+", "-", ":", "$1\r\na" };
    for (size_t i = 0; i < ARRAY_LEN(begin); i++) {
        static struct resp resp;
        size_t used, sent = 0;
        resp_begin(&resp);
        enum answer answer = resp_feed(&resp, (const uint8_t *)begin[i], strlen(begin[i]), &used);
        for (; answer == ANSWER_MORE && sent < 4 * RESP_LINE_MAX; sent++)
            answer = resp_feed(&resp, (const uint8_t *)"1", 1, &used);
        assert_int_equal(answer, ANSWER_BAD);
        assert_true(sent <= RESP_LINE_MAX + 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replies),
        cmocka_unit_test(test_endless),
    };
    return cmocka_run_group_tests_name("resp", tests, NULL, NULL);
}
