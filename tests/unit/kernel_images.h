/* Small images of every kind the loader knows, to be taken as they are or spoilt. */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct image {
    uint8_t bytes[98304];
    size_t len;
};

/* ELF64: program headers at IMAGE_PHDR_AT (the note first), two segments whose bytes count up. */
#define IMAGE_PHDR_AT 64
#define IMAGE_PHDRS 3
#define IMAGE_NOTE_AT 0x200
#define IMAGE_TEXT_AT 0x400
#define IMAGE_TEXT_BYTES 0x300u
#define IMAGE_TEXT_GPA 0x100000u
#define IMAGE_TEXT_MEMORY 0x2000u
#define IMAGE_DATA_AT 0x800
#define IMAGE_DATA_BYTES 0x100u
#define IMAGE_DATA_GPA 0x103000u
#define IMAGE_DATA_MEMORY 0x5000u
#define IMAGE_END_GPA (IMAGE_DATA_GPA + IMAGE_DATA_MEMORY)
#define IMAGE_ENTRY (IMAGE_TEXT_GPA + 0x10)
void image_elf(struct image *image);

/* bzImage with two setup sectors around `payload`, whose last 4 bytes are already its size. */
#define IMAGE_PAYLOAD_AT 0x400u /* in the protected-mode code */
#define IMAGE_PROTECTED_AT 0x600u
#define IMAGE_PREF_GPA 0x1000000u
void image_bzimage(struct image *image, const uint8_t *payload, size_t len);

enum image_packing { IMAGE_LZ4, IMAGE_GZIP, IMAGE_ZSTD, IMAGE_XZ_MAGIC, IMAGE_PACKING_MAX };
/* Packs as Linux's build does; `size` is what the payload's end says. Returns its length. */
size_t image_pack(enum image_packing packing, const void *bytes, size_t len, uint32_t size,
                  uint8_t *out, size_t room);

void image_put(struct image *image, size_t at, uint64_t value, size_t len);

/* Makes a file of it, and returns its path (static, valid until the next call). */
const char *image_file(const void *bytes, size_t len);
