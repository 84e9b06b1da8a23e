/*
 * The picture of a recording: how fast pages were written, how many different ones in a window, how often
 * each; and what a move would cost over the links that were asked about.
 *
 * Colours are style classes with a value for light and one for dark viewers; modes also differ by the shape of
 * their marks and dashes, so nothing is told by colour alone. Text and background are always drawn with
 * colours of our own, so that a viewer that knows no preferences shows the light form whole.
 */
#include "base/gpa.h"
#include "cost/show.h"
#include "wws/report.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define WIDTH 1000
#define HEIGHT 1010
#define MIB (1024.0 * 1024.0)
#define RATE_POINTS_MAX 800
#define BINS 20

/* A panel: its frame on the page, and what its axes span. Logarithmic axes span powers of ten. */
struct panel {
    FILE *out;
    double x, y, w, h;
    double x_min, x_max, y_min, y_max;
    bool x_log, y_log;
};

static const char style[] =
    "svg{color-scheme:light dark}text{font:13px system-ui,sans-serif;fill:#222}.bg{fill:#fff}"
    ".title{font-weight:600;font-size:15px}.head{font-weight:600;font-size:20px}.small{font-size:12px}"
    ".grid{stroke:#ddd;stroke-width:1}.axis{stroke:#555;stroke-width:1;fill:none}"
    ".line{fill:none;stroke-width:2}.area{fill:#0b63c4;fill-opacity:.15;stroke:none}"
    ".c0{stroke:#0b63c4}.c1{stroke:#b3420a}.c2{stroke:#1a7a35}.c3{stroke:#7a2ea8}"
    ".m0{fill:#0b63c4}.m1{fill:#b3420a}.m2{fill:#1a7a35}.m3{fill:#7a2ea8}"
    ".goal{stroke:#777;stroke-width:1.5;stroke-dasharray:2 4}"
    "@media (prefers-color-scheme:dark){text{fill:#e6e6e6}.bg{fill:#15181c}.grid{stroke:#333a42}"
    ".axis{stroke:#9aa4ae}.area{fill:#6cb2ff}.goal{stroke:#9aa4ae}.c0{stroke:#6cb2ff}.c1{stroke:#ff9a5c}"
    ".c2{stroke:#6fd08c}.c3{stroke:#d29bff}.m0{fill:#6cb2ff}.m1{fill:#ff9a5c}.m2{fill:#6fd08c}"
    ".m3{fill:#d29bff}}";

static const char *const dashes[PREDICT_MODE_MAX] = { "", "", "7 4", "3 3" };

static double get(const json_t *object, const char *key)
{
    double value = json_number_value(json_object_get(object, key));
    return value > 0 ? value : 0;
}

static const char *text(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    return value ? value : "";
}

static void put_escaped(FILE *out, const char *text)
{
    char clean[256];
    show_clean(clean, sizeof(clean), text);
    for (const char *at = clean; *at; at++) {
        if (*at == '<')
            (void)fputs("&lt;", out);
        else if (*at == '&')
            (void)fputs("&amp;", out);
        else
            (void)fputc(*at, out);
    }
}

static double place(double v, double min, double max, bool log)
{
    if (log) {
        v = log10(fmax(v, min)), min = log10(min), max = log10(max);
    }
    return max > min ? fmin(fmax((v - min) / (max - min), 0), 1) : 0;
}

static double at_x(const struct panel *p, double v)
{
    return p->x + p->w * place(v, p->x_min, p->x_max, p->x_log);
}

static double at_y(const struct panel *p, double v)
{
    return p->y + p->h * (1 - place(v, p->y_min, p->y_max, p->y_log));
}

/* The next round step (1, 2 or 5 times a power of ten) that makes at most six of a span. */
static double round_step(double span)
{
    double power = pow(10, floor(log10(span / 6)));
    static const double factor[] = { 1, 2, 5, 10 };
    for (size_t i = 0; i < ARRAY_LEN(factor); i++)
        if (span / (power * factor[i]) <= 6)
            return power * factor[i];
    return power * 10;
}

/* Widens an axis to round ends. */
static void round_axis(double *min, double *max, bool log)
{
    if (log) {
        *min = pow(10, floor(log10(*min) + 1e-9));
        *max = pow(10, ceil(log10(*max) - 1e-9));
        if (*max <= *min)
            *max = *min * 10;
        return;
    }
    *min = 0;
    *max = *max > 0 ? *max : 1;
    double step = round_step(*max);
    *max = ceil(*max / step - 1e-9) * step;
}

static void tick(const struct panel *p, bool is_x, double v)
{
    char label[32];
    (void)snprintf(label, sizeof(label), "%.6g", v);
    if (is_x)
        (void)fprintf(p->out,
                      "<line class='grid' x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f'/>"
                      "<text class='small' x='%.1f' y='%.1f' text-anchor='middle'>%s</text>\n",
                      at_x(p, v), p->y, at_x(p, v), p->y + p->h, at_x(p, v), p->y + p->h + 17,
                      label);
    else
        (void)fprintf(p->out,
                      "<line class='grid' x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f'/>"
                      "<text class='small' x='%.1f' y='%.1f' text-anchor='end'>%s</text>\n",
                      p->x, at_y(p, v), p->x + p->w, at_y(p, v), p->x - 6, at_y(p, v) + 4, label);
}

static void ticks(const struct panel *p, bool is_x, double min, double max, bool decades)
{
    if (decades) {
        unsigned count = (unsigned)lround(log10(max / min));
        for (unsigned i = 0; i <= count; i++)
            tick(p, is_x, min * pow(10, i));
        return;
    }
    double step = round_step(max);
    for (int i = 0; i * step <= max * 1.001; i++)
        tick(p, is_x, i * step);
}

static void frame(struct panel *p, const char *title, const char *x_label, const char *y_label)
{
    round_axis(&p->x_min, &p->x_max, p->x_log);
    round_axis(&p->y_min, &p->y_max, p->y_log);
    (void)fprintf(p->out, "<text class='title' x='%.1f' y='%.1f'>%s</text>\n", p->x - 45, p->y - 14,
                  title);
    ticks(p, true, p->x_min, p->x_max, p->x_log);
    ticks(p, false, p->y_min, p->y_max, p->y_log);
    (void)fprintf(
        p->out,
        "<rect class='axis' x='%.1f' y='%.1f' width='%.1f' height='%.1f'/>"
        "<text x='%.1f' y='%.1f' text-anchor='middle'>%s</text>"
        "<text transform='translate(%.1f %.1f) rotate(-90)' text-anchor='middle'>%s</text>\n",
        p->x, p->y, p->w, p->h, p->x + p->w / 2, p->y + p->h + 36, x_label, p->x - 46,
        p->y + p->h / 2, y_label);
}

static struct panel panel_at(FILE *out, unsigned column, unsigned row)
{
    return (struct panel){
        .out = out, .x = 75 + 500 * column, .y = 100 + 310 * row, .w = 390, .h = 215
    };
}

/* ---------------------------------------------------------------------------------------- the panels */

static void draw_rate(FILE *out, const json_t *report)
{
    const json_t *list = json_object_get(report, "dirty_rate");
    size_t n = json_array_size(list), group = n / RATE_POINTS_MAX + 1;
    struct panel p = panel_at(out, 0, 0);
    p.x_max = get(json_array_get(list, n ? n - 1 : 0), "until_ns") / 1e9;
    for (int drawing = 0; drawing < 2; drawing++) {
        double from = 0;
        if (drawing) {
            frame(&p, "Pages written, over time", "time, s", "MiB/s");
            (void)fprintf(out, "<path class='line c0' d='M%.1f %.1f", at_x(&p, 0), at_y(&p, 0));
        }
        for (size_t i = 0; i < n; i += group) {
            double pages = 0, ns = 0;
            for (size_t j = i; j < n && j < i + group; j++) {
                pages += get(json_array_get(list, j), "pages");
                ns += get(json_array_get(list, j), "length_ns");
            }
            double rate = ns > 0 ? pages * PAGE_BYTES / MIB / (ns / 1e9) : 0;
            p.y_max = fmax(p.y_max, rate);
            if (drawing)
                (void)fprintf(out, "L%.1f %.1fL%.1f %.1f", at_x(&p, from), at_y(&p, rate),
                              at_x(&p, from + ns / 1e9), at_y(&p, rate));
            from += ns / 1e9;
        }
        if (drawing)
            (void)fprintf(out, "'/>\n");
    }
}

static void draw_unique(FILE *out, const json_t *report)
{
    const json_t *list = json_object_get(report, "unique");
    size_t n = json_array_size(list);
    struct panel p = panel_at(out, 1, 0);
    for (size_t i = 0; i < n; i++) {
        p.x_max = fmax(p.x_max, get(json_array_get(list, i), "window_ns") / 1e9);
        p.y_max = fmax(p.y_max, get(json_array_get(list, i), "pages") * PAGE_BYTES / MIB);
    }
    frame(&p, "Different pages written in a window", "length of the window, s", "MiB");
    (void)fprintf(out, "<path class='line c0' d='M%.1f %.1f", at_x(&p, 0), at_y(&p, 0));
    for (size_t i = 0; i < n; i++)
        (void)fprintf(out, "L%.1f %.1f", at_x(&p, get(json_array_get(list, i), "window_ns") / 1e9),
                      at_y(&p, get(json_array_get(list, i), "pages") * PAGE_BYTES / MIB));
    (void)fprintf(out, "'/>\n");
}

static void draw_times(FILE *out, const json_t *report)
{
    const json_t *list = json_object_get(report, "times_written");
    double bin[BINS] = { 0 }, n = fmax(get(report, "intervals"), 1);
    struct panel p = panel_at(out, 0, 1);
    for (size_t i = 0; i < json_array_size(list); i++) {
        double k = get(json_array_get(list, i), "intervals");
        if (k < 1 || k > n)
            continue; /* pages never written would dwarf the rest: the summary has them */
        size_t at = (size_t)fmin(ceil(k / n * BINS), BINS) - 1;
        bin[at] += get(json_array_get(list, i), "pages") * PAGE_BYTES / MIB;
        p.y_max = fmax(p.y_max, bin[at]);
    }
    p.x_max = 100;
    frame(&p, "Pages by how often they were written", "written in so many of the intervals, %",
          "MiB");
    for (unsigned i = 0; i < BINS; i++)
        if (bin[i] > 0)
            (void)fprintf(out, "<rect class='m0' x='%.1f' y='%.1f' width='%.1f' height='%.1f'/>\n",
                          at_x(&p, 100.0 * i / BINS) + 1, at_y(&p, bin[i]), p.w / BINS - 2,
                          p.y + p.h - at_y(&p, bin[i]));
}

static void draw_summary(FILE *out, const json_t *report)
{
    const json_t *memory = json_object_get(report, "memory"),
                 *disturbance = json_object_get(report, "disturbance");
    const json_t *first = json_array_get(json_object_get(report, "times_written"), 0);
    double never = get(first, "intervals") > 0 ? 0 : get(first, "pages");
    struct panel p = panel_at(out, 1, 1);
    char line[8][128];
    unsigned n = 0;
    const double unit = PAGE_BYTES / MIB;

    (void)snprintf(line[n++], 128, "%.0f intervals of %.4g ms", get(report, "intervals"),
                   get(report, "mean_interval_ns") / 1e6);
    (void)snprintf(line[n++], 128, "memory: %.0f MiB", get(memory, "pages") * unit);
    (void)snprintf(line[n++], 128, "touched: %.1f MiB, of that zero: about %.1f MiB",
                   get(memory, "touched_pages") * unit, get(memory, "zero_pages") * unit);
    (void)snprintf(line[n++], 128, "never written meanwhile: %.1f MiB", never * unit);
    (void)snprintf(line[n++], 128, "disturbance: about %.2f %% of the time the guest ran,",
                   get(disturbance, "guest_share") * 100);
    (void)snprintf(line[n++], 128, "at most %.0f faults, assumed %.1f us each",
                   get(disturbance, "faults_at_most"), get(disturbance, "fault_ns") / 1e3);
    (void)snprintf(line[n++], 128, "a sample took %.3g ms, at most %.3g ms",
                   get(disturbance, "sample_ns") / 1e6, get(disturbance, "sample_max_ns") / 1e6);
    (void)fprintf(out, "<text class='title' x='%.1f' y='%.1f'>Recorded</text>\n", p.x - 45,
                  p.y - 14);
    for (unsigned i = 0; i < n; i++)
        (void)fprintf(out, "<text x='%.1f' y='%.1f'>%s</text>\n", p.x - 45, p.y + 16 + 24 * i,
                      line[i]);
}

static void mark(FILE *out, enum predict_mode mode, double x, double y)
{
    switch (mode) {
    case PREDICT_STOP_COPY:
        (void)fprintf(out, "<rect class='m0' x='%.1f' y='%.1f' width='8' height='8'/>\n", x - 4,
                      y - 4);
        break;
    case PREDICT_PRE_COPY:
        (void)fprintf(out, "<circle class='m1' cx='%.1f' cy='%.1f' r='4.5'/>\n", x, y);
        break;
    case PREDICT_POST_COPY:
        (void)fprintf(out, "<path class='m2' d='M%.1f %.1fl5 9h-10z'/>\n", x, y - 5);
        break;
    default:
        (void)fprintf(out, "<path class='m3' d='M%.1f %.1fl5 5l-5 5l-5 -5z'/>\n", x, y - 5);
        break;
    }
}

static void draw_mode(const struct panel *p, const json_t *list, enum predict_mode mode,
                      const char *key, double scale)
{
    char command = 'M';
    for (int marks = 0; marks < 2; marks++) {
        if (!marks)
            (void)fprintf(p->out, "<path class='line c%d' stroke-dasharray='%s' d='", (int)mode,
                          dashes[mode][0] ? dashes[mode] : "none");
        for (size_t i = 0; i < json_array_size(list); i++) {
            const json_t *point = json_array_get(list, i);
            if (strcmp(text(point, "mode"), predict_mode_name(mode)) != 0)
                continue;
            double x = at_x(p, get(point, "bytes_per_s") / 125000),
                   y = at_y(p, get(point, key) / scale);
            if (marks) {
                mark(p->out, mode, x, y);
            } else {
                (void)fprintf(p->out, "%c%.1f %.1f", command, x, y);
                command = 'L';
            }
        }
        if (!marks)
            (void)fprintf(p->out, "'/>\n");
    }
}

static void draw_predictions(FILE *out, const json_t *report, unsigned column, const char *title,
                             const char *key, const char *unit, double scale, double goal)
{
    const json_t *list = json_object_get(report, "predictions");
    struct panel p = panel_at(out, column, 2);
    p.x_log = p.y_log = true;
    p.x_min = p.y_min = INFINITY;
    for (size_t i = 0; i < json_array_size(list); i++) {
        double x = get(json_array_get(list, i), "bytes_per_s") / 125000;
        double y = get(json_array_get(list, i), key) / scale;
        if (x <= 0 || y <= 0)
            continue;
        p.x_min = fmin(p.x_min, x), p.x_max = fmax(p.x_max, x);
        p.y_min = fmin(p.y_min, y), p.y_max = fmax(p.y_max, y);
    }
    if (!(p.x_max > 0))
        return; /* no link was asked about */
    frame(&p, title, "link, Mbit/s", unit);
    if (goal > 0)
        (void)fprintf(
            out,
            "<line class='goal' x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f'/>"
            "<text class='small' x='%.1f' y='%.1f' text-anchor='end'>most allowed</text>\n",
            p.x, at_y(&p, goal), p.x + p.w, at_y(&p, goal), p.x + p.w - 4, at_y(&p, goal) - 4);
    for (enum predict_mode mode = 0; mode < PREDICT_MODE_MAX; mode++)
        draw_mode(&p, list, mode, key, scale);
}

static void draw_legend(FILE *out)
{
    for (enum predict_mode mode = 0; mode < PREDICT_MODE_MAX; mode++) {
        double x = 75 + 130 * (double)mode, y = HEIGHT - 18;
        (void)fprintf(out,
                      "<path class='line c%d' stroke-dasharray='%s' d='M%.1f %.1fh34'/>"
                      "<text x='%.1f' y='%.1f'>%s</text>\n",
                      (int)mode, dashes[mode][0] ? dashes[mode] : "none", x, y, x + 42, y + 4,
                      predict_mode_name(mode));
        mark(out, mode, x + 17, y);
    }
}

void report_svg(const json_t *report, FILE *out)
{
    (void)fprintf(
        out,
        "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' viewBox='0 0 %d %d' "
        "role='img' aria-label='Writable working set'>\n<style>%s</style>\n"
        "<rect class='bg' width='%d' height='%d'/>\n"
        "<text class='head' x='30' y='44'>Writable working set of ",
        WIDTH, HEIGHT, WIDTH, HEIGHT, style, WIDTH, HEIGHT);
    put_escaped(out, text(report, "name"));
    (void)fprintf(out, "</text>\n");
    draw_rate(out, report);
    draw_unique(out, report);
    draw_times(out, report);
    draw_summary(out, report);
    draw_predictions(out, report, 0, "Predicted downtime", "downtime_ns", "ms", 1e6,
                     get(report, "max_downtime_ns") / 1e6);
    draw_predictions(out, report, 1, "Predicted total time", "total_ns", "s", 1e9, 0);
    draw_legend(out);
    (void)fprintf(out, "</svg>\n");
}
