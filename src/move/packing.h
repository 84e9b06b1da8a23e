/*
 * Packing of page sections: LZ4 or zstd (level 1), chosen by trial, or none where that is faster.
 *
 * One packer a sender. In automatic mode it tries both on a section now and then (after the first few, when the
 * link's speed is known, then every TRY_EVERY sections) and takes what gets the section through soonest: the time
 * to pack it plus the time the link needs for what comes out, against the link's time for the section as it is. On a
 * link that is faster than both, nothing is packed.
 *
 * Unpacking trusts nothing: it writes at most as many bytes as were announced, which the section's table bounds, and
 * refuses any other number.
 */
#pragma once
#include "base/err.h"
#include "state/pages.h"
#include <stddef.h>
#include <stdint.h>

enum packing_mode { PACKING_MODE_OFF = 0, PACKING_MODE_AUTO, PACKING_MODE_LZ4, PACKING_MODE_ZSTD };

/* What a peer can read: bits of HELLO's and RESERVED's page_forms. */
#define PAGE_FORM_DELTA 1u
#define PAGE_FORM_LZ4 2u
#define PAGE_FORM_ZSTD 4u
#define PAGE_FORM_PUSH 8u /* what post-copy pushes may come packed, and on the bulk lanes */
#define PAGE_FORMS_ALL 15u

struct packer {
    enum packing_mode mode;
    unsigned forms; /* the reader's */
    enum pages_packing choice;
    uint64_t sections; /* seen */
    unsigned poor;     /* in a row that did not shrink */
    unsigned skip;     /* sections to leave alone because of that */
    uint8_t *out;      /* PACKER_FRONT_BYTES, then what was packed; owned */
    void *lz4, *zstd;  /* states of the libraries; owned */
    uint64_t spent_ns; /* CPU time, trials included */
};

/* "auto", "off", "lz4", "zstd"; -EINVAL. */
int packing_mode_of(const char *name, enum packing_mode *ret) MUST_CHECK;

/* Left before what was packed, for a section's head and table. */
#define PACKER_FRONT_BYTES (32 + PAGES_TABLE_MAX)

void packer_init(struct packer *packer, enum packing_mode mode, unsigned forms);
void packer_fini(struct packer *packer);

/* Packs `len` bytes (at most PAGES_PLAIN_MAX) to packer->out + PACKER_FRONT_BYTES: how long that is, and in *ret how;
 * 0 = they are to be sent as they are. `link_rate`: bytes a second this sender's link carries; 0 = not known. */
size_t packer_pack(struct packer *packer, const uint8_t *plain, size_t len, uint64_t link_rate,
                   enum pages_packing *ret);

struct unpacker {
    void *zstd; /* owned; made when needed */
};

void unpacker_fini(struct unpacker *unpacker);

/* Unpacks exactly `plain_len` bytes, or refuses (ERR_PEER). */
int unpacker_unpack(struct unpacker *unpacker, enum pages_packing how, const uint8_t *bytes,
                    size_t len, uint8_t *plain, size_t plain_len, struct err *err) MUST_CHECK;
