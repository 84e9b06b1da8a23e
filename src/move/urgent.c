#include "move/urgent.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The target's word on the lane: LANE again, or why not. */
static int hear(struct wire *lane, struct err *err)
{
    struct section section;
    CLEANUP_FREE struct message *answer = malloc(sizeof(*answer));
    if (!answer)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot open the urgent lane");
    int rc = wire_recv_head(lane, &section, err);
    if (!rc && !message_is(section.type))
        rc = err_set(err, ERR_PEER, EBADMSG, "section %s on the urgent lane",
                     section_type_name(section.type));
    if (!rc)
        rc = wire_recv_message(lane, &section, answer, err);
    if (!rc && answer->type == MESSAGE_ABORT)
        rc = err_set(err, ERR_PEER, ECONNABORTED, "target: %s: %s",
                     move_reason_name(answer->abort.reason), answer->abort.text);
    else if (!rc && answer->type != MESSAGE_LANE)
        rc = err_set(err, ERR_PEER, EBADMSG, "message %s on the urgent lane",
                     message_name(answer->type));
    return rc;
}

#define NICE (-15)
#define SLICE_NS UINT64_C(100000) /* the kernel's least */

/* struct sched_attr of sched_setattr(2), version 0: the headers that have it do not go with glibc's. */
struct attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t slice_ns, deadline_ns, period_ns;
};

#define KEEP_POLICY 8

/* With a short slice it runs at once when it wakes, and no longer than others (Linux 6.12). Before, the slice is ignored,
 * and not told: then it is made more important, and what it spends on looking for more is taken from the guest. */
void urgent_thread(void)
{
    struct attributes wanted = { .size = sizeof(wanted),
                                 .flags = KEEP_POLICY,
                                 .slice_ns = SLICE_NS };
    struct attributes is = { .size = sizeof(is) };
    if (syscall(SYS_sched_setattr, 0, &wanted, 0) == 0 &&
        syscall(SYS_sched_getattr, 0, &is, sizeof(is), 0) == 0 && is.slice_ns == SLICE_NS)
        return;
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), NICE); /* not allowed: then it takes its turn */
}

int urgent_connect(struct wire *lane, const struct move_env *env, const char *address,
                   const uint8_t token[MOVE_TOKEN_BYTES], uint32_t beside, uint64_t stall_limit_ns,
                   struct err *err)
{
    struct message hello = { .type = MESSAGE_LANE,
                             .lane = { .kind = LANE_URGENT, .beside = beside } };
    memcpy(hello.lane.token, token, MOVE_TOKEN_BYTES);
    *lane = WIRE_NONE;
    lane->link.cancel_fd = env->cancel_fd;
    lane->link.stall_limit_ns = stall_limit_ns;
    int rc = wire_connect(lane, env->trust, env->insecure, address, err);
    if (!rc)
        rc = wire_send_message(lane, &hello, err);
    if (!rc)
        rc = hear(lane, err);
    if (rc)
        wire_close(lane);
    return rc ? err_wrap(err, rc, "urgent lane") : 0;
}
