#include "move/packing.h"
#include "base/clock.h"
#include "base/compiler.h"

#include <errno.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#define WORTH_BYTES 4096 /* less is never packed */
#define FIRST_TRY 4
#define TRY_BYTES 65536 /* a fair sample */
#define TRY_EVERY 256
#define POOR_MAX 4 /* sections in a row, then */
#define POOR_SKIP 16
#define ZSTD_LEVEL 1

int packing_mode_of(const char *name, enum packing_mode *ret)
{
    static const char *const names[] = { "off", "auto", "lz4", "zstd" };
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(name, names[i]) != 0)
            continue;
        *ret = (enum packing_mode)i;
        return 0;
    }
    return -EINVAL;
}

static bool may(const struct packer *packer, enum pages_packing how)
{
    return packer->forms & (how == PACKING_LZ4 ? PAGE_FORM_LZ4 : PAGE_FORM_ZSTD);
}

void packer_init(struct packer *packer, enum packing_mode mode, unsigned forms)
{
    *packer = (struct packer){ .mode = mode, .forms = forms };
    if (mode == PACKING_MODE_LZ4 && may(packer, PACKING_LZ4))
        packer->choice = PACKING_LZ4;
    if (mode == PACKING_MODE_ZSTD && may(packer, PACKING_ZSTD))
        packer->choice = PACKING_ZSTD;
    if (mode == PACKING_MODE_OFF || !(forms & (PAGE_FORM_LZ4 | PAGE_FORM_ZSTD)))
        packer->mode = PACKING_MODE_OFF;
}

void packer_fini(struct packer *packer)
{
    free(packer->out);
    free(packer->lz4);
    (void)ZSTD_freeCCtx(packer->zstd);
    *packer = (struct packer){ 0 };
}

/* Memory for packing is made when it is first needed: on a fast link it never is. */
static bool ready(struct packer *packer)
{
    if (!packer->out)
        packer->out = malloc(PACKER_FRONT_BYTES + PAGES_PLAIN_MAX);
    if (!packer->lz4)
        packer->lz4 = malloc((size_t)LZ4_sizeofState());
    if (!packer->zstd)
        packer->zstd = ZSTD_createCCtx();
    return packer->out && packer->lz4 && packer->zstd;
}

/* 0: it does not get shorter. */
static size_t pack(struct packer *packer, enum pages_packing how, const uint8_t *plain, size_t len)
{
    size_t most = len - len / 8, n;
    if (how == PACKING_LZ4)
        return (size_t)MAX(LZ4_compress_fast_extState(packer->lz4, (const char *)plain,
                                                      (char *)packer->out + PACKER_FRONT_BYTES,
                                                      (int)len, (int)most, 1),
                           0);
    n = ZSTD_compressCCtx(packer->zstd, packer->out + PACKER_FRONT_BYTES, most, plain, len,
                          ZSTD_LEVEL);
    return ZSTD_isError(n) ? 0 : n;
}

static uint64_t link_ns(size_t len, uint64_t rate)
{
    return (uint64_t)len * CLOCK_SECOND / rate;
}

static void try_all(struct packer *packer, const uint8_t *plain, size_t len, uint64_t link_rate)
{
    uint64_t best_ns = link_ns(len, link_rate);
    best_ns -= best_ns / 10; /* a gain that small is not worth the CPU time, here and there */
    packer->choice = PACKING_NONE;
    for (enum pages_packing how = PACKING_LZ4; how < PACKING_MAX; how++) {
        if (!may(packer, how))
            continue;
        uint64_t began = clock_thread_cpu_ns();
        size_t n = pack(packer, how, plain, len);
        uint64_t ns = clock_thread_cpu_ns() - began + link_ns(n ? n : len, link_rate);
        if (ns < best_ns) {
            packer->choice = how;
            best_ns = ns;
        }
    }
}

/* What to do with one section: packed length, or 0. */
static size_t decide(struct packer *packer, const uint8_t *plain, size_t len, uint64_t link_rate,
                     bool trial)
{
    if (!ready(packer))
        return 0;
    if (trial)
        try_all(packer, plain, len, link_rate);
    if (packer->choice == PACKING_NONE)
        return 0;
    if (packer->skip > 0) {
        packer->skip--;
        return 0;
    }
    size_t n = pack(packer, packer->choice, plain, len);
    packer->poor = n ? 0 : packer->poor + 1;
    if (packer->poor >= POOR_MAX) {
        packer->poor = 0;
        packer->skip = POOR_SKIP;
    }
    return n;
}

size_t packer_pack(struct packer *packer, const uint8_t *plain, size_t len, uint64_t link_rate,
                   enum pages_packing *ret)
{
    *ret = PACKING_NONE;
    if (packer->mode == PACKING_MODE_OFF || len < WORTH_BYTES)
        return 0;
    uint64_t number = packer->sections++;
    bool trial = packer->mode == PACKING_MODE_AUTO && link_rate && len >= TRY_BYTES &&
                 (number == FIRST_TRY || number % TRY_EVERY == TRY_EVERY - 1);
    if (packer->choice == PACKING_NONE && !trial)
        return 0;
    uint64_t began = clock_thread_cpu_ns();
    size_t n = decide(packer, plain, len, link_rate, trial);
    packer->spent_ns += clock_thread_cpu_ns() - began;
    if (n == 0)
        return 0;
    *ret = packer->choice;
    return n;
}

void unpacker_fini(struct unpacker *unpacker)
{
    (void)ZSTD_freeDCtx(unpacker->zstd);
    unpacker->zstd = NULL;
}

int unpacker_unpack(struct unpacker *unpacker, enum pages_packing how, const uint8_t *bytes,
                    size_t len, uint8_t *plain, size_t plain_len, struct err *err)
{
    bool good = false;
    if (how == PACKING_LZ4) {
        int n = LZ4_decompress_safe((const char *)bytes, (char *)plain, (int)len, (int)plain_len);
        good = n >= 0 && (size_t)n == plain_len;
    } else if (how == PACKING_ZSTD) {
        if (!unpacker->zstd)
            unpacker->zstd = ZSTD_createDCtx();
        if (!unpacker->zstd)
            return err_errno(err, ERR_HOST, ENOMEM, "cannot unpack pages");
        size_t n = ZSTD_decompressDCtx(unpacker->zstd, plain, plain_len, bytes, len);
        good = !ZSTD_isError(n) && n == plain_len;
    }
    return good ? 0
                : err_set(err, ERR_PEER, EBADMSG, "pages packed with %s do not unpack to %zu bytes",
                          pages_packing_name(how), plain_len);
}
