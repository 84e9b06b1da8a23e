#include "base/clock.h"
#include "base/log.h"
#include "mem/uffd.h"
#include "move/dryrun.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static enum move_reason reason_of(const char *fact)
{
    static const struct {
        const char *fact;
        enum move_reason reason;
    } table[] = {
        { "cpu", REASON_CPU_FEATURE }, { "memory", REASON_MEMORY },   { "disk", REASON_DISK },
        { "kvm", REASON_HYPERVISOR },  { "host", REASON_HYPERVISOR }, { "device", REASON_DEVICE },
        { "name", REASON_NAME },       { "net", REASON_NETWORK },
    };
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (strcmp(table[i].fact, fact) == 0)
            return table[i].reason;
    return REASON_DEVICE;
}

void dryrun_fill_verdict(const struct fit_report *report, struct message_verdict *ret)
{
    *ret = (struct message_verdict){ .ok = report->count == 0 };
    (void)gethostname(ret->target, sizeof(ret->target) - 1);
    (void)snprintf(ret->version, sizeof(ret->version), "%s", GODWIT_VERSION);
    for (unsigned i = 0; i < report->count && i < MOVE_REASONS_MAX; i++) {
        struct message_reason *reason = &ret->reason[ret->reason_count++];
        reason->code = reason_of(report->reason[i].fact);
        (void)snprintf(reason->fact, sizeof(reason->fact), "%s", report->reason[i].fact);
        (void)snprintf(reason->text, sizeof(reason->text), "%s", report->reason[i].text);
    }
}

/* One section of the machine's description. */
static int take_fact(struct wire *wire, struct arrival *arrival, uint16_t type, struct err *err)
{
    struct section section;
    int rc = wire_recv_head(wire, &section, err);
    if (rc)
        return rc;
    if (section.type != type)
        return err_set(err, ERR_PEER, EBADMSG, "section %s where %s was due in a check",
                       section_type_name(section.type), section_type_name(type));
    CLEANUP_FREE void *body = malloc(section.length + 1u);
    if (!body)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot check");
    rc = link_recv_body(&wire->link, &section, body, err);
    return rc ? rc : arrival_facts(arrival, &section, body, err);
}

/* Everything is taken as for a move, and given back at once. */
static void look(const struct move_env *env, struct arrival *arrival, enum move_mode mode,
                 struct fit_report *report)
{
    struct err err = { 0 };
    const char *name = arrival->config.name;
    if (arrival_fit(arrival, false, report, &err))
        fit_add(report, "device", "%s", err.text);
    if (mode == MOVE_POST_COPY && uffd_check(&err))
        fit_add(report, "host", "post-copy: %s", err.text);
    else if (mode == MOVE_POST_COPY)
        fit_good(report, "host", "memory that is missing can be fetched when it is touched");
    if (env->hooks.identify(env->hooks.ctx, arrival->config.uuid, &err) ||
        env->hooks.claim(env->hooks.ctx, name, &err))
        fit_add(report, "name", "%s", err.text);
    else
        fit_good(report, "name", "the name %s can be had here", name);
    env->hooks.unclaim(env->hooks.ctx);
}

static int answer(struct wire *wire, const struct fit_report *report, struct err *err)
{
    CLEANUP_FREE struct message *message = calloc(1, sizeof(*message));
    if (!message)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot check");
    message->type = MESSAGE_VERDICT;
    dryrun_fill_verdict(report, &message->verdict);
    int rc = wire_send_message(wire, message, err);
    if (rc)
        return rc;
    memset(message, 0, sizeof(*message));
    message->type = MESSAGE_FACTS;
    static_assert(FIT_FACTS_MAX <= MOVE_FACTS_MAX, "a report fits a message");
    struct message_facts *facts = &message->facts;
    for (unsigned i = 0; i < report->facts && i < FIT_FACTS_MAX; i++) {
        struct message_fact *fact = &facts->fact[facts->fact_count++];
        fact->ok = report->fact[i].ok;
        (void)snprintf(fact->fact, sizeof(fact->fact), "%s", report->fact[i].is.fact);
        (void)snprintf(fact->text, sizeof(fact->text), "%s", report->fact[i].is.text);
    }
    return wire_send_message(wire, message, err);
}

/* Takes filler in and says so, until the source has what it wants. */
static int serve_probes(struct wire *wire, struct err *err)
{
    CLEANUP_FREE uint8_t *body = malloc(DRYRUN_SECTION_BYTES);
    CLEANUP_FREE struct message *message = malloc(sizeof(*message));
    uint64_t bytes = 0, all = 0;
    if (!body || !message)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot check");
    for (;;) {
        struct section section;
        int rc = wire_recv_head(wire, &section, err);
        if (rc)
            return rc;
        if (section.type == SECTION_PROBE && section.length <= DRYRUN_SECTION_BYTES &&
            section.length <= DRYRUN_PROBE_BYTES - all) {
            rc = link_recv_body(&wire->link, &section, body, err);
            bytes += section.length;
            all += section.length;
        } else if (section.type == MESSAGE_PROBE) {
            rc = wire_recv_message(wire, &section, message, err);
            if (!rc && message->probe.bytes != bytes)
                rc = err_set(err, ERR_PEER, EBADMSG, "not as much filler as was sent");
            bytes = 0;
            if (!rc)
                rc = wire_send_message(wire, message, err);
        } else {
            rc =
                err_set(err, ERR_PEER, EBADMSG, "section %s (%u, %u bytes) out of place in a check",
                        section_type_name(section.type), section.type, section.length);
        }
        if (rc)
            return rc;
    }
}

int dryrun_serve(const struct move_env *env, const struct arrival_host *host, enum move_mode mode,
                 struct wire *wire, struct err *err)
{
    CLEANUP_FREE struct fit_report *report = calloc(1, sizeof(*report));
    if (!report)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot check");
    struct arrival *arrival = arrival_new(host);
    if (!arrival)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot check");
    wire->link.until_ns = clock_now_ns() + DRYRUN_SERVE_NS;
    int rc = take_fact(wire, arrival, SECTION_MACHINE, err);
    if (!rc)
        rc = take_fact(wire, arrival, SECTION_CPUID, err);
    if (!rc)
        look(env, arrival, mode, report);
    arrival_free(arrival);
    if (!rc)
        rc = answer(wire, report, err);
    if (rc)
        return rc;
    log_event(LOG_INFO, "move.check", "asked whether a VM fits: %s",
              report->count ? report->reason[0].text : "yes");
    /* However the source leaves, it has its answer. */
    struct err left = { 0 };
    if (serve_probes(wire, &left))
        log_event(LOG_DEBUG, "move.check", "%s", left.text);
    return 0;
}
