/* Sizes, durations, addresses, MAC addresses, devices: what is taken, what is refused. */
#include "cmd/device.h"
#include "cmd/parse.h"
#include "test.h"

#include <errno.h>
#include <string.h>

#define M (UINT64_C(1) << 20)

static void sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        { "0", 0 },
        { "4096", 4096 },
        { "1K", 1024 },
        { "256M", 256 * M },
        { "1G", 1024 * M },
        { "2T", 2 * M * M },
        { "3KiB", 3072 },
        { "64MiB", 64 * M },
        { "007M", 7 * M },
        { "18446744073709551615", UINT64_MAX },
        { "16777215T", (UINT64_C(16777215)) << 40 },
    };
    static const char *const bad[] = { "",          "M",
                                       "-1M",       "+1M",
                                       " 1M",       "1M ",
                                       "1.5G",      "1m",
                                       "1MB",       "1Mi",
                                       "0x10",      "1e3",
                                       "1 M",       "18446744073709551616",
                                       "16777216T", "99999999999999999999999999T",
                                       "\xff" };
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        uint64_t bytes = 1;
        assert_int_equal(parse_size(good[i].text, &bytes, NULL), 0);
        assert_true(bytes == good[i].bytes);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err err = { 0 };
        uint64_t bytes = 7;
        assert_int_equal(parse_size(bad[i], &bytes, &err), -EINVAL);
        assert_int_equal(err.fault, ERR_CALLER);
        assert_int_equal(bytes, 7);
    }
    assert_string_equal(parse_show_size(256 * M).text, "256M");
    assert_string_equal(parse_show_size(1025).text, "1025");
    assert_string_equal(parse_show_size(0).text, "0");
}

static void durations(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t ns;
    } good[] = {
        { "0", 0 },
        { "1ns", 1 },
        { "20us", 20000 },
        { "300ms", 300000000 },
        { "30s", UINT64_C(30000000000) },
        { "2m", UINT64_C(120000000000) },
        { "5h", UINT64_C(18000000000000) },
    };
    static const char *const bad[] = { "",    "5",  "s",    "-1s",          "1.5s",
                                       "1 s", "1S", "1sec", "600000000000h" };
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        uint64_t ns = 1;
        assert_int_equal(parse_duration(good[i].text, &ns, NULL), 0);
        assert_true(ns == good[i].ns);
        if (ns > 0)
            assert_string_equal(parse_show_duration(ns).text, good[i].text);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        uint64_t ns;
        assert_int_equal(parse_duration(bad[i], &ns, NULL), -EINVAL);
    }
}

static void addresses(void **state)
{
    (void)state;
    char host[PARSE_HOST_MAX], long_host[PARSE_HOST_MAX + 16];
    uint16_t port;
    static const char *const bad[] = { "",        "host",     "host:",   "host:x", "host:65536",
                                       "host:-1", "::1:7000", "[::1]",   "[]:1",   "[::1:7000",
                                       "a b:1",   "a/b:1",    "host:1:2" };
    assert_int_equal(parse_address("10.0.0.2:7000", host, &port, NULL), 0);
    assert_string_equal(host, "10.0.0.2");
    assert_int_equal(port, 7000);
    assert_int_equal(parse_address("[fe80::1%eth0]:65535", host, &port, NULL), 0);
    assert_string_equal(host, "fe80::1%eth0");
    assert_int_equal(port, 65535);
    assert_int_equal(parse_address(":0", host, &port, NULL), 0);
    assert_string_equal(host, "");
    assert_int_equal(port, 0);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (parse_address(bad[i], host, &port, NULL) != -EINVAL)
            fail_msg("taken for an address: '%s'", bad[i]);
    memset(long_host, 'a', sizeof(long_host));
    memcpy(long_host + sizeof(long_host) - 3, ":1", 3);
    assert_int_equal(parse_address(long_host, host, &port, NULL), -EINVAL);
}

static void targets(void **state)
{
    (void)state;
    char target[PARSE_TARGET_MAX], longest[PARSE_HOST_MAX + 1];
    static const char *const good[][2] = { { "host2", "host2:7000" },
                                           { "10.0.0.2", "10.0.0.2:7000" },
                                           { "[::1]", "[::1]:7000" },
                                           { "host2:1", "host2:1" },
                                           { "[fe80::1%eth0]:2", "[fe80::1%eth0]:2" } };
    static const char *const bad[] = { "",    ":7000",   "::1", "::1:7000", "h:",
                                       "h:0", "h:65536", "[]",  "a b",      "[::1" };
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_int_equal(parse_target(good[i][0], target, NULL), 0);
        assert_string_equal(target, good[i][1]);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (parse_target(bad[i], target, NULL) != -EINVAL)
            fail_msg("taken for a target: '%s'", bad[i]);
    memset(longest, 'a', PARSE_HOST_MAX);
    longest[PARSE_HOST_MAX] = '\0';
    assert_int_equal(parse_target(longest, target, NULL), -EINVAL);
    longest[PARSE_HOST_MAX - 1] = '\0';
    assert_int_equal(parse_target(longest, target, NULL), 0);
}

static void macs(void **state)
{
    (void)state;
    uint8_t mac[6];
    static const uint8_t want[6] = { 0x02, 0xab, 0xCD, 0, 0x10, 0xff };
    static const char *const bad[] = { "",
                                       "02:ab:cd:00:10",
                                       "02:ab:cd:00:10:ff:00",
                                       "02:ab:cd:00:10:fg",
                                       "02-ab-cd-00-10-ff",
                                       "2:ab:cd:00:10:ff1",
                                       "01:00:5e:00:00:01" };
    assert_int_equal(parse_mac("02:ab:CD:00:10:ff", mac, NULL), 0);
    assert_memory_equal(mac, want, 6);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(parse_mac(bad[i], mac, NULL), -EINVAL);
}

static void disks(void **state)
{
    (void)state;
    struct config_device device;
    struct host_device host;
    struct err err = { 0 };
    static const char *const bad[] = { "",
                                       "root",
                                       "=x",
                                       "root=",
                                       "root=,ro",
                                       "root=/a,serial=",
                                       "root=/a,serial=123456789012345678901",
                                       "a-name-of-thirty-two-characters-x=/a" };
    assert_int_equal(device_read_disk("root=/srv/a.raw", &device, &host, &err), 0);
    assert_int_equal(device.kind, CONFIG_BLK);
    assert_string_equal(device.id, "root");
    assert_string_equal(host.path, "/srv/a.raw");
    assert_int_equal(device.read_only, 0);

    assert_int_equal(device_read_disk("d=/srv/a,b=c.raw,serial=A 1,ro", &device, &host, &err), 0);
    assert_string_equal(host.path, "/srv/a,b=c.raw");
    assert_string_equal(device.serial, "A 1");
    assert_int_equal(device.read_only, 1);
    assert_int_equal(device_read_disk("d=/a,ro,serial=12345678901234567890", &device, &host, &err),
                     0);
    assert_string_equal(device.serial, "12345678901234567890");
    assert_int_equal(device.read_only, 1);

    /* What looks like a setting and is none stays in the path, which then is not found. */
    assert_int_equal(device_read_disk("d=/a,rox", &device, &host, &err), 0);
    assert_string_equal(host.path, "/a,rox");
    assert_int_equal(device_read_disk("d=relative", &device, &host, &err), 0);
    assert_int_equal(host.path[0], '/');
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (device_read_disk(bad[i], &device, &host, &err) >= 0)
            fail_msg("taken for a disk: '%s'", bad[i]);
}

static void nets(void **state)
{
    (void)state;
    struct config_device a, b, c, d;
    struct host_device host;
    static const char *const bad[] = {
        "", "lan", "lan=", "lan=tap0,mac=", "lan=tap0,mac=zz", "lan=a-name-of-16-chars"
    };
    assert_int_equal(device_read_net("lan=tap0,mac=52:54:00:00:00:09", "web1", &a, &host, NULL), 0);
    assert_string_equal(host.tap, "tap0");
    assert_int_equal(a.mac[5], 9);

    /* Without one: local, unicast, the same for the same names and only for them. */
    assert_int_equal(device_read_net("lan=tap0", "web1", &a, &host, NULL), 0);
    assert_int_equal(device_read_net("lan=tap7", "web1", &b, &host, NULL), 0);
    assert_int_equal(device_read_net("wan=tap0", "web1", &c, &host, NULL), 0);
    assert_int_equal(device_read_net("lan=tap0", "web2", &d, &host, NULL), 0);
    assert_int_equal(a.mac[0], 0x02);
    assert_memory_equal(a.mac, b.mac, 6);
    assert_memory_not_equal(a.mac, c.mac, 6);
    assert_memory_not_equal(a.mac, d.mac, 6);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (device_read_net(bad[i], "web1", &a, &host, NULL) >= 0)
            fail_msg("taken for a network card: '%s'", bad[i]);
}

static void places(void **state)
{
    (void)state;
    char id[32], where[4096];
    assert_int_equal(device_read_place("root=/srv/a,ro", true, id, sizeof(id), where, sizeof(where),
                                       NULL),
                     0);
    assert_string_equal(id, "root");
    assert_string_equal(where, "/srv/a,ro");
    assert_int_equal(device_read_place("lan=tap3", false, id, sizeof(id), where, sizeof(where),
                                       NULL),
                     0);
    assert_string_equal(where, "tap3");
    assert_int_equal(device_read_place("lan", false, id, sizeof(id), where, sizeof(where), NULL),
                     -EINVAL);
    assert_int_equal(device_read_place("a=b", true, id, sizeof(id), where, 4, NULL), -ENAMETOOLONG);
}

static void rates(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes_per_s;
    } good[] = {
        { "0", 0 },
        { "2Gbit/s", 250000000 },
        { "100Mbit/s", 12500000 },
        { "8bit/s", 1 },
        { "64kbit/s", 8000 },
        { "1Tbit/s", UINT64_C(125000000000) },
        { "50MB/s", 50000000 },
        { "50MiB/s", 50 * M },
        { "7B/s", 7 },
        { "2305843009213693951B/s", UINT64_MAX / 8 },
    };
    static const char *const bad[] = { "",
                                       "1",
                                       "2Gbit",
                                       "7bit/s",
                                       "2gbit/s",
                                       "2 Gbit/s",
                                       "-1MB/s",
                                       "1.5Gbit/s",
                                       "2305843009213693952B/s",
                                       "99999999Tbit/s" };
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        uint64_t rate = 1;
        assert_int_equal(parse_rate(good[i].text, &rate, NULL), 0);
        assert_true(rate == good[i].bytes_per_s);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err err = { 0 };
        uint64_t rate = 7;
        assert_int_equal(parse_rate(bad[i], &rate, &err), -EINVAL);
        assert_int_equal(err.fault, ERR_CALLER);
        assert_int_equal(rate, 7);
    }
    assert_string_equal(parse_show_rate(250000000).text, "2Gbit/s");
    assert_string_equal(parse_show_rate(12500000).text, "100Mbit/s");
    assert_string_equal(parse_show_rate(1).text, "8bit/s");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes),   cmocka_unit_test(durations), cmocka_unit_test(addresses),
        cmocka_unit_test(targets), cmocka_unit_test(macs),      cmocka_unit_test(disks),
        cmocka_unit_test(nets),    cmocka_unit_test(places),    cmocka_unit_test(rates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
