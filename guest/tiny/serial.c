/*
 * Serial line: no byte is lost, doubled or changed, and the chip's registers stay.
 *
 * Sends a row of numbered lines without gaps, `seq N xxxxxxxx` with a text computed from N, and
 * gives back every line of input as `echo TEXT` (a long one in pieces, `part TEXT`, before its
 * end). `ok` tells how many bytes of input came and their FNV-1a hash. Who runs it compares all
 * three with what it sent.
 *
 * Parameter: gap = microseconds between lines (1000).
 */
#include "tiny.h"

enum {
    UART = 0x3f8,
    IER = UART + 1,
    LCR = UART + 3,
    MCR = UART + 4,
    SCRATCH = UART + 7,
    LCR_8N1 = 3,
    LCR_DLAB = 0x80,
    MCR_VALUE = 0x0b, /* DTR, RTS, OUT2 */
    DIVISOR = 0x0123,
    PIECE_BYTES = 120,
    OK_LINES = 512,
};

struct serial {
    char line[PIECE_BYTES + 1];
    unsigned length;
    uint64_t bytes, hash;
    uint64_t sent;
    uint8_t scratch;
    bool stop;
};

static void register_check(const char *name, uint8_t found, uint8_t want)
{
    if (found != want)
        tiny_bad("register %s holds 0x%x, not 0x%x", name, (uint64_t)found, (uint64_t)want);
}

static void registers_set(struct serial *s)
{
    tiny_out8(LCR, LCR_8N1 | LCR_DLAB);
    tiny_out8(UART, DIVISOR & 0xff);
    tiny_out8(UART + 1, DIVISOR >> 8);
    tiny_out8(LCR, LCR_8N1);
    tiny_out8(MCR, MCR_VALUE);
    tiny_out8(SCRATCH, s->scratch);
}

static void registers_check(struct serial *s)
{
    register_check("IER", tiny_in8(IER), 0);
    register_check("LCR", tiny_in8(LCR), LCR_8N1);
    register_check("MCR", tiny_in8(MCR), MCR_VALUE);
    register_check("SCR", tiny_in8(SCRATCH), s->scratch);
    tiny_out8(LCR, LCR_8N1 | LCR_DLAB);
    register_check("DLL", tiny_in8(UART), DIVISOR & 0xff);
    register_check("DLM", tiny_in8(UART + 1), DIVISOR >> 8);
    tiny_out8(LCR, LCR_8N1);
    tiny_out8(SCRATCH, ++s->scratch);
}

static bool line_is(const struct serial *s, const char *word)
{
    unsigned i = 0;
    while (i < s->length && word[i] == s->line[i])
        i++;
    return i == s->length && !word[i];
}

static void line_send(struct serial *s, const char *name)
{
    s->line[s->length] = 0;
    tiny_printf("%s %s\n", name, s->line);
    s->length = 0;
}

static void report(const struct serial *s)
{
    tiny_ok("sent=%u bytes=%u hash=%x", s->sent, s->bytes, s->hash);
}

static void input_take(struct serial *s, char c)
{
    s->bytes++;
    s->hash = (s->hash ^ (uint8_t)c) * 0x100000001b3;
    if (c != '\n') {
        s->line[s->length++] = c;
        if (s->length == PIECE_BYTES)
            line_send(s, "part");
        return;
    }
    s->stop = line_is(s, "stop");
    if (line_is(s, "check"))
        report(s);
    line_send(s, "echo");
}

void guest_main(void)
{
    struct serial s = { .hash = 0xcbf29ce484222325, .scratch = 1 };
    uint64_t gap = tiny_arg("gap", 1000) * tiny_tsc_ms / 1000, due = tiny_tsc();

    registers_set(&s);
    tiny_ready("serial");
    while (!s.stop) {
        for (int c; !s.stop && (c = tiny_getc()) >= 0;)
            input_take(&s, (char)c);
        if (tiny_tsc() < due)
            continue;
        due = tiny_tsc() + gap;
        s.sent++;
        tiny_printf("seq %u %x\n", s.sent, tiny_mix(s.sent));
        registers_check(&s);
        if (s.sent % OK_LINES == 0)
            report(&s);
    }
    report(&s);
}
