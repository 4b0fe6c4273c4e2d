/* The floor without Python: epoll, recv, where the request ends, send of a ready-made answer.
 *
 *     floor-c PORT [FILE ROOM_BYTES]
 *
 * With FILE, the floor of a server that answers for what it was sent: the requests of a turn are written to it and synced
 * together, and answered then. Nothing is read meanwhile. The file is filled with so many zeroes first and written over from
 * its beginning, again and again, so that a sync has nothing to wait for but the data; with 0 it grows.
 *
 * One request at a time on each connection, at most REQUEST_BYTES of it; anything else closes the connection.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REQUEST_BYTES = 256 * 1024, DESCRIPTORS = 65536, TURN_EVENTS = 512, GROUP_BYTES = 4 * 1024 * 1024 };

static const char ANSWER[] =
    "HTTP/1.1 200 OK\r\n"
    "Content-Type: application/json\r\n"
    "Access-Control-Allow-Origin: *\r\n"
    "Content-Length: 12\r\n\r\n"
    "{\"status\":1}";

/* A connection has memory of its own only while its request is in pieces. */
static struct { char *bytes; size_t size; } pieces[DESCRIPTORS];
static char arrived[REQUEST_BYTES + 1];

static int file = -1;
static size_t room, position;
static char group[GROUP_BYTES];
static size_t group_size;
static int waiting[TURN_EVENTS], waiters;

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
    if (send(fd, ANSWER, sizeof ANSWER - 1, MSG_NOSIGNAL) != sizeof ANSWER - 1) drop(fd);
}

static void put(size_t size) {
    if (write(file, group, size) != (ssize_t)size) { perror("floor-c: write"); exit(1); }
    position += size;
}

static void rewind_file(void) {
    if (lseek(file, 0, SEEK_SET)) { perror("floor-c: lseek"); exit(1); }
    position = 0;
}

static void append(void) {
    if (room && position + group_size > room) rewind_file();
    put(group_size);
    group_size = 0;
}

static void sync_file(void) {
    if (fdatasync(file)) { perror("floor-c: fdatasync"); exit(1); }
}

static void open_file(const char *path, size_t size) {
    if ((file = open(path, O_WRONLY | O_CREAT, 0600)) < 0) { perror("floor-c: open"); exit(1); }
    if (size == 0) return;
    while (position < size) put(GROUP_BYTES);
    sync_file();
    room = position;
    rewind_file();
}

static void keep(int fd, size_t size) {
    if (group_size + size > GROUP_BYTES) append();
    memcpy(group + group_size, arrived, size);
    group_size += size;
    waiting[waiters++] = fd;
}

static void commit(void) {
    append();
    sync_file();
    for (int i = 0; i < waiters; i++) answer(waiting[i]);
    waiters = 0;
}

static void receive(int fd) {
    size_t before = pieces[fd].size;
    if (before) memcpy(arrived, pieces[fd].bytes, before);
    ssize_t got = recv(fd, arrived + before, REQUEST_BYTES - before, 0);
    if (got <= 0) { drop(fd); return; }
    size_t size = before + got;
    arrived[size] = 0;
    size_t wanted = request_bytes(arrived);
    if (wanted && size == wanted) {
        pieces[fd].size = 0;
        if (file < 0) answer(fd); else keep(fd, size);
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
    if (argc != 2 && argc != 4) { fprintf(stderr, "usage: floor-c PORT [FILE ROOM_BYTES]\n"); return 2; }
    if (argc == 4) open_file(argv[2], strtoul(argv[3], NULL, 10));
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
            if (ready[i].data.fd != listener) { receive(ready[i].data.fd); continue; }
            int fd = accept(listener, NULL, NULL);
            if (fd < 0) continue;
            if (fd >= DESCRIPTORS) { close(fd); continue; }
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            event = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
            epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
        }
        if (waiters) commit();
    }
}
