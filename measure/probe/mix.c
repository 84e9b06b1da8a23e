#include "mix.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *const names[] = {
    [MIX_HTTP] = "http", [MIX_STATIC] = "static", [MIX_DYNAMIC] = "dynamic", [MIX_POST] = "post",
    [MIX_PING] = "ping", [MIX_GET] = "get",       [MIX_SET] = "set",
};
static_assert(ARRAY_LEN(names) == MIX_WHAT_MAX, "a name each");

const char *mix_name(enum mix_what what)
{
    return names[what];
}

uint64_t mix_random(uint64_t *seed)
{
    uint64_t z = (*seed += UINT64_C(0x9e3779b97f4a7c15)); /* splitmix64 */
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* Up to nine digits. */
static bool read_number(const char **at, uint32_t *ret)
{
    uint32_t number = 0;
    unsigned digits = 0;
    for (; **at >= '0' && **at <= '9' && digits < 10; (*at)++, digits++)
        number = number * 10 + (uint32_t)(**at - '0');
    *ret = number;
    return digits > 0 && digits < 10;
}

/* "{A-B}" at *at, which moves behind it. */
static bool read_range(const char **at, uint32_t *ret_low, uint32_t *ret_high)
{
    const char *from = *at + 1;
    if (**at != '{' || !read_number(&from, ret_low) || *from++ != '-' ||
        !read_number(&from, ret_high) || *from++ != '}' || *ret_low > *ret_high)
        return false;
    *at = from;
    return true;
}

static bool path_is_good(const char *path)
{
    uint32_t low, high;
    if (path[0] != '/' || strlen(path) >= MIX_PATH_MAX)
        return false;
    while (*path) {
        if (*path == '{') {
            if (!read_range(&path, &low, &high))
                return false;
        } else if (*path <= ' ' || *path >= 0x7f || *path == '}' || *path == '#') {
            return false;
        } else {
            path++;
        }
    }
    return true;
}

static int bad(struct err *err, const char *item, const char *wanted)
{
    return err_set(err, ERR_CALLER, EINVAL, "'%.80s' is not %s", item, wanted);
}

int mix_path(struct mix *mix, const char *path, struct err *err)
{
    if (!path_is_good(path))
        return bad(err, path, "a path such as /index.html or /static/{0-8}");
    mix->count = 1;
    mix->weights = 1;
    mix->items[0] = (struct mix_item){ .what = MIX_HTTP, .weight = 1 };
    (void)snprintf(mix->items[0].path, sizeof(mix->items[0].path), "%s", path);
    return 0;
}

/* One item of kinds `first` to `last`, a path in it where these have one. */
static bool read_item(struct mix *mix, const char *item, enum mix_what first, enum mix_what last)
{
    bool with_path = last <= MIX_POST;
    const char *colon = strchr(item, ':'), *at = colon ? colon + 1 : "";
    struct mix_item *new = &mix->items[mix->count];
    if (!colon || mix->count == MIX_MAX)
        return false;
    for (enum mix_what what = first; what <= last; what++) {
        if (strlen(names[what]) != (size_t)(colon - item) ||
            strncmp(item, names[what], strlen(names[what])) != 0)
            continue;
        *new = (struct mix_item){ .what = what };
        if (!read_number(&at, &new->weight) || *at != (with_path ? ':' : '\0') ||
            (with_path && !path_is_good(at + 1)))
            return false;
        if (with_path)
            (void)snprintf(new->path, sizeof(new->path), "%s", at + 1);
        mix->weights += new->weight;
        mix->count++;
        return true;
    }
    return false;
}

static int parse(struct mix *mix, const char *text, enum mix_what first, enum mix_what last,
                 const char *wanted, struct err *err)
{
    char item[MIX_PATH_MAX + 64];
    mix->count = 0;
    mix->weights = 0;
    for (const char *at = text;;) {
        size_t len = strcspn(at, ",");
        (void)snprintf(item, sizeof(item), "%.*s", (int)MIN(len, sizeof(item)), at);
        if (len >= sizeof(item) || !read_item(mix, item, first, last))
            return bad(err, item, wanted);
        if (!at[len])
            break;
        at += len + 1;
    }
    if (mix->weights == 0)
        return bad(err, text, "a mix: all its weights are 0");
    return 0;
}

int mix_parse_http(struct mix *mix, const char *text, struct err *err)
{
    return parse(mix, text, MIX_HTTP, MIX_POST,
                 "KIND:WEIGHT:PATH, with KIND http, static, dynamic or post (64 of them at most)",
                 err);
}

int mix_parse_resp(struct mix *mix, const char *text, struct err *err)
{
    return parse(mix, text, MIX_PING, MIX_SET, "ping:WEIGHT, get:WEIGHT or set:WEIGHT", err);
}

uint32_t mix_choose(const struct mix *mix, uint64_t *seed)
{
    uint64_t at = mix_random(seed) % mix->weights;
    uint32_t i = 0;
    while (at >= mix->items[i].weight)
        at -= mix->items[i++].weight;
    return i;
}

void mix_put_path(struct buf *out, const struct mix_item *item, uint64_t *seed)
{
    for (const char *at = item->path; *at;) {
        uint32_t low, high;
        if (read_range(&at, &low, &high))
            buf_printf(out, "%llu",
                       (unsigned long long)(low + mix_random(seed) % ((uint64_t)high - low + 1)));
        else
            buf_put_u8(out, (uint8_t)*at++);
    }
}
