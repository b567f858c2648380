/* What DPDK's headers have inline, and what is easier said in C: a frame in pieces, a pool whose data lies elsewhere. */

#ifndef MARGAY_DPDK_SHIM_H
#define MARGAY_DPDK_SHIM_H

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_interrupts.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mbuf_pool_ops.h>
#include <rte_mempool.h>
#include <rte_memzone.h>
#include <rte_version.h>

/* The most frames of one burst, and pieces of one frame. */
#define MARGAY_BURST_MAX 32
#define MARGAY_PIECES_MAX 16

/* Marks of a frame received. */
#define MARGAY_RX_VERIFIED 1u

/* A frame received. `slot`: which buffer of ours it is, or MARGAY_NO_SLOT if it lies elsewhere, or in several pieces. */
#define MARGAY_NO_SLOT UINT32_MAX
struct margay_received {
	struct rte_mbuf *mbuf;
	const uint8_t *data;
	uint32_t len;
	uint32_t slot;
	uint32_t marks;
};

/* What is known of a piece that the driver has: an entry of a table of ours. */
struct margay_sent {
	struct rte_mbuf_ext_shared_info info;
	uint32_t is_back;
};

/* A piece of a frame to be sent; `entry` is where it stands in the table. */
struct margay_piece {
	const uint8_t *data;
	uint32_t len;
	uint32_t entry;
};

/* What the device shall fill in: `l4_start` is 0 for nothing. With a `segment_size` it cuts a TCP segment up, whose header has
 * `l4_len` bytes; `sums_ip`: it fills the sums of IPv4 headers in as well. */
struct margay_offload {
	uint16_t l4_start;
	uint16_t segment_size;
	uint8_t l4_len;
	uint8_t is_tcp;
	uint8_t is_ipv6;
	uint8_t sums_ip;
};

int margay_errno(void);

/* A pool of buffers for receiving whose data lies at `chunks[i]`, `room` bytes each (headroom included). */
struct rte_mempool *margay_rx_pool(const char *name, uint32_t count, uint16_t room, int socket, void *const *chunks);
/* A pool of buffers without data, for pieces that lie elsewhere. */
struct rte_mempool *margay_tx_pool(const char *name, uint32_t count, int socket);
/* A pool as drivers know it, with data of its own. */
struct rte_mempool *margay_plain_pool(const char *name, uint32_t count, uint16_t room, int socket);

uint16_t margay_rx_burst(uint16_t port, uint16_t queue, const struct rte_mempool *own, struct margay_received *into,
			 uint16_t room);
/* Gives buffer `mbuf` of a pool of ours other memory, and back to the pool. */
void margay_rx_replace(struct rte_mbuf *mbuf, void *chunk);
/* Copies a frame out, of however many pieces, and frees it. */
void margay_rx_copy(struct rte_mbuf *mbuf, uint8_t *to);
void margay_free(struct rte_mbuf *mbuf);

/* The table of what drivers have; never moved while entries are out. */
struct margay_sent *margay_sent_table(uint32_t count);
void margay_sent_table_free(struct margay_sent *table);

/* A frame of these pieces; NULL: the pool is dry. */
struct rte_mbuf *margay_build(struct rte_mempool *pool, struct margay_sent *table, const struct margay_piece *pieces,
			      uint16_t count, struct margay_offload offload);
/* The same in one piece with a copy of the data. */
struct rte_mbuf *margay_build_copy(struct rte_mempool *pool, const struct margay_piece *pieces, uint16_t count,
				   struct margay_offload offload);
/* How many frames are the caller's no longer. The last of them was `refused`: the driver cannot send it, and it is freed. */
uint16_t margay_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count, int prepare,
			 int *refused);

/* Two ports in this process, joined by two rings. */
int margay_ring_pair(const char *one, const char *other, uint32_t size, uint16_t *ports);

/* Sizes as C sees them, to be compared with what Rust believes. */
size_t margay_sizeof_eth_conf(void);
size_t margay_sizeof_dev_info(void);
size_t margay_sizeof_txconf(void);
size_t margay_sizeof_sent(void);
size_t margay_offset_of_rxmode_offloads(void);

uint64_t margay_tx_offload_multi_segs(void);
uint64_t margay_tx_offload_checksums(void);
uint64_t margay_tx_offload_segments(void);
uint64_t margay_tx_offload_ip_checksum(void);
uint64_t margay_rx_offload_checksums(void);
uint64_t margay_rss_hash_functions(void);
int margay_link_is_up(uint16_t port);
/* 1: registered now; 0: it was already; negative: it cannot be. */
int margay_register_thread(void);
/* Has `call` called on DPDK's interrupt thread whenever `fd` is readable. */
int margay_on_interrupt(int fd, void (*call)(void *));
/* Closes a stopped port, and takes its device away. */
void margay_close_and_remove(uint16_t port);
uint64_t margay_memzone_address(const struct rte_memzone *zone);

#endif
