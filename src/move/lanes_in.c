#include "move/lanes_in.h"
#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <sys/eventfd.h>

/* ------------------------------------------------------------------------------------ on a lane's thread */

/* Waits for the round a section is of, and counts its pages into it; *ret_pull: or it is pushed. */
static int enter_round(struct lanes_in *set, const struct section *section, uint64_t pages,
                       struct pull **ret_pull, struct err *err)
{
    (void)pthread_mutex_lock(&set->lock);
    while (!set->ending && section->instance == (uint16_t)(set->round + 1))
        (void)pthread_cond_wait(&set->changed, &set->lock);
    int rc = 0;
    *ret_pull = set->pull;
    if (set->ending)
        rc = -ECANCELED;
    else if (set->pull && section->instance == (uint16_t)set->round)
        rc = 0;
    else if (section->instance != (uint16_t)set->round || !set->open)
        rc = err_set(err, ERR_PEER, EBADMSG, "pages of round %u in round %u%s", section->instance,
                     set->round, set->open ? "" : ", which is over");
    else if (pages > set->sink->mem->pages - set->taken)
        rc = err_set(err, ERR_PEER, EBADMSG, "more pages in a round than the guest has");
    else
        set->taken += pages;
    (void)pthread_mutex_unlock(&set->lock);
    return rc;
}

static void leave_round(struct lanes_in *set, uint64_t pages)
{
    (void)pthread_mutex_lock(&set->lock);
    set->written += pages;
    bool tell = set->written >= set->wanted && set->written == set->taken;
    (void)pthread_mutex_unlock(&set->lock);
    if (tell)
        (void)eventfd_write(set->event_fd, 1);
}

static int serve_section(struct lane_in *lane, struct err *err)
{
    struct lanes_in *set = lane->set;
    struct section section;
    struct pull *pull;
    uint64_t pages;

    int rc = wire_recv_head(&lane->wire, &section, err);
    if (!rc && section.type != SECTION_PAGES)
        rc = err_set(err, ERR_PEER, EBADMSG, "section %s on a bulk lane",
                     message_is(section.type) ? message_name(section.type)
                                              : section_type_name(section.type));
    if (!rc)
        rc = page_slot_recv(set->sink, &lane->slot, &lane->wire.link, &section, &pages, err);
    if (!rc)
        rc = enter_round(set, &section, pages, &pull, err);
    if (rc)
        return rc;
    rc = pull ? pull_place(pull, &lane->slot.body, lane->slot.data, err)
              : page_slot_write(set->sink, &lane->slot, &lane->wire.link, &section, err);
    if (rc)
        return rc; /* its pages stay taken and unwritten: the round can never be complete */
    atomic_fetch_add_explicit(&set->sections, 1, memory_order_relaxed);
    if (!pull)
        leave_round(set, pages);
    return 0;
}

static void note_failure(struct lane_in *lane, int rc, const struct err *err)
{
    struct lanes_in *set = lane->set;
    (void)pthread_mutex_lock(&set->lock);
    if (!set->failed && !set->ending) {
        set->failed = rc;
        set->err = *err;
        (void)err_wrap(&set->err, rc, "lane %u", (unsigned)(lane - set->lane));
        (void)eventfd_write(set->event_fd, 1);
    }
    (void)pthread_mutex_unlock(&set->lock);
}

static void *lane_thread(void *arg)
{
    struct lane_in *lane = arg;
    struct err err = { 0 };
    int slot = meter_thread_enter(lane->set->meter, BILL_CPU_MOVER), rc;
    do {
        rc = link_wait(&lane->wire.link, -1); /* between rounds a lane may be silent for long */
        if (!rc)
            rc = serve_section(lane, &err);
    } while (!rc);
    if (rc != -ECANCELED)
        note_failure(lane, rc, &err);
    meter_thread_leave(lane->set->meter, slot);
    return NULL;
}

/* ------------------------------------------------------------------------------------ on the pump's thread */

int lanes_in_init(struct lanes_in *lanes, struct page_sink *sink, struct meter *meter,
                  unsigned granted, uint64_t stall_limit_ns)
{
    *lanes = (struct lanes_in){ .sink = sink,
                                .meter = meter,
                                .granted = MIN(granted, (unsigned)MOVE_LANES_MAX),
                                .stall_limit_ns = stall_limit_ns,
                                .wanted = UINT64_MAX };
    (void)pthread_mutex_init(&lanes->lock, NULL);
    (void)pthread_cond_init(&lanes->changed, NULL);
    lanes->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    lanes->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (lanes->stop_fd >= 0 && lanes->event_fd >= 0)
        return 0;
    int rc = -errno;
    lanes_in_fini(lanes);
    return rc;
}

void lanes_in_fini(struct lanes_in *lanes)
{
    if (!lanes->sink)
        return;
    (void)pthread_mutex_lock(&lanes->lock);
    lanes->ending = true;
    (void)pthread_cond_broadcast(&lanes->changed);
    (void)pthread_mutex_unlock(&lanes->lock);
    if (lanes->stop_fd >= 0)
        (void)eventfd_write(lanes->stop_fd, 1);
    for (unsigned i = 0; i < MOVE_LANES_MAX; i++) {
        struct lane_in *lane = &lanes->lane[i];
        if (!lane->used)
            continue;
        (void)pthread_join(lane->thread, NULL);
        wire_close(&lane->wire);
        page_slot_fini(&lane->slot);
    }
    fd_close(&lanes->stop_fd);
    fd_close(&lanes->event_fd);
    (void)pthread_cond_destroy(&lanes->changed);
    (void)pthread_mutex_destroy(&lanes->lock);
    *lanes = (struct lanes_in){ 0 };
}

int lanes_in_admit(const struct lanes_in *lanes, const struct message_lane *lane, struct err *err)
{
    if (lane->kind != LANE_BULK)
        return err_set(err, ERR_PEER, EOPNOTSUPP, "an urgent lane is of no use to this move");
    if (!lanes->sink || lane->index >= lanes->granted)
        return err_set(err, ERR_PEER, EPROTO, "lane %u, and %u were granted", lane->index,
                       lanes->granted);
    if (lanes->lane[lane->index].used)
        return err_set(err, ERR_PEER, EEXIST, "lane %u is there already", lane->index);
    return 0;
}

int lanes_in_take(struct lanes_in *lanes, struct wire *wire, uint32_t index, struct err *err)
{
    struct lane_in *lane = &lanes->lane[index];
    *lane = (struct lane_in){ .set = lanes, .wire = *wire };
    *wire = WIRE_NONE;
    lane->wire.link.cancel_fd = lanes->stop_fd;
    lane->wire.link.stall_limit_ns = lanes->stall_limit_ns;
    lane->wire.link.until_ns = 0;
    int rc = page_slot_init(&lane->slot);
    if (!rc)
        rc = -pthread_create(&lane->thread, NULL, lane_thread, lane);
    if (rc) {
        page_slot_fini(&lane->slot);
        wire_close(&lane->wire);
        return err_errno(err, ERR_HOST, -rc, "cannot serve lane %u", index);
    }
    (void)pthread_setname_np(lane->thread, "lane");
    lane->used = true;
    if (lanes->pull)
        link_keep_short(&lane->wire.link);
    return 0;
}

void lanes_in_begin(struct lanes_in *lanes, uint32_t number)
{
    if (!lanes->sink)
        return;
    (void)pthread_mutex_lock(&lanes->lock);
    lanes->round = number;
    lanes->open = true;
    lanes->taken = lanes->written = 0;
    lanes->wanted = UINT64_MAX;
    (void)pthread_cond_broadcast(&lanes->changed);
    (void)pthread_mutex_unlock(&lanes->lock);
}

bool lanes_in_complete(struct lanes_in *lanes, uint64_t pages, uint64_t *ret_pages)
{
    *ret_pages = 0;
    if (!lanes->sink)
        return true;
    (void)pthread_mutex_lock(&lanes->lock);
    lanes->wanted = pages;
    bool complete = lanes->written >= pages && lanes->written == lanes->taken;
    if (complete) {
        lanes->open = false;
        *ret_pages = lanes->written;
    }
    (void)pthread_mutex_unlock(&lanes->lock);
    return complete;
}

void lanes_in_push(struct lanes_in *lanes, struct pull *pull, uint32_t number)
{
    if (!lanes->sink)
        return;
    (void)pthread_mutex_lock(&lanes->lock);
    lanes->pull = pull;
    lanes->round = number;
    lanes->open = false;
    (void)pthread_cond_broadcast(&lanes->changed);
    (void)pthread_mutex_unlock(&lanes->lock);
    for (unsigned i = 0; i < MOVE_LANES_MAX; i++)
        if (lanes->lane[i].used)
            link_keep_short(&lanes->lane[i].wire.link);
}

void lanes_in_last(struct lanes_in *lanes)
{
    if (!lanes->sink)
        return;
    (void)pthread_mutex_lock(&lanes->lock);
    lanes->ending = true;
    (void)pthread_cond_broadcast(&lanes->changed);
    (void)pthread_mutex_unlock(&lanes->lock);
}

int lanes_in_failed(struct lanes_in *lanes, struct err *err)
{
    if (!lanes->sink)
        return 0;
    (void)pthread_mutex_lock(&lanes->lock);
    int rc = lanes->failed;
    if (rc)
        *err = lanes->err;
    (void)pthread_mutex_unlock(&lanes->lock);
    return rc;
}
