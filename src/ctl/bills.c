#include "ctl/bills.h"
#include "base/clock.h"
#include "base/fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define FOLDER ".bills" /* no VM's name begins like that */
#define TOTALS "totals.json"
#define BYTES_MAX (1u << 20)
#define LOCK_TRIES 100 /* 10 ms apart: whoever has it needs a moment only */

const uint64_t bills_duration_bounds_ns[BILLS_BOUNDS] = {
    100 * CLOCK_MSEC,    300 * CLOCK_MSEC,    CLOCK_SECOND,       3 * CLOCK_SECOND,
    10 * CLOCK_SECOND,   30 * CLOCK_SECOND,   100 * CLOCK_SECOND, 300 * CLOCK_SECOND,
    1000 * CLOCK_SECOND, 3000 * CLOCK_SECOND,
};
const uint64_t bills_downtime_bounds_ns[BILLS_BOUNDS] = {
    CLOCK_MSEC,       3 * CLOCK_MSEC, 10 * CLOCK_MSEC,  30 * CLOCK_MSEC,   100 * CLOCK_MSEC,
    300 * CLOCK_MSEC, CLOCK_SECOND,   3 * CLOCK_SECOND, 10 * CLOCK_SECOND, 30 * CLOCK_SECOND,
};

static int path_of(const char *base, const char *file, char ret[PATH_MAX], struct err *err)
{
    int n = snprintf(ret, PATH_MAX, "%s/" FOLDER "/%s", base, file);
    return n > 0 && n < PATH_MAX ? 0
                                 : err_errno(err, ERR_HOST, ENAMETOOLONG, "the bills of %s", base);
}

/* A JSON file, or NULL: not there, or damaged. */
static json_t *load(const char *path)
{
    CLEANUP_FREE char *text = NULL;
    size_t len;
    return fd_read_file(path, BYTES_MAX, &text, &len) == 0 ? json_loadb(text, len, 0, NULL) : NULL;
}

static int store(const char *path, const json_t *json, struct err *err)
{
    CLEANUP_FREE char *text = json_dumps(json, JSON_COMPACT);
    if (!text)
        return err_errno(err, ERR_HOST, ENOMEM, "%s", path);
    return fd_replace_file(path, text, strlen(text), err);
}

/* ----------------------------------------------------------------------------------------- the bills */

static bool is_bill(const char *name)
{
    return strspn(name, "0123456789") == 20 && name[20] == '-' && strlen(name) > 26 &&
           strcmp(name + strlen(name) - 5, ".json") == 0;
}

static int only_bills(const struct dirent *entry)
{
    return is_bill(entry->d_name);
}

/* Their names, the oldest first; how many, or -errno. *ret and each of it are the caller's. */
static int list_bills(const char *base, struct dirent ***ret)
{
    char path[PATH_MAX];
    int rc = path_of(base, "", path, NULL);
    int count = rc ? rc : scandir(path, ret, only_bills, alphasort);
    return count < 0 && !rc ? -errno : count;
}

static void drop_old(const char *base)
{
    struct dirent **list = NULL;
    char path[PATH_MAX];
    int count = list_bills(base, &list);
    for (int i = 0; i < count; i++) {
        if (i < count - BILLS_KEPT && path_of(base, list[i]->d_name, path, NULL) == 0)
            (void)unlink(path); /* another monitor may have been faster */
        free(list[i]);
    }
    free(list);
}

/* ---------------------------------------------------------------------------------------- the totals */

static uint64_t number_of(const json_t *object, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(object, key));
    return n > 0 ? (uint64_t)n : 0;
}

static void add(json_t *object, const char *key, uint64_t n)
{
    uint64_t sum = number_of(object, key);
    if (__builtin_add_overflow(sum, n, &sum) || sum > INT64_MAX)
        sum = INT64_MAX;
    (void)json_object_set_new(object, key, json_integer((json_int_t)sum));
}

/* Counts `ns` in a list of classes, which is made where it is missing or of another length. */
static void count_class(json_t *object, const char *key, const uint64_t bounds[BILLS_BOUNDS],
                        uint64_t ns)
{
    json_t *list = json_object_get(object, key);
    unsigned class = 0;
    if (json_array_size(list) != BILLS_BOUNDS + 1) {
        list = json_array();
        for (unsigned i = 0; i <= BILLS_BOUNDS; i++)
            (void)json_array_append_new(list, json_integer(0));
        (void)json_object_set_new(object, key, list);
    }
    while (class < BILLS_BOUNDS && ns > bounds[class])
        class ++;
    json_int_t before = json_integer_value(json_array_get(list, class));
    (void)json_array_set_new(list, class, json_integer(before + 1));
}

static bool same(const json_t *a, const json_t *b, const char *key)
{
    return json_equal(json_object_get(a, key), json_object_get(b, key));
}

/* The entry for bills of this kind; made where there is none. */
static json_t *entry_of(json_t *totals, const json_t *bill)
{
    static const char *const keys[] = { "kind", "written_by", "outcome" };
    for (size_t i = 0; i < json_array_size(totals); i++) {
        json_t *entry = json_array_get(totals, i);
        if (same(entry, bill, keys[0]) && same(entry, bill, keys[1]) && same(entry, bill, keys[2]))
            return entry;
    }
    json_t *entry = json_object();
    for (unsigned i = 0; i < ARRAY_LEN(keys); i++)
        (void)json_object_set(entry, keys[i], json_object_get(bill, keys[i]));
    (void)json_array_append_new(totals, entry);
    return entry;
}

static void add_bill(json_t *totals, const json_t *bill)
{
    json_t *entry = entry_of(totals, bill), *bytes = json_object_get(entry, "bytes"), *value;
    const json_t *downtime = json_object_get(bill, "downtime");
    const char *key;
    if (!bytes) {
        bytes = json_object();
        (void)json_object_set_new(entry, "bytes", bytes);
    }
    add(entry, "count", 1);
    add(entry, "total_ns", number_of(bill, "total_ns"));
    count_class(entry, "by_duration", bills_duration_bounds_ns, number_of(bill, "total_ns"));
    if (json_is_object(downtime)) {
        add(entry, "downtimes", 1);
        add(entry, "downtime_ns", number_of(downtime, "total_ns"));
        count_class(entry, "by_downtime", bills_downtime_bounds_ns,
                    number_of(downtime, "total_ns"));
    }
    json_object_foreach (json_object_get(bill, "bytes"), key, value)
        add(bytes, key, number_of(json_object_get(bill, "bytes"), key));
}

/* An open lock of the folder in *ret; closing it unlocks. Held by a process that does not go on, it is given up. */
static int lock(const char *base, int *ret, struct err *err)
{
    char path[PATH_MAX];
    struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    int rc = path_of(base, ".lock", path, err);
    if (rc)
        return rc;
    CLEANUP_FD int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    for (unsigned i = 0; fd >= 0 && i < LOCK_TRIES; i++) {
        if (fcntl(fd, F_OFD_SETLK, &whole) == 0) {
            *ret = TAKE_FD(fd);
            return 0;
        }
        if (errno != EACCES && errno != EAGAIN)
            break;
        (void)poll(NULL, 0, 10);
    }
    return err_errno(err, ERR_HOST, errno, "cannot lock %s", path);
}

/* --------------------------------------------------------------------------------------------- both */

int bills_keep(const char *base, const json_t *bill, struct err *err)
{
    char path[PATH_MAX], name[64];
    CLEANUP_FD int lock_fd = -1;
    int rc = path_of(base, "", path, err);
    if (rc)
        return rc;
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return err_errno(err, ERR_HOST, errno, "cannot create %s", path);
    (void)snprintf(name, sizeof(name), "%020llu-%d.json", (unsigned long long)clock_wall_ns(),
                   (int)getpid());
    rc = path_of(base, name, path, err);
    if (!rc)
        rc = store(path, bill, err);
    if (rc && rc != -EINPROGRESS)
        return rc;
    drop_old(base);
    rc = lock(base, &lock_fd, err);
    if (!rc)
        rc = path_of(base, TOTALS, path, err);
    if (rc)
        return rc;
    json_t *totals = load(path);
    if (!json_is_array(totals)) { /* the first, or damaged: then they begin anew */
        json_decref(totals);
        totals = json_array();
    }
    add_bill(totals, bill);
    rc = store(path, totals, err);
    json_decref(totals);
    return rc;
}

int bills_read(const char *base, json_t **ret_bills, json_t **ret_totals, struct err *err)
{
    struct dirent **list = NULL;
    char path[PATH_MAX];
    int count = list_bills(base, &list);
    if (count < 0 && count != -ENOENT)
        return err_errno(err, ERR_HOST, -count, "cannot read %s/" FOLDER, base);
    json_t *bills = json_array(), *totals;
    for (int i = 0; i < count; i++) {
        json_t *bill = path_of(base, list[i]->d_name, path, NULL) ? NULL : load(path);
        if (json_is_object(bill)) {
            json_int_t kept_ns = (json_int_t)strtoull(list[i]->d_name, NULL, 10);
            (void)json_object_set_new(bill, "kept_ns", json_integer(kept_ns));
            (void)json_array_append(bills, bill);
        }
        json_decref(bill);
        free(list[i]);
    }
    free(list);
    totals = path_of(base, TOTALS, path, NULL) ? NULL : load(path);
    if (!json_is_array(totals)) {
        json_decref(totals);
        totals = json_array();
    }
    *ret_bills = bills;
    *ret_totals = totals;
    return 0;
}
