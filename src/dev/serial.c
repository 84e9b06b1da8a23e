/*
 * The transmitter is infinitely fast: a byte written is handed to the sink before the write
 * returns, so the holding register is always empty and there is nothing of it to save. What is kept
 * is the receive FIFO and the registers.
 *
 * The interrupt line is an edge: a pulse is sent whenever a condition that the guest enabled
 * becomes true, also while another one is still true, so none is lost to a handler that serves one
 * at a time. resume() pulses again if any is true, since an edge may be on its way when a machine
 * is saved.
 *
 * Room for input is a promise: the FIFO is only filled by serial_input(), which says how much
 * fitted; whoever has more waits for the room eventfd, written when the guest has read the FIFO
 * empty.
 */
#include "dev/serial.h"
#include "base/fd.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

SCHEMA_DEFINE(serial_state, 1, SERIAL_STATE)

#define FIFO_BYTES 16u

enum { DATA, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR }; /* register offsets */

enum { IER_RX = 1, IER_TX = 2, IER_LINE = 4, IER_MODEM = 8, IER_BITS = 0x0f };
enum { IIR_NONE = 1, IIR_MODEM = 0, IIR_TX = 2, IIR_RX = 4, IIR_LINE = 6, IIR_FIFO = 0xc0 };
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2, FCR_KEEP = 0xc9 };
enum { LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 0x10, MCR_BITS = 0x1f };
enum { LSR_DATA = 1, LSR_OVERRUN = 2, LSR_TX_EMPTY = 0x60 };
enum { MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80, MSR_DELTA = 0x0f };

struct serial {
    struct dev dev; /* first */
    pthread_mutex_t lock;
    serial_out_fn *out;
    void *out_ctx;
    int irq_fd, room_fd;
    bool paused, refused; /* refused: someone waits for room */
    uint8_t raised;       /* enabled conditions that were true last time, as IER bits */
    struct serial_state s;
};

static struct serial *serial_of(struct dev *dev)
{
    return CONTAINER_OF(dev, struct serial, dev);
}

static uint8_t conditions(const struct serial *p)
{
    unsigned now = (p->s.rx_len ? IER_RX : 0) | (p->s.thr_empty ? IER_TX : 0) |
                   (p->s.overrun ? IER_LINE : 0) | (p->s.msr_delta ? IER_MODEM : 0);
    return (uint8_t)(now & p->s.ier);
}

static void update_interrupt(struct serial *p)
{
    uint8_t now = conditions(p);
    if (now & ~p->raised)
        (void)eventfd_write(p->irq_fd, 1);
    p->raised = now;
}

/* A condition that became true anew, even if its last time was not yet served. */
static void renew(struct serial *p, uint8_t condition)
{
    p->raised &= (uint8_t)~condition;
    update_interrupt(p);
}

static unsigned rx_capacity(const struct serial *p)
{
    return p->s.fcr & FCR_ENABLE ? FIFO_BYTES : 1;
}

static void rx_push(struct serial *p, uint8_t byte)
{
    if (p->s.rx_len >= rx_capacity(p)) {
        p->s.overrun = 1;
        renew(p, IER_LINE);
        return;
    }
    p->s.rx[p->s.rx_len++] = byte;
    renew(p, IER_RX);
}

static void made_room(struct serial *p)
{
    if (p->refused && p->s.rx_len == 0) {
        p->refused = false;
        (void)eventfd_write(p->room_fd, 1);
    }
}

static uint8_t rx_pop(struct serial *p)
{
    if (p->s.rx_len == 0)
        return 0;
    uint8_t byte = p->s.rx[0];
    p->s.rx_len--;
    memmove(p->s.rx, p->s.rx + 1, p->s.rx_len);
    made_room(p);
    return byte;
}

static void transmit(struct serial *p, uint8_t byte)
{
    if (p->s.mcr & MCR_LOOP)
        rx_push(p, byte);
    else
        p->out(p->out_ctx, &byte, 1);
    p->s.thr_empty = 1; /* again */
    renew(p, IER_TX);
}

/* Modem inputs: a present, ready terminal, or in loopback the outputs crossed over. */
static uint8_t modem_lines(const struct serial *p)
{
    if (!(p->s.mcr & MCR_LOOP))
        return MSR_DCD | MSR_DSR | MSR_CTS;
    return (uint8_t)((p->s.mcr & MCR_RTS ? MSR_CTS : 0) | (p->s.mcr & MCR_DTR ? MSR_DSR : 0) |
                     (p->s.mcr & MCR_OUT1 ? MSR_RI : 0) | (p->s.mcr & MCR_OUT2 ? MSR_DCD : 0));
}

static void write_mcr(struct serial *p, uint8_t value)
{
    uint8_t before = modem_lines(p);
    p->s.mcr = value & MCR_BITS;
    uint8_t after = modem_lines(p);
    uint8_t changed = before ^ after;
    if (after & MSR_RI)
        changed &= (uint8_t)~MSR_RI; /* only the trailing edge of RI counts */
    p->s.msr_delta |= changed >> 4;
    if (changed)
        renew(p, IER_MODEM);
    made_room(p); /* out of loopback the line is connected again */
}

static void write_fcr(struct serial *p, uint8_t value)
{
    /* Switching the FIFO on or off clears it too; the other bits count only while it is on. */
    if (((value ^ p->s.fcr) & FCR_ENABLE) || (value & FCR_CLEAR_RX)) {
        p->s.rx_len = 0;
        made_room(p);
    }
    p->s.fcr = value & FCR_ENABLE ? value & FCR_KEEP : 0;
}

static void write_register(struct serial *p, uint64_t offset, uint8_t value)
{
    bool dlab = p->s.lcr & LCR_DLAB;
    switch (offset) {
    case DATA:
        if (dlab)
            p->s.divisor = (uint16_t)((p->s.divisor & 0xff00) | value);
        else
            transmit(p, value);
        break;
    case IER:
        if (dlab) {
            p->s.divisor = (uint16_t)((p->s.divisor & 0xff) | value << 8);
            break;
        }
        if ((value & IER_TX) && !(p->s.ier & IER_TX))
            p->s.thr_empty = 1; /* enabling it while the register is empty interrupts at once */
        p->s.ier = value & IER_BITS;
        break;
    case IIR_FCR:
        write_fcr(p, value);
        break;
    case LCR:
        p->s.lcr = value;
        break;
    case MCR:
        write_mcr(p, value);
        break;
    case SCR:
        p->s.scr = value;
        break;
    default:
        break; /* LSR and MSR are written by factory tests only */
    }
}

/* Identifies the most urgent condition; reading "transmitter empty" withdraws it. */
static uint8_t read_iir(struct serial *p)
{
    uint8_t fifo = p->s.fcr & FCR_ENABLE ? IIR_FIFO : 0, now = conditions(p);
    if (now & IER_LINE)
        return fifo | IIR_LINE;
    if (now & IER_RX)
        return fifo | IIR_RX;
    if (now & IER_TX) {
        p->s.thr_empty = 0;
        return fifo | IIR_TX;
    }
    return fifo | (now & IER_MODEM ? IIR_MODEM : IIR_NONE);
}

static uint8_t read_register(struct serial *p, uint64_t offset)
{
    bool dlab = p->s.lcr & LCR_DLAB;
    uint8_t value;
    switch (offset) {
    case DATA:
        return dlab ? (uint8_t)p->s.divisor : rx_pop(p);
    case IER:
        return dlab ? (uint8_t)(p->s.divisor >> 8) : p->s.ier;
    case IIR_FCR:
        return read_iir(p);
    case LCR:
        return p->s.lcr;
    case MCR:
        return p->s.mcr;
    case LSR:
        value = (uint8_t)(LSR_TX_EMPTY | (p->s.rx_len ? LSR_DATA : 0) |
                          (p->s.overrun ? LSR_OVERRUN : 0));
        p->s.overrun = 0;
        return value;
    case MSR:
        value = modem_lines(p) | p->s.msr_delta;
        p->s.msr_delta = 0;
        return value;
    case SCR:
        return p->s.scr;
    default:
        return 0xff;
    }
}

/* A wider access is as many byte accesses, as on the ISA bus. */
static void serial_read(struct dev *dev, uint64_t offset, void *data, unsigned len)
{
    struct serial *p = serial_of(dev);
    pthread_mutex_lock(&p->lock);
    for (unsigned i = 0; i < len; i++)
        ((uint8_t *)data)[i] = read_register(p, offset + i);
    update_interrupt(p);
    pthread_mutex_unlock(&p->lock);
}

static void serial_write(struct dev *dev, uint64_t offset, const void *data, unsigned len)
{
    struct serial *p = serial_of(dev);
    pthread_mutex_lock(&p->lock);
    for (unsigned i = 0; i < len; i++)
        write_register(p, offset + i, ((const uint8_t *)data)[i]);
    update_interrupt(p);
    pthread_mutex_unlock(&p->lock);
}

static void power_on(struct serial *p)
{
    p->s = (struct serial_state){ .divisor = 12, .thr_empty = 1 }; /* 9600 baud */
    p->raised = 0;
    made_room(p);
}

static void serial_reset(struct dev *dev)
{
    struct serial *p = serial_of(dev);
    pthread_mutex_lock(&p->lock);
    power_on(p);
    pthread_mutex_unlock(&p->lock);
}

static int serial_pause(struct dev *dev)
{
    struct serial *p = serial_of(dev);
    pthread_mutex_lock(&p->lock);
    p->paused = true;
    pthread_mutex_unlock(&p->lock);
    return 0;
}

static void serial_resume(struct dev *dev)
{
    struct serial *p = serial_of(dev);
    pthread_mutex_lock(&p->lock);
    p->paused = false;
    p->raised = 0;
    update_interrupt(p);
    made_room(p);
    pthread_mutex_unlock(&p->lock);
}

size_t serial_input(struct dev *dev, const uint8_t *bytes, size_t len)
{
    struct serial *p = serial_of(dev);
    size_t taken = 0;
    pthread_mutex_lock(&p->lock);
    if (!p->paused && !(p->s.mcr & MCR_LOOP)) /* a looped-back receiver is cut off from the line */
        while (taken < len && p->s.rx_len < rx_capacity(p))
            rx_push(p, bytes[taken++]);
    p->refused = p->refused || taken < len;
    pthread_mutex_unlock(&p->lock);
    return taken;
}

static void serial_save(struct dev *dev, void *object)
{
    struct serial *p = serial_of(dev);
    pthread_mutex_lock(&p->lock);
    ASSERT(p->paused);
    *(struct serial_state *)object = p->s;
    pthread_mutex_unlock(&p->lock);
}

static int serial_load(struct dev *dev, const void *object, struct err *err)
{
    struct serial *p = serial_of(dev);
    const struct serial_state *s = object;
    unsigned capacity = s->fcr & FCR_ENABLE ? FIFO_BYTES : 1;
    if ((s->ier & ~IER_BITS) || (s->fcr & ~FCR_KEEP) || (s->mcr & ~MCR_BITS) ||
        (s->msr_delta & ~MSR_DELTA) || s->thr_empty > 1 || s->overrun > 1 || s->rx_len > capacity)
        return err_set(err, ERR_PEER, EBADMSG, "serial %u: saved state is damaged", dev->instance);
    pthread_mutex_lock(&p->lock);
    ASSERT(p->paused);
    p->s = *s;
    pthread_mutex_unlock(&p->lock);
    return 0;
}

static void serial_free(struct dev *dev)
{
    struct serial *p = serial_of(dev);
    fd_close(&p->irq_fd);
    fd_close(&p->room_fd);
    (void)pthread_mutex_destroy(&p->lock);
    free(p);
}

static const struct dev_ops serial_ops = {
    .name = "serial",
    .section = SECTION_SERIAL,
    .schema = &serial_state_schema,
    .read = serial_read,
    .write = serial_write,
    .reset = serial_reset,
    .pause = serial_pause,
    .resume = serial_resume,
    .save = serial_save,
    .load = serial_load,
    .free = serial_free,
};

int serial_create(struct dev **ret, uint16_t instance, serial_out_fn *out, void *ctx,
                  struct err *err)
{
    struct serial *p = calloc(1, sizeof(*p));
    if (!p)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot create serial port %u", instance);
    p->dev = (struct dev){ .ops = &serial_ops, .instance = instance };
    p->out = out;
    p->out_ctx = ctx;
    p->paused = true;
    (void)pthread_mutex_init(&p->lock, NULL); /* cannot fail with default attributes */
    p->irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    p->room_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->irq_fd < 0 || p->room_fd < 0) {
        int rc = err_errno(err, ERR_HOST, errno, "cannot create serial port %u", instance);
        serial_free(&p->dev);
        return rc;
    }
    power_on(p);
    *ret = &p->dev;
    return 0;
}

int serial_irq_fd(struct dev *dev)
{
    return serial_of(dev)->irq_fd;
}

int serial_room_fd(struct dev *dev)
{
    return serial_of(dev)->room_fd;
}
