#include "shim.h"

#include <stdlib.h>
#include <string.h>

#include <rte_ip.h>
#ifdef MARGAY_RING_PAIRS
#include <rte_eth_ring.h>
#endif

/* Kept of a buffer for receiving, behind its rte_mbuf. */
struct rx_private {
	void *chunk;
	uint32_t slot;
	uint32_t unused;
};

_Static_assert(sizeof(struct rx_private) % RTE_MBUF_PRIV_ALIGN == 0, "as rte_mbuf wants it");

int margay_errno(void)
{
	return rte_errno;
}

struct rx_setup {
	uint16_t room;
	void *const *chunks;
};

/* As rte_pktmbuf_init, but for where the data is. */
static void rx_init(struct rte_mempool *pool, void *opaque, void *object, unsigned int index)
{
	const struct rx_setup *setup = opaque;
	struct rte_mbuf *m = object;
	struct rx_private *private = rte_mbuf_to_priv(m);

	memset(m, 0, sizeof(*m) + sizeof(*private));
	m->priv_size = sizeof(*private);
	m->buf_addr = setup->chunks[index];
	m->buf_iova = (rte_iova_t)(uintptr_t)setup->chunks[index];
	m->buf_len = setup->room;
	m->data_off = RTE_MIN(RTE_PKTMBUF_HEADROOM, setup->room);
	m->pool = pool;
	m->nb_segs = 1;
	m->port = RTE_MBUF_PORT_INVALID;
	rte_mbuf_refcnt_set(m, 1);
	private->chunk = setup->chunks[index];
	private->slot = index;
}

#define CACHE 256

static uint32_t cache_of(uint32_t count)
{
	return count >= 2 * CACHE ? CACHE : 0;
}

struct rte_mempool *margay_rx_pool(const char *name, uint32_t count, uint16_t room, int socket, void *const *chunks)
{
	struct rte_pktmbuf_pool_private about = { .mbuf_data_room_size = room,
						  .mbuf_priv_size = sizeof(struct rx_private) };
	struct rx_setup setup = { .room = room, .chunks = chunks };
	unsigned int size = sizeof(struct rte_mbuf) + sizeof(struct rx_private);
	struct rte_mempool *pool =
		rte_mempool_create_empty(name, count, size, cache_of(count), sizeof(about), socket, 0);
	int ret;

	if (pool == NULL)
		return NULL;
	ret = rte_mempool_set_ops_byname(pool, rte_mbuf_best_mempool_ops(), NULL);
	if (ret == 0) {
		rte_pktmbuf_pool_init(pool, &about);
		ret = rte_mempool_populate_default(pool);
	}
	if (ret < 0) {
		rte_mempool_free(pool);
		rte_errno = -ret;
		return NULL;
	}
	rte_mempool_obj_iter(pool, rx_init, &setup);
	return pool;
}

struct rte_mempool *margay_tx_pool(const char *name, uint32_t count, int socket)
{
	return rte_pktmbuf_pool_create(name, count, cache_of(count), 0, 0, socket);
}

struct rte_mempool *margay_plain_pool(const char *name, uint32_t count, uint16_t room, int socket)
{
	return rte_pktmbuf_pool_create(name, count, cache_of(count), 0, room, socket);
}

/* Whether the sum of an IPv4 header is right; IPv6 has none. */
static int has_good_header(const struct rte_mbuf *m)
{
	const struct rte_ether_hdr *ethernet = rte_pktmbuf_mtod(m, const struct rte_ether_hdr *);
	const struct rte_ipv4_hdr *ip = (const struct rte_ipv4_hdr *)(ethernet + 1);
	size_t len;

	if (m->data_len < sizeof(*ethernet) + sizeof(*ip) || ethernet->ether_type != rte_cpu_to_be_16(RTE_ETHER_TYPE_IPV4))
		return m->data_len >= sizeof(*ethernet) && ethernet->ether_type == rte_cpu_to_be_16(RTE_ETHER_TYPE_IPV6);
	len = rte_ipv4_hdr_len(ip);
	return len >= sizeof(*ip) && m->data_len >= sizeof(*ethernet) + len && rte_raw_cksum(ip, len) == 0xffff;
}

/* Both sums are right. NONE: the sum in the frame is not right, and the data is known to be (it never left this host). Virtio
 * says nothing of the header's. */
static int is_verified(const struct rte_mbuf *m)
{
	uint64_t l4 = m->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK, ip = m->ol_flags & RTE_MBUF_F_RX_IP_CKSUM_MASK;

	if (l4 != RTE_MBUF_F_RX_L4_CKSUM_GOOD && l4 != RTE_MBUF_F_RX_L4_CKSUM_NONE)
		return 0;
	return ip == RTE_MBUF_F_RX_IP_CKSUM_UNKNOWN ? has_good_header(m) : ip != RTE_MBUF_F_RX_IP_CKSUM_BAD;
}

uint16_t margay_rx_burst(uint16_t port, uint16_t queue, const struct rte_mempool *own, struct margay_received *into,
			 uint16_t room)
{
	struct rte_mbuf *frames[MARGAY_BURST_MAX];
	uint16_t count = rte_eth_rx_burst(port, queue, frames, RTE_MIN(room, MARGAY_BURST_MAX));
	uint16_t i;

	for (i = 0; i < count; i++) {
		struct rte_mbuf *m = frames[i];
		struct rx_private *private = rte_mbuf_to_priv(m);
		/* A clone or what lies in a driver's own memory is not the chunk that we gave. */
		int is_own = m->pool == own && m->nb_segs == 1 && RTE_MBUF_DIRECT(m) && rte_mbuf_refcnt_read(m) == 1 &&
			     m->buf_addr == private->chunk;

		into[i].mbuf = m;
		into[i].data = rte_pktmbuf_mtod(m, const uint8_t *);
		into[i].len = rte_pktmbuf_pkt_len(m);
		into[i].slot = is_own ? private->slot : MARGAY_NO_SLOT;
		into[i].marks = is_verified(m) ? MARGAY_RX_VERIFIED : 0;
	}
	return count;
}

void margay_rx_replace(struct rte_mbuf *m, void *chunk)
{
	struct rx_private *private = rte_mbuf_to_priv(m);

	private->chunk = chunk;
	m->buf_addr = chunk;
	m->buf_iova = (rte_iova_t)(uintptr_t)chunk;
	rte_mbuf_raw_free(m);
}

void margay_rx_copy(struct rte_mbuf *m, uint8_t *to)
{
	const struct rte_mbuf *part;

	for (part = m; part != NULL; part = part->next) {
		memcpy(to, rte_pktmbuf_mtod(part, const uint8_t *), part->data_len);
		to += part->data_len;
	}
	rte_pktmbuf_free(m);
}

void margay_free(struct rte_mbuf *m)
{
	rte_pktmbuf_free(m);
}

/* On whatever thread, whenever the driver likes: it only marks. */
static void is_back(void *data, void *opaque)
{
	(void)data;
	__atomic_store_n(&((struct margay_sent *)opaque)->is_back, 1, __ATOMIC_RELEASE);
}

struct margay_sent *margay_sent_table(uint32_t count)
{
	struct margay_sent *table = calloc(count, sizeof(*table));
	uint32_t i;

	for (i = 0; table != NULL && i < count; i++) {
		table[i].info.free_cb = is_back;
		table[i].info.fcb_opaque = &table[i];
	}
	return table;
}

void margay_sent_table_free(struct margay_sent *table)
{
	free(table);
}

static void set_offload(struct rte_mbuf *m, struct margay_offload offload)
{
	m->l2_len = RTE_ETHER_HDR_LEN;
	m->l3_len = offload.l4_start - RTE_ETHER_HDR_LEN;
	m->l4_len = offload.l4_len;
	/* The sum of an IPv4 header is there already; ours is asked for again where a driver wants both. */
	m->ol_flags |= offload.is_ipv6 ? RTE_MBUF_F_TX_IPV6 : RTE_MBUF_F_TX_IPV4;
	m->ol_flags |= offload.is_tcp ? RTE_MBUF_F_TX_TCP_CKSUM : RTE_MBUF_F_TX_UDP_CKSUM;
	if (offload.segment_size != 0) {
		m->tso_segsz = offload.segment_size;
		m->ol_flags |= RTE_MBUF_F_TX_TCP_SEG;
		/* A card that cuts writes them anew; virtio carries the whole, with the sum that is there. */
		if (offload.sums_ip && !offload.is_ipv6)
			m->ol_flags |= RTE_MBUF_F_TX_IP_CKSUM;
	}
}

struct rte_mbuf *margay_build(struct rte_mempool *pool, struct margay_sent *table, const struct margay_piece *pieces,
			      uint16_t count, struct margay_offload offload)
{
	struct rte_mbuf *parts[MARGAY_PIECES_MAX];
	uint32_t len = 0;
	uint16_t i;

	if (rte_pktmbuf_alloc_bulk(pool, parts, count) != 0)
		return NULL;
	for (i = 0; i < count; i++) {
		struct margay_sent *sent = &table[pieces[i].entry];
		void *data = (void *)(uintptr_t)pieces[i].data;

		rte_mbuf_ext_refcnt_set(&sent->info, 1);
		rte_pktmbuf_attach_extbuf(parts[i], data, (rte_iova_t)(uintptr_t)data, (uint16_t)pieces[i].len,
					  &sent->info);
		parts[i]->data_len = (uint16_t)pieces[i].len;
		parts[i]->next = i + 1 < count ? parts[i + 1] : NULL;
		len += pieces[i].len;
	}
	parts[0]->nb_segs = count;
	parts[0]->pkt_len = len;
	if (offload.l4_start != 0)
		set_offload(parts[0], offload);
	return parts[0];
}

struct rte_mbuf *margay_build_copy(struct rte_mempool *pool, const struct margay_piece *pieces, uint16_t count,
				   struct margay_offload offload)
{
	struct rte_mbuf *m = rte_pktmbuf_alloc(pool);
	uint16_t i;

	for (i = 0; m != NULL && i < count; i++) {
		char *to = rte_pktmbuf_append(m, (uint16_t)pieces[i].len);

		if (to == NULL) {
			rte_pktmbuf_free(m);
			return NULL;
		}
		memcpy(to, pieces[i].data, pieces[i].len);
	}
	if (m != NULL && offload.l4_start != 0)
		set_offload(m, offload);
	return m;
}

uint16_t margay_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count, int prepare,
			 int *refused)
{
	uint16_t good = prepare ? rte_eth_tx_prepare(port, queue, frames, count) : count;
	uint16_t sent = rte_eth_tx_burst(port, queue, frames, good);

	*refused = sent == good && good < count;
	if (*refused)
		rte_pktmbuf_free(frames[sent++]);
	return sent;
}

int margay_ring_pair(const char *one, const char *other, uint32_t size, uint16_t *ports)
{
#ifdef MARGAY_RING_PAIRS
	char name[RTE_RING_NAMESIZE];
	struct rte_ring *there, *back;
	int port;

	snprintf(name, sizeof(name), "%.20s_to", one);
	there = rte_ring_create(name, size, SOCKET_ID_ANY, 0);
	snprintf(name, sizeof(name), "%.20s_from", one);
	back = rte_ring_create(name, size, SOCKET_ID_ANY, 0);
	if (there == NULL || back == NULL) {
		rte_ring_free(there);
		rte_ring_free(back);
		return -rte_errno;
	}
	port = rte_eth_from_rings(one, &back, 1, &there, 1, 0);
	if (port < 0)
		return -rte_errno;
	ports[0] = (uint16_t)port;
	port = rte_eth_from_rings(other, &there, 1, &back, 1, 0);
	if (port < 0)
		return -rte_errno;
	ports[1] = (uint16_t)port;
	return 0;
#else
	(void)one, (void)other, (void)size, (void)ports;
	return -ENOTSUP;
#endif
}

size_t margay_sizeof_eth_conf(void)
{
	return sizeof(struct rte_eth_conf);
}

size_t margay_sizeof_dev_info(void)
{
	return sizeof(struct rte_eth_dev_info);
}

size_t margay_sizeof_txconf(void)
{
	return sizeof(struct rte_eth_txconf);
}

size_t margay_sizeof_sent(void)
{
	return sizeof(struct margay_sent);
}

size_t margay_offset_of_rxmode_offloads(void)
{
	return offsetof(struct rte_eth_conf, rxmode.offloads);
}

uint64_t margay_tx_offload_multi_segs(void)
{
	return RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
}

uint64_t margay_tx_offload_checksums(void)
{
	return RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
}

uint64_t margay_tx_offload_segments(void)
{
	return RTE_ETH_TX_OFFLOAD_TCP_TSO;
}

uint64_t margay_tx_offload_ip_checksum(void)
{
	return RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
}

uint64_t margay_rx_offload_checksums(void)
{
	return RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_TCP_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
}

uint64_t margay_rss_hash_functions(void)
{
	return RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP;
}

int margay_link_is_up(uint16_t port)
{
	struct rte_eth_link link;

	memset(&link, 0, sizeof(link));
	return rte_eth_link_get_nowait(port, &link) == 0 && link.link_status == RTE_ETH_LINK_UP;
}

uint64_t margay_memzone_address(const struct rte_memzone *zone)
{
	return zone->addr_64;
}

int margay_register_thread(void)
{
	if (rte_lcore_id() != LCORE_ID_ANY)
		return 0;
	return rte_thread_register() == 0 ? 1 : -rte_errno;
}

void margay_close_and_remove(uint16_t port)
{
	struct rte_eth_dev_info info;
	int is_known = rte_eth_dev_info_get(port, &info) == 0 && info.device != NULL;
	struct rte_device *device = is_known ? info.device : NULL;

	rte_eth_dev_close(port);
	if (device != NULL)
		rte_dev_remove(device);
}

int margay_on_interrupt(int fd, void (*call)(void *))
{
	struct rte_intr_handle *handle = rte_intr_instance_alloc(RTE_INTR_INSTANCE_F_PRIVATE);

	if (handle == NULL)
		return -ENOMEM;
	if (rte_intr_fd_set(handle, fd) != 0 || rte_intr_type_set(handle, RTE_INTR_HANDLE_EXT) != 0)
		return -EINVAL;
	return rte_intr_callback_register(handle, call, NULL);
}
