/* SPDX-License-Identifier: Apache-2.0
 *
 * What this machine moves over loopback TCP with nothing in the way: the yardstick of `memkv bench --compare raw`.
 *
 *     raw_loopback get|put BLOCK_BYTES BATCH BATCHES CLIENTS SECONDS
 *
 * Each client is a process with one connection to a server process of its own. In a round a batch of blocks goes
 * from the server to the client (get: after an 8-byte request) or from the client to the server (put: before an
 * 8-byte answer), gathered from one of BATCHES regions and scattered into another buffer, one system call for as many
 * bytes as the kernel takes. Nothing is verified. Prints {"bytes": N, "seconds": S, "rounds": N}.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define IOV_LIMIT 1024

static size_t block_bytes, batch, batches;
static double duration;

struct result {
    uint64_t rounds;
    double seconds;
};

static void die(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static char *region(size_t bytes, int value) {
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) die("mmap");
    memset(memory, value, bytes);
    return memory;
}

/* Moves one batch between a socket and memory; `send` says which way. */
static int move(int fd, char *memory, int send) {
    struct iovec parts[IOV_LIMIT];
    size_t total = block_bytes * batch, done = 0;
    while (done < total) {
        int count = 0;
        size_t at = done;
        while (count < IOV_LIMIT && at < total) {
            size_t left = block_bytes - at % block_bytes;
            parts[count].iov_base = memory + at;
            parts[count++].iov_len = left;
            at += left;
        }
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
        ssize_t moved = send ? sendmsg(fd, &message, MSG_NOSIGNAL) : recvmsg(fd, &message, 0);
        if (moved == 0) return 0;
        if (moved < 0) {
            if (errno == EINTR) continue;
            return 0;
        }
        done += moved;
    }
    return 1;
}

static int exchange(int fd, void *word, int sending) {
    size_t done = 0;
    while (done < 8) {
        ssize_t moved = sending ? send(fd, (char *)word + done, 8 - done, MSG_NOSIGNAL)
                                : recv(fd, (char *)word + done, 8 - done, 0);
        if (moved <= 0) return 0;
        done += moved;
    }
    return 1;
}

static void serve(int fd, int get) {
    size_t bytes = block_bytes * batch;
    char *memory = region(get ? bytes * batches : bytes, 1);
    uint64_t round = 0;
    if (!exchange(fd, &round, 1)) exit(0); /* the memory is touched: begin */
    for (;;) {
        if (get) {
            if (!exchange(fd, &round, 0) || !move(fd, memory + bytes * (round % batches), 1)) exit(0);
        } else {
            if (!move(fd, memory, 0) || !exchange(fd, &round, 1)) exit(0);
        }
    }
}

static struct result drive(int fd, int get) {
    size_t bytes = block_bytes * batch;
    char *memory = region(get ? bytes : bytes * batches, 2);
    struct result result = {0, 0};
    uint64_t word = 0;
    if (!exchange(fd, &word, 0)) die("server");
    double begin = now();
    do {
        word = result.rounds;
        int ok = get ? exchange(fd, &word, 1) && move(fd, memory, 0)
                     : move(fd, memory + bytes * (word % batches), 1) && exchange(fd, &word, 0);
        if (!ok) die("connection");
        result.rounds++;
        result.seconds = now() - begin;
    } while (result.seconds < duration);
    return result;
}

static struct result run_pair(int get) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1)) die("listen");
    if (getsockname(listener, (struct sockaddr *)&address, &length)) die("getsockname");
    pid_t server = fork();
    if (server < 0) die("fork");
    if (server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int peer = accept(listener, NULL, NULL);
        if (peer < 0) die("accept");
        setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        serve(peer, get);
    }
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct result result = drive(fd, get);
    close(fd);
    waitpid(server, NULL, 0);
    return result;
}

int main(int argc, char **argv) {
    if (argc != 7) {
        fprintf(stderr, "usage: raw_loopback get|put BLOCK_BYTES BATCH BATCHES CLIENTS SECONDS\n");
        return 2;
    }
    int get = strcmp(argv[1], "get") == 0, clients = atoi(argv[5]), results[2];
    block_bytes = strtoull(argv[2], NULL, 10);
    batch = strtoull(argv[3], NULL, 10);
    batches = strtoull(argv[4], NULL, 10);
    duration = strtod(argv[6], NULL);
    if (pipe(results)) die("pipe");
    for (int client = 0; client < clients; client++) {
        pid_t child = fork();
        if (child < 0) die("fork");
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            struct result result = run_pair(get);
            if (write(results[1], &result, sizeof result) != sizeof result) die("write");
            return 0;
        }
    }
    uint64_t rounds = 0;
    double seconds = 0;
    close(results[1]);
    struct result result;
    for (int client = 0; client < clients; client++) {
        if (read(results[0], &result, sizeof result) != sizeof result) return 1;
        rounds += result.rounds;
        if (result.seconds > seconds) seconds = result.seconds;
    }
    while (wait(NULL) > 0) {}
    printf("{\"bytes\": %llu, \"seconds\": %.6f, \"rounds\": %llu}\n",
           (unsigned long long)(rounds * batch * block_bytes), seconds, (unsigned long long)rounds);
    return 0;
}
