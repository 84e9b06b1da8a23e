#include "base/clock.h"
#include "base/fd.h"
#include "base/loop.h"
#include "test.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

/* An owner of a source, as the program's own look: the callback counts, then does one more thing. */
struct owner {
    struct loop_source source;
    int fd;
    int calls;
    struct owner *victim;
    void (*then)(struct owner *self);
};

static void called(struct loop_source *source, uint32_t events)
{
    struct owner *self = CONTAINER_OF(source, struct owner, source);
    assert_true(events & EPOLLIN);
    self->calls++;
    if (self->then)
        self->then(self);
}

static struct loop *make_loop(void)
{
    struct loop *loop = malloc(sizeof(*loop));
    assert_non_null(loop);
    assert_int_equal(loop_init(loop), 0);
    return loop;
}

static void free_loop(struct loop *loop)
{
    loop_fini(loop);
    free(loop);
}

static struct owner *make_ready(struct loop *loop)
{
    struct owner *owner = calloc(1, sizeof(*owner));
    assert_non_null(owner);
    owner->fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
    assert_true(owner->fd >= 0);
    assert_int_equal(loop_add(loop, &owner->source, owner->fd, EPOLLIN, called), 0);
    return owner;
}

static void free_owner(struct owner *owner)
{
    loop_remove(&owner->source);
    (void)close(owner->fd);
    free(owner);
}

static void dispatches_level_triggered(void **state)
{
    (void)state;
    struct loop *loop = make_loop();
    struct owner *a = make_ready(loop);
    assert_int_equal(loop_once(loop, 0), 0);
    assert_int_equal(loop_once(loop, 0), 0);
    assert_int_equal(a->calls, 2); /* not drained */
    assert_int_equal(loop_drain(a->fd), 1);
    assert_int_equal(loop_drain(a->fd), 0);
    assert_int_equal(loop_once(loop, 0), 0);
    assert_int_equal(a->calls, 2);
    assert_int_equal(loop_change(&a->source, 0), 0);
    assert_int_equal(eventfd_write(a->fd, 5), 0);
    assert_int_equal(loop_once(loop, 0), 0);
    assert_int_equal(a->calls, 2);
    assert_int_equal(loop_change(&a->source, EPOLLIN), 0);
    assert_int_equal(loop_once(loop, 0), 0);
    assert_int_equal(a->calls, 3);
    free_owner(a);
    free_loop(loop);
}

static void remove_self_and_free(struct owner *self)
{
    free_owner(self);
}

static void remove_other_and_free(struct owner *self)
{
    if (self->victim)
        free_owner(TAKE_PTR(self->victim));
}

static void callback_may_free_its_owner(void **state)
{
    (void)state;
    struct loop *loop = make_loop();
    make_ready(loop)->then = remove_self_and_free;
    assert_int_equal(loop_once(loop, 0), 0);
    assert_int_equal(loop_once(loop, 0), 0);
    free_loop(loop);
}

/* Two sources are ready in one batch and the first to be called frees the other: it must never be
 * called. The address sanitizer sees what a plain run would not. */
static void callback_may_free_another_of_the_batch(void **state)
{
    (void)state;
    struct loop *loop = make_loop();
    struct owner *a = make_ready(loop), *b = make_ready(loop);
    a->victim = b;
    b->victim = a;
    a->then = b->then = remove_other_and_free;
    assert_int_equal(loop_once(loop, 0), 0);
    struct owner *left = a->source.fd >= 0 && a->victim == NULL ? a : b;
    assert_int_equal(left->calls, 1);
    free_owner(left);
    free_loop(loop);
}

static void rearm_in_place(struct owner *self)
{
    struct loop *loop = self->source.loop;
    loop_remove(&self->source);
    assert_int_equal(loop_add(loop, &self->source, self->fd, EPOLLIN, called), 0);
}

static void callback_may_remove_and_add_itself(void **state)
{
    (void)state;
    struct loop *loop = make_loop();
    struct owner *a = make_ready(loop);
    a->then = rearm_in_place;
    for (int i = 1; i <= 3; i++) {
        assert_int_equal(loop_once(loop, 0), 0);
        assert_int_equal(a->calls, i);
    }
    free_owner(a);
    free_loop(loop);
}

/* More ready sources than one batch holds: all get their turn. */
static void more_than_a_batch(void **state)
{
    (void)state;
    struct loop *loop = make_loop();
    struct owner *all[150];
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        all[i] = make_ready(loop);
    for (int i = 0; i < 3; i++)
        assert_int_equal(loop_once(loop, 0), 0);
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        assert_true(all[i]->calls >= 1);
        free_owner(all[i]);
    }
    free_loop(loop);
}

static void failed_add_leaves_it_out(void **state)
{
    (void)state;
    struct loop *loop = make_loop();
    struct loop_source source;
    assert_int_equal(loop_add(loop, &source, -1, EPOLLIN, called), -EBADF);
    assert_int_equal(source.fd, -1);
    loop_remove(&source);
    struct loop_source never = { .fd = -1 };
    loop_remove(&never);
    struct loop_source zero = { 0 };
    loop_remove(&zero);
    loop_timer_remove(&zero);
    free_loop(loop);
}

static void timer_fires_once(void **state)
{
    (void)state;
    struct loop *loop = make_loop();
    struct owner t = { 0 };
    assert_int_equal(loop_timer_add(loop, &t.source, called), 0);
    assert_int_equal(loop_once(loop, 0), 0);
    assert_int_equal(t.calls, 0); /* not armed yet */
    uint64_t due = clock_now_ns() + 5 * CLOCK_MSEC;
    loop_timer_set(&t.source, due);
    while (t.calls == 0)
        assert_int_equal(loop_once(loop, -1), 0);
    assert_true(clock_now_ns() >= due);
    assert_int_equal(loop_drain(t.source.fd), 1);
    assert_int_equal(loop_once(loop, 0), 0);
    assert_int_equal(t.calls, 1);

    loop_timer_set(&t.source, 0); /* long past */
    assert_int_equal(loop_once(loop, -1), 0);
    assert_int_equal(t.calls, 2);
    loop_timer_set(&t.source, CLOCK_NEVER); /* an expiry not yet taken is taken back */
    assert_int_equal(loop_once(loop, 0), 0);
    assert_int_equal(t.calls, 2);
    loop_timer_set(&t.source, CLOCK_NEVER - 1); /* centuries away, and not an error that fires */
    assert_int_equal(loop_once(loop, 0), 0);
    assert_int_equal(t.calls, 2);
    int fd = t.source.fd;
    loop_timer_remove(&t.source);
    loop_timer_remove(&t.source);
    assert_int_equal(close(fd), -1); /* closed by the loop, once */
    free_loop(loop);
}

static void *run(void *loop)
{
    return (void *)(intptr_t)loop_run(loop);
}

static void quit_from_another_thread(void **state)
{
    (void)state;
    struct loop *loop = make_loop();
    pthread_t thread;
    void *rc = (void *)1;
    assert_int_equal(pthread_create(&thread, NULL, run, loop), 0);
    loop_quit(loop);
    assert_int_equal(pthread_join(thread, &rc), 0);
    assert_null(rc);
    assert_int_equal(loop_run(loop), 0); /* and stays so: a late runner returns at once */
    free_loop(loop);
}

static void quit_self(struct owner *self)
{
    loop_quit(self->source.loop);
}

static void quit_from_a_callback(void **state)
{
    (void)state;
    struct loop *loop = make_loop();
    struct owner *a = make_ready(loop);
    a->then = quit_self;
    assert_int_equal(loop_run(loop), 0);
    assert_int_equal(a->calls, 1);
    free_owner(a);
    free_loop(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dispatches_level_triggered),
        cmocka_unit_test(callback_may_free_its_owner),
        cmocka_unit_test(callback_may_free_another_of_the_batch),
        cmocka_unit_test(callback_may_remove_and_add_itself),
        cmocka_unit_test(more_than_a_batch),
        cmocka_unit_test(failed_add_leaves_it_out),
        cmocka_unit_test(timer_fires_once),
        cmocka_unit_test(quit_from_another_thread),
        cmocka_unit_test(quit_from_a_callback),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
