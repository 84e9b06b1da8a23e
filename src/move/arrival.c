#include "move/arrival.h"

#include <errno.h>
#include <stdlib.h>

struct arrival *arrival_new(const struct arrival_host *host)
{
    struct arrival *arrival = calloc(1, sizeof(*arrival));
    if (arrival)
        arrival->host = *host;
    return arrival;
}

static void give_memory_back(struct arrival *arrival)
{
    if (arrival->holds_memory)
        arrival->host.memory_made(arrival->host.ctx, NULL);
    arrival->holds_memory = false;
}

static void free_machine(void *arg)
{
    machine_free(arg);
}

void arrival_free(struct arrival *arrival)
{
    if (!arrival)
        return;
    page_sink_fini(&arrival->sink);
    if (arrival->machine)
        arrival->host.on_loop(arrival->host.ctx, free_machine, arrival->machine);
    if (arrival->holds_fds)
        machine_close_fds(&arrival->fds);
    give_memory_back(arrival);
    free(arrival);
}

static int out_of_place(const struct section *section, struct err *err)
{
    return err_set(err, ERR_PEER, EBADMSG, "section %s %u out of place",
                   section_type_name(section->type), section->instance);
}

int arrival_facts(struct arrival *arrival, const struct section *section, const void *body,
                  struct err *err)
{
    int rc;
    if (section->type == SECTION_MACHINE) {
        if (arrival->have_config)
            return out_of_place(section, err);
        rc = section_get(section, body, &machine_config_schema, &arrival->config, err);
        if (!rc)
            rc = config_check(&arrival->config, ERR_PEER, err);
        arrival->have_config = !rc;
    } else {
        if (!arrival->have_config || arrival->have_cpuid)
            return out_of_place(section, err);
        rc = section_get(section, body, &hv_cpuid_schema, &arrival->cpuid, err);
        arrival->have_cpuid = !rc;
    }
    return rc;
}

int arrival_section(struct arrival *arrival, struct link *link, const struct section *section,
                    bool *handled, struct err *err)
{
    *handled = true;
    switch (section->type) {
    case SECTION_PAGES:
        return arrival->machine ? page_sink_recv(&arrival->sink, link, section, err)
                                : out_of_place(section, err);
    case SECTION_MACHINE:
    case SECTION_CPUID:
        if (arrival->machine)
            return out_of_place(section, err);
        break;
    case SECTION_VM:
    case SECTION_VCPU:
    case SECTION_SERIAL:
    case SECTION_BUTTON:
    case SECTION_VIRTIO_NET:
    case SECTION_VIRTIO_BLK:
    case SECTION_VIRTIO_RNG:
    case SECTION_VIRTIO_BALLOON:
    case SECTION_VIRTIO_VSOCK:
        if (!arrival->machine)
            return out_of_place(section, err);
        break;
    default:
        *handled = false;
        return 0;
    }
    CLEANUP_FREE void *body = malloc(section->length + 1u);
    if (!body)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot receive section %s",
                         section_type_name(section->type));
    int rc = link_recv_body(link, section, body, err);
    if (rc)
        return rc;
    if (!arrival->machine)
        return arrival_facts(arrival, section, body, err);
    arrival->state_bytes += section->length + STREAM_SECTION_BYTES;
    return machine_load(arrival->machine, section, body, &arrival->seen, err);
}

static int look_for_memory(struct arrival *arrival, bool hold, struct host_memory *ret,
                           struct err *err)
{
    uint64_t bytes = arrival->config.memory_bytes;
    if (!arrival->host.memory) {
        *ret = (struct host_memory){ .available_bytes = host_memory_available() };
        return 0;
    }
    int rc = arrival->host.memory(arrival->host.ctx, bytes, hold, ret, err);
    arrival->holds_memory = !rc && hold;
    return rc;
}

int arrival_fit(struct arrival *arrival, bool hold, struct fit_report *report, struct err *err)
{
    if (!arrival->have_config || !arrival->have_cpuid)
        return err_set(err, ERR_PEER, EBADMSG, "the stream does not say what machine it carries");
    CLEANUP_FREE struct host_config *host = calloc(1, sizeof(*host));
    if (!host)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot look for the machine's devices");
    struct host_memory memory;
    int rc = arrival->host.place(arrival->host.ctx, &arrival->config, host, err);
    if (!rc)
        rc = look_for_memory(arrival, hold, &memory, err);
    if (rc)
        return rc;
    host->small_pages |= arrival->in_parts;
    fit_check(&arrival->config, &arrival->cpuid, host, &memory, arrival->host.fake, report,
              &arrival->fds);
    arrival->holds_fds = report->count == 0;
    if (report->count)
        give_memory_back(arrival);
    return 0;
}

struct creating {
    struct arrival *arrival;
    struct err *err;
    int rc;
};

static void create_machine(void *arg)
{
    struct creating *c = arg;
    struct arrival *arrival = c->arrival;
    c->rc = machine_create(&arrival->config, &arrival->cpuid, &arrival->fds, arrival->host.loop,
                           arrival->host.meter, arrival->host.hooks, &arrival->machine, c->err);
}

int arrival_create(struct arrival *arrival, struct err *err)
{
    ASSERT(arrival->holds_fds);
    arrival->holds_fds = false; /* the machine's now, also on failure */
    struct creating creating = { .arrival = arrival, .err = err };
    arrival->host.on_loop(arrival->host.ctx, create_machine, &creating);
    if (creating.rc)
        return creating.rc;
    if (arrival->holds_memory)
        arrival->host.memory_made(arrival->host.ctx, &arrival->machine->mem);
    int rc = page_sink_init(&arrival->sink, &arrival->machine->mem, arrival->host.meter);
    return rc ? err_errno(err, ERR_HOST, -rc, "cannot receive memory") : 0;
}

int arrival_complete(struct arrival *arrival, struct err *err)
{
    if (!arrival->machine)
        return err_set(err, ERR_PEER, EBADMSG, "the stream ended before the machine came");
    int rc = page_sink_drain(&arrival->sink, err);
    if (rc)
        return rc;
    return machine_loaded_all(arrival->machine, &arrival->seen, err);
}

struct machine *arrival_take(struct arrival *arrival)
{
    arrival->holds_memory = false;
    return TAKE_PTR(arrival->machine);
}
