#include "vmm/records.h"
#include "base/clock.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#define STORE_FILE ".store"
#define PAST_MAX 64 /* moves of one guest through this host that may still be asked about */

static void to_hex(const uint8_t *bytes, size_t count, char *ret)
{
    for (size_t i = 0; i < count; i++)
        (void)snprintf(ret + 2 * i, 3, "%02x", bytes[i]);
}

static int from_hex(const char *text, uint8_t *ret, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        unsigned byte;
        if (sscanf(text + 2 * i, "%2x", &byte) != 1)
            return -EBADMSG;
        ret[i] = (uint8_t)byte;
    }
    return 0;
}

static int read_store(const char *path, uint8_t ret[MOVE_STORE_BYTES])
{
    CLEANUP_FREE char *text = NULL;
    size_t len;
    int rc = fd_read_file(path, 4096, &text, &len);
    if (rc)
        return rc;
    return len < 2 * MOVE_STORE_BYTES ? -EBADMSG : from_hex(text, ret, MOVE_STORE_BYTES);
}

int records_store(const char *base, uint8_t ret[MOVE_STORE_BYTES], struct err *err)
{
    char path[PATH_MAX], mine[PATH_MAX], hex[2 * MOVE_STORE_BYTES + 1];
    (void)snprintf(path, sizeof(path), "%s/" STORE_FILE, base);
    (void)snprintf(mine, sizeof(mine), "%s/" STORE_FILE ".%d", base, (int)getpid());

    int rc = read_store(path, ret);
    if (rc == -ENOENT) {
        uint8_t fresh[MOVE_STORE_BYTES];
        if (getrandom(fresh, sizeof(fresh), 0) != (ssize_t)sizeof(fresh))
            return err_errno(err, ERR_HOST, errno, "cannot make the id of the record store");
        to_hex(fresh, sizeof(fresh), hex);
        rc = fd_replace_file(mine, hex, strlen(hex), err);
        if (rc)
            return rc;
        (void)link(mine, path); /* the first of several wins, whole */
        (void)unlink(mine);
        rc = read_store(path, ret);
    }
    return rc ? err_errno(err, ERR_HOST, -rc, "cannot read %s", path) : 0;
}

/* The record of one VM as it stands; *ret is NULL when there is none. Any other failure is one: a record that
 * cannot be read must not count as absent. */
static int read_record(const char *base, const char *name, json_t **ret, struct err *err)
{
    char path[PATH_MAX];
    CLEANUP_FREE char *text = NULL;
    size_t len;
    (void)snprintf(path, sizeof(path), "%s/%s/owner.json", base, name);
    *ret = NULL;
    int rc = fd_read_file(path, 1 << 16, &text, &len);
    if (rc == -ENOENT)
        return 0;
    if (!rc)
        *ret = json_loadb(text, len, 0, NULL);
    if (!rc && !json_is_object(*ret)) {
        json_decref(*ret);
        *ret = NULL;
        rc = -EBADMSG;
    }
    return rc ? err_errno(err, ERR_HOST, -rc, "cannot read %s", path) : 0;
}

/* The tokens by which this host came to own the guest, oldest first: a source that lost the answer may ask
 * for one after the guest has moved on from here. */
static json_t *past_tokens(const json_t *old, const char *now)
{
    json_t *past = json_array();
    const char *owner = json_string_value(json_object_get(old, "owner"));
    const json_t *before = json_object_get(old, "past"), *last = json_object_get(old, "token");
    for (size_t i = 0; i < json_array_size(before); i++)
        (void)json_array_append(past, json_array_get(before, i));
    const char *token = json_string_value(last);
    if (owner && token && strcmp(owner, "here") == 0 && (!now || strcmp(token, now) != 0))
        (void)json_array_append_new(past, json_string(token));
    while (json_array_size(past) > PAST_MAX)
        (void)json_array_remove(past, 0);
    return past;
}

int records_write(const struct rundir *dir, enum move_record record, const uint8_t *token, const uint8_t *store,
                  const char *peer, struct err *err)
{
    char token_hex[2 * MOVE_TOKEN_BYTES + 1], store_hex[2 * MOVE_STORE_BYTES + 1];
    json_t *old;
    if (token)
        to_hex(token, MOVE_TOKEN_BYTES, token_hex);
    if (store)
        to_hex(store, MOVE_STORE_BYTES, store_hex);
    int rc = read_record(dir->base, dir->name, &old, err);
    if (rc)
        return rc;
    json_t *json = json_pack("{s:s, s:s?, s:s?, s:s?, s:o, s:I}", "owner", record == RECORD_HERE ? "here" : "handed-over",
                             "token", token ? token_hex : NULL, "store", store ? store_hex : NULL, "peer", peer, "past",
                             past_tokens(old, token ? token_hex : NULL), "wall_ns", (json_int_t)clock_wall_ns());
    json_decref(old);
    if (!json)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot write the owner record");
    rc = rundir_owner_write(dir, json, err);
    json_decref(json);
    return rc;
}

static bool is_token(const json_t *json, const char *hex)
{
    const char *text = json_string_value(json);
    return text && strcmp(text, hex) == 0;
}

/* Whether a record says that the guest came to be here by that token, now or before it moved on. */
static bool names(const json_t *record, const char *hex)
{
    const char *owner = json_string_value(json_object_get(record, "owner"));
    const json_t *past = json_object_get(record, "past");
    bool found = owner && strcmp(owner, "here") == 0 && is_token(json_object_get(record, "token"), hex);
    for (size_t i = 0; i < json_array_size(past); i++)
        found = found || is_token(json_array_get(past, i), hex);
    return found;
}

int records_lookup(const char *base, const uint8_t token[MOVE_TOKEN_BYTES], enum move_knows *ret, struct err *err)
{
    CLEANUP_FREE struct rundir_entry *entry = NULL;
    char hex[2 * MOVE_TOKEN_BYTES + 1];
    size_t count = 0;
    int rc = rundir_list(base, &entry, &count, err);
    to_hex(token, MOVE_TOKEN_BYTES, hex);
    *ret = KNOWS_NOTHING;
    for (size_t i = 0; i < count && !rc; i++) {
        json_t *record;
        rc = read_record(base, entry[i].name, &record, err);
        if (!rc && names(record, hex))
            *ret = entry[i].alive ? KNOWS_COMMITTED : KNOWS_DIED;
        json_decref(record);
    }
    return rc;
}
