/** VFIO: dirty pages of DMA, and the state of assigned devices. Loads on Linux only. */
export * from '@godwit/vfio';
