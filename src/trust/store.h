/*
 * DIR/trusted: the peers this host trusts, as people can read and edit it.
 *
 *     # comment
 *     HOST FINGERPRINT COMMENT...
 *
 * One peer a line. HOST is a name or address as it is written in the target of a move, without the port (and
 * without brackets); each has one line at most. It is for the source: what answers at HOST must show this
 * key. A target accepts the key of any line, wherever it comes from. The HOST "*" is for those that only
 * come: it names no place a move could go to, and may be there many times.
 *
 * A line that is not understood makes the whole file refused, by number. Changes exclude one another by a
 * lock on the directory, leave all other lines as they are, and leave the old or the new file whole.
 */
#pragma once
#include "trust/fingerprint.h"
#include <stddef.h>

#define STORE_FILE "trusted"
#define STORE_HOST_MAX 256
#define STORE_COMMENT_MAX 128
#define STORE_ANYWHERE "*"

struct store_entry {
    char host[STORE_HOST_MAX]; /* as store_host() writes it */
    struct fingerprint print;
    char comment[STORE_COMMENT_MAX];
};

struct store {
    struct store_entry *entry;
    size_t count;
};

/* No file: no entries. `ret` is to be freed, unless this fails. */
int store_load(const char *dir, struct store *ret, struct err *err) MUST_CHECK;
int store_parse(const char *name, const char *text, size_t len, struct store *ret,
                struct err *err) MUST_CHECK;
void store_free(struct store *store);

/* NULL: there is none. */
const struct store_entry *store_find_host(const struct store *store, const char *host);
const struct store_entry *store_find_print(const struct store *store,
                                           const struct fingerprint *print);

/* The one way to write a host: lower case, numeric addresses in their shortest form, no brackets.
 * -EINVAL (ERR_CALLER): no name or address. */
int store_host(const char *text, char ret[STORE_HOST_MAX], struct err *err) MUST_CHECK;

/* Pins `print` for `host` (in the form of store_host()). What is pinned already stays as it is: 0. -EEXIST:
 * another key is, and `replace` is false. */
int store_add(const char *dir, const char *host, const struct fingerprint *print,
              const char *comment, bool replace, struct err *err) MUST_CHECK;

/* Removes every line of `host`. -ENOENT (ERR_CALLER): there is none. */
int store_remove(const char *dir, const char *host, struct err *err) MUST_CHECK;
