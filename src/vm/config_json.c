/*
 * Machine and host configuration as JSON.
 *
 * Each object is described once, by a table of its keys, which the reader and the writer share; so
 * what is written can be read, and a key that is in no table is refused by name.
 */
#include "vm/config.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* `place`: the key, within host.devices.ID, of where such a device is on the host. */
static const struct {
    const char *name, *place;
} kinds[] = {
    [CONFIG_NET] = { "net", "tap" },    [CONFIG_BLK] = { "blk", "path" },
    [CONFIG_RNG] = { "rng", NULL },     [CONFIG_BALLOON] = { "balloon", NULL },
    [CONFIG_VSOCK] = { "vsock", NULL },
};
static_assert(ARRAY_LEN(kinds) == CONFIG_DEVICE_MAX, "one row per kind of device");

enum key_kind {
    KEY_U32,
    KEY_U64,
    KEY_FLAG, /* u8, as true or false */
    KEY_TEXT,
    KEY_UUID,
    KEY_MAC,
    KEY_SUM,    /* u64, as 16 hex digits: JSON's integers are signed */
    KEY_DEVICE, /* u32, as a name of kinds[] */
    KEY_NESTED, /* not a member: its reader and writer are called by hand */
};

struct key {
    const char *name;
    enum key_kind kind;
    size_t offset, size; /* of the member */
};

#define KEY(T, kind, member)                                                          \
    {                                                                                 \
#member, kind, offsetof(struct T, member), sizeof(((struct T *)NULL)->member) \
    }

static const struct key top_keys[] = { { .name = "machine", .kind = KEY_NESTED },
                                       { .name = "host", .kind = KEY_NESTED } };
static const struct key machine_keys[] = {
    KEY(machine_config, KEY_TEXT, name),     KEY(machine_config, KEY_UUID, uuid),
    KEY(machine_config, KEY_U32, vcpus),     KEY(machine_config, KEY_U64, memory_bytes),
    KEY(machine_config, KEY_TEXT, cmdline),  { .name = "devices", .kind = KEY_NESTED },
    KEY(machine_config, KEY_U32, vsock_cid),
};
static const struct key device_keys[] = {
    KEY(config_device, KEY_DEVICE, kind),     KEY(config_device, KEY_TEXT, id),
    KEY(config_device, KEY_MAC, mac),         KEY(config_device, KEY_FLAG, read_only),
    KEY(config_device, KEY_TEXT, serial),     KEY(config_device, KEY_U64, sectors),
    KEY(config_device, KEY_SUM, fingerprint),
};
static const struct key host_keys[] = {
    KEY(host_config, KEY_TEXT, kernel),
    KEY(host_config, KEY_TEXT, initrd),
    KEY(host_config, KEY_FLAG, small_pages),
    { .name = "devices", .kind = KEY_NESTED },
};

/* Hex digits into bytes, '-' or ':' exactly where the format `like` has them. */
static bool parse_hex(const char *text, const char *like, uint8_t *bytes)
{
    static const char digits[] = "0123456789abcdef";
    unsigned nibble = 0;
    for (; *like; like++, text++) {
        if (*like != 'x') {
            if (*text != *like)
                return false;
            continue;
        }
        const char *digit = *text ? strchr(digits, tolower((unsigned char)*text)) : NULL;
        if (!digit)
            return false;
        uint8_t value = (uint8_t)(digit - digits);
        uint8_t *byte = &bytes[nibble / 2];
        *byte = nibble % 2 ? (uint8_t)(*byte | value) : (uint8_t)(value << 4);
        nibble++;
    }
    return *text == '\0';
}

static void print_hex(const uint8_t *bytes, const char *like, char *text)
{
    unsigned nibble = 0;
    for (; *like; like++, text++) {
        *text = *like;
        if (*like == 'x') {
            uint8_t byte = bytes[nibble / 2];
            *text = "0123456789abcdef"[nibble % 2 ? byte & 15 : byte >> 4];
            nibble++;
        }
    }
    *text = '\0';
}

#define LIKE_UUID "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
#define LIKE_MAC "xx:xx:xx:xx:xx:xx"
#define LIKE_SUM "xxxxxxxxxxxxxxxx"

/* NULL when `json` was fine, else what it should have been. */
static const char *read_value(const struct key *key, const json_t *json, void *member)
{
    const char *text = json_string_value(json);
    json_int_t number = json_integer_value(json);
    uint8_t bytes[8];

    if (text && strlen(text) != json_string_length(json))
        return "text without NUL characters";
    switch (key->kind) {
    case KEY_U32:
        if (!json_is_integer(json) || number < 0 || number > UINT32_MAX)
            return "a number of 0 to 2^32-1";
        *(uint32_t *)member = (uint32_t)number;
        return NULL;
    case KEY_U64:
        if (!json_is_integer(json) || number < 0)
            return "a number of 0 or more";
        *(uint64_t *)member = (uint64_t)number;
        return NULL;
    case KEY_FLAG:
        if (!json_is_boolean(json))
            return "true or false";
        *(uint8_t *)member = json_is_true(json);
        return NULL;
    case KEY_TEXT:
        if (!text)
            return "text";
        if (strlen(text) >= key->size)
            return "a shorter text";
        memcpy(member, text, strlen(text) + 1);
        return NULL;
    case KEY_UUID:
        return text && parse_hex(text, LIKE_UUID, member) ? NULL : "a UUID";
    case KEY_MAC:
        if (!text || !parse_hex(text, LIKE_MAC, member))
            return "a MAC address such as 52:54:00:12:34:56";
        return NULL;
    case KEY_SUM:
        if (!text || !parse_hex(text, LIKE_SUM, bytes))
            return "16 hex digits";
        *(uint64_t *)member = 0;
        for (int i = 0; i < 8; i++)
            *(uint64_t *)member = *(uint64_t *)member << 8 | bytes[i];
        return NULL;
    case KEY_DEVICE:
        for (uint32_t i = 1; text && i < CONFIG_DEVICE_MAX; i++)
            if (strcmp(text, kinds[i].name) == 0) {
                *(uint32_t *)member = i;
                return NULL;
            }
        return "\"net\", \"blk\", \"rng\", \"balloon\" or \"vsock\"";
    case KEY_NESTED:
        return NULL;
    }
    return "something else";
}

static json_t *write_value(const struct key *key, const void *member)
{
    char text[sizeof(LIKE_UUID)];

    switch (key->kind) {
    case KEY_U32:
        return json_integer(*(const uint32_t *)member);
    case KEY_U64:
        return json_integer((json_int_t) * (const uint64_t *)member);
    case KEY_FLAG:
        return json_boolean(*(const uint8_t *)member);
    case KEY_TEXT:
        return json_string(member);
    case KEY_UUID:
        print_hex(member, LIKE_UUID, text);
        return json_string(text);
    case KEY_MAC:
        print_hex(member, LIKE_MAC, text);
        return json_string(text);
    case KEY_SUM:
        (void)snprintf(text, sizeof(text), "%016llx",
                       (unsigned long long)*(const uint64_t *)member);
        return json_string(text);
    case KEY_DEVICE:
        return json_string(kinds[*(const uint32_t *)member].name);
    case KEY_NESTED:
        break;
    }
    return NULL;
}

/* Reads the members that `keys` name; the caller has cleared the object. */
static int read_object(const json_t *json, const struct key *keys, size_t count, const char *where,
                       void *object, struct err *err)
{
    const char *name;
    json_t *value;

    if (!json_is_object(json))
        return err_set(err, ERR_CALLER, EINVAL, "%s: wanted a JSON object", where);
    /* jansson's iterator takes no const; nothing is written through it. */
    json_object_foreach ((json_t *)(uintptr_t)json, name, value) {
        const struct key *key = keys;
        while (key < keys + count && strcmp(key->name, name) != 0)
            key++;
        if (key == keys + count)
            return err_set(err, ERR_CALLER, EINVAL, "%s: unknown key \"%.64s\"", where, name);
        const char *wanted = read_value(key, value, (char *)object + key->offset);
        if (wanted)
            return err_set(err, ERR_CALLER, EINVAL, "%s: \"%s\": wanted %s", where, name, wanted);
    }
    return 0;
}

static json_t *write_object(const struct key *keys, size_t count, const void *object)
{
    json_t *json = json_object();
    for (const struct key *key = keys; json && key < keys + count; key++) {
        if (key->kind == KEY_NESTED)
            continue;
        if (json_object_set_new(json, key->name,
                                write_value(key, (const char *)object + key->offset)) < 0) {
            json_decref(json);
            return NULL;
        }
    }
    return json;
}

static int read_devices(const json_t *list, struct machine_config *machine, struct err *err)
{
    if (list && !json_is_array(list))
        return err_set(err, ERR_CALLER, EINVAL, "machine: \"devices\": wanted a list");
    if (json_array_size(list) > CONFIG_DEVICES_MAX)
        return err_set(err, ERR_CALLER, EINVAL,
                       "machine: %zu devices, and a machine has at most %u", json_array_size(list),
                       CONFIG_DEVICES_MAX);
    for (size_t i = 0; i < json_array_size(list); i++) {
        char where[32];
        (void)snprintf(where, sizeof(where), "device %zu", i);
        int rc = read_object(json_array_get(list, i), device_keys, ARRAY_LEN(device_keys), where,
                             &machine->device[machine->device_count++], err);
        if (rc)
            return rc;
    }
    return 0;
}

static int read_place(const char *id, const json_t *place, const struct machine_config *machine,
                      struct host_config *host, struct err *err)
{
    const char *key;
    json_t *where;

    if (!json_is_object(place))
        return err_set(err, ERR_CALLER, EINVAL, "host: device %.32s: wanted a JSON object", id);
    json_object_foreach ((json_t *)(uintptr_t)place, key, where) {
        const char *text = json_string_value(where);
        if (!text || strlen(text) != json_string_length(where))
            return err_set(err, ERR_CALLER, EINVAL, "host: device %.32s: \"%.64s\": wanted text",
                           id, key);
        /* An unknown id passes here, and is refused by config_host_set(). */
        for (uint32_t i = 0; i < machine->device_count; i++) {
            const char *known = kinds[machine->device[i].kind].place;
            if (strcmp(machine->device[i].id, id) == 0 && (!known || strcmp(known, key) != 0))
                return err_set(err, ERR_CALLER, EINVAL, "host: device %.32s: unknown key \"%.64s\"",
                               id, key);
        }
        int rc = config_host_set(machine, host, id, text, err);
        if (rc)
            return rc;
    }
    return 0;
}

static int read_places(const json_t *places, const struct machine_config *machine,
                       struct host_config *host, struct err *err)
{
    const char *id;
    json_t *place;

    if (places && !json_is_object(places))
        return err_set(err, ERR_CALLER, EINVAL, "host: \"devices\": wanted a JSON object");
    json_object_foreach ((json_t *)(uintptr_t)places, id, place) {
        int rc = read_place(id, place, machine, host, err);
        if (rc)
            return rc;
    }
    return 0;
}

int config_from_json(const json_t *json, struct machine_config *machine, struct host_config *host,
                     struct err *err)
{
    const json_t *m = json_object_get(json, "machine"), *h = json_object_get(json, "host");

    memset(machine, 0, sizeof(*machine));
    memset(host, 0, sizeof(*host));
    int rc = read_object(json, top_keys, ARRAY_LEN(top_keys), "configuration", machine, err);
    if (!rc)
        rc = read_object(m, machine_keys, ARRAY_LEN(machine_keys), "machine", machine, err);
    if (!rc)
        rc = read_devices(json_object_get(m, "devices"), machine, err);
    if (!rc)
        rc = config_check(machine, ERR_CALLER, err);
    if (!rc && h)
        rc = read_object(h, host_keys, ARRAY_LEN(host_keys), "host", host, err);
    if (!rc && h)
        rc = read_places(json_object_get(h, "devices"), machine, host, err);
    return rc;
}

/* Only what differs from the default: a net device has no serial number to show. */
static json_t *device_json(const struct config_device *d)
{
    json_t *json = write_object(device_keys, ARRAY_LEN(device_keys), d);
    if (d->kind != CONFIG_NET)
        (void)json_object_del(json, "mac");
    if (d->kind != CONFIG_BLK) {
        (void)json_object_del(json, "read_only");
        (void)json_object_del(json, "serial");
        (void)json_object_del(json, "sectors");
        (void)json_object_del(json, "fingerprint");
    }
    return json;
}

json_t *config_to_json(const struct machine_config *machine, const struct host_config *host)
{
    json_t *m = write_object(machine_keys, ARRAY_LEN(machine_keys), machine);
    json_t *h = write_object(host_keys, ARRAY_LEN(host_keys), host);
    json_t *devices = json_array(), *places = json_object();

    /* Each call steals what it is given, also when it fails. */
    int rc = 0;
    for (uint32_t i = 0; i < machine->device_count; i++) {
        const struct config_device *d = &machine->device[i];
        const char *where = d->kind == CONFIG_NET ? host->device[i].tap : host->device[i].path;
        rc |= json_array_append_new(devices, device_json(d));
        if (kinds[d->kind].place && *where)
            rc |=
                json_object_set_new(places, d->id, json_pack("{s:s}", kinds[d->kind].place, where));
    }
    rc |= json_object_set_new(m, "devices", devices);
    rc |= json_object_set_new(h, "devices", places);
    json_t *json = json_pack("{s:o, s:o}", "machine", m, "host", h);
    if (rc < 0) {
        json_decref(json);
        return NULL;
    }
    return json;
}
