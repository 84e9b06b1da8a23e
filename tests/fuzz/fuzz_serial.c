/* The serial port: register accesses of a guest, bytes typed by a user, pauses and moves in any order. */
#include "base/loop.h"
#include "dev/serial.h"
#include "fuzz.h"

static void swallow(void *ctx, const uint8_t *bytes, size_t len)
{
    *(uint64_t *)ctx += len + bytes[0];
}

static struct dev *fresh(uint64_t *sink)
{
    struct dev *dev;
    struct err err = { 0 };
    FUZZ_CHECK(serial_create(&dev, 0, swallow, sink, &err) == 0);
    return dev;
}

/* Saved, through its bytes, into a new port: which is saved as the same again. */
static struct dev *move(struct dev *dev, uint64_t *sink)
{
    struct serial_state state, again;
    CLEANUP_BUF struct buf a = { 0 };
    CLEANUP_BUF struct buf b = { 0 };
    struct err err = { 0 };
    FUZZ_CHECK(dev->ops->pause(dev) == 0);
    dev->ops->save(dev, &state);
    schema_encode(&serial_state_schema, serial_state_schema.version, &state, &a);
    dev->ops->free(dev);
    dev = fresh(sink);
    FUZZ_CHECK(dev->ops->load(dev, &state, &err) == 0);
    dev->ops->save(dev, &again);
    schema_encode(&serial_state_schema, serial_state_schema.version, &again, &b);
    FUZZ_CHECK(a.len == b.len && memcmp(a.data, b.data, a.len) == 0);
    dev->ops->resume(dev);
    return dev;
}

/* A state from elsewhere is refused, or is a port that works. */
static struct dev *load(struct dev *dev, struct cursor *in, uint64_t *sink)
{
    struct serial_state state;
    struct err err = { 0 };
    struct cursor rest = fuzz_rest(in);
    if (schema_decode(&serial_state_schema, serial_state_schema.version, &rest, &state, &err))
        return dev;
    struct dev *other = fresh(sink);
    err = (struct err){ 0 };
    int rc = other->ops->load(other, &state, &err);
    fuzz_check_err(rc, &err);
    if (rc) {
        other->ops->free(other);
        return dev;
    }
    FUZZ_CHECK(dev->ops->pause(dev) == 0);
    dev->ops->free(dev);
    other->ops->resume(other);
    return move(other, sink);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cursor in = cursor_of(data, size);
    uint64_t sink = 0;
    struct dev *dev = fresh(&sink);
    bool running = false;
    while (in.left && !in.bad) {
        uint8_t op = cursor_u8(&in), value[8] = { 0 };
        const uint8_t *typed;
        switch (op >> 5) {
        case 0:
        case 1:
            value[0] = cursor_u8(&in);
            dev->ops->write(dev, op & 7, value, 1u << (op >> 3 & 3));
            break;
        case 2:
        case 3:
            dev->ops->read(dev, op & 7, value, 1u << (op >> 3 & 3));
            break;
        case 4:
            typed = cursor_take(&in, op & 31);
            if (typed)
                FUZZ_CHECK(serial_input(dev, typed, op & 31) <= (running ? op & 31 : 0));
            break;
        case 5:
            if (running)
                FUZZ_CHECK(dev->ops->pause(dev) == 0);
            else
                dev->ops->resume(dev);
            running = !running;
            break;
        case 6:
            if (!running)
                dev->ops->resume(dev);
            dev = move(dev, &sink);
            running = true;
            break;
        default:
            if (!running)
                dev->ops->resume(dev);
            dev = load(dev, &in, &sink);
            running = true;
            break;
        }
    }
    if (running)
        FUZZ_CHECK(dev->ops->pause(dev) == 0);
    dev->ops->free(dev);
    return 0;
}
