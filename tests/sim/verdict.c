/* The quiet end of a run: exactly one VM, or a named state that a person can recover from. */
#include "world.h"

const char *outcome_name(enum outcome outcome)
{
    static const char *const names[] = {
        "BROKEN",         "moved",          "stayed",       "stayed, stale copy",
        "died at source", "died at target", "target holds", "source asks",
        "source keeps",   "lost",           "stranded",
    };
    _Static_assert(ARRAY_LEN(names) == OUTCOME_MAX, "one name an outcome");
    return names[outcome];
}

static enum outcome broken(struct world *w, const char *why)
{
    world_broken(w, "quiet, but %s (source %s%s%s, target %s%s%s; records %d, %d)", why,
                 source_state_name(w->source.state),
                 w->source_runs  ? " runs"
                 : w->source_has ? " paused"
                                 : "",
                 w->host[SIDE_SOURCE].alive ? "" : " dead", target_state_name(w->target.state),
                 w->target_runs  ? " runs"
                 : w->target_has ? " holds"
                                 : "",
                 w->host[SIDE_TARGET].alive ? "" : " dead", w->host[SIDE_SOURCE].disk.record,
                 w->host[SIDE_TARGET].disk.record);
    return OUTCOME_BROKEN;
}

static enum outcome judge_source_runs(struct world *w)
{
    bool held = w->host[SIDE_TARGET].alive && w->target_has;
    if (w->source.state != SOURCE_FAILED)
        return broken(w, "the source runs and its engine has not ended");
    if (!held)
        return OUTCOME_STAYED;
    if (w->source.target_gone || w->target.state != TARGET_UNCERTAIN)
        return broken(w, "the target holds a copy it was told to free");
    if (w->stopped_telling)
        return OUTCOME_STAYED_COPY;
    /* Else the source must have tried for its limit, and in vain for a reason: long enough without
     * trouble, it would have got through. */
    if (!w->withdraw_ns || w->failed_ns - w->withdraw_ns < w->source.config.withdraw_limit_ns)
        return broken(w, "the source never told the target to free its copy");
    if (w->failed_ns > w->trouble_ns + 20 * CLOCK_SECOND)
        return broken(w, "the source told the target in vain");
    return OUTCOME_STAYED_COPY;
}

/* Half the guest died with the source. */
static enum outcome judge_stranded(struct world *w)
{
    if (!w->host[SIDE_SOURCE].crashed && !w->abandoned)
        return broken(w, "the target is stranded, and the source has not died");
    if (w->source_has || !w->absent)
        return broken(w, "the target is stranded without need");
    if (w->target.reason == 0)
        return broken(w, "the target is stranded and does not say why");
    return OUTCOME_STRANDED;
}

static enum outcome judge_target_runs(struct world *w)
{
    if (w->target.state == TARGET_STRANDED)
        return judge_stranded(w);
    if (w->absent)
        return broken(w, "pages were lost");
    if (w->target.state != TARGET_ACTIVE)
        return broken(w, "the target runs and is not active");
    if (w->host[SIDE_SOURCE].alive && (w->source.state != SOURCE_DONE || w->source_has))
        return broken(w, "the target runs and the source has not ended");
    return OUTCOME_MOVED;
}

/* The operator's ways out are tried as soon as the state calls for them: they must work. */
static enum outcome judge_source_paused(struct world *w)
{
    bool died = w->source.reason == REASON_TARGET_DIED;
    bool answered = w->host[SIDE_TARGET].alive && !w->wiped;

    if (w->source.state == SOURCE_SERVING) {
        if (answered || !w->host[SIDE_TARGET].crashed)
            return broken(w, "the target is there and the source still serves");
        w->abandoned = true;
        world_source(w, &(struct source_event){ .kind = SOURCE_FORGET });
        return w->source.state == SOURCE_DONE && !w->source_has ? OUTCOME_DIED_AT_TARGET
                                                                : broken(w, "FORGET did not");
    }
    if (w->source.state != SOURCE_UNCERTAIN)
        return broken(w, "the source is paused and does not ask");
    if (answered && !died)
        return broken(w, "the target is there and the source is still uncertain");
    if (died && w->host[SIDE_TARGET].disk.record != RECORD_HERE)
        return broken(w, "the target is said to have died as the owner and was not");
    if (w->target_ran) {
        world_source(w, &(struct source_event){ .kind = SOURCE_FORGET });
        if (w->source.state != SOURCE_DONE || w->source_has)
            return broken(w, "FORGET did not");
    } else {
        w->person = true;
        world_source(w, &(struct source_event){ .kind = SOURCE_TAKE_BACK });
        world_play(w, w->now_ns + 200 * CLOCK_SECOND);
        if (!w->source_runs)
            return broken(w, "TAKE_BACK did not");
    }
    if (w->broken)
        return OUTCOME_BROKEN;
    return died ? OUTCOME_SOURCE_KEEPS : OUTCOME_SOURCE_ASKS;
}

static enum outcome judge_target_holds(struct world *w)
{
    if (w->host[SIDE_SOURCE].alive && !(w->source.state == SOURCE_FAILED && w->source.recovered))
        return broken(w, "the target holds the guest and a living source does nothing about it");
    if (w->host[SIDE_SOURCE].disk.record == RECORD_HERE)
        return OUTCOME_DIED_AT_SOURCE; /* the copy may be stale */
    if (w->target.post_copy) {
        world_target(w, &(struct target_event){ .kind = TARGET_ADOPT });
        world_play(w, w->now_ns + 10 * CLOCK_SECOND);
        return w->target_runs ? broken(w, "half a guest was adopted") : OUTCOME_LOST;
    }
    if (w->host[SIDE_SOURCE].alive)
        return broken(w, "a recovered source gave up a guest that the target holds");
    if (w->target.state != TARGET_UNCERTAIN)
        return broken(w, "the target holds the guest and can't be told to adopt it");
    w->commit_delivered = true; /* the person is */
    world_target(w, &(struct target_event){ .kind = TARGET_ADOPT });
    world_play(w, w->now_ns + 10 * CLOCK_SECOND);
    if (!w->target_runs || w->target.state != TARGET_ACTIVE)
        return broken(w, "ADOPT did not");
    return w->broken ? OUTCOME_BROKEN : OUTCOME_TARGET_HOLDS;
}

static enum outcome judge_nowhere(struct world *w)
{
    bool source_died = w->host[SIDE_SOURCE].crashed, target_died = w->host[SIDE_TARGET].crashed;

    if (target_died && (w->host[SIDE_TARGET].disk.record == RECORD_HERE || w->target_ran))
        return OUTCOME_DIED_AT_TARGET;
    if (source_died && w->host[SIDE_SOURCE].disk.record == RECORD_HERE)
        return OUTCOME_DIED_AT_SOURCE;
    if (source_died && (target_died || w->operator_freed || w->target.post_copy))
        return OUTCOME_LOST;
    return broken(w, "the guest is nowhere");
}

enum outcome world_judge(struct world *w)
{
    if (w->source_runs)
        return judge_source_runs(w);
    if (w->target_runs)
        return judge_target_runs(w);
    if (w->source_has)
        return judge_source_paused(w);
    if (w->target_has)
        return judge_target_holds(w);
    return judge_nowhere(w);
}
