/*
 * Intel SDM volume 2A (CPUID), AMD APM volume 3 appendix E; 0x40000001: Linux
 * Documentation/virt/kvm/x86/cpuid.rst. A bit without a name here still counts: it is
 * reported by its place.
 */
#include "vm/cpuid_features.h"
#include "base/compiler.h"

#define NAMES(x) static const char *const names_##x[32]

NAMES(1_ecx) = {
    "sse3",   "pclmulqdq",  "dtes64",  "monitor", "ds_cpl",
    "vmx",    "smx",        "est",     "tm2",     "ssse3",
    "cid",    "sdbg",       "fma",     "cx16",    "xtpr",
    "pdcm",   NULL,         "pcid",    "dca",     "sse4_1",
    "sse4_2", "x2apic",     "movbe",   "popcnt",  "tsc_deadline_timer",
    "aes",    "xsave",      "osxsave", "avx",     "f16c",
    "rdrand", "hypervisor",
};
NAMES(1_edx) = {
    "fpu",  "vme",  "de",   "pse", "tsc",  "msr", "pae",   "mce", "cx8",     "apic", NULL,
    "sep",  "mtrr", "pge",  "mca", "cmov", "pat", "pse36", "pn",  "clflush", NULL,   "dts",
    "acpi", "mmx",  "fxsr", "sse", "sse2", "ss",  "ht",    "tm",  "ia64",    "pbe",
};
NAMES(7_0_ebx) = {
    "fsgsbase",   "tsc_adjust", "sgx",        "bmi1",     "hle",      "avx2",     "fdp_excptn_only",
    "smep",       "bmi2",       "erms",       "invpcid",  "rtm",      "cqm",      "zero_fcs_fds",
    "mpx",        "rdt_a",      "avx512f",    "avx512dq", "rdseed",   "adx",      "smap",
    "avx512ifma", NULL,         "clflushopt", "clwb",     "intel_pt", "avx512pf", "avx512er",
    "avx512cd",   "sha_ni",     "avx512bw",   "avx512vl",
};
NAMES(7_0_ecx) = {
    "prefetchwt1", "avx512vbmi",   "umip",          "pku",       "ospke",
    "waitpkg",     "avx512_vbmi2", "shstk",         "gfni",      "vaes",
    "vpclmulqdq",  "avx512_vnni",  "avx512_bitalg", "tme",       "avx512_vpopcntdq",
    NULL,          "la57",         [22] = "rdpid",  "keylocker", "bus_lock_detect",
    "cldemote",    NULL,           "movdiri",       "movdir64b", "enqcmd",
    "sgx_lc",      "pks",
};
NAMES(7_0_edx) = {
    [2] = "avx512_4vnniw",
    "avx512_4fmaps",
    "fsrm",
    "uintr",
    [8] = "avx512_vp2intersect",
    "srbds_ctrl",
    "md_clear",
    "rtm_always_abort",
    [14] = "serialize",
    "hybrid",
    "tsxldtrk",
    [18] = "pconfig",
    "arch_lbr",
    "ibt",
    [22] = "amx_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "spec_ctrl",
    "stibp",
    "flush_l1d",
    "arch_capabilities",
    "core_capabilities",
    "ssbd",
};
NAMES(7_1_eax) = {
    "sha512",      "sm3",         "sm4",        NULL,          "avx_vnni",
    "avx512_bf16", "lass",        "cmpccxadd",  [10] = "fzrm", "fsrs",
    "fsrc",        [17] = "fred", "lkgs",       "wrmsrns",     [21] = "amx_fp16",
    "hreset",      "avx_ifma",    [26] = "lam",
};
NAMES(7_1_edx) = {
    [4] = "avx_vnni_int8",   "avx_ne_convert",     [8] = "amx_complex",
    [10] = "avx_vnni_int16", [14] = "prefetchiti", [19] = "avx10",
};
NAMES(7_2_edx) = { "intel_psfd", "ipred_ctrl", "rrsba_ctrl", "ddpd_u", "bhi_ctrl", "mcdt_no" };
NAMES(d_0_eax) = {
    "xsave_x87",        "xsave_sse",
    "xsave_avx",        "xsave_bndregs",
    "xsave_bndcsr",     "xsave_opmask",
    "xsave_zmm_hi256",  "xsave_hi16_zmm",
    [9] = "xsave_pkru", [17] = "xsave_tilecfg",
    "xsave_tiledata",
};
NAMES(d_1_eax) = { "xsaveopt", "xsavec", "xgetbv1", "xsaves", "xfd" };
NAMES(d_1_ecx) = { [11] = "xsaves_cet_user", "xsaves_cet_kernel" };
NAMES(80000001_ecx) = {
    "lahf_lm",    "cmp_legacy",  "svm",
    "extapic",    "cr8_legacy",  "abm",
    "sse4a",      "misalignsse", "3dnowprefetch",
    "osvw",       "ibs",         "xop",
    "skinit",     "wdt",         NULL,
    "lwp",        "fma4",        "tce",
    NULL,         "nodeid_msr",  NULL,
    "tbm",        "topoext",     "perfctr_core",
    "perfctr_nb", NULL,          "bpext",
    "ptsc",       "perfctr_llc", "mwaitx",
};
NAMES(80000001_edx) = {
    [11] = "syscall", [19] = "mp", "nx",     NULL, "mmxext", NULL,       NULL,
    "fxsr_opt",       "pdpe1gb",   "rdtscp", NULL, "lm",     "3dnowext", "3dnow",
};
NAMES(80000007_edx) = { [8] = "constant_tsc" };
NAMES(80000008_ebx) = {
    "clzero",
    "irperf",
    "xsaveerptr",
    NULL,
    "rdpru",
    NULL,
    "mbe",
    NULL,
    "mcommit",
    "wbnoinvd",
    NULL,
    NULL,
    "amd_ibpb",
    NULL,
    "amd_ibrs",
    "amd_stibp",
    "amd_ibrs_always",
    "amd_stibp_always_on",
    NULL,
    "amd_ibrs_same_mode",
    [24] = "amd_ssbd",
    "virt_ssbd",
    "amd_ssb_no",
    "cppc",
    "amd_psfd",
    "btc_no",
    "amd_ibpb_ret",
};
NAMES(80000021_eax) = {
    "no_nested_data_bp",     NULL,
    "lfence_rdtsc",          [6] = "null_sel_clr_base",
    [8] = "autoibrs",        "no_smm_ctl_msr",
    [10] = "fsrs_amd",       "fsrc_amd",
    [17] = "cpuid_user_dis", [27] = "sbpb",
    "ibpb_brtype",           "srso_no",
};
NAMES(kvm_eax) = {
    "kvm_clocksource",
    "kvm_nop_io_delay",
    "kvm_mmu_op",
    "kvm_clocksource2",
    "kvm_async_pf",
    "kvm_steal_time",
    "kvm_pv_eoi",
    "kvm_pv_unhalt",
    NULL,
    "kvm_pv_tlb_flush",
    "kvm_async_pf_vmexit",
    "kvm_pv_send_ipi",
    "kvm_poll_control",
    "kvm_pv_sched_yield",
    "kvm_async_pf_int",
    "kvm_msi_ext_dest_id",
    "kvm_hc_map_gpa_range",
    "kvm_migration_control",
    [24] = "kvm_clocksource_stable",
};
static const char *const no_names[32];

/* Set or cleared by cpuid_for_vcpu(), or by the hypervisor at the guest's wish: vmx,
 * tsc_deadline_timer, osxsave, hypervisor; apic, ht; ospke; cmp_legacy, svm. */
#define OURS_1_ECX (1u << 5 | 1u << 24 | 1u << 27 | 1u << 31)
#define OURS_1_EDX (1u << 9 | 1u << 28)
#define OURS_7_0_ECX (1u << 4)
#define OURS_80000001_ECX (1u << 1 | 1u << 2)

const struct cpuid_features cpuid_features[] = {
    { 0x1, 0, CPUID_ECX, OURS_1_ECX, names_1_ecx },
    { 0x1, 0, CPUID_EDX, OURS_1_EDX, names_1_edx },
    { 0x7, 0, CPUID_EBX, 0, names_7_0_ebx },
    { 0x7, 0, CPUID_ECX, OURS_7_0_ECX, names_7_0_ecx },
    { 0x7, 0, CPUID_EDX, 0, names_7_0_edx },
    { 0x7, 1, CPUID_EAX, 0, names_7_1_eax },
    { 0x7, 1, CPUID_EBX, 0, no_names },
    { 0x7, 1, CPUID_ECX, 0, no_names },
    { 0x7, 1, CPUID_EDX, 0, names_7_1_edx },
    { 0x7, 2, CPUID_EDX, 0, names_7_2_edx },
    { 0xd, 0, CPUID_EAX, 0, names_d_0_eax },
    { 0xd, 0, CPUID_EDX, 0, no_names },
    { 0xd, 1, CPUID_EAX, 0, names_d_1_eax },
    { 0xd, 1, CPUID_ECX, 0, names_d_1_ecx },
    { 0xd, 1, CPUID_EDX, 0, no_names },
    { 0x80000001, 0, CPUID_ECX, OURS_80000001_ECX, names_80000001_ecx },
    { 0x80000001, 0, CPUID_EDX, 0, names_80000001_edx },
    { 0x80000007, 0, CPUID_EDX, 0, names_80000007_edx },
    { 0x80000008, 0, CPUID_EBX, 0, names_80000008_ebx },
    { 0x80000021, 0, CPUID_EAX, 0, names_80000021_eax },
    { 0x40000001, 0, CPUID_EAX, 0, names_kvm_eax },
};
const size_t cpuid_features_count = ARRAY_LEN(cpuid_features);
