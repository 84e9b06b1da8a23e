/* Writes inputs to begin a search from into DIR/NAME/: one of each kind that the program itself makes. What is kept in
 * corpus/ is these, and what searches found beyond them, minimized (README.md). */
#include "../unit/kernel_images.h"
#include "../wire/wire.h"
#include "base/fd.h"
#include "fuzz.h"
#include "move/message.h"

#include <errno.h>
#include <sys/stat.h>

static const char *dir;

static void put(const char *target, const char *name, const void *bytes, size_t len)
{
    char path[4096];
    struct err err;
    (void)snprintf(path, sizeof(path), "%s/%s", dir, target);
    FUZZ_CHECK(mkdir(path, 0777) == 0 || errno == EEXIST);
    (void)snprintf(path, sizeof(path), "%s/%s/%s", dir, target, name);
    if (fd_replace_file(path, bytes, len, &err)) {
        (void)fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
}

static void put_text(const char *target, const char *name, const char *text)
{
    put(target, name, text, strlen(text));
}

static void put_schemas(void)
{
    uint64_t seed = 1;
    for (size_t i = 0; i < wire_schema_count; i++) {
        const struct schema *schema = wire_schemas[i];
        CLEANUP_BUF struct buf state = { 0 };
        void *object = wire_object(schema, &seed, 3, false);
        buf_put(&state, schema->name, strlen(schema->name) + 1);
        buf_put_u8(&state, (uint8_t)schema->version);
        size_t body = state.len;
        schema_encode(schema, schema->version, object, &state);
        put("state", schema->name, state.data, state.len);
        for (uint16_t type = MESSAGE_HELLO; type < MESSAGE_TYPE_END; type++) {
            CLEANUP_BUF struct buf message = { 0 };
            if (message_schema(type) != schema)
                continue;
            buf_put_u8(&message, (uint8_t)(type - MESSAGE_HELLO));
            buf_put_u8(&message, (uint8_t)schema->version);
            buf_put(&message, state.data + body, state.len - body);
            put("message", message_name(type), message.data, message.len);
        }
        free(object);
    }
}

static void put_streams(void)
{
    CLEANUP_BUF struct buf dump = { 0 };
    CLEANUP_BUF struct buf header = { 0 };
    CLEANUP_BUF struct buf section = { 0 };
    CLEANUP_BUF struct buf pages = { 0 };
    buf_put_u8(&dump, 0);
    wire_stream(&dump, 1);
    put("dump", "whole", dump.data, dump.len);
    buf_put_u8(&header, 0);
    buf_put(&header, dump.data + 1, STREAM_HEADER_BYTES);
    put("stream", "header", header.data, header.len);
    buf_put_u8(&section, 1);
    buf_put(&section, dump.data + 1 + STREAM_HEADER_BYTES, STREAM_SECTION_BYTES);
    put("stream", "section", section.data, section.len);
    buf_put_u8(&pages, 2);
    buf_put_u64(&pages, 1000);
    buf_put_u16(&pages, 1);
    buf_put_u32(&pages, 2);
    for (uint32_t i = 0; i < 2; i++) {
        buf_put_u64(&pages, 10 + i);
        buf_put_u32(&pages, 1);
        buf_put_u32(&pages, 1 + i);
    }
    static const uint8_t page[4096] = { 5 };
    buf_put(&pages, page, sizeof(page));
    put("stream", "pages", pages.data, pages.len);
}

static void put_kernels(void)
{
    static struct image elf, packed;
    static uint8_t payload[65536];
    static const char *const names[] = { "lz4", "gzip", "zstd", "xz" };
    image_elf(&elf);
    put("kernel", "elf", elf.bytes, elf.len);
    for (enum image_packing packing = 0; packing < IMAGE_PACKING_MAX; packing++) {
        size_t len =
            image_pack(packing, elf.bytes, elf.len, (uint32_t)elf.len, payload, sizeof(payload));
        image_bzimage(&packed, payload, len);
        put("kernel", names[packing], packed.bytes, packed.len);
    }
}

/* Operations of fuzz_virtio.c: the driver set up, and three requests of a kind each device has. */
static void put_devices(void)
{
    static const struct {
        const char *name;
        uint8_t queue, first[16];
    } device[] = { { "net", 1, { 0 } }, { "blk", 0, { 0 } }, { "rng", 0, { 0 } } };
    for (size_t d = 0; d < ARRAY_LEN(device); d++) {
        CLEANUP_BUF struct buf ops = { 0 };
        buf_put_u8(&ops, 2);
        buf_put_u64(&ops, UINT64_MAX);
        buf_put_u8(&ops, 6);
        for (unsigned kind = 0; kind < 3; kind++) {
            buf_put_u8(&ops, 3);
            buf_put_u8(&ops, device[d].queue);
            buf_put_u8(&ops, 2); /* three segments: head, data, status */
            for (unsigned s = 0; s < 3; s++) {
                buf_put_u8(&ops, (uint8_t)(s * 2));
                buf_put_u8(&ops, s == 0 ? 4 << 1 : (uint8_t)(s == 2 || kind == 0));
                buf_put_u16(&ops, s == 0 ? 16 : s == 1 ? 512 : 1);
                for (unsigned i = 0; s == 0 && i < 16; i++)
                    buf_put_u8(&ops, i == 0 && d == 1 ? (uint8_t)kind : 0);
            }
            buf_put_u8(&ops, 6);
        }
        buf_put_u8(&ops, 7); /* a frame */
        buf_put_u16(&ops, 60);
        for (unsigned i = 0; i < 60; i++)
            buf_put_u8(&ops, (uint8_t)i);
        buf_put_u8(&ops, 6);
        buf_put_u8(&ops, 8); /* a move */
        buf_put_u8(&ops, 6);
        char target[32];
        (void)snprintf(target, sizeof(target), "virtio_%s", device[d].name);
        put(target, "requests", ops.data, ops.len);
    }
    static const uint8_t serial[] = { 0x23, 'h',  0x45, 0x84, 1,    2,    3,   4,
                                      0xa0, 0x22, 1,    0x40, 0xc0, 0xa0, 0xa0 };
    put("serial", "session", serial, sizeof(serial));

    CLEANUP_BUF struct buf rings = { 0 };
    buf_put_u8(&rings, 3);
    buf_put_u8(&rings, 4);
    buf_put_u8(&rings, 4);
    buf_put_u16(&rings, 0);
    buf_put(&rings, "\x00\x60\x80\xe0", 4);
    buf_put_u16(&rings, 0); /* two descriptors */
    buf_put_u8(&rings, 32);
    for (unsigned i = 0; i < 2; i++) {
        buf_put_u64(&rings, 0x3000 + i * 0x100);
        buf_put_u32(&rings, 64);
        buf_put_u16(&rings, i ? 2 : 1);
        buf_put_u16(&rings, 1);
    }
    buf_put_u16(&rings, 0x1000); /* one of them offered */
    buf_put_u8(&rings, 6);
    buf_put_u16(&rings, 0);
    buf_put_u16(&rings, 1);
    buf_put_u16(&rings, 0);
    put("virtq", "chain", rings.data, rings.len);
}

static void put_texts(void)
{
    put_text(
        "config", "machine",
        "{\"machine\":{\"name\":\"web1\",\"uuid\":\"7afbf9f3-68a9-4ed9-9d4a-4743a8bda54c\",\"vcpus\":2,"
        "\"memory_bytes\":268435456,\"cmdline\":\"a=b\",\"devices\":[{\"kind\":\"blk\",\"id\":\"root\","
        "\"read_only\":false,\"serial\":\"s\",\"sectors\":2048,\"fingerprint\":\"0011223344556677\"},"
        "{\"kind\":\"net\",\"id\":\"lan\",\"mac\":\"52:54:00:12:34:56\"},{\"kind\":\"rng\",\"id\":\"r\"}]},"
        "\"host\":{\"kernel\":\"/k\",\"initrd\":\"/i\",\"devices\":{\"root\":{\"path\":\"/r\"},"
        "\"lan\":{\"tap\":\"t\"}}}}");
    put("parse", "size",
        "\0"
        "256MiB",
        7);
    put("parse", "duration",
        "\0"
        "300ms",
        6);
    put("parse", "bandwidth",
        "\0"
        "10Gbit/s",
        9);
    put("parse", "address",
        "\1"
        "[::1]:7000",
        11);
    put("parse", "mac",
        "\1"
        "02:00:5e:10:00:01",
        18);
    put("parse", "run",
        "\2\0--name\0web1\0--memory\0"
        "64M\0--disk=root=/x\0--detach",
        49);
    put("parse", "migrate", "\2\10web1\0host:7000\0--mode\0stop-copy\0--max-downtime=20ms", 52);
    put_text(
        "report", "some",
        "{\"name\":\"a<b\",\"intervals\":2,\"mean_interval_ns\":100,\"ended\":\"complete\","
        "\"memory\":{\"pages\":64,\"touched_pages\":9,\"zero_pages\":1},\"dirty_rate\":[{\"until_ns\":100,"
        "\"length_ns\":100,\"pages\":5}],\"unique\":[{\"window_ns\":100,\"pages\":5}],\"times_written\":"
        "[{\"intervals\":0,\"pages\":9},{\"intervals\":1,\"pages\":3}],\"max_downtime_ns\":300,"
        "\"disturbance\":{\"guest_share\":0.5},\"predictions\":[{\"bytes_per_s\":125000000,\"mode\":"
        "\"auto\",\"total_ns\":5,\"downtime_ns\":7,\"bytes\":9,\"rounds\":3,\"exceeds\":true}]}");
    put("records", "here",
        "\1\2\3\4\5\6\7\10\1\2\3\4\5\6\7\10"
        "{\"owner\":\"here\",\"token\":\"01020304050607080102030405060708\",\"store\":null,\"peer\":\"p\","
        "\"writer\":\"1:2\",\"past\":[\"ff\"],\"lost\":[\"01020304050607080102030405060708\"],\"wall_ns\":5}",
        209);
    static const char *const calls[] = {
        "\"vm.info\"",
        "\"vm.pause\",\"params\":{}",
        "\"vm.resume\"",
        "\"vm.power_button\"",
        "\"vm.kill\"",
        "\"vm.migrate\",\"params\":{\"to\":\"h:1\",\"mode\":\"pre-copy\",\"max_downtime_ns\":5,\"stall_limit_ns\":"
        "1000000000}",
        "\"vm.migrate_status\"",
        "\"vm.migrate_cancel\"",
        "\"vm.resolve\",\"params\":{\"decision\":\"adopt\"}",
        "\"vm.checkpoint\",\"params\":{\"file\":\"/f\"}",
        "\"vm.bill\"",
        "\"vm.wws\",\"params\":{\"interval_ns\":1000000,\"duration_ns\":5000000,\"bandwidths\":"
        "[1000000],\"rtt_ns\":1,\"max_downtime_ns\":1}",
        "\"events.subscribe\""
    };
    CLEANUP_BUF struct buf all = { 0 };
    for (size_t i = 0; i < ARRAY_LEN(calls); i++) {
        char line[512], name[16];
        (void)snprintf(line, sizeof(line), "{\"jsonrpc\":\"2.0\",\"id\":%zu,\"method\":%s}\n", i,
                       calls[i]);
        (void)snprintf(name, sizeof(name), "call%zu", i);
        put_text("rpc", name, line);
        buf_put(&all, line, strlen(line));
    }
    put("rpc", "all", all.data, all.len);
}

static void put_answers(void)
{
    static const char *const https[] = {
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\npong\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n",
        "HTTP/1.0 404 Not Found\nConnection: close\n\nnot here",
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    };
    static const char *const resps[] = { "+PONG\r\n", "-ERR no\r\n",
                                         ":-12\r\n",  "$5\r\na\r\nb\n\r\n",
                                         "$-1\r\n",   "*3\r\n$1\r\na\r\n*1\r\n:1\r\n*-1\r\n" };
    for (size_t i = 0; i < ARRAY_LEN(https) + ARRAY_LEN(resps); i++) {
        bool http = i < ARRAY_LEN(https);
        const char *text = http ? https[i] : resps[i - ARRAY_LEN(https)];
        char name[16];
        CLEANUP_BUF struct buf input = { 0 };
        buf_put_u8(&input, (uint8_t)i);
        buf_put(&input, text, strlen(text));
        (void)snprintf(name, sizeof(name), "answer%zu", i);
        put(http ? "http" : "resp", name, input.data, input.len);
    }
}

/* Events of a move that goes well at the source, as make_source_event() reads them. */
static void put_engines(void)
{
    static const uint8_t target[] = { 0, 0, 0, 0, 0x00, 0, 1 };
    static const uint8_t source[] = { 1, 1, 0, 0, 0, 0, 0, 2, 1, 1, 0, 0, 2, 3, 0 };
    put("engines", "target", target, sizeof(target));
    put("engines", "source", source, sizeof(source));
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        (void)fprintf(stderr, "seeds DIR\n");
        return 2;
    }
    dir = argv[1];
    put_schemas();
    put_streams();
    put_kernels();
    put_devices();
    put_texts();
    put_answers();
    put_engines();
    return 0;
}
