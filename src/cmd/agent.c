#include "cmd/vm.h"
#include "cost/show.h"

static uint64_t number_of(const json_t *object, const char *key)
{
    json_int_t number = json_integer_value(json_object_get(object, key));
    return number > 0 ? (uint64_t)number : 0;
}

static int agent(struct cmd_args *args)
{
    struct client *client;
    struct err err = { 0 };
    json_t *answer = NULL;

    int rc = vm_open(args, &client, &err);
    if (rc)
        return cmd_fail(args, &err);
    rc = client_call(client, "vm.agent", NULL, VM_ANSWER_NS, &answer, &err);
    client_close(client);
    if (rc)
        return cmd_fail(args, &err);
    if (cmd_flag(args, "json"))
        return cmd_print_json(args, answer);
    char version[40];
    const char *text = json_string_value(json_object_get(answer, "version"));
    show_clean(version, sizeof(version), text ? text : "?"); /* the guest's word */
    (void)printf("godwit-agent %s answered in %s\n", version,
                 show_duration(number_of(answer, "answer_ns")).text);
    (void)printf("page cache: %s before a move's last round\n",
                 json_is_true(json_object_get(answer, "page_cache")) ? "given back" : "kept");
    (void)printf("writers it may slow: %llu rules\n",
                 (unsigned long long)number_of(answer, "slow_rules"));
    json_decref(answer);
    return cmd_finish(args);
}

const struct command cmd_agent = {
    .name = "agent",
    .summary = "ask a VM's guest agent whether it is there",
    .text =
        "Says hello to godwit-agent inside the guest, over the VM's vsock device, and prints what "
        "it may do to make a move easier: that is for the guest's own configuration to say, "
        "/etc/godwit-agent.conf. docs/agent.md describes agent, protocol and self-migration.",
    .example = "  godwit agent web1\n",
    .arguments = (const struct cmd_option[]){ VM_ARGUMENT, { 0 } },
    .options =
        (const struct cmd_option[]){
            { .name = "json", .kind = CMD_FLAG, .help = "print the answer as JSON" }, { 0 } },
    .status_ok = "It answered",
    .fn = agent,
};
