#include "cmd/vm.h"
#include "cost/show.h"

#include <string.h>

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static uint64_t number_of(const json_t *object, const char *key)
{
    json_int_t number = json_integer_value(json_object_get(object, key));
    return number > 0 ? (uint64_t)number : 0;
}

static void line(const char *label, const char *text)
{
    char clean[512];
    show_clean(clean, sizeof(clean), text); /* a command line or path may hold anything */
    if (clean[0])
        (void)printf("%-12s%s\n", label, clean);
}

static void print_device(const json_t *device, const json_t *places)
{
    const char *id = text_of(device, "id"), *kind = text_of(device, "kind");
    const json_t *place = json_object_get(places, id);
    char text[512];

    if (strcmp(kind, "blk") == 0)
        (void)snprintf(text, sizeof(text), "%s disk, %s%s, %s", id,
                       show_bytes(512 * number_of(device, "sectors")).text,
                       json_is_true(json_object_get(device, "read_only")) ? " read-only" : "",
                       text_of(place, "path"));
    else if (strcmp(kind, "net") == 0)
        (void)snprintf(text, sizeof(text), "%s network, %s, %s", id, text_of(device, "mac"),
                       text_of(place, "tap"));
    else
        (void)snprintf(text, sizeof(text), "%s %s", id, kind);
    line("device", text);
}

static void print_balloon(const json_t *balloon)
{
    char text[128];
    if (!balloon)
        return;
    (void)snprintf(text, sizeof(text), "%s of %s%s",
                   show_bytes(number_of(balloon, "actual_bytes")).text,
                   show_bytes(number_of(balloon, "target_bytes")).text,
                   json_is_true(json_object_get(balloon, "free_page_reporting"))
                       ? ", free pages are reported"
                       : "");
    line("balloon", text);
}

static void print_facts(const json_t *facts)
{
    const json_t *config = json_object_get(facts, "config"),
                 *machine = json_object_get(config, "machine");
    const json_t *host = json_object_get(config, "host"),
                 *devices = json_object_get(machine, "devices");
    char number[24];

    line("name", text_of(facts, "name"));
    line("state", text_of(facts, "state"));
    (void)snprintf(number, sizeof(number), "%llu", (unsigned long long)number_of(facts, "pid"));
    line("process", number);
    line("up", show_duration(number_of(facts, "uptime_ns")).text);
    if (!machine)
        return;
    line("uuid", text_of(machine, "uuid"));
    (void)snprintf(number, sizeof(number), "%llu", (unsigned long long)number_of(machine, "vcpus"));
    line("processors", number);
    line("memory", show_bytes(number_of(machine, "memory_bytes")).text);
    line("resident", show_bytes(number_of(facts, "resident_bytes")).text);
    print_balloon(json_object_get(facts, "balloon"));
    line("hypervisor", text_of(facts, "hypervisor"));
    line("kernel", text_of(host, "kernel"));
    line("initrd", text_of(host, "initrd"));
    line("cmdline", text_of(machine, "cmdline"));
    for (size_t i = 0; i < json_array_size(devices); i++)
        print_device(json_array_get(devices, i), json_object_get(host, "devices"));
}

static int info(struct cmd_args *args)
{
    struct client *client;
    struct err err = { 0 };
    json_t *facts;

    int rc = vm_open(args, &client, &err);
    if (rc)
        return cmd_fail(args, &err);
    rc = client_call(client, "vm.info", NULL, VM_ANSWER_NS, &facts, &err);
    client_close(client);
    if (rc)
        return cmd_fail(args, &err);
    if (cmd_flag(args, "json"))
        return cmd_print_json(args, facts);
    print_facts(facts);
    json_decref(facts);
    return cmd_finish(args);
}

const struct command cmd_info = {
    .name = "info",
    .summary = "show what is known of a VM",
    .text = "Shows a VM's state, its machine as the guest sees it, and where its parts are on this "
            "host.",
    .arguments = (const struct cmd_option[]){ VM_ARGUMENT, { 0 } },
    .options =
        (const struct cmd_option[]){ { .name = "json",
                                       .kind = CMD_FLAG,
                                       .help = "print the monitor's answer to vm.info as it is" },
                                     { 0 } },
    .fn = info,
};
