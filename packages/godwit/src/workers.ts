/** Page channels on worker threads. Loads on Linux only. */
export * from '@godwit/workers';
