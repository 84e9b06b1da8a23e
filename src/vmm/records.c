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

int records_write(const struct rundir *dir, enum move_record record, const uint8_t *token, const uint8_t *store,
                  const char *peer, struct err *err)
{
    char token_hex[2 * MOVE_TOKEN_BYTES + 1], store_hex[2 * MOVE_STORE_BYTES + 1];
    if (token)
        to_hex(token, MOVE_TOKEN_BYTES, token_hex);
    if (store)
        to_hex(store, MOVE_STORE_BYTES, store_hex);
    json_t *json = json_pack("{s:s, s:s?, s:s?, s:s?, s:I}", "owner", record == RECORD_HERE ? "here" : "handed-over",
                             "token", token ? token_hex : NULL, "store", store ? store_hex : NULL, "peer", peer,
                             "wall_ns", (json_int_t)clock_wall_ns());
    if (!json)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot write the owner record");
    int rc = rundir_owner_write(dir, json, err);
    json_decref(json);
    return rc;
}

/* Whether the record of one VM is "here, by this token". */
static bool owns(const char *base, const char *name, const uint8_t token[MOVE_TOKEN_BYTES])
{
    char path[PATH_MAX];
    CLEANUP_FREE char *text = NULL;
    size_t len;
    uint8_t of[MOVE_TOKEN_BYTES];
    (void)snprintf(path, sizeof(path), "%s/%s/owner.json", base, name);
    if (fd_read_file(path, 1 << 16, &text, &len))
        return false;
    json_t *json = json_loadb(text, len, 0, NULL);
    const char *owner = json_string_value(json_object_get(json, "owner"));
    const char *hex = json_string_value(json_object_get(json, "token"));
    bool mine = owner && hex && strcmp(owner, "here") == 0 && strlen(hex) == 2 * sizeof(of) &&
                !from_hex(hex, of, sizeof(of)) && memcmp(of, token, sizeof(of)) == 0;
    json_decref(json);
    return mine;
}

int records_lookup(const char *base, const uint8_t token[MOVE_TOKEN_BYTES], enum move_knows *ret, struct err *err)
{
    CLEANUP_FREE struct rundir_entry *entry = NULL;
    size_t count;
    int rc = rundir_list(base, &entry, &count, err);
    if (rc)
        return rc;
    *ret = KNOWS_NOTHING;
    for (size_t i = 0; i < count; i++)
        if (owns(base, entry[i].name, token))
            *ret = entry[i].alive ? KNOWS_COMMITTED : KNOWS_DIED;
    return 0;
}
