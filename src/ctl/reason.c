#include "ctl/reason.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define ERRNO_MAX 4095 /* what the kernel reserves for error numbers */

const char *reason_errno_name(int code)
{
    const char *name = strerrorname_np(code);
    return name ? name : "EUNKNOWN";
}

int reason_errno(const char *name)
{
    for (int code = 1; code <= ERRNO_MAX; code++) {
        const char *known = strerrorname_np(code);
        if (known && strcmp(known, name) == 0)
            return code;
    }
    return 0;
}

static enum err_fault fault_of(const char *name)
{
    for (unsigned i = ERR_NONE + 1; name && i < ERR_FAULT_MAX; i++)
        if (strcmp(err_fault_name((enum err_fault)i), name) == 0)
            return (enum err_fault)i;
    return ERR_BUG;
}

json_t *reason_to_json(const struct err *err)
{
    char text[sizeof(err->text)];
    (void)snprintf(text, sizeof(text), "%s", err->text);

    /* Bytes of a peer or a file name need not be UTF-8, and a text cut short may end inside a
     * character. */
    json_t *check = json_string(text);
    for (size_t i = 0; !check && text[i]; i++)
        if (!isascii(text[i]))
            text[i] = '?';
    json_decref(check);
    return json_pack("{s:s, s:s, s:i, s:s, s:s?}", "text", text, "errno",
                     reason_errno_name(err->code), "code", err->code, "fault",
                     err_fault_name(err->fault), "reason", err->reason);
}

void reason_from_json(const json_t *json, struct err *ret)
{
    const char *text = json_string_value(json_object_get(json, "text"));
    const char *name = json_string_value(json_object_get(json, "errno"));
    int code = name ? reason_errno(name) : 0;

    /* The name is believed before the number: numbers differ between architectures. */
    ret->code = code ? code : EPROTO;
    ret->reason = NULL;
    ret->fault = fault_of(json_string_value(json_object_get(json, "fault")));
    (void)snprintf(ret->text, sizeof(ret->text), "%s", text ? text : "no reason given");
}
