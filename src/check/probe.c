/* The table of probes, and running one where it can do no harm. */
#include "check/probe.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define ANSWER_BYTES_MAX (1 << 16)

#define KVM "kvm-device"
#define NEW_KERNEL "boot a newer kernel (Debian 12's 6.1 has it)"

const struct probe probe_table[] = {
    { "kernel", PROBE_REQUIRED, "godwit uses kernel interfaces up to Linux 5.17",
      "install Debian 12 or newer, or Linux 5.17 or newer", probe_kernel, NULL },
    { "cpu", PROBE_NOTE, "a guest can only move to a CPU with the features it was shown", "",
      probe_cpu, NULL },
    { "hypervisor", PROBE_NOTE, "nested in another hypervisor, guests run slower or not at all", "",
      probe_hypervisor, NULL },
    { "memory", PROBE_NOTE, "guests and incoming moves need it", "", probe_memory, NULL },
    { "hugepages", PROBE_USEFUL, "guests run and move faster with their memory in large pages",
      "be root, on Linux 5.2 or newer with transparent huge pages built in", probe_hugepages,
      NULL },
    { "tsc", PROBE_USEFUL,
      "guests keep time by it; without an invariant one their clock costs exits",
      "none, on this CPU", probe_tsc, NULL },
    { "memfd-holes", PROBE_REQUIRED, "moves skip memory that was never touched",
      "none: update the kernel", probe_memfd_holes, NULL },
    { "io-uring", PROBE_USEFUL, "virtual disks do their input and output through it",
      "sysctl kernel.io_uring_disabled=0, or allow it in the container's seccomp profile",
      probe_io_uring, NULL },
    { "tap", PROBE_USEFUL, "virtual network cards need it",
      "modprobe tun; run as root or own the tap", probe_tap, NULL },
    { "uffd-missing", PROBE_USEFUL, "pages fetched on first touch: post-copy and lazy restore",
      "run as root, allow access to /dev/userfaultfd, or sysctl vm.unprivileged_userfaultfd=1",
      probe_uffd_missing, NULL },
    { "uffd-minor", PROBE_USEFUL, "clones on one host share a layer that is still arriving",
      NEW_KERNEL, probe_uffd_minor, "uffd-missing" },
    { "uffd-wp", PROBE_USEFUL, "snapshots of running guests", NEW_KERNEL, probe_uffd_wp,
      "uffd-missing" },
    { "kvm-device", PROBE_REQUIRED, "guests run on it",
      "modprobe kvm_intel or kvm_amd, switch virtualisation on in the firmware or the outer hypervisor, and be root "
      "or in group kvm",
      probe_kvm_device, NULL },
    { "kvm-api", PROBE_REQUIRED, "the one version there has been since 2007", "use a stock kernel",
      probe_kvm_api, KVM },
    { "kvm-capabilities", PROBE_REQUIRED,
      "guests, their interrupts and their moves are built from these", NEW_KERNEL, probe_kvm_caps,
      KVM },
    { "kvm-extras", PROBE_NOTE, "used or considered where there is a choice", NEW_KERNEL,
      probe_kvm_extras, KVM },
    { "kvmclock", PROBE_REQUIRED, "a moved guest's clock is set to go on from where it was",
      NEW_KERNEL, probe_kvmclock, KVM },
    { "ring3-guests", PROBE_REQUIRED,
      "the tiny guests of tests and benchmarks do their work in ring 3",
      "use the lab (lab/README.md)", probe_ring3, KVM },
    { "stock-guests", PROBE_USEFUL,
      "a stock kernel runs in ring 0 and uses every kind of instruction there",
      "use a host with VT-x or AMD-V, or the lab (lab/README.md)", probe_stock_guests, KVM },
    { "vcpu-kick", PROBE_REQUIRED, "a pause takes vCPUs out of the guest by a signal",
      "use the lab", probe_vcpu_kick, KVM },
    { "vcpu-state", PROBE_REQUIRED, "a move carries all registers", NEW_KERNEL, probe_vcpu_state,
      KVM },
    { "eventfds", PROBE_REQUIRED, "devices are kicked and interrupt through irqfd and ioeventfd",
      "use the lab", probe_eventfds, KVM },
    { "dirty-log", PROBE_REQUIRED, "a live move must know each page the guest wrote", "use the lab",
      probe_dirty_log, KVM },
    { "dirty-ring", PROBE_NOTE, "the other way to track writes; godwit uses the log", NEW_KERNEL,
      probe_dirty_ring, KVM },
    { "emulator", PROBE_USEFUL, "the lab's hosts are emulated by it",
      "apt-get install qemu-system-x86", probe_emulator, NULL },
};
const size_t probe_count = ARRAY_LEN(probe_table);

static void fill(struct probe_result *ret, enum probe_verdict verdict, json_t *value,
                 const char *fmt, va_list ap)
{
    ret->verdict = verdict;
    ret->value = value;
    (void)vsnprintf(ret->reason, sizeof(ret->reason), fmt, ap);
}

void probe_yes(struct probe_result *ret, json_t *value, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(ret, PROBE_YES, value, fmt, ap);
    va_end(ap);
}

void probe_no(struct probe_result *ret, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(ret, PROBE_NO, NULL, fmt, ap);
    va_end(ap);
}

void probe_wrong(struct probe_result *ret, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(ret, PROBE_WRONG, NULL, fmt, ap);
    va_end(ap);
}

static NORETURN void run_in_child(const struct probe *probe, int answer_fd)
{
    struct probe_result result = { .verdict = PROBE_WRONG, .reason = "the probe gave no answer" };
    struct rlimit no_core = { 0, 0 };
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)setrlimit(RLIMIT_CORE, &no_core);
    for (int n = 1; n < NSIG; n++)
        (void)signal(n, SIG_DFL);
    probe->run(&result);
    json_t *answer = json_pack("{s:i,s:o?,s:s}", "verdict", (int)result.verdict, "value",
                               result.value, "reason", result.reason);
    char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
    _exit(text && !fd_write_full(answer_fd, text, strlen(text)) ? 0 : 1);
}

/* Collects what the child writes until it closes the pipe or time is up. */
static bool collect(int fd, uint64_t until_ns, struct buf *answer)
{
    for (;;) {
        uint64_t now = clock_now_ns();
        struct pollfd ready = { .fd = fd, .events = POLLIN };
        int left_ms = now >= until_ns ? 0 : (int)((until_ns - now) / CLOCK_MSEC) + 1;
        int n = poll(&ready, 1, left_ms);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0 || answer->len > ANSWER_BYTES_MAX)
            return false;
        uint8_t bytes[4096];
        ssize_t got = read(fd, bytes, sizeof(bytes));
        if (got == 0)
            return true;
        if (got > 0)
            buf_put(answer, bytes, (size_t)got);
        else if (errno != EINTR)
            return false;
    }
}

static bool parse(const struct buf *answer, struct probe_result *ret)
{
    json_t *json = json_loadb((const char *)answer->data, answer->len, 0, NULL);
    int verdict = 0;
    json_t *value = NULL;
    const char *reason = NULL;
    bool good = json &&
                !json_unpack(json, "{s:i,s:o,s:s}", "verdict", &verdict, "value", &value, "reason",
                             &reason) &&
                verdict >= PROBE_YES && verdict < PROBE_VERDICT_MAX;
    if (good) {
        ret->verdict = (enum probe_verdict)verdict;
        ret->value = json_incref(value);
        (void)snprintf(ret->reason, sizeof(ret->reason), "%s", reason);
    }
    json_decref(json);
    return good;
}

void probe_execute(const struct probe *probe, uint64_t limit_ns, struct probe_result *ret)
{
    *ret = (struct probe_result){ 0 };
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) {
        probe_wrong(ret, "cannot run the probe: %s", strerror(errno));
        return;
    }
    CLEANUP_FD int from_child = ends[0];
    CLEANUP_FD int to_parent = ends[1];
    pid_t child = fork();
    if (child < 0) {
        probe_wrong(ret, "cannot run the probe: %s", strerror(errno));
        return;
    }
    if (child == 0)
        run_in_child(probe, to_parent);
    fd_close(&to_parent);

    CLEANUP_BUF struct buf answer = { 0 };
    bool answered = collect(from_child, clock_now_ns() + limit_ns, &answer);
    (void)kill(child, SIGKILL); /* it has answered, or never will */
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (!answered)
        probe_wrong(ret, "no answer within %llu s", (unsigned long long)(limit_ns / CLOCK_SECOND));
    else if (WIFSIGNALED(status) && answer.len == 0)
        probe_wrong(ret, "the probe died: %s", strsignal(WTERMSIG(status)));
    else if (answer.broken || !parse(&answer, ret))
        probe_wrong(ret, "the probe failed");
}
