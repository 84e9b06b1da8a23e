/*
 * vm/kernel with images good, cut short and spoilt. Whatever the file: no crash, an error that
 * names it, and not one page of the guest's memory touched by what was refused.
 */
#include "kernel_images.h"
#include "test.h"
#include "vm/kernel.h"

#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct mem mem;
static struct image image, elf;
static uint8_t packed[65536];

/* Fresh memory for each load, without the price of a new mapping. */
static void clean(void)
{
    assert_int_equal(ftruncate(mem.memfd, 0), 0);
    assert_int_equal(ftruncate(mem.memfd, (off_t)mem.bytes), 0);
    assert_int_equal(mem_resident_pages(&mem), 0);
}

static int load(struct kernel *ret)
{
    struct err err = { 0 };
    clean();
    const char *path = image_file(image.bytes, image.len);
    int rc = kernel_load(&mem, path, ret, &err);
    if (rc == 0) {
        assert_int_equal(err.code, 0);
        assert_non_null(mem_get(&mem, gpa_of(ret->entry), 1));
        assert_in_range(ret->end_gpa, ret->entry + 1, mem.bytes);
        return 0;
    }
    assert_int_equal(err.fault, ERR_CALLER);
    assert_int_equal(err.code, -rc);
    assert_non_null(strstr(err.text, path));
    assert_null(strchr(err.text, '\n'));
    assert_int_equal(mem_resident_pages(&mem), 0);
    return rc;
}

static void refused_because(const char *why)
{
    struct kernel kernel;
    struct err err = { 0 };
    assert_int_not_equal(load(&kernel), 0);
    (void)!kernel_load(&mem, image_file(image.bytes, image.len), &kernel, &err);
    if (!strstr(err.text, why))
        fail_msg("\"%s\" lacks \"%s\"", err.text, why);
}

static void check_elf_loaded(const struct kernel *kernel)
{
    assert_int_equal(kernel->kind, KERNEL_PVH);
    assert_int_equal(kernel->entry, IMAGE_ENTRY);
    assert_int_equal(kernel->end_gpa, IMAGE_END_GPA);
    assert_memory_equal(mem_get(&mem, gpa_of(IMAGE_TEXT_GPA), IMAGE_TEXT_BYTES),
                        elf.bytes + IMAGE_TEXT_AT, IMAGE_TEXT_BYTES);
    assert_memory_equal(mem_get(&mem, gpa_of(IMAGE_DATA_GPA), IMAGE_DATA_BYTES),
                        elf.bytes + IMAGE_DATA_AT, IMAGE_DATA_BYTES);
    const uint8_t *rest = mem_get(&mem, gpa_of(IMAGE_TEXT_GPA + IMAGE_TEXT_BYTES), 0x1000);
    for (size_t i = 0; i < 0x1000; i++)
        assert_int_equal(rest[i], 0);
}

/* ------------------------------------------------------------------------------------------ ELF */

static void elf_is_loaded(void **state)
{
    (void)state;
    struct kernel kernel;
    image = elf;
    assert_int_equal(load(&kernel), 0);
    check_elf_loaded(&kernel);
    /* Only what the file holds is touched: the rest of a segment stays a hole. */
    assert_int_equal(mem_resident_pages(&mem), 3); /* two, and the page of zeros looked at */
}

static void elf_cut_anywhere_is_refused(void **state)
{
    (void)state;
    struct kernel kernel;
    for (size_t len = 1; len < elf.len; len++) {
        image = elf;
        image.len = len;
        assert_int_not_equal(load(&kernel), 0);
    }
}

#define PH(n, member) (IMAGE_PHDR_AT + (n) * sizeof(Elf64_Phdr) + offsetof(Elf64_Phdr, member))
#define EH(member) offsetof(Elf64_Ehdr, member)

static void elf_lies_are_refused(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        uint64_t value;
        size_t len;
        const char *why;
    } lies[] = {
        { EH(e_ident) + EI_CLASS, ELFCLASS32, 1, "not ELF64" },
        { EH(e_ident) + EI_DATA, ELFDATA2MSB, 1, "not ELF64" },
        { EH(e_machine), EM_AARCH64, 2, "not ELF64" },
        { EH(e_type), ET_REL, 2, "neither an executable" },
        { EH(e_phentsize), 55, 2, "program headers" },
        { EH(e_phnum), 0, 2, "program headers" },
        { EH(e_phnum), 65, 2, "program headers" },
        { EH(e_phnum), 0xffff, 2, "program headers" },
        { EH(e_phnum), 64, 2, "" },
        { EH(e_phoff), UINT64_MAX, 8, "cut short" },
        { EH(e_phoff), UINT64_MAX - 55, 8, "cut short" },
        { EH(e_phoff), 0x8f0, 8, "cut short" },
        { PH(1, p_offset), 0x700, 8, "beyond the end" },
        { PH(1, p_offset), UINT64_MAX, 8, "beyond the end" },
        { PH(1, p_offset), UINT64_MAX - 0x100, 8, "beyond the end" },
        { PH(1, p_filesz), 0x1000, 8, "beyond the end" },
        { PH(1, p_filesz), 0x2001, 8, "larger in the file" },
        { PH(1, p_filesz), UINT64_MAX, 8, "larger in the file" },
        { PH(1, p_memsz), 1, 8, "larger in the file" },
        { PH(1, p_memsz), 0, 8, "entry lies outside" },
        { PH(1, p_memsz), 0x3001, 8, "overlap" },
        { PH(1, p_memsz), UINT64_MAX, 8, "does not fit" },
        { PH(1, p_memsz), UINT64_MAX - 0xfffff, 8, "does not fit" },
        { PH(1, p_memsz), 64 << 20, 8, "does not fit" },
        { PH(1, p_paddr), 0xff000, 8, "below 1 MiB" },
        { PH(1, p_paddr), 0, 8, "below 1 MiB" },
        { PH(1, p_paddr), IMAGE_DATA_GPA, 8, "overlap" },
        { PH(1, p_paddr), IMAGE_DATA_GPA + IMAGE_DATA_MEMORY - 1, 8, "overlap" },
        { PH(1, p_paddr), IMAGE_DATA_GPA - IMAGE_TEXT_MEMORY + 1, 8, "overlap" },
        { PH(1, p_paddr), 64 << 20, 8, "does not fit" },
        { PH(1, p_paddr), (64 << 20) - IMAGE_TEXT_MEMORY + 1, 8, "does not fit" },
        { PH(1, p_paddr), UINT64_MAX - 0xfff, 8, "does not fit" },
        { PH(1, p_paddr), UINT64_C(1) << 32, 8, "does not fit" },
        { PH(0, p_type), PT_NULL, 4, "no PVH entry" },
        { PH(0, p_offset), UINT64_MAX - 8, 8, "cut short" },
        { PH(0, p_offset), UINT64_MAX, 8, "cut short" },
        { PH(0, p_filesz), 4096, 8, "cut short" },
        { PH(0, p_filesz), 35, 8, "no PVH entry" },
        { PH(0, p_filesz), 0, 8, "no PVH entry" },
        { IMAGE_NOTE_AT, UINT32_MAX, 4, "no PVH entry" }, /* a name of 4 GiB */
        { IMAGE_NOTE_AT, UINT32_MAX - 3, 4, "no PVH entry" },
        { IMAGE_NOTE_AT + 4, UINT32_MAX, 4, "no PVH entry" }, /* a descriptor of 4 GiB */
        { IMAGE_NOTE_AT + 4, 20, 4, "no PVH entry" },         /* one that covers ours */
        { IMAGE_NOTE_AT + 16, 5, 4, "no PVH entry" },
        { IMAGE_NOTE_AT + 20, 0, 4, "no PVH entry" }, /* ours without a value */
        { IMAGE_NOTE_AT + 20, 3, 4, "no PVH entry" },
        { IMAGE_NOTE_AT + 20, 8, 4, "no PVH entry" }, /* ours, wider than what is there */
        { IMAGE_NOTE_AT + 24, 17, 4, "no PVH entry" },
        { IMAGE_NOTE_AT + 28, 0x6f6558, 4, "no PVH entry" },
        { IMAGE_NOTE_AT + 32, IMAGE_TEXT_GPA - 1, 4, "entry lies outside" },
        { IMAGE_NOTE_AT + 32, IMAGE_TEXT_GPA + IMAGE_TEXT_BYTES, 4, "entry lies outside" },
        { IMAGE_NOTE_AT + 32, 0, 4, "entry lies outside" },
        { IMAGE_NOTE_AT + 32, UINT32_MAX, 4, "entry lies outside" },
    };
    for (size_t i = 0; i < ARRAY_LEN(lies); i++) {
        image = elf;
        image_put(&image, lies[i].at, lies[i].value, lies[i].len);
        refused_because(lies[i].why);
    }
}

static void segments_may_touch(void **state)
{
    (void)state;
    struct kernel kernel;
    image = elf;
    image_put(&image, PH(1, p_memsz), IMAGE_DATA_GPA - IMAGE_TEXT_GPA, 8);
    assert_int_equal(load(&kernel), 0);
    image_put(&image, PH(2, p_paddr), (64 << 20) - IMAGE_DATA_MEMORY, 8);
    assert_int_equal(load(&kernel), 0);
    assert_int_equal(kernel.end_gpa, 64 << 20);
}

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* Random bytes in the parts that steer: load() checks what must hold, refused or not. */
static void spoil(const struct image *good, size_t from, size_t to, unsigned rounds)
{
    uint64_t seed = UINT64_C(0x9e3779b97f4a7c15);
    unsigned loaded = 0;
    for (unsigned round = 0; round < rounds; round++) {
        struct kernel kernel;
        image = *good;
        for (unsigned n = 1 + next_random(&seed) % 3; n > 0; n--) {
            uint64_t r = next_random(&seed);
            static const uint64_t tempting[] = { 0,        UINT64_MAX,         0x80000000,
                                                 0x100000, 0x7fffffffffffffff, 1 };
            uint64_t value = r & 1 ? r >> 3 : tempting[r / 2 % ARRAY_LEN(tempting)];
            image_put(&image, from + (r >> 20) % (to - from), value, 1u << (r >> 60) % 4);
        }
        loaded += load(&kernel) == 0;
    }
    print_message("%u of %u spoilt images were loaded all the same\n", loaded, rounds);
}

static void elf_spoilt_at_random_is_survived(void **state)
{
    (void)state;
    spoil(&elf, 0, IMAGE_NOTE_AT + 36, 10000);
}

/* -------------------------------------------------------------------------------------- bzImage */

static void make_bzimage(enum image_packing packing, uint32_t size)
{
    size_t n = image_pack(packing, elf.bytes, elf.len, size, packed, sizeof(packed));
    image_bzimage(&image, packed, n);
}

static void payload_is_unpacked(void **state)
{
    (void)state;
    struct kernel kernel;
    for (enum image_packing packing = IMAGE_LZ4; packing <= IMAGE_ZSTD; packing++) {
        make_bzimage(packing, (uint32_t)elf.len);
        assert_int_equal(load(&kernel), 0);
        check_elf_loaded(&kernel);
    }
}

static void check_packed_loaded(const struct kernel *kernel)
{
    assert_int_equal(kernel->kind, KERNEL_LINUX64);
    assert_int_equal(kernel->entry, IMAGE_PREF_GPA + 0x200);
    assert_int_equal(kernel->end_gpa, IMAGE_PREF_GPA + 0x200000);
    assert_int_equal(kernel->setup_bytes, 0x26c - 0x1f1);
    assert_memory_equal(kernel->setup, image.bytes + 0x1f1, kernel->setup_bytes);
    size_t len = image.len - IMAGE_PROTECTED_AT;
    assert_memory_equal(mem_get(&mem, gpa_of(IMAGE_PREF_GPA), len),
                        image.bytes + IMAGE_PROTECTED_AT, len);
    /* And nothing of the other way in. */
    assert_int_equal(mem_resident_pages(&mem), (len + 4095) / 4096);
}

/* Whatever is wrong with a payload, the image's own way in is left. */
static void bad_payload_is_loaded_packed(void **state)
{
    (void)state;
    struct kernel kernel;
    make_bzimage(IMAGE_XZ_MAGIC, (uint32_t)elf.len);
    assert_int_equal(load(&kernel), 0);
    check_packed_loaded(&kernel);

    static const uint32_t sizes[] = { 0, 1, 64, 4096, 0x10000000, 0x10000001, UINT32_MAX };
    for (enum image_packing packing = IMAGE_LZ4; packing <= IMAGE_ZSTD; packing++) {
        for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
            make_bzimage(packing, sizes[i]);
            assert_int_equal(load(&kernel), 0);
            check_packed_loaded(&kernel);
        }
        /* Cut anywhere, with the right size behind the cut. */
        make_bzimage(packing, (uint32_t)elf.len);
        struct image whole = image;
        size_t head = IMAGE_PROTECTED_AT + IMAGE_PAYLOAD_AT;
        for (size_t len = head; len + 4 < whole.len; len++) {
            image = whole;
            image_put(&image, len, elf.len, 4);
            image_put(&image, 0x24c, len + 4 - head, 4);
            image.len = len + 4;
            assert_int_equal(load(&kernel), 0);
            check_packed_loaded(&kernel);
        }
    }
    static const uint32_t places[][2] = { { UINT32_MAX, 100 }, { 0x400, UINT32_MAX },
                                          { 0x400, 0 },        { 0x400, 7 },
                                          { 0, 0x400 },        { 0x800, 1u << 27 } };
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        make_bzimage(IMAGE_ZSTD, (uint32_t)elf.len);
        image_put(&image, 0x248, places[i][0], 4);
        image_put(&image, 0x24c, places[i][1], 4);
        assert_int_equal(load(&kernel), 0);
        check_packed_loaded(&kernel);
    }
}

/* Small files that unpack to far more than they say, or than anyone may. */
static void bombs_do_not_go_off(void **state)
{
    (void)state;
    struct kernel kernel;
    size_t len = 40 << 20;
    uint8_t *zeros = calloc(1, len), *out = malloc(1 << 20);
    assert_non_null(zeros);
    assert_non_null(out);
    for (enum image_packing packing = IMAGE_LZ4; packing <= IMAGE_ZSTD; packing++) {
        static const uint32_t sizes[] = { 4096, 40 << 20, UINT32_MAX };
        for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
            size_t n = image_pack(packing, zeros, len, sizes[i], out, 1 << 20);
            if (IMAGE_PROTECTED_AT + IMAGE_PAYLOAD_AT + n > sizeof(image.bytes))
                n = sizeof(image.bytes) - IMAGE_PROTECTED_AT - IMAGE_PAYLOAD_AT; /* LZ4: cut */
            image_bzimage(&image, out, n);
            assert_int_equal(load(&kernel), 0);
            check_packed_loaded(&kernel);
        }
    }
    free(zeros);
    free(out);
}

static void bzimage_lies_are_refused(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        uint64_t value;
        size_t len;
        const char *why;
    } lies[] = {
        { 0x1fe, 0, 2, "not a kernel" },
        { 0x202, 0, 4, "not a kernel" },
        { 0x206, 0x20b, 2, "2.12" },
        { 0x211, 0, 1, "without a 64-bit entry" },
        { 0x236, 2, 2, "without a 64-bit entry" },
        { 0x1f1, 0xff, 1, "cut short" },
        { 0x201, 0, 1, "cut short" },
        { 0x258, 0, 8, "wants to be loaded at" },
        { 0x258, 0x1000800, 8, "wants to be loaded at" },
        { 0x258, UINT64_MAX - 4095, 8, "MiB of memory" },
        { 0x258, 64 << 20, 8, "MiB of memory" },
        { 0x258, (64 << 20) - 0x1ff000, 8, "MiB of memory" },
        { 0x260, UINT32_MAX, 4, "MiB of memory" },
        { 0x260, (48 << 20) + 1, 4, "it needs 65 MiB of memory, and the machine has 64" },
    };
    for (size_t i = 0; i < ARRAY_LEN(lies); i++) {
        make_bzimage(IMAGE_XZ_MAGIC, 0);
        image_put(&image, lies[i].at, lies[i].value, lies[i].len);
        refused_because(lies[i].why);
    }
}

static void bzimage_cut_anywhere_is_survived(void **state)
{
    (void)state;
    struct kernel kernel;
    make_bzimage(IMAGE_LZ4, (uint32_t)elf.len);
    struct image whole = image;
    for (size_t len = 1; len < whole.len; len++) {
        image = whole;
        image.len = len;
        int rc = load(&kernel);
        assert_int_equal(rc == 0, len > IMAGE_PROTECTED_AT + 0x200);
    }
}

static void bzimage_spoilt_at_random_is_survived(void **state)
{
    (void)state;
    for (enum image_packing packing = IMAGE_LZ4; packing <= IMAGE_ZSTD; packing++) {
        make_bzimage(packing, (uint32_t)elf.len);
        struct image good = image;
        spoil(&good, 0x1f0, 0x270, 2000);
        spoil(&good, IMAGE_PROTECTED_AT + IMAGE_PAYLOAD_AT, good.len - 8, 4000);
    }
}

/* ---------------------------------------------------------------------------------- other files */

static void no_kernels_are_named(void **state)
{
    (void)state;
    struct kernel kernel;
    struct err err = { 0 };
    memset(&image, 0, sizeof(image));
    image.len = (size_t)snprintf((char *)image.bytes, sizeof(image.bytes), "#!/bin/sh\nexit 0\n");
    refused_because("not a kernel: wanted a Linux bzImage, or an ELF64 with a PVH entry");
    image.len = sizeof(image.bytes);
    refused_because("not a kernel");
    image.len = 0;
    refused_because("empty");

    char fifo[64];
    (void)snprintf(fifo, sizeof(fifo), "%s/godwit-fifo-XXXXXX", test_tmp());
    assert_true(mkdtemp(fifo) != NULL);
    assert_int_equal(kernel_load(&mem, fifo, &kernel, &err), -EINVAL);
    assert_non_null(strstr(err.text, fifo));
    assert_int_equal(rmdir(fifo), 0);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(kernel_load(&mem, fifo, &kernel, &err), -EINVAL);
    assert_non_null(strstr(err.text, "not a regular file"));
    assert_int_equal(unlink(fifo), 0);
    assert_int_equal(kernel_load(&mem, fifo, &kernel, &err), -ENOENT);
    assert_non_null(strstr(err.text, fifo));
}

static int setup(void **state)
{
    (void)state;
    image_elf(&elf);
    return mem_init(&mem, MEM_MIN_BYTES, MEM_PAGES_SMALL, NULL);
}

static int teardown(void **state)
{
    (void)state;
    mem_fini(&mem);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(elf_is_loaded),
        cmocka_unit_test(elf_cut_anywhere_is_refused),
        cmocka_unit_test(elf_lies_are_refused),
        cmocka_unit_test(segments_may_touch),
        cmocka_unit_test(elf_spoilt_at_random_is_survived),
        cmocka_unit_test(payload_is_unpacked),
        cmocka_unit_test(bad_payload_is_loaded_packed),
        cmocka_unit_test(bombs_do_not_go_off),
        cmocka_unit_test(bzimage_lies_are_refused),
        cmocka_unit_test(bzimage_cut_anywhere_is_survived),
        cmocka_unit_test(bzimage_spoilt_at_random_is_survived),
        cmocka_unit_test(no_kernels_are_named),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
