/*
 * Saving and loading what KVM holds of a machine, between its structs and godwit's own (hv_state.h).
 *
 * The order of loading matters (Documentation/virt/kvm/api.rst, and tried on real kernels): CPUID was
 * set when the vCPU was opened, since it decides which bits are legal; control registers before the
 * local APIC, since the APIC's base and mode are among them; the TSC before the TSC deadline, else the
 * timer is armed against the wrong clock; pending events last. VM-wide: clock, then the PICs and I/O
 * APIC.
 *
 * Nested virtualisation state is not carried: the guest is not shown VMX or SVM.
 */
#include "kvm/kvm_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define MSR_TSC_DEADLINE 0x6e0
#define MSRS_PER_CALL 256

static int call(int fd, unsigned long request, void *arg, const char *what, struct err *err)
{
    if (ioctl(fd, request, arg) >= 0)
        return 0;
    return err_errno(err, ERR_HOST, errno, "KVM: %s", what);
}

/* ---------------------------------------------------------------------------- registers, segments */

static void gpr_from(uint64_t gpr[18], const struct kvm_regs *r)
{
    const uint64_t order[18] = { r->rax, r->rbx, r->rcx, r->rdx, r->rsi, r->rdi,
                                 r->rsp, r->rbp, r->r8,  r->r9,  r->r10, r->r11,
                                 r->r12, r->r13, r->r14, r->r15, r->rip, r->rflags };
    memcpy(gpr, order, sizeof(order));
}

static struct kvm_regs gpr_to(const uint64_t g[18])
{
    return (struct kvm_regs){ .rax = g[0],
                              .rbx = g[1],
                              .rcx = g[2],
                              .rdx = g[3],
                              .rsi = g[4],
                              .rdi = g[5],
                              .rsp = g[6],
                              .rbp = g[7],
                              .r8 = g[8],
                              .r9 = g[9],
                              .r10 = g[10],
                              .r11 = g[11],
                              .r12 = g[12],
                              .r13 = g[13],
                              .r14 = g[14],
                              .r15 = g[15],
                              .rip = g[16],
                              .rflags = g[17] };
}

static struct hv_segment segment_from(const struct kvm_segment *s)
{
    return (struct hv_segment){ .base = s->base,
                                .limit = s->limit,
                                .selector = s->selector,
                                .type = s->type,
                                .present = s->present,
                                .dpl = s->dpl,
                                .db = s->db,
                                .s = s->s,
                                .l = s->l,
                                .g = s->g,
                                .avl = s->avl,
                                .unusable = s->unusable };
}

static struct kvm_segment segment_to(const struct hv_segment *s)
{
    return (struct kvm_segment){ .base = s->base,
                                 .limit = s->limit,
                                 .selector = s->selector,
                                 .type = s->type,
                                 .present = s->present,
                                 .dpl = s->dpl,
                                 .db = s->db,
                                 .s = s->s,
                                 .l = s->l,
                                 .g = s->g,
                                 .avl = s->avl,
                                 .unusable = s->unusable };
}

static void sregs_from(struct hv_vcpu_state *state, const struct kvm_sregs *s)
{
    const struct kvm_segment *order[8] = { &s->cs, &s->ds, &s->es, &s->fs,
                                           &s->gs, &s->ss, &s->tr, &s->ldt };
    state->segment_count = 8;
    for (int i = 0; i < 8; i++)
        state->segment[i] = segment_from(order[i]);
    state->gdt_base = s->gdt.base;
    state->gdt_limit = s->gdt.limit;
    state->idt_base = s->idt.base;
    state->idt_limit = s->idt.limit;
    const uint64_t cr[5] = { s->cr0, s->cr2, s->cr3, s->cr4, s->cr8 };
    memcpy(state->cr, cr, sizeof(cr));
    state->efer = s->efer;
    state->apic_base = s->apic_base;
    for (int i = 0; i < 4; i++)
        state->interrupt_bitmap[i] = s->interrupt_bitmap[i];
}

static struct kvm_sregs sregs_to(const struct hv_vcpu_state *state)
{
    struct kvm_sregs s = { .cr0 = state->cr[0],
                           .cr2 = state->cr[1],
                           .cr3 = state->cr[2],
                           .cr4 = state->cr[3],
                           .cr8 = state->cr[4],
                           .efer = state->efer,
                           .apic_base = state->apic_base };
    struct kvm_segment *order[8] = { &s.cs, &s.ds, &s.es, &s.fs, &s.gs, &s.ss, &s.tr, &s.ldt };
    for (int i = 0; i < 8; i++)
        *order[i] = segment_to(&state->segment[i]);
    s.gdt.base = state->gdt_base;
    s.gdt.limit = state->gdt_limit;
    s.idt.base = state->idt_base;
    s.idt.limit = state->idt_limit;
    for (int i = 0; i < 4; i++)
        s.interrupt_bitmap[i] = state->interrupt_bitmap[i];
    return s;
}

/* ------------------------------------------------------------------------------------------ MSRs */

/* struct kvm_msrs with room for its entries: the kernel's own ends in an array of no length. */
struct msr_batch {
    uint32_t count, pad;
    struct kvm_msr_entry entry[MSRS_PER_CALL];
};
static_assert(offsetof(struct msr_batch, entry) == sizeof(struct kvm_msrs),
              "laid out as the kernel's");

static int save_msrs(struct kvm_vcpu *vcpu, struct hv_vcpu_state *state, struct err *err)
{
    const struct kvm_msr_list *list = kvm_vm_of(vcpu->vcpu.hv)->msrs;
    struct msr_batch batch;

    for (uint32_t next = 0; next < list->nmsrs;) {
        uint32_t n = MIN(list->nmsrs - next, (uint32_t)MSRS_PER_CALL);
        memset(&batch, 0, sizeof(batch));
        batch.count = n;
        for (uint32_t i = 0; i < n; i++)
            batch.entry[i].index = list->indices[next + i];
        int got = ioctl(vcpu->fd, KVM_GET_MSRS, &batch);
        if (got < 0)
            return err_errno(err, ERR_HOST, errno, "KVM: cannot read MSRs");
        for (int i = 0; i < got; i++) {
            if (state->msr_count == HV_MSRS_MAX)
                return err_set(err, ERR_BUG, ENOSPC, "more than %d MSRs to save", HV_MSRS_MAX);
            state->msr[state->msr_count++] =
                (struct hv_msr){ .index = batch.entry[i].index, .value = batch.entry[i].data };
        }
        /* The call stops at the first MSR that this guest does not have: go on behind it. */
        next += (uint32_t)got < n ? (uint32_t)got + 1 : n;
    }
    return 0;
}

static int load_msr_batch(struct kvm_vcpu *vcpu, const struct hv_msr *msr, uint32_t count,
                          struct err *err)
{
    struct msr_batch batch;

    for (uint32_t next = 0; next < count;) {
        uint32_t n = MIN(count - next, (uint32_t)MSRS_PER_CALL);
        memset(&batch, 0, sizeof(batch));
        batch.count = n;
        for (uint32_t i = 0; i < n; i++)
            batch.entry[i] =
                (struct kvm_msr_entry){ .index = msr[next + i].index, .data = msr[next + i].value };
        int done = ioctl(vcpu->fd, KVM_SET_MSRS, &batch);
        if (done < 0)
            return err_errno(err, ERR_HOST, errno, "KVM: cannot write MSRs");
        next += (uint32_t)done;
        if ((uint32_t)done < n) {
            /* An MSR at zero that this host does not know is as good as absent. */
            if (msr[next].value != 0)
                return err_set(err, ERR_HOST, ENOTSUP, "this host refuses MSR 0x%x = 0x%llx",
                               msr[next].index, (unsigned long long)msr[next].value);
            next++;
        }
    }
    return 0;
}

static int load_msrs(struct kvm_vcpu *vcpu, const struct hv_vcpu_state *state, struct err *err)
{
    struct hv_msr first[HV_MSRS_MAX], last = { 0 };
    uint32_t n = 0;
    for (uint32_t i = 0; i < state->msr_count; i++) {
        if (state->msr[i].index == MSR_TSC_DEADLINE)
            last = state->msr[i];
        else
            first[n++] = state->msr[i];
    }
    int rc = load_msr_batch(vcpu, first, n, err);
    return rc || !last.index ? rc : load_msr_batch(vcpu, &last, 1, err);
}

/* ----------------------------------------------------------------------------------------- XSAVE */

static int save_xsave(struct kvm_vcpu *vcpu, struct hv_vcpu_state *state, struct err *err)
{
    int bytes = kvm_vm_of(vcpu->vcpu.hv)->xsave_bytes;
    if (bytes > HV_XSAVE_MAX)
        return err_set(err, ERR_HOST, ENOSPC, "XSAVE area of %d bytes, and the stream carries %d",
                       bytes, HV_XSAVE_MAX);
    bool wide = bytes > (int)sizeof(struct kvm_xsave);
    state->xsave_len = (uint32_t)bytes;
    return call(vcpu->fd, wide ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, state->xsave,
                "cannot read XSAVE state", err);
}

static int load_xsave(struct kvm_vcpu *vcpu, const struct hv_vcpu_state *state, struct err *err)
{
    /* The kernel reads as much as it announced, whatever was saved: give it that much. */
    uint8_t area[HV_XSAVE_MAX] = { 0 };
    uint32_t room = (uint32_t)kvm_vm_of(vcpu->vcpu.hv)->xsave_bytes;
    if (room > HV_XSAVE_MAX)
        return err_set(err, ERR_HOST, ENOSPC, "XSAVE area of %u bytes, and the stream carries %d",
                       room, HV_XSAVE_MAX);
    for (uint32_t i = room; i < state->xsave_len; i++)
        if (state->xsave[i])
            return err_set(err, ERR_HOST, ENOTSUP,
                           "XSAVE state of %u bytes, and this host holds %u", state->xsave_len,
                           room);
    memcpy(area, state->xsave, MIN(state->xsave_len, room));
    return call(vcpu->fd, KVM_SET_XSAVE, area, "cannot load XSAVE state", err);
}

/* ---------------------------------------------------------------------------------------- events */

static void events_from(struct hv_vcpu_state *s, const struct kvm_vcpu_events *e)
{
    s->exception_injected = e->exception.injected;
    s->exception_nr = e->exception.nr;
    s->exception_has_error = e->exception.has_error_code;
    s->exception_error = e->exception.error_code;
    s->interrupt_injected = e->interrupt.injected;
    s->interrupt_nr = e->interrupt.nr;
    s->interrupt_soft = e->interrupt.soft;
    s->interrupt_shadow = e->interrupt.shadow;
    s->nmi_injected = e->nmi.injected;
    s->nmi_pending = e->nmi.pending;
    s->nmi_masked = e->nmi.masked;
    s->sipi_vector = e->sipi_vector;
    s->smm = e->smi.smm;
    s->smm_pending = e->smi.pending;
    s->smm_inside_nmi = e->smi.smm_inside_nmi;
    s->latched_init = e->smi.latched_init;
}

static struct kvm_vcpu_events events_to(const struct hv_vcpu_state *s)
{
    return (struct kvm_vcpu_events){
        .exception = { .injected = s->exception_injected,
                       .nr = s->exception_nr,
                       .has_error_code = s->exception_has_error,
                       .error_code = s->exception_error },
        .interrupt = { .injected = s->interrupt_injected,
                       .nr = s->interrupt_nr,
                       .soft = s->interrupt_soft,
                       .shadow = s->interrupt_shadow },
        .nmi = { .injected = s->nmi_injected, .pending = s->nmi_pending, .masked = s->nmi_masked },
        .sipi_vector = s->sipi_vector,
        .smi = { .smm = s->smm,
                 .pending = s->smm_pending,
                 .smm_inside_nmi = s->smm_inside_nmi,
                 .latched_init = s->latched_init },
        .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
                 KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM,
    };
}

/* ------------------------------------------------------------------------------------ whole vCPU */

int kvm_vcpu_save(struct hv_vcpu *base, struct hv_vcpu_state *state, struct err *err)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(base);
    struct kvm_mp_state mp = { 0 };
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_xcrs xcrs = { 0 };
    struct kvm_debugregs debug;
    struct kvm_lapic_state lapic;
    struct kvm_vcpu_events events = { 0 };

    memset(state, 0, sizeof(*state));
    /* Order: reading the events makes the kernel deliver a pending exception's payload into CR2 or DR6, and
     * reading the run state makes it take in a pending INIT or SIPI. Registers come after both. A page fault
     * whose CR2 was read too early sends the guest's handler to a wrong address. */
    int rc = call(vcpu->fd, KVM_GET_VCPU_EVENTS, &events, "cannot read pending events", err);
    if (!rc)
        rc = call(vcpu->fd, KVM_GET_MP_STATE, &mp, "cannot read the run state", err);
    if (!rc)
        rc = call(vcpu->fd, KVM_GET_REGS, &regs, "cannot read registers", err);
    if (!rc)
        rc = call(vcpu->fd, KVM_GET_SREGS, &sregs, "cannot read control registers", err);
    if (!rc)
        rc = save_xsave(vcpu, state, err);
    if (!rc && kvm_vm_of(base->hv)->xcrs)
        rc = call(vcpu->fd, KVM_GET_XCRS, &xcrs, "cannot read XCR0", err);
    if (!rc)
        rc = call(vcpu->fd, KVM_GET_DEBUGREGS, &debug, "cannot read debug registers", err);
    if (!rc)
        rc = call(vcpu->fd, KVM_GET_LAPIC, &lapic, "cannot read the local APIC", err);
    if (!rc)
        rc = save_msrs(vcpu, state, err);
    if (rc)
        return rc;

    state->mp_state = mp.mp_state;
    gpr_from(state->gpr, &regs);
    sregs_from(state, &sregs);
    for (uint32_t i = 0; i < xcrs.nr_xcrs; i++)
        if (xcrs.xcrs[i].xcr == 0)
            state->xcr0 = xcrs.xcrs[i].value;
    for (int i = 0; i < 4; i++)
        state->dr[i] = debug.db[i];
    state->dr[4] = debug.dr6;
    state->dr[5] = debug.dr7;
    memcpy(state->lapic, lapic.regs, sizeof(state->lapic));
    events_from(state, &events);
    return 0;
}

int kvm_vcpu_load(struct hv_vcpu *base, const struct hv_vcpu_state *state, struct err *err)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(base);
    if (state->segment_count != 8)
        return err_set(err, ERR_PEER, EBADMSG, "vCPU %u with %u segments", base->id,
                       state->segment_count);

    struct kvm_mp_state mp = { .mp_state = state->mp_state };
    struct kvm_regs regs = gpr_to(state->gpr);
    struct kvm_sregs sregs = sregs_to(state);
    struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0] = { .xcr = 0, .value = state->xcr0 } };
    struct kvm_debugregs debug = { .dr6 = state->dr[4], .dr7 = state->dr[5] };
    struct kvm_lapic_state lapic;
    struct kvm_vcpu_events events = events_to(state);
    for (int i = 0; i < 4; i++)
        debug.db[i] = state->dr[i];
    memcpy(lapic.regs, state->lapic, sizeof(lapic.regs));

    int rc = call(vcpu->fd, KVM_SET_MP_STATE, &mp, "cannot load the run state", err);
    if (!rc)
        rc = call(vcpu->fd, KVM_SET_REGS, &regs, "cannot load registers", err);
    if (!rc)
        rc = call(vcpu->fd, KVM_SET_SREGS, &sregs, "cannot load control registers", err);
    if (!rc && state->xcr0)
        rc = call(vcpu->fd, KVM_SET_XCRS, &xcrs, "cannot load XCR0", err);
    if (!rc)
        rc = load_xsave(vcpu, state, err);
    if (!rc)
        rc = call(vcpu->fd, KVM_SET_DEBUGREGS, &debug, "cannot load debug registers", err);
    if (!rc)
        rc = call(vcpu->fd, KVM_SET_LAPIC, &lapic, "cannot load the local APIC", err);
    if (!rc)
        rc = load_msrs(vcpu, state, err);
    if (!rc)
        rc = call(vcpu->fd, KVM_SET_VCPU_EVENTS, &events, "cannot load pending events", err);
    return rc;
}

/* -------------------------------------------------------------------------------------- whole VM */

static struct hv_pic pic_from(const struct kvm_pic_state *p)
{
    return (struct hv_pic){ .last_irr = p->last_irr,
                            .irr = p->irr,
                            .imr = p->imr,
                            .isr = p->isr,
                            .priority_add = p->priority_add,
                            .irq_base = p->irq_base,
                            .read_reg_select = p->read_reg_select,
                            .poll = p->poll,
                            .special_mask = p->special_mask,
                            .init_state = p->init_state,
                            .auto_eoi = p->auto_eoi,
                            .rotate_on_auto_eoi = p->rotate_on_auto_eoi,
                            .special_fully_nested = p->special_fully_nested_mode,
                            .init4 = p->init4,
                            .elcr = p->elcr,
                            .elcr_mask = p->elcr_mask };
}

static struct kvm_pic_state pic_to(const struct hv_pic *p)
{
    return (struct kvm_pic_state){ .last_irr = p->last_irr,
                                   .irr = p->irr,
                                   .imr = p->imr,
                                   .isr = p->isr,
                                   .priority_add = p->priority_add,
                                   .irq_base = p->irq_base,
                                   .read_reg_select = p->read_reg_select,
                                   .poll = p->poll,
                                   .special_mask = p->special_mask,
                                   .init_state = p->init_state,
                                   .auto_eoi = p->auto_eoi,
                                   .rotate_on_auto_eoi = p->rotate_on_auto_eoi,
                                   .special_fully_nested_mode = p->special_fully_nested,
                                   .init4 = p->init4,
                                   .elcr = p->elcr,
                                   .elcr_mask = p->elcr_mask };
}

int kvm_vm_save(struct hv *hv, struct hv_vm_state *state)
{
    struct kvm_vm *vm = kvm_vm_of(hv);
    memset(state, 0, sizeof(*state));
    for (uint32_t i = 0; i < 2; i++) {
        struct kvm_irqchip chip = { .chip_id = i ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER };
        if (ioctl(vm->fd, KVM_GET_IRQCHIP, &chip) < 0)
            return -errno;
        state->pic[state->pic_count++] = pic_from(&chip.chip.pic);
    }
    struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
    struct kvm_clock_data clock = { 0 };
    if (ioctl(vm->fd, KVM_GET_IRQCHIP, &chip) < 0 || ioctl(vm->fd, KVM_GET_CLOCK, &clock) < 0)
        return -errno;
    state->ioapic_base = chip.chip.ioapic.base_address;
    state->ioapic_select = chip.chip.ioapic.ioregsel;
    state->ioapic_id = chip.chip.ioapic.id;
    state->ioapic_irr = chip.chip.ioapic.irr;
    for (int i = 0; i < 24; i++)
        state->ioapic_redirect[i] = chip.chip.ioapic.redirtbl[i].bits;
    state->clock_ns = clock.clock;
    state->clock_wall_ns = clock.flags & KVM_CLOCK_REALTIME ? clock.realtime : 0;
    return 0;
}

int kvm_vm_load(struct hv *hv, const struct hv_vm_state *state)
{
    struct kvm_vm *vm = kvm_vm_of(hv);
    if (state->pic_count != 2)
        return -EBADMSG;
    struct kvm_clock_data clock = { .clock = state->clock_ns };
    if (state->clock_wall_ns && (vm->clock_flags & KVM_CLOCK_REALTIME)) {
        clock.flags = KVM_CLOCK_REALTIME;
        clock.realtime = state->clock_wall_ns;
    }
    if (ioctl(vm->fd, KVM_SET_CLOCK, &clock) < 0)
        return -errno;
    for (uint32_t i = 0; i < 2; i++) {
        struct kvm_irqchip chip = { .chip_id = i ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER };
        chip.chip.pic = pic_to(&state->pic[i]);
        if (ioctl(vm->fd, KVM_SET_IRQCHIP, &chip) < 0)
            return -errno;
    }
    struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
    chip.chip.ioapic.base_address = state->ioapic_base;
    chip.chip.ioapic.ioregsel = state->ioapic_select;
    chip.chip.ioapic.id = state->ioapic_id;
    chip.chip.ioapic.irr = state->ioapic_irr;
    for (int i = 0; i < 24; i++)
        chip.chip.ioapic.redirtbl[i].bits = state->ioapic_redirect[i];
    return ioctl(vm->fd, KVM_SET_IRQCHIP, &chip) < 0 ? -errno : 0;
}

/* ------------------------------------------------------------------------------------- first boot */

/* Flat segments as the boot protocols ask: PVH 32-bit (docs/misc/pvh.pandoc of Xen), 64-bit Linux
 * (Documentation/arch/x86/boot.rst, "64-bit boot protocol"). The hidden parts are set directly, so
 * the GDT in memory only matters to a guest that reloads a selector before making its own. */
int kvm_vcpu_boot(struct hv_vcpu *base, const struct hv_boot *boot)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(base);
    struct kvm_sregs sregs;
    if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0)
        return -errno;

    bool long_mode = boot->protocol == HV_BOOT_LINUX64;
    struct kvm_segment code = { .limit = 0xffffffff,
                                .selector = 0x10,
                                .type = 11,
                                .present = 1,
                                .s = 1,
                                .g = 1,
                                .db = !long_mode,
                                .l = long_mode };
    struct kvm_segment data = {
        .limit = 0xffffffff, .selector = 0x18, .type = 3, .present = 1, .s = 1, .g = 1, .db = 1
    };
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.tr = (struct kvm_segment){ .limit = 0x67, .type = 11, .present = 1 };
    sregs.gdt = (struct kvm_dtable){ .base = boot->gdt_gpa, .limit = boot->gdt_gpa ? 31 : 0 };
    sregs.idt = (struct kvm_dtable){ 0 };
    sregs.cr0 = long_mode ? 0x80000011 : 0x11; /* PG, ET, PE */
    sregs.cr3 = long_mode ? boot->page_tables : 0;
    sregs.cr4 = long_mode ? 0x20 : 0;   /* PAE */
    sregs.efer = long_mode ? 0x500 : 0; /* LME, LMA */
    struct kvm_regs regs = { .rflags = 2, .rip = boot->entry };
    if (long_mode)
        regs.rsi = boot->info_gpa;
    else
        regs.rbx = boot->info_gpa;
    if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu->fd, KVM_SET_REGS, &regs) < 0)
        return -errno;
    return 0;
}
