/*
 * Queues, and operations on them. Every call gives 0 or a positive errno, and returns at once (but for demi_lseek and
 * demi_truncate); demi_wait (demi/wait.h) gives the result of what it began. A library OS belongs to the thread that called
 * demi_init: so do its queues, tokens and buffers. The manual pages say which errors there are.
 */
#ifndef DEMI_LIBOS_H_IS_INCLUDED
#define DEMI_LIBOS_H_IS_INCLUDED

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <demi/cc.h>
#include <demi/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Makes a library OS for the calling thread, as LIBOS and CONFIG_PATH say. args may be NULL. */
extern int demi_init(_In_opt_ const struct demi_args *args);

/* A socket queue: AF_INET or AF_INET6, SOCK_STREAM or SOCK_DGRAM. */
ATTR_NONNULL(1)
extern int demi_socket(_Out_ int *sockqd_out, _In_ int domain, _In_ int type, _In_ int protocol);

/* Makes a bound stream queue a listener. */
extern int demi_listen(_In_ int sockqd, _In_ int backlog);

/* Gives a queue its local address; port 0 is any. */
ATTR_NONNULL(2)
extern int demi_bind(_In_ int sockqd, _In_reads_bytes_(size) const struct sockaddr *addr, _In_ socklen_t size);

/* Begins to take the next connection of a listener. */
ATTR_NONNULL(1)
extern int demi_accept(_Out_ demi_qtoken_t *qt_out, _In_ int sockqd);

/* Begins to connect; on a datagram queue, sets its peer. */
ATTR_NONNULL(1, 3)
extern int demi_connect(_Out_ demi_qtoken_t *qt_out, _In_ int sockqd,
                        _In_reads_bytes_(size) const struct sockaddr *addr, _In_ socklen_t size);

/* Gives a queue up. Its pending operations fail with ECANCELED; what was pushed is still sent. */
extern int demi_close(_In_ int qd);

/* Begins to push. The array may be freed as soon as the call has returned. */
ATTR_NONNULL(1, 3)
extern int demi_push(_Out_ demi_qtoken_t *qt_out, _In_ int qd, _In_ const demi_sgarray_t *sga);

/* The same to an address, on a datagram queue. */
ATTR_NONNULL(1, 3, 4)
extern int demi_pushto(_Out_ demi_qtoken_t *qt_out, _In_ int sockqd, _In_ const demi_sgarray_t *sga,
                       _In_reads_bytes_(size) const struct sockaddr *dest_addr, _In_ socklen_t size);

/* Begins to pop what comes next: a datagram, an element, or some bytes of a stream; none at its end. */
ATTR_NONNULL(1)
extern int demi_pop(_Out_ demi_qtoken_t *qt_out, _In_ int qd);

/*
 * Storage queues are logs: a push appends a record, and is complete when it is durable; its result has the record's number
 * (qr_value.sequence, from 1, without gaps). A pop gives the record at the cursor, or no bytes where there is none so far.
 */

/* Opens the log of this name. O_RDONLY: only to be read; else O_RDWR, with O_CREAT and O_EXCL as in open(2). */
ATTR_NONNULL(1, 2)
extern int demi_open(_Out_ int *qd_out, _In_z_ const char *pathname, _In_ int flags);

/* Makes a log, which must not exist. Logs have no permissions: mode is not looked at. */
ATTR_NONNULL(1, 2)
extern int demi_creat(_Out_ int *qd_out, _In_z_ const char *pathname, _In_ mode_t mode);

/* Puts the cursor before the record of this number (SEEK_SET), or so many before the end (SEEK_END, offset 0 or less). Waits. */
extern int demi_lseek(_In_ int qd, _In_ off_t offset, _In_ int whence);

/* Frees all records before the one of this number, durably. Waits. */
extern int demi_truncate(_In_ int qd, _In_ off_t sequence);

/* Sets an option of a queue (SO_LINGER, SO_KEEPALIVE, SO_REUSEPORT, SO_SNDBUF, SO_RCVBUF, TCP_NODELAY...). */
ATTR_NONNULL(4)
extern int demi_setsockopt(_In_ int qd, _In_ int level, _In_ int optname,
                           _In_reads_bytes_(optlen) const void *optval, _In_ socklen_t optlen);

/* Asks for one. */
ATTR_NONNULL(4, 5)
extern int demi_getsockopt(_In_ int qd, _In_ int level, _In_ int optname,
                           _Out_writes_to_(optlen, *optlen) void *optval, _In_ socklen_t *optlen);

/* The address of the peer. What has no room at addr is cut off; *addrlen is what it takes. */
ATTR_NONNULL(2, 3)
extern int demi_getpeername(_In_ int qd, _Out_writes_to_(addrlen, *addrlen) struct sockaddr *addr,
                            _In_ socklen_t *addrlen);

/* The local address, in the same way. */
ATTR_NONNULL(2, 3)
extern int demi_getsockname(_In_ int qd, _Out_writes_to_(addrlen, *addrlen) struct sockaddr *addr,
                            _In_ socklen_t *addrlen);

/* ------------------------------------------------------------------------------------ beyond Demikernel */

/* 1 where the calls below are there. */
#define DEMI_HAS_MARGAY 1

/* A queue in memory: what is pushed can be popped, element by element. */
ATTR_NONNULL(1)
extern int demi_queue(_Out_ int *qd_out);

/* Ends our direction of a stream, after what was pushed. */
extern int demi_finish(_In_ int qd);

/* Asks for the end of an operation. Its token is still to be waited for: it fails with ECANCELED, or ends as it would. */
extern int demi_cancel(_In_ demi_qtoken_t qt);

/* Pushes several segments of memory of demi_malloc as one message. It may be freed as soon as the call has returned. */
ATTR_NONNULL(1, 3)
extern int demi_pushv(_Out_ demi_qtoken_t *qt_out, _In_ int qd, _In_reads_(num_segs) const demi_sgaseg_t segs[],
                      _In_ int num_segs);

/* Pops at most size bytes; a longer message is cut, and its result has qr_ret EMSGSIZE. */
ATTR_NONNULL(1)
extern int demi_pop_max(_Out_ demi_qtoken_t *qt_out, _In_ int qd, _In_ size_t size);

/* Who sent a popped datagram, of any family: sga_addr has room for IPv4 only. As demi_getpeername. */
ATTR_NONNULL(1, 2, 3)
extern int demi_getsender(_In_ const demi_sgarray_t *sga, _Out_writes_to_(addrlen, *addrlen) struct sockaddr *addr,
                          _In_ socklen_t *addrlen);

/* Begins what demi_lseek waits for: 0 is the first record that is left, UINT64_MAX the end. The result says where it went. */
ATTR_NONNULL(1)
extern int demi_seek_to(_Out_ demi_qtoken_t *qt_out, _In_ int qd, _In_ uint64_t sequence);

/* Begins what demi_truncate waits for. The result says which record is the first that is left. */
ATTR_NONNULL(1)
extern int demi_truncate_to(_Out_ demi_qtoken_t *qt_out, _In_ int qd, _In_ uint64_t sequence);

/* What an operation on a log that failed with EBADMSG has met. */
ATTR_NONNULL(2)
extern int demi_getdamage(_In_ int qd, _Out_ demi_damage_t *damage_out);

#ifdef __cplusplus
}
#endif

#endif /* DEMI_LIBOS_H_IS_INCLUDED */
