/*
 * The godwit stream: what a live move sends, a checkpoint file holds and a clone will read.
 *
 *     header | section | section | ... | END section
 *
 * Header, 40 bytes, readable on its own:
 *     8  magic "godwit\r\n"          2  version          2  oldest version that can read this
 *     4  architecture (ELF e_machine: 62 = x86-64)       4  required features   4  optional features
 *     8  reserved, zero              8  XXH3-64 of the 32 bytes before
 * Section header, 24 bytes, then `length` bytes of body:
 *     2  type     2  version of the body's schema     2  instance     2  flags (1 = optional)
 *     4  length   4  low half of XXH3-64 of these 24 bytes, itself taken as zero
 *     8  XXH3-64 of the body
 * All little-endian. A reader skips an optional section it does not know, and refuses a required one,
 * naming it. The same framing is used in both directions of a live connection.
 */
#pragma once
#include "base/buf.h"
#include "base/compiler.h"
#include "base/err.h"
#include "state/schema.h"
#include <stdbool.h>
#include <stdint.h>

#define STREAM_HEADER_BYTES 40
#define STREAM_SECTION_BYTES 24
#define STREAM_VERSION 1
#define STREAM_VERSION_OLDEST 1
#define STREAM_ARCH_X86_64 62
#define STREAM_BODY_MAX (UINT32_C(4) << 20) /* no section is longer */

/* Section types: the numbers are the format. 1-63 state, 64-127 messages of a live move. */
enum section_type {
    SECTION_END = 1, /* nothing follows; body: stream_end */
    SECTION_MACHINE, /* what the guest is: vm/config.h */
    SECTION_CPUID,   /* CPU facts the guest was shown */
    SECTION_PAGES,   /* memory: move/pages.h */
    SECTION_VM,      /* interrupt controllers, clock: kvm/hv_state.h */
    SECTION_VCPU,    /* instance = vCPU */
    SECTION_SERIAL,  /* devices: instance = device number in the machine */
    SECTION_VIRTIO_NET,
    SECTION_VIRTIO_BLK,
    SECTION_VIRTIO_RNG,
    SECTION_BUTTON,
    SECTION_VIRTIO_BALLOON,
    SECTION_VIRTIO_VSOCK,
    SECTION_STATE_MAX,

    SECTION_ABSENT = 32, /* live only: pages that one side lacks: state/absent.h */

    SECTION_PROBE = 63,   /* filler that measures a connection: move/dryrun.h */
    SECTION_MESSAGE = 64, /* first of the live messages: move/message.h */
    SECTION_TYPE_MAX = 128
};

#define SECTION_OPTIONAL UINT16_C(1)

/* What came before the end, all sections but this one: a stream cut between two sections is no shorter
 * stream. */
#define STREAM_END(F, T)  \
    F(T, u64, sections)   \
    F(T, u64, data_pages) \
    F(T, u64, zero_pages)
SCHEMA_STRUCT(stream_end, STREAM_END);

struct stream_header {
    uint16_t version, oldest_reader;
    uint32_t arch, required, optional;
};

struct section {
    uint16_t type, version, instance, flags;
    uint32_t length;
    uint64_t body_sum;
};

void stream_header_encode(const struct stream_header *header, uint8_t out[STREAM_HEADER_BYTES]);
/* Refuses (ERR_PEER, naming what differs) what is no stream, damaged, of another architecture, too new
 * or with a required feature this build does not know. */
int stream_header_decode(const uint8_t in[STREAM_HEADER_BYTES], struct stream_header *ret,
                         struct err *err) MUST_CHECK;
struct stream_header stream_header_ours(void);

void section_encode(const struct section *section, uint8_t out[STREAM_SECTION_BYTES]);
/* Checks the head's sum and that length <= STREAM_BODY_MAX; the body is not looked at. */
int section_decode(const uint8_t in[STREAM_SECTION_BYTES], struct section *ret,
                   struct err *err) MUST_CHECK;
/* Compares body_sum; `body` holds section->length bytes. */
int section_check_body(const struct section *section, const void *body, struct err *err) MUST_CHECK;
/* The same by a sum that was made elsewhere. */
int section_check_sum(const struct section *section, uint64_t sum, struct err *err) MUST_CHECK;

/* Appends a whole section (head and body) for one object of a schema, in its newest version. */
void section_put(struct buf *out, uint16_t type, uint16_t instance, uint16_t flags,
                 const struct schema *schema, const void *object);

/* The same without instance and flags, in a chosen version. */
void section_put_version(struct buf *out, uint16_t type, uint16_t version,
                         const struct schema *schema, const void *object);

/* Decodes a checked body with its schema, refusing versions this build cannot read. */
int section_get(const struct section *section, const void *body, const struct schema *schema,
                void *object, struct err *err) MUST_CHECK;

/* "pages", "vcpu", ... or "unknown". */
const char *section_type_name(uint16_t type);

/* XXH3-64, the only checksum of the format. */
uint64_t stream_sum(const void *bytes, size_t len);
