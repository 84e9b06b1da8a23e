/* vm/config: every limit from both sides, JSON there and back, keys that are unknown. */
#include "vm/config.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char good[] =
    "{\"machine\": {\"name\": \"web-1\", \"uuid\": \"01234567-89ab-cdef-0123-456789abcdef\","
    "  \"vcpus\": 2, \"memory_bytes\": 268435456, \"cmdline\": \"console=ttyS0 quiet\","
    "  \"devices\": [{\"kind\": \"blk\", \"id\": \"root\", \"read_only\": true, \"serial\": \"s1\","
    "                \"sectors\": 2048, \"fingerprint\": \"fedcba9876543210\"},"
    "               {\"kind\": \"net\", \"id\": \"lan\", \"mac\": \"52:54:00:Ab:CD:ef\"},"
    "               {\"kind\": \"rng\", \"id\": \"rng0\"}]},"
    " \"host\": {\"small_pages\": true, \"kernel\": \"/boot/k\", \"initrd\": \"/boot/i\","
    "  \"devices\": {\"root\": {\"path\": \"/srv/root.raw\"}, \"lan\": {\"tap\": \"tap0\"}}}}";

struct both {
    struct machine_config machine;
    struct host_config host;
};

static int parse(const char *text, struct both *ret, struct err *err)
{
    json_t *json = json_loads(text, 0, NULL);
    assert_non_null(json);
    int rc = config_from_json(json, &ret->machine, &ret->host, err);
    json_decref(json);
    return rc;
}

static struct both *parsed(void)
{
    struct both *both = calloc(1, sizeof(*both));
    struct err err = { 0 };
    assert_non_null(both);
    if (parse(good, both, &err) != 0)
        fail_msg("%s", err.text);
    return both;
}

/* `good` with the first `from` replaced, refused with an error that has `why` in it. */
static void refused(const char *from, const char *to, const char *why)
{
    char text[16384];
    const char *at = strstr(good, from);
    struct both *both = malloc(sizeof(*both));
    struct err err = { 0 };

    assert_non_null(at);
    assert_non_null(both);
    (void)snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - good), good, to, at + strlen(from));
    assert_int_not_equal(parse(text, both, &err), 0);
    assert_int_equal(err.fault, ERR_CALLER);
    if (!strstr(err.text, why))
        fail_msg("\"%s\" lacks \"%s\"", err.text, why);
    free(both);
}

static void json_is_read(void **state)
{
    (void)state;
    static const uint8_t mac[6] = { 0x52, 0x54, 0, 0xab, 0xcd, 0xef };
    struct both *b = parsed();
    assert_string_equal(b->machine.name, "web-1");
    assert_int_equal(b->machine.uuid[0], 0x01);
    assert_int_equal(b->machine.uuid[15], 0xef);
    assert_int_equal(b->machine.memory_bytes, 256 << 20);
    assert_int_equal(b->machine.device_count, 3);
    assert_int_equal(b->machine.device[0].kind, CONFIG_BLK);
    assert_int_equal(b->machine.device[0].read_only, 1);
    assert_true(b->machine.device[0].fingerprint == UINT64_C(0xfedcba9876543210));
    assert_memory_equal(b->machine.device[1].mac, mac, 6);
    assert_string_equal(b->host.device[0].path, "/srv/root.raw");
    assert_string_equal(b->host.device[1].tap, "tap0");
    assert_string_equal(b->host.kernel, "/boot/k");
    assert_int_equal(b->host.small_pages, 1);
    free(b);
}

static void json_comes_back(void **state)
{
    (void)state;
    struct both *b = parsed(), *again = calloc(1, sizeof(*again));
    struct err err = { 0 };
    assert_non_null(again);
    json_t *json = config_to_json(&b->machine, &b->host);
    assert_non_null(json);
    assert_int_equal(config_from_json(json, &again->machine, &again->host, &err), 0);
    assert_memory_equal(b, again, sizeof(*b));
    json_decref(json);
    (void)strcpy(b->host.kernel, "/tmp/\xff");
    assert_null(config_to_json(&b->machine, &b->host));
    free(b);
    free(again);
}

static void json_is_refused(void **state)
{
    (void)state;
    refused("\"machine\"", "\"machin\"", "\"machin\"");
    refused("\"vcpus\"", "\"cpus\"", "machine: unknown key \"cpus\"");
    refused("\"initrd\"", "\"initramfs\"", "host: unknown key \"initramfs\"");
    refused("\"serial\"", "\"serail\"", "device 0: unknown key \"serail\"");
    refused("\"tap\"", "\"path\"", "unknown key \"path\"");
    refused("\"lan\": {\"tap\"", "\"wan\": {\"tap\"", "no device \"wan\"");
    refused("{\"tap\": \"tap0\"}", "7", "device lan");
    refused("\"tap0\"", "\"a-name-too-long-for-it\"", "no interface name");
    refused("\"tap0\"", "\"\"", "no interface name");
    refused("\"vcpus\": 2", "\"vcpus\": \"2\"", "\"vcpus\": wanted a number");
    refused("\"vcpus\": 2", "\"vcpus\": -1", "\"vcpus\"");
    refused("\"vcpus\": 2", "\"vcpus\": 4294967297", "\"vcpus\"");
    refused("268435456", "-2097152", "memory_bytes");
    refused("true", "1", "true or false");
    refused("\"rng\"", "\"gpu\"", "\"net\", \"blk\", \"rng\", \"balloon\" or \"vsock\"");
    refused("\"rng\"", "\"vsock\"", "go together");
    refused("\"vcpus\": 2", "\"vcpus\": 2, \"vsock_cid\": 3", "go together");
    refused("01234567-", "0123456-", "UUID");
    refused("-456789abcdef", "-456789abcdeg", "UUID");
    refused("01234567-89ab-cdef-0123-456789abcdef", "00000000-0000-0000-0000-000000000000",
            "no uuid");
    refused("fedcba9876543210", "fedcba987654321", "16 hex digits");
    refused("52:54", "52-54", "MAC");
    refused("52:54:00:Ab:CD:ef", "52:54:00:Ab:CD", "MAC");
    refused("\"s1\"", "\"123456789012345678901\"", "shorter");
    refused("\"id\": \"root\", ", "", "device id");
}

static void limits_hold(void **state)
{
    (void)state;
    struct both *b = parsed();
    struct machine_config *m = malloc(sizeof(*m));
    struct err err = { 0 };
    assert_non_null(m);

#define CHECK(expected, change)                                        \
    do {                                                               \
        *m = b->machine;                                               \
        err = (struct err){ 0 };                                       \
        change;                                                        \
        assert_int_equal(config_check(m, ERR_PEER, &err), expected);   \
        assert_int_equal(err.fault, (expected) ? ERR_PEER : ERR_NONE); \
    } while (0)

    CHECK(0, (void)0);
    CHECK(0, m->vcpus = 1);
    CHECK(0, m->vcpus = 16);
    CHECK(-EINVAL, m->vcpus = 0);
    CHECK(-EINVAL, m->vcpus = 17);
    CHECK(0, m->memory_bytes = UINT64_C(64) << 20);
    CHECK(0, m->memory_bytes = UINT64_C(1) << 40);
    CHECK(-EINVAL, m->memory_bytes = UINT64_C(62) << 20);
    CHECK(-EINVAL, m->memory_bytes = (UINT64_C(1) << 40) + (2 << 20));
    CHECK(-EINVAL, m->memory_bytes = (UINT64_C(64) << 20) + 4096);
    CHECK(-EINVAL, m->name[0] = '\0');
    CHECK(-EINVAL, m->name[0] = '.');
    CHECK(-EINVAL, m->name[0] = '-');
    CHECK(-EINVAL, m->name[1] = '/');
    CHECK(0, memset(m->name, 'a', CONFIG_NAME_MAX - 1));
    CHECK(-EINVAL, m->cmdline[3] = '\n');
    CHECK(-EINVAL, m->device[0].kind = 0);
    CHECK(-EINVAL, m->device[0].kind = CONFIG_DEVICE_MAX);
    CHECK(-EINVAL, m->device[0].kind = UINT32_MAX);
    CHECK(-EINVAL, m->device[0].read_only = 2);
    CHECK(-EINVAL, m->device[0].mac[5] = 1);
    CHECK(-EINVAL, m->device[0].serial[0] = '\t');
    CHECK(0, m->device[0].sectors = CONFIG_SECTORS_MAX);
    CHECK(-EINVAL, m->device[0].sectors = CONFIG_SECTORS_MAX + 1);
    CHECK(-EINVAL, m->device[1].sectors = 1);
    CHECK(-EINVAL, m->device[1].mac[0] |= 1);
    CHECK(-EINVAL, memset(m->device[1].mac, 0, 6));
    CHECK(-EINVAL, m->device[2].id[0] = ' ');
    CHECK(-EINVAL, strcpy(m->device[2].id, "root"));
    CHECK(-EINVAL, m->device_count = CONFIG_DEVICES_MAX + 1);
    CHECK(-EINVAL, m->device[2] = m->device[1]; strcpy(m->device[2].id, "other"));
    CHECK(0, m->device[2] = m->device[1]; strcpy(m->device[2].id, "other");
          m->device[2].mac[5] ^= 1);
    CHECK(0, m->device[2].kind = CONFIG_VSOCK; m->vsock_cid = 3);
    CHECK(-EINVAL, m->device[2].kind = CONFIG_VSOCK; m->vsock_cid = 2);
    CHECK(-EINVAL, m->device[2].kind = CONFIG_VSOCK; m->vsock_cid = UINT32_MAX);
    CHECK(-EINVAL, m->device[2].kind = CONFIG_VSOCK; m->vsock_cid = 3; m->device_count = 4;
          m->device[3] = m->device[2]; m->device[3].id[0] = 'x');
#undef CHECK
    free(m);
    free(b);
}

static void places_are_set(void **state)
{
    (void)state;
    struct both *b = parsed();
    struct err err = { 0 };
    char longest[5000];
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    assert_int_equal(config_host_set(&b->machine, &b->host, "root", "/new", &err), 0);
    assert_string_equal(b->host.device[0].path, "/new");
    assert_int_equal(config_host_set(&b->machine, &b->host, "lan", "tap9", &err), 0);
    assert_string_equal(b->host.device[1].tap, "tap9");
    assert_int_equal(config_host_set(&b->machine, &b->host, "none", "x", &err), -ENODEV);
    assert_non_null(strstr(err.text, "\"none\""));
    assert_int_equal(config_host_set(&b->machine, &b->host, "rng0", "x", &err), -EINVAL);
    assert_int_equal(config_host_set(&b->machine, &b->host, "root", longest, &err), -EINVAL);
    assert_int_equal(config_host_set(&b->machine, &b->host, "root", "", &err), -EINVAL);
    assert_int_equal(config_host_set(&b->machine, &b->host, "lan", "a/b", &err), -EINVAL);
    free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_is_read),    cmocka_unit_test(json_comes_back),
        cmocka_unit_test(json_is_refused), cmocka_unit_test(limits_hold),
        cmocka_unit_test(places_are_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
