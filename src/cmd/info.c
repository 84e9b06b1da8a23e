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

/* "3 reads (12.0 KiB)": a count and perhaps its bytes, appended to `text` if there was any. */
static void add_count(char *text, size_t size, const json_t *counts, const char *count,
                      const char *what, const char *bytes)
{
    size_t len = strlen(text);
    uint64_t n = number_of(counts, count);
    if (n == 0)
        return;
    (void)snprintf(text + len, size - len, "%s%s %s", len ? ", " : "", show_count(n).text, what);
    len = strlen(text);
    if (bytes)
        (void)snprintf(text + len, size - len, " (%s)", show_bytes(number_of(counts, bytes)).text);
}

static void add_bytes(char *text, size_t size, const json_t *counts, const char *bytes,
                      const char *what)
{
    size_t len = strlen(text);
    uint64_t n = number_of(counts, bytes);
    if (n)
        (void)snprintf(text + len, size - len, "%s%s %s", len ? ", " : "", show_bytes(n).text,
                       what);
}

static void print_counts(const char *kind, const json_t *counts)
{
    char text[512] = "";
    if (strcmp(kind, "blk") == 0) {
        add_count(text, sizeof(text), counts, "read_requests", "reads", "read_bytes");
        add_count(text, sizeof(text), counts, "write_requests", "writes", "written_bytes");
        add_count(text, sizeof(text), counts, "flush_requests", "flushes", NULL);
        add_count(text, sizeof(text), counts, "discard_requests", "discards", "discarded_bytes");
        add_count(text, sizeof(text), counts, "write_zeroes_requests", "zeroings", "zeroed_bytes");
        add_count(text, sizeof(text), counts, "failed_requests", "failed", NULL);
    } else if (strcmp(kind, "net") == 0) {
        add_count(text, sizeof(text), counts, "received_frames", "received", "received_bytes");
        add_count(text, sizeof(text), counts, "received_dropped_frames", "lost", NULL);
        add_count(text, sizeof(text), counts, "sent_frames", "sent", "sent_bytes");
        add_count(text, sizeof(text), counts, "sent_dropped_frames", "refused", NULL);
    } else if (strcmp(kind, "rng") == 0) {
        add_bytes(text, sizeof(text), counts, "bytes", "given");
    } else if (strcmp(kind, "vsock") == 0) {
        add_bytes(text, sizeof(text), counts, "received_bytes", "received");
        add_bytes(text, sizeof(text), counts, "sent_bytes", "sent");
    } else {
        add_bytes(text, sizeof(text), counts, "inflated_bytes", "given back");
        add_bytes(text, sizeof(text), counts, "deflated_bytes", "taken again");
        add_bytes(text, sizeof(text), counts, "reported_bytes", "reported free");
    }
    line("", text);
}

static void print_device(const json_t *device, const json_t *places, const json_t *counts)
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
    print_counts(kind, json_object_get(counts, id));
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
        print_device(json_array_get(devices, i), json_object_get(host, "devices"),
                     json_object_get(facts, "counts"));
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
    .text = "Shows a VM's state, its machine as the guest sees it, where its parts are on this "
            "host, and what its devices have done for the guest since it came here.",
    .arguments = (const struct cmd_option[]){ VM_ARGUMENT, { 0 } },
    .options =
        (const struct cmd_option[]){ { .name = "json",
                                       .kind = CMD_FLAG,
                                       .help = "print the monitor's answer to vm.info as it is" },
                                     { 0 } },
    .fn = info,
};
