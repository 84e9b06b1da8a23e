#include "cmd/parse.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit size_units[] = {
    { "", 1 },
    { "K", UINT64_C(1) << 10 },
    { "KiB", UINT64_C(1) << 10 },
    { "M", UINT64_C(1) << 20 },
    { "MiB", UINT64_C(1) << 20 },
    { "G", UINT64_C(1) << 30 },
    { "GiB", UINT64_C(1) << 30 },
    { "T", UINT64_C(1) << 40 },
    { "TiB", UINT64_C(1) << 40 },
};

static const struct unit duration_units[] = {
    { "ns", 1 },
    { "us", 1000 },
    { "ms", 1000000 },
    { "s", UINT64_C(1000000000) },
    { "m", UINT64_C(60000000000) },
    { "h", UINT64_C(3600000000000) },
};

/* In bits a second: bytes are eight. */
static const struct unit rate_units[] = {
    { "bit/s", 1 },
    { "kbit/s", 1000 },
    { "Mbit/s", 1000000 },
    { "Gbit/s", 1000000000 },
    { "Tbit/s", UINT64_C(1000000000000) },
    { "B/s", 8 },
    { "kB/s", 8000 },
    { "MB/s", 8000000 },
    { "GB/s", UINT64_C(8000000000) },
    { "KiB/s", 8 << 10 },
    { "MiB/s", 8 << 20 },
    { "GiB/s", UINT64_C(8) << 30 },
};

/* Reads decimal digits; *ret_rest is what follows. -EINVAL: none; -ERANGE: more than 64 bits
 * hold. */
static int digits(const char *text, uint64_t *ret, const char **ret_rest)
{
    uint64_t value = 0;
    const char *at = text;

    for (; isdigit((unsigned char)*at); at++) {
        unsigned digit = (unsigned)(*at - '0');
        if (value > (UINT64_MAX - digit) / 10)
            return -ERANGE;
        value = value * 10 + digit;
    }
    *ret = value;
    *ret_rest = at;
    return at == text ? -EINVAL : 0;
}

static int with_unit(const char *text, const struct unit *units, size_t count, uint64_t *ret)
{
    uint64_t value;
    const char *rest;

    int rc = digits(text, &value, &rest);
    for (size_t i = 0; !rc && i < count; i++) {
        if (strcmp(rest, units[i].name) != 0)
            continue;
        if (value > UINT64_MAX / units[i].factor)
            return -ERANGE;
        *ret = value * units[i].factor;
        return 0;
    }
    return rc ? rc : -EINVAL;
}

int parse_size(const char *text, uint64_t *ret_bytes, struct err *err)
{
    int rc = with_unit(text, size_units, ARRAY_LEN(size_units), ret_bytes);
    if (rc == -ERANGE)
        return err_set(err, ERR_CALLER, EINVAL, "'%.80s' is too large", text);
    if (rc)
        return err_set(err, ERR_CALLER, EINVAL,
                       "'%.80s' is no size: want a number with K, M, G or T, as in 256M", text);
    return 0;
}

int parse_duration(const char *text, uint64_t *ret_ns, struct err *err)
{
    if (strcmp(text, "0") == 0) {
        *ret_ns = 0;
        return 0;
    }
    int rc = with_unit(text, duration_units, ARRAY_LEN(duration_units), ret_ns);
    if (rc == -ERANGE)
        return err_set(err, ERR_CALLER, EINVAL, "'%.80s' is too long", text);
    if (rc)
        return err_set(
            err, ERR_CALLER, EINVAL,
            "'%.80s' is no duration: want a number with ns, us, ms, s, m or h, as in 300ms", text);
    return 0;
}

int parse_rate(const char *text, uint64_t *ret_bytes_per_s, struct err *err)
{
    uint64_t bits;
    if (strcmp(text, "0") == 0) {
        *ret_bytes_per_s = 0;
        return 0;
    }
    int rc = with_unit(text, rate_units, ARRAY_LEN(rate_units), &bits);
    if (rc == -ERANGE)
        return err_set(err, ERR_CALLER, EINVAL, "'%.80s' is too fast", text);
    if (rc || bits % 8)
        return err_set(
            err, ERR_CALLER, EINVAL,
            "'%.80s' is no rate of whole bytes: want a number with Mbit/s, Gbit/s, MB/s or the like, "
            "as in 2Gbit/s",
            text);
    *ret_bytes_per_s = bits / 8;
    return 0;
}

int parse_count(const char *text, uint64_t *ret, struct err *err)
{
    uint64_t value;
    const char *rest;

    if (digits(text, &value, &rest) || *rest)
        return err_set(err, ERR_CALLER, EINVAL, "'%.80s' is no number", text);
    *ret = value;
    return 0;
}

int parse_address(const char *text, char ret_host[PARSE_HOST_MAX], uint16_t *ret_port,
                  struct err *err)
{
    const char *host = text, *colon = strrchr(text, ':'), *rest = "";
    uint64_t port = 0;
    size_t len = colon ? (size_t)(colon - text) : 0;
    bool good = colon && digits(colon + 1, &port, &rest) == 0 && !*rest && port <= UINT16_MAX;

    if (good && len >= 2 && host[0] == '[' && host[len - 1] == ']') {
        host++;
        len -= 2;
        good = len > 0;
    } else if (good && memchr(host, ':', len)) {
        good = false; /* an IPv6 address without brackets: its port would be a guess */
    }
    if (!good || len >= PARSE_HOST_MAX || strcspn(host, " \t/[]") < len)
        return err_set(err, ERR_CALLER, EINVAL,
                       "'%.80s' is no address: want HOST:PORT or [IPV6]:PORT", text);
    memcpy(ret_host, host, len);
    ret_host[len] = '\0';
    *ret_port = (uint16_t)port;
    return 0;
}

int parse_target(const char *text, char ret[PARSE_TARGET_MAX], struct err *err)
{
    char whole[PARSE_TARGET_MAX], host[PARSE_HOST_MAX] = "";
    size_t len = strlen(text);
    bool bare = len > 0 && (text[len - 1] == ']' || !strchr(text, ':'));
    uint16_t port;
    int n = snprintf(whole, sizeof(whole), bare ? "%s:" PARSE_PORT_DEFAULT : "%s", text);

    if (n < 0 || n >= (int)sizeof(whole) || parse_address(whole, host, &port, NULL) || !host[0] ||
        port == 0)
        return err_set(err, ERR_CALLER, EINVAL,
                       "'%.80s' is no address: want HOST, HOST:PORT or [IPV6]:PORT", text);
    memcpy(ret, whole, (size_t)n + 1);
    return 0;
}

static int hex_digit(char c)
{
    if (isdigit((unsigned char)c))
        return c - '0';
    c = (char)tolower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int parse_mac(const char *text, uint8_t ret[6], struct err *err)
{
    uint8_t mac[6];
    bool good = strlen(text) == 17;

    for (size_t i = 0; good && i < 6; i++) {
        int high = hex_digit(text[3 * i]), low = hex_digit(text[3 * i + 1]);
        good = high >= 0 && low >= 0 && (i == 5 || text[3 * i + 2] == ':');
        mac[i] = (uint8_t)(high * 16 + low);
    }
    if (!good)
        return err_set(
            err, ERR_CALLER, EINVAL,
            "'%.80s' is no MAC address: want six pairs of hex digits, as in 02:00:5e:10:00:01",
            text);
    if (mac[0] & 1)
        return err_set(err, ERR_CALLER, EINVAL,
                       "'%.80s' is a multicast address: the first byte must be even", text);
    memcpy(ret, mac, sizeof(mac));
    return 0;
}

int parse_path(const char *text, char *ret, size_t size, struct err *err)
{
    char here[4096] = "";

    if (text[0] == '\0')
        return err_set(err, ERR_CALLER, EINVAL, "an empty path");
    if (text[0] != '/' && !getcwd(here, sizeof(here)))
        return err_errno(err, ERR_HOST, errno, "working directory");
    int n =
        text[0] == '/' ? snprintf(ret, size, "%s", text) : snprintf(ret, size, "%s/%s", here, text);
    if (n < 0 || (size_t)n >= size)
        return err_set(err, ERR_CALLER, ENAMETOOLONG, "'%.80s...': longer than %zu bytes", text,
                       size - 1);
    return 0;
}

/* In the largest unit that divides the value; the first spelling of each unit is the one shown. */
static struct parse_text show(uint64_t value, const struct unit *units, size_t count)
{
    const struct unit *best = &units[0];
    struct parse_text ret;

    for (size_t i = 0; value > 0 && i < count; i++)
        if (value % units[i].factor == 0 && units[i].factor > best->factor)
            best = &units[i];
    (void)snprintf(ret.text, sizeof(ret.text), "%" PRIu64 "%s", value / best->factor, best->name);
    return ret;
}

struct parse_text parse_show_size(uint64_t bytes)
{
    return show(bytes, size_units, ARRAY_LEN(size_units));
}

struct parse_text parse_show_duration(uint64_t ns)
{
    return show(ns, duration_units, ARRAY_LEN(duration_units));
}

struct parse_text parse_show_rate(uint64_t bytes_per_s)
{
    struct parse_text show;
    const struct unit *best = &rate_units[0];
    uint64_t bits = bytes_per_s > UINT64_MAX / 8 ? UINT64_MAX : bytes_per_s * 8;
    for (size_t i = 1; i < 5; i++)
        if (bits && bits % rate_units[i].factor == 0)
            best = &rate_units[i];
    (void)snprintf(show.text, sizeof(show.text), "%" PRIu64 "%s", bits / best->factor, best->name);
    return show;
}
