#include "trust/confdir.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int confdir_path(const char *given, char ret[CONFDIR_MAX], struct err *err)
{
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    char here[PATH_MAX];
    int n;

    if (given && given[0] == '/')
        n = snprintf(ret, CONFDIR_MAX, "%s", given);
    else if (given && given[0] && !getcwd(here, sizeof(here)))
        return err_errno(err, ERR_HOST, errno, "the working directory");
    else if (given && given[0])
        n = snprintf(ret, CONFDIR_MAX, "%s/%s", here, given);
    else if (geteuid() == 0)
        n = snprintf(ret, CONFDIR_MAX, "/etc/godwit");
    else if (xdg && xdg[0] == '/')
        n = snprintf(ret, CONFDIR_MAX, "%s/godwit", xdg);
    else if (home && home[0] == '/')
        n = snprintf(ret, CONFDIR_MAX, "%s/.config/godwit", home);
    else
        return err_set(err, ERR_CALLER, ENOENT,
                       "neither XDG_CONFIG_HOME nor HOME is set: set one or give --config-dir");
    if (n < 0 || n >= CONFDIR_MAX)
        return err_set(err, ERR_CALLER, ENAMETOOLONG,
                       "configuration directory: path longer than %d bytes", CONFDIR_MAX - 1);
    return 0;
}

void confdir_file(const char *dir, const char *name, char *ret, size_t size)
{
    (void)snprintf(ret, size, "%s/%s", dir, name);
}

static int check(int fd, const char *path, bool secret, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_errno(err, ERR_HOST, errno, "%s", path);
    if (st.st_uid != geteuid() && st.st_uid != 0)
        return err_set(err, ERR_HOST, EPERM,
                       "%s belongs to user %u: whoever owns it decides who is trusted here", path,
                       (unsigned)st.st_uid);
    mode_t lax = st.st_mode & (secret ? 0077 : 0022);
    if (lax)
        return err_set(err, ERR_HOST, EPERM,
                       "%s is open to others (mode %04o): chmod %s it before it is used", path,
                       (unsigned)(st.st_mode & 07777), secret ? "go-rwx" : "go-w");
    return 0;
}

int confdir_open(const char *dir, int *ret_fd, struct err *err)
{
    CLEANUP_FD int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return -ENOENT;
    if (fd < 0)
        return err_errno(err, ERR_HOST, errno, "%s", dir);
    int rc = check(fd, dir, false, err);
    if (!rc)
        *ret_fd = TAKE_FD(fd);
    return rc;
}

int confdir_make(const char *dir, struct err *err)
{
    char path[CONFDIR_MAX];
    CLEANUP_FD int fd = -1;
    int rc = confdir_open(dir, &fd, err);
    if (rc != -ENOENT)
        return rc;
    (void)snprintf(path, sizeof(path), "%s", dir);
    for (char *slash = strchr(path + 1, '/');; slash = strchr(slash + 1, '/')) {
        if (slash)
            *slash = '\0';
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
            return err_errno(err, ERR_HOST, errno, "cannot create %s", path);
        if (!slash)
            break;
        *slash = '/';
    }
    rc = confdir_open(dir, &fd, err);
    return rc == -ENOENT ? err_errno(err, ERR_HOST, ENOENT, "%s", dir) : rc;
}

int confdir_read(const char *dir, const char *name, bool secret, size_t max_bytes, char **ret,
                 size_t *ret_len, struct err *err)
{
    char path[CONFDIR_MAX + 64], self[64];
    CLEANUP_FD int dir_fd = -1;
    int rc = confdir_open(dir, &dir_fd, err);
    if (rc)
        return rc;
    confdir_file(dir, name, path, sizeof(path));
    CLEANUP_FD int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT)
        return -ENOENT;
    if (fd < 0)
        return err_errno(err, ERR_HOST, errno, "%s", path);
    rc = check(fd, path, secret, err);
    if (rc)
        return rc;
    (void)snprintf(self, sizeof(self), "/proc/self/fd/%d", fd); /* the very file that was checked */
    rc = fd_read_file(self, max_bytes, ret, ret_len);
    return rc ? err_errno(err, ERR_HOST, -rc, "%s", path) : 0;
}
