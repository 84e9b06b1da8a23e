#include "wire.h"

#include "base/fd.h"
#include "base/gpa.h"
#include "cost/bill.h"
#include "dev/announce.h"
#include "dev/button.h"
#include "dev/serial.h"
#include "dev/virtio_balloon.h"
#include "dev/virtio_blk.h"
#include "dev/virtio_mmio.h"
#include "dev/virtio_net.h"
#include "dev/virtio_rng.h"
#include "dev/virtio_vsock.h"
#include "dev/virtq.h"
#include "kvm/hv_state.h"
#include "move/message.h"
#include "state/pages.h"
#include "vm/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>

/*
 * A new schema: one line here, and one below if a section's body is one. test_wire_registry then
 * asks for its line in fingerprints.txt; after a new section, write the golden pair as
 * test_wire_golden says.
 */
const struct schema *const wire_schemas[] = {
    &announce_ip4_schema,
    &announce_ip6_schema,
    &announce_state_schema,
    &bill_side_schema,
    &button_state_schema,
    &config_device_schema,
    &hv_cpuid_leaf_schema,
    &hv_cpuid_schema,
    &hv_msr_schema,
    &hv_pic_schema,
    &hv_segment_schema,
    &hv_vcpu_state_schema,
    &hv_vm_state_schema,
    &machine_config_schema,
    &message_abort_schema,
    &message_activated_schema,
    &message_commit_schema,
    &message_committed_schema,
    &message_fact_schema,
    &message_facts_schema,
    &message_hello_schema,
    &message_lane_schema,
    &message_prepared_schema,
    &message_probe_schema,
    &message_pull_schema,
    &message_pulled_schema,
    &message_reason_schema,
    &message_reserve_schema,
    &message_reserved_schema,
    &message_resolve_schema,
    &message_round_schema,
    &message_round_ack_schema,
    &message_round_done_schema,
    &message_settled_schema,
    &message_state_done_schema,
    &message_status_schema,
    &message_verdict_schema,
    &serial_state_schema,
    &stream_end_schema,
    &virtio_balloon_state_schema,
    &virtio_blk_state_schema,
    &virtio_net_state_schema,
    &virtio_rng_state_schema,
    &virtio_vsock_state_schema,
    &virtio_state_schema,
    &virtq_state_schema,
};
const size_t wire_schema_count = ARRAY_LEN(wire_schemas);

const struct dump_schema wire_sections[] = {
    { SECTION_MACHINE, &machine_config_schema },
    { SECTION_CPUID, &hv_cpuid_schema },
    { SECTION_VM, &hv_vm_state_schema },
    { SECTION_VCPU, &hv_vcpu_state_schema },
    { SECTION_SERIAL, &serial_state_schema },
    { SECTION_VIRTIO_NET, &virtio_net_state_schema },
    { SECTION_BUTTON, &button_state_schema },
    { SECTION_VIRTIO_BLK, &virtio_blk_state_schema },
    { SECTION_END, &stream_end_schema },
    { SECTION_VIRTIO_RNG, &virtio_rng_state_schema },
    { SECTION_VIRTIO_BALLOON, &virtio_balloon_state_schema },
    { SECTION_VIRTIO_VSOCK, &virtio_vsock_state_schema },
};
const size_t wire_section_count = ARRAY_LEN(wire_sections);

uint64_t wire_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static uint32_t pick_count(uint32_t most, bool full, uint64_t *seed)
{
    return full ? most : (uint32_t)(wire_random(seed) % ((uint64_t)most + 1));
}

static void fill_bytes(uint8_t *at, size_t len, uint64_t *seed, bool text)
{
    for (size_t i = 0; i < len; i++)
        at[i] = text ? (uint8_t)('!' + wire_random(seed) % 90) : (uint8_t)wire_random(seed);
}

static void fill(const struct schema *schema, uint8_t *object, uint64_t *seed, uint32_t most,
                 bool full)
{
    for (uint32_t i = 0; i < schema->field_count; i++) {
        const struct schema_field *f = &schema->fields[i];
        uint8_t *value = object + f->offset;
        uint32_t n;

        switch ((enum schema_kind)f->kind) {
        case SCHEMA_INT:
            fill_bytes(value, (size_t)f->width * f->max, seed, false);
            break;
        case SCHEMA_TEXT:
            fill_bytes(value, pick_count(MIN(most, f->max - 1), full, seed), seed, true);
            break;
        case SCHEMA_BLOB:
        case SCHEMA_LIST:
            n = pick_count(MIN(most, f->max), full, seed);
            memcpy(object + f->count_offset, &n, sizeof(n));
            if (f->kind == SCHEMA_BLOB)
                fill_bytes(value, n, seed, false);
            for (uint32_t k = 0; f->kind == SCHEMA_LIST && k < n; k++)
                fill(f->sub, value + (size_t)k * f->sub->size, seed, most, full);
            break;
        case SCHEMA_SINCE:
            break;
        }
    }
}

void *wire_object(const struct schema *schema, uint64_t *seed, uint32_t most, bool full)
{
    void *object = calloc(1, schema->size);
    assert_non_null(object);
    fill(schema, object, seed, most, full);
    return object;
}

/* A run of zero pages, then one of data pages: page n is filled with byte n. */
static void put_pages(struct buf *out, uint32_t data_pages)
{
    struct pages_run run[2] = { { .first = 3, .count = 4096, .kind = PAGES_ZERO },
                                { .first = 5000, .count = data_pages, .kind = PAGES_DATA } };
    uint32_t runs = data_pages ? 2 : 1, table = 4 + runs * PAGES_RUN_BYTES;
    size_t head = out->len;
    uint8_t *at = buf_grow(out, STREAM_SECTION_BYTES + table + data_pages * PAGE_BYTES);
    assert_non_null(at);
    uint8_t *body = at + STREAM_SECTION_BYTES;
    (void)pages_table_encode(run, runs, 1, PACKING_NONE, 0, body);
    for (uint32_t i = 0; i < data_pages; i++)
        memset(body + table + i * PAGE_BYTES, (int)i + 1, PAGE_BYTES);
    struct section section = { .type = SECTION_PAGES,
                               .version = 1,
                               .length = (uint32_t)(out->len - head - STREAM_SECTION_BYTES) };
    section.body_sum = stream_sum(body, section.length);
    section_encode(&section, at);
}

void wire_stream(struct buf *out, uint32_t data_pages)
{
    struct stream_header header = stream_header_ours();
    struct stream_end end = { .data_pages = data_pages, .zero_pages = 4096 };
    uint64_t seed = 42;
    uint8_t *at = buf_grow(out, STREAM_HEADER_BYTES);
    assert_non_null(at);
    stream_header_encode(&header, at);
    for (size_t i = 0; i < wire_section_count; i++) {
        if (wire_sections[i].type == SECTION_END)
            continue;
        void *object = wire_object(wire_sections[i].schema, &seed, 2, true);
        if (wire_sections[i].type == SECTION_MACHINE)
            ((struct machine_config *)object)->memory_bytes = UINT64_C(64) << 20;
        section_put(out, wire_sections[i].type, (uint16_t)i, 0, wire_sections[i].schema, object);
        free(object);
        end.sections++;
    }
    put_pages(out, data_pages);
    end.sections++;
    section_put(out, SECTION_END, 0, 0, &stream_end_schema, &end);
    assert_int_equal(buf_status(out), 0);
}

json_t *wire_dump(const void *bytes, size_t len, int *ret_rc, struct err *err)
{
    char *text = NULL;
    size_t text_len = 0;
    CLEANUP_FD int fd = memfd_create("stream", MFD_CLOEXEC);
    assert_int_equal(fd_write_full(fd, bytes, len), 0);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    FILE *out = open_memstream(&text, &text_len);
    assert_non_null(out);
    *ret_rc = dump_stream(fd, wire_sections, wire_section_count, out, err);
    assert_int_equal(fclose(out), 0);

    json_error_t error;
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    if (!json)
        fail_msg("the dump is no JSON: line %d: %s", error.line, error.text);
    free(text);
    return json;
}
