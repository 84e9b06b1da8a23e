/*
 * From the PVH start information to guest_main(): interrupt gates, RAM, page tables, parameters.
 *
 * Everything the loader left (start information, memory map, command line) is copied before any
 * other memory is written, as a loader may put it anywhere. Page tables for RAM and devices above
 * the first GiB take pages right after the image; entries are only ever added, so nothing needs
 * flushing.
 */
#include "tiny.h"

enum {
    RANGES_MAX = 16,
    CMDLINE_MAX = 1024,
    PVH_MAGIC = 0x336ec578,
    MEMMAP_RAM = 1,
    VECTOR_GATE = 6,   /* #UD */
    PTE_TABLE = 0x27,  /* present, writable, user, accessed */
    PTE_RAM = 0xe7,    /* the same, dirty, 2 MiB */
    PTE_DEVICE = 0xff, /* the same, uncached */
};

static const uint64_t gib = 1ULL << 30, large_page = 2ULL << 20, mapped_max = 512ULL << 30;

/* xen/include/public/arch-x86/hvm/start_info.h */
struct pvh_start_info {
    uint32_t magic, version, flags, modules;
    uint64_t modlist, cmdline, rsdp;
    uint64_t memmap; /* version 1 and later */
    uint32_t memmap_entries, reserved;
};

struct pvh_memmap_entry {
    uint64_t addr, size;
    uint32_t type, reserved;
};

struct range {
    uint64_t start, pages;
};

extern uint32_t tiny_start_info;
extern uint64_t tiny_idt[512], tiny_pdpt[512];
extern const char tiny_exceptions[], tiny_gate[];
extern char tiny_end[];

static struct range ram[RANGES_MAX];
static unsigned ram_count;
static uint64_t ram_pages;
static char cmdline[CMDLINE_MAX];
static uint64_t table_next, table_end; /* pages for page directories */

/* Called by compilers for struct copies and initialisers. */
void *memset(void *dst, int value, size_t n);
void *memcpy(void *restrict dst, const void *restrict src, size_t n);

void *memset(void *dst, int value, size_t n)
{
    void *at = dst;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(value) : "memory");
    return dst;
}

void *memcpy(void *restrict dst, const void *restrict src, size_t n)
{
    void *at = dst;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(src), "+c"(n) : : "memory");
    return dst;
}

uint64_t tiny_ring0(const void *stub, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t result = (uint64_t)stub;
    __asm__ volatile("ud2"
                     : "+a"(result), "+D"(a), "+S"(b), "+d"(c)
                     :
                     : "rcx", "r8", "cc", "memory");
    return result;
}

struct tiny_cpuid tiny_cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct tiny_cpuid regs;
    tiny_ring0(ring0_cpuid, leaf, subleaf, (uint64_t)&regs);
    return regs;
}

void tiny_gate_set(unsigned vector, const void *handler)
{
    uint64_t at = (uint64_t)handler, type = 0x8e; /* interrupt gate, DPL 0 */
    tiny_idt[2 * vector] = (at & 0xffff) | 8 << 16 | type << 40 | (at >> 16 & 0xffff) << 48;
    tiny_idt[2 * vector + 1] = at >> 32;
}

_Noreturn void tiny_fault(uint64_t vector, uint64_t error, uint64_t rip, uint64_t address);

/* Where start.S brings every exception, on a stack of its own. */
_Noreturn void tiny_fault(uint64_t vector, uint64_t error, uint64_t rip, uint64_t address)
{
    tiny_bad("exception %u error 0x%x rip 0x%x cr2 0x%x", vector, error, rip, address);
}

static uint64_t *directory_of(uint64_t gpa)
{
    uint64_t *entry = &tiny_pdpt[gpa / gib];
    if (!*entry) {
        if (table_next == table_end)
            tiny_bad("no page left for a page table");
        memset((void *)table_next, 0, TINY_PAGE_BYTES);
        *entry = table_next | PTE_TABLE;
        table_next += TINY_PAGE_BYTES;
    }
    return (uint64_t *)(*entry & ~0xfffULL);
}

static void map(uint64_t gpa, uint64_t flags)
{
    if (gpa >= mapped_max)
        tiny_bad("address 0x%x is out of reach", gpa);
    directory_of(gpa)[gpa / large_page % 512] = gpa / large_page * large_page | flags;
}

void tiny_map_device(uint64_t gpa)
{
    if (gpa < gib)
        tiny_bad("device at 0x%x, where RAM is expected", gpa);
    map(gpa, PTE_DEVICE);
}

/* Adds the pages of [start, end) from 1 MiB on; what the image and its page tables hold is cut
 * off. */
static void ram_add(uint64_t start, uint64_t end)
{
    uint64_t image_start = 0x100000;
    if (start < image_start)
        start = image_start;
    if (start < table_end && end > image_start)
        start = table_end;
    start = (start + TINY_PAGE_BYTES - 1) / TINY_PAGE_BYTES * TINY_PAGE_BYTES;
    if (end > mapped_max)
        end = mapped_max;
    if (end < start + TINY_PAGE_BYTES || ram_count == RANGES_MAX)
        return;
    ram[ram_count].start = start;
    ram[ram_count].pages = (end - start) / TINY_PAGE_BYTES;
    ram_pages += ram[ram_count].pages;
    ram_count++;
}

static void start_info_read(void)
{
    const struct pvh_start_info *info = (const void *)(uint64_t)tiny_start_info;
    static struct pvh_memmap_entry entries[RANGES_MAX];
    unsigned count = 0;
    uint64_t top = 0;

    if (info->magic != PVH_MAGIC || info->version < 1)
        tiny_bad("no PVH start information with a memory map");
    const char *text = (const char *)info->cmdline;
    for (size_t i = 0; text && text[i] && i < CMDLINE_MAX - 1; i++)
        cmdline[i] = text[i];
    const struct pvh_memmap_entry *from = (const void *)info->memmap;
    for (unsigned i = 0; i < info->memmap_entries && count < RANGES_MAX; i++) {
        if (from[i].type != MEMMAP_RAM)
            continue;
        entries[count++] = from[i];
        if (from[i].addr + from[i].size > top)
            top = from[i].addr + from[i].size;
    }
    /* One directory for each GiB of RAM, and eight for devices. */
    table_next = (uint64_t)tiny_end;
    table_end = table_next + ((top < mapped_max ? top : mapped_max) / gib + 8) * TINY_PAGE_BYTES;
    for (unsigned i = 0; i < count; i++)
        ram_add(entries[i].addr, entries[i].addr + entries[i].size);
    for (unsigned i = 0; i < ram_count; i++) {
        uint64_t end = ram[i].start + ram[i].pages * TINY_PAGE_BYTES;
        for (uint64_t gpa = ram[i].start / large_page * large_page; gpa < end; gpa += large_page)
            if (gpa >= gib)
                map(gpa, PTE_RAM);
    }
}

uint64_t tiny_pages(void)
{
    return ram_pages;
}

uint64_t *tiny_page(uint64_t index)
{
    for (unsigned i = 0; i < ram_count; i++) {
        if (index < ram[i].pages)
            return (uint64_t *)(ram[i].start + index * TINY_PAGE_BYTES);
        index -= ram[i].pages;
    }
    tiny_bad("page %u asked for, beyond the RAM", index);
}

/* The text after `key=`, up to a blank or the end; null if there is none. */
static const char *arg_find(const char *key)
{
    for (const char *at = cmdline; *at;) {
        const char *k = key;
        while (*k && *at == *k) {
            k++;
            at++;
        }
        if (!*k && *at == '=')
            return at + 1;
        while (*at && *at != ' ')
            at++;
        while (*at == ' ')
            at++;
    }
    return NULL;
}

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return 16;
}

uint64_t tiny_arg(const char *key, uint64_t fallback)
{
    const char *at = arg_find(key);
    uint64_t value = 0;
    int base = 10;

    if (!at)
        return fallback;
    if (at[0] == '0' && at[1] == 'x') {
        base = 16;
        at += 2;
    }
    if (digit(*at) >= base)
        tiny_bad("parameter %s is not a number", key);
    for (; digit(*at) < base; at++)
        value = value * (uint64_t)base + (uint64_t)digit(*at);
    switch (*at) {
    case 'G':
        value <<= 10; /* fall through */
    case 'M':
        value <<= 10; /* fall through */
    case 'K':
        value <<= 10;
        at++;
    }
    if (*at && *at != ' ')
        tiny_bad("parameter %s is not a number", key);
    return value;
}

bool tiny_arg_is(const char *key, const char *value)
{
    const char *at = arg_find(key);
    if (!at)
        return false;
    while (*value && *at == *value) {
        at++;
        value++;
    }
    return !*value && (!*at || *at == ' ');
}

_Noreturn void tiny_main(void);

/* Entered from start.S in ring 3. */
_Noreturn void tiny_main(void)
{
    for (unsigned vector = 0; vector < 32; vector++)
        tiny_gate_set(vector, tiny_exceptions + (size_t)16 * vector);
    tiny_gate_set(VECTOR_GATE, tiny_gate);
    tiny_console_init();
    start_info_read();
    tiny_clock_init();
    guest_main();
    tiny_printf("done ok\n");
    tiny_off();
}
