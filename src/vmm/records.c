#include "vmm/records.h"
#include "base/clock.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#define STORE_FILE ".store"
#define WRITER_MAX 48
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

/* One process of this boot: its id, and when it began, since ids come round again (at once, in a container).
 * Empty when there is no such process. */
static void writer_of(pid_t pid, char ret[WRITER_MAX])
{
    char path[64];
    CLEANUP_FREE char *text = NULL;
    size_t len;
    unsigned long long began;
    ret[0] = '\0';
    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    if (fd_read_file(path, 4096, &text, &len))
        return;
    const char *rest =
        strrchr(text, ')'); /* proc(5): the name in brackets may hold anything; began is field 22 */
    if (rest && sscanf(rest + 1, " %*c%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%llu",
                       &began) == 1)
        (void)snprintf(ret, WRITER_MAX, "%d:%llu", (int)pid, began);
}

/* This process: asked for once, since a record is written while the guest stands still. */
static const char *own_writer(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static char writer[WRITER_MAX];
    static pid_t of;
    (void)pthread_mutex_lock(&lock);
    if (of != getpid() || !writer[0])
        writer_of(of = getpid(), writer);
    (void)pthread_mutex_unlock(&lock);
    return writer;
}

static bool is_text(const json_t *json, const char *wanted)
{
    const char *text = json_string_value(json);
    return text && wanted[0] && strcmp(text, wanted) == 0;
}

/* The tokens of guests whose monitor died as their owner, perhaps before they ran here: whoever has the name now,
 * it is not them. */
static json_t *lost_tokens(const json_t *old, const char *writer)
{
    json_t *lost = json_array();
    const json_t *before = json_object_get(old, "lost"), *last = json_object_get(old, "token");
    for (size_t i = 0; i < json_array_size(before); i++)
        (void)json_array_append(lost, json_array_get(before, i));
    if (json_is_string(last) && is_text(json_object_get(old, "owner"), "here") &&
        !is_text(json_object_get(old, "writer"), writer))
        (void)json_array_append(lost, json_object_get(old, "token"));
    while (json_array_size(lost) > PAST_MAX)
        (void)json_array_remove(lost, 0);
    return lost;
}

/* The tokens by which this host came to own the guest, oldest first: a source that lost the answer may ask
 * for one after the guest has moved on from here. */
static json_t *past_tokens(const json_t *old, const char *writer, const char *now)
{
    json_t *past = json_array();
    const json_t *before = json_object_get(old, "past");
    for (size_t i = 0; i < json_array_size(before); i++)
        (void)json_array_append(past, json_array_get(before, i));
    const char *token = json_string_value(json_object_get(old, "token"));
    if (token && is_text(json_object_get(old, "owner"), "here") &&
        is_text(json_object_get(old, "writer"), writer) && (!now || strcmp(token, now) != 0))
        (void)json_array_append_new(past, json_string(token));
    while (json_array_size(past) > PAST_MAX)
        (void)json_array_remove(past, 0);
    return past;
}

int records_write(const struct rundir *dir, enum move_record record, const uint8_t *token,
                  const uint8_t *store, const char *peer, struct err *err)
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
    const char *writer = own_writer();
    json_t *json =
        json_pack("{s:s, s:s?, s:s?, s:s?, s:s, s:o, s:o, s:I}", "owner",
                  record == RECORD_HERE ? "here" : "handed-over", "token", token ? token_hex : NULL,
                  "store", store ? store_hex : NULL, "peer", peer, "writer", writer, "past",
                  past_tokens(old, writer, token ? token_hex : NULL), "lost",
                  lost_tokens(old, writer), "wall_ns", (json_int_t)clock_wall_ns());
    json_decref(old);
    if (!json)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot write the owner record");
    rc = rundir_owner_write(dir, json, err);
    json_decref(json);
    return rc;
}

static int hex_field(const json_t *record, const char *key, uint8_t *ret, size_t count)
{
    const char *hex = json_string_value(json_object_get(record, key));
    return hex && strlen(hex) == 2 * count ? from_hex(hex, ret, count) : -EBADMSG;
}

int records_handed(const struct rundir *dir, struct records_handed *ret, struct err *err)
{
    json_t *record;
    int rc = read_record(dir->base, dir->name, &record, err);
    if (rc)
        return rc;
    if (!record)
        return err_set(err, ERR_CALLER, ENOENT, "there is no record of %s here", dir->name);
    const char *peer = json_string_value(json_object_get(record, "peer"));
    if (is_text(json_object_get(record, "owner"), "here"))
        rc = err_set(err, ERR_CALLER, EALREADY,
                     "%s was never handed over: the record says that it was here when its monitor "
                     "died, and it died with it",
                     dir->name);
    else if (!is_text(json_object_get(record, "owner"), "handed-over") || !peer ||
             strlen(peer) >= sizeof(ret->peer) ||
             hex_field(record, "token", ret->token, sizeof(ret->token)) ||
             hex_field(record, "store", ret->store, sizeof(ret->store)))
        rc = err_set(err, ERR_HOST, EBADMSG, "the record of %s cannot be read", dir->name);
    else
        (void)snprintf(ret->peer, sizeof(ret->peer), "%s", peer);
    json_decref(record);
    return rc;
}

static bool holds(const json_t *tokens, const char *hex)
{
    for (size_t i = 0; i < json_array_size(tokens); i++)
        if (is_text(json_array_get(tokens, i), hex))
            return true;
    return false;
}

/* What a record says of a token. That the guest is here counts for as long as who wrote it lives: a monitor that
 * has claimed the name since has the record too, and not the guest. */
static enum move_knows knows_of(const json_t *record, const struct rundir_entry *entry,
                                const char *hex)
{
    char writer[WRITER_MAX];
    bool here = is_text(json_object_get(record, "owner"), "here") &&
                is_text(json_object_get(record, "token"), hex);
    if (holds(json_object_get(record, "lost"), hex))
        return KNOWS_DIED;
    if (!here && !holds(json_object_get(record, "past"), hex))
        return KNOWS_NOTHING;
    writer_of(entry->pid, writer);
    bool written_by_it = is_text(json_object_get(record, "writer"), writer);
    return entry->alive && (written_by_it || !here) ? KNOWS_COMMITTED : KNOWS_DIED;
}

int records_lookup(const char *base, const uint8_t token[MOVE_TOKEN_BYTES], enum move_knows *ret,
                   struct err *err)
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
        enum move_knows knows = rc ? KNOWS_NOTHING : knows_of(record, &entry[i], hex);
        if (knows != KNOWS_NOTHING && *ret != KNOWS_COMMITTED)
            *ret = knows;
        json_decref(record);
    }
    return rc;
}
