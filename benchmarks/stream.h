/*
 * One client's reading of an answer: HTTP/1.1 head, chunks, Server-Sent Events.
 *
 * Bytes come in pieces of any size. Of each line only the beginning is kept,
 * as far as a number and an id may stand in it. An event carries its number and the
 * time at which it was made (CLOCK_MONOTONIC, ns) anywhere near the beginning of its
 * data, as #NUMBER@TIME#; whatever is around it is not looked at.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { LINE = 256, ID = 48 };
enum phase { HEAD, RAW, SIZE, CHUNK, AFTER_CHUNK, ENDED };

struct stream {
    enum phase phase;
    int status;              /* 0 before the first line */
    int chunked;
    uint64_t left;           /* of this chunk */
    int has_data;            /* since the last blank line */
    uint64_t number, made;   /* of the event that is being read; 0 if it has none */
    int length;              /* of what is kept of a line that is not whole yet */
    char line[LINE];
    char next_id[ID], id[ID];
};

/* What the reader is told: an event is whole. */
static void on_event(struct stream *stream);

static void stream_begin(struct stream *s) {
    char id[ID];
    memcpy(id, s->id, ID);
    memset(s, 0, sizeof *s);
    memcpy(s->id, id, ID);
}

static void head_line(struct stream *s, const char *line, int n) {
    static const char chunked[] = "transfer-encoding: chunked";
    if (n == 0)
        s->phase = s->chunked ? SIZE : RAW;
    else if (s->status == 0)
        s->status = n > 12 ? atoi(line + 9) : -1;
    else if (n == sizeof chunked - 1 && strncasecmp(line, chunked, n) == 0)
        s->chunked = 1;
}

static void find_number(struct stream *s, const char *line, int n) {
    const char *end = line + (n < LINE ? n : LINE);
    const char *at = memchr(line, '#', end - line);
    uint64_t number = 0, made = 0;
    if (at == NULL)
        return;
    for (at++; at < end && *at >= '0' && *at <= '9'; at++)
        number = number * 10 + (*at - '0');
    if (at == end || *at != '@')
        return;
    for (at++; at < end && *at >= '0' && *at <= '9'; at++)
        made = made * 10 + (*at - '0');
    if (at < end && *at == '#')
        s->number = number, s->made = made;
}

static void body_line(struct stream *s, const char *line, int n) {
    if (n == 0) {
        if (s->next_id[0])
            memcpy(s->id, s->next_id, ID);
        if (s->has_data)
            on_event(s);
        s->has_data = 0;
        s->number = s->made = 0;
        s->next_id[0] = 0;
    } else if (n >= 5 && memcmp(line, "data:", 5) == 0) {
        s->has_data = 1;
        if (s->number == 0)
            find_number(s, line, n);
    } else if (n > 3 && memcmp(line, "id:", 3) == 0) {
        const char *id = line + 3 + (line[3] == ' ');
        int length = line + n - id;
        if (length < ID) {
            memcpy(s->next_id, id, length);
            s->next_id[length] = 0;
        }
    }
}

static void one_line(struct stream *s, const char *line, int n) {
    if (n > 0 && line[n - 1] == '\r')
        n--;
    if (s->phase == HEAD)
        head_line(s, line, n);
    else
        body_line(s, line, n);
}

/* Lines of the head, or of the body; how much of it was taken. */
static size_t lines(struct stream *s, const char *data, size_t n) {
    enum phase phase = s->phase;
    const char *at = data, *end = data + n;
    while (at < end && s->phase == phase) {
        const char *stop = memchr(at, '\n', end - at);
        size_t part = (stop ? stop : end) - at;
        if (stop && s->length == 0) {
            one_line(s, at, part);
        } else {
            size_t room = LINE - s->length;
            size_t kept = part < room ? part : room;
            memcpy(s->line + s->length, at, kept);
            s->length += kept;
            if (stop) {
                int length = s->length;
                s->length = 0;
                one_line(s, s->line, length);
            }
        }
        at += part + (stop != NULL);
    }
    return at - data;
}

static size_t chunk_size(struct stream *s, const char *data, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char c = data[i];
        if (c == '\n') {
            s->phase = s->left ? CHUNK : ENDED;
            return i + 1;
        }
        if (c >= '0' && c <= '9')
            s->left = s->left * 16 + (c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            s->left = s->left * 16 + ((c | 32) - 'a' + 10);
    }
    return n;
}

static size_t chunk(struct stream *s, const char *data, size_t n) {
    size_t part = n < s->left ? n : s->left;
    lines(s, data, part);
    s->left -= part;
    if (s->left == 0)
        s->phase = AFTER_CHUNK;
    return part;
}

static void stream_feed(struct stream *s, const char *data, size_t n) {
    while (n > 0 && s->phase != ENDED) {
        size_t taken = n;
        if (s->phase == HEAD || s->phase == RAW)
            taken = lines(s, data, n);
        else if (s->phase == SIZE)
            taken = chunk_size(s, data, n);
        else if (s->phase == CHUNK)
            taken = chunk(s, data, n);
        else {
            const char *stop = memchr(data, '\n', n);
            if (stop) {
                taken = stop - data + 1;
                s->phase = SIZE;
            }
        }
        data += taken;
        n -= taken;
    }
}
