/* Writes inputs to begin a search from into DIR/NAME/: one of each kind that the program itself makes. What is kept in
 * corpus/ is these, and what searches found beyond them, minimized (README.md). */
#include "../unit/kernel_images.h"
#include "../wire/wire.h"
#include "base/fd.h"
#include "base/loop.h"
#include "dev/virtio_balloon.h"
#include "dev/virtio_vsock.h"
#include "fuzz.h"
#include "move/message.h"
#include "move/packing.h"

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
    } device[] = {
        { "net", 1, { 0 } }, { "blk", 0, { 0 } }, { "rng", 0, { 0 } }, { "balloon", 0, { 0, 2 } }
    };
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

/* A packet of the guest to the host, offered as one readable segment: operation of fuzz_virtio.c. */
static void put_packet(struct buf *ops, uint16_t op, uint32_t src, uint32_t dst)
{
    buf_put_u8(ops, 3);
    buf_put_u8(ops, 1); /* TX */
    buf_put_u8(ops, 0); /* one segment */
    buf_put_u8(ops, 0);
    buf_put_u8(ops, 11 << 1); /* 44 bytes follow */
    buf_put_u16(ops, 44);
    buf_put_u64(ops, 3);
    buf_put_u64(ops, 2);
    buf_put_u32(ops, src);
    buf_put_u32(ops, dst);
    buf_put_u32(ops, 0);
    buf_put_u16(ops, 1); /* stream */
    buf_put_u16(ops, op);
    buf_put_u32(ops, 0);
    buf_put_u32(ops, 65536);
    buf_put_u32(ops, 0);
    buf_put_u8(ops, 6);
}

/* A guest that reaches a service, and a host program that reaches the guest. */
static void put_vsock(void)
{
    static const char knock[] = "CONNECT 5000\n";
    CLEANUP_BUF struct buf ops = { 0 };
    buf_put_u8(&ops, 2);
    buf_put_u64(&ops, UINT64_MAX);
    buf_put_u8(&ops, 6);
    for (unsigned i = 0; i < 4; i++) {
        buf_put(&ops, "\3\0\0\x20\1", 5); /* RX: a buffer to write to */
        buf_put_u16(&ops, 4140);
        if (i < 2)
            put_packet(&ops, i ? 6 : 1, 700, 1021); /* REQUEST, CREDIT_UPDATE */
    }
    buf_put(&ops, "\7\0\7\1", 4); /* a client, which speaks */
    buf_put_u8(&ops, sizeof(knock) - 1);
    buf_put(&ops, knock, sizeof(knock) - 1);
    buf_put(&ops, "\6\6\10\7\2\7\3\6", 8);
    put_packet(&ops, 4, 700, 1021); /* SHUTDOWN */
    put("virtio_vsock", "requests", ops.data, ops.len);
}

static void put_state(const char *name, const struct schema *schema, const void *state)
{
    CLEANUP_BUF struct buf encoded = { 0 };
    CLEANUP_BUF struct buf ops = { 0 };
    schema_encode(schema, schema->version, state, &encoded);
    buf_put_u8(&ops, 9);
    buf_put_u16(&ops, (uint16_t)encoded.len);
    buf_put(&ops, encoded.data, encoded.len);
    buf_put(&ops, "\7\1\0", 3); /* something from outside */
    put(name, "foreign", ops.data, ops.len);
}

/* States of fresh devices, but for one thing each that does not belong to the machine. */
static void put_states(void)
{
    struct mem mem;
    struct loop loop;
    struct dev *dev;
    struct err err;
    CLEANUP_FREE struct virtio_balloon_state *balloon = calloc(1, sizeof(*balloon));
    CLEANUP_FREE struct virtio_vsock_state *vsock = calloc(1, sizeof(*vsock));
    FUZZ_CHECK(mem_init(&mem, MEM_MIN_BYTES, MEM_PAGES_SMALL, &err) == 0 && loop_init(&loop) == 0);
    FUZZ_CHECK(virtio_balloon_create(&dev, 1, &mem, &loop, NULL, NULL, &err) == 0);
    dev->ops->save(dev, balloon);
    balloon->num_pages = UINT32_MAX;
    put_state("virtio_balloon", dev->ops->schema, balloon);
    dev->ops->free(dev);
    FUZZ_CHECK(virtio_vsock_create(&dev, 1, &mem, &loop, 3, &err) == 0);
    dev->ops->save(dev, vsock);
    vsock->cid++;
    put_state("virtio_vsock", dev->ops->schema, vsock);
    dev->ops->free(dev);
    loop_fini(&loop);
    mem_fini(&mem);
}

/* What guests say to the monitor, in pieces. */
static void put_lines(void)
{
    static const char *const answers[] = { "ok version=1 agent=1.0 page_cache=1 slow=1\n",
                                           "ok page_cache_bytes=4096 slowed=2\n",
                                           "ok restored=1\n" };
    static const char *const asks[] = { "migrate 0123456789abcdef host2:7000\n",
                                        "status 0123456789abcdef\n" };
    CLEANUP_BUF struct buf session = { 0 };
    for (unsigned i = 0; i < ARRAY_LEN(answers); i++) {
        CLEANUP_BUF struct buf input = { 0 };
        char name[16];
        (void)snprintf(name, sizeof(name), "answer%u", i);
        buf_put_u8(&input, (uint8_t)i);
        buf_put_u8(&input, 4);
        buf_put(&input, answers[i], 5);
        buf_put_u8(&input, 255);
        buf_put(&input, answers[i] + 5, strlen(answers[i]) - 5);
        put("agent", name, input.data, input.len);
    }
    for (unsigned i = 0; i < 6; i++) {
        uint8_t conn = (uint8_t)(i % 3 << 6);
        if (i < 3)
            buf_put_u8(&session, conn); /* a connection of a privileged program */
        buf_put_u8(&session, conn | 5);
        buf_put_u8(&session, (uint8_t)strlen(asks[i / 2 % 2]));
        buf_put(&session, asks[i / 2 % 2], strlen(asks[i / 2 % 2]));
        if (i == 3)
            buf_put_u8(&session, 2); /* the move fails */
    }
    put("self_move", "session", session.data, session.len);
}

static void put_trust(void)
{
    static const char print[] = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    CLEANUP_BUF struct buf peers = { 0 };
    buf_printf(&peers, "\1# peers\nhost2 %s of the rack\n[fe80::1] %s\n* %s\n", print, print,
               print);
    put("trusted", "peers", peers.data, peers.len);
    buf_printf(&peers, "HOST2 %s\n", print);
    put("trusted", "twice", peers.data, peers.len);
    put_text("conf", "settings", "# here\nallow-insecure = yes\n kernel-tls=no # slow\n");
}

static void put_post_copy(void)
{
    static const uint64_t set[] = { 1, 0, UINT64_MAX, 0 };
    CLEANUP_BUF struct buf body = { 0 };
    CLEANUP_BUF struct buf words = { 0 };
    CLEANUP_BUF struct buf requests = { 0 };
    CLEANUP_BUF struct buf replies = { 0 };
    buf_put_u8(&body, 0);
    buf_put_u16(&body, 63);
    for (unsigned i = 0; i < 2; i++) {
        buf_put_u16(&body, 24);
        buf_put_u64(&body, i * 128);
        buf_put_u64(&body, 5 + i);
        buf_put_u64(&body, UINT64_MAX);
    }
    put("absent", "bodies", body.data, body.len);
    buf_put_u16(&body, 24); /* one word of it is beyond the end */
    buf_put_u64(&body, UINT64_C(63) * 64);
    buf_put_u64(&body, 1);
    buf_put_u64(&body, 1);
    put("absent", "beyond", body.data, body.len);
    buf_put_u8(&words, 1);
    for (unsigned i = 0; i < 3; i++) {
        buf_put_u16(&words, (uint16_t)(i * 100));
        buf_put_u64(&words, 0xf00f + i);
    }
    put("absent", "set", words.data, words.len);
    for (unsigned i = 0; i < ARRAY_LEN(set); i++) {
        buf_put_u64(&requests, set[i]);
        buf_put_u64(&replies, set[i]);
    }
    buf_put(&requests, "\0\0\0\200\0\200\0\1\0\201", 10);
    buf_put(&replies, "\0\0\1\200\4\201\0\200\2\202\7\0", 12);
    put("urgent_serve", "requests", requests.data, requests.len);
    put("urgent_pull", "replies", replies.data, replies.len);
}

static void put_packed(void)
{
    static const uint8_t plain[3 * 4096] = { 1, 2, 3 };
    static const char *const names[] = { "none", "lz4", "zstd" };
    CLEANUP_BUF struct buf pack = { 0 };
    buf_put_u8(&pack, 1);
    buf_put_u8(&pack, 1);
    buf_put(&pack, plain, sizeof(plain));
    put("packing", "pack", pack.data, pack.len);
    for (enum pages_packing how = PACKING_NONE; how < PACKING_MAX; how++) {
        static const struct pages_run run = { .first = 7, .count = 3, .kind = PAGES_DATA };
        uint8_t table[64];
        struct packer packer;
        enum pages_packing used;
        char name[16];
        CLEANUP_BUF struct buf raw = { 0 };
        CLEANUP_BUF struct buf body = { 0 };
        packer_init(&packer, how == PACKING_ZSTD ? PACKING_MODE_ZSTD : PACKING_MODE_LZ4,
                    PAGE_FORMS_ALL);
        size_t len = packer_pack(&packer, plain, sizeof(plain), 0, &used);
        const uint8_t *bytes = how ? packer.out + PACKER_FRONT_BYTES : plain;
        size_t bytes_len = how ? len : sizeof(plain);
        uint16_t version = how ? PAGES_VERSION : PAGES_PLAIN_VERSION;
        FUZZ_CHECK(len);
        buf_put_u8(&raw, 0);
        buf_put_u8(&raw, (uint8_t)how);
        buf_put_u32(&raw, sizeof(plain));
        buf_put(&raw, bytes, bytes_len);
        buf_put_u8(&body, 2);
        buf_put_u8(&body, (uint8_t)version);
        size_t table_len = pages_table_encode(&run, 1, version, how, sizeof(plain), table);
        buf_put(&body, table, table_len);
        buf_put(&body, bytes, bytes_len);
        (void)snprintf(name, sizeof(name), "unpack-%s", names[how]);
        put("packing", name, raw.data, raw.len);
        raw.data[2]++; /* one byte more is announced */
        (void)snprintf(name, sizeof(name), "short-%s", names[how]);
        put("packing", name, raw.data, raw.len);
        (void)snprintf(name, sizeof(name), "body-%s", names[how]);
        put("packing", name, body.data, body.len);
        if (how == PACKING_NONE) {
            body.data[1] |= 0x80; /* the same, straight into memory */
            put("packing", "straight", body.data, body.len);
        }
        packer_fini(&packer);
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
    put_vsock();
    put_states();
    put_lines();
    put_trust();
    put_post_copy();
    put_packed();
    put_texts();
    put_answers();
    put_engines();
    return 0;
}
