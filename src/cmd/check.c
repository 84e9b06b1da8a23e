#include "check/check.h"
#include "cmd/cmd.h"

static const char *text_of(const json_t *fact, const char *key, char number[32])
{
    const json_t *value = json_object_get(fact, key);
    if (json_is_integer(value)) {
        (void)snprintf(number, 32, "%lld", (long long)json_integer_value(value));
        return number;
    }
    return json_is_string(value) ? json_string_value(value) : "";
}

static int check(struct cmd_args *args)
{
    json_t *facts = check_run();
    bool all = json_is_array(facts);
    char number[32];

    for (size_t i = 0; i < json_array_size(facts); i++)
        all = all && json_is_true(json_object_get(json_array_get(facts, i), "ok"));
    if (cmd_flag(args, "json")) {
        int status = cmd_print_json(args, facts);
        return status ? status : all ? CMD_OK : CMD_FAILED;
    }
    for (size_t i = 0; i < json_array_size(facts); i++) {
        const json_t *fact = json_array_get(facts, i);
        (void)printf("%-4s %-28s %-12s", json_is_true(json_object_get(fact, "ok")) ? "yes" : "no", text_of(fact, "fact", number),
                     text_of(fact, "value", number));
        (void)printf(" %s\n", text_of(fact, "reason", number));
    }
    json_decref(facts);
    int status = cmd_finish(args);
    return status ? status : all ? CMD_OK : CMD_FAILED;
}

const struct command cmd_check = {
    .name = "check",
    .summary = "show what this machine can do",
    .text = "Probes the kernel and the hypervisor of this machine for what godwit needs or makes use of, and prints each fact "
            "with its reason. Each is tried out, not looked up.",
    .options = (const struct cmd_option[]){
        { .name = "json", .kind = CMD_FLAG, .help = "print a list of objects with fact, ok, value and reason" }, { 0 } },
    .status_ok = "All is there",
    .fn = check,
};
