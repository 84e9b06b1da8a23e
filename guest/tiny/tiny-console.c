/*
 * The serial line, polled, and the protocol of tiny.h on it.
 *
 * A port access leaves the guest and costs tens of microseconds where it is slowest, so the
 * transmitter is asked once for each FIFO-full of 16 bytes, and input is looked at only when a tick
 * is due.
 */
#include <stdarg.h>

#include "tiny.h"

enum {
    UART = 0x3f8,
    UART_DATA = UART,
    UART_IER = UART + 1,
    UART_FCR = UART + 2,
    UART_LCR = UART + 3,
    UART_LSR = UART + 5,
    LSR_DATA_READY = 1,
    LSR_THR_EMPTY = 0x20,
    FIFO_BYTES = 16,

    PORT_SLEEP_CONTROL = 0x604, /* hardware-reduced ACPI */
    SLEEP_S5 = 0x34,            /* SLP_EN, SLP_TYP 5 */
    PORT_DEBUG_EXIT = 0xf4,     /* QEMU's isa-debug-exit: exit status is 2 * value + 1 */
};

static unsigned fifo_room;
static uint64_t tick_due, tick_interval, tick_number, ok_number;
static char line[16];
static unsigned line_length;

void tiny_console_init(void)
{
    tiny_out8(UART_IER, 0);
    tiny_out8(UART_LCR, 3); /* 8n1 */
    tiny_out8(UART_FCR, 1);
}

int tiny_getc(void)
{
    if (!(tiny_in8(UART_LSR) & LSR_DATA_READY))
        return -1;
    return tiny_in8(UART_DATA);
}

void tiny_putc(char c)
{
    if (!fifo_room) {
        while (!(tiny_in8(UART_LSR) & LSR_THR_EMPTY))
            ;
        fifo_room = FIFO_BYTES;
    }
    fifo_room--;
    tiny_out8(UART_DATA, (uint8_t)c);
}

static void put_number(uint64_t value, unsigned base)
{
    char digits[20];
    unsigned n = 0;
    do
        digits[n++] = "0123456789abcdef"[value % base];
    while (value /= base);
    while (n)
        tiny_putc(digits[--n]);
}

static void print(const char *format, va_list args)
{
    for (; *format; format++) {
        if (*format != '%') {
            tiny_putc(*format);
            continue;
        }
        switch (*++format) {
        case 'u':
            put_number(va_arg(args, uint64_t), 10);
            break;
        case 'x':
            put_number(va_arg(args, uint64_t), 16);
            break;
        case 'c':
            tiny_putc((char)va_arg(args, int));
            break;
        case 's':
            for (const char *s = va_arg(args, const char *); *s; s++)
                tiny_putc(*s);
        }
    }
}

void tiny_printf(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    print(format, args);
    va_end(args);
}

static _Noreturn void power_off(uint8_t debug_exit)
{
    while (!(tiny_in8(UART_LSR) & LSR_THR_EMPTY))
        ; /* the last line must be out before the machine is gone */
    tiny_out8(PORT_SLEEP_CONTROL, SLEEP_S5);
    tiny_out8(PORT_DEBUG_EXIT, debug_exit);
    for (;;)
        __asm__ volatile("pause");
}

void tiny_off(void)
{
    power_off(0);
}

void tiny_bad(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    tiny_printf("BAD ");
    print(format, args);
    tiny_printf("\n");
    va_end(args);
    power_off(1);
}

void tiny_ok(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    tiny_printf("ok %u ", ++ok_number);
    print(format, args);
    tiny_printf("\n");
    va_end(args);
}

void tiny_ready(const char *name)
{
    tiny_printf("ready %s\n", name);
    tick_interval = tiny_arg("tick", 50) * tiny_tsc_ms;
    tick_due = tiny_tsc() + tick_interval;
}

static bool line_is(const char *word)
{
    unsigned i = 0;
    while (i < line_length && word[i] == line[i])
        i++;
    return i == line_length && !word[i];
}

/* Reads what has come. A line longer than any command is dropped. */
static enum tiny_command command_read(void)
{
    for (int c; (c = tiny_getc()) >= 0;) {
        if (c != '\n' && c != '\r') {
            if (line_length < sizeof(line))
                line[line_length] = (char)c;
            if (line_length <= sizeof(line))
                line_length++;
            continue;
        }
        bool stop = line_length <= sizeof(line) && line_is("stop");
        bool check = line_length <= sizeof(line) && line_is("check");
        line_length = 0;
        if (stop)
            return TINY_STOP;
        if (check)
            return TINY_CHECK;
    }
    return TINY_NONE;
}

enum tiny_command tiny_pulse(void)
{
    uint64_t now = tiny_tsc();
    if ((int64_t)(now - tick_due) < 0)
        return TINY_NONE;
    /* After a pause there is one tick, not the row of all that were missed. */
    tick_due = now + tick_interval;
    tiny_printf("tick %u\n", ++tick_number);
    return command_read();
}
