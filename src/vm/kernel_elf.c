/*
 * ELF64 images with a PVH entry (System V ABI, chapters 4 and 5; Xen docs/misc/pvh.pandoc).
 *
 * First a plan: every segment that is to be loaded lies in the file, in RAM below 4 GiB and above
 * the boot data, and apart from the others; one note gives an entry inside of what is loaded. Only
 * then is memory written. What a segment has in memory beyond its bytes in the file stays as it is:
 * zero.
 */
#include "vm/kernel_elf.h"
#include "base/cursor.h"
#include "vm/kernel.h"

#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#define SEGMENTS_MAX 64
#define NOTES_BYTES_MAX 4096 /* read of each note segment; Linux has ours among its first few */
#define XEN_ELFNOTE_PHYS32_ENTRY 18

struct segment {
    uint64_t gpa, memory_bytes, offset, file_bytes;
};

struct plan {
    struct segment segment[SEGMENTS_MAX];
    unsigned count;
    bool has_entry;
    uint64_t entry, end_gpa;
};

static int bad(struct err *err, const char *why)
{
    return err_set(err, ERR_CALLER, ENOEXEC, "not a bootable ELF image: %s", why);
}

static int plan_segment(struct plan *plan, const Elf64_Phdr *ph, uint64_t file_bytes,
                        uint64_t ram_bytes, struct err *err)
{
    if (ph->p_memsz == 0)
        return 0;
    if (ph->p_filesz > ph->p_memsz)
        return bad(err, "a segment is larger in the file than in memory");
    if (ph->p_offset > file_bytes || ph->p_filesz > file_bytes - ph->p_offset)
        return bad(err, "a segment lies beyond the end of the file");
    if (ph->p_paddr < KERNEL_LOWEST_GPA)
        return bad(err, "a segment lies below 1 MiB");
    if (ph->p_paddr > ram_bytes || ph->p_memsz > ram_bytes - ph->p_paddr)
        return err_set(err, ERR_CALLER, ENOMEM,
                       "its segment of %llu bytes at 0x%llx does not fit into %llu MiB of memory",
                       (unsigned long long)ph->p_memsz, (unsigned long long)ph->p_paddr,
                       (unsigned long long)(ram_bytes >> 20));
    for (unsigned i = 0; i < plan->count; i++) {
        const struct segment *s = &plan->segment[i];
        if (ph->p_paddr < s->gpa + s->memory_bytes && s->gpa < ph->p_paddr + ph->p_memsz)
            return bad(err, "two segments overlap");
    }
    plan->segment[plan->count++] =
        (struct segment){ ph->p_paddr, ph->p_memsz, ph->p_offset, ph->p_filesz };
    plan->end_gpa = MAX(plan->end_gpa, ph->p_paddr + ph->p_memsz);
    return 0;
}

/* A note: u32 name length, descriptor length, type; name; descriptor; both padded. */
static void find_entry(struct plan *plan, const uint8_t *notes, size_t len, size_t align)
{
    struct cursor cur = cursor_of(notes, len);
    while (!plan->has_entry && !cur.bad && cur.left > 0) {
        uint32_t name_len = cursor_u32(&cur), desc_len = cursor_u32(&cur), type = cursor_u32(&cur);
        /* The head's 12 bytes make an 8-aligned name begin 4 into a unit. 64 bits cannot wrap. */
        uint64_t name_end = ((uint64_t)name_len + 12 + align - 1) / align * align - 12;
        uint64_t desc_end = ((uint64_t)desc_len + align - 1) / align * align;
        const uint8_t *name = cursor_take(&cur, name_end);
        /* The last descriptor's padding may be missing. */
        const uint8_t *desc =
            cursor_take(&cur, MIN(desc_end, MAX((uint64_t)cur.left, (uint64_t)desc_len)));
        if (!name || !desc || type != XEN_ELFNOTE_PHYS32_ENTRY || name_len != 4 ||
            memcmp(name, "Xen", 4) != 0)
            continue;
        struct cursor value = cursor_of(desc, desc_len);
        plan->entry = desc_len >= 8 ? cursor_u64(&value) : cursor_u32(&value);
        plan->has_entry = !value.bad;
    }
}

static int plan_notes(struct plan *plan, const struct kernel_file *file, const Elf64_Phdr *ph)
{
    uint8_t notes[NOTES_BYTES_MAX];
    size_t len = MIN(ph->p_filesz, (uint64_t)sizeof(notes));
    int rc = kernel_file_read(file, ph->p_offset, notes, len);
    if (!rc)
        find_entry(plan, notes, len, ph->p_align == 8 ? 8 : 4);
    return rc;
}

static int check_entry(const struct plan *plan, struct err *err)
{
    if (!plan->has_entry)
        return bad(err, "it has no PVH entry (note XEN_ELFNOTE_PHYS32_ENTRY)");
    for (unsigned i = 0; i < plan->count; i++) {
        const struct segment *s = &plan->segment[i];
        if (plan->entry >= s->gpa && plan->entry - s->gpa < s->file_bytes)
            return 0;
    }
    return bad(err, "its PVH entry lies outside of its segments");
}

static int make_plan(struct plan *plan, const struct kernel_file *file, uint64_t ram_bytes,
                     struct err *err)
{
    Elf64_Ehdr eh;
    if (kernel_file_read(file, 0, &eh, sizeof(eh)) < 0)
        return bad(err, "shorter than an ELF64 header");
    if (memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0 || eh.e_ident[EI_CLASS] != ELFCLASS64 ||
        eh.e_ident[EI_DATA] != ELFDATA2LSB || eh.e_machine != EM_X86_64)
        return bad(err, "not ELF64 for x86-64");
    if (eh.e_type != ET_EXEC && eh.e_type != ET_DYN)
        return bad(err, "neither an executable nor a shared object");
    if (eh.e_phentsize != sizeof(Elf64_Phdr) || eh.e_phnum == 0 || eh.e_phnum > SEGMENTS_MAX)
        return bad(err, "wanted 1 to 64 program headers of 56 bytes");

    for (unsigned i = 0; i < eh.e_phnum; i++) {
        Elf64_Phdr ph;
        int rc = -EBADMSG;
        if (eh.e_phoff <= file->len)
            rc = kernel_file_read(file, eh.e_phoff + i * sizeof(ph), &ph, sizeof(ph));
        if (!rc && ph.p_type == PT_LOAD) {
            rc = plan_segment(plan, &ph, file->len, ram_bytes, err);
            if (rc)
                return rc;
        }
        if (!rc && ph.p_type == PT_NOTE && !plan->has_entry)
            rc = plan_notes(plan, file, &ph);
        if (rc)
            return bad(err, "cut short");
    }
    return check_entry(plan, err);
}

int kernel_elf_load(const struct kernel_file *file, struct mem *mem, uint64_t *ret_entry,
                    uint64_t *ret_end, struct err *err)
{
    struct plan plan = { 0 };
    int rc = make_plan(&plan, file, mem->region[0].bytes, err);
    if (rc)
        return rc;
    for (unsigned i = 0; i < plan.count; i++) {
        const struct segment *s = &plan.segment[i];
        rc = kernel_file_load(file, s->offset, s->file_bytes, mem, gpa_of(s->gpa));
        if (rc)
            return err_errno(err, ERR_CALLER, -rc, "cannot read all of its segments");
    }
    *ret_entry = plan.entry;
    *ret_end = plan.end_gpa;
    return 0;
}
