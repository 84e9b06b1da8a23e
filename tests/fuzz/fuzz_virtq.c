/* The walk over rings that a guest made: [size, features, bytes of guest memory's first pages], then what a device does
 * with the queue. Every chain it is given lies in guest memory, is as long as it says, and never has too many segments;
 * a broken ring stays broken. */
#include "dev/virtq.h"
#include "fuzz.h"

#include <errno.h>

#define DESC 0x0
#define AVAIL 0x1000
#define USED 0x2000
#define ARENA 0x4000 /* what the input may fill: the rings, and indirect tables */
#define HELD_MAX 512

struct rig {
    struct mem mem;
    struct virtq q;
    struct virtq_chain chain;
    uint16_t head[HELD_MAX]; /* popped, oldest first */
    unsigned held;
};

static void check_chain(const struct rig *rig)
{
    const struct virtq_chain *chain = &rig->chain;
    uint64_t out = 0, in = 0;
    FUZZ_CHECK(chain->out_count + chain->in_count <= VIRTQ_SEGS_MAX);
    FUZZ_CHECK(chain->head < rig->q.size);
    for (unsigned i = 0; i < chain->out_count + chain->in_count; i++) {
        const struct iovec *iov = &chain->iov[i];
        FUZZ_CHECK(iov->iov_len == 0 ||
                   mem_get(&rig->mem, chain->gpa[i], iov->iov_len) == iov->iov_base);
        *(i < chain->out_count ? &out : &in) += iov->iov_len;
    }
    FUZZ_CHECK(out == chain->out_bytes && in == chain->in_bytes);
    FUZZ_CHECK(out <= UINT32_MAX && in <= UINT32_MAX);
}

/* What devices do with a chain, within their contract. */
static void use_chain(struct rig *rig, uint8_t how)
{
    uint8_t bytes[256];
    struct virtq_chain *chain = &rig->chain;
    FUZZ_CHECK(virtq_read(chain, how, bytes, sizeof(bytes)) <= sizeof(bytes));
    FUZZ_CHECK(virtq_write(&rig->q, chain, how, bytes, sizeof(bytes)) <= sizeof(bytes));
    if (how & 1 && chain->in_bytes)
        (void)virtq_trim_in_last(chain);
    if (how & 2)
        virtq_trim_out(chain, chain->out_bytes / 2);
    if (how & 4)
        virtq_trim_in(chain, chain->in_bytes / 2);
    if (how & 8)
        virtq_zero(&rig->q, chain, 0, MIN(chain->in_bytes, UINT64_C(8192)));
    check_chain(rig);
}

static void pop(struct rig *rig, uint8_t how)
{
    bool was_broken = rig->q.broken;
    uint16_t in_flight = rig->q.in_flight;
    if (rig->held == HELD_MAX)
        return;
    int rc = virtq_pop(&rig->q, &rig->chain);
    FUZZ_CHECK(rc == 0 || rc == 1 || rc == -EPROTO);
    FUZZ_CHECK(!was_broken || rc != 1);
    FUZZ_CHECK((rc == -EPROTO) == rig->q.broken || rc == 0);
    if (rc != 1)
        return;
    FUZZ_CHECK(rig->q.in_flight == in_flight + 1 && rig->q.in_flight <= rig->q.size);
    rig->head[rig->held++] = rig->chain.head;
    check_chain(rig);
    use_chain(rig, how);
}

static void save_and_load(struct rig *rig)
{
    struct virtq_state state, again;
    struct err err = { 0 };
    if (rig->q.in_flight || !rig->q.ready)
        return;
    virtq_save(&rig->q, &state);
    bool indirect = rig->q.indirect, event_idx = rig->q.event_idx;
    virtq_init(&rig->q, &rig->mem, VIRTQ_SIZE_MAX);
    FUZZ_CHECK(virtq_load(&rig->q, &state, &err) == 0);
    rig->q.indirect = indirect;
    rig->q.event_idx = event_idx;
    virtq_save(&rig->q, &again);
    FUZZ_CHECK(state.size == again.size && state.ready == again.ready &&
               state.index == again.index);
    FUZZ_CHECK(state.desc_gpa == again.desc_gpa && state.avail_gpa == again.avail_gpa &&
               state.used_gpa == again.used_gpa);
}

static void act(struct rig *rig, uint8_t op)
{
    switch (op >> 5) {
    case 0:
    case 1:
        pop(rig, op & 31);
        break;
    case 2: /* the newest ones back; nothing is staged then */
        if (rig->q.staged == 0) {
            unsigned count = MIN(op & 31u, rig->held);
            virtq_rewind(&rig->q, (uint16_t)count);
            rig->held -= count;
        }
        break;
    case 3: /* any one, in any order */
        if (rig->held) {
            unsigned at = (op & 31u) % rig->held;
            virtq_stage(&rig->q, rig->head[at], op);
            memmove(rig->head + at, rig->head + at + 1, (--rig->held - at) * sizeof(rig->head[0]));
        }
        break;
    case 4:
        (void)!virtq_publish(&rig->q);
        FUZZ_CHECK(rig->q.staged == 0 && rig->q.in_flight == rig->held);
        break;
    case 5:
        virtq_kicks_off(&rig->q);
        (void)!virtq_kicks_on(&rig->q, op & 31);
        break;
    case 6: /* the guest offers more */
        rig->mem.host[AVAIL + 2] = (uint8_t)(rig->mem.host[AVAIL + 2] + (op & 31));
        break;
    default:
        save_and_load(rig);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct rig rig;
    struct cursor in = cursor_of(data, size);
    uint8_t features = cursor_u8(&in), order = cursor_u8(&in), ops = cursor_u8(&in);
    uint16_t index = cursor_u16(&in);
    const uint8_t *op = cursor_take(&in, ops);
    if (!op)
        return 0;
    rig = (struct rig){ 0 };
    FUZZ_CHECK(mem_init(&rig.mem, MEM_MIN_BYTES, MEM_PAGES_SMALL, NULL) == 0);
    /* Each part of the rest goes to an address of its own. */
    while (in.left && !in.bad) {
        uint16_t at = (uint16_t)(cursor_u16(&in) % ARENA);
        size_t len = cursor_u8(&in);
        size_t room = MIN(len, (size_t)(ARENA - at));
        const uint8_t *bytes = cursor_take(&in, MIN(room, in.left));
        size_t taken = bytes ? (size_t)(in.at - bytes) : 0;
        if (taken)
            memcpy(rig.mem.host + at, bytes, taken);
    }
    virtq_init(&rig.q, &rig.mem, VIRTQ_SIZE_MAX);
    rig.q.size = (uint16_t)(order & 0x80 ? order : 1u << (order & 15));
    rig.q.desc_gpa = gpa_of(DESC);
    rig.q.avail_gpa = gpa_of(AVAIL);
    rig.q.used_gpa = gpa_of(USED);
    rig.q.indirect = features & 1;
    rig.q.event_idx = features & 2;
    if (virtq_start(&rig.q, index) == 0)
        for (unsigned i = 0; i < ops; i++)
            act(&rig, op[i]);
    mem_fini(&rig.mem);
    return 0;
}
