/* What a server answers the probe. The first byte says in what pieces it comes: in any pieces it must mean the same
 * as in one, and what follows an answer must not be taken for a part of it. */
#include "fuzz.h"
#ifdef FUZZ_HTTP
#include "http.h"
#define PARSER http
#define BEGIN http_begin
#define FEED http_feed
#define STATE_DONE HTTP_DONE
#define STATE_BROKEN HTTP_BROKEN
#else
#include "resp.h"
#define PARSER resp
#define BEGIN resp_begin
#define FEED resp_feed
#define STATE_DONE RESP_DONE
#define STATE_BROKEN RESP_BROKEN
#endif

struct outcome {
    enum answer answer;
    size_t used;
    struct PARSER parser;
};

static void run(struct outcome *out, const uint8_t *bytes, size_t len, size_t piece)
{
    memset(out, 0, sizeof(*out));
#ifdef FUZZ_HTTP
    out->parser.sums = true;
#endif
    BEGIN(&out->parser);
    for (size_t at = 0; at < len && out->answer == ANSWER_MORE; at += piece) {
        size_t used = SIZE_MAX, some = MIN(piece, len - at);
        out->answer = FEED(&out->parser, bytes + at, some, &used);
        FUZZ_CHECK(used <= some);
        FUZZ_CHECK(out->answer != ANSWER_MORE || used == some);
        out->used += used;
    }
    FUZZ_CHECK((out->answer == ANSWER_DONE) == (out->parser.state == STATE_DONE));
    FUZZ_CHECK((out->answer == ANSWER_BAD) == (out->parser.state == STATE_BROKEN));
}

static void check_alike(const struct outcome *a, const struct outcome *b)
{
    FUZZ_CHECK(a->answer == b->answer);
    if (a->answer == ANSWER_BAD)
        return; /* how far it looked is its own affair */
    FUZZ_CHECK(a->used == b->used);
#ifdef FUZZ_HTTP
    FUZZ_CHECK(a->parser.status == b->parser.status && a->parser.close == b->parser.close);
    FUZZ_CHECK(a->parser.body_bytes == b->parser.body_bytes &&
               a->parser.body_sum == b->parser.body_sum);
    FUZZ_CHECK(a->parser.body_bytes <= a->used);
#else
    FUZZ_CHECK(a->parser.type == b->parser.type && a->parser.nil == b->parser.nil);
    FUZZ_CHECK(strcmp(a->parser.text, b->parser.text) == 0);
    FUZZ_CHECK(a->parser.bulk_bytes == b->parser.bulk_bytes &&
               a->parser.bulk_sum == b->parser.bulk_sum);
    FUZZ_CHECK(a->parser.bulk_bytes <= a->used);
#endif
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct outcome whole, pieces, again;
    if (size < 2)
        return 0;
    size_t len = size - 1;
    run(&whole, data + 1, len, len);
    run(&pieces, data + 1, len, 1 + data[0] % 16U);
    check_alike(&whole, &pieces);
    if (whole.answer != ANSWER_DONE)
        return 0;
    run(&again, data + 1, whole.used, whole.used); /* without what follows */
    check_alike(&whole, &again);
    run(&again, data + 1, whole.used - 1, whole.used); /* and not a byte less */
    FUZZ_CHECK(again.answer == ANSWER_MORE);
    return 0;
}
