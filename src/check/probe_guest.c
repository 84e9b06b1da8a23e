/*
 * Probes that run a guest of a few instructions.
 *
 * The one that matters most asks how ring 0 of a guest runs. Some KVMs, nested and paravirtual ones
 * among them, put only ring 3 on the CPU and pass ring 0 through KVM's instruction emulator: a thousand
 * times slower, and it knows few SSE instructions. A stock kernel cannot boot there.
 */
#include "base/clock.h"
#include "check/probe.h"
#include "check/probe_vm.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/time.h>

/* rcx rounds of two instructions. */
GUEST_CODE(count_down, "1: decq %rcx\n jnz 1b\n movl $1, %eax\n" GUEST_DONE "hlt");

/* 3 + 4 in xmm registers, with instructions that KVM's emulator does not know. */
GUEST_CODE(add_sse, "movl $3, %eax\n movl $4, %ecx\n pxor %xmm0, %xmm0\n pxor %xmm1, %xmm1\n"
                    "cvtsi2sd %eax, %xmm0\n cvtsi2sd %ecx, %xmm1\n addsd %xmm1, %xmm0\n"
                    "cvttsd2si %xmm0, %eax\n" GUEST_DONE "hlt");

GUEST_CODE(spin, "1: incq %rax\n jmp 1b");

/* The word at rsi, matching, then another one; then wait for interrupts. */
GUEST_CODE(kick_and_wait, "movl $7, (%rsi)\n movl $8, (%rsi)\n sti\n1: hlt\n jmp 1b");
GUEST_CODE(on_interrupt, "movl $0x25, %eax\n" GUEST_DONE "iretq");

#define ROUNDS UINT64_C(20000)

/* Runs both little programs in `ring`. On failure says which. */
static int run_both(struct probe_vm *vm, unsigned ring, uint64_t *ret_insn_per_s,
                    const char **ret_where)
{
    uint32_t got = 0;
    *ret_where = "setting up";
    int rc = probe_vm_open(vm);
    if (!rc)
        rc = probe_vm_vcpu(vm, ring);
    if (!rc)
        rc = probe_vm_start(vm, count_down, count_down_end, 0, ROUNDS, 0);
    if (rc)
        return rc;
    *ret_where = "counting";
    uint64_t start_ns = clock_now_ns();
    rc = probe_vm_finish(vm, &got);
    if (rc)
        return rc;
    *ret_insn_per_s = 2 * ROUNDS * CLOCK_SECOND / (clock_now_ns() - start_ns + 1);
    *ret_where = "SSE";
    rc = probe_vm_start(vm, add_sse, add_sse_end, 0, 0, 0);
    if (!rc)
        rc = probe_vm_finish(vm, &got);
    if (!rc && got != 7) {
        (void)snprintf(vm->why, sizeof(vm->why), "3 + 4 made %u", got);
        rc = -EPROTO;
    }
    return rc;
}

void probe_stock_guests(struct probe_result *ret)
{
    struct probe_vm vm;
    uint64_t speed = 0;
    const char *where;
    int rc = run_both(&vm, 0, &speed, &where);
    if (!rc)
        probe_yes(ret, json_true(), "ring 0 of a guest runs on the CPU itself, SSE included");
    else if (speed && rc == -EPROTO)
        probe_no(
            ret,
            "ring 0 of a guest is emulated here, at %.1f million instructions a second, and stops at SSE "
            "(%s): no stock kernel boots",
            (double)speed / 1e6, vm.why);
    else
        probe_no(ret, "a guest's ring 0 stopped while %s: %s", where, vm.why);
    if (rc)
        ret->value = json_false();
}

void probe_ring3(struct probe_result *ret)
{
    struct probe_vm vm;
    uint64_t speed = 0;
    const char *where;
    int rc = run_both(&vm, 3, &speed, &where);
    if (!rc)
        probe_yes(ret, json_true(), "ring 3 of a guest runs, SSE included");
    else if (vm.vcpu < 0)
        probe_no(ret, "%s", vm.why);
    else
        probe_wrong(ret, "a guest's ring 3 stopped while %s: %s", where, vm.why);
}

static void do_nothing(int number)
{
    (void)number;
}

void probe_vcpu_kick(struct probe_result *ret)
{
    struct probe_vm vm;
    if (probe_vm_open(&vm) || probe_vm_vcpu(&vm, 3) ||
        probe_vm_start(&vm, spin, spin_end, 0, 0, 0)) {
        probe_no(ret, "%s", vm.why);
        return;
    }
    vm.run->immediate_exit = 1;
    int before = probe_vm_run(&vm);
    vm.run->immediate_exit = 0;
    /* A guest that never leaves by itself, and a signal that comes again in case one is early. */
    struct sigaction action = { .sa_handler = do_nothing };
    struct itimerval soon = { .it_interval = { .tv_usec = 10000 },
                              .it_value = { .tv_usec = 10000 } };
    (void)sigaction(SIGALRM, &action, NULL);
    (void)setitimer(ITIMER_REAL, &soon, NULL);
    int during = probe_vm_run(&vm);
    struct kvm_regs regs = { 0 };
    (void)ioctl(vm.vcpu, KVM_GET_REGS, &regs);
    if (before != -EINTR)
        probe_wrong(ret, "immediate_exit does not keep a vCPU from running");
    else if (during != -EINTR)
        probe_wrong(ret, "a signal does not take a running vCPU out of the guest (KVM exit %d)",
                    during);
    else if (regs.rax == 0)
        probe_wrong(ret, "the vCPU came back without having run");
    else
        probe_yes(ret, NULL,
                  "a signal takes a running vCPU out of the guest, immediate_exit keeps it out");
}

static bool same_events(const struct kvm_vcpu_events *a, const struct kvm_vcpu_events *b)
{
    return a->exception.injected == b->exception.injected &&
           a->interrupt.injected == b->interrupt.injected && a->nmi.pending == b->nmi.pending &&
           a->nmi.masked == b->nmi.masked;
}

/* Every kind of state is read, pushed back and read again unchanged. */
void probe_vcpu_state(struct probe_result *ret)
{
    struct probe_vm vm;
    uint32_t got;
    if (probe_vm_open(&vm) || probe_vm_irqchip(&vm) || probe_vm_vcpu(&vm, 3) ||
        probe_vm_start(&vm, add_sse, add_sse_end, 0, 0, 0) || probe_vm_finish(&vm, &got)) {
        probe_no(ret, "%s", vm.why);
        return;
    }
    vm.run->immediate_exit = 1;
    if (probe_vm_run(&vm) != -EINTR) { /* completes the port write */
        probe_wrong(ret, "immediate_exit does not keep a vCPU from running");
        return;
    }
    int bytes = ioctl(vm.vm, KVM_CHECK_EXTENSION, (unsigned long)KVM_CAP_XSAVE2);
    size_t xsave_bytes =
        bytes > (int)sizeof(struct kvm_xsave) ? (size_t)bytes : sizeof(struct kvm_xsave);
    struct kvm_xsave *xsave = calloc(1, xsave_bytes), *xsave_again = calloc(1, xsave_bytes);
    struct kvm_regs regs, regs_again;
    struct kvm_sregs2 sregs, sregs_again;
    struct kvm_vcpu_events events, events_again;
    struct kvm_lapic_state lapic;
    struct kvm_xcrs xcrs;
    struct kvm_debugregs debug;
    struct kvm_mp_state mp;
    const struct {
        const char *name;
        unsigned long get, set;
        void *state, *again;
        size_t compare; /* bytes; 0: only that it can be done */
    } kinds[] = {
        { "general registers", KVM_GET_REGS, KVM_SET_REGS, &regs, &regs_again, sizeof(regs) },
        { "system registers", KVM_GET_SREGS2, KVM_SET_SREGS2, &sregs, &sregs_again, sizeof(sregs) },
        { "x87, SSE and AVX state", KVM_GET_XSAVE2, KVM_SET_XSAVE, xsave, xsave_again, 512 },
        { "XCR0", KVM_GET_XCRS, KVM_SET_XCRS, &xcrs, &xcrs, 0 },
        { "debug registers", KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, &debug, &debug, 0 },
        { "local APIC", KVM_GET_LAPIC, KVM_SET_LAPIC, &lapic, &lapic, 0 },
        { "pending events", KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, &events, &events_again, 0 },
        { "run state", KVM_GET_MP_STATE, KVM_SET_MP_STATE, &mp, &mp, 0 },
    };
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (!xsave || !xsave_again || ioctl(vm.vcpu, kinds[i].get, kinds[i].state) < 0 ||
            ioctl(vm.vcpu, kinds[i].set, kinds[i].state) < 0 ||
            ioctl(vm.vcpu, kinds[i].get, kinds[i].again) < 0) {
            probe_wrong(ret, "cannot read and set the %s: %s", kinds[i].name, strerror(errno));
            return;
        }
        if (memcmp(kinds[i].state, kinds[i].again, kinds[i].compare) != 0) {
            probe_wrong(ret, "the %s change when they are set to what they are", kinds[i].name);
            return;
        }
    }
    if (!same_events(&events, &events_again))
        probe_wrong(ret, "the pending events change when they are set to what they are");
    else
        probe_yes(ret, json_pack("{s:I}", "xsave_bytes", (json_int_t)xsave_bytes),
                  "all registers can be read and set; the XSAVE area has %zu bytes", xsave_bytes);
}

/* A device register that is an eventfd, there and back: the guest's matching write counts and does not
 * leave the guest, another value does, and an interrupt raised by an eventfd arrives. Ring 0, which even
 * an emulator can do. */
void probe_eventfds(struct probe_result *ret)
{
    struct probe_vm vm;
    if (probe_vm_open(&vm) || probe_vm_irqchip(&vm) || probe_vm_vcpu(&vm, 0) ||
        probe_vm_start(&vm, kick_and_wait, kick_and_wait_end, PROBE_MMIO_GPA, 0, 0)) {
        probe_no(ret, "%s", vm.why);
        return;
    }
    probe_vm_handler(&vm, on_interrupt, on_interrupt_end);
    int kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), irq = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct kvm_ioeventfd io = { .datamatch = 7,
                                .addr = PROBE_MMIO_GPA,
                                .len = 4,
                                .fd = kick,
                                .flags = KVM_IOEVENTFD_FLAG_DATAMATCH };
    struct kvm_irqfd line = { .fd = (uint32_t)irq, .gsi = PROBE_VECTOR - 0x20 };
    if (ioctl(vm.vm, KVM_IOEVENTFD, &io) < 0 || ioctl(vm.vm, KVM_IRQFD, &line) < 0) {
        probe_no(ret, "KVM_IOEVENTFD or KVM_IRQFD: %s", strerror(errno));
        return;
    }
    int reason = probe_vm_run(&vm);
    eventfd_t count = 0;
    if (eventfd_read(kick, &count) < 0 || count != 1) {
        probe_wrong(ret, "a write to a device register did not reach its eventfd (KVM exit %d)",
                    reason);
        return;
    }
    if (reason != KVM_EXIT_MMIO || vm.run->mmio.phys_addr != PROBE_MMIO_GPA ||
        !vm.run->mmio.is_write || vm.run->mmio.data[0] != 8) {
        probe_wrong(ret,
                    "a write that matches no eventfd did not come out as an access (KVM exit %d)",
                    reason);
        return;
    }
    uint32_t got = 0;
    if (eventfd_write(irq, 1) < 0 || probe_vm_finish(&vm, &got) || got != PROBE_VECTOR)
        probe_wrong(ret, "an interrupt raised by an eventfd did not arrive: %s", vm.why);
    else
        probe_yes(ret, NULL,
                  "a register write reached an eventfd, an eventfd's interrupt reached the guest");
}
