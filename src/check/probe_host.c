/* What the machine and its kernel are, apart from KVM. */
#include "base/clock.h"
#include "base/fd.h"
#include "check/probe.h"
#include "mem/mem.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <x86intrin.h>

void probe_kernel(struct probe_result *ret)
{
    struct utsname name;
    unsigned major = 0, minor = 0;
    if (uname(&name) < 0 || sscanf(name.release, "%u.%u", &major, &minor) != 2)
        probe_wrong(ret, "the kernel does not say its version");
    else if (major < 5 || (major == 5 && minor < 17))
        probe_no(ret, "Linux %s is older than 5.17", name.release);
    else
        probe_yes(ret, json_string(name.release), "Linux %s", name.release);
}

/* One line of /proc or /sys without its newline; "" when there is none. */
static void read_line(const char *path, char *line, size_t size)
{
    char *text = NULL;
    size_t len = 0;
    line[0] = '\0';
    if (fd_read_file(path, 65536, &text, &len))
        return;
    text[strcspn(text, "\n")] = '\0';
    (void)snprintf(line, size, "%s", text);
    free(text);
}

void probe_cpu(struct probe_result *ret)
{
    uint32_t brand[12] = { 0 };
    for (unsigned i = 0; i < 3; i++)
        if (!__get_cpuid(0x80000002 + i, &brand[4 * i], &brand[4 * i + 1], &brand[4 * i + 2],
                         &brand[4 * i + 3])) {
            probe_yes(ret, NULL, "a CPU without a name");
            return;
        }
    char name[sizeof(brand) + 1] = { 0 };
    memcpy(name, brand, sizeof(brand));
    const char *first = name + strspn(name, " ");
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    probe_yes(ret, json_pack("{s:s,s:I}", "model", first, "online", (json_int_t)cpus),
              "%s, %ld online", first, cpus);
}

void probe_hypervisor(struct probe_result *ret)
{
    uint32_t a, b, c, d, vendor[4] = { 0 };
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 31 & 1)) {
        probe_yes(ret, json_string("none"), "bare metal: CPUID shows no hypervisor below");
        return;
    }
    __cpuid(0x40000000, a, vendor[0], vendor[1], vendor[2]);
    const char *name = (const char *)vendor;
    probe_yes(ret, json_string(name), "nested: CPUID shows a hypervisor below this machine (%s)",
              name);
}

void probe_memory(struct probe_result *ret)
{
    char *text = NULL;
    size_t len = 0;
    unsigned long long total = 0, available = 0;
    if (!fd_read_file("/proc/meminfo", 65536, &text, &len)) {
        const char *at = strstr(text, "MemTotal:"), *left = strstr(text, "MemAvailable:");
        total = at ? strtoull(at + 9, NULL, 10) : 0;
        available = left ? strtoull(left + 13, NULL, 10) : 0;
        free(text);
    }
    probe_yes(ret,
              json_pack("{s:I,s:I}", "total_bytes", (json_int_t)total * 1024, "available_bytes",
                        (json_int_t)available * 1024),
              "%llu MiB, %llu MiB of it available", total / 1024, available / 1024);
}

void probe_hugepages(struct probe_result *ret)
{
    struct mem mem;
    struct err err = { 0 };
    if (mem_init(&mem, MEM_MIN_BYTES, MEM_PAGES_LARGE, &err)) {
        probe_no(ret, "%s", err.text);
        return;
    }
    mem.host[0] = 1;
    uint64_t pages = mem_resident_pages(&mem), large = MEM_LARGE_BYTES / PAGE_BYTES;
    if (pages == large)
        probe_yes(ret, NULL, "the first touch of guest memory brought 2 MiB at once");
    else if (mem.page_size == MEM_PAGES_LARGE)
        probe_no(ret, "the kernel had no 2 MiB in one piece: the first touch brought %llu KiB",
                 (unsigned long long)(pages * PAGE_BYTES >> 10));
    else
        probe_no(ret, "this process cannot have a tmpfs with large pages of its own");
    mem_fini(&mem);
}

/* TSC ticks a millisecond against CLOCK_MONOTONIC_RAW over some 20 ms. */
static uint64_t measure_tsc_khz(void)
{
    uint64_t start_ns = clock_read_ns(CLOCK_MONOTONIC_RAW), start = __rdtsc(), ns;
    do
        ns = clock_read_ns(CLOCK_MONOTONIC_RAW) - start_ns;
    while (ns < 20 * CLOCK_MSEC);
    return (__rdtsc() - start) * CLOCK_MSEC / ns;
}

void probe_tsc(struct probe_result *ret)
{
    uint32_t a, b, c, d = 0;
    char source[32];
    bool invariant = __get_cpuid(0x80000007, &a, &b, &c, &d) && (d >> 8 & 1);
    uint64_t khz = measure_tsc_khz();
    read_line("/sys/devices/system/clocksource/clocksource0/current_clocksource", source,
              sizeof(source));
    json_t *value = json_pack("{s:b,s:I,s:s}", "invariant", invariant, "khz", (json_int_t)khz,
                              "clocksource", source);
    if (invariant)
        probe_yes(ret, value, "invariant, about %llu kHz; this kernel keeps time by %s",
                  (unsigned long long)khz, source);
    else
        probe_no(ret, "not invariant (about %llu kHz); this kernel keeps time by %s",
                 (unsigned long long)khz, source);
    if (!invariant)
        ret->value = value;
}

void probe_io_uring(struct probe_result *ret)
{
    struct io_uring ring;
    int rc = io_uring_queue_init(4, &ring, 0);
    if (rc < 0) {
        char disabled[16];
        read_line("/proc/sys/kernel/io_uring_disabled", disabled, sizeof(disabled));
        probe_no(ret, "io_uring_setup: %s%s%s", strerror(-rc),
                 disabled[0] ? ", kernel.io_uring_disabled = " : "", disabled);
        return;
    }
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
    struct io_uring_cqe *cqe = NULL;
    uint8_t byte = 1;
    int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    io_uring_prep_read(sqe, fd, &byte, 1, 0);
    rc = io_uring_submit_and_wait(&ring, 1);
    if (rc != 1 || io_uring_peek_cqe(&ring, &cqe) || cqe->res != 1 || byte != 0)
        probe_wrong(ret, "a read through a ring did not come back as it should");
    else
        probe_yes(ret, NULL, "a read went through a ring");
}

/* Tries a real tap, in a network namespace of the probe's own, so that nobody sees it come and go. */
void probe_tap(struct probe_result *ret)
{
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    unsigned features = 0;
    if (fd < 0 || ioctl(fd, TUNGETFEATURES, &features) < 0) {
        probe_no(ret, "/dev/net/tun: %s", strerror(errno));
        return;
    }
    if (!(features & IFF_VNET_HDR)) {
        probe_wrong(ret, "taps here carry no offload header (IFF_VNET_HDR)");
        return;
    }
    if (unshare(CLONE_NEWNET) < 0) {
        probe_yes(ret, NULL, "/dev/net/tun opens; creating a tap was not tried: %s",
                  strerror(errno));
        return;
    }
    struct ifreq request = { .ifr_name = "probe0",
                             .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
    int header_bytes = 12;
    unsigned offload = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    if (ioctl(fd, TUNSETIFF, &request) < 0)
        probe_no(ret, "cannot create a tap: %s", strerror(errno));
    else if (ioctl(fd, TUNSETVNETHDRSZ, &header_bytes) < 0 || ioctl(fd, TUNSETOFFLOAD, offload) < 0)
        probe_wrong(ret,
                    "a tap refuses the 12-byte header or checksum and segmentation offload: %s",
                    strerror(errno));
    else
        probe_yes(ret, NULL, "a tap with checksum and segmentation offload");
}

void probe_emulator(struct probe_result *ret)
{
    static const char *const dirs[] = { "/usr/bin", "/usr/local/bin", "/bin" };
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        char path[64];
        (void)snprintf(path, sizeof(path), "%s/qemu-system-x86_64", dirs[i]);
        if (access(path, X_OK) == 0) {
            probe_yes(ret, json_string(path), "%s", path);
            return;
        }
    }
    probe_no(ret, "no qemu-system-x86_64 here");
}
