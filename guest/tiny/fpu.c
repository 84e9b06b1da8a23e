/*
 * Registers: x87, SSE, AVX (where CPUID has it), general registers, flags, FS and GS base and debug
 * addresses keep their values however often the machine is moved.
 *
 * Each round takes new values, so an old state shows too. Nearly all time is spent in the holding
 * loop of fpu-hold.S, where all of them are live.
 *
 * Parameters: loops = turns of the holding loop (20000000); avx=0: leave AVX alone, for a monitor
 * that hides AVX and does not save it, on a hypervisor whose guests see AVX in CPUID all the same.
 */
#include "tiny.h"

enum {
    MSR_FS_BASE = 0xc0000100,
    MSR_GS_BASE = 0xc0000101,
    CPUID_XSAVE = 1 << 26,
    CPUID_AVX = 1 << 28,
    XCR0_X87_SSE_AVX = 7,
    FLAGS_HELD = 0xcd5, /* CF PF AF ZF SF DF OF */
    OK_ROUNDS = 64,
};

struct fpu_regs {
    struct {
        uint64_t mantissa, sign_exponent;
    } x87[8];
    uint64_t ymm[16][4];
    uint64_t gpr[8];
    uint32_t mxcsr;
    uint16_t fcw, pad;
    uint64_t flags;
};
/* The same offsets as in fpu-hold.S. */
_Static_assert(offsetof(struct fpu_regs, ymm) == 128, "ymm");
_Static_assert(offsetof(struct fpu_regs, gpr) == 640, "gpr");
_Static_assert(offsetof(struct fpu_regs, mxcsr) == 704, "mxcsr");
_Static_assert(offsetof(struct fpu_regs, flags) == 712, "flags");

void fpu_hold(const struct fpu_regs *in, struct fpu_regs *out, uint64_t loops);
void fpu_hold_avx(const struct fpu_regs *in, struct fpu_regs *out, uint64_t loops);

/* What FS and GS point at: a word that tells which of them it is. */
static uint64_t fs_area, gs_area;

static void regs_make(struct fpu_regs *r, uint64_t round)
{
    uint64_t seed = tiny_mix(round);
    for (unsigned i = 0; i < 8; i++) {
        r->x87[i].mantissa = tiny_mix(seed + i) | 1ULL << 63; /* a normal number */
        r->x87[i].sign_exponent = 0x3fff + i;
        r->gpr[i] = tiny_mix(seed + 100 + i);
    }
    for (unsigned i = 0; i < 16; i++)
        for (unsigned j = 0; j < 4; j++)
            r->ymm[i][j] = tiny_mix(seed + 200 + 4 * i + j);
    r->mxcsr = 0x1f80 | (uint32_t)(seed & 3) << 13;      /* all masked, one of four roundings */
    r->fcw = 0x037f | (uint16_t)((seed >> 2 & 3) << 10); /* likewise */
    r->flags = 0x202 | (seed >> 16 & FLAGS_HELD);
}

static void value_check(const char *name, uint64_t index, uint64_t found, uint64_t want)
{
    if (found != want)
        tiny_bad("register %s %u holds 0x%x, not 0x%x", name, index, found, want);
}

static void regs_check(const struct fpu_regs *found, const struct fpu_regs *want)
{
    for (unsigned i = 0; i < 8; i++) {
        value_check("x87", i, found->x87[i].mantissa, want->x87[i].mantissa);
        value_check("x87 exponent", i, found->x87[i].sign_exponent & 0xffff,
                    want->x87[i].sign_exponent);
        value_check("r8 and up", i, found->gpr[i], want->gpr[i]);
    }
    for (unsigned i = 0; i < 16; i++)
        for (unsigned j = 0; j < 2; j++)
            value_check("xmm", i, found->ymm[i][j], want->ymm[i][j]);
    value_check("mxcsr", 0, found->mxcsr, want->mxcsr);
    value_check("x87 control", 0, found->fcw, want->fcw);
    value_check("flags", 0, found->flags & FLAGS_HELD, want->flags & FLAGS_HELD);
}

static void ymm_check(const struct fpu_regs *found, const struct fpu_regs *want)
{
    for (unsigned i = 0; i < 16; i++)
        for (unsigned j = 0; j < 4; j++)
            value_check("ymm", i, found->ymm[i][j], want->ymm[i][j]);
}

static void debug_set(uint64_t round)
{
    tiny_ring0(ring0_set_dr, 0x1000 + round * 16, 0x2000 + round * 16, 0x3000 + round * 16);
}

static void debug_check(uint64_t round)
{
    uint64_t dr[3];
    tiny_ring0(ring0_get_dr, (uint64_t)dr, 0, 0);
    for (unsigned i = 0; i < 3; i++)
        value_check("dr", i, dr[i], 0x1000 * (i + 1ULL) + round * 16);
}

static void bases_check(void)
{
    uint64_t at_fs, at_gs;
    __asm__ volatile("movq %%fs:0, %0; movq %%gs:0, %1" : "=r"(at_fs), "=r"(at_gs));
    value_check("word at fs", 0, at_fs, fs_area);
    value_check("word at gs", 0, at_gs, gs_area);
    value_check("fs base", 0, tiny_ring0(ring0_rdmsr, MSR_FS_BASE, 0, 0), (uint64_t)&fs_area);
    value_check("gs base", 0, tiny_ring0(ring0_rdmsr, MSR_GS_BASE, 0, 0), (uint64_t)&gs_area);
}

static bool avx_enable(void)
{
    uint32_t want = CPUID_XSAVE | CPUID_AVX;
    if (!tiny_arg("avx", 1) || (tiny_cpuid(1, 0).ecx & want) != want)
        return false;
    tiny_ring0(ring0_xsetbv, XCR0_X87_SSE_AVX, 0, 0);
    return true;
}

void guest_main(void)
{
    static struct fpu_regs in, out;
    uint64_t loops = tiny_arg("loops", 20000000), round = 0;
    bool avx = avx_enable();

    fs_area = tiny_mix((uint64_t)&fs_area);
    gs_area = tiny_mix((uint64_t)&gs_area);
    tiny_ring0(ring0_wrmsr, MSR_FS_BASE, (uint64_t)&fs_area, 0);
    tiny_ring0(ring0_wrmsr, MSR_GS_BASE, (uint64_t)&gs_area, 0);
    tiny_printf("info avx=%s\n", avx ? "yes" : "no");
    tiny_ready("fpu");
    for (enum tiny_command command; (command = tiny_pulse()) != TINY_STOP;) {
        regs_make(&in, ++round);
        debug_set(round);
        fpu_hold(&in, &out, loops);
        regs_check(&out, &in);
        if (avx) {
            fpu_hold_avx(&in, &out, loops);
            ymm_check(&out, &in);
        }
        bases_check();
        debug_check(round);
        if (command == TINY_CHECK || round % OK_ROUNDS == 0)
            tiny_ok("rounds=%u", round);
    }
    tiny_ok("rounds=%u", round);
}
