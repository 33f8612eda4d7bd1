// SPDX-License-Identifier: GPL-2.0
/*
 * A mediated VFIO device for tests: writes guest memory on command, both
 * through vfio_dma_rw() and through pages that it has pinned, and logs its
 * writes for VFIO_DEVICE_FEATURE_DMA_LOGGING. godwit_dma.h has the commands.
 *
 * It has no regions and no interrupts: all that there is to it is DMA.
 */
#include <linux/cleanup.h>
#include <linux/highmem.h>
#include <linux/interval_tree.h>
#include <linux/iommu.h>
#include <linux/iova_bitmap.h>
#include <linux/mdev.h>
#include <linux/module.h>
#include <linux/version.h>
#include <linux/vfio.h>
#include <linux/xarray.h>

#include "godwit_dma.h"

/**
 * struct godwit_dma - one device
 * @vdev: what VFIO knows of it
 * @lock: over all that follows
 * @pinned: the pages that are pinned, by page number of their IOVA
 * @logging: between DMA_LOGGING_START and STOP
 * @ranges: what to log, while @logging
 * @range_count: how many of them
 * @written: pages written since the last report, by page number of their IOVA
 */
struct godwit_dma {
	struct vfio_device vdev;
	struct mutex lock;
	struct xarray pinned;
	bool logging;
	struct godwit_dma_range {
		unsigned long start, last;
	} *ranges;
	u32 range_count;
	struct xarray written;
};

static struct godwit_dma *to_godwit_dma(struct vfio_device *vdev)
{
	return container_of(vdev, struct godwit_dma, vdev);
}

/* The page numbers of a range's first and last byte; false when it wraps. */
static bool page_range(u64 iova, u64 length, unsigned long *first,
		       unsigned long *last)
{
	u64 end;

	if (!length || check_add_overflow(iova, length - 1, &end))
		return false;
	*first = iova >> PAGE_SHIFT;
	*last = end >> PAGE_SHIFT;
	return true;
}

/* Device DMA logging: what VFIO_DEVICE_FEATURE_DMA_LOGGING_* reports. */

static bool is_logged(struct godwit_dma *device, unsigned long page)
{
	unsigned long iova = page << PAGE_SHIFT;

	for (u32 i = 0; i < device->range_count; i++)
		if (iova >= device->ranges[i].start &&
		    iova <= device->ranges[i].last)
			return true;
	return false;
}

/* Notes a write of these bytes. Called before it, so that none can be lost. */
static int log_write(struct godwit_dma *device, u64 iova, u64 length)
{
	unsigned long page, last;

	if (!device->logging || !page_range(iova, length, &page, &last))
		return 0;
	for (; page <= last; page++) {
		void *old;

		if (!is_logged(device, page))
			continue;
		old = xa_store(&device->written, page, xa_mk_value(1),
			       GFP_KERNEL);
		if (xa_is_err(old))
			return xa_err(old);
	}
	return 0;
}

static void stop_logging(struct godwit_dma *device)
{
	device->logging = false;
	kfree(device->ranges);
	device->ranges = NULL;
	device->range_count = 0;
	xa_destroy(&device->written);
}

static int godwit_dma_log_start(struct vfio_device *vdev,
				struct rb_root_cached *ranges, u32 nnodes,
				u64 *page_size)
{
	struct godwit_dma *device = to_godwit_dma(vdev);
	struct interval_tree_node *node;

	guard(mutex)(&device->lock);
	if (device->logging)
		return -EBUSY;
	device->ranges = kcalloc(nnodes, sizeof(*device->ranges), GFP_KERNEL);
	if (!device->ranges)
		return -ENOMEM;
	for (node = interval_tree_iter_first(ranges, 0, ULONG_MAX); node;
	     node = interval_tree_iter_next(node, 0, ULONG_MAX)) {
		device->ranges[device->range_count].start = node->start;
		device->ranges[device->range_count].last = node->last;
		device->range_count++;
	}
	device->logging = true;
	*page_size = PAGE_SIZE;
	return 0;
}

static int godwit_dma_log_stop(struct vfio_device *vdev)
{
	struct godwit_dma *device = to_godwit_dma(vdev);

	guard(mutex)(&device->lock);
	stop_logging(device);
	return 0;
}

static int godwit_dma_log_read_and_clear(struct vfio_device *vdev,
					 unsigned long iova,
					 unsigned long length,
					 struct iova_bitmap *dirty)
{
	struct godwit_dma *device = to_godwit_dma(vdev);
	unsigned long page, first, last;
	void *entry;

	guard(mutex)(&device->lock);
	if (!device->logging || !page_range(iova, length, &first, &last))
		return -EINVAL;
	xa_for_each_range(&device->written, page, entry, first, last) {
		iova_bitmap_set(dirty, page << PAGE_SHIFT, PAGE_SIZE);
		xa_erase(&device->written, page);
	}
	return 0;
}

static const struct vfio_log_ops godwit_dma_log_ops = {
	.log_start = godwit_dma_log_start,
	.log_stop = godwit_dma_log_stop,
	.log_read_and_clear = godwit_dma_log_read_and_clear,
};

/* Pinning */

static bool all_pinned(struct godwit_dma *device, unsigned long first,
		       unsigned long last)
{
	for (unsigned long page = first; page <= last; page++)
		if (!xa_load(&device->pinned, page))
			return false;
	return true;
}

/* Unpins what is pinned of these pages. */
static void unpin_range(struct godwit_dma *device, unsigned long first,
			unsigned long last)
{
	unsigned long page;
	void *entry;

	xa_for_each_range(&device->pinned, page, entry, first, last) {
		xa_erase(&device->pinned, page);
		vfio_unpin_pages(&device->vdev, (u64)page << PAGE_SHIFT, 1);
	}
}

static int pin(struct godwit_dma *device, const struct godwit_dma_pages *pages)
{
	struct page **got __free(kvfree) = NULL;
	unsigned long first, last;
	int result;

	if (!pages->count || pages->count > GODWIT_DMA_MAX_PAGES ||
	    !PAGE_ALIGNED(pages->iova) ||
	    !page_range(pages->iova, pages->count * PAGE_SIZE, &first, &last))
		return -EINVAL;
	for (unsigned long page = first; page <= last; page++)
		if (xa_load(&device->pinned, page))
			return -EEXIST;
	got = kvcalloc(pages->count, sizeof(*got), GFP_KERNEL);
	if (!got)
		return -ENOMEM;
	result = vfio_pin_pages(&device->vdev, pages->iova, pages->count,
				IOMMU_READ | IOMMU_WRITE, got);
	if (result < 0)
		return result;
	for (u64 i = 0; i < result; i++) {
		void *old = xa_store(&device->pinned, first + i, got[i],
				     GFP_KERNEL);

		if (!xa_is_err(old))
			continue;
		unpin_range(device, first, last);
		vfio_unpin_pages(&device->vdev,
				 pages->iova + i * PAGE_SIZE, result - i);
		return xa_err(old);
	}
	return 0;
}

static int unpin(struct godwit_dma *device,
		 const struct godwit_dma_pages *pages)
{
	unsigned long first, last;

	if (!pages->count || pages->count > GODWIT_DMA_MAX_PAGES ||
	    !PAGE_ALIGNED(pages->iova) ||
	    !page_range(pages->iova, pages->count * PAGE_SIZE, &first, &last))
		return -EINVAL;
	if (!all_pinned(device, first, last))
		return -ENXIO;
	unpin_range(device, first, last);
	return 0;
}

/* Writing and reading */

static int pinned_write(struct godwit_dma *device, u64 iova, const u8 *data,
			size_t length)
{
	unsigned long first, last;
	int error;

	if (!page_range(iova, length, &first, &last))
		return -EINVAL;
	if (!all_pinned(device, first, last))
		return -ENXIO;
	error = log_write(device, iova, length);
	if (error)
		return error;
	while (length) {
		struct page *page = xa_load(&device->pinned, iova >> PAGE_SHIFT);
		size_t offset = offset_in_page(iova);
		size_t part = min(length, PAGE_SIZE - offset);

		memcpy_to_page(page, offset, data, part);
		iova += part;
		data += part;
		length -= part;
	}
	return 0;
}

static int transfer(struct godwit_dma *device, unsigned int cmd,
		    const struct godwit_dma_transfer *request)
{
	void __user *user = u64_to_user_ptr(request->data);
	void *buffer __free(kvfree) = NULL;
	int error;

	if (!request->length || request->length > GODWIT_DMA_MAX_LENGTH)
		return -EINVAL;
	buffer = kvmalloc(request->length, GFP_KERNEL);
	if (!buffer)
		return -ENOMEM;
	if (cmd == GODWIT_DMA_RW_READ) {
		error = vfio_dma_rw(&device->vdev, request->iova, buffer,
				    request->length, false);
		if (!error && copy_to_user(user, buffer, request->length))
			error = -EFAULT;
		return error;
	}
	if (copy_from_user(buffer, user, request->length))
		return -EFAULT;
	if (cmd == GODWIT_DMA_PINNED_WRITE)
		return pinned_write(device, request->iova, buffer,
				    request->length);
	error = log_write(device, request->iova, request->length);
	if (error)
		return error;
	return vfio_dma_rw(&device->vdev, request->iova, buffer,
			   request->length, true);
}

static long godwit_dma_get_info(void __user *argument)
{
	struct vfio_device_info info = {
		.flags = VFIO_DEVICE_FLAGS_PLATFORM | VFIO_DEVICE_FLAGS_RESET,
	};
	size_t size = offsetofend(struct vfio_device_info, num_irqs);

	if (copy_from_user(&info.argsz, argument, sizeof(info.argsz)))
		return -EFAULT;
	if (info.argsz < size)
		return -EINVAL;
	return copy_to_user(argument, &info, size) ? -EFAULT : 0;
}

static long godwit_dma_ioctl(struct vfio_device *vdev, unsigned int cmd,
			     unsigned long arg)
{
	struct godwit_dma *device = to_godwit_dma(vdev);
	void __user *argument = (void __user *)arg;
	struct godwit_dma_transfer request;
	struct godwit_dma_pages pages;

	switch (cmd) {
	case VFIO_DEVICE_GET_INFO:
		return godwit_dma_get_info(argument);
	case VFIO_DEVICE_RESET: {
		guard(mutex)(&device->lock);
		unpin_range(device, 0, ULONG_MAX);
		stop_logging(device);
		return 0;
	}
	case GODWIT_DMA_PIN:
	case GODWIT_DMA_UNPIN: {
		if (copy_from_user(&pages, argument, sizeof(pages)))
			return -EFAULT;
		guard(mutex)(&device->lock);
		return cmd == GODWIT_DMA_PIN ? pin(device, &pages) :
					       unpin(device, &pages);
	}
	case GODWIT_DMA_RW_WRITE:
	case GODWIT_DMA_RW_READ:
	case GODWIT_DMA_PINNED_WRITE: {
		if (copy_from_user(&request, argument, sizeof(request)))
			return -EFAULT;
		guard(mutex)(&device->lock);
		return transfer(device, cmd, &request);
	}
	default:
		return -ENOTTY;
	}
}

/* The user unmaps: what is pinned there has to be let go of before this returns. */
static void godwit_dma_unmap(struct vfio_device *vdev, u64 iova, u64 length)
{
	struct godwit_dma *device = to_godwit_dma(vdev);
	unsigned long first, last;

	guard(mutex)(&device->lock);
	if (page_range(iova, length, &first, &last))
		unpin_range(device, first, last);
}

/* The life of a device */

static int godwit_dma_init(struct vfio_device *vdev)
{
	struct godwit_dma *device = to_godwit_dma(vdev);

	mutex_init(&device->lock);
	xa_init(&device->pinned);
	xa_init(&device->written);
	vdev->log_ops = &godwit_dma_log_ops;
	return 0;
}

static void godwit_dma_release(struct vfio_device *vdev)
{
	mutex_destroy(&to_godwit_dma(vdev)->lock);
}

static void godwit_dma_close(struct vfio_device *vdev)
{
	struct godwit_dma *device = to_godwit_dma(vdev);

	guard(mutex)(&device->lock);
	unpin_range(device, 0, ULONG_MAX);
	stop_logging(device);
}

static const struct vfio_device_ops godwit_dma_ops = {
	.name = "godwit_dma",
	.init = godwit_dma_init,
	.release = godwit_dma_release,
	.close_device = godwit_dma_close,
	.ioctl = godwit_dma_ioctl,
	.dma_unmap = godwit_dma_unmap,
	.bind_iommufd = vfio_iommufd_emulated_bind,
	.unbind_iommufd = vfio_iommufd_emulated_unbind,
	.attach_ioas = vfio_iommufd_emulated_attach_ioas,
	.detach_ioas = vfio_iommufd_emulated_detach_ioas,
};

static int godwit_dma_probe(struct mdev_device *mdev)
{
	struct godwit_dma *device;
	int error;

	device = vfio_alloc_device(godwit_dma, vdev, &mdev->dev,
				   &godwit_dma_ops);
	if (IS_ERR(device))
		return PTR_ERR(device);
	error = vfio_register_emulated_iommu_dev(&device->vdev);
	if (error) {
		vfio_put_device(&device->vdev);
		return error;
	}
	dev_set_drvdata(&mdev->dev, device);
	return 0;
}

static void godwit_dma_remove(struct mdev_device *mdev)
{
	struct godwit_dma *device = dev_get_drvdata(&mdev->dev);

	vfio_unregister_group_dev(&device->vdev);
	vfio_put_device(&device->vdev);
}

static struct mdev_driver godwit_dma_driver = {
	.device_api = VFIO_DEVICE_API_PLATFORM_STRING,
	.max_instances = 64,
	.driver = {
		.name = "godwit_dma",
		.owner = THIS_MODULE,
		.mod_name = KBUILD_MODNAME,
	},
	.probe = godwit_dma_probe,
	.remove = godwit_dma_remove,
};

static struct mdev_type godwit_dma_type = {
	.sysfs_name = "dma",
	.pretty_name = "device that writes memory when told to",
};
static struct mdev_type *godwit_dma_types[] = { &godwit_dma_type };

/* The parent of the devices, without which there is no place to make them. */
static struct class *godwit_class;
static struct device *godwit_device;
static struct mdev_parent godwit_parent;

static int __init godwit_dma_module_init(void)
{
	int error = mdev_register_driver(&godwit_dma_driver);

	if (error)
		return error;
	godwit_class = class_create("godwit");
	if (IS_ERR(godwit_class)) {
		error = PTR_ERR(godwit_class);
		goto no_class;
	}
	godwit_device = device_create(godwit_class, NULL, 0, NULL, "godwit");
	if (IS_ERR(godwit_device)) {
		error = PTR_ERR(godwit_device);
		goto no_device;
	}
	error = mdev_register_parent(&godwit_parent, godwit_device,
				     &godwit_dma_driver, godwit_dma_types,
				     ARRAY_SIZE(godwit_dma_types));
	if (error)
		goto no_parent;
	return 0;

no_parent:
	device_unregister(godwit_device);
no_device:
	class_destroy(godwit_class);
no_class:
	mdev_unregister_driver(&godwit_dma_driver);
	return error;
}

static void __exit godwit_dma_module_exit(void)
{
	mdev_unregister_parent(&godwit_parent);
	device_unregister(godwit_device);
	class_destroy(godwit_class);
	mdev_unregister_driver(&godwit_dma_driver);
}

module_init(godwit_dma_module_init);
module_exit(godwit_dma_module_exit);

/* The name of a namespace is a string since 6.13. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 13, 0)
MODULE_IMPORT_NS(IOMMUFD);
#else
MODULE_IMPORT_NS("IOMMUFD");
#endif
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Godwit's test device: writes guest memory when told to");
