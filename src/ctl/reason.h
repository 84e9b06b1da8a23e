/*
 * A struct err as JSON, as it crosses the control socket and the ready pipe:
 *
 *     {"text": "disk root: no such file", "errno": "ENOENT", "code": 2, "fault": "caller",
 *      "reason": null}
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include <jansson.h>

/* A new object; NULL when out of memory. */
json_t *reason_to_json(const struct err *err);

/* Fills *ret from such an object, but for the reason. What is missing or odd in it becomes EPROTO and ERR_BUG: the
 * result is always an error. */
void reason_from_json(const json_t *json, struct err *ret);

/* The errno of a name ("ENOENT"), 0 when unknown; and the name, "EUNKNOWN" when there is none. */
int reason_errno(const char *name);
const char *reason_errno_name(int code);
