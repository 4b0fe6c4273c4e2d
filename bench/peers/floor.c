/* The floor without Python: epoll, recv, where the request ends, send of a ready-made answer.
 *
 *     floor-c PORT
 *
 * One request at a time on each connection, at most REQUEST_BYTES of it; anything else closes the connection.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REQUEST_BYTES = 256 * 1024, DESCRIPTORS = 65536, TURN_EVENTS = 512 };

static const char ANSWER[] =
    "HTTP/1.1 200 OK\r\n"
    "Content-Type: application/json\r\n"
    "Access-Control-Allow-Origin: *\r\n"
    "Content-Length: 12\r\n\r\n"
    "{\"status\":1}";

/* A connection has memory of its own only while its request is in pieces. */
static struct { char *bytes; size_t size; } pieces[DESCRIPTORS];
static char arrived[REQUEST_BYTES + 1];

/* Bytes of the request at `data`, which ends with a zero; 0 while its head is incomplete. */
static size_t request_bytes(const char *data) {
    const char *end = strstr(data, "\r\n\r\n");
    if (end == NULL) return 0;
    const char *length = strcasestr(data, "\r\nContent-Length:");
    size_t head = end + 4 - data;
    return length == NULL || length > end ? head : head + strtoul(length + 17, NULL, 10);
}

static void drop(int fd) {
    free(pieces[fd].bytes);
    pieces[fd].bytes = NULL;
    pieces[fd].size = 0;
    close(fd);
}

static void answer(int fd) {
    size_t before = pieces[fd].size;
    if (before) memcpy(arrived, pieces[fd].bytes, before);
    ssize_t got = recv(fd, arrived + before, REQUEST_BYTES - before, 0);
    if (got <= 0) { drop(fd); return; }
    size_t size = before + got;
    arrived[size] = 0;
    size_t wanted = request_bytes(arrived);
    if (wanted && size == wanted) {
        pieces[fd].size = 0;
        if (send(fd, ANSWER, sizeof ANSWER - 1, MSG_NOSIGNAL) != sizeof ANSWER - 1) drop(fd);
        return;
    }
    if ((wanted && size > wanted) || size == REQUEST_BYTES) { drop(fd); return; }
    char *kept = realloc(pieces[fd].bytes, size);
    if (kept == NULL) { drop(fd); return; }
    memcpy(kept, arrived, size);
    pieces[fd].bytes = kept;
    pieces[fd].size = size;
}

int main(int argc, char **argv) {
    if (argc != 2) { fprintf(stderr, "usage: floor-c PORT\n"); return 2; }
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) {
        perror("floor-c");
        return 1;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, ready[TURN_EVENTS];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(poll, ready, TURN_EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (ready[i].data.fd != listener) { answer(ready[i].data.fd); continue; }
            int fd = accept(listener, NULL, NULL);
            if (fd < 0) continue;
            if (fd >= DESCRIPTORS) { close(fd); continue; }
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            event = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
            epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
        }
    }
}
