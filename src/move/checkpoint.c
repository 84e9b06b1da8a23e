#include "move/checkpoint.h"
#include "base/clock.h"
#include "base/fd.h"
#include "mem/dirty.h"
#include "move/page_bill.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------- writing */

struct writing {
    const struct move_env *env;
    struct bill *bill;
    struct link link;
    struct stream_end end;
    struct move_progress progress;
};

static int put_buf(struct writing *w, struct buf *buf, enum bill_bytes_kind kind, struct err *err)
{
    if (buf_status(buf))
        return err_errno(err, ERR_HOST, ENOMEM, "cannot write the checkpoint");
    bill_bytes(w->bill, kind, buf->len);
    return link_send(&w->link, buf->data, buf->len, err);
}

static int put_facts(struct writing *w, struct err *err)
{
    CLEANUP_BUF struct buf out = { 0 };
    struct stream_header header = stream_header_ours();
    uint8_t *at = buf_grow(&out, STREAM_HEADER_BYTES);
    if (at)
        stream_header_encode(&header, at);
    section_put(&out, SECTION_MACHINE, 0, 0, &machine_config_schema, &w->env->machine->config);
    section_put(&out, SECTION_CPUID, 0, 0, &hv_cpuid_schema, &w->env->machine->cpuid);
    w->end.sections += 2;
    return put_buf(w, &out, BILL_BYTES_PROTOCOL, err);
}

static bool cancelled(const struct move_env *env)
{
    struct link probe = { .fd = -1, .cancel_fd = env->cancel_fd };
    return env->cancel_fd >= 0 && link_wait(&probe, 0) == -ECANCELED;
}

static int put_pages(struct writing *w, struct err *err)
{
    struct machine *machine = w->env->machine;
    struct dirty dirty = { 0 };
    struct page_source source = { 0 };
    struct page_maker maker = { 0 };
    uint64_t began = clock_now_ns();

    int rc = dirty_start(&dirty, &machine->mem, machine->hv);
    if (!rc) {
        page_source_init(&source, &machine->mem, &dirty);
        rc = page_maker_init(&maker, &source, NULL, PACKING_MODE_OFF, 0);
    }
    if (!rc)
        rc = dirty_fetch(&dirty, &w->progress.pages_left);
    if (rc)
        rc = err_errno(err, ERR_HOST, -rc, "cannot read the guest's memory");
    if (!rc)
        page_source_begin(&source, true, NULL);
    while (!rc) {
        const uint8_t *bytes;
        size_t len;
        rc = page_maker_fill(&maker, &bytes, &len);
        if (rc)
            rc = err_errno(err, ERR_HOST, -rc, "cannot read the guest's memory");
        if (rc || len == 0)
            break;
        if (cancelled(w->env)) {
            rc = err_set(err, ERR_CALLER, ECANCELED, "cancelled");
            break;
        }
        w->end.sections++;
        rc = link_send(&w->link, bytes, len, err);
        w->progress.pages_sent = maker.count.data + maker.count.zero;
        w->progress.pages_left = machine->mem.pages - source.passed;
        w->progress.bytes = w->link.sent_bytes;
        move_progress_report(w->env, &w->progress, BILL_STOP_AND_COPY);
    }
    const struct page_count *n = &maker.count;
    w->end.data_pages = n->data;
    w->end.zero_pages = n->zero;
    bill_pages(w->bill, BILL_PAGES_NEVER_TOUCHED, source.untouched - source.untouched_free);
    bill_pages(w->bill, BILL_PAGES_FREE, source.untouched_free);
    bill_pages(w->bill, BILL_PAGES_ZERO, n->zero);
    bill_pages(w->bill, BILL_PAGES_DATA, n->data);
    bill_bytes(w->bill, BILL_BYTES_PAGE_DATA, n->data * PAGE_BYTES);
    bill_bytes(w->bill, BILL_BYTES_PROTOCOL, n->bytes - n->data * PAGE_BYTES);
    page_bill_classes(w->bill, n, &source);
    struct bill_round round = { .paused = true,
                                .pages_data = n->data,
                                .pages_zero = n->zero,
                                .pages_free = source.untouched_free,
                                .bytes = n->bytes,
                                .began_ns = began,
                                .duration_ns = clock_now_ns() - began };
    bill_round(w->bill, &round);
    page_maker_fini(&maker);
    page_source_fini(&source);
    dirty_stop(&dirty);
    return rc;
}

static int put_state(struct writing *w, struct err *err)
{
    CLEANUP_BUF struct buf out = { 0 };
    int rc = machine_save(w->env->machine, &out, err);
    if (rc)
        return rc;
    w->end.sections += 1 + w->env->machine->vcpus.count + w->env->machine->dev_count;
    rc = put_buf(w, &out, BILL_BYTES_DEVICE_STATE, err);
    buf_reset(&out);
    section_put(&out, SECTION_END, 0, 0, &stream_end_schema, &w->end);
    return rc ? rc : put_buf(w, &out, BILL_BYTES_PROTOCOL, err);
}

/* Everything that happens while the guest stands still. */
static int write_paused(struct writing *w, struct err *err)
{
    bill_stage(w->bill, BILL_STOP_AND_COPY, clock_now_ns());
    bill_downtime(w->bill, BILL_PAUSE, clock_now_ns());
    int rc = w->env->hooks.pause(w->env->hooks.ctx, err);
    if (rc) {
        bill_downtime_end(w->bill, clock_now_ns());
        return rc;
    }
    bill_downtime(w->bill, BILL_LAST_PAGES, clock_now_ns());
    rc = put_pages(w, err);
    bill_downtime(w->bill, BILL_DEVICE_STATE, clock_now_ns());
    if (!rc)
        rc = put_state(w, err);
    bill_downtime(w->bill, BILL_RESUME, clock_now_ns());
    w->env->hooks.resume(w->env->hooks.ctx);
    bill_downtime_end(w->bill, clock_now_ns());
    return rc;
}

static int write_file(struct writing *w, const char *path, struct err *err)
{
    char tmp[PATH_MAX];
    int n = snprintf(tmp, sizeof(tmp), "%s.part-%d", path, (int)getpid());
    if (n < 0 || (size_t)n >= sizeof(tmp))
        return err_errno(err, ERR_CALLER, ENAMETOOLONG, "%s", path);
    CLEANUP_FD int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_errno(err, ERR_CALLER, errno, "cannot create %s", tmp);
    link_adopt_file(&w->link, fd);

    int rc = put_facts(w, err);
    if (!rc)
        rc = write_paused(w, err);
    bill_stage(w->bill, BILL_COMMITMENT, clock_now_ns());
    if (!rc && fsync(fd) < 0)
        rc = err_errno(err, ERR_HOST, errno, "cannot make %s durable", tmp);
    if (!rc && rename(tmp, path) < 0)
        rc = err_errno(err, ERR_HOST, errno, "cannot rename %s to %s", tmp, path);
    if (rc) {
        (void)unlink(tmp);
        return err_wrap(err, rc, "checkpoint %s", path);
    }
    rc = fd_sync_entry(fd, path);
    return rc ? err_errno(err, ERR_HOST, -rc, "cannot make %s durable", path) : 0;
}

int checkpoint_write(const struct move_env *env, const char *path, struct bill *bill,
                     struct err *err)
{
    struct writing w = { .env = env, .bill = bill, .link = LINK_NONE };
    struct meter_span span;
    struct bill_side side;
    struct err reason = { 0 };

    w.progress.began_ns = w.progress.rate_since_ns = clock_now_ns();
    bill_begin(bill, BILL_CHECKPOINT, "file", env->machine->config.name, clock_now_ns());
    bill_machine(bill, env->machine->config.memory_bytes, env->machine->config.vcpus);
    bill_describe(bill, NULL, NULL, path);
    meter_span_begin(env->meter, &span);
    int rc = write_file(&w, path, &reason);
    if (rc) {
        bill_fail(bill, &reason);
        if (err)
            *err = reason;
    }
    meter_span_end(env->meter, &span, -1, &side);
    bill_side_set(bill, BILL_SOURCE, &side);
    bill_end(bill, BILL_OWNER_SOURCE, clock_now_ns());
    return rc;
}

/* ------------------------------------------------------------------------------------------- reading */

static int read_header(struct link *link, struct err *err)
{
    uint8_t head[STREAM_HEADER_BYTES];
    struct stream_header header;
    int rc = link_recv(link, head, sizeof(head), err);
    return rc ? rc : stream_header_decode(head, &header, err);
}

static int read_end(struct link *link, const struct section *section,
                    const struct stream_end *counted, struct err *err)
{
    uint8_t body[64], extra;
    struct stream_end end;
    struct iovec iov = { .iov_base = &extra, .iov_len = 1 };
    if (section->length > sizeof(body))
        return err_set(err, ERR_PEER, EBADMSG, "section end of %u bytes", section->length);
    int rc = link_recv_body(link, section, body, err);
    if (!rc)
        rc = section_get(section, body, &stream_end_schema, &end, err);
    if (rc)
        return rc;
    if (end.sections != counted->sections || end.data_pages != counted->data_pages ||
        end.zero_pages != counted->zero_pages)
        return err_set(
            err, ERR_PEER, EBADMSG,
            "the file holds %llu sections and %llu pages, and its end says %llu and %llu",
            (unsigned long long)counted->sections, (unsigned long long)counted->data_pages,
            (unsigned long long)end.sections, (unsigned long long)end.data_pages);
    if (readv(link->fd, &iov, 1) != 0)
        return err_set(err, ERR_PEER, EBADMSG, "bytes follow the end of the stream");
    return 0;
}

static int skip_body(struct link *link, const struct section *section, struct err *err)
{
    if (!(section->flags & SECTION_OPTIONAL))
        return err_set(err, ERR_PEER, EPROTONOSUPPORT,
                       "section type %u is required and unknown to this build", section->type);
    CLEANUP_FREE void *body = malloc(section->length + 1u);
    if (!body)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot skip a section");
    return link_recv_body(link, section, body, err);
}

/* Under another name it is another machine, whose guest only began as a copy of that one. */
static int name_it(const struct move_env *env, struct machine_config *config, const char *name,
                   struct err *err)
{
    if (name[0] && strcmp(name, config->name) != 0) {
        (void)snprintf(config->name, sizeof(config->name), "%s", name);
        int rc = config_new_uuid(config->uuid, err);
        if (rc)
            return rc;
    }
    return env->hooks.identify(env->hooks.ctx, config->uuid, err);
}

static int create_when_known(const struct move_env *env, struct arrival *arrival, const char *name,
                             struct bill *bill, struct err *err)
{
    struct fit_report report;
    int rc = arrival_fit(arrival, true, &report, err);
    if (!rc)
        rc = fit_err(&report, err);
    if (rc)
        return rc;
    bill_stage(bill, BILL_RESERVATION, clock_now_ns());
    bill_machine(bill, arrival->config.memory_bytes, arrival->config.vcpus);
    rc = name_it(env, &arrival->config, name, err);
    if (!rc)
        rc = arrival_create(arrival, err);
    return rc ? rc : machine_lock_disks(arrival->machine, DISK_ALONE, err);
}

static int read_all(const struct move_env *env, struct arrival *arrival, struct link *link,
                    const char *name, struct bill *bill, struct err *err)
{
    struct stream_end counted = { 0 };
    int rc = read_header(link, err);
    while (!rc) {
        struct section section;
        bool handled;
        rc = cancelled(env) ? err_set(err, ERR_CALLER, ECANCELED, "cancelled")
                            : link_recv_head(link, &section, err);
        if (rc)
            break;
        if (section.type == SECTION_END)
            return read_end(link, &section, &counted, err) ?: arrival_complete(arrival, err);
        if (section.type == SECTION_PAGES && !arrival->machine) {
            rc = create_when_known(env, arrival, name, bill, err);
            if (!rc)
                bill_stage(bill, BILL_STOP_AND_COPY, clock_now_ns());
        } else if (section.type == SECTION_VM && !arrival->machine) {
            rc = create_when_known(env, arrival, name, bill,
                                   err); /* a guest that never touched a page */
        }
        if (!rc)
            rc = arrival_section(arrival, link, &section, &handled, err);
        if (!rc && !handled)
            rc = skip_body(link, &section, err);
        counted.sections++;
        counted.data_pages = arrival->sink.data_pages;
        counted.zero_pages = arrival->sink.zero_pages;
    }
    return rc;
}

int checkpoint_read(const struct move_env *env, const struct arrival_host *host, const char *path,
                    const char *name, struct bill *bill, struct machine **ret, struct err *err)
{
    struct meter_span span;
    struct bill_side side;
    struct err reason = { 0 };
    struct link link = LINK_NONE;

    bill_begin(bill, BILL_RESTORE, "file", name, clock_now_ns());
    bill_describe(bill, NULL, path, NULL);
    meter_span_begin(env->meter, &span);

    int rc = 0;
    CLEANUP_FD int fd =
        open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* of a FIFO: do not wait for a writer */
    struct arrival *arrival = arrival_new(host);
    if (fd < 0)
        rc = err_errno(&reason, ERR_CALLER, errno, "cannot open %s", path);
    else if (!arrival)
        rc = err_errno(&reason, ERR_HOST, ENOMEM, "cannot restore %s", path);
    if (!rc) {
        link_adopt_file(&link, fd);
        link.cancel_fd = env->cancel_fd;
        rc = read_all(env, arrival, &link, name, bill, &reason);
        if (rc)
            rc = err_wrap(&reason, rc, "cannot restore %s", path);
    }
    if (!rc) {
        bill_pages(bill, BILL_PAGES_DATA, arrival->sink.data_pages);
        bill_pages(bill, BILL_PAGES_ZERO, arrival->sink.zero_pages);
        bill_pages(bill, BILL_PAGES_NEVER_TOUCHED,
                   arrival->machine->mem.pages - arrival->sink.data_pages -
                       arrival->sink.zero_pages);
        bill_bytes(bill, BILL_BYTES_PAGE_DATA, arrival->sink.data_pages * PAGE_BYTES);
        bill_bytes(bill, BILL_BYTES_DEVICE_STATE, arrival->state_bytes);
        bill_bytes(bill, BILL_BYTES_PROTOCOL,
                   link.received_bytes - arrival->sink.data_pages * PAGE_BYTES -
                       arrival->state_bytes);
        (void)snprintf(bill->name, sizeof(bill->name), "%s", arrival->config.name);
        *ret = arrival_take(arrival);
    } else {
        bill_fail(bill, &reason);
        if (err)
            *err = reason;
    }
    arrival_free(arrival);
    meter_span_end(env->meter, &span, -1, &side);
    bill_side_set(bill, BILL_TARGET, &side);
    bill_end(bill, rc ? BILL_OWNER_NONE : BILL_OWNER_TARGET, clock_now_ns());
    return rc;
}
