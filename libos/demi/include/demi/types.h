/*
 * The types of the calls. Names, layouts and values are Demikernel's: all structures are packed.
 */
#ifndef DEMI_TYPES_H_IS_INCLUDED
#define DEMI_TYPES_H_IS_INCLUDED

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include <demi/cc.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Segments in a scatter-gather array. */
#define DEMI_SGARRAY_MAXSIZE 1

/* Names one pending operation, from the call that begins it to the wait that gives its result. */
typedef uint64_t demi_qtoken_t;

/* A piece of memory. */
typedef struct DEMI_PACKED demi_sgaseg {
    void *sgaseg_buf;    /* Where it begins. */
    uint32_t sgaseg_len; /* Its bytes. */
} demi_sgaseg_t;

/*
 * A message, or a piece of a stream. sga_buf says whose memory it is: it comes from demi_sgaalloc or from a pop, and is
 * not to be changed. A program may move the segment's start and shorten it. With sga_buf NULL the segment lies in memory
 * of demi_malloc.
 */
typedef struct DEMI_PACKED demi_sgarray {
    void *sga_buf;                                /* Reserved. */
    uint32_t sga_numsegs;                         /* Segments that are there: 1. */
    demi_sgaseg_t sga_segs[DEMI_SGARRAY_MAXSIZE]; /* The segments. */
    struct sockaddr_in sga_addr;                  /* Of a popped datagram: who sent it. (IPv6: demi_getsender.) */
} demi_sgarray_t;

/* What an operation was, and whether it failed. */
typedef enum demi_opcode {
    DEMI_OPC_INVALID = 0,
    DEMI_OPC_PUSH = 1,
    DEMI_OPC_POP = 2,
    DEMI_OPC_ACCEPT = 3,
    DEMI_OPC_CONNECT = 4,
    DEMI_OPC_CLOSE = 5,
    DEMI_OPC_FAILED = 6,
    DEMI_OPC_SEEK = 7,    /* Beyond Demikernel: of demi_seek_to. */
    DEMI_OPC_TRUNCATE = 8 /* And of demi_truncate_to. */
} demi_opcode_t;

/* A new connection. */
typedef struct DEMI_PACKED demi_accept_result {
    int32_t qd;              /* Its queue. */
    struct sockaddr_in addr; /* Who connected. (Of an IPv6 peer only the port: demi_getpeername has the rest.) */
} demi_accept_result_t;

/* The result of an operation. */
typedef struct DEMI_PACKED demi_qresult {
    enum demi_opcode qr_opcode; /* What it was, or DEMI_OPC_FAILED. */
    int32_t qr_qd;              /* Its queue. */
    demi_qtoken_t qr_qt;        /* Its token, which is used up. */
    int64_t qr_ret;             /* 0; of a failed operation its errno; EMSGSIZE of a pop that cut a message. */
    union {
        demi_sgarray_t sga;        /* Of a pop: the caller's, to be given to demi_sgafree. */
        demi_accept_result_t ares; /* Of an accept. */
        uint64_t sequence;         /* Beyond Demikernel: of a push, a seek or a truncation of a log, the record. */
    } qr_value;
} demi_qresult_t;

/* Beyond Demikernel: a record of a log that cannot be read any more (EBADMSG). */
typedef struct DEMI_PACKED demi_damage {
    uint64_t offset;   /* Byte on the device where it began. */
    uint64_t sequence; /* The first record that is lost. */
    uint64_t lost;     /* How many are known to be lost at least. */
} demi_damage_t;

/* A function that Demikernel's profiler would report to: a name, its length, nanoseconds. It is never called here. */
typedef void (*demi_callback_t)(const char *, uint32_t, uint64_t);

/* What demi_init is told. */
struct DEMI_PACKED demi_args {
    int argc;                 /* Of main. Not read. */
    char *const *argv;        /* Of main. Not read. */
    demi_callback_t callback; /* Or NULL. */
};

/* The layout that the library was built with, for every compiler since C89: a negative size is an error. */
typedef char demi_check_sgaseg[sizeof(demi_sgaseg_t) == 12 ? 1 : -1];
typedef char demi_check_sgarray[sizeof(demi_sgarray_t) == 40 ? 1 : -1];
typedef char demi_check_accept_result[sizeof(demi_accept_result_t) == 20 ? 1 : -1];
typedef char demi_check_qresult[sizeof(demi_qresult_t) == 64 ? 1 : -1];
typedef char demi_check_damage[sizeof(demi_damage_t) == 24 ? 1 : -1];
typedef char demi_check_args[sizeof(struct demi_args) == 20 ? 1 : -1];
typedef char demi_check_segs[offsetof(demi_sgarray_t, sga_segs) == 12 ? 1 : -1];
typedef char demi_check_addr[offsetof(demi_sgarray_t, sga_addr) == 24 ? 1 : -1];
typedef char demi_check_value[offsetof(demi_qresult_t, qr_value) == 24 ? 1 : -1];

#ifdef __cplusplus
}
#endif

#endif /* DEMI_TYPES_H_IS_INCLUDED */
