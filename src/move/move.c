#include "move/move.h"
#include "base/clock.h"

#define REPORT_EVERY_NS (100 * CLOCK_MSEC)

void move_progress_report(const struct move_env *env, struct move_progress *progress,
                          enum bill_stage stage)
{
    uint64_t now = clock_now_ns();
    if (stage == progress->stage && now - progress->last_ns < REPORT_EVERY_NS && progress->last_ns)
        return;
    uint64_t window = now - progress->rate_since_ns;
    if (window >= REPORT_EVERY_NS) {
        progress->rate_bytes_per_s =
            (progress->bytes - progress->rate_bytes) * CLOCK_SECOND / window;
        progress->rate_since_ns = now;
        progress->rate_bytes = progress->bytes;
    }
    progress->stage = stage;
    progress->last_ns = now;
    env->hooks.event(env->hooks.ctx, "move.progress",
                     json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "stage",
                               bill_stage_name(stage), "round", (json_int_t)progress->round,
                               "pages_sent", (json_int_t)progress->pages_sent, "pages_left",
                               (json_int_t)progress->pages_left, "bytes",
                               (json_int_t)progress->bytes, "rate_bytes_per_s",
                               (json_int_t)progress->rate_bytes_per_s, "dirty_pages_per_s",
                               (json_int_t)progress->dirty_pages_per_s, "limit_bytes_per_s",
                               (json_int_t)progress->limit_bytes_per_s, "elapsed_ns",
                               (json_int_t)(now - progress->began_ns)));
}

enum bill_stage move_bill_stage(enum move_stage stage)
{
    static const enum bill_stage stages[STAGE_MAX] = {
        [STAGE_PRE_MIGRATION] = BILL_PRE_MIGRATION,
        [STAGE_RESERVATION] = BILL_RESERVATION,
        [STAGE_PRE_COPY] = BILL_PRE_COPY,
        [STAGE_STOP_AND_COPY] = BILL_STOP_AND_COPY,
        [STAGE_COMMITMENT] = BILL_COMMITMENT,
        [STAGE_ACTIVATION] = BILL_ACTIVATION,
        [STAGE_PULLING] = BILL_PULLING,
    };
    ASSERT(stage > STAGE_NONE && stage < STAGE_MAX);
    return stages[stage];
}
