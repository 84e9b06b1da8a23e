#include "trust/store.h"
#include "base/buf.h"
#include "base/fd.h"
#include "trust/confdir.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

#define STORE_BYTES_MAX (1u << 20)
#define STORE_ENTRIES_MAX 4096
#define BLANKS " \t"

int store_host(const char *text, char ret[STORE_HOST_MAX], struct err *err)
{
    char host[STORE_HOST_MAX];
    uint8_t address[16];
    size_t len = strlen(text);
    bool brackets = len >= 2 && text[0] == '[' && text[len - 1] == ']';
    if (brackets) {
        text++;
        len -= 2;
    }
    bool good = len > 0 && len < sizeof(host) && text[0] != '-';
    for (size_t i = 0; good && i < len; i++) {
        good = isascii(text[i]) && (isalnum((unsigned char)text[i]) || strchr("-_.:%", text[i]));
        host[i] = (char)tolower((unsigned char)text[i]);
    }
    if (len == 1 && text[0] == '*' && !brackets) {
        memcpy(ret, STORE_ANYWHERE, sizeof(STORE_ANYWHERE));
        return 0;
    }
    if (good) {
        host[len] = '\0';
        bool v4 = inet_pton(AF_INET, host, address) == 1;
        bool v6 = !v4 && inet_pton(AF_INET6, host, address) == 1;
        bool scoped = strchr(host, ':') && strchr(host, '%');
        /* Any other colon stands before a port, which does not belong here. */
        good = v6 || scoped || (!brackets && !strchr(host, ':'));
        if (good && (v4 || v6))
            (void)inet_ntop(v4 ? AF_INET : AF_INET6, address, ret, STORE_HOST_MAX);
        else if (good)
            memcpy(ret, host, len + 1);
    }
    return good ? 0
                : err_set(err, ERR_CALLER, EINVAL,
                          "'%.80s' is neither the name nor the address of a host", text);
}

/* ------------------------------------------------------------------------------------------- reading */

/* Cuts the next word off *at; "" when there is none. */
static const char *next_word(char **at)
{
    *at += strspn(*at, BLANKS);
    char *word = *at, *end = word + strcspn(word, BLANKS);
    *at = *end ? end + 1 : end;
    *end = '\0';
    return word;
}

/* One line (changed by it). 1: an entry; 0: none in it; -EINVAL. */
static int parse_line(char *line, struct store_entry *ret, struct err *err)
{
    const char *host = next_word(&line);
    if (!host[0] || host[0] == '#')
        return 0;
    int rc = store_host(host, ret->host, err);
    if (!rc)
        rc = fingerprint_parse(next_word(&line), &ret->print, err);
    if (rc)
        return rc;
    (void)snprintf(ret->comment, sizeof(ret->comment), "%s", line + strspn(line, BLANKS));
    for (char *at = ret->comment; *at; at++)
        if (iscntrl((unsigned char)*at))
            *at = '?';
    return 1;
}

const struct store_entry *store_find_host(const struct store *store, const char *host)
{
    for (size_t i = 0; i < store->count; i++)
        if (strcmp(store->entry[i].host, host) == 0)
            return &store->entry[i];
    return NULL;
}

const struct store_entry *store_find_print(const struct store *store,
                                           const struct fingerprint *print)
{
    for (size_t i = 0; i < store->count; i++)
        if (fingerprint_equal(&store->entry[i].print, print))
            return &store->entry[i];
    return NULL;
}

static int append(struct store *store, const struct store_entry *entry, struct err *err)
{
    bool anywhere = strcmp(entry->host, STORE_ANYWHERE) == 0;
    if (!anywhere && store_find_host(store, entry->host))
        return err_set(err, ERR_CALLER, EINVAL, "%s has a line already", entry->host);
    if (store->count == STORE_ENTRIES_MAX)
        return err_set(err, ERR_CALLER, E2BIG, "more than %d peers", STORE_ENTRIES_MAX);
    struct store_entry *grown = realloc(store->entry, (store->count + 1) * sizeof(*grown));
    if (!grown)
        return err_errno(err, ERR_HOST, ENOMEM, "no memory for it");
    store->entry = grown;
    store->entry[store->count++] = *entry;
    return 0;
}

int store_parse(const char *name, const char *text, size_t len, struct store *ret, struct err *err)
{
    struct store store = { 0 };
    struct store_entry entry;
    CLEANUP_FREE char *copy = strndup(text ? text : "", len);
    if (!copy)
        return err_errno(err, ERR_HOST, ENOMEM, "%s", name);
    if (strlen(copy) != len)
        return err_set(err, ERR_CALLER, EINVAL, "%s: is no text: it has a zero byte", name);
    unsigned number = 0;
    for (char *at = copy, *line; (line = strsep(&at, "\n"));) {
        number++;
        int rc = parse_line(line, &entry, err);
        if (rc > 0)
            rc = append(&store, &entry, err);
        if (rc < 0) {
            store_free(&store);
            return err_wrap(err, rc, "%s, line %u", name, number);
        }
    }
    *ret = store;
    return 0;
}

/* The file's text; an empty one when there is none. */
static int read_text(const char *dir, char **ret, size_t *ret_len, struct err *err)
{
    int rc = confdir_read(dir, STORE_FILE, false, STORE_BYTES_MAX, ret, ret_len, err);
    if (rc != -ENOENT)
        return rc;
    *ret = strdup("");
    *ret_len = 0;
    return *ret ? 0 : err_errno(err, ERR_HOST, ENOMEM, "%s/" STORE_FILE, dir);
}

int store_load(const char *dir, struct store *ret, struct err *err)
{
    char path[CONFDIR_MAX + 64];
    CLEANUP_FREE char *text = NULL;
    size_t len;
    confdir_file(dir, STORE_FILE, path, sizeof(path));
    int rc = read_text(dir, &text, &len, err);
    return rc ? rc : store_parse(path, text, len, ret, err);
}

void store_free(struct store *store)
{
    free(store->entry);
    *store = (struct store){ 0 };
}

/* ------------------------------------------------------------------------------------------- changing */

/* Copies the lines of `text` but those of `host` to `out`. */
static void copy_but(const char *text, const char *host, struct buf *out)
{
    struct store_entry entry;
    while (*text) {
        size_t len = strcspn(text, "\n");
        CLEANUP_FREE char *line = strndup(text, len);
        if (!line) {
            out->broken = true;
            return;
        }
        if (parse_line(line, &entry, NULL) <= 0 || strcmp(entry.host, host) != 0)
            buf_printf(out, "%.*s\n", (int)len, text);
        text += len + (text[len] == '\n');
    }
}

static int write_store(const char *dir, const struct buf *buf, struct err *err)
{
    char path[CONFDIR_MAX + 64];
    confdir_file(dir, STORE_FILE, path, sizeof(path));
    if (buf->broken)
        return err_errno(err, ERR_HOST, ENOMEM, "%s", path);
    if (buf->len > STORE_BYTES_MAX)
        return err_set(err, ERR_CALLER, EFBIG, "%s: more than %u bytes", path, STORE_BYTES_MAX);
    return fd_replace_file(path, buf->data, buf->len, err);
}

/* Locks the directory and reads the file, which must be good: no change is made to one that is not. */
static int open_to_change(const char *dir, int *ret_lock, char **ret_text, struct store *ret,
                          struct err *err)
{
    CLEANUP_FD int fd = -1;
    size_t len;
    int rc = confdir_make(dir, err);
    if (!rc)
        rc = confdir_open(dir, &fd, err);
    if (rc)
        return rc;
    while (flock(fd, LOCK_EX) < 0)
        if (errno != EINTR)
            return err_errno(err, ERR_HOST, errno, "cannot lock %s", dir);
    rc = read_text(dir, ret_text, &len, err);
    if (!rc)
        rc = store_parse(STORE_FILE, *ret_text, len, ret, err);
    if (!rc)
        *ret_lock = TAKE_FD(fd);
    return rc;
}

static int refuse_changed(const struct store_entry *old, const struct fingerprint *print,
                          struct err *err)
{
    char pinned[FINGERPRINT_TEXT_MAX], shown[FINGERPRINT_TEXT_MAX];
    fingerprint_text(&old->print, pinned);
    fingerprint_text(print, shown);
    return err_set(err, ERR_CALLER, EEXIST,
                   "another key is trusted as %s, %s and not %s: --replace takes the new one",
                   old->host, pinned, shown);
}

/* Whether the key is pinned for the host already; for "*", among many. */
static bool is_pinned(const struct store *store, const char *host, const struct fingerprint *print)
{
    for (size_t i = 0; i < store->count; i++)
        if (strcmp(store->entry[i].host, host) == 0 &&
            fingerprint_equal(&store->entry[i].print, print))
            return true;
    return false;
}

static int add_line(const char *dir, const char *text, const char *host,
                    const struct fingerprint *print, const char *comment, struct err *err)
{
    CLEANUP_BUF struct buf out = { 0 };
    char shown[FINGERPRINT_TEXT_MAX];
    /* Several keys may come from anywhere: the others stay. */
    copy_but(text, strcmp(host, STORE_ANYWHERE) == 0 ? "" : host, &out);
    fingerprint_text(print, shown);
    buf_printf(&out, "%s %s%s%s\n", host, shown, comment[0] ? " " : "", comment);
    return write_store(dir, &out, err);
}

int store_add(const char *dir, const char *host, const struct fingerprint *print,
              const char *comment, bool replace, struct err *err)
{
    CLEANUP_FD int lock = -1;
    CLEANUP_FREE char *text = NULL;
    struct store store = { 0 };
    for (const char *at = comment; *at; at++)
        if (iscntrl((unsigned char)*at) || at - comment >= STORE_COMMENT_MAX - 1)
            return err_set(err, ERR_CALLER, EINVAL,
                           "the comment is longer than %d or has an end of line",
                           STORE_COMMENT_MAX - 1);
    int rc = open_to_change(dir, &lock, &text, &store, err);
    if (rc)
        return rc;
    const struct store_entry *old = store_find_host(&store, host);
    if (strcmp(host, STORE_ANYWHERE) == 0)
        old = NULL;
    if (is_pinned(&store, host, print))
        rc = 0;
    else if (old && !replace)
        rc = refuse_changed(old, print, err);
    else
        rc = add_line(dir, text, host, print, comment, err);
    store_free(&store);
    return rc;
}

int store_remove(const char *dir, const char *host, struct err *err)
{
    CLEANUP_FD int lock = -1;
    CLEANUP_FREE char *text = NULL;
    CLEANUP_BUF struct buf out = { 0 };
    struct store store = { 0 };
    int rc = open_to_change(dir, &lock, &text, &store, err);
    if (rc)
        return rc;
    if (!store_find_host(&store, host)) {
        rc = err_set(err, ERR_CALLER, ENOENT, "%s is not in %s/" STORE_FILE, host, dir);
    } else {
        copy_but(text, host, &out);
        rc = write_store(dir, &out, err);
    }
    store_free(&store);
    return rc;
}
