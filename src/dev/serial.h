/*
 * A 16550A serial port: 8 I/O ports at SERIAL_PORT, edge-triggered interrupt SERIAL_GSI.
 * Source: National Semiconductor PC16550D data sheet.
 */
#pragma once
#include "dev/dev.h"
#include <stddef.h>

#define SERIAL_PORT 0x3f8u
#define SERIAL_PORTS 8u
#define SERIAL_GSI 4u

/* Receives what the guest prints: on the vCPU's thread, with the port's lock held. Must not block
 * and must not call back into the port. */
typedef void serial_out_fn(void *ctx, const uint8_t *bytes, size_t len);

#define SERIAL_STATE(F, T) \
    F(T, u8, ier)          \
    F(T, u8, fcr)          \
    F(T, u8, lcr)          \
    F(T, u8, mcr)          \
    F(T, u8, scr)          \
    F(T, u8, msr_delta)    \
    F(T, u16, divisor)     \
    F(T, u8, thr_empty)    \
    F(T, u8, overrun)      \
    F(T, blob, rx, 16)
SCHEMA_STRUCT(serial_state, SERIAL_STATE);

int serial_create(struct dev **ret, uint16_t instance, serial_out_fn *out, void *ctx,
                  struct err *err) MUST_CHECK;

/* Offers bytes typed by the user; returns how many fit (0 while paused). Any thread. When it was
 * fewer than `len`, serial_room_fd() becomes readable once it is worth trying again. */
size_t serial_input(struct dev *dev, const uint8_t *bytes, size_t len);

/* Eventfds owned by the port: written for an interrupt (irqfd), and when there is room again. */
int serial_irq_fd(struct dev *dev);
int serial_room_fd(struct dev *dev);
