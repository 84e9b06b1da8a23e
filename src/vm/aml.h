/*
 * Writes AML, the byte code of ACPI's definition blocks (ACPI 6.5, chapter 20), in
 * its shortest form.
 *
 * What has a length in front of it (scope, device, method, if) is opened and ended; between the two
 * its contents are simply written:
 *
 *     aml_device(&aml, "COM1");
 *     aml_name(&aml, "_HID");
 *     aml_eisa_id(&aml, "PNP0501");
 *     aml_end(&aml);
 *
 * Names are single segments of 1 to 4 characters, relative to where they stand; a definition block
 * begins at the root.
 * Running out of memory shows in buf_status() of the buffer.
 */
#pragma once
#include "base/buf.h"
#include <stdbool.h>
#include <stdint.h>

#define AML_DEPTH_MAX 8

struct aml {
    struct buf *out; /* borrowed */
    size_t open[AML_DEPTH_MAX];
    unsigned depth;
};

void aml_scope(struct aml *aml, const char *name);
void aml_device(struct aml *aml, const char *name);
void aml_method(struct aml *aml, const char *name, unsigned args);
void aml_package(struct aml *aml, uint8_t count);
void aml_if(struct aml *aml); /* the predicate comes next */
void aml_end(struct aml *aml);

/* Names the object that is written next. */
void aml_name(struct aml *aml, const char *name);

void aml_path(struct aml *aml, const char *name);
void aml_int(struct aml *aml, uint64_t value);
void aml_string(struct aml *aml, const char *text);
void aml_eisa_id(struct aml *aml, const char *id); /* three capitals and four hex digits */
void aml_op(struct aml *aml, uint8_t op); /* anything of one byte: Store, And, Local0 ... */

enum {
    AML_LOCAL0 = 0x60,
    AML_STORE = 0x70,
    AML_AND = 0x7b,
    AML_NOTIFY = 0x86,
    AML_NO_TARGET = 0x00
};

/* A region of I/O ports, and the bytes at its start as fields of 8 bits each. */
void aml_io_region(struct aml *aml, const char *name, uint16_t port, uint8_t bytes);
void aml_byte_field(struct aml *aml, const char *region, const char *name);

/* `_CRS`: resources gathered in a buffer of their own (chapter 6.4), then written as a named
 * object. */
void aml_crs_io(struct buf *crs, uint16_t port, uint8_t bytes);
void aml_crs_memory(struct buf *crs, uint32_t base, uint32_t bytes);
void aml_crs_interrupt(struct buf *crs, uint32_t gsi); /* edge, active high, exclusive */
void aml_crs(struct aml *aml, struct buf *crs);        /* ends and empties `crs` */
