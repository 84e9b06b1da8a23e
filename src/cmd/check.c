#include "check/check.h"
#include "cmd/cmd.h"

#include <string.h>

/* Whether everything is there that running guests requires: what is merely useful may be
 * missing. */
static bool usable(const json_t *facts)
{
    bool all = json_is_array(facts);
    for (size_t i = 0; i < json_array_size(facts); i++) {
        const json_t *fact = json_array_get(facts, i);
        const char *need = json_string_value(json_object_get(fact, "need"));
        all = all &&
              (!need || strcmp(need, "required") != 0 || json_is_true(json_object_get(fact, "ok")));
    }
    return all;
}

static int check(struct cmd_args *args)
{
    json_t *facts = check_run();
    bool all = usable(facts);
    int status;

    if (cmd_flag(args, "json")) {
        status = cmd_print_json(args, facts);
    } else {
        check_text(facts, stdout);
        json_decref(facts);
        status = cmd_finish(args);
    }
    return status ? status : all ? CMD_OK : CMD_FAILED;
}

const struct command cmd_check = {
    .name = "check",
    .summary = "show what this machine can do",
    .text =
        "Probes the kernel and the hypervisor of this machine for what godwit needs or makes use "
        "of, and prints each fact with its reason. Each is tried out, not looked up.",
    .options =
        (const struct cmd_option[]){
            { .name = "json",
              .kind = CMD_FLAG,
              .help = "print a list of objects with fact, ok, value and reason" },
            { 0 } },
    .status_ok = "Everything that running guests requires is there",
    .fn = check,
};
