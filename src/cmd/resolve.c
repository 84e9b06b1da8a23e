#include "base/clock.h"
#include "cmd/vm.h"
#include "move/recover.h"
#include "trust/confdir.h"
#include "vmm/records.h"

#include <errno.h>
#include <string.h>

#define ANSWER_NS (10 * CLOCK_SECOND)
#define LIMIT_NS (15 * CLOCK_SECOND)

static int decide(const struct cmd_args *args, struct client *client, const char *decision)
{
    struct err err = { 0 };
    int rc = client_call(client, "vm.resolve", json_pack("{s:s}", "decision", decision),
                         VM_ANSWER_NS, NULL, &err);
    return rc ? cmd_fail(args, &err) : CMD_OK;
}

/* ------------------------------------------------------- at the source's host, whose monitor has died */

static int ask_target(const struct cmd_args *args, const struct records_handed *handed,
                      enum recover_outcome *ret, struct err *err)
{
    struct recover_request request = { .target = handed->peer,
                                       .insecure = cmd_flag(args, "insecure"),
                                       .stall_limit_ns = ANSWER_NS,
                                       .limit_ns = LIMIT_NS };
    char dir[CONFDIR_MAX];
    struct trust *trust;
    memcpy(request.token, handed->token, sizeof(request.token));
    memcpy(request.store, handed->store, sizeof(request.store));
    *ret = RECOVER_OPEN;
    int rc = confdir_path(args->config_dir, dir, err);
    if (!rc)
        rc = trust_open(dir, request.insecure, &trust, err);
    if (rc)
        return rc;
    request.trust = trust;
    cmd_note(args, "asks the target at %s what became of it", handed->peer);
    rc = recover_run(&request, ret, err);
    trust_close(trust);
    return rc;
}

/* The name is held meanwhile, so that nobody else asks or begins anything under it. What the record says ends only
 * with an answer. */
static int ask(const struct cmd_args *args)
{
    const char *name = cmd_text(args, "NAME");
    enum recover_outcome outcome = RECOVER_OPEN;
    struct rundir dir = RUNDIR_NONE;
    struct records_handed handed;
    struct err err = { 0 };

    int rc = rundir_claim(args->base, name, &dir, &err);
    if (rc)
        return cmd_fail(args, &err);
    rc = records_handed(&dir, &handed, &err);
    if (!rc)
        rc = ask_target(args, &handed, &outcome, &err);
    rundir_release(&dir, outcome == RECOVER_OPEN ? RUNDIR_KEEP_RECORD : RUNDIR_KEEP_NOTHING);
    switch (outcome) {
    case RECOVER_MOVED:
        cmd_note(args, "%s is the target's, and runs there", name);
        return CMD_OK;
    case RECOVER_LOST:
        cmd_note(args, "%s is lost: nobody has all of it any more", name);
        return cmd_fail(args, &err);
    case RECOVER_OPEN:
        break;
    }
    int status = cmd_fail(args, &err);
    return rc == -EALREADY || rc == -ENOENT || rc == -EBADMSG ? status : CMD_UNCERTAIN;
}

static int resolve(struct cmd_args *args)
{
    const char *decision = cmd_text(args, "DECISION");
    struct client *client;
    struct err err = { 0 };

    int rc = vm_open(args, &client, &err);
    if (rc)
        return decision || rc != -ENOENT || err.fault == ERR_CALLER ? cmd_fail(args, &err)
                                                                    : ask(args);
    int status;
    if (decision) {
        status = decide(args, client, decision);
    } else {
        (void)err_set(&err, ERR_CALLER, EBUSY,
                      "its monitor lives, and asks by itself: say what to do, or wait");
        status = cmd_fail(args, &err);
    }
    client_close(client);
    return status;
}

const struct command cmd_resolve = {
    .name = "resolve",
    .summary = "decide what an uncertain VM cannot learn by itself",
    .text =
        "A VM is 'uncertain' when the connection was lost in the moment in which its ownership "
        "passed to another host. It then stands still at both sides, and resolves that by itself "
        "once they reach each other. If one of them is gone for good, a person has to decide, and "
        "answers for it: the guest must not run at both sides.\n\n"
        "take-back, at the source: the target does not run the guest and never will; it goes on "
        "here. forget, at the source: the target has it, or had it; it is freed here. adopt, at "
        "the target: the source is dead; the guest runs here. discard, at the target: it goes on "
        "at the source, or shall be gone; it is freed here.\n\n"
        "Without a decision, on the source's host and after its monitor has died: the record it "
        "left says whether the guest was handed over, and to whom. That target is asked, and runs "
        "the guest if it holds it and does not yet; nothing can run here any more. Then the record "
        "is removed. Without an answer it stays, and the command can be given again.",
    .example = "  godwit ps\n"
               "  godwit resolve web1 take-back\n"
               "  godwit resolve web1\n",
    .arguments = (const struct cmd_option[]){ VM_ARGUMENT,
                                              { .name = "DECISION",
                                                .kind = CMD_CHOICE,
                                                .choices = "take-back|forget|adopt|discard",
                                                .help = "take-back, forget, adopt or discard" },
                                              { 0 } },
    .options =
        (const struct cmd_option[]){
            { .name = "insecure",
              .kind = CMD_FLAG,
              .help =
                  "ask without encryption, as the move was made; only where the target allows it" },
            { 0 } },
    .statuses =
        (const struct cmd_status[]){
            { CMD_UNCERTAIN, "The target did not answer, or cannot know: all is as it was" },
            { 0 } },
    .status_ok =
        "The decision was passed on, and 'godwit ps' shows what became of it; without one, "
        "the target owns the VM and runs it",
    .fn = resolve,
};
