/*
 * ACPI tables, chapter numbers of ACPI 6.5: RSDP (5.2.5.3), XSDT (5.2.8), FADT (5.2.9), MADT
 * (5.2.12), DSDT (5.2.11.1), in this order, each 16-byte aligned after the one before.
 *
 * The machine has no PCI, no VGA, no 8042, no RTC and no legacy interrupt controller, and says so;
 * what is left is one IOAPIC with edge interrupts: 3 for events, 4 for the serial port, from
 * CONFIG_GSI_BASE on one for each virtio device. The serial port must be in the DSDT: without
 * legacy interrupts a kernel finds its port, but gives it no interrupt.
 *
 * Power button: a Generic Event Device (5.6.9). The monitor sets a bit in the event register and
 * pulses the GSI; the kernel runs _EVT, which reads the register, and that clears it, and notifies
 * the button.
 */
#include "vm/acpi.h"
#include "vm/aml.h"
#include "vm/config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define IOAPIC_GPA 0xfec00000u
#define LAPIC_GPA 0xfee00000u

#define RSDP_BYTES 36
#define HEADER_BYTES 36
#define HEADER_LENGTH_AT 4
#define HEADER_SUM_AT 9

static uint8_t checksum(const uint8_t *bytes, size_t len)
{
    uint8_t sum = 0;
    while (len > 0)
        sum = (uint8_t)(sum + bytes[--len]);
    return (uint8_t)-sum;
}

static void put_zeros(struct buf *out, size_t len)
{
    while (len-- > 0)
        buf_put_u8(out, 0);
}

/* Begins a table and returns where in `out` it begins. */
static size_t begin(struct buf *out, const char *signature, uint8_t revision)
{
    put_zeros(out, -out->len & 15);
    size_t at = out->len;
    buf_put(out, signature, 4);
    buf_put_u32(out, 0); /* length */
    buf_put_u8(out, revision);
    buf_put_u8(out, 0); /* checksum */
    buf_put(out, "GODWIT", 6);
    buf_put(out, "MICROVM ", 8);
    buf_put_u32(out, 1);
    buf_put(out, "GDWT", 4);
    buf_put_u32(out, 1);
    return at;
}

static void finish(struct buf *out, size_t at)
{
    if (out->broken)
        return;
    uint8_t *table = out->data + at;
    size_t len = out->len - at;
    for (size_t i = 0; i < 4; i++)
        table[HEADER_LENGTH_AT + i] = (uint8_t)(len >> (8 * i));
    table[HEADER_SUM_AT] = checksum(table, len);
}

/* A port of one byte as a Generic Address Structure (5.2.3.2). */
static void put_port(struct buf *out, uint16_t port)
{
    buf_put_u8(out, 1); /* system I/O */
    buf_put_u8(out, 8); /* bits */
    buf_put_u8(out, 0);
    buf_put_u8(out, 1); /* byte access */
    buf_put_u64(out, port);
}

static size_t put_fadt(struct buf *out, uint64_t dsdt_gpa)
{
    enum {
        WBINVD = 1,
        BUTTONS_IN_DSDT = 3 << 4,
        RESET_REGISTER = 1 << 10,
        HARDWARE_REDUCED = 1 << 20,
        NO_VGA_MSI_ASPM_RTC = 0x3c,
    };
    size_t at = begin(out, "FACP", 6);
    buf_put_u32(out, 0); /* no FACS */
    buf_put_u32(out, (uint32_t)dsdt_gpa);
    put_zeros(out, 109 - 44);
    buf_put_u16(out, NO_VGA_MSI_ASPM_RTC);
    buf_put_u8(out, 0);
    buf_put_u32(out, WBINVD | BUTTONS_IN_DSDT | RESET_REGISTER | HARDWARE_REDUCED);
    put_port(out, ACPI_RESET_PORT);
    buf_put_u8(out, ACPI_RESET_VALUE);
    put_zeros(out, 140 - 129);
    buf_put_u64(out, dsdt_gpa);
    put_zeros(out, 244 - 148);
    put_port(out, ACPI_SLEEP_PORT);
    put_port(out, ACPI_SLEEP_STATUS_PORT);
    put_zeros(out, 276 - 268); /* hypervisor vendor */
    finish(out, at);
    return at;
}

static size_t put_madt(struct buf *out, unsigned vcpus)
{
    size_t at = begin(out, "APIC", 5);
    buf_put_u32(out, LAPIC_GPA);
    buf_put_u32(out, 0); /* no 8259 */
    for (unsigned i = 0; i < vcpus; i++) {
        buf_put_u8(out, 0); /* processor local APIC */
        buf_put_u8(out, 8);
        buf_put_u8(out, (uint8_t)i);
        buf_put_u8(out, (uint8_t)i);
        buf_put_u32(out, 1); /* enabled */
    }
    buf_put_u8(out, 1); /* IOAPIC */
    buf_put_u8(out, 12);
    buf_put_u16(out, 0);
    buf_put_u32(out, IOAPIC_GPA);
    buf_put_u32(out, 0); /* its first GSI */
    finish(out, at);
    return at;
}

static void put_serial(struct aml *aml, struct buf *crs)
{
    aml_device(aml, "COM1");
    aml_name(aml, "_HID");
    aml_eisa_id(aml, "PNP0501");
    aml_name(aml, "_UID");
    aml_int(aml, 1);
    aml_crs_io(crs, ACPI_COM1_PORT, 8);
    aml_crs_interrupt(crs, ACPI_COM1_GSI);
    aml_crs(aml, crs);
    aml_end(aml);
}

static void put_virtio(struct aml *aml, struct buf *crs, unsigned number)
{
    char name[8];
    (void)snprintf(name, sizeof(name), "VI%02X", number & 0xff);
    aml_device(aml, name);
    aml_name(aml, "_HID");
    aml_string(aml, "LNRO0005");
    aml_name(aml, "_UID");
    aml_int(aml, number);
    /* Its memory accesses are coherent: without this no DMA is allowed to it. */
    aml_name(aml, "_CCA");
    aml_int(aml, 1);
    aml_crs_memory(crs, CONFIG_MMIO_BASE + number * CONFIG_MMIO_STRIDE, CONFIG_MMIO_STRIDE);
    aml_crs_interrupt(crs, CONFIG_GSI_BASE + number);
    aml_crs(aml, crs);
    aml_end(aml);
}

static void put_power_button(struct aml *aml, struct buf *crs)
{
    aml_device(aml, "PWRB");
    aml_name(aml, "_HID");
    aml_eisa_id(aml, "PNP0C0C");
    aml_end(aml);

    aml_device(aml, "GED");
    aml_name(aml, "_HID");
    aml_string(aml, "ACPI0013");
    aml_name(aml, "_UID");
    aml_int(aml, 0);
    aml_crs_interrupt(crs, ACPI_EVENT_GSI);
    aml_crs(aml, crs);
    aml_io_region(aml, "EVTR", ACPI_EVENT_PORT, 1);
    aml_byte_field(aml, "EVTR", "EVTB");

    aml_method(aml, "_EVT", 1);
    aml_op(aml, AML_STORE); /* one read: it clears the register */
    aml_path(aml, "EVTB");
    aml_op(aml, AML_LOCAL0);
    aml_if(aml);
    aml_op(aml, AML_AND);
    aml_op(aml, AML_LOCAL0);
    aml_int(aml, ACPI_EVENT_POWER_BUTTON);
    aml_op(aml, AML_NO_TARGET);
    aml_op(aml, AML_NOTIFY);
    aml_path(aml, "PWRB");
    aml_int(aml, 0x80); /* pressed (5.6.6, table 5.188) */
    aml_end(aml);
    aml_end(aml);
    aml_end(aml);
}

static size_t put_dsdt(struct buf *out, unsigned devices)
{
    CLEANUP_BUF struct buf crs = { 0 };
    size_t at = begin(out, "DSDT", 2);
    struct aml aml = { .out = out };

    aml_scope(&aml, "_SB");
    put_serial(&aml, &crs);
    for (unsigned i = 0; i < devices; i++)
        put_virtio(&aml, &crs, i);
    put_power_button(&aml, &crs);
    aml_end(&aml);

    aml_name(&aml, "_S5");
    aml_package(&aml, 4);
    aml_int(&aml, ACPI_SLEEP_TYPE_OFF);
    aml_int(&aml, ACPI_SLEEP_TYPE_OFF);
    aml_int(&aml, 0);
    aml_int(&aml, 0);
    aml_end(&aml);
    finish(out, at);
    return at;
}

static void put_rsdp(struct buf *out, uint64_t xsdt_gpa)
{
    size_t at = out->len;
    buf_put(out, "RSD PTR ", 8);
    buf_put_u8(out, 0); /* checksum of the first 20 bytes */
    buf_put(out, "GODWIT", 6);
    buf_put_u8(out, 2);  /* revision */
    buf_put_u32(out, 0); /* no RSDT */
    buf_put_u32(out, RSDP_BYTES);
    buf_put_u64(out, xsdt_gpa);
    buf_put_u32(out, 0); /* checksum of all, and reserved */
    if (out->broken)
        return;
    out->data[at + 8] = checksum(out->data + at, 20);
    out->data[at + 32] = checksum(out->data + at, RSDP_BYTES);
}

void acpi_build(struct buf *out, unsigned vcpus, unsigned devices)
{
    CLEANUP_BUF struct buf body = { 0 }; /* all but RSDP and XSDT, which point into it */
    const size_t xsdt_at = 48, xsdt_bytes = HEADER_BYTES + 2 * 8;
    const size_t body_at = (xsdt_at + xsdt_bytes + 15) & ~(size_t)15;

    ASSERT(vcpus >= 1 && vcpus <= CONFIG_VCPUS_MAX && devices <= CONFIG_DEVICES_MAX);
    ASSERT(out->len == 0);
    size_t dsdt_at = put_dsdt(&body, devices);
    size_t fadt_at = put_fadt(&body, ACPI_GPA + body_at + dsdt_at);
    size_t madt_at = put_madt(&body, vcpus);

    put_rsdp(out, ACPI_GPA + xsdt_at);
    size_t at = begin(out, "XSDT", 1);
    ASSERT(out->broken || at == xsdt_at);
    buf_put_u64(out, ACPI_GPA + body_at + fadt_at);
    buf_put_u64(out, ACPI_GPA + body_at + madt_at);
    finish(out, at);
    put_zeros(out, -out->len & 15);
    ASSERT(out->broken || out->len == body_at);
    buf_put(out, body.data, body.len);
    out->broken |= body.broken;
}

int acpi_write(struct mem *mem, unsigned vcpus, unsigned devices)
{
    CLEANUP_BUF struct buf tables = { 0 };
    acpi_build(&tables, vcpus, devices);
    int rc = buf_status(&tables);
    ASSERT(rc || tables.len <= ACPI_BYTES_MAX);
    return rc ? rc : mem_write(mem, gpa_of(ACPI_GPA), tables.data, tables.len);
}
