/*
 * The machine as ACPI describes it (ACPI 6.5; "hardware-reduced", chapter 4.1: no PM timer, SCI,
 * GPE or legacy interrupt controller), and the few ports that description names.
 */
#pragma once
#include "base/buf.h"
#include "base/compiler.h"
#include "mem/mem.h"
#include <stdint.h>

#define ACPI_GPA UINT64_C(0xe0000) /* the RSDP, where kernels look for it; the tables follow */
#define ACPI_BYTES_MAX UINT64_C(0x20000)

/* I/O ports of the platform; whoever assembles the machine serves them. */
#define ACPI_RESET_PORT 0x600 /* a write of ACPI_RESET_VALUE resets the machine */
#define ACPI_RESET_VALUE 1
#define ACPI_SLEEP_PORT 0x604  /* SLEEP_CONTROL_REG: a write with this bit (SLP_EN) enters the */
#define ACPI_SLEEP_ENABLE 0x20 /* sleep type in bits 2..4; only S5, power-off, exists */
#define ACPI_SLEEP_TYPE_OFF 5
#define ACPI_SLEEP_STATUS_PORT 0x605 /* reads 0 */
#define ACPI_EVENT_PORT 0x606 /* one byte: what happened since the last read, which clears it */
#define ACPI_EVENT_POWER_BUTTON 1
#define ACPI_EVENT_GSI 3 /* edge: pulsed after a bit of ACPI_EVENT_PORT was set */

#define ACPI_COM1_PORT 0x3f8
#define ACPI_COM1_GSI 4

/* Appends the tables for `vcpus` (APIC ids 0..vcpus-1) and `devices` virtio-mmio devices (places:
 * vm/config.h), as they must lie from ACPI_GPA on: the RSDP first. buf_status()
 * tells of failure. */
void acpi_build(struct buf *out, unsigned vcpus, unsigned devices);

/* Puts them there. 0, -ENOMEM or -EFAULT (no RAM there). */
int acpi_write(struct mem *mem, unsigned vcpus, unsigned devices) MUST_CHECK;
