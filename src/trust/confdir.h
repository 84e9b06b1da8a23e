/*
 * The directory of a host's key, of the peers it trusts, and of its configuration:
 *
 *     host_key      this host's private key: trust/keys.h
 *     trusted       the peers: trust/store.h
 *     godwit.conf   trust/conf.h
 *
 * /etc/godwit for root, $XDG_CONFIG_HOME/godwit for others ($HOME/.config/godwit if that is not set). What
 * is in it decides who may send guests here, so whoever can write to it must be its user or root: anything
 * laxer is refused, by name.
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>

#define CONFDIR_MAX 1024

/* `given` when not NULL or empty, made absolute; else as above. Creates nothing. */
int confdir_path(const char *given, char ret[CONFDIR_MAX], struct err *err) MUST_CHECK;

/* Makes the directory (0700) and what is missing above it, and checks it. */
int confdir_make(const char *dir, struct err *err) MUST_CHECK;

/* Opens it to hold locks on; -ENOENT when there is none (err untouched). */
int confdir_open(const char *dir, int *ret_fd, struct err *err) MUST_CHECK;

/* DIR/name, for messages and open(2). */
void confdir_file(const char *dir, const char *name, char *ret, size_t size);

/* Reads a file of it, after checking that only its user or root can write to it and, with `secret`, that
 * nobody else can read it. *ret is the caller's. -ENOENT: there is none (err untouched). */
int confdir_read(const char *dir, const char *name, bool secret, size_t max_bytes, char **ret,
                 size_t *ret_len, struct err *err) MUST_CHECK;
