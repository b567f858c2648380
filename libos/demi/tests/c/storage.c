/* Storage queues: what is appended is durable, numbered, and found by the next one who opens it; and what is refused. */
#include "check.h"

#include <fcntl.h>
#include <stdint.h>
#include <sys/stat.h>

enum { SIZE = 32 << 20 };

static char path[] = "/tmp/demi-storage-XXXXXX";

/* Runs a part in a thread with a library OS of its own, whose end closes the file in order. */
static void in_a_thread(void *(*part)(void *)) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, part, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

static uint64_t append(int qd, const void *bytes, size_t len) {
    demi_qtoken_t qt = 0;
    demi_sgarray_t sga = message(bytes, len);
    GIVES(0, demi_push(&qt, qd, &sga));
    GIVES(0, demi_sgafree(&sga));
    return ended(qt, DEMI_OPC_PUSH).qr_value.sequence;
}

/* Pops a record, which is these bytes. */
static void pop_record(int qd, const void *bytes, size_t len) {
    demi_qtoken_t qt = 0;
    demi_qresult_t popped;
    GIVES(0, demi_pop(&qt, qd));
    popped = ended(qt, DEMI_OPC_POP);
    CHECK(popped.qr_qd == qd && popped.qr_value.sga.sga_numsegs == 1);
    CHECK(popped.qr_value.sga.sga_segs[0].sgaseg_len == len);
    CHECK(memcmp(popped.qr_value.sga.sga_segs[0].sgaseg_buf, bytes, len) == 0);
    GIVES(0, demi_sgafree(&popped.qr_value.sga));
}

static int opened(const char *name, int flags) {
    int qd = -1;
    GIVES(0, demi_open(&qd, name, flags));
    CHECK(qd >= 0);
    return qd;
}

static void *without_storage(void *none) {
    int qd = -1;
    init();
    GIVES(ENOENT, demi_open(&qd, "log", O_RDWR | O_CREAT));
    GIVES(ENOENT, demi_creat(&qd, "log", 0600));
    CHECK(qd == -1);
    return none;
}

static void *writes(void *none) {
    static char large[100000];
    int qd = -1, other = -1, reader, i;
    demi_qtoken_t qt = 0;
    demi_qresult_t result;
    demi_sgaseg_t segs[2];
    char *memory;
    init();
    GIVES(0, demi_creat(&qd, "log", 0600));
    pop_record(qd, "", 0); /* the end, */
    pop_record(qd, "", 0); /* and not for ever */
    CHECK(append(qd, "one", 3) == 1 && append(qd, "two", 3) == 2 && append(qd, "three", 5) == 3);
    pop_record(qd, "one", 3);

    /* More than a pop of a stream gives comes in one piece all the same. */
    for (i = 0; i < (int)sizeof large; i++) {
        large[i] = (char)(i * 31 + i / 997);
    }
    CHECK(append(qd, large, sizeof large) == 4);
    GIVES(0, demi_lseek(qd, 4, SEEK_SET));
    pop_record(qd, large, sizeof large);
    pop_record(qd, "", 0);
    GIVES(0, demi_lseek(qd, -2, SEEK_END));
    pop_record(qd, "three", 5);
    GIVES(0, demi_lseek(qd, 0, SEEK_END));
    pop_record(qd, "", 0);
    GIVES(0, demi_lseek(qd, -100, SEEK_END));
    GIVES(0, demi_pop_max(&qt, qd, 2));
    GIVES(0, demi_wait(&result, qt, &LIMIT));
    CHECK(result.qr_opcode == DEMI_OPC_POP && result.qr_ret == EMSGSIZE);
    CHECK(memcmp(result.qr_value.sga.sga_segs[0].sgaseg_buf, "on", 2) == 0);
    GIVES(0, demi_sgafree(&result.qr_value.sga));

    /* Several segments, of memory that is freed before it is durable. */
    memory = demi_malloc(100);
    CHECK(memory != NULL);
    memcpy(memory, "endbegin-", 9);
    segs[0].sgaseg_buf = memory + 3;
    segs[0].sgaseg_len = 6;
    segs[1].sgaseg_buf = memory;
    segs[1].sgaseg_len = 3;
    GIVES(0, demi_pushv(&qt, qd, segs, 2));
    GIVES(0, demi_free(memory));
    CHECK(ended(qt, DEMI_OPC_PUSH).qr_value.sequence == 5);

    /* Each queue has a cursor of its own; logs are apart; who reads only changes nothing. */
    reader = opened("log", O_RDONLY);
    GIVES(0, demi_seek_to(&qt, reader, 5));
    CHECK(ended(qt, DEMI_OPC_SEEK).qr_value.sequence == 5);
    pop_record(reader, "begin-end", 9);
    pop_record(qd, "two", 3);
    {
        demi_sgarray_t sga = message("x", 1);
        GIVES(EROFS, demi_push(&qt, reader, &sga));
        GIVES(0, demi_sgafree(&sga));
    }
    GIVES(EROFS, demi_truncate(reader, 2));
    GIVES(EEXIST, demi_creat(&other, "log", 0600));
    GIVES(EEXIST, demi_open(&other, "log", O_RDWR | O_CREAT | O_EXCL));
    GIVES(ENOENT, demi_open(&other, "none", O_RDWR));
    other = opened("other", O_RDWR | O_CREAT);
    CHECK(append(other, "apart", 5) == 1);
    GIVES(0, demi_close(other));
    GIVES(0, demi_close(reader));

    /* What is truncated is gone, and a cursor that stood before it is told. */
    GIVES(0, demi_truncate(qd, 5));
    GIVES(0, demi_pop(&qt, qd));
    CHECK(ended(qt, DEMI_OPC_FAILED).qr_ret == ENOENT);
    GIVES(EINVAL, demi_truncate(qd, 7));
    GIVES(0, demi_truncate_to(&qt, qd, 2));
    CHECK(ended(qt, DEMI_OPC_TRUNCATE).qr_value.sequence == 5);
    GIVES(0, demi_lseek(qd, 0, SEEK_SET));
    pop_record(qd, "begin-end", 9);

    /* A push that nobody waits for is durable before the queue is gone. */
    {
        demi_sgarray_t sga = message("last", 4);
        GIVES(0, demi_push(&qt, qd, &sga));
        GIVES(0, demi_sgafree(&sga));
        GIVES(0, demi_close(qd));
        CHECK(ended(qt, DEMI_OPC_PUSH).qr_value.sequence == 6);
    }
    return none;
}

static void *reads(void *none) {
    int qd;
    init();
    qd = opened("log", O_RDONLY);
    pop_record(qd, "begin-end", 9);
    pop_record(qd, "last", 4);
    pop_record(qd, "", 0);
    GIVES(0, demi_close(qd));
    return none;
}

/* The paper's server: what a connection brings is durable before it is answered, on one thread. */
static void *answers(void *none) {
    int client, server, qd, i, place = -1;
    char back[100];
    init();
    qd = opened("answers", O_RDWR | O_CREAT);
    pair(&client, &server);
    for (i = 1; i <= 50; i++) {
        char request[32];
        size_t len = (size_t)snprintf(request, sizeof request, "request %d", i);
        demi_qtoken_t tokens[2], qt = 0;
        demi_qresult_t result;
        demi_sgarray_t sga;
        GIVES(0, demi_pop(&tokens[0], client));
        push_bytes(client, request, len);
        GIVES(0, demi_pop(&qt, server));
        sga = ended(qt, DEMI_OPC_POP).qr_value.sga;
        CHECK(sga.sga_segs[0].sgaseg_len == len);
        GIVES(0, demi_push(&tokens[1], qd, &sga));
        GIVES(0, demi_wait_any(&result, &place, tokens, 2, &LIMIT));
        CHECK(place == 1 && result.qr_opcode == DEMI_OPC_PUSH && result.qr_value.sequence == (uint64_t)i);
        GIVES(0, demi_push(&qt, server, &sga));
        GIVES(0, demi_sgafree(&sga));
        ended(qt, DEMI_OPC_PUSH);
        result = ended(tokens[0], DEMI_OPC_POP);
        CHECK(result.qr_value.sga.sga_segs[0].sgaseg_len == len);
        memcpy(back, result.qr_value.sga.sga_segs[0].sgaseg_buf, len);
        CHECK(memcmp(back, request, len) == 0);
        GIVES(0, demi_sgafree(&result.qr_value.sga));
    }
    GIVES(0, demi_close(client));
    GIVES(0, demi_close(server));
    GIVES(0, demi_close(qd));
    return none;
}

/* A disk that is full refuses a record before anything is written; after a truncation it takes it. */
static void *fills(void *none) {
    static char record[100000];
    demi_qtoken_t qt = 0;
    demi_sgarray_t sga;
    uint64_t last = 0, count = 0;
    int qd, errno_given;
    init();
    qd = opened("full", O_RDWR | O_CREAT);
    memset(record, 'r', sizeof record);
    sga = message(record, sizeof record);
    while ((errno_given = demi_push(&qt, qd, &sga)) == 0) {
        demi_qresult_t result;
        GIVES(0, demi_wait(&result, qt, &LIMIT));
        if (result.qr_opcode == DEMI_OPC_FAILED) {
            errno_given = (int)result.qr_ret;
            break;
        }
        last = result.qr_value.sequence;
        CHECK(last == ++count && count < SIZE / sizeof record);
    }
    CHECK(errno_given == ENOSPC && count > 5);
    GIVES(0, demi_truncate(qd, (off_t)last));
    GIVES(0, demi_push(&qt, qd, &sga));
    CHECK(ended(qt, DEMI_OPC_PUSH).qr_value.sequence == last + 1);
    GIVES(0, demi_sgafree(&sga));
    GIVES(0, demi_truncate(qd, (off_t)last + 2));
    GIVES(0, demi_close(qd));
    return none;
}

static void *refuses(void *none) {
    char long_name[200];
    int qd, queue = -1, out = -1;
    demi_qtoken_t qt = 0;
    demi_damage_t damage;
    int (*volatile open_)(int *, const char *, int) = demi_open; /* of which no compiler knows what is never NULL */
    int (*volatile creat_)(int *, const char *, mode_t) = demi_creat;
    int (*volatile damage_)(int, demi_damage_t *) = demi_getdamage;
    int (*volatile seek_)(demi_qtoken_t *, int, uint64_t) = demi_seek_to;
    int (*volatile truncate_)(demi_qtoken_t *, int, uint64_t) = demi_truncate_to;
    init();
    qd = opened("log", O_RDWR);
    GIVES(EINVAL, open_(NULL, "log", O_RDWR));
    GIVES(EINVAL, open_(&out, NULL, O_RDWR));
    GIVES(EINVAL, creat_(NULL, "log", 0));
    GIVES(EINVAL, creat_(&out, NULL, 0));
    GIVES(EINVAL, damage_(qd, NULL));
    GIVES(EINVAL, seek_(NULL, qd, 0));
    GIVES(EINVAL, truncate_(NULL, qd, 0));
    GIVES(EINVAL, demi_open(&out, "", O_RDWR | O_CREAT));
    GIVES(EINVAL, demi_open(&out, "\xff\xfe", O_RDWR | O_CREAT));
    GIVES(EINVAL, demi_open(&out, "log", O_RDWR | O_TRUNC));
    GIVES(EINVAL, demi_open(&out, "log", O_RDONLY | O_CREAT));
    GIVES(EINVAL, demi_open(&out, "log", -1));
    memset(long_name, 'n', sizeof long_name);
    long_name[sizeof long_name - 1] = '\0';
    GIVES(EINVAL, demi_creat(&out, long_name, 0));
    GIVES(EINVAL, demi_lseek(qd, 0, SEEK_CUR));
    GIVES(EINVAL, demi_lseek(qd, -1, SEEK_SET));
    GIVES(EINVAL, demi_lseek(qd, 1, SEEK_END));
    GIVES(EINVAL, demi_lseek(qd, 0, 77));
    GIVES(0, demi_lseek(qd, INT64_MIN, SEEK_END));
    GIVES(EINVAL, demi_truncate(qd, -1));
    GIVES(ENODATA, demi_getdamage(qd, &damage));
    GIVES(0, demi_queue(&queue));
    GIVES(EOPNOTSUPP, demi_lseek(queue, 0, SEEK_SET));
    GIVES(EOPNOTSUPP, demi_truncate(queue, 0));
    GIVES(EOPNOTSUPP, demi_seek_to(&qt, queue, 0));
    GIVES(EOPNOTSUPP, demi_getdamage(queue, &damage));
    GIVES(EOPNOTSUPP, demi_listen(qd, 1));
    GIVES(EBADF, demi_lseek(-1, 0, SEEK_SET));
    GIVES(EBADF, demi_truncate(77777, 0));
    GIVES(0, demi_close(queue));
    GIVES(0, demi_close(qd));
    GIVES(EBADF, demi_lseek(qd, 0, SEEK_SET));
    CHECK(out == -1);
    return none;
}

static void *makes_a_record_to_be_damaged(void *none) {
    int qd = -1;
    init();
    GIVES(0, demi_creat(&qd, "damaged", 0600));
    CHECK(append(qd, "before it", 9) == 1);
    CHECK(append(qd, "this is going to be damaged", 27) == 2);
    CHECK(append(qd, "behind it", 9) == 3);
    GIVES(0, demi_close(qd));
    return none;
}

/* Changes one byte in the middle of a record, where it lies in the file. */
static long damages(void) {
    static char all[SIZE];
    static const char record[] = "this is going to be damaged";
    FILE *file = fopen(path, "r+b");
    size_t at, len;
    CHECK(file != NULL);
    len = fread(all, 1, sizeof all, file);
    for (at = 0; at + sizeof record <= len; at++) {
        if (memcmp(all + at, record, sizeof record - 1) == 0) {
            CHECK(fseek(file, (long)at + 5, SEEK_SET) == 0 && fputc('X', file) == 'X' && fclose(file) == 0);
            return (long)at;
        }
    }
    CHECK(!"the record is in the file");
    return 0;
}

static long damaged_at;

static void *finds_damage(void *none) {
    int qd;
    demi_qtoken_t qt = 0;
    demi_qresult_t result;
    demi_damage_t damage;
    init();
    qd = opened("damaged", O_RDWR);
    GIVES(0, demi_pop(&qt, qd));
    GIVES(0, demi_wait(&result, qt, &LIMIT));
    if (result.qr_opcode == DEMI_OPC_POP) { /* the one before it can be read */
        CHECK(result.qr_value.sga.sga_segs[0].sgaseg_len == 9);
        GIVES(0, demi_sgafree(&result.qr_value.sga));
        GIVES(0, demi_pop(&qt, qd));
        GIVES(0, demi_wait(&result, qt, &LIMIT));
    }
    CHECK(result.qr_opcode == DEMI_OPC_FAILED && result.qr_ret == EBADMSG);
    memset(&damage, 0xee, sizeof damage);
    GIVES(0, demi_getdamage(qd, &damage));
    CHECK(damage.sequence == 2 && damage.lost >= 1);
    CHECK(damage.offset <= (uint64_t)damaged_at && (uint64_t)damaged_at - damage.offset < 4096);
    GIVES(0, demi_close(qd));
    return none;
}

int main(void) {
    const char *libos = getenv("LIBOS");
    int fd = mkstemp(path);
    CHECK(fd >= 0 && close(fd) == 0 && unlink(path) == 0);
    in_a_thread(without_storage);
    CHECK(setenv("MARGAY_STORAGE_DEVICE", path, 1) == 0 && setenv("MARGAY_STORAGE_SIZE", "32MiB", 1) == 0);
    /* Over epoll this runs under valgrind, which knows little of io_uring. */
    CHECK(setenv("MARGAY_STORAGE_ENGINE", libos != NULL && strcmp(libos, "epoll") == 0 ? "thread" : "auto", 1) == 0);
    in_a_thread(writes);
    in_a_thread(reads);
    in_a_thread(answers);
    in_a_thread(fills);
    in_a_thread(refuses);
    in_a_thread(makes_a_record_to_be_damaged);
    damaged_at = damages();
    in_a_thread(finds_damage);
    CHECK(unlink(path) == 0);
    return 0;
}
