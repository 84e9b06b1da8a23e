#include "base/fd.h"
#include "cmd/cmd.h"
#include "cost/bill_text.h"

#include <errno.h>

#define BILL_BYTES_MAX (16u << 20)

static int bill(struct cmd_args *args)
{
    const char *path = cmd_text(args, "FILE");
    CLEANUP_FREE char *text = NULL;
    size_t len;
    struct err err = { 0 };
    json_error_t why;

    int rc = fd_read_file(path, BILL_BYTES_MAX, &text, &len);
    if (rc) {
        (void)err_errno(&err, ERR_CALLER, -rc, "%s", path);
        return cmd_fail(args, &err);
    }
    json_t *json = json_loadb(text, len, 0, &why);
    if (!json_is_object(json)) {
        (void)err_set(&err, ERR_CALLER, EINVAL, "%s: no bill: %s", path,
                      json ? "not a JSON object" : why.text);
        json_decref(json);
        return cmd_fail(args, &err);
    }
    if (cmd_flag(args, "json"))
        return cmd_print_json(args, json);
    bill_text(json, stdout);
    json_decref(json);
    return cmd_finish(args);
}

const struct command cmd_bill = {
    .name = "bill",
    .summary = "show a saved bill: what a move cost",
    .text = "Prints a bill that migrate or checkpoint wrote with --bill or --json, for people. "
            "docs/bill.md explains every figure and what its clock covers.",
    .example = "  godwit migrate web1 10.0.0.2:7000 --bill web1.json && godwit bill web1.json\n",
    .arguments =
        (const struct cmd_option[]){
            { .name = "FILE", .kind = CMD_FILE, .flags = CMD_REQUIRED, .help = "the bill" },
            { 0 } },
    .options =
        (const struct cmd_option[]){
            { .name = "json", .kind = CMD_FLAG, .help = "print it as it is" }, { 0 } },
    .fn = bill,
};
