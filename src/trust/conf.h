/*
 * DIR/godwit.conf: what an administrator of this host allows.
 *
 *     # comment
 *     key = value
 *
 * One setting a line; values are yes or no. Unknown keys, keys given twice and anything else are errors that
 * name the line: a setting that was misspelt must not be taken for one that was not made.
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>

#define CONF_FILE "godwit.conf"

struct conf {
    bool allow_insecure;              /* "allow-insecure" */
    bool allow_insecure_off_loopback; /* "allow-insecure-off-loopback" */
    bool kernel_tls;                  /* "kernel-tls": the kernel encrypts, if it can */
};

/* No file: everything is as if not set. */
int conf_load(const char *dir, struct conf *ret, struct err *err) MUST_CHECK;

/* `name`: of the file, for messages. -EINVAL (ERR_CALLER). */
int conf_parse(const char *name, const char *text, size_t len, struct conf *ret,
               struct err *err) MUST_CHECK;
