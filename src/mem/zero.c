#include "mem/zero.h"
#include "base/gpa.h"

#include <stddef.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Most pages that are not zero show it in their first bytes, so all of them stop early. */

static bool portable(const uint8_t *page)
{
    typedef uint64_t block __attribute__((vector_size(64), may_alias));
    const block *at = (const block *)(const void *)page;
    for (unsigned i = 0; i < PAGE_BYTES / sizeof(block); i += 2) {
        block any = at[i] | at[i + 1];
        if (any[0] | any[1] | any[2] | any[3] | any[4] | any[5] | any[6] | any[7])
            return false;
    }
    return true;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static bool avx2(const uint8_t *page)
{
    const __m256i *at = (const __m256i *)(const void *)page;
    for (unsigned i = 0; i < PAGE_BYTES / sizeof(*at); i += 4) {
        __m256i any = _mm256_or_si256(_mm256_or_si256(at[i], at[i + 1]),
                                      _mm256_or_si256(at[i + 2], at[i + 3]));
        if (!_mm256_testz_si256(any, any))
            return false;
    }
    return true;
}

__attribute__((target("avx512f"))) static bool avx512(const uint8_t *page)
{
    const __m512i *at = (const __m512i *)(const void *)page;
    for (unsigned i = 0; i < PAGE_BYTES / sizeof(*at); i += 4) {
        __m512i any = _mm512_or_si512(_mm512_or_si512(at[i], at[i + 1]),
                                      _mm512_or_si512(at[i + 2], at[i + 3]));
        if (_mm512_test_epi64_mask(any, any))
            return false;
    }
    return true;
}
#endif

mem_zero_fn *mem_zero_get(enum mem_zero_kind kind)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (kind == MEM_ZERO_AVX512)
        return __builtin_cpu_supports("avx512f") ? avx512 : NULL;
    if (kind == MEM_ZERO_AVX2)
        return __builtin_cpu_supports("avx2") ? avx2 : NULL;
#endif
    return kind == MEM_ZERO_PORTABLE ? portable : NULL;
}

mem_zero_fn *mem_zero_pick(void)
{
    mem_zero_fn *best = NULL;
    for (int kind = MEM_ZERO_MAX - 1; !best && kind >= 0; kind--)
        best = mem_zero_get((enum mem_zero_kind)kind);
    return best;
}
