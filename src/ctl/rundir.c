/*
 * Runtime directories: see rundir.h.
 *
 * Two locks, both of the open-file-description kind, so that they end with the process and can be
 * tested without being taken. BASE/.lock is held for the moments in which directories appear,
 * change their name or vanish, and in which memory is promised (ctl/promise.h). BASE/NAME/lock is held by the monitor for its life; holding it is
 * what owning the name means. A reader (ps, rundir_open) takes neither, and so never makes a claim
 * fail.
 */
#include "ctl/rundir.h"
#include "base/fd.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define LOCK_FILE "lock"
#define OWNER_FILE "owner.json"
#define OWNER_BYTES_MAX (64u << 10)

int rundir_base(const char *given, char ret[RUNDIR_BASE_MAX], struct err *err)
{
    const char *xdg = getenv("XDG_RUNTIME_DIR");
    int n;

    if (given && given[0])
        n = snprintf(ret, RUNDIR_BASE_MAX, "%s", given);
    else if (geteuid() == 0)
        n = snprintf(ret, RUNDIR_BASE_MAX, "/run/godwit");
    else if (xdg && xdg[0] == '/')
        n = snprintf(ret, RUNDIR_BASE_MAX, "%s/godwit", xdg);
    else
        return err_set(err, ERR_CALLER, ENOENT,
                       "XDG_RUNTIME_DIR is not set: set it or give --runtime-dir");
    if (n < 0 || n >= RUNDIR_BASE_MAX)
        return err_set(err, ERR_CALLER, ENAMETOOLONG,
                       "runtime directory: path longer than %d bytes", RUNDIR_BASE_MAX - 1);
    return 0;
}

int rundir_check_name(const char *name, struct err *err)
{
    size_t len = strnlen(name, CONFIG_NAME_MAX);
    bool good = len > 0 && len < CONFIG_NAME_MAX && name[0] != '.' && name[0] != '-';
    for (size_t i = 0; good && i < len; i++)
        good = isascii(name[i]) && (isalnum((unsigned char)name[i]) || strchr("-_.", name[i]));
    if (good)
        return 0;
    return err_set(err, ERR_CALLER, EINVAL,
                   "'%.80s' is no VM name: 1 to %d letters, digits, '-', '_', '.', not '.' or '-' "
                   "first",
                   name, CONFIG_NAME_MAX - 1);
}

/* ------------------------------------------------------------------------------------------
 * locks */

static struct flock whole_file(short type)
{
    return (struct flock){ .l_type = type, .l_whence = SEEK_SET };
}

/* 0; -EWOULDBLOCK when held elsewhere and not to be waited for. */
static int lock_take(int fd, bool wait)
{
    struct flock lock = whole_file(F_WRLCK);
    while (fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &lock) < 0) {
        if (errno == EACCES || errno == EAGAIN)
            return -EWOULDBLOCK;
        if (errno != EINTR)
            return -errno;
    }
    return 0;
}

/* Who holds the lock of a directory: returns whether anyone does; *ret_pid is what the file
 * says. */
static bool lock_held(int dir_fd, pid_t *ret_pid)
{
    *ret_pid = 0;
    CLEANUP_FD int fd = openat(dir_fd, LOCK_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return false;
    struct flock lock = whole_file(F_WRLCK);
    if (fcntl(fd, F_OFD_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
        return false;
    char text[16] = "";
    if (pread(fd, text, sizeof(text) - 1, 0) > 0)
        *ret_pid = (pid_t)strtol(text, NULL, 10);
    return true;
}

/* Creates BASE if need be and locks it. Returns its descriptor in *ret; closing it unlocks. */
static int base_lock(const char *base, int *ret, int *ret_lock, struct err *err)
{
    struct stat st;

    if (mkdir(base, 0700) < 0 && errno != EEXIST)
        return err_errno(err, ERR_HOST, errno, "cannot create runtime directory %s", base);
    CLEANUP_FD int fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_errno(err, ERR_HOST, errno, "runtime directory %s", base);
    /* Whoever can write here can put a socket of his own in a VM's place. */
    if (st.st_uid != geteuid() || (st.st_mode & (S_IWGRP | S_IWOTH)))
        return err_set(err, ERR_HOST, EPERM,
                       "runtime directory %s must be yours and writable by you alone", base);
    CLEANUP_FD int lock = openat(fd, ".lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    int rc = lock < 0 ? -errno : lock_take(lock, true);
    if (rc)
        return err_errno(err, ERR_HOST, -rc, "cannot lock %s/.lock", base);
    *ret = TAKE_FD(fd);
    *ret_lock = TAKE_FD(lock);
    return 0;
}

int rundir_lock_base(const struct rundir *dir, int *ret_fd, struct err *err)
{
    CLEANUP_FD int base_fd = -1;
    return base_lock(dir->base, &base_fd, ret_fd, err);
}

/* ---------------------------------------------------------------------------------- directory */

static bool is_kept(const char *file, unsigned keep)
{
    if (strcmp(file, LOCK_FILE) == 0)
        return true;
    if ((keep & RUNDIR_KEEP_RECORD) && strcmp(file, OWNER_FILE) == 0)
        return true;
    return (keep & RUNDIR_KEEP_LOGS) &&
           (strcmp(file, RUNDIR_LOG) == 0 || strcmp(file, RUNDIR_SCROLLBACK) == 0);
}

/* Removes the plain entries of a directory but the lock and what is kept. Returns whether anything
 * was kept. */
static bool remove_entries(int dir_fd, unsigned keep)
{
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    bool kept = false;
    if (!dir) {
        fd_close(&fd);
        return false;
    }
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (!is_kept(entry->d_name, keep))
            (void)unlinkat(dir_fd, entry->d_name, 0); /* "." and ".." refuse by themselves */
        else if (strcmp(entry->d_name, LOCK_FILE) != 0)
            kept = true;
    }
    (void)closedir(dir);
    return kept;
}

static bool has_record(int dir_fd)
{
    return faccessat(dir_fd, OWNER_FILE, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Removes what can be; with the base locked and the directory's own lock held or its holder
 * dead. */
static void remove_directory(int base_fd, int dir_fd, const char *name, unsigned keep)
{
    if (remove_entries(dir_fd, keep))
        return;
    (void)unlinkat(dir_fd, LOCK_FILE, 0);
    (void)unlinkat(base_fd, name, AT_REMOVEDIR);
}

static int in_use(const char *name, pid_t pid, struct err *err)
{
    return err_set(err, ERR_CALLER, EEXIST,
                   "the name %s is in use by process %d: choose another or 'godwit kill %s'", name,
                   (int)pid, name);
}

int rundir_claim(const char *base, const char *name, struct rundir *ret, struct err *err)
{
    CLEANUP_FD int base_fd = -1, base_lock_fd = -1, dir_fd = -1, lock_fd = -1;
    pid_t pid;
    char text[16];

    int rc = rundir_check_name(name, err);
    if (!rc)
        rc = base_lock(base, &base_fd, &base_lock_fd, err);
    if (rc)
        return rc;
    bool made = mkdirat(base_fd, name, 0700) == 0;
    if (!made && errno != EEXIST)
        return err_errno(err, ERR_HOST, errno, "cannot create %s/%s", base, name);
    dir_fd = openat(base_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (dir_fd < 0)
        return err_errno(err, ERR_HOST, errno, "%s/%s", base, name);

    lock_fd = openat(dir_fd, LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    rc = lock_fd < 0 ? -errno : lock_take(lock_fd, false);
    if (rc == -EWOULDBLOCK) {
        (void)lock_held(dir_fd, &pid);
        return in_use(name, pid, err);
    }
    if (!rc) {
        (void)remove_entries(dir_fd, RUNDIR_KEEP_RECORD);
        int len = snprintf(text, sizeof(text), "%d\n", (int)getpid());
        if (ftruncate(lock_fd, 0) < 0 || pwrite(lock_fd, text, (size_t)len, 0) != len)
            rc = -EIO;
    }
    if (rc) {
        if (made)
            remove_directory(base_fd, dir_fd, name, RUNDIR_KEEP_NOTHING);
        return err_errno(err, ERR_HOST, -rc, "cannot lock %s/%s/" LOCK_FILE, base, name);
    }
    *ret = (struct rundir){ .dir_fd = TAKE_FD(dir_fd), .lock_fd = TAKE_FD(lock_fd) };
    (void)snprintf(ret->base, sizeof(ret->base), "%s", base);
    (void)snprintf(ret->name, sizeof(ret->name), "%s", name);
    return 0;
}

/* Clears a dead monitor's directory out of the way of `dir`, whose record it becomes. */
static int replace_dead(int base_fd, const struct rundir *dir, const char *name, struct err *err)
{
    pid_t pid;
    CLEANUP_FD int old_fd = openat(base_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (old_fd < 0)
        return err_errno(err, ERR_HOST, errno, "%s/%s", dir->base, name);
    if (lock_held(old_fd, &pid))
        return in_use(name, pid, err);
    if (has_record(old_fd) && !has_record(dir->dir_fd) &&
        renameat(old_fd, OWNER_FILE, dir->dir_fd, OWNER_FILE) < 0)
        return err_errno(err, ERR_HOST, errno, "cannot take over %s/%s/" OWNER_FILE, dir->base,
                         name);
    remove_directory(base_fd, old_fd, name, RUNDIR_KEEP_NOTHING);
    return 0;
}

int rundir_rename(struct rundir *dir, const char *name, struct err *err)
{
    CLEANUP_FD int base_fd = -1, base_lock_fd = -1;

    int rc = rundir_check_name(name, err);
    if (rc || strcmp(dir->name, name) == 0)
        return rc;
    rc = base_lock(dir->base, &base_fd, &base_lock_fd, err);
    if (rc)
        return rc;
    if (faccessat(base_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        rc = replace_dead(base_fd, dir, name, err);
    if (rc)
        return rc;
    if (renameat2(base_fd, dir->name, base_fd, name, RENAME_NOREPLACE) < 0)
        return err_errno(err, ERR_HOST, errno, "cannot rename %s/%s to %s", dir->base, dir->name,
                         name);
    (void)snprintf(dir->name, sizeof(dir->name), "%s", name);
    return 0;
}

void rundir_close(struct rundir *dir)
{
    fd_close(&dir->dir_fd);
    fd_close(&dir->lock_fd);
}

void rundir_release(struct rundir *dir, unsigned keep)
{
    CLEANUP_FD int base_fd = -1, base_lock_fd = -1;

    /* A base that cannot be locked any more: leave the directory to the next claim. */
    if (dir->lock_fd >= 0 && dir->dir_fd >= 0 &&
        base_lock(dir->base, &base_fd, &base_lock_fd, NULL) == 0)
        remove_directory(base_fd, dir->dir_fd, dir->name, keep);
    rundir_close(dir);
}

int rundir_open(const char *base, const char *name, struct rundir *ret, struct err *err)
{
    char path[PATH_MAX];
    pid_t pid;

    int rc = rundir_check_name(name, err);
    if (rc)
        return rc;
    (void)snprintf(path, sizeof(path), "%s/%s", base, name);
    CLEANUP_FD int dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (dir_fd < 0 && errno == ENOENT)
        return err_set(err, ERR_CALLER, ENOENT, "no VM named %s: 'godwit ps' lists those there are",
                       name);
    if (dir_fd < 0)
        return err_errno(err, ERR_HOST, errno, "%s", path);
    if (!lock_held(dir_fd, &pid))
        return err_set(err, ERR_HOST, ENOENT,
                       "the monitor of %s has died; its log is %s/" RUNDIR_LOG, name, path);
    *ret = (struct rundir){ .dir_fd = TAKE_FD(dir_fd), .lock_fd = -1 };
    (void)snprintf(ret->base, sizeof(ret->base), "%s", base);
    (void)snprintf(ret->name, sizeof(ret->name), "%s", name);
    return 0;
}

int rundir_reclaim(const char *base, const char *name, struct err *err)
{
    CLEANUP_FD int base_fd = -1, base_lock_fd = -1;
    pid_t pid;

    int rc = rundir_check_name(name, err);
    if (!rc)
        rc = base_lock(base, &base_fd, &base_lock_fd, err);
    if (rc)
        return rc;
    CLEANUP_FD int dir_fd = openat(base_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (dir_fd < 0)
        return err_set(err, ERR_CALLER, errno, "no VM named %s", name);
    if (lock_held(dir_fd, &pid))
        return err_set(err, ERR_CALLER, EBUSY, "VM %s is alive: process %d", name, (int)pid);
    remove_directory(base_fd, dir_fd, name, RUNDIR_KEEP_NOTHING);
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct rundir_entry *)a)->name, ((const struct rundir_entry *)b)->name);
}

int rundir_list(const char *base, struct rundir_entry **ret, size_t *ret_count, struct err *err)
{
    struct rundir_entry *list = NULL;
    size_t count = 0;

    DIR *dir = opendir(base);
    if (!dir && errno != ENOENT)
        return err_errno(err, ERR_HOST, errno, "%s", base);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        if (rundir_check_name(entry->d_name, NULL))
            continue;
        CLEANUP_FD int fd =
            openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
            continue; /* a file of someone else's, or gone since */
        struct rundir_entry *grown = reallocarray(list, count + 1, sizeof(*list));
        if (!grown) {
            free(list);
            (void)closedir(dir);
            return err_errno(err, ERR_HOST, ENOMEM, "%s", base);
        }
        list = grown;
        struct rundir_entry *item = &list[count++];
        *item = (struct rundir_entry){ 0 };
        (void)snprintf(item->name, sizeof(item->name), "%s", entry->d_name);
        item->alive = lock_held(fd, &item->pid);
    }
    if (dir)
        (void)closedir(dir);
    if (count > 0)
        qsort(list, count, sizeof(*list), by_name);
    *ret = list;
    *ret_count = count;
    return 0;
}

int rundir_path(const struct rundir *dir, const char *file, char *ret, size_t size)
{
    int n = snprintf(ret, size, "%s/%s/%s", dir->base, dir->name, file);
    return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

/* ----------------------------------------------------------------------------------------
 * sockets */

/* The address of a socket in the directory. A path too long for one goes through the descriptor. */
static void socket_address(const struct rundir *dir, const char *file, struct sockaddr_un *ret)
{
    *ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
    if (rundir_path(dir, file, ret->sun_path, sizeof(ret->sun_path)))
        (void)snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d/%s", dir->dir_fd,
                       file);
}

int rundir_listen(const struct rundir *dir, const char *file, int *ret_fd, struct err *err)
{
    struct sockaddr_un address;
    socket_address(dir, file, &address);

    CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    (void)unlinkat(dir->dir_fd, file, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        fchmodat(dir->dir_fd, file, 0600, 0) < 0 || listen(fd, 64) < 0)
        return err_errno(err, ERR_HOST, errno, "cannot listen on %s/%s/%s", dir->base, dir->name,
                         file);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int rundir_connect(const struct rundir *dir, const char *file, int *ret_fd, struct err *err)
{
    struct sockaddr_un address;
    socket_address(dir, file, &address);

    CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return err_errno(err, ERR_HOST, errno, "cannot connect to %s/%s/%s", dir->base, dir->name,
                         file);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

/* ----------------------------------------------------------------------------------- owner
 * record */

int rundir_owner_write(const struct rundir *dir, const json_t *record, struct err *err)
{
    char path[PATH_MAX];
    int rc = rundir_path(dir, OWNER_FILE, path, sizeof(path));
    if (rc)
        return err_errno(err, ERR_HOST, -rc, "owner record of %s", dir->name);
    char *text = json_dumps(record, JSON_COMPACT);
    if (!text)
        return err_errno(err, ERR_HOST, ENOMEM, "owner record of %s", dir->name);
    rc = fd_replace_file(path, text, strlen(text), err);
    free(text);
    return rc;
}

int rundir_owner_read(const struct rundir *dir, json_t **ret, struct err *err)
{
    char path[PATH_MAX];
    char *text = NULL;
    size_t len;

    int rc = rundir_path(dir, OWNER_FILE, path, sizeof(path));
    if (!rc)
        rc = fd_read_file(path, OWNER_BYTES_MAX, &text, &len);
    if (rc)
        return err_errno(err, ERR_HOST, -rc, "owner record of %s", dir->name);
    json_t *record = json_loadb(text, len, 0, NULL);
    free(text);
    if (!json_is_object(record)) {
        json_decref(record);
        return err_set(err, ERR_HOST, EBADMSG, "owner record %s is damaged", path);
    }
    *ret = record;
    return 0;
}
