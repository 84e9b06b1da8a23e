#include "ctl/ready.h"
#include "base/fd.h"
#include "ctl/reason.h"
#include "vm/config.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINE_BYTES_MAX 4096

/* Writes the line and closes. Takes `json`. The monitor ignores SIGPIPE, as every network server
 * must. */
static int report(int *fd, json_t *json)
{
    if (*fd < 0) {
        json_decref(json);
        return 0;
    }
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    int rc = text ? fd_write_full(*fd, text, strlen(text)) : -ENOMEM;
    if (!rc)
        rc = fd_write_full(*fd, "\n", 1);
    free(text);
    fd_close(fd);
    return rc;
}

int ready_report(int *fd, const char *name)
{
    return report(fd, json_pack("{s:b, s:s, s:i}", "ready", 1, "name", name, "pid", (int)getpid()));
}

void ready_report_failure(int *fd, const struct err *reason)
{
    (void)report(fd, json_pack("{s:b, s:o}", "ready", 0, "error", reason_to_json(reason)));
}

int ready_wait(int fd, char *ret_name, struct err *err)
{
    char line[LINE_BYTES_MAX];
    size_t len = 0;

    while (len < sizeof(line) && !memchr(line, '\n', len)) {
        ssize_t n = read(fd, line + len, sizeof(line) - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return err_set(err, ERR_BUG, ECHILD, "the monitor died while starting");
        len += (size_t)n;
    }
    json_t *json = json_loadb(line, len, JSON_DISABLE_EOF_CHECK, NULL);
    const char *name = json_string_value(json_object_get(json, "name"));
    struct err reason = { 0 };
    if (json_is_true(json_object_get(json, "ready")) && name)
        (void)snprintf(ret_name, CONFIG_NAME_MAX, "%s", name);
    else
        reason_from_json(json_object_get(json, "error"), &reason);
    json_decref(json);
    return reason.code ? err_set(err, reason.fault, reason.code, "%s", reason.text) : 0;
}
