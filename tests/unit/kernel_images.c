#include "kernel_images.h"
#include "base/fd.h"

#include <elf.h>
#include <lz4.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <zlib.h>
#include <zstd.h>

#include <cmocka.h>

void image_put(struct image *image, size_t at, uint64_t value, size_t len)
{
    assert_true(at + len <= sizeof(image->bytes));
    for (size_t i = 0; i < len; i++)
        image->bytes[at + i] = (uint8_t)(value >> (8 * i));
}

void image_elf(struct image *image)
{
    const Elf64_Ehdr eh = {
        .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
        .e_type = ET_EXEC,
        .e_machine = EM_X86_64,
        .e_version = EV_CURRENT,
        .e_phoff = IMAGE_PHDR_AT,
        .e_ehsize = sizeof(eh),
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = IMAGE_PHDRS,
    };
    const Elf64_Phdr note = {
        .p_type = PT_NOTE, .p_offset = IMAGE_NOTE_AT, .p_filesz = 36, .p_memsz = 36, .p_align = 4
    };
    const Elf64_Phdr text = { .p_type = PT_LOAD,
                              .p_offset = IMAGE_TEXT_AT,
                              .p_paddr = IMAGE_TEXT_GPA,
                              .p_filesz = IMAGE_TEXT_BYTES,
                              .p_memsz = IMAGE_TEXT_MEMORY };
    const Elf64_Phdr data = { .p_type = PT_LOAD,
                              .p_offset = IMAGE_DATA_AT,
                              .p_paddr = IMAGE_DATA_GPA,
                              .p_filesz = IMAGE_DATA_BYTES,
                              .p_memsz = IMAGE_DATA_MEMORY };
    const Elf64_Phdr ph[IMAGE_PHDRS] = { note, text, data };
    /* A note of another kind comes first. */
    static const uint32_t notes[] = { 4, 0, 3, 0x554e47, 4, 4, 18, 0x6e6558, IMAGE_ENTRY };
    memset(image, 0, sizeof(*image));
    memcpy(image->bytes, &eh, sizeof(eh));
    memcpy(image->bytes + IMAGE_PHDR_AT, ph, sizeof(ph));
    memcpy(image->bytes + IMAGE_NOTE_AT, notes, sizeof(notes));
    for (size_t i = 0; i < IMAGE_TEXT_BYTES; i++)
        image->bytes[IMAGE_TEXT_AT + i] = (uint8_t)(i + 1);
    for (size_t i = 0; i < IMAGE_DATA_BYTES; i++)
        image->bytes[IMAGE_DATA_AT + i] = (uint8_t)(i + 7);
    image->len = IMAGE_DATA_AT + IMAGE_DATA_BYTES;
}

void image_bzimage(struct image *image, const uint8_t *payload, size_t len)
{
    memset(image, 0, sizeof(*image));
    assert_true(IMAGE_PROTECTED_AT + IMAGE_PAYLOAD_AT + len <= sizeof(image->bytes));
    image_put(image, 0x1f1, IMAGE_PROTECTED_AT / 512 - 1, 1); /* setup_sects */
    image_put(image, 0x1fe, 0xaa55, 2);
    image_put(image, 0x200, 0x6aeb, 2); /* a jump over the header, which ends at 0x26c */
    image_put(image, 0x202, 0x53726448, 4);
    image_put(image, 0x206, 0x20f, 2);
    image_put(image, 0x211, 1, 1); /* loadflags: LOADED_HIGH */
    image_put(image, 0x22c, 0x7fffffff, 4);
    image_put(image, 0x236, 0x3, 2); /* xloadflags: 64-bit entry, loadable anywhere */
    image_put(image, 0x238, 2047, 4);
    image_put(image, 0x248, IMAGE_PAYLOAD_AT, 4);
    image_put(image, 0x24c, len, 4);
    image_put(image, 0x258, IMAGE_PREF_GPA, 8);
    image_put(image, 0x260, 0x200000, 4);
    memset(image->bytes + IMAGE_PROTECTED_AT, 0x90, IMAGE_PAYLOAD_AT);
    memcpy(image->bytes + IMAGE_PROTECTED_AT + IMAGE_PAYLOAD_AT, payload, len);
    image->len = IMAGE_PROTECTED_AT + IMAGE_PAYLOAD_AT + len;
}

static size_t put32(uint8_t *at, uint32_t value)
{
    memcpy(at, &value, 4);
    return 4;
}

size_t image_pack(enum image_packing packing, const void *bytes, size_t len, uint32_t size,
                  uint8_t *out, size_t room)
{
    const size_t block = 8 << 20;
    size_t n = 0;
    z_stream z = { 0 };

    switch (packing) {
    case IMAGE_LZ4:
        n += put32(out, 0x184c2102);
        for (size_t done = 0; done < len; done += block) {
            size_t part = len - done < block ? len - done : block;
            int got = LZ4_compress_default((const char *)bytes + done, (char *)out + n + 4,
                                           (int)part, (int)(room - n - 8));
            assert_true(got > 0);
            n += put32(out + n, (uint32_t)got);
            n += (size_t)got;
        }
        break;
    case IMAGE_GZIP:
        assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 31, 9, Z_DEFAULT_STRATEGY), Z_OK);
        z.next_in = (Bytef *)(uintptr_t)bytes;
        z.avail_in = (uInt)len;
        z.next_out = out;
        z.avail_out = (uInt)room;
        assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
        n = room - z.avail_out - 4;
        (void)deflateEnd(&z);
        break;
    case IMAGE_ZSTD:
        n = ZSTD_compress(out, room - 4, bytes, len, 19);
        assert_false(ZSTD_isError(n));
        break;
    case IMAGE_XZ_MAGIC:
    case IMAGE_PACKING_MAX:
        n += put32(out, 0x587a37fd);
        n += put32(out + n, 0x5a);
        break;
    }
    return n + put32(out + n, size);
}

const char *image_file(const void *bytes, size_t len)
{
    static int fd = -1;
    static char path[32];
    fd_close(&fd);
    fd = memfd_create("image", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fd_write_full(fd, bytes, len), 0);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return path;
}
