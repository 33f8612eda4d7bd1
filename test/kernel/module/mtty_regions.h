/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Since 7.0 VFIO asks a device for its regions by an operation of its own,
 * where it passed the ioctl on before. The harness puts these lines before
 * the operations of 6.12's mtty, and MTTY_REGION_INFO among them.
 */
#include <linux/version.h>

#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
static int mtty_get_region_info_caps(struct vfio_device *vdev,
				     struct vfio_region_info *info,
				     struct vfio_info_cap *caps)
{
	struct mdev_state *mdev_state =
		container_of(vdev, struct mdev_state, vdev);
	u16 cap_type_id = 0;
	void *cap_type = NULL;

	return mtty_get_region_info(mdev_state, info, &cap_type_id, &cap_type);
}

#define MTTY_REGION_INFO .get_region_info_caps = mtty_get_region_info_caps,
#else
#define MTTY_REGION_INFO
#endif
