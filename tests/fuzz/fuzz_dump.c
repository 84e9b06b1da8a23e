/* `godwit dump` of any file. Unless the first byte says otherwise the sums of header and sections are made right, so
 * that bodies are reached. Whatever comes, what is printed is one whole JSON object, and its verdict is the result. */
#include "../wire/wire.h"
#include "fuzz.h"

static void fix_sums(uint8_t *bytes, size_t len)
{
    if (len < STREAM_HEADER_BYTES)
        return;
    uint64_t sum = stream_sum(bytes, 32);
    memcpy(bytes + 32, &sum, sizeof(sum));
    for (size_t at = STREAM_HEADER_BYTES; len - at >= STREAM_SECTION_BYTES;) {
        uint32_t length, head_sum;
        memcpy(&length, bytes + at + 8, sizeof(length));
        size_t body = at + STREAM_SECTION_BYTES, rest = len - body;
        if (length <= rest) {
            sum = stream_sum(bytes + body, length);
            memcpy(bytes + at + 16, &sum, sizeof(sum));
        }
        memset(bytes + at + 12, 0, 4);
        head_sum = (uint32_t)stream_sum(bytes + at, STREAM_SECTION_BYTES);
        memcpy(bytes + at + 12, &head_sum, sizeof(head_sum));
        if (length > rest)
            break;
        at = body + length;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > (1u << 20))
        return 0;
    uint8_t *bytes = malloc(size);
    FUZZ_CHECK(bytes);
    memcpy(bytes, data + 1, size - 1);
    if (!(data[0] & 1))
        fix_sums(bytes, size - 1);
    int rc;
    struct err err = { 0 };
    json_t *json = wire_dump(bytes, size - 1, &rc, &err);
    fuzz_check_err(rc, &err);
    FUZZ_CHECK(json_is_object(json));
    const json_t *damage = json_object_get(json, "damage");
    FUZZ_CHECK(json_is_array(damage));
    FUZZ_CHECK((json_array_size(damage) == 0) == (rc == 0));
    json_decref(json);
    free(bytes);
    return 0;
}
