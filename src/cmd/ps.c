#include "base/clock.h"
#include "cmd/vm.h"
#include "cost/show.h"

#include <stdlib.h>
#include <string.h>

#define ANSWER_NS CLOCK_SECOND /* a monitor that needs longer is shown as it is: unresponsive */

/* What is known of one VM; its monitor's answer, if it gives one. */
static json_t *facts_of(const struct cmd_args *args, const struct rundir_entry *entry)
{
    struct client *client;
    json_t *facts = NULL;
    const char *state = "dead";

    if (entry->alive) {
        state = "unresponsive";
        if (client_open(args->base, entry->name, &client, NULL) == 0) {
            if (client_call(client, "vm.info", NULL, ANSWER_NS, &facts, NULL))
                facts = NULL;
            client_close(client);
        }
    }
    return facts ? facts
                 : json_pack("{s:s, s:s, s:i}", "name", entry->name, "state", state, "pid",
                             (int)entry->pid);
}

static void print_line(const json_t *facts)
{
    const json_t *machine = json_object_get(json_object_get(facts, "config"), "machine");
    json_int_t pid = json_integer_value(json_object_get(facts, "pid"));
    json_int_t vcpus = json_integer_value(json_object_get(machine, "vcpus"));
    json_int_t uptime_ns = json_integer_value(json_object_get(facts, "uptime_ns"));
    json_int_t memory = json_integer_value(json_object_get(machine, "memory_bytes"));
    const char *name = json_string_value(json_object_get(facts, "name"));
    const char *state = json_string_value(json_object_get(facts, "state"));
    char pid_text[24] = "-", vcpus_text[24] = "-";

    if (pid > 0)
        (void)snprintf(pid_text, sizeof(pid_text), "%lld", (long long)pid);
    if (machine)
        (void)snprintf(vcpus_text, sizeof(vcpus_text), "%lld", (long long)vcpus);
    (void)printf("%-20s %-13s %8s %5s %10s %8s\n", name ? name : "?", state ? state : "?", pid_text,
                 vcpus_text, machine ? show_bytes((uint64_t)memory).text : "-",
                 uptime_ns > 0 ? show_duration((uint64_t)uptime_ns).text : "-");
}

static int ps(struct cmd_args *args)
{
    struct rundir_entry *list;
    size_t count;
    struct err err = { 0 };

    if (rundir_list(args->base, &list, &count, &err))
        return cmd_fail(args, &err);
    json_t *all = json_array();
    for (size_t i = 0; i < count; i++) {
        if (cmd_flag(args, "names"))
            (void)puts(list[i].name);
        else
            (void)json_array_append_new(all, facts_of(args, &list[i]));
    }
    free(list);
    if (cmd_flag(args, "json") && !cmd_flag(args, "names"))
        return cmd_print_json(args, all);
    if (!cmd_flag(args, "names"))
        (void)printf("%-20s %-13s %8s %5s %10s %8s\n", "NAME", "STATE", "PID", "CPUS", "MEMORY",
                     "UP");
    for (size_t i = 0; i < json_array_size(all); i++)
        print_line(json_array_get(all, i));
    json_decref(all);
    return cmd_finish(args);
}

const struct command cmd_ps = {
    .name = "ps",
    .summary = "list the VMs of this host",
    .text =
        "Lists the VMs below the runtime directory. A state of 'dead' means that the guest "
        "crashed, or that its monitor did: the log is still there, and 'godwit kill' or a new VM of that "
        "name removes it. 'unresponsive' means that the monitor lives but did not answer within a "
        "second.",
    .options =
        (const struct cmd_option[]){
            { .name = "names", .kind = CMD_FLAG, .help = "print names only, one a line" },
            { .name = "json",
              .kind = CMD_FLAG,
              .help = "print a list of what 'godwit info --json' prints of each" },
            { 0 } },
    .status_ok = "The list was printed, even if it is empty",
    .fn = ps,
};
