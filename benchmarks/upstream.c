/*
 * An API to poll, faster than whoever polls it.
 *
 *     upstream PORT BYTES
 *
 * GET /same/...  a document of BYTES that never changes: 304 to If-None-Match
 * GET /doc/N     50 KB of JSON in 250 records, of which each answer has renewed 20 %
 * GET /count     how many of the first two were answered: {"polls": ..., "not_modified": ...}
 *
 * A document has a "stamp", #NUMBER@TIME#, with the number of the answer and the time
 * at which it was made (CLOCK_MONOTONIC, ns), and a "sum" by which a reader sees that
 * it has every record right: the CRC-32 of each value, times its place from 1, modulo 2^32.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FILES = 65536, REQUEST = 8192, DOCUMENTS = 1000, RECORDS = 250, RENEWED = 50, VALUE = 176 };

struct document {
    uint64_t number;
    uint32_t crc[RECORDS];
    char value[RECORDS][VALUE];
};

struct connection {
    int length;
    char unread[REQUEST];
};

static struct connection *connections[FILES];
static struct document *documents[DOCUMENTS];
static char answer[1 << 20], *same;
static int epoll, same_size;
static unsigned long polls, not_modified;
static uint32_t table[256], seed = 1;

static uint32_t crc32(const char *data, int n) {
    uint32_t crc = ~0u;
    for (int i = 0; i < n; i++)
        crc = table[(crc ^ data[i]) & 255] ^ (crc >> 8);
    return ~crc;
}

static void make_table(void) {
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++)
            table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xEDB88320u : 0);
    }
}

/* xorshift: the same documents at every run. */
static uint32_t next_random(void) {
    seed ^= seed << 13;
    seed ^= seed >> 17;
    return seed ^= seed << 5;
}

static void renew(struct document *document, int record) {
    for (int i = 0; i < VALUE; i++)
        document->value[record][i] = 'a' + next_random() % 26;
    document->crc[record] = crc32(document->value[record], VALUE);
}

/* Every fifth record, from another one each time: 20 %, and all in their turn. */
static struct document *renewed(int n) {
    struct document *document = documents[n];
    if (document == NULL) {
        document = documents[n] = calloc(1, sizeof *document);
        for (int i = 0; i < RECORDS; i++)
            renew(document, i);
    }
    document->number++;
    for (int i = 0; i < RENEWED; i++)
        renew(document, (document->number + i * (RECORDS / RENEWED)) % RECORDS);
    return document;
}

static uint32_t sum(const struct document *document) {
    uint32_t sum = 0;
    for (int i = 0; i < RECORDS; i++)
        sum += document->crc[i] * (i + 1);
    return sum;
}

static int write_document(char *to, const struct document *document) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    char *at = to;
    at += sprintf(at, "{\"stamp\":\"#%lu@%lu#\",\"sum\":%u,\"records\":[", document->number,
                  now.tv_sec * 1000000000ul + now.tv_nsec, sum(document));
    for (int i = 0; i < RECORDS; i++)
        at += sprintf(at, "%s{\"id\":%d,\"value\":\"%.*s\"}", i ? "," : "", i, VALUE,
                      document->value[i]);
    return at + sprintf(at, "]}") - to;
}

static void send_all(int fd, const char *data, int n) {
    while (n > 0) {
        ssize_t sent = send(fd, data, n, MSG_NOSIGNAL);
        if (sent <= 0)
            return;
        data += sent;
        n -= sent;
    }
}

static void send_answer(int fd, const char *tag, const char *body, int n) {
    int size = sprintf(answer, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%s"
                               "Content-Length: %d\r\n\r\n", tag, n);
    memcpy(answer + size, body, n);
    send_all(fd, answer, size + n);
}

static void send_document(int fd, int n) {
    static char body[1 << 17];
    char tag[64];
    struct document *document = renewed(n % DOCUMENTS);
    sprintf(tag, "ETag: \"%lu\"\r\n", document->number);
    send_answer(fd, tag, body, write_document(body, document));
    polls++;
}

static void send_same(int fd, const char *request) {
    static const char unchanged[] = "HTTP/1.1 304 Not Modified\r\nETag: \"same\"\r\n\r\n";
    polls++;
    if (strcasestr(request, "\nif-none-match:")) {
        not_modified++;
        send_all(fd, unchanged, sizeof unchanged - 1);
    } else {
        send_answer(fd, "ETag: \"same\"\r\n", same, same_size);
    }
}

static void respond(int fd, const char *request) {
    char counts[128];
    if (strncmp(request, "GET /doc/", 9) == 0)
        send_document(fd, atoi(request + 9));
    else if (strncmp(request, "GET /same/", 10) == 0)
        send_same(fd, request);
    else
        send_answer(fd, "", counts, sprintf(counts, "{\"polls\": %lu, \"not_modified\": %lu}\n",
                                            polls, not_modified));
}

static void readable(int fd) {
    struct connection *c = connections[fd];
    ssize_t n = recv(fd, c->unread + c->length, REQUEST - 1 - c->length, 0);
    if (n <= 0) {
        free(c);
        close(fd);
        return;
    }
    c->length += n;
    c->unread[c->length] = 0;
    for (char *end; (end = strstr(c->unread, "\r\n\r\n")) != NULL;) {
        *end = 0;
        respond(fd, c->unread);
        c->length -= end + 4 - c->unread;
        memmove(c->unread, end + 4, c->length + 1);
    }
}

static void accept_one(int port) {
    int fd = accept(port, NULL, NULL);
    if (fd < 0)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    connections[fd] = calloc(1, sizeof *connections[fd]);
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.fd = fd});
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int port = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(port, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(port, (void *)&address, sizeof address) || listen(port, 4096)) {
        perror("upstream");
        return 1;
    }
    make_table();
    same = malloc(atoi(argv[2]) + 64);
    same_size = sprintf(same, "{\"same\":\"%0*d\"}", atoi(argv[2]), 0);
    epoll = epoll_create1(0);
    epoll_ctl(epoll, EPOLL_CTL_ADD, port,
              &(struct epoll_event){.events = EPOLLIN, .data.fd = port});
    for (;;) {
        struct epoll_event events[512];
        int n = epoll_wait(epoll, events, 512, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.fd == port)
                accept_one(port);
            else
                readable(events[i].data.fd);
        }
    }
}
