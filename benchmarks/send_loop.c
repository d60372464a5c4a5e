/*
 * The least that a fan-out can cost: accept, answer with a head, and at each POST a
 * send() to every client, one after the other. No history, no ids, no limits.
 *
 *     send_loop PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FILES = 65536, REQUEST = 65536 };

static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                           "Cache-Control: no-cache\r\nConnection: close\r\n\r\n: hi\n\n";
static const char created[] = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";

static int clients[FILES], place[FILES], count, epoll;
static char *unread[FILES]; /* of a request that is not whole yet */
static int length[FILES];
static unsigned long refused;

static void join(int fd) {
    place[fd] = count;
    clients[count++] = fd;
}

static void leave(int fd) {
    if (place[fd] >= 0) {
        clients[place[fd]] = clients[--count];
        place[clients[place[fd]]] = place[fd];
    }
    free(unread[fd]);
    unread[fd] = NULL;
    close(fd);
}

static void broadcast(const char *body, int n) {
    static char event[REQUEST + 16];
    int size = snprintf(event, sizeof event, "data: %.*s\n\n", n, body);
    for (int i = 0; i < count; i++)
        if (send(clients[i], event, size, MSG_NOSIGNAL | MSG_DONTWAIT) != size)
            refused++;
}

/* One request from the beginning of what there is; its size, or 0 if it is not whole. */
static int request(int fd, char *data, int n) {
    char *end = memmem(data, n, "\r\n\r\n", 4);
    if (end == NULL)
        return 0;
    end += 4;
    if (memcmp(data, "GET", 3) == 0) {
        join(fd);
        (void)!send(fd, head, sizeof head - 1, MSG_NOSIGNAL);
        return end - data;
    }
    *(end - 1) = 0;
    char *field = strcasestr(data, "content-length:");
    int size = field ? atoi(field + 15) : 0;
    if (end + size > data + n) {
        *(end - 1) = '\n';
        return 0;
    }
    broadcast(end, size);
    (void)!send(fd, created, sizeof created - 1, MSG_NOSIGNAL);
    return end - data + size;
}

static void readable(int fd) {
    if (unread[fd] == NULL)
        unread[fd] = malloc(REQUEST);
    ssize_t n = recv(fd, unread[fd] + length[fd], REQUEST - length[fd], 0);
    if (n <= 0) {
        leave(fd);
        return;
    }
    length[fd] += n;
    for (int size; length[fd] > 0 && (size = request(fd, unread[fd], length[fd])) > 0;) {
        length[fd] -= size;
        memmove(unread[fd], unread[fd] + size, length[fd]);
    }
    if (length[fd] == 0) {
        free(unread[fd]);
        unread[fd] = NULL;
    }
}

static void accept_all(int port) {
    int fd;
    while ((fd = accept4(port, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        place[fd] = -1;
        length[fd] = 0;
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd,
                  &(struct epoll_event){.events = EPOLLIN, .data.fd = fd});
    }
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(atoi(argv[argc - 1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int port = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(port, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(port, (void *)&address, sizeof address) || listen(port, 4096)) {
        perror("send_loop");
        return 1;
    }
    epoll = epoll_create1(0);
    epoll_ctl(epoll, EPOLL_CTL_ADD, port,
              &(struct epoll_event){.events = EPOLLIN, .data.fd = port});
    for (;;) {
        struct epoll_event events[512];
        int n = epoll_wait(epoll, events, 512, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.fd == port)
                accept_all(port);
            else
                readable(events[i].data.fd);
        }
    }
}
