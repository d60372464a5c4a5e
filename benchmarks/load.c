/*
 * Clients by the thousand on one epoll, and the publisher that they listen to.
 *
 *     load PORT HEADS [PUBLISH]
 *
 * HEADS is a file of request heads without their last blank line, divided by NUL; client
 * i sends the head i modulo their number. PUBLISH is a file with the head of the POST
 * with which the publisher publishes 100 bytes. Commands come by lines on stdin; each is
 * answered with one JSON object on stdout when it has been obeyed. Times are ms:
 *
 *     open COUNT PER_SECOND PENDING   connect until so many are there, at most PENDING unanswered
 *     publish TIME BATCH EVERY_US PID    at each round BATCH events; a round begins only when
 *                                     all clients have all of the last. If there is a PID,
 *                                     that process is stopped while the events are sent,
 *                                     each on a connection of its own, and so finds them
 *                                     all at once, as if it had been busy meanwhile
 *     watch TIME                      read, and count
 *     follow TIME                     the same, of events that another load publishes: a round
 *                                     begins with the first delivery of an event, and is
 *                                     told from when that was made
 *     storm PER_SECOND EVERY AWAY AFTER   publish; drop all clients; AWAY later they
 *                                     return with their last ids; go on for AFTER
 *     close                           drop all clients, and forget what they have
 *
 * What is counted begins anew with each command.
 */
#define _GNU_SOURCE
#include "histogram.h"
#include "stream.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CLIENTS = 65536, HEADS = 4096, PUBLISHERS = 64, BODY = 100, READ = 1 << 18, ENDS = 1024 };
enum { STDIN = CLIENTS, PUBLISHER }; /* and the publishers after it */
#define MS 1000000ull
#define SECOND 1000000000ull
#define PATIENCE (10 * SECOND) /* for what is still to come at the end of a command */

enum state { CLOSED, CONNECTING, WAITING, OPEN };

struct client {
    struct stream stream; /* the first member: on_event gets back from there */
    int fd, owes;
    enum state state;
    uint64_t last, target; /* number of its newest event; of the one with which it is resumed */
};

static struct client clients[CLIENTS];
static struct histogram latency, rounds;
static char *heads[HEADS], *publish_head, buffer[READ];
static int head_count, epoll, port, ended, terminal;
static int open_now, pending, opened;    /* opened: how many of the clients were begun with */
static uint64_t events, numbered, lost, doubled, failed, dropped, bytes, refused, answered;
static uint64_t number, awaited, round_began; /* the newest published; deliveries yet to come */
static uint64_t owing, resumed_at, published;
static int batch, publishers[PUBLISHERS], publisher_count, following;
static struct { uint64_t number, took; } ends[ENDS]; /* of the first rounds of a command */
static int end_count;

static uint64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

static uint64_t cpu_ns(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * SECOND +
           (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1000ull;
}

/* Reading. */

static void round_over(uint64_t took) {
    histogram_add(&rounds, took);
    if (end_count < ENDS) {
        ends[end_count].number = number;
        ends[end_count++].took = took;
    }
}

static void round_from_elsewhere(struct stream *stream) {
    number = stream->number;
    round_began = stream->made;
    awaited = open_now;
}

static void on_event(struct stream *stream) {
    struct client *client = (struct client *)stream;
    events++;
    if (stream->number == 0)
        return;
    numbered++;
    if (stream->number <= client->last) {
        doubled++;
        return;
    }
    if (client->last > 0)
        lost += stream->number - client->last - 1;
    client->last = stream->number;
    uint64_t now = clock_ns();
    histogram_add(&latency, now - stream->made);
    if (following && stream->number > number)
        round_from_elsewhere(stream);
    if (awaited > 0 && stream->number + batch > number && --awaited == 0)
        round_over(now - round_began);
    if (client->owes && client->last >= client->target) {
        client->owes = 0;
        if (--owing == 0)
            resumed_at = now;
    }
}

static void hang_up(struct client *client) {
    if (client->state == OPEN)
        open_now--;
    else if (client->state != CLOSED)
        pending--;
    if (client->state != CLOSED)
        close(client->fd);
    client->state = CLOSED;
}

static void answered_head(struct client *client) {
    if (client->stream.status != 200) {
        if (failed++ == 0)
            fprintf(stderr, "load: answered %d\n", client->stream.status);
        hang_up(client);
        return;
    }
    client->state = OPEN;
    pending--;
    open_now++;
    if (client->owes && client->last >= client->target) {
        client->owes = 0;
        if (--owing == 0)
            resumed_at = clock_ns();
    }
}

static void readable(struct client *client) {
    ssize_t n = recv(client->fd, buffer, READ, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n > 0) {
        bytes += n;
        stream_feed(&client->stream, buffer, n);
        if (client->state == WAITING && client->stream.phase != HEAD)
            answered_head(client);
        return;
    }
    if (client->state == OPEN)
        dropped++;
    else
        failed++;
    hang_up(client);
}

/* Connecting. */

static void send_head(struct client *client) {
    char request[READ / 16];
    const char *id = client->stream.id;
    int n = snprintf(request, sizeof request, "%s%s%s%s\r\n",
                     heads[(client - clients) % head_count], id[0] ? "Last-Event-ID: " : "", id,
                     id[0] ? "\r\n" : "");
    stream_begin(&client->stream);
    client->state = WAITING;
    client->target = number;
    epoll_ctl(epoll, EPOLL_CTL_MOD, client->fd,
              &(struct epoll_event){.events = EPOLLIN, .data.u64 = client - clients});
    if (send(client->fd, request, n, MSG_NOSIGNAL) != n) {
        failed++;
        hang_up(client);
    }
}

static int connected_socket(uint32_t source, int flags) {
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | flags, 0);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){1}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (bind(fd, (void *)&from, sizeof from) ||
        (connect(fd, (void *)&to, sizeof to) && errno != EINPROGRESS)) {
        perror("load: connect");
        close(fd);
        return -1;
    }
    return fd;
}

/* From several addresses of loopback: there are 28,000 ports to each. */
static void begin(struct client *client) {
    client->fd = connected_socket(INADDR_LOOPBACK + (client - clients) % 4, SOCK_NONBLOCK);
    if (client->fd < 0) {
        failed++;
        return;
    }
    client->state = CONNECTING;
    pending++;
    epoll_ctl(epoll, EPOLL_CTL_ADD, client->fd,
              &(struct epoll_event){.events = EPOLLOUT, .data.u64 = client - clients});
}

static void client_event(struct client *client, uint32_t what) {
    if (client->state == CLOSED)
        return;
    if (client->state != CONNECTING) {
        readable(client);
    } else if (what & (EPOLLERR | EPOLLHUP)) {
        failed++;
        hang_up(client);
    } else {
        send_head(client);
    }
}

/* Publishing. */

static int add_event(char *to) {
    char body[BODY + 1];
    int n = snprintf(body, sizeof body, "{\"stamp\":\"#%lu@%lu#\",\"pad\":\"", ++number, clock_ns());
    memset(body + n, 'x', BODY - n - 2);
    memcpy(body + BODY - 2, "\"}", 3);
    return sprintf(to, "%s\r\n%s", publish_head, body);
}

static void send_event(int publisher) {
    char post[READ / 16];
    int n = add_event(post);
    if (send(publisher, post, n, MSG_NOSIGNAL) != n) {
        perror("load: publish");
        exit(1);
    }
}

static void stop(int pid) {
    kill(pid, SIGSTOP);
    usleep(1000); /* until it has: it may be running on another core */
}

static void publish_round(int pid) {
    if (pid)
        stop(pid);
    round_began = clock_ns();
    published += batch;
    awaited = (uint64_t)open_now * batch;
    for (int i = 0; i < batch; i++)
        send_event(publishers[i]);
    if (pid)
        kill(pid, SIGCONT);
}

static void publisher_event(int publisher) {
    ssize_t n = recv(publisher, buffer, READ - 1, MSG_DONTWAIT);
    if (n == 0) {
        fprintf(stderr, "load: the server closed a publisher's connection\n");
        exit(1);
    }
    if (n < 0)
        return;
    buffer[n] = 0;
    for (char *at = buffer; (at = strstr(at, "HTTP/1.1 ")) != NULL; at += 9) {
        answered++;
        if (at[9] != '2' && refused++ == 0)
            fprintf(stderr, "load: publishing was answered %.60s\n", at);
    }
}

static void add_publishers(int count) {
    while (publisher_count < count) {
        int fd = publishers[publisher_count] = connected_socket(INADDR_LOOPBACK, 0);
        if (fd < 0)
            exit(1);
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd,
                  &(struct epoll_event){.events = EPOLLIN,
                                        .data.u64 = PUBLISHER + publisher_count++});
    }
}

/* The loop. */

static void turn(uint64_t until) {
    struct epoll_event found[1024];
    uint64_t now = clock_ns();
    uint64_t left = until > now ? until - now : 0;
    struct timespec wait = {left / SECOND, left % SECOND};
    int n = epoll_pwait2(epoll, found, 1024, &wait, NULL);
    for (int i = 0; i < n; i++) {
        if (found[i].data.u64 < CLIENTS)
            client_event(&clients[found[i].data.u64], found[i].events);
        else if (found[i].data.u64 >= PUBLISHER)
            publisher_event(publishers[found[i].data.u64 - PUBLISHER]);
        else
            ended = 1;
    }
}

static uint64_t sooner(uint64_t one, uint64_t other) { return one < other ? one : other; }

static void progress(const char *what, uint64_t now) {
    static uint64_t told;
    if (terminal && now - told > SECOND) {
        told = now;
        fprintf(stderr, "\r  %s: %d open, %lu events, %lu lost, %lu doubled   ", what, open_now,
                events, lost, doubled);
    }
}

static void open_some(int count, uint64_t rate, int most, uint64_t began, uint64_t now) {
    uint64_t due = (now - began) * rate / SECOND + 1;
    while (opened < count && pending < most && (uint64_t)opened < due)
        begin(&clients[opened++]);
}

static void open_clients(int count, uint64_t rate, int most) {
    uint64_t now = clock_ns(), first = opened, began = now - first * SECOND / rate;
    uint64_t until = now + PATIENCE;
    while ((opened < count || pending > 0) && now < until) {
        open_some(count, rate, most, began, now);
        int before = open_now;
        turn(now + MS);
        now = clock_ns();
        if (open_now != before)
            until = now + PATIENCE;
        progress("opening", now);
    }
}

static void settle(void) {
    uint64_t now = clock_ns(), until = now + PATIENCE;
    while (awaited > 0 && now < until) {
        turn(until);
        now = clock_ns();
    }
    awaited = 0;
}

static void publish(uint64_t time, int size, uint64_t every, int pid) {
    uint64_t now = clock_ns(), until = now + time, next = now;
    batch = size;
    add_publishers(size);
    while (now < until) {
        if (now >= next && awaited == 0) {
            publish_round(pid);
            next = next + every > now ? next + every : now;
        }
        turn(sooner(until, awaited ? until : next));
        now = clock_ns();
        progress("publishing", now);
    }
    settle();
}

static void watch(uint64_t time) {
    uint64_t now = clock_ns(), until = now + time;
    for (; now < until; now = clock_ns()) {
        turn(sooner(until, now + SECOND));
        progress("watching", now);
    }
}

static void follow(uint64_t time) {
    batch = following = 1;
    watch(time);
    settle();
    following = 0;
}

static void leave_all(void) {
    for (int i = 0; i < opened; i++) {
        hang_up(&clients[i]);
        clients[i].owes = 0;
    }
    opened = 0;
}

static void publish_due(uint64_t *next, uint64_t every, uint64_t now) {
    if (now >= *next) {
        publish_round(0);
        *next += every;
    }
}

static int all_have(uint64_t wanted, int count) {
    for (int i = 0; i < count; i++)
        if (clients[i].last < wanted)
            return 0;
    return 1;
}

/* How long from the first return until the last client has what it missed. */
static uint64_t storm(uint64_t rate, uint64_t every, uint64_t away, uint64_t after) {
    int count = opened;
    uint64_t now = clock_ns(), next = now, back = now + away, began = 0;
    batch = 1;
    add_publishers(1);
    leave_all();
    resumed_at = 0;
    for (owing = 0; owing < (uint64_t)count; owing++)
        clients[owing].owes = 1;
    while (resumed_at == 0 && now < back + 3 * PATIENCE) {
        publish_due(&next, every, now);
        if (now >= back) {
            began = began ? began : now;
            open_some(count, rate, CLIENTS, began, now);
        }
        turn(sooner(next, now + MS));
        now = clock_ns();
        progress("storm", now);
    }
    for (uint64_t until = now + after; now < until; now = clock_ns()) {
        publish_due(&next, every, now);
        turn(sooner(next, until));
    }
    for (uint64_t until = now + PATIENCE; now < until && !all_have(number, count); now = clock_ns())
        turn(now + MS);
    awaited = 0;
    return resumed_at ? resumed_at - began : 0;
}

/* Commands and answers. */

static void count_anew(void) {
    events = numbered = lost = doubled = failed = dropped = bytes = refused = published = 0;
    answered = 0;
    end_count = 0;
    memset(&latency, 0, sizeof latency);
    memset(&rounds, 0, sizeof rounds);
}

static int behind(void) {
    int count = 0;
    for (int i = 0; i < opened; i++)
        count += clients[i].last < number;
    return count;
}

static void answer(uint64_t began, uint64_t cpu, uint64_t resumed) {
    double seconds = (clock_ns() - began) / 1e9, used = (cpu_ns() - cpu) / 1e9;
    printf("{\"clients\": %d, \"failed\": %lu, \"dropped\": %lu, \"events\": %lu, "
           "\"numbered\": %lu, \"lost\": %lu, \"doubled\": %lu, \"behind\": %d, \"bytes\": %lu, "
           "\"published\": %lu, \"answered\": %lu, \"refused\": %lu, \"unresumed\": %lu, "
           "\"resumed\": %.4f, \"seconds\": %.4f, \"cpu\": %.4f, ",
           open_now, failed, dropped, events, numbered, lost, doubled,
           behind(), bytes, published, answered, refused, owing, resumed / 1e9,
           seconds, used);
    histogram_print(&latency, "latency");
    printf(", ");
    histogram_print(&rounds, "rounds");
    printf(", \"ends\": [");
    for (int i = 0; i < end_count; i++)
        printf("%s[%lu, %.1f]", i ? ", " : "", ends[i].number, ends[i].took / 1e3);
    printf("]}\n");
    fflush(stdout);
}

static void obey(const char *line) {
    unsigned long a = 0, b = 0, c = 0, d = 0;
    char word[16] = "";
    uint64_t began = clock_ns(), cpu = cpu_ns(), resumed = 0;
    sscanf(line, "%15s %lu %lu %lu %lu", word, &a, &b, &c, &d);
    count_anew();
    owing = 0;
    if (strcmp(word, "open") == 0)
        open_clients(a, b, c);
    else if (strcmp(word, "publish") == 0)
        publish(a * MS, b, c * 1000, d);
    else if (strcmp(word, "watch") == 0)
        watch(a * MS);
    else if (strcmp(word, "follow") == 0)
        follow(a * MS);
    else if (strcmp(word, "storm") == 0)
        resumed = storm(a, b * MS, c * MS, d * MS);
    else if (strcmp(word, "close") == 0) {
        leave_all();
        memset(clients, 0, sizeof clients);
    }
    answer(began, cpu, resumed);
}

static void read_heads(const char *path) {
    FILE *file = fopen(path, "r");
    size_t size = 0;
    char *head = NULL;
    while (file && head_count < HEADS && getdelim(&head, &size, 0, file) > 0) {
        heads[head_count++] = head;
        head = NULL;
    }
    if (head_count == 0) {
        fprintf(stderr, "load: no request heads in %s\n", path);
        exit(2);
    }
    fclose(file);
}

static void read_publish_head(const char *path) {
    FILE *file = fopen(path, "r");
    size_t size = 0;
    if (!file || getdelim(&publish_head, &size, 0, file) < 0)
        exit(2);
    fclose(file);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "load PORT HEADS [PUBLISH]\n");
        return 2;
    }
    epoll = epoll_create1(0);
    port = atoi(argv[1]);
    terminal = isatty(2);
    read_heads(argv[2]);
    if (argc > 3)
        read_publish_head(argv[3]);
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &(struct epoll_event){.events = EPOLLIN, .data.u64 = STDIN});
    char line[256];
    for (;;) {
        for (ended = 0; !ended;)
            turn(clock_ns() + SECOND);
        /* The driver writes one line and waits for its answer. */
        if (fgets(line, sizeof line, stdin) == NULL)
            return 0;
        epoll_ctl(epoll, EPOLL_CTL_DEL, 0, NULL);
        obey(line);
        epoll_ctl(epoll, EPOLL_CTL_ADD, 0,
                  &(struct epoll_event){.events = EPOLLIN, .data.u64 = STDIN});
    }
}
