/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The commands of godwit_dma, a mediated VFIO device for tests: it writes
 * guest memory when told to, and so makes exactly known pages dirty.
 *
 * A device is made by writing a UUID to
 * /sys/class/godwit/godwit/mdev_supported_types/godwit-dma/create. The
 * commands are ioctls on its VFIO device file; they return 0, or fail with
 * the errno of the function named with each.
 */
#ifndef GODWIT_DMA_H
#define GODWIT_DMA_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct godwit_dma_transfer - bytes between the caller and the guest
 * @iova: where in the device's address space; need not be aligned
 * @length: in bytes, at most GODWIT_DMA_MAX_LENGTH
 * @data: address of the caller's buffer
 */
struct godwit_dma_transfer {
	__u64 iova;
	__u64 length;
	__u64 data;
};

/**
 * struct godwit_dma_pages - whole pages
 * @iova: of the first; a multiple of the page size
 * @count: at most GODWIT_DMA_MAX_PAGES
 */
struct godwit_dma_pages {
	__u64 iova;
	__u64 count;
};

#define GODWIT_DMA_MAX_LENGTH (1 << 20)
/* VFIO_PIN_PAGES_MAX_ENTRIES (linux/vfio.h) with pages of 4 KiB */
#define GODWIT_DMA_MAX_PAGES 512

/*
 * RW_WRITE, RW_READ: through vfio_dma_rw(), as a device does that has its
 * guest's memory accessed by the CPU. Dirty once for each write.
 */
#define GODWIT_DMA_RW_WRITE _IOW('G', 0xd0, struct godwit_dma_transfer)
#define GODWIT_DMA_RW_READ _IOW('G', 0xd1, struct godwit_dma_transfer)
/*
 * PIN, UNPIN: through vfio_pin_pages() for reading and writing, and
 * vfio_unpin_pages(). A page that is pinned counts as dirty for as long as it
 * is. EEXIST when one of the pages is pinned already, ENXIO when one to unpin
 * is not; then nothing is changed.
 */
#define GODWIT_DMA_PIN _IOW('G', 0xd2, struct godwit_dma_pages)
#define GODWIT_DMA_UNPIN _IOW('G', 0xd3, struct godwit_dma_pages)
/*
 * PINNED_WRITE: straight into pages that are pinned, as a device does that
 * masters the bus: nobody but the device knows of it. ENXIO when a page of the
 * range is not pinned; nothing is written then.
 */
#define GODWIT_DMA_PINNED_WRITE _IOW('G', 0xd4, struct godwit_dma_transfer)

#endif
