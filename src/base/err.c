#include "base/err.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fill(struct err *err, enum err_fault fault, int code, const char *fmt, va_list ap)
{
    if (err) {
        err->code = code;
        err->fault = fault;
        err->reason = NULL;
        (void)vsnprintf(err->text, sizeof(err->text), fmt, ap);
    }
    return -code;
}

int err_set(struct err *err, enum err_fault fault, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int rc = fill(err, fault, code, fmt, ap);
    va_end(ap);
    return rc;
}

int err_errno(struct err *err, enum err_fault fault, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int rc = fill(err, fault, code, fmt, ap);
    va_end(ap);
    if (err) {
        size_t len = strlen(err->text);
        (void)snprintf(err->text + len, sizeof(err->text) - len, ": %s", strerror(code));
    }
    return rc;
}

int err_wrap(struct err *err, int rc, const char *fmt, ...)
{
    if (!err)
        return rc;
    char context[160], inner[sizeof(err->text)];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(context, sizeof(context), fmt, ap);
    va_end(ap);
    memcpy(inner, err->text, sizeof(inner));
    /* A text cut short at the end still names its context. */
    (void)snprintf(err->text, sizeof(err->text), "%s: %s", context, inner);
    return -err->code;
}

const char *err_fault_name(enum err_fault fault)
{
    static const char *const names[] = {
        [ERR_NONE] = "none",   [ERR_CALLER] = "caller", [ERR_HOST] = "host",
        [ERR_GUEST] = "guest", [ERR_PEER] = "peer",     [ERR_BUG] = "bug",
    };
    static_assert(ARRAY_LEN(names) == ERR_FAULT_MAX, "one name per fault");
    return (unsigned)fault < ERR_FAULT_MAX ? names[fault] : "unknown";
}

void assert_failed(const char *cond, const char *file, int line)
{
    (void)fprintf(stderr, "godwit: broken invariant at %s:%d: %s\n", file, line, cond);
    abort();
}
