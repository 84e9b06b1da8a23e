#include "cmd/device.h"
#include "cmd/parse.h"
#include "state/stream.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int copy(char *to, size_t size, const char *from, size_t len, const char *what,
                struct err *err)
{
    if (len == 0 || len >= size)
        return err_set(err, ERR_CALLER, EINVAL, "'%.*s': %s of 1 to %zu characters is wanted",
                       (int)MIN(len, (size_t)80), from, what, size - 1);
    memcpy(to, from, len);
    to[len] = '\0';
    return 0;
}

/* Splits "ID=REST". */
static int split(const char *text, const char *form, char *ret_id, size_t id_size,
                 const char **ret_rest, struct err *err)
{
    const char *equals = strchr(text, '=');
    if (!equals || equals == text || !equals[1])
        return err_set(err, ERR_CALLER, EINVAL, "'%.80s': want %s", text, form);
    *ret_rest = equals + 1;
    return copy(ret_id, id_size, text, (size_t)(equals - text), "an ID", err);
}

/* Takes ",name" or ",name=value" off the end of text[0..*len); a comma of the path itself stays.
 * Returns the value (empty for ",name"), whose length is *ret_len; NULL: the text ends
 * otherwise. */
static const char *take_suffix(const char *text, size_t *len, const char *name, size_t *ret_len)
{
    size_t name_len = strlen(name), at = *len;
    while (at > 0 && text[at - 1] != ',')
        at--;
    if (at == 0 || *len - at < name_len || memcmp(text + at, name, name_len) != 0)
        return NULL;
    if (name[name_len - 1] != '=' && *len - at != name_len)
        return NULL;
    *ret_len = *len - at - name_len;
    *len = at - 1;
    return text + at + name_len;
}

int device_read_disk(const char *text, struct config_device *device, struct host_device *host,
                     struct err *err)
{
    const char *rest, *serial;
    char path[sizeof(host->path)];
    size_t value_len;

    *device = (struct config_device){ .kind = CONFIG_BLK };
    *host = (struct host_device){ 0 };
    int rc = split(text, "ID=PATH[,ro][,serial=S]", device->id, sizeof(device->id), &rest, err);
    if (rc)
        return rc;
    size_t len = strlen(rest);
    for (bool more = true; more;) {
        more = false;
        if (take_suffix(rest, &len, "ro", &value_len)) {
            device->read_only = 1;
            more = true;
        }
        serial = take_suffix(rest, &len, "serial=", &value_len);
        if (serial) {
            rc = copy(device->serial, sizeof(device->serial), serial, value_len, "a serial number",
                      err);
            if (rc)
                return rc;
            more = true;
        }
    }
    rc = copy(path, sizeof(path), rest, len, "a path", err);
    return rc ? rc : parse_path(path, host->path, sizeof(host->path), err);
}

/* A locally administered unicast address. */
static void mac_of_names(const char *vm_name, const char *id, uint8_t ret[6])
{
    char both[CONFIG_NAME_MAX + 40];
    int n = snprintf(both, sizeof(both), "%s/%s", vm_name, id);
    uint64_t sum = stream_sum(both, (size_t)n);

    ret[0] = 0x02;
    for (unsigned i = 1; i < 6; i++)
        ret[i] = (uint8_t)(sum >> (8 * i));
}

int device_read_net(const char *text, const char *vm_name, struct config_device *device,
                    struct host_device *host, struct err *err)
{
    const char *rest, *mac;
    char mac_text[32];
    size_t value_len;

    *device = (struct config_device){ .kind = CONFIG_NET };
    *host = (struct host_device){ 0 };
    int rc = split(text, "ID=TAP[,mac=M]", device->id, sizeof(device->id), &rest, err);
    if (rc)
        return rc;
    size_t len = strlen(rest);
    mac = take_suffix(rest, &len, "mac=", &value_len);
    if (mac) {
        rc = copy(mac_text, sizeof(mac_text), mac, value_len, "a MAC address", err);
        if (!rc)
            rc = parse_mac(mac_text, device->mac, err);
    } else {
        mac_of_names(vm_name, device->id, device->mac);
    }
    return rc ? rc
              : copy(host->tap, sizeof(host->tap), rest, len, "the name of a tap interface", err);
}

int device_read_place(const char *text, bool is_disk, char *ret_id, size_t id_size, char *ret_where,
                      size_t where_size, struct err *err)
{
    const char *rest;
    int rc = split(text, is_disk ? "ID=PATH" : "ID=TAP", ret_id, id_size, &rest, err);
    if (rc)
        return rc;
    return is_disk ? parse_path(rest, ret_where, where_size, err)
                   : copy(ret_where, where_size, rest, strlen(rest), "the name of a tap interface",
                          err);
}
