#include "base/clock.h"
#include "cmd/vm.h"
#include "cost/show.h"

#include <errno.h>

/* How long the guest gets to answer with new figures before the last ones are shown. */
#define FIGURES_NS (500 * CLOCK_MSEC)

static uint64_t number_of(const json_t *object, const char *key)
{
    json_int_t number = json_integer_value(json_object_get(object, key));
    return number > 0 ? (uint64_t)number : 0;
}

static void line(const char *label, uint64_t bytes)
{
    (void)printf("%-18s%s\n", label, show_bytes(bytes).text);
}

static void print_balloon(const json_t *balloon)
{
    const json_t *guest = json_object_get(balloon, "guest");

    line("wanted", number_of(balloon, "target_bytes"));
    line("in the balloon", number_of(balloon, "actual_bytes"));
    line("reported free", number_of(balloon, "reported_bytes"));
    (void)printf("%-18s%s\n", "driver",
                 !json_is_true(json_object_get(balloon, "driver")) ? "none: nothing is given back"
                 : json_is_true(json_object_get(balloon, "free_page_reporting"))
                     ? "reports free pages"
                     : "does not report free pages");
    if (json_is_object(guest)) {
        line("guest has free", number_of(guest, "free_bytes"));
        line("  available", number_of(guest, "available_bytes"));
        line("  of", number_of(guest, "total_bytes"));
    }
}

static int ask(struct cmd_args *args, struct client *client, json_t **ret, struct err *err)
{
    json_t *params = NULL;
    if (cmd_text(args, "SIZE"))
        params = json_pack("{s:I}", "size_bytes", (json_int_t)cmd_number(args, "SIZE"));
    int rc = client_subscribe(client, NULL, NULL, err);
    if (!rc)
        rc = client_call(client, "vm.balloon", params, VM_ANSWER_NS, ret, err);
    else
        json_decref(params);
    if (rc || params || !json_is_true(json_object_get(*ret, "driver")))
        return rc;
    /* The call made the guest count anew; an event says that it has. */
    rc = client_wait(client, FIGURES_NS, err);
    if (rc && rc != -ETIMEDOUT && rc != -EINTR)
        return 0; /* the answer there is will do */
    json_decref(*ret);
    return client_call(client, "vm.balloon", NULL, VM_ANSWER_NS, ret, err);
}

static int balloon(struct cmd_args *args)
{
    struct client *client;
    struct err err = { 0 };
    json_t *answer;

    int rc = vm_open(args, &client, &err);
    if (rc)
        return cmd_fail(args, &err);
    rc = ask(args, client, &answer, &err);
    client_close(client);
    if (rc)
        return cmd_fail(args, &err);
    if (cmd_flag(args, "json"))
        return cmd_print_json(args, answer);
    print_balloon(answer);
    json_decref(answer);
    return cmd_finish(args);
}

const struct command cmd_balloon = {
    .name = "balloon",
    .summary = "show or set how much memory a VM's guest has lent back",
    .text =
        "With SIZE, asks the guest to put so much of its memory into its balloon, from where the "
        "host takes it; 0 asks it to take everything back. The guest complies as it can: the "
        "command does not wait for it, and tells how far it is when given again without SIZE. A "
        "guest that runs out of memory helps itself from the balloon.\n\n"
        "Without being asked, a guest reports pages that are free. They take no memory of the "
        "host until the guest uses them again, and a move does not send them.\n\n"
        "Both need a driver in the guest (virtio_balloon of Linux; reporting since 5.7).",
    .example = "  godwit balloon web1 128M\n  godwit balloon web1\n",
    .arguments =
        (const struct cmd_option[]){ VM_ARGUMENT,
                                     { .name = "SIZE",
                                       .kind = CMD_SIZE,
                                       .help = "how much is to be in the balloon, from 0 to "
                                               "the guest's memory" },
                                     { 0 } },
    .options =
        (const struct cmd_option[]){
            { .name = "json",
              .kind = CMD_FLAG,
              .help = "print the monitor's answer to vm.balloon as it is" },
            { 0 } },
    .status_ok = "The balloon is shown, or the guest was asked",
    .fn = balloon,
};
