/*
 * Power control of a hardware-reduced ACPI machine: seven I/O ports and an interrupt.
 *
 *     0x600  reset register (FADT RESET_REG): BUTTON_RESET_VALUE resets the machine
 *     0x604  sleep control (ACPI 6.4, 4.8.3.7): type BUTTON_SLEEP_S5 with SLP_EN powers it off
 *     0x605  sleep status: always 0
 *     0x606  events, for a Generic Event Device (ACPI 6.4, 5.6.9): bit 0 = the power button was
 *            pressed; reading clears. Setting it raises GSI BUTTON_GSI, edge-triggered.
 */
#pragma once
#include "dev/dev.h"

#define BUTTON_PORT 0x600u
#define BUTTON_PORTS 7u
#define BUTTON_RESET_PORT 0x600u
#define BUTTON_RESET_VALUE 1u
#define BUTTON_SLEEP_CONTROL_PORT 0x604u
#define BUTTON_SLEEP_STATUS_PORT 0x605u
#define BUTTON_SLEEP_S5 5u
#define BUTTON_EVENT_PORT 0x606u
#define BUTTON_EVENT_POWER 1u
#define BUTTON_GSI 3u

/* Called on the writing vCPU's thread, without the device's lock; must not wait for that vCPU. */
struct button_calls {
    void (*on_poweroff)(void *ctx);
    void (*on_reset)(void *ctx);
    void *ctx;
};

#define BUTTON_STATE(F, T) F(T, u8, events)
SCHEMA_STRUCT(button_state, BUTTON_STATE);

int button_create(struct dev **ret, uint16_t instance, const struct button_calls *calls,
                  struct err *err) MUST_CHECK;

/* Presses the power button once; any thread. Pressed while paused, the guest sees it on resume. */
void button_press(struct dev *dev);

/* The eventfd to wire as irqfd of BUTTON_GSI; the device's. */
int button_irq_fd(struct dev *dev);
