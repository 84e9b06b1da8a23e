/* What the compiler offers and the whole tree relies on. */
#pragma once
#include <assert.h>
#include <stddef.h>
#include <stdlib.h>

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define NORETURN __attribute__((noreturn))
#define CLEANUP(fn) __attribute__((cleanup(fn)))

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline void free_ptr(void *pointer)
{
    free(*(void **)pointer);
}
#define CLEANUP_FREE CLEANUP(free_ptr)

/* Hands an owned pointer over: the variable is NULL afterwards, so its cleanup does nothing. */
#define TAKE_PTR(p)                 \
    ({                              \
        __typeof__(p) taken_ = (p); \
        (p) = NULL;                 \
        taken_;                     \
    })

/* A broken invariant of godwit itself, never of its input. Kept in release builds; `cond` must have
 * no side effect. */
#define ASSERT(cond)                                  \
    do {                                              \
        if (!(cond))                                  \
            assert_failed(#cond, __FILE__, __LINE__); \
    } while (0)

NORETURN void assert_failed(const char *cond, const char *file, int line);

#define MIN(a, b)                      \
    ({                                 \
        __typeof__(a) mina_ = (a);     \
        __typeof__(b) minb_ = (b);     \
        mina_ < minb_ ? mina_ : minb_; \
    })
#define MAX(a, b)                      \
    ({                                 \
        __typeof__(a) maxa_ = (a);     \
        __typeof__(b) maxb_ = (b);     \
        maxa_ > maxb_ ? maxa_ : maxb_; \
    })
