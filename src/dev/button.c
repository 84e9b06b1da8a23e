#include "dev/button.h"
#include "base/fd.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

SCHEMA_DEFINE(button_state, 1, BUTTON_STATE)

#define SLEEP_ENABLE 0x20u
#define SLEEP_TYPE(value) ((value) >> 2 & 7u)

struct button {
    struct dev dev; /* first */
    pthread_mutex_t lock;
    struct button_calls calls;
    int irq_fd;
    bool paused;
    struct button_state s;
};

static struct button *button_of(struct dev *dev)
{
    return CONTAINER_OF(dev, struct button, dev);
}

static void raise_interrupt(struct button *b)
{
    if (b->s.events && !b->paused)
        (void)eventfd_write(b->irq_fd, 1);
}

static void button_read(struct dev *dev, uint64_t offset, void *data, unsigned len)
{
    struct button *b = button_of(dev);
    memset(data, 0, len);
    const uint64_t event = BUTTON_EVENT_PORT - BUTTON_PORT;
    if (offset > event || event - offset >= len)
        return;
    pthread_mutex_lock(&b->lock);
    ((uint8_t *)data)[event - offset] = b->s.events;
    b->s.events = 0;
    pthread_mutex_unlock(&b->lock);
}

static void button_write(struct dev *dev, uint64_t offset, const void *data, unsigned len)
{
    struct button *b = button_of(dev);
    uint8_t value = *(const uint8_t *)data;
    if (len != 1)
        return; /* byte registers, as the ACPI tables say */
    if (offset == BUTTON_RESET_PORT - BUTTON_PORT && value == BUTTON_RESET_VALUE)
        b->calls.on_reset(b->calls.ctx);
    if (offset == BUTTON_SLEEP_CONTROL_PORT - BUTTON_PORT && (value & SLEEP_ENABLE) &&
        SLEEP_TYPE(value) == BUTTON_SLEEP_S5)
        b->calls.on_poweroff(b->calls.ctx);
}

void button_press(struct dev *dev)
{
    struct button *b = button_of(dev);
    pthread_mutex_lock(&b->lock);
    b->s.events |= BUTTON_EVENT_POWER;
    raise_interrupt(b);
    pthread_mutex_unlock(&b->lock);
}

static void button_reset(struct dev *dev)
{
    struct button *b = button_of(dev);
    pthread_mutex_lock(&b->lock);
    b->s.events = 0;
    pthread_mutex_unlock(&b->lock);
}

static int button_pause(struct dev *dev)
{
    struct button *b = button_of(dev);
    pthread_mutex_lock(&b->lock);
    b->paused = true;
    pthread_mutex_unlock(&b->lock);
    return 0;
}

static void button_resume(struct dev *dev)
{
    struct button *b = button_of(dev);
    pthread_mutex_lock(&b->lock);
    b->paused = false;
    raise_interrupt(b); /* again: the first edge may have been lost in a save */
    pthread_mutex_unlock(&b->lock);
}

static void button_save(struct dev *dev, void *object)
{
    struct button *b = button_of(dev);
    pthread_mutex_lock(&b->lock);
    *(struct button_state *)object = b->s;
    pthread_mutex_unlock(&b->lock);
}

static int button_load(struct dev *dev, const void *object, struct err *err)
{
    struct button *b = button_of(dev);
    const struct button_state *s = object;
    if (s->events & ~BUTTON_EVENT_POWER)
        return err_set(err, ERR_PEER, EBADMSG, "power button: unknown events 0x%x", s->events);
    pthread_mutex_lock(&b->lock);
    b->s = *s;
    pthread_mutex_unlock(&b->lock);
    return 0;
}

static void button_free(struct dev *dev)
{
    struct button *b = button_of(dev);
    fd_close(&b->irq_fd);
    (void)pthread_mutex_destroy(&b->lock);
    free(b);
}

static const struct dev_ops button_ops = {
    .name = "button",
    .section = SECTION_BUTTON,
    .schema = &button_state_schema,
    .read = button_read,
    .write = button_write,
    .reset = button_reset,
    .pause = button_pause,
    .resume = button_resume,
    .save = button_save,
    .load = button_load,
    .free = button_free,
};

int button_create(struct dev **ret, uint16_t instance, const struct button_calls *calls,
                  struct err *err)
{
    struct button *b = calloc(1, sizeof(*b));
    if (!b)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot create the power button");
    b->dev = (struct dev){ .ops = &button_ops, .instance = instance };
    b->calls = *calls;
    b->paused = true;
    (void)pthread_mutex_init(&b->lock, NULL); /* cannot fail with default attributes */
    b->irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (b->irq_fd < 0) {
        int rc = err_errno(err, ERR_HOST, errno, "cannot create the power button");
        button_free(&b->dev);
        return rc;
    }
    *ret = &b->dev;
    return 0;
}

int button_irq_fd(struct dev *dev)
{
    return button_of(dev)->irq_fd;
}
