#include "cmd/vm.h"

int vm_open(const struct cmd_args *args, struct client **ret, struct err *err)
{
    return client_open(args->base, cmd_text(args, "NAME"), ret, err);
}

int vm_call(const struct cmd_args *args, const char *method)
{
    struct client *client;
    struct err err = { 0 };

    int rc = vm_open(args, &client, &err);
    if (rc)
        return cmd_fail(args, &err);
    rc = client_call(client, method, NULL, VM_ANSWER_NS, NULL, &err);
    client_close(client);
    return rc ? cmd_fail(args, &err) : CMD_OK;
}
