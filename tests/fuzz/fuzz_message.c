/* Every message of a live move: [type - 64, version, body]. What is accepted is written in the oldest version that says
 * the same; where that is the version it came in, to the very bytes. It has nothing in it that a log or a terminal
 * should not see. */
#include "fuzz.h"
#include "move/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct message message;
    struct cursor in = cursor_of(data, size);
    struct err err = { 0 };
    uint16_t type =
        (uint16_t)(MESSAGE_HELLO + cursor_u8(&in) % (MESSAGE_TYPE_END - MESSAGE_HELLO + 1));
    uint16_t version = cursor_u8(&in);
    struct section section = { .type = type,
                               .version = version,
                               .length = (uint32_t)in.left,
                               .body_sum = stream_sum(in.at, in.left) };
    int rc = message_decode(&section, in.at, &message, &err);
    fuzz_check_err(rc, &err);
    if (rc)
        return 0;
    FUZZ_CHECK(message.type == type && message_is(type));
    const struct schema *schema = message_schema(type);
    FUZZ_CHECK(schema && version >= 1 && version <= schema->version);
    CLEANUP_BUF struct buf out = { 0 };
    message_encode(&message, &out);
    FUZZ_CHECK(buf_status(&out) == 0 && out.len >= STREAM_SECTION_BYTES);
    struct section again;
    FUZZ_CHECK(section_decode(out.data, &again, &err) == 0 && again.type == type);
    FUZZ_CHECK(again.version <= version);
    if (again.version == version) {
        FUZZ_CHECK(out.len == STREAM_SECTION_BYTES + in.left);
        FUZZ_CHECK(memcmp(out.data + STREAM_SECTION_BYTES, in.at, in.left) == 0);
    }
    FUZZ_CHECK(section_check_body(&again, out.data + STREAM_SECTION_BYTES, &err) == 0);
    return 0;
}
